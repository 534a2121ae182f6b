"""Pairs of an image and its mask, and what was found of a dataset on disk."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from .rle import RunLengths

__all__ = ["SUFFIXES", "Pair", "Problems", "Source", "Values", "unpaired"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm"}
Problems = list[tuple[str, str]]  # (file or folder, what is wrong: its kind, a colon, the details)
# mask value or colour "#rrggbb" of each class; None: binary; see images.to_classes
Values = tuple[int, ...] | tuple[str, ...] | Literal["instances"] | None


class Pair(NamedTuple):
    id: str
    image: Path
    mask: Path | RunLengths  # a file, a folder of masks to be united, or rows of a table
    group: str = ""  # patient, video, slide; empty: not known

    @property
    def files(self) -> tuple[Path, Path]:
        return self.image, self.mask.table if isinstance(self.mask, RunLengths) else self.mask


@dataclass
class Source:
    """What was found on disk: the pairs of each part, and what is wrong with the names."""

    name: str
    classes: tuple[str, ...]
    values: Values
    train: list[Pair]
    val: list[Pair] | None  # None: to be carved from train
    tests: dict[str, list[Pair]]
    problems: Problems = field(default_factory=list)
    tiles: bool = False  # few large images, cut into tiles instead of resized
    test_share: float = 0.0  # of `train`, still to be drawn by group as the test part
    tests_only: bool = False  # nothing here is trained on

    @property
    def pairs(self) -> list[Pair]:
        tests = (pair for pairs in self.tests.values() for pair in pairs)
        return [*self.train, *(self.val or []), *tests]


def unpaired(images: dict[str, Path], masks: dict[str, Path], known=None) -> Problems:
    """Images without a mask, and masks without an image among `known` (else `images`)."""
    known = images if known is None else known
    problems = [(str(images[id]), "image without a mask") for id in images if id not in masks]
    return problems + [(str(masks[id]), "mask without an image") for id in masks if id not in known]
