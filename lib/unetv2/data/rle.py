"""Kaggle's run lengths: masks as text, in tables with the columns ImageId and EncodedPixels.

A mask is "start length start length ...": pixels are counted from 1, down each column, then the
next column to the right. An image has a row for each object, and an empty one if it has none.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..common.files import atomic

__all__ = ["COLUMNS", "RunLengths", "decode", "encode", "read_table", "write_table"]

COLUMNS = ("ImageId", "EncodedPixels")


class RunLengths(NamedTuple):
    """The mask of one image in a table: the union of its rows."""

    table: Path
    id: str
    rows: tuple[str, ...]
    image: Path  # for its size

    def __str__(self) -> str:
        return f"{self.table} ({self.id})"

    def read(self) -> np.ndarray:
        """uint8 (h, w) in {0, 1}.

        Raises:
            ValueError: as `decode`, with the table and the image named.
            OSError: the image cannot be opened.
        """
        with Image.open(self.image) as image:
            width, height = image.size
        mask = np.zeros((height, width), np.uint8)
        for row in self.rows:
            try:
                mask |= decode(row, (height, width))
            except ValueError as error:
                raise ValueError(f"cannot read {self}: {error}") from None
        return mask


def encode(mask: np.ndarray) -> str:
    """The run lengths of a mask (h, w); every value but 0 is object.

    >>> encode(np.array([[0, 1], [1, 1]]))
    '2 3'
    """
    flat = np.concatenate([[0], (np.asarray(mask) != 0).T.ravel(), [0]]).astype(np.int8)
    starts, ends = (np.flatnonzero(np.diff(flat) == step) + 1 for step in (1, -1))
    return " ".join(map(str, np.stack([starts, ends - starts], 1).ravel().tolist()))


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask, uint8 `shape` (h, w) in {0, 1}, of run lengths; "" and "-1" are empty.

    Raises:
        ValueError: not pairs of whole numbers, or a run that leaves the image.
    """
    height, width = shape
    words = text.split() if text.strip() != "-1" else []
    try:
        runs = np.array(words, dtype=np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        raise ValueError(f"run lengths are pairs of whole numbers, not {text[:40]!r}") from None
    starts, ends = runs[:, 0] - 1, runs.sum(1) - 1
    if (runs < 1).any() or (ends > height * width).any():
        raise ValueError(f"a run leaves the image of {width} x {height} pixels (counted from 1)")
    mask = np.zeros(height * width, np.uint8)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        mask[start:end] = 1
    return mask.reshape(width, height).T


def read_table(path: Path) -> dict[str, tuple[str, ...]] | None:
    """The rows of each ImageId; None if this is no such table."""
    csv.field_size_limit(2**31 - 1)  # by default 131 072 characters, too few for some masks
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            return None
        found = {}
        for row in reader:
            id, runs = (row[column] or "" for column in COLUMNS)
            found.setdefault(id, []).append(runs)
    return {id: tuple(rows) for id, rows in found.items()}


def write_table(path: str | Path, rows: dict[str, str]) -> None:
    """Write a table with a row for each image: its id and its run lengths, see `encode`.

    Raises:
        OSError: `path` cannot be written.
    """
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows.items())
