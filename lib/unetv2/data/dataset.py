"""`load`: a dataset by its name, decoded and resized once, as arrays that every process can share.

The arrays of a split lie in one .npy file of the cache, read as a memory map. Its name holds the dataset's, the image
size, and a hash of every file's path, size and time of change, so that it is never stale.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pooch
from PIL import Image

from ..common.files import atomic
from . import synthetic
from .images import read_image, read_mask, resize
from .readers import SYNTHETIC, Pair, draw, find

__all__ = ["SegData", "Split", "cache_folder", "fingerprint", "load"]


@dataclass(frozen=True)
class Split:
    """A part of a dataset: `images` uint8 (N, S, S, 3) RGB and `masks` uint8 (N, S, S) class ids 0..K, by `ids`."""

    ids: list[str]
    images: np.ndarray
    masks: np.ndarray
    pairs: list[Pair] | None = field(default=None, repr=False)  # None: synthetic images, or tiles
    values: tuple[int, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def native_mask(self, i: int) -> np.ndarray:
        """Mask `i` as class ids, uint8 (h, w), at its file's own size."""
        return np.asarray(self.masks[i]) if self.pairs is None else read_mask(self.pairs[i].mask, self.values)


@dataclass(frozen=True)
class SegData:
    """A dataset, split. `classes` are the foreground classes; one class means a binary task."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    tests: dict[str, Split]

    @property
    def logit_channels(self) -> int:
        """What a model must put out: 1 (sigmoid) for a binary task, else K + 1 (softmax, background first)."""
        return 1 if len(self.classes) == 1 else len(self.classes) + 1


def load(
    name, data_dir=None, image_size=256, *, cache_dir=None, val_fraction=0.1, split_seed=0, limit=None, check=True
) -> SegData:
    """Dataset `name` at `image_size` x `image_size` pixels (aspect squashed, as the papers do).

    A set that the registry marks with `tiles` (ISBI 2012: thirty images of 512 x 512) is cut into tiles of that size
    instead, evenly spaced and overlapping as little as it takes to cover the image; each counts as an image.

    Args:
        name: see `names()`; `folder:PATH` for your own data; `synthetic:contrast=0.8,hair=0` turns `synthetic.Knobs`.
        data_dir: folder that holds the datasets; else the environment's DATA_DIR, else the repository's `data`.
        cache_dir: folder of the decoded arrays; else the environment's UNETV2_CACHE, else the user's cache folder.
        val_fraction, split_seed: the share of the training part that becomes the validation part, and the seed of that
            draw. The synthetic sets and folders with a val part have their own.
        limit: at most so many images in each part, drawn at random with `split_seed`.
        check: run the data check first (its result is cached) and raise on errors.

    Raises:
        ValueError: unknown name, or the data check found what would corrupt a result.
        FileNotFoundError: the dataset is not there; says where it looked and how to get it.
        OSError: the cache folder cannot be written.
    """
    cache = Path(cache_dir) if cache_dir else cache_folder()
    if name.partition(":")[0] in SYNTHETIC:
        return _synthetic(name, image_size, cache, limit)
    source = find(name, data_dir)
    if check:
        from .check import require  # here, as check.py builds on this module

        require(source, cache)
    train, val = (source.train, source.val) if source.val else draw(source.train, val_fraction, split_seed)

    def part(pairs):
        if source.tiles:
            pairs = [pair for whole in pairs for pair in _tiles(whole, image_size)]
        if limit and limit < len(pairs):
            pairs = draw(pairs, limit / len(pairs), split_seed)[1]
        return _decoded(pairs, source.values, image_size, cache / _file_name(name), source.tiles)

    tests = {key: part(pairs) for key, pairs in source.tests.items()}
    return SegData(name, source.classes, part(train), part(val), tests)


def cache_folder() -> Path:
    """Where decoded arrays and results of the data check are kept: UNETV2_CACHE, else the user's cache folder."""
    return Path(os.environ.get("UNETV2_CACHE") or pooch.os_cache("unetv2"))


def fingerprint(pairs: list[Pair], *more) -> str:
    """A hash of what the result depends on: the files' paths, sizes and times of change, and `more`."""
    stamps = [(p.id, str(path), path.stat().st_size, path.stat().st_mtime_ns) for p in pairs for path in p[1:]]
    return hashlib.sha256(repr((stamps, more)).encode()).hexdigest()[:16]


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)[-40:]


def _tiles(pair: Pair, size: int) -> list[Pair]:
    """The tiles of an image; the id of each ends in @x,y, its top left corner."""
    with Image.open(pair.image) as image:
        sides = image.size
    if min(sides) < size:
        raise ValueError(f"{pair.image} of {sides[0]} x {sides[1]} pixels cannot be cut into tiles of {size}")
    xs, ys = (np.linspace(0, side - size, -(-side // size)).round().astype(int).tolist() for side in sides)
    return [Pair(f"{pair.id}@{x},{y}", *pair[1:]) for y in ys for x in xs]


def _decoded(pairs: list[Pair], values, size: int, stem: Path, tiles: bool) -> Split:
    def decode(pair):
        image, mask = read_image(pair.image), read_mask(pair.mask, values)
        if tiles:
            x, y = map(int, pair.id.rpartition("@")[2].split(","))
            return image[y : y + size, x : x + size], mask[y : y + size, x : x + size]
        return resize(image, size), resize(mask, size, mask=True)

    def rows():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for i in range(0, len(pairs), 64):  # in chunks, so that decoded pictures never pile up in memory
                yield from pool.map(decode, pairs[i : i + 64])

    path = stem.with_name(f"{stem.name}-{size}-{fingerprint(pairs, values)}.npy")
    return Split([p.id for p in pairs], *_arrays(path, len(pairs), size, rows), None if tiles else pairs, values)


def _arrays(path: Path, n: int, size: int, rows) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks, as views of the memory map at `path`, which is written from `rows()` if it is not there.

    A row of the file is an image followed by its mask, so that one file holds both and appears at once.
    """
    if not path.exists():
        with atomic(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n, size * size * 4)}
            np.lib.format.write_array_header_1_0(file, header)
            for row in rows():  # plain writes: a memory map on a full disk would kill the process
                file.write(b"".join(np.ascontiguousarray(part).data for part in row))
    flat = np.load(path, mmap_mode="r") if n else np.load(path)
    return flat[:, : size * size * 3].reshape(n, size, size, 3), flat[:, size * size * 3 :].reshape(n, size, size)


def _synthetic(name: str, size: int, cache: Path, limit: int | None) -> SegData:
    kind, _, text = name.partition(":")
    try:
        knobs = {key: float(value) for key, value in (pair.split("=") for pair in text.split(",") if pair)}
    except ValueError:
        raise ValueError(f"dataset {name!r}: write the knobs as {kind}:contrast=0.8,hair=0") from None
    source = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()[:8]
    parts, start = {}, 0
    for part, count in synthetic.COUNTS.items():
        n = min(count, limit or count)

        def rows(n=n, start=start):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                draw_one = partial(synthetic.make, SYNTHETIC[kind], 1, size, 0, **knobs)
                yield from pool.map(draw_one, range(start, start + n))

        path = cache / f"{_file_name(name)}-{size}-{part}{n}-{source}.npy"
        parts[part] = Split([f"{part}_{i:03d}" for i in range(n)], *_arrays(path, n, size, rows))
        start += count
    classes = ("lesion",) if kind == "synthetic" else ("polyp",)
    return SegData(name, classes, parts["train"], parts["val"], {"test": parts["test"]})
