"""TransFuse: a transformer and a convolutional network side by side, fused at three sizes.

Source: Zhang, Liu, Hu, "TransFuse: Fusing Transformers and CNNs for Medical Image Segmentation"
(MICCAI 2021, arXiv:2102.08005), Section 2. The authors' code (github.com/Rayicer/TransFuse,
3f50ab6) has no licence: it was read for facts, and this was written from the paper and them.

Strides are 16, 8 and 4. The transformer's tokens t are a map at stride 16, twice doubled and
convolved; g are the ResNet's levels. BiFusion joins t and g at each stride, and attention-gated
steps climb from the coarsest fused map to the finest.
"""

import timm
import torch
from torch import Tensor, nn

from ...common.errors import unknown
from ...skips.sdi import at_least_float32
from .. import encoders
from ..thin import full_precision
from .base import check_sides, enlarged

__all__ = ["BiFusion", "TransFuse"]

SIZES = {  # the transformer, how many of its blocks, the ResNet
    "s": ("deit_small_patch16_224", 8, "resnet34"),
    "l": ("deit_base_patch16_224", 12, "resnet50"),
}
PATCH = 16
GRID = (12, 16)  # tokens of the published 192 x 256 pixels


class TransFuse(nn.Module):
    """TransFuse-S or -L, of 26,248,341 or 143,540,021 parameters with deep supervision.

    Args:
        classes, in_channels: of the logits and the image; 1 class is a binary mask.
        deep_supervision: in training return the logits of the two side heads too.
        size: "s" is the first 8 blocks of DeiT-S beside ResNet-34, "l" is DeiT-B beside ResNet-50;
            both ResNets without their last stage.
        encoder_weights: "imagenet" for both branches, or None (random).
        weights_dir: a folder that holds them: the ResNet's file as everywhere, and
            deit_..._patch16_224.safetensors with timm's weights of num_classes=0.
        dropout: rate of dropped channels after each stage of the branches; half of it after each
            fusion.

    Shapes:
        (N, in_channels, H, W), sides multiples of 16 -> logits (N, classes, H, W). In training with
        deep supervision a list of three such: the fused finest, the transformer's own, the fused
        coarsest.

    Deviations: the released network is fixed to 192 x 256 pixels, as its position embeddings are;
    here they are interpolated to other grids of tokens (bilinear, corners aligned, as the released
    code fits DeiT's to its own). Its class token, of 384 or 768 parameters, is never used and left
    out. Side heads are built for deep supervision alone. In fp16 the product of BiFusion is taken
    in float32.

    Raises:
        ValueError: an unknown size; damaged weights, or such from a folder for other than three
            channels; sides that do not fit.
        FileNotFoundError, OSError: weights that are not in the folder or cannot be downloaded.
    """

    title = "TransFuse"

    def __init__(
        self,
        classes: int = 1,
        in_channels: int = 3,
        deep_supervision: bool = False,
        size: str = "s",
        encoder_weights: str | None = None,
        weights_dir: str | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise unknown("size of TransFuse", size, SIZES)
        if encoder_weights and weights_dir and in_channels != 3:
            raise ValueError(f"weights from a folder are for 3 channels, not {in_channels}")
        transformer, blocks, resnet = SIZES[size]
        weights = (encoder_weights, weights_dir)
        self.cnn = _resnet(resnet, in_channels, *weights)
        self.transformer = _Transformer(transformer, blocks, in_channels, *weights)
        c16, c8, c4 = self.cnn.out_channels[:1:-1]
        width = self.transformer.width
        self.up = nn.ModuleList([_Residual(width, c8), _Residual(c8, c4)])
        self.fuse = nn.ModuleList(
            [
                BiFusion(c16, width, 4, dropout / 2),
                BiFusion(c8, c8, 2, dropout / 2),
                BiFusion(c4, c4, 1, dropout / 2),
            ]
        )
        self.climb = nn.ModuleList([_GatedUp(c16, c8), _GatedUp(c8, c4)])
        self.segmentation_head = nn.Sequential(*_conv(c4, c4, 3), nn.Conv2d(c4, classes, 3, 1, 1))
        self.supervision_heads = nn.ModuleList()
        if deep_supervision:
            of_tokens = nn.Sequential(*_conv(c4, c4, 3), nn.Conv2d(c4, classes, 3, 1, 1))
            of_coarsest = [*_conv(c16, c4, 1), *_conv(c4, c4, 3), nn.Conv2d(c4, classes, 3, 1, 1)]
            self.supervision_heads.extend([of_tokens, nn.Sequential(*of_coarsest)])
        self.dropout = nn.Dropout2d(dropout)
        for part in (self.up, self.fuse, self.climb, self.segmentation_head):
            part.apply(_initialise)
        self.supervision_heads.apply(_initialise)
        self.normalisation = encoders.IMAGENET

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            check_sides(x, PATCH, self.title)
        tokens = [self.dropout(self.transformer(x))]
        for up in self.up:
            tokens.append(self.dropout(up(_doubled(tokens[-1]))))
        levels = self._levels(x)
        fused = [fuse(g, t) for fuse, g, t in zip(self.fuse, levels, tokens, strict=True)]
        y = fused[0]
        for climb, f in zip(self.climb, fused[1:], strict=True):
            y = climb(y, f)
        maps = [self.segmentation_head(y)]
        if self.training:
            sources = (tokens[-1], fused[0])
            maps += [head(f) for head, f in zip(self.supervision_heads, sources, strict=False)]
        maps = [enlarged(m, x.shape[-2:], align_corners=True) for m in maps]
        return maps if len(maps) > 1 else maps[0]

    def _levels(self, x: Tensor) -> list[Tensor]:
        """The ResNet at strides 16, 8 and 4: dropped channels stay away from the next stage too."""
        net, levels = self.cnn, []
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for stage in (net.layer1, net.layer2, net.layer3):
            x = self.dropout(stage(x))
            levels.append(x)
        return levels[::-1]


class BiFusion(nn.Module):
    """Joins a CNN's map g (c channels) and a transformer's map t: three views, then a residual.

    g is gated by where (7x7 convolution of the maximum and mean of its channels), t by what
    (squeeze and excitation), and their interaction is a 3x3 convolution of W_g g * W_t t.

    Shapes:
        (N, c, H, W), (N, width, H, W) -> (N, c, H, W).
    """

    def __init__(self, c: int, width: int, squeeze: int, dropout: float) -> None:
        super().__init__()
        self.where = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))
        self.what = nn.Sequential(
            nn.Conv2d(width, width // squeeze, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // squeeze, width, 1),
        )
        self.of_g = nn.Sequential(nn.Conv2d(c, c, 1), nn.BatchNorm2d(c))
        self.of_t = nn.Sequential(nn.Conv2d(width, c, 1), nn.BatchNorm2d(c))
        self.interact = nn.Sequential(*_conv(c, c, 3))
        self.mix = nn.Sequential(
            *_before(2 * c + width, c // 2, 1), *_before(c // 2, c // 2, 3), *_before(c // 2, c, 1)
        )
        self.shortcut = nn.Conv2d(2 * c + width, c, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, g: Tensor, t: Tensor) -> Tensor:
        a, b = at_least_float32(self.of_g(g)), at_least_float32(self.of_t(t))
        with full_precision(a):
            both = self.interact(a * b)
        pooled = torch.cat([g.amax(1, keepdim=True), g.mean(1, keepdim=True)], 1)
        g = self.where(pooled).sigmoid() * g
        t = self.what(t.mean((2, 3), keepdim=True)).sigmoid() * t
        x = torch.cat([g, t, both.to(g.dtype)], 1)
        return self.dropout(self.mix(x) + self.shortcut(x))


class _Transformer(nn.Module):
    """The first blocks of a DeiT, without class token: (N, C, H, W) -> (N, width, H/16, W/16)."""

    def __init__(
        self, name: str, blocks: int, in_channels: int, weights: str | None, folder: str | None
    ) -> None:
        super().__init__()
        options = {"class_token": False, "global_pool": "", "pos_embed": "none"}
        options |= {"dynamic_img_size": True, "num_classes": 0, "in_chans": in_channels}
        self.vit = timm.create_model(name, depth=blocks, **options)
        self.width = self.vit.embed_dim
        self.position = nn.Parameter(torch.zeros(1, self.width, *GRID))
        if weights is not None:
            self._load(_deit(name, in_channels, folder))

    def _load(self, state: dict[str, Tensor]) -> None:
        own = self.vit.state_dict()
        self.vit.load_state_dict({key: state[key] for key in own})
        grid = state["pos_embed"][:, 1:].mT  # (1, width, tokens), without the class token's
        side = round(grid.shape[-1] ** 0.5)
        with torch.no_grad():
            self.position.copy_(enlarged(grid.unflatten(-1, (side, side)), GRID, True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.vit.patch_embed(x)  # (N, rows, columns, width)
        grid = x.shape[1:3]
        position = self.position
        if tuple(grid) != GRID:
            position = enlarged(position, grid, align_corners=True)
        x = (x + position.movedim(1, -1)).flatten(1, 2)
        x = self.vit.norm(self.vit.blocks(x))
        return x.mT.unflatten(-1, tuple(grid))


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one, each with batch normalisation."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *_conv(cin, cout, 3), nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout)
        )
        self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return (self.convs(x) + self.shortcut(x)).relu()


class _GatedUp(nn.Module):
    """The coarser map, doubled, beside the finer one under attention U-Net's gate."""

    def __init__(self, coarse: int, c: int) -> None:
        super().__init__()
        self.of_coarse = nn.Sequential(nn.Conv2d(coarse, c, 1), nn.BatchNorm2d(c))
        self.of_fine = nn.Sequential(nn.Conv2d(c, c, 1), nn.BatchNorm2d(c))
        self.gate = nn.Sequential(nn.Conv2d(c, 1, 1), nn.BatchNorm2d(1))
        self.convs = _Residual(coarse + c, c)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = _doubled(coarse)
        gate = self.gate((self.of_coarse(coarse) + self.of_fine(fine)).relu()).sigmoid()
        return self.convs(torch.cat([fine * gate, coarse], 1))


def _resnet(name: str, in_channels: int, weights: str | None, folder: str | None) -> nn.Module:
    """smp's ResNet, ImageNet's weights from the hub or the folder, without its last stage."""
    net = encoders.encoder(name, in_channels, 4, None if folder else weights)
    if weights is not None and folder:
        encoders.load_weights(net, name, folder)
    del net.layer4
    return net


def _deit(name: str, in_channels: int, folder: str | None) -> dict[str, Tensor]:
    """timm's ImageNet weights of a whole DeiT, from the hub or the folder."""
    if folder:
        whole = timm.create_model(name, num_classes=0, in_chans=in_channels)
        encoders.load_weights(whole, name, folder)
        return whole.state_dict()
    try:
        whole = timm.create_model(name, pretrained=True, num_classes=0, in_chans=in_channels)
    except (OSError, RuntimeError) as error:
        cure = f"name a folder that holds {name}.safetensors as weights_dir, or use no weights"
        raise OSError(
            f"the pretrained weights of {name} could not be downloaded ({error}); {cure}"
        ) from error
    return whole.state_dict()


def _conv(cin: int, cout: int, k: int) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, k, padding=k // 2)
    return [conv, nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]


def _before(cin: int, cout: int, k: int) -> list[nn.Module]:
    """Normalisation and activation first, then the convolution."""
    conv = nn.Conv2d(cin, cout, k, padding=k // 2)
    return [nn.BatchNorm2d(cin), nn.ReLU(inplace=True), conv]


def _doubled(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return enlarged(x, (2 * height, 2 * width), align_corners=True)


def _initialise(module: nn.Module) -> None:
    """As released: He's normal by incoming weights; biases stay at PyTorch's start."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
