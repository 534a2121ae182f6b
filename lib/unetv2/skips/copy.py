"""U-Net's skip: every level is handed across, and no level sees another."""

from collections.abc import Sequence

from torch import Tensor, nn

from .attention import Attention, attend, reduce
from .sdi import SDI

__all__ = ["Copy", "MatchedCopy"]


class Copy(nn.Module):
    """f_i^5 = theta_i(f_i^2): U-Net's copy (Ronneberger et al., 2015) at SDI's width.

    It is SDI (see `sdi.py` for the symbols) without what the other levels give.

    Args:
        in_channels: channels of each level, finest first.
        c: channels of every level afterwards.
        attention: order of Eq. 1, as in `SDI`; None: none, as in U-Net.

    Deviation from U-Net, whose skip has no weights: a 1x1 and a 3x3 convolution, because the thin
    decoder takes c channels and has no convolution of its own.

    Shapes:
        list of (N, in_channels[i], H_i, W_i) -> list of (N, c, H_i, W_i).

    Raises:
        ValueError: an unknown attention, or another number of levels than in_channels.
    """

    def __init__(
        self, in_channels: Sequence[int], c: int = 32, attention: Attention = None
    ) -> None:
        super().__init__()
        self.attention = attend(in_channels, attention)
        self.reduce = reduce(in_channels, c)
        self.theta = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in in_channels)
        self.out_channels = (c,) * len(in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = zip(self.attention, self.reduce, self.theta, features, strict=True)
        return [theta(reduce(attend(f))) for attend, reduce, theta, f in levels]


class MatchedCopy(Copy):
    """The copy with a ReLU and as many parameters as SDI, to 1 %: does a gain need the exchange?

    A 3x3 convolution, normalisation and ReLU stand before each theta_i, so that skip and thin
    decoder together are no longer linear. Their width is chosen so that there are as many
    parameters as in `SDI(in_channels, c)`; there is no attention.
    """

    def __init__(self, in_channels: Sequence[int], c: int = 32) -> None:
        super().__init__(in_channels, c)
        per_filter = 9 * c + 2 + 9 * c  # a filter's weights, its normalisation, its use in theta
        wanted = sum(p.numel() for p in SDI(in_channels, c).parameters())
        fixed = sum(p.numel() for p in self.reduce.parameters()) + c * len(in_channels)
        each, more = divmod(round((wanted - fixed) / per_filter), len(in_channels))
        widths = [each + (i < more) for i in range(len(in_channels))]
        self.theta = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, k, 3, padding=1, bias=False),
                nn.BatchNorm2d(k),
                nn.ReLU(),
                nn.Conv2d(k, c, 3, padding=1),
            )
            for k in widths
        )
