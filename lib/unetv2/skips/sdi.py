"""SDI, the semantics and detail infusion module: the skip connection of U-Net v2.

Source: Peng, Sonka, Chen, "U-Net v2: Rethinking the Skip Connections of U-Net for Medical Image
Segmentation" (arXiv:2311.17791, ISBI 2025), Section 2, Eqs. 1-4. Levels are numbered from the
finest, i = 0, to the coarsest, i = M - 1 (there from 1 to M); f_i^k is the feature map of level i
after step k.

    f_i^1  = phi_i^c(phi_i^s(f_i^0))                               (1)  attention: spatial, channel
    f_i^2  = 1x1 convolution of f_i^1 to c channels                     (in the text, no number)
    f_ij^3 = D(f_j^2), I(f_j^2) or U(f_j^2) at the size of level i (2)  pool, keep or upsample
    f_ij^4 = theta_ij(f_ij^3)                                      (3)  3x3 smoothing convolution
    f_i^5  = f_i0^4 * f_i1^4 * ... * f_i,M-1^4                     (4)  Hadamard product
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, attend, reduce

__all__ = ["SDI", "Combine", "at_least_float32", "resize"]

Combine = Literal["product", "sum", "concat"]


def resize(f: Tensor, size: Sequence[int]) -> Tensor:
    """Eq. 2: `f` (N, C, H, W) at `size` (H_i, W_i): average pooling, identity or bilinear."""
    if f.shape[-2:] == tuple(size):
        return f
    if f.shape[-2] >= size[0] and f.shape[-1] >= size[1]:
        return F.adaptive_avg_pool2d(f, tuple(size))
    return F.interpolate(f, tuple(size), mode="bilinear", align_corners=True)


class SDI(nn.Module):
    """Semantics and detail infusion: every level receives the features of all levels.

    Args:
        in_channels: channels of each level, finest first.
        c: channels of every level afterwards; 32 in the paper.
        attention: order of Eq. 1. "spatial-channel" is the paper's, "channel-spatial" the released
            code's, None leaves Eq. 1 out (the paper's ablation "w/o SC").
        combine: Eq. 4. "product" is the paper's; "sum" and "concat" (concatenation and a 1x1
            convolution) are ablations.
        unit_bias: start the biases of theta_ij, j != i, at 1 in place of near 0. Nothing else
            changes. By default the product of M factors of deviation s < 1 starts with one near
            s^M, and little gradient returns. So

                f_i^5 = theta_ii(f_ii^3) * prod_{j != i} (1 + W_ij f_ij^3)

            starts at the scale of its first term, U-Net's own skip, and correlated with it.
        shared: one set of theta_j for all target levels i, as the model that the paper's Table 4
            counted; its Eq. 3 and the released code have a theta_ij for every pair.

    Shapes:
        list of (N, in_channels[i], H_i, W_i) -> list of (N, c, H_i, W_i); any number of levels and
        any sizes.

    Deviations from the paper's text, all as in the released code: batch normalisation after the 1x1
    convolution, theta with bias and without normalisation or activation, align_corners=True in the
    upsampling. In fp16 the product is taken in float32: four factors of 20 are more than fp16
    holds.

    Raises:
        ValueError: an option that does not exist, a level without channels, or another number of
            levels than in_channels.
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
        if combine not in ("product", "sum", "concat"):
            raise ValueError(f"combine must be 'product', 'sum' or 'concat', not {combine!r}")
        if unit_bias and (shared or combine != "product"):
            raise ValueError("unit_bias needs the product and a theta_ij for every pair of levels")
        levels = range(len(in_channels))
        self.combine, self.shared = combine, shared
        self.attention = attend(in_channels, attention)
        self.reduce = reduce(in_channels, c)
        self.theta = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in levels)
            for _ in (levels[:1] if shared else levels)
        )
        if unit_bias:
            for i, thetas in enumerate(self.theta):
                for j, theta in enumerate(thetas):
                    if j != i:
                        nn.init.ones_(theta.bias)
        if combine == "concat":
            self.mix = nn.ModuleList(nn.Conv2d(len(levels) * c, c, 1) for _ in levels)
        self.out_channels = (c,) * len(in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self._infuse(features, _smooth_resized)

    def equations(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The same result as `forward`, as the paper writes it: first resize (2), then smooth
        (3).
        """
        return self._infuse(features, lambda f, theta, size: theta(resize(f, size)))

    def _infuse(self, features: Sequence[Tensor], smooth_resized: Callable) -> list[Tensor]:
        if len(features) != len(self.reduce):
            raise ValueError(f"SDI was built for {len(self.reduce)} levels, got {len(features)}")
        f1 = [attend(f) for attend, f in zip(self.attention, features, strict=True)]  # Eq. 1
        f2 = [reduce(f) for reduce, f in zip(self.reduce, f1, strict=True)]
        f5 = []
        for i, fi in enumerate(f2):
            thetas = self.theta[0 if self.shared else i]
            pairs = zip(f2, thetas, strict=True)
            f4 = [smooth_resized(fj, theta, fi.shape[-2:]) for fj, theta in pairs]  # Eqs. 2, 3
            f5.append(self._combine(f4, i))  # Eq. 4
        return f5

    def _combine(self, f4: list[Tensor], i: int) -> Tensor:
        if self.combine == "concat":
            return self.mix[i](torch.cat(f4, 1))
        if self.combine == "sum":
            return sum(f4[1:], f4[0])
        if torch.jit.is_tracing():  # a trace holds no function of one's own
            return torch.stack(f4).prod(0)
        return _Hadamard.apply(*map(at_least_float32, f4))


def at_least_float32(f: Tensor) -> Tensor:
    """A factor of a product, which may be more than fp16 holds; a model made half() stays half."""
    lowered = f.dtype == torch.float16 and torch.is_autocast_enabled(f.device.type)
    return f.float() if lowered else f


class _Hadamard(torch.autograd.Function):
    """The product of M maps. Keeps the M factors, and none of the partial products, for
    backward.
    """

    @staticmethod
    def forward(ctx, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        product = factors[0].clone()
        for f in factors[1:]:
            product *= f  # in place: on a CPU a fresh map costs more than its arithmetic
        return product

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        factors = ctx.saved_tensors
        grads = [grad]  # of factor k: grad times the factors before it (here) and after it (below)
        for f in factors[:-1]:
            grads.append(grads[-1] * f)
        after = factors[-1].clone()
        for k in reversed(range(len(factors) - 1)):
            grads[k] = grads[k].mul_(after) if k else grad * after
            after *= factors[k]
        return tuple(grads)


def _smooth_resized(f: Tensor, theta: nn.Conv2d, size: Sequence[int]) -> Tensor:
    """theta(resize(f, size)), Eqs. 2 and 3 in one, in the form that takes fewer multiply-adds.

    Upsampling mixes pixels and leaves channels alone, so that the channel sums of theta can be
    taken before rows are upsampled. With U_y, U_x the upsampling matrices of both axes, S_y the
    shift by tap y (zero beyond the border) and theta_y row y of the kernel, a 1x3 convolution,

        theta(U_y f U_x^T) = sum_y (S_y U_y) theta_y(f U_x^T) + bias

    The convolution runs on a map of h x W in place of H x W, and that one alone is kept for
    backward. A compiler gets the plain form: it cannot choose by sizes that are left open.
    """
    (h, w), (height, width) = f.shape[-2:], size
    if torch.compiler.is_compiling() or not _pays(h, w, height, width, f.shape[1]):
        return theta(resize(f, size))
    rows = theta.weight.permute(0, 2, 1, 3).flatten(0, 1)[:, :, None]  # (c y, c, 1, 3): theta_y
    z = F.conv2d(f @ _upsampling(w, width, f).mT, rows, padding=(0, 1))  # (N, c y, h, W)
    up = F.pad(_upsampling(h, height, f), (0, 0, 1, 1))
    shifted = torch.cat([up[y : y + height] for y in range(3)], 1)  # (H, y h): S_y U_y
    smooth = shifted @ z.reshape(f.shape[0], -1, 3 * h, width)
    return smooth.add_(theta.bias[:, None, None])


def _pays(h: int, w: int, height: int, width: int, c: int) -> bool:
    """Whether the short form of theta(resize(f)) takes fewer multiply-adds than the plain one.

    Both are divided by c W: plain 9 c H; short h (w + 9 c + 3 H) for columns, theta_y and rows.
    """
    return h < height and w < width and h * (w + 9 * c + 3 * height) < 9 * c * height


def _upsampling(small: int, large: int, like: Tensor) -> Tensor:
    """(large, small): bilinear upsampling of one axis, align_corners=True, as a matrix of tents."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    axis = partial(torch.arange, dtype=dtype, device=like.device)
    distance = axis(large)[:, None] * ((small - 1) / (large - 1)) - axis(small)
    return (1 - distance.abs()).relu().to(like.dtype)
