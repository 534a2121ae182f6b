"""The attention of Eq. 1 of the U-Net v2 paper: CBAM's two gates (arXiv:1807.06521)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Attention", "ChannelAttention", "SpatialAttention", "attend", "reduce"]

Attention = Literal["spatial-channel", "channel-spatial"] | None


class SpatialAttention(nn.Module):
    """phi^s of Eq. 1: where to look. (N, C, H, W) -> the same, each pixel scaled within (0, 1).

    CBAM's: a 7x7 convolution of the mean and the maximum over channels, then a sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, f: Tensor) -> Tensor:
        pooled = torch.cat([f.mean(1, keepdim=True), f.amax(1, keepdim=True)], 1)
        return f * self.conv(pooled).sigmoid()


class ChannelAttention(nn.Module):
    """phi^c of Eq. 1: what to look for. (N, C, H, W) -> the same, each channel scaled within (0,
    1).

    CBAM's: one bottleneck of C // 16 units (at least one) over the mean and the maximum of the
    plane.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, f: Tensor) -> Tensor:
        pooled = f.mean((2, 3), keepdim=True), f.amax((2, 3), keepdim=True)
        return f * sum(self.excite(self.squeeze(p).relu()) for p in pooled).sigmoid()


def attend(in_channels: Sequence[int], order: Attention) -> nn.ModuleList:
    """Eq. 1 for each level, in the `order` of its two gates; None: nothing.

    Raises:
        ValueError: an order that does not exist.
    """
    if order not in ("spatial-channel", "channel-spatial", None):
        valid = "'spatial-channel', 'channel-spatial' or None"
        raise ValueError(f"attention must be {valid}, not {order!r}")
    gates = {"spatial": lambda n: SpatialAttention(), "channel": ChannelAttention}
    kinds = order.split("-") if order else []
    return nn.ModuleList(nn.Sequential(*(gates[kind](n) for kind in kinds)) for n in in_channels)


def reduce(in_channels: Sequence[int], c: int) -> nn.ModuleList:
    """The 1x1 convolution of each level to c channels, with the released code's normalisation.

    Raises:
        ValueError: no level, a level without channels, or c below 1.
    """
    if c < 1 or not in_channels or min(in_channels) < 1:
        given = f"c={c}, in_channels={list(in_channels)}"
        raise ValueError(f"a skip needs c >= 1 and levels of 1 channel or more, got {given}")
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(n, c, 1, bias=False), nn.BatchNorm2d(c)) for n in in_channels
    )
