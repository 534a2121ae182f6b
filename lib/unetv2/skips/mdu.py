"""A skip in the style of MDU-Net: maps of neighbouring scales, joined by concatenation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .nested import unit
from .sdi import resize

__all__ = ["MDUStyle"]


class MDUStyle(nn.Module):
    """The three kinds of multi-scale links of MDU-Net, each at c channels.

    Source: Zhang, Jin, Xu, Xu, Zhang, "MDU-Net: Multi-scale Densely Connected U-Net for biomedical
    image segmentation" (arXiv:1812.00352). With r_i level i reduced to c channels, R resizing to
    the size of level i (Eq. 2 of U-Net v2) and each H a 3x3 convolution, normalisation and ReLU of
    its own:

        e_i = H[r_i, R e_0, ..., R e_{i-1}]                     within the way down; e_0 = r_0
        d_i = H[R e_{i-1}, e_i, R e_{i+1}, R d_{i+1}, R d_{i+2}, ...]     across, within the way up

    Level i hands on d_i.

    **MDU-style, not MDU-Net.** The article's widths and depths are not public, nor is its code. It
    has these links in its encoder and decoder, here they are a skip of c channels between an
    encoder and a decoder of their own; its quantisation is left out. So no score of this skip is
    MDU-Net's, and it enters no ranking.

    Args:
        in_channels: channels of each level, finest first.
        c: channels of every level afterwards.

    Shapes:
        list of (N, in_channels[i], H_i, W_i) -> list of (N, c, H_i, W_i).
    """

    def __init__(self, in_channels: Sequence[int], c: int = 32) -> None:
        super().__init__()
        last = len(in_channels) - 1
        self.reduce = nn.ModuleList(unit(n, c, 1) for n in in_channels)
        self.down = nn.ModuleList(unit((i + 1) * c, c, 3) for i in range(1, last + 1))
        self.up = nn.ModuleList(
            unit((len(_near(i, last)) + last - i) * c, c, 3) for i in range(last + 1)
        )
        self.out_channels = (c,) * len(in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        first, *coarser = [r(f) for r, f in zip(self.reduce, features, strict=True)]
        e = [first]
        for join, f in zip(self.down, coarser, strict=True):
            e.append(join(_joined([f, *e])))
        last, d = len(e) - 1, {}
        for i in range(last, -1, -1):
            others = [e[k] for k in _near(i, last) if k != i]
            d[i] = self.up[i](_joined([e[i], *others, *d.values()]))
        return [d[i] for i in range(last + 1)]


def _near(i: int, last: int) -> list[int]:
    """Level i and its neighbours."""
    return [k for k in (i - 1, i, i + 1) if 0 <= k <= last]


def _joined(maps: Sequence[Tensor]) -> Tensor:
    """All maps at the size of the first, concatenated."""
    return torch.cat([resize(f, maps[0].shape[-2:]) for f in maps], 1)
