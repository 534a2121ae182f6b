"""What 41_ablation compares: the arms, and the cells that their trainings fall into.

A **cell** is what all its trainings share but the seed: model, epochs, share of the training part.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from .plots import label

__all__ = ["ARMS", "CORNERS", "FACTORS", "LEADERS", "PARTS", "ROWS", "SHARES", "WIDTHS", "Cell"]
__all__ += ["arms", "leaders", "models", "short"]

LEADERS = ("thin+copy", "thin+nested", "thin+sdi")  # the first is the reference of all arms
ARMS = {  # the skip alone: attention, what level i takes from the others, and what stands apart
    "thin+copy": ("no", "nothing", ""),
    "thin+copy-attention": ("yes", "nothing", ""),
    "thin+copy-matched": ("no", "nothing", "a ReLU, and as many parameters as SDI"),
    "thin+sum": ("yes", "sum", ""),
    "thin+concat": ("yes", "concatenation", ""),
    "thin+nested": ("no", "coarser levels, by convolutions", ""),
    "thin+sdi": ("yes", "product", ""),
    "thin+sdi-noattention": ("no", "product", "the paper's 'w/o SC'"),
    "thin+sdi-unitbias": ("yes", "product", "factors start at 1"),
    "thin+sdi-shared": ("yes", "product", "the convolutions of all levels are shared"),
}
PARTS = {  # one part of SDI at a time, and two whole designs: with it, without it
    "attention, no exchange": ("thin+copy-attention", "thin+copy"),
    "attention, within SDI": ("thin+sdi", "thin+sdi-noattention"),
    "exchange, no attention": ("thin+sdi-noattention", "thin+copy"),
    "exchange, with attention": ("thin+sdi", "thin+copy-attention"),
    "product, not sum": ("thin+sdi", "thin+sum"),
    "product, not concatenation": ("thin+sdi", "thin+concat"),
    "convolutions and ReLU, no exchange": ("thin+copy-matched", "thin+copy"),
    "SDI, not these convolutions": ("thin+sdi", "thin+copy-matched"),
    "the nest, not these convolutions": ("thin+nested", "thin+copy-matched"),
    "factors that start at 1": ("thin+sdi-unitbias", "thin+sdi"),
    "own convolutions per level": ("thin+sdi", "thin+sdi-shared"),
}
FACTORS = {  # the factorial: off, on
    "skip": ("copy", "SDI"),
    "decoder": ("thin", "smp"),
    "supervision": ("off", "on"),
}
CORNERS = {  # its models: skip, decoder, supervision
    (0, 0, 0): "thin+copy-nods",
    (0, 0, 1): "thin+copy",
    (0, 1, 0): "smp-unet+copy-l4",
    (0, 1, 1): "smp-unet+copy-l4-ds",
    (1, 0, 0): "thin+sdi-nods",
    (1, 0, 1): "thin+sdi",
    (1, 1, 0): "smp-unet+sdi-l4",
    (1, 1, 1): "smp-unet+sdi-l4-ds",
}
ROWS = {  # the comparisons of the paper's Table 3
    "UNet++ against U-Net": ("smp-unetplusplus", "smp-unet"),
    "SDI against U-Net": ("thin+sdi", "smp-unet"),
    "SDI, with SC against without": ("thin+sdi", "thin+sdi-noattention"),
}
WIDTHS = (8, 16, 32, 64)
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


class Cell(NamedTuple):
    """What all its trainings share but the seed."""

    model: str
    epochs: int
    share: float = 1.0

    def __str__(self) -> str:
        part = f", {self.share:.0%} of the images" * (self.share < 1)
        return f"{short(self.model)} ({self.epochs} epochs{part})"


def short(model: str) -> str:
    """A model's label for lists: "SDI" for "SDI (U-Net v2's skip)", corners by their factors."""
    for bits, corner in CORNERS.items():
        if model == corner and model not in ARMS:
            skip, decoder, on = (of[bit] for of, bit in zip(FACTORS.values(), bits, strict=True))
            return f"{skip} with the {decoder} decoder, deep supervision {on}"
    return re.sub(r" \([^()]*'s skip\)", "", label(model))


def arms(models: Iterable[str], epochs: int, share: float = 1.0) -> list[Cell]:
    """The cells of these models at one length."""
    return [Cell(model, epochs, share) for model in models]


def leaders(own: str | None) -> tuple[str, ...]:
    """The skips that every section shows: copy, nested, SDI, and a reader's own."""
    return (*LEADERS, *([own] if own else []))


def models(own: str | None) -> list[str]:
    """Every model of the study, a reader's own with the widths that it may have."""
    several = [f"{one}-c{c}" for one in leaders(own) for c in WIDTHS if c != 32]
    names = [*leaders(own), *ARMS, *CORNERS.values(), *sum(ROWS.values(), ()), *several]
    return list(dict.fromkeys(names))
