"""The skeleton that MALUNet and EGE-UNet share: six narrow stages, additive skips, one head.

Stages 1 to 3 and their mirrors are single 3x3 convolutions; stages 4 to 6 and their mirrors are a
block of the network's own. Group normalisation of four groups, GELU, max pooling down, bilinear
(aligned corners) up. Read in the authors' code (github.com/JCruan519, MALUNet e184b47 and EGE-UNet
f52ba30), for the papers give the figure only; written anew.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import check_sides, enlarged

__all__ = ["GROUPS", "LightUNet", "doubled", "initialise"]

GROUPS = 4  # of channels, in normalisation and in the networks' own blocks


class LightUNet(nn.Module):
    """Encoder, decoder and head; a subclass says in `forward` how the levels are bridged.

    Args:
        down, up: the blocks of stages 4 to 6 and of their mirrors, built from channels in and out.
        classes, in_channels: 1 class is a binary mask.
        widths: channels of the six stages, each a multiple of 4.

    Raises:
        ValueError: no classes or channels; other than six widths, or one that 4 does not divide.
    """

    title: str

    def __init__(
        self,
        down: Callable[[int, int], nn.Module],
        up: Callable[[int, int], nn.Module],
        classes: int,
        in_channels: int,
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        if min(classes, in_channels) < 1:
            given = f"classes={classes}, in_channels={in_channels}"
            raise ValueError(f"{given}: at least 1; a binary mask is 1 class")
        if len(widths) != 6 or any(w < GROUPS or w % GROUPS for w in widths):
            raise ValueError(f"widths={tuple(widths)}: six multiples of {GROUPS} are needed")
        steps = list(pairwise((in_channels, *widths)))
        back = [(b, a) for a, b in reversed(steps[1:])]
        self.encoder = nn.ModuleList(
            [*(nn.Conv2d(*c, 3, padding=1) for c in steps[:3]), *(down(*c) for c in steps[3:])]
        )
        self.decoder = nn.ModuleList(
            [*(up(*c) for c in back[:3]), *(nn.Conv2d(*c, 3, padding=1) for c in back[3:])]
        )
        self.encoder_norms = nn.ModuleList(nn.GroupNorm(GROUPS, w) for w in widths[:5])
        self.decoder_norms = nn.ModuleList(nn.GroupNorm(GROUPS, w) for w in widths[4::-1])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The levels at H/2 ... H/32, finest first, and the sixth stage, at H/32 too."""
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            check_sides(x, 32, self.title)
        levels = []
        for stage, norm in zip(self.encoder, self.encoder_norms, strict=False):
            x = F.gelu(F.max_pool2d(norm(stage(x)), 2))
            levels.append(x)
        return levels, F.gelu(self.encoder[5](x))

    def climb(self, k: int, y: Tensor) -> Tensor:
        """Decoder stage `k`, coarsest first: all but stage 0 double the sides."""
        y = self.decoder_norms[k](self.decoder[k](y))
        return F.gelu(doubled(y) if k else y)


def doubled(y: Tensor, times: int = 2) -> Tensor:
    """`y` with its sides multiplied; corners aligned, as both networks have it."""
    height, width = y.shape[-2:]
    return enlarged(y, (height * times, width * times), align_corners=True)


def initialise(module: nn.Module) -> None:
    """As both networks start: He's normal by outgoing weights, linear layers at deviation 0.02.

    One-dimensional convolutions count outgoing weights as if they had no groups and keep PyTorch's
    biases; both are the authors'.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv1d):
        nn.init.normal_(module.weight, std=_he(module, groups=1))
    elif isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=_he(module, module.groups))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _he(conv: nn.Module, groups: int) -> float:
    taps = conv.weight[0, 0].numel()
    return (2 / (taps * conv.out_channels // groups)) ** 0.5
