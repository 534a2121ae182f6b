"""EGE-UNet: grouped Hadamard attention, and a bridge that reads each stage's own mask.

Source: Ruan, Xie, Gao, Liu, Fu, "EGE-UNet: an Efficient Group Enhanced UNet for skin lesion
segmentation" (MICCAI 2023, arXiv:2307.08473). What the paper leaves open was read in the authors'
code (github.com/JCruan519/EGE-UNet, f52ba30, Apache-2.0); this was written anew.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from .base import check_binary, enlarged
from .light import GROUPS, LightUNet, doubled, initialise

__all__ = ["AggregationBridge", "EGEUNet", "HadamardAttention"]

SIDE = 8  # of the learned maps
DILATIONS = (1, 2, 5, 7)


class EGEUNet(LightUNet):
    """EGE-UNet, for one foreground. 53,374 parameters, 133 of them in its five mask heads.

    Each decoder stage predicts the mask at its own size, and the bridge to the next level reads it:
    the heads belong to the network whether they are supervised or not. (The released option without
    them, gt_ds=False, counts 53,241 and cannot run.)

    Args:
        classes: 1. The bridge's groups have one channel for one mask.
        in_channels: of the image.
        deep_supervision: in training return the masks of the stages too.
        widths: channels of the six stages.

    Shapes:
        (N, in_channels, H, W), sides multiples of 32 -> logits (N, 1, H, W). In training with deep
        supervision a list of six such: the evaluated one, then the stages' masks at H/2 ... H/32,
        finest first, each enlarged to H x W.

    Deviations: logits where the released code returns their sigmoid. In fp16 the attention's
    products are taken in float32, because normalisation hands them that.

    Raises:
        ValueError: several classes; what `LightUNet` says; sides that do not fit.
    """

    title = "EGE-UNet"

    def __init__(
        self,
        classes: int = 1,
        in_channels: int = 3,
        deep_supervision: bool = False,
        widths: Sequence[int] = (8, 16, 24, 32, 48, 64),
    ) -> None:
        check_binary(self.title, classes)
        super().__init__(HadamardAttention, HadamardAttention, classes, in_channels, widths)
        pairs = zip(widths[5:0:-1], widths[4::-1], strict=True)
        self.bridges = nn.ModuleList(AggregationBridge(deep, c) for deep, c in pairs)
        self.mask_heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in widths[4::-1])
        self.deep_supervision = deep_supervision
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        levels, deep = self.encode(x)
        y, masks = deep, []
        for k, level in enumerate(reversed(levels)):
            y = self.climb(k, y)
            masks.append(self.mask_heads[k](y))
            deep = self.bridges[k](deep, level, masks[-1])
            y = y + deep
        logits = doubled(self.head(y))
        if not (self.training and self.deep_supervision):
            return logits
        return [logits, *(doubled(m, 2**k) for k, m in enumerate(reversed(masks), start=1))]


class HadamardAttention(nn.Module):
    """GHPA: channels in four groups, three of them multiplied by learned maps along two axes each.

    The maps are 8 x 8 over height and width, 8 over height and 8 over width (one row for each
    channel of the group); interpolated to the size of the image, smoothed by convolutions and
    multiplied with their group, once for all images. The fourth group has a depthwise convolution.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        c = cin // GROUPS
        self.plane = nn.Parameter(torch.ones(1, c, SIDE, SIDE))
        self.rows = nn.Parameter(torch.ones(1, c, SIDE))
        self.columns = nn.Parameter(torch.ones(1, c, SIDE))
        self.smooth_plane = _smooth(nn.Conv2d, c)
        self.smooth_rows = _smooth(nn.Conv1d, c)
        self.smooth_columns = _smooth(nn.Conv1d, c)
        self.local = nn.Sequential(
            nn.Conv2d(c, c, 1), nn.GELU(), nn.Conv2d(c, c, 3, padding=1, groups=c)
        )
        self.before, self.after = LayerNorm2d(cin), LayerNorm2d(cin)
        self.out = nn.Sequential(
            nn.Conv2d(cin, cin, 3, padding=1, groups=cin), nn.GELU(), nn.Conv2d(cin, cout, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        groups, (height, width) = self.before(x).chunk(GROUPS, 1), x.shape[-2:]
        maps = [
            self.smooth_plane(enlarged(self.plane, (height, width), align_corners=True)),
            self.smooth_rows(_stretched(self.rows, height))[..., None],
            self.smooth_columns(_stretched(self.columns, width))[:, :, None],
        ]
        products = [g * m for g, m in zip(groups, maps, strict=False)]
        return self.out(self.after(torch.cat([*products, self.local(groups[3])], 1)))


class AggregationBridge(nn.Module):
    """GAB: the deeper level, this level and the stage's mask, mixed in four groups of channels.

    Each group is a quarter of the deeper level, a quarter of this one and the whole mask, under a
    depthwise convolution of its own dilation.

    Shapes:
        (N, deep, h, w), (N, c, H, W), mask logits (N, 1, H, W) -> (N, c, H, W).
    """

    def __init__(self, deep: int, c: int) -> None:
        super().__init__()
        size = 2 * c // GROUPS + 1
        self.project = nn.Conv2d(deep, c, 1)
        self.groups = nn.ModuleList(
            nn.Sequential(
                LayerNorm2d(size), nn.Conv2d(size, size, 3, padding=d, dilation=d, groups=size)
            )
            for d in DILATIONS
        )
        self.mix = nn.Sequential(LayerNorm2d(GROUPS * size), nn.Conv2d(GROUPS * size, c, 1))

    def forward(self, deep: Tensor, level: Tensor, mask: Tensor) -> Tensor:
        deep = enlarged(self.project(deep), level.shape[-2:], align_corners=True)
        parts = zip(self.groups, deep.chunk(GROUPS, 1), level.chunk(GROUPS, 1), strict=True)
        return self.mix(torch.cat([conv(torch.cat([a, b, mask], 1)) for conv, a, b in parts], 1))


def _smooth(conv: type[nn.Module], c: int) -> nn.Sequential:
    return nn.Sequential(conv(c, c, 3, padding=1, groups=c), nn.GELU(), conv(c, c, 1))


def _stretched(row: Tensor, side: int) -> Tensor:
    return F.interpolate(row, side, mode="linear", align_corners=True)
