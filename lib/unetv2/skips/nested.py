"""UNet++'s skip, as one among others."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import graph

__all__ = ["NestedSkip", "unit"]


class NestedSkip(nn.Module):
    """UNet++'s nested, densely linked pathway (Zhou et al., arXiv:1912.05074, Fig. 1).

    X^{i,0} is level i reduced to c channels, X^{i,j} = H([U(X^{i+1,j-1}), X^{i,0}, ..., X^{i,j-1}])
    with H a 3x3 convolution, normalisation and ReLU; level i hands on its last node. The links are
    those of `graph("unet++", L)`.

    Deviations: c channels at every level and one convolution a node, as the thin decoder asks;
    bilinear upsampling. The paper's own widths are in `networks.family`.

    Args:
        in_channels: channels of each level, finest first.
        c: channels of every level afterwards.

    Shapes:
        list of (N, in_channels[i], H_i, W_i) -> list of (N, c, H_i, W_i).
    """

    def __init__(self, in_channels: Sequence[int], c: int = 32) -> None:
        super().__init__()
        nodes = graph("unet++", len(in_channels) - 1)
        self.graph = [(node, inputs) for node, inputs in nodes if node[1]]  # without the encoder
        self.reduce = nn.ModuleList(unit(n, c, 1) for n in in_channels)
        self.nodes = nn.ModuleDict(
            {f"{i}_{j}": unit(len(inputs) * c, c, 3) for (i, j), inputs in self.graph}
        )
        self.out_channels = (c,) * len(in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = zip(self.reduce, features, strict=True)
        x = {(i, 0): reduce(f) for i, (reduce, f) in enumerate(levels)}
        last = dict(enumerate(x.values()))
        for (i, j), inputs in self.graph:
            (below, _), *skips = inputs
            size = x[i, 0].shape[-2:]
            up = F.interpolate(x[below], size, mode="bilinear", align_corners=True)
            joined = torch.cat([up, *(x[node] for node, _ in skips)], 1)
            last[i] = x[i, j] = self.nodes[f"{i}_{j}"](joined)
        return [last[i] for i in range(len(features))]


def unit(inputs: int, c: int, kernel: int) -> nn.Sequential:
    """H: a convolution that keeps the size, normalisation and ReLU; (N, inputs, h, w) -> c."""
    conv = nn.Conv2d(inputs, c, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c), nn.ReLU())
