"""MALUNet: external and dilated gated attention in a U-Net of 0.18 million parameters.

Source: Ruan, Xiang, Xie, Liu, Fu, "MALUNet: A Multi-Attention and Light-weight UNet for Skin Lesion
Segmentation" (BIBM 2022, arXiv:2211.01784). The authors' code (github.com/JCruan519/MALUNet,
e184b47) has no licence: it was read for facts, and this was written from the paper and them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .light import GROUPS, LightUNet, doubled, initialise

__all__ = ["Bridge", "DilatedGatedAttention", "ExternalAttention", "MALUNet"]

DILATIONS = (7, 5, 2, 1)


class MALUNet(LightUNet):
    """MALUNet, for one class or several. 177,943 parameters as published.

    Args:
        classes, in_channels: of the logits and the image; 1 class is a binary mask.
        deep_supervision: it has one head, so True is an error.
        widths: channels of the six stages.

    Shapes:
        (N, in_channels, H, W), sides multiples of 32 -> logits (N, classes, H, W).

    Deviations: logits where the released code returns their sigmoid.

    Raises:
        ValueError: deep supervision; what `LightUNet` says; sides that do not fit.
    """

    title = "MALUNet"

    def __init__(
        self,
        classes: int = 1,
        in_channels: int = 3,
        deep_supervision: bool = False,
        widths: Sequence[int] = (8, 16, 24, 32, 48, 64),
    ) -> None:
        if deep_supervision:
            raise ValueError("MALUNet has one head and no deep supervision: build it without")
        super().__init__(
            lambda a, b: nn.Sequential(ExternalAttention(a), DilatedGatedAttention(a, b)),
            lambda a, b: nn.Sequential(DilatedGatedAttention(a, b), ExternalAttention(b)),
            classes,
            in_channels,
            widths,
        )
        self.bridge = Bridge(widths[:5])
        self.apply(initialise)
        for module in self.modules():
            if isinstance(module, ExternalAttention):
                module.tie()

    def forward(self, x: Tensor) -> Tensor:
        levels, y = self.encode(x)
        for k, level in enumerate(reversed(self.bridge(levels))):
            y = self.climb(k, y) + level
        return doubled(self.head(y))


class ExternalAttention(nn.Module):
    """The paper's inverted external attention: pixels attend to 4c learned memories, residual.

    With M_k and M_v the memories, A = softmax of M_k x over the pixels, divided by its sum over the
    memories, and M_v A takes the place of x. Both memories start alike, as in the released code,
    and are trained each by itself. The softmax cancels the bias of the convolution before it, so
    that 208 of the network's parameters change nothing; they are kept, and the count is theirs.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(c, c, 1)
        self.keys = nn.Conv2d(c, 4 * c, 1, bias=False)
        self.values = nn.Conv2d(4 * c, c, 1, bias=False)
        self.after = nn.Conv2d(c, c, 1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, c)

    def tie(self) -> None:
        """Start the keys as the values."""
        with torch.no_grad():
            self.keys.weight.copy_(self.values.weight.transpose(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.keys(self.before(x))
        a = a.flatten(2).softmax(-1).view_as(a)
        a = a / (1e-9 + a.sum(1, keepdim=True))
        return F.gelu(x + self.norm(self.after(self.values(a))))


class DilatedGatedAttention(nn.Module):
    """Four groups of channels see four neighbourhoods; a gate then weighs near against far."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        c = cin // GROUPS
        self.dilated = nn.ModuleList(
            nn.Conv2d(c, c, 3, padding=d, dilation=d, groups=c) for d in DILATIONS
        )
        self.norm = nn.GroupNorm(GROUPS, cin)
        self.mix = nn.Conv2d(cin, cin, 1)
        self.gate = _separable(cin, cin, 3)
        self.value = _separable(cin, cin, 5)
        self.out = _separable(cin, cout, 3)
        self.shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        groups = [conv(g) for conv, g in zip(self.dilated, x.chunk(GROUPS, 1), strict=True)]
        x = F.gelu(self.mix(self.norm(torch.cat(groups, 1))))
        gated = self.gate(x).sigmoid() * F.gelu(self.value(x))
        return F.gelu(self.out(gated)) + self.shortcut(x)


class Bridge(nn.Module):
    """Attention over the skips of all levels: spatial, then channel, each with a residual.

    Spatial: one 7x7 convolution of dilation 3 over mean and maximum of the channels, the same
    weights at every level. Channel: the mean of every channel of every level, smoothed along the
    list by a convolution of three taps, and one linear layer for each level.

    Shapes:
        a list of (N, channels[i], H_i, W_i) -> the same shapes.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 7, padding=9, dilation=3)
        self.smooth = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.channel = nn.ModuleList(nn.Linear(sum(channels), c) for c in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        gated = [self.spatial(_mean_and_maximum(t)).sigmoid() * t for t in levels]
        mixed = [t + g for t, g in zip(levels, gated, strict=True)]
        pooled = self.smooth(torch.cat([t.mean((2, 3)) for t in mixed], 1)[:, None])[:, 0]
        gates = [linear(pooled).sigmoid()[:, :, None, None] for linear in self.channel]
        return [a * t + g for a, t, g in zip(gates, mixed, gated, strict=True)]


def _mean_and_maximum(t: Tensor) -> Tensor:
    return torch.cat([t.mean(1, keepdim=True), t.amax(1, keepdim=True)], 1)


def _separable(cin: int, cout: int, k: int) -> nn.Sequential:
    """A depthwise k x k convolution, normalisation, and a 1x1 convolution."""
    depthwise = nn.Conv2d(cin, cin, k, padding=k // 2, groups=cin)
    return nn.Sequential(depthwise, nn.GroupNorm(GROUPS, cin), nn.Conv2d(cin, cout, 1))
