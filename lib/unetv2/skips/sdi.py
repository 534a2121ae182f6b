"""SDI, the semantics and detail infusion module: the skip connection of U-Net v2.

Source: Peng, Chen, Sonka, "U-Net v2: Rethinking the Skip Connections of U-Net for Medical Image Segmentation"
(arXiv:2311.17791, ISBI 2025), Section 2, Eqs. 1-4. Levels are numbered as there, from the finest, i = 1, to the
coarsest, i = M; f_i^k is the feature map of level i after step k.

    f_i^1  = phi_i^c(phi_i^s(f_i^0))                                       (1)  attention: spatial, then channel
    f_i^2  = 1x1 convolution of f_i^1 to c channels                             (in the text, no number)
    f_ij^3 = D(f_j^2), I(f_j^2) or U(f_j^2) at the size of level i         (2)  pool, keep or upsample
    f_ij^4 = theta_ij(f_ij^3)                                              (3)  3x3 smoothing convolution
    f_i^5  = f_i1^4 * f_i2^4 * ... * f_iM^4                                (4)  Hadamard product
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SDI", "Attention", "ChannelAttention", "Combine", "SpatialAttention", "resize"]

Attention = Literal["spatial-channel", "channel-spatial"] | None
Combine = Literal["product", "sum", "concat", "copy"]


class SpatialAttention(nn.Module):
    """phi^s of Eq. 1: where to look. (N, C, H, W) -> the same, each pixel scaled by a factor in (0, 1).

    CBAM's (arXiv:1807.06521): a 7x7 convolution of the mean and the maximum over channels, then a sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, f: Tensor) -> Tensor:
        return f * self.conv(torch.cat([f.mean(1, keepdim=True), f.amax(1, keepdim=True)], 1)).sigmoid()


class ChannelAttention(nn.Module):
    """phi^c of Eq. 1: what to look for. (N, C, H, W) -> the same, each channel scaled by a factor in (0, 1).

    CBAM's: one bottleneck of C // 16 units (at least one) over the mean and the maximum of the plane, then a sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, max(1, channels // 16), 1, bias=False)
        self.excite = nn.Conv2d(max(1, channels // 16), channels, 1, bias=False)

    def forward(self, f: Tensor) -> Tensor:
        pooled = f.mean((2, 3), keepdim=True), f.amax((2, 3), keepdim=True)
        return f * sum(self.excite(self.squeeze(p).relu()) for p in pooled).sigmoid()


def resize(f: Tensor, size: Sequence[int]) -> Tensor:
    """Eq. 2: bring `f` (N, C, H, W) to `size` (H_i, W_i): adaptive average pooling, identity or bilinear upsampling."""
    if f.shape[-2:] == tuple(size):
        return f
    if f.shape[-2] >= size[0] and f.shape[-1] >= size[1]:
        return F.adaptive_avg_pool2d(f, tuple(size))
    return F.interpolate(f, tuple(size), mode="bilinear", align_corners=True)


class SDI(nn.Module):
    """Semantics and detail infusion: every level receives the features of all levels.

    Args:
        in_channels: channels of each level, finest first. A level of 0 channels (timm's transformers have no stride-2
            features and hand out an empty map there) is passed through untouched and takes no part.
        c: channels of every level afterwards; 32 in the paper.
        attention: order of Eq. 1. "spatial-channel" is the paper's, "channel-spatial" the released code's, None leaves
            Eq. 1 out (the paper's ablation "w/o SC").
        combine: Eq. 4. "product" is the paper's. Ablations: "sum", "concat" (concatenation and a 1x1 convolution), and
            "copy", f_i^5 = theta_ii(f_i^2): no level sees another, which is U-Net's skip.
        unit_bias: start the biases of theta_ij, j != i, at 1 in place of near 0. Nothing else changes. By default the
            product of M factors of standard deviation s < 1 starts with one near s^M, and little gradient returns. So

                f_i^5 = theta_ii(f_ii^3) * prod_{j != i} (1 + W_ij f_ij^3)

            starts at the scale of its first term theta_ii(f_ii^3), U-Net's own skip, and correlated with it.
        shared: one set of theta_j for all target levels i, as the model that the paper's Table 4 counted; the paper's
            Eq. 3 and the released code have a theta_ij for every pair.

    Shapes:
        list of (N, in_channels[i], H_i, W_i) -> list of (N, out_channels[i], H_i, W_i); any number of levels and sizes.

    Deviations from the paper's text, all as in the released code: batch normalisation after the 1x1 convolution,
    theta with bias and without normalisation or activation, align_corners=True in the upsampling.

    Raises:
        ValueError: an option that does not exist, no level with channels, or another number of levels than in_channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        c: int = 32,
        attention: Attention = "spatial-channel",
        combine: Combine = "product",
        unit_bias: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__()
        kinds = {"spatial": lambda n: SpatialAttention(), "channel": ChannelAttention}
        if attention not in ("spatial-channel", "channel-spatial", None):
            raise ValueError(f"attention must be 'spatial-channel', 'channel-spatial' or None, not {attention!r}")
        if combine not in ("product", "sum", "concat", "copy"):
            raise ValueError(f"combine must be 'product', 'sum', 'concat' or 'copy', not {combine!r}")
        if unit_bias and (shared or combine != "product"):
            raise ValueError("unit_bias is a start of the product with a theta_ij for every i, j: leave it out here")
        levels = [n for n in in_channels if n > 0]
        if not levels or c < 1:
            raise ValueError(f"SDI needs c >= 1 and a level with channels, got c={c}, in_channels={list(in_channels)}")
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(c if n > 0 else 0 for n in in_channels)
        self.combine, self.shared = combine, shared
        order = attention.split("-") if attention else []
        self.attention = nn.ModuleList(nn.Sequential(*(kinds[kind](n) for kind in order)) for n in levels)
        self.reduce = nn.ModuleList(nn.Sequential(nn.Conv2d(n, c, 1, bias=False), nn.BatchNorm2d(c)) for n in levels)
        sources = levels[:1] if combine == "copy" else levels  # the j of theta_ij
        self.theta = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in sources) for _ in (levels[:1] if shared else levels)
        )
        if unit_bias:
            for i, thetas in enumerate(self.theta):
                for j, theta in enumerate(thetas):
                    if j != i:
                        nn.init.ones_(theta.bias)
        if combine == "concat":
            self.mix = nn.ModuleList(nn.Conv2d(len(levels) * c, c, 1) for _ in levels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self._infuse(features, lambda f, theta, size: _smooth_resized(f, theta, size))

    def equations(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The same result as `forward`, computed as the paper writes it: first resize (2), then smooth (3)."""
        return self._infuse(features, lambda f, theta, size: theta(resize(f, size)))

    def _infuse(self, features: Sequence[Tensor], smooth_resized) -> list[Tensor]:
        if len(features) != len(self.in_channels):
            raise ValueError(f"SDI was built for {len(self.in_channels)} levels and got {len(features)}")
        f0 = [f for f, n in zip(features, self.in_channels, strict=True) if n > 0]
        f1 = [attend(f) for attend, f in zip(self.attention, f0, strict=True)]  # Eq. 1
        f2 = [reduce(f) for reduce, f in zip(self.reduce, f1, strict=True)]
        f5 = []
        for i, fi in enumerate(f2):
            thetas = self.theta[0 if self.shared else i]
            if self.combine == "copy":
                f5.append(thetas[0](fi))
                continue
            f4 = [smooth_resized(fj, theta, fi.shape[-2:]) for fj, theta in zip(f2, thetas, strict=True)]  # Eqs. 2, 3
            f5.append(self._combine(f4, i))  # Eq. 4
        infused = iter(f5)
        return [next(infused) if n > 0 else f for f, n in zip(features, self.in_channels, strict=True)]

    def _combine(self, f4: list[Tensor], i: int) -> Tensor:
        if self.combine == "concat":
            return self.mix[i](torch.cat(f4, 1))
        return sum(f4[1:], f4[0]) if self.combine == "sum" else _Hadamard.apply(*f4)


class _Hadamard(torch.autograd.Function):
    """The product of M maps. Keeps the M factors for backward, and none of the partial products that autograd would."""

    @staticmethod
    def forward(ctx, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        product = factors[0].clone()
        for f in factors[1:]:
            product *= f  # in place, here and below: on a CPU a fresh map costs more than its arithmetic
        return product

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        factors = ctx.saved_tensors
        grads = [grad]  # that of factor k is grad times the factors before k (this loop) and after k (the next one)
        for f in factors[:-1]:
            grads.append(grads[-1] * f)
        after = factors[-1].clone()
        for k in reversed(range(len(factors) - 1)):
            grads[k] = grads[k].mul_(after) if k else grad * after
            after *= factors[k]
        return tuple(grads)


def _smooth_resized(f: Tensor, theta: nn.Conv2d, size: Sequence[int]) -> Tensor:
    """theta(resize(f, size)), Eqs. 2 and 3 in one, without forming the upsampled map.

    Upsampling mixes pixels and leaves channels alone, so that the channel sums of theta can be taken before rows are
    upsampled. With U_y, U_x the upsampling matrices of both axes, S_y the shift by tap y (zero beyond the border) and
    theta_y row y of the kernel, a 1x3 convolution,

        theta(U_y f U_x^T) = sum_y (S_y U_y) theta_y(f U_x^T) + bias

    The convolution runs on a map of h x W in place of H x W, and that one alone is kept for backward.
    """
    (h, w), (height, width) = f.shape[-2:], size
    if height < 2 * h or width < 2 * w:
        return theta(resize(f, size))
    rows = theta.weight.permute(0, 2, 1, 3).flatten(0, 1)[:, :, None]  # (c y, c, 1, 3): theta_y for every y
    z = F.conv2d(f @ _upsampling(w, width, f).mT, rows, padding=(0, 1))  # (N, c y, h, W)
    up = F.pad(_upsampling(h, height, f), (0, 0, 1, 1))
    shifted = torch.cat([up[y : y + height] for y in range(3)], 1)  # (H, y h): S_y U_y side by side
    return (shifted @ z.reshape(f.shape[0], -1, 3 * h, width)).add_(theta.bias[:, None, None])


def _upsampling(small: int, large: int, like: Tensor) -> Tensor:
    """(large, small): bilinear upsampling of one axis, align_corners=True, as a matrix: rows of tent functions."""
    axis = partial(torch.arange, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    distance = axis(large)[:, None] * ((small - 1) / (large - 1)) - axis(small)
    return (1 - distance.abs()).relu().to(like.dtype)
