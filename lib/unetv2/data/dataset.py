"""`load`: a dataset by its name, decoded and resized once, as arrays that every process can share.

The arrays of a split lie in one .npy file of the cache, read as a memory map. Its name holds the
dataset's, the image size, and a hash of every file's path, size and time of change, so that it is
never stale. What a run is known by is another hash, of the files' content: the fingerprint.
"""

import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..common import env
from ..common.files import atomic
from . import synthetic
from .check import look, require
from .content import cache_folder, contents, file_name, of_code, stamp
from .groups import draw, prefix
from .images import read_image, read_mask, resize
from .pairs import Pair, Source, Values
from .readers import SYNTHETIC, find

__all__ = ["SegData", "Split", "cache_folder", "fingerprint", "load", "load_tests"]

VAL_FRACTION = 0.1  # of a training part that comes without a validation part
SEED = 0  # of every draw here; not that of a training, so that all trainings share one split
READING = of_code("images", "rle")  # what decoded the arrays


@dataclass(frozen=True)
class Split:
    """A part of a dataset: `images` uint8 (N, S, S, 3) RGB and `masks` uint8 (N, S, S) class ids
    0..K, by `ids`.

    `groups` names what each image belongs to (patient, video, near copies); without it each image
    is its own group. Pickled for another process it opens its `file` there, in place of carrying
    the arrays.
    """

    ids: list[str]
    images: np.ndarray
    masks: np.ndarray
    groups: list[str] = None
    file: Path | None = field(default=None, repr=False)  # of the cache, with all rows in order
    pairs: list[Pair] | None = field(default=None, repr=False)  # None: synthetic images, or tiles
    values: Values = field(default=None, repr=False)

    def __post_init__(self):
        if self.groups is None:
            object.__setattr__(self, "groups", list(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict:
        return self.__dict__ | ({"images": None, "masks": None} if self.file else {})

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.file:
            images, masks = _opened(self.file)
            self.__dict__.update(images=images, masks=masks)

    def native_mask(self, i: int) -> np.ndarray:
        """Mask `i` as class ids, uint8 (h, w), at its file's own size."""
        return (
            np.asarray(self.masks[i])
            if self.pairs is None
            else read_mask(self.pairs[i].mask, self.values)
        )

    def only(self, kept: list[int]) -> "Split":
        """The split of these rows alone, in memory."""
        if len(kept) == len(self):
            return self
        rows = {
            name: [value[i] for i in kept]
            for name, value in (("ids", self.ids), ("groups", self.groups))
        }
        pairs = self.pairs and [self.pairs[i] for i in kept]
        return Split(
            **rows,
            images=self.images[kept],
            masks=self.masks[kept],
            pairs=pairs,
            values=self.values,
        )


@dataclass(frozen=True)
class SegData:
    """A dataset, split. `classes` are the foreground classes; one class means a binary task.

    `fingerprint` says what the data are, by content: 16 hex digits, see `unetv2.data.fingerprint`.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    tests: dict[str, Split]
    fingerprint: str = ""

    @property
    def logit_channels(self) -> int:
        """What a model must put out: 1 (sigmoid) for a binary task, else K + 1 (softmax, background
        first).
        """
        return 1 if len(self.classes) == 1 else len(self.classes) + 1


def load(
    name: str,
    data_dir: str | Path | None = None,
    image_size: int = 256,
    *,
    limit: int | None = None,
    share: float = 1.0,
    drop_duplicates: bool = False,
    cache_dir: str | Path | None = None,
    check: bool = True,
) -> SegData:
    """Dataset `name` at `image_size` x `image_size` pixels (aspect squashed, as the papers do).

    `VAL_FRACTION` of the training part becomes the validation part, in whole groups; the synthetic
    sets and folders with a val part have their own.

    A set that the registry marks with `tiles` (ISBI 2012: thirty images of 512 x 512) is cut into
    tiles of that size instead, evenly spaced and overlapping as little as it takes to cover the
    image; each counts as an image, in the group of the image that it is cut from.

    Args:
        name: see `names()`; `folder:PATH` for your own data; `synthetic:contrast=0.8,hair=0` turns
            `synthetic.Knobs`.
        data_dir: folder that holds the datasets; else the environment's DATA_DIR, else the
            repository's `data`.
        limit: at most so many images in each part, drawn at random.
        share: of the training part, in whole groups; smaller shares are subsets of larger ones.
        drop_duplicates: leave out of the training part (and of a validation part that the set came
            with) what is in a later part too, pixel by pixel, in place of an error.
        cache_dir: folder of the decoded arrays; else the environment's UNETV2_CACHE, else the
            user's cache folder.
        check: raise on errors of the data check (its result is cached).

    Raises:
        ValueError: unknown name, or the data check found what would corrupt a result.
        FileNotFoundError: the dataset is not there; says where it looked and how to get it.
        OSError: the cache folder cannot be written.
    """
    cache = Path(cache_dir) if cache_dir else cache_folder()
    if name.partition(":")[0] in SYNTHETIC:
        return _synthetic(name, image_size, cache, limit, share)
    source = find(name, data_dir)
    source = _parts(source, image_size, cache, limit, share, drop_duplicates, check)
    part = partial(_decoded, source, size=image_size, stem=cache / file_name(name))
    tests = {key: part(pairs) for key, pairs in source.tests.items()}
    data = _fingerprint(source, cache)
    return SegData(name, source.classes, part(source.train), part(source.val), tests, data)


def fingerprint(
    name: str,
    data_dir: str | Path | None = None,
    image_size: int = 256,
    *,
    limit: int | None = None,
    share: float = 1.0,
    drop_duplicates: bool = False,
    cache_dir: str | Path | None = None,
) -> str:
    """16 hex digits of what `load` would give with these arguments: `SegData.fingerprint`, without
    decoding again.

    A hash of the content of the files of images and masks (not of their paths or times), of the
    ids, the part that each is in, and the classes. Of a synthetic set: of the generator's source
    and its knobs.

    Raises:
        ValueError, FileNotFoundError, OSError: as `load`; the check's errors are not among them.
    """
    cache = Path(cache_dir) if cache_dir else cache_folder()
    if name.partition(":")[0] in SYNTHETIC:
        return _drawn(name, limit, share)[1]
    source = find(name, data_dir)
    source = _parts(source, image_size, cache, limit, share, drop_duplicates, check=False)
    return _fingerprint(source, cache)


def load_tests(
    name: str,
    data_dir: str | Path | None = None,
    image_size: int = 256,
    exclude: SegData | None = None,
    *,
    check: bool = True,
) -> tuple[dict[str, Split], int]:
    """The test parts of a set that a model was not trained on, and how many images were left out of
    them.

    Every image of a test-only set; an outside folder as a whole, as "test"; of other sets their own
    test parts.

    Args:
        exclude: the data of the model's training; images of its training and validation parts,
            compared pixel by pixel at `image_size`, are left out.

    Raises:
        ValueError: as `load`, or `exclude` has another image size.
        FileNotFoundError, OSError: as `load`.
    """
    cache = cache_folder()
    if name.partition(":")[0] in SYNTHETIC:
        tests = _synthetic(name, image_size, cache).tests
    else:
        source = find(name, data_dir, tests_only=True)
        source = _parts(source, image_size, cache, check=check)
        part = partial(_decoded, source, size=image_size, stem=cache / file_name(name))
        tests = {key: part(pairs) for key, pairs in source.tests.items()}
    if exclude is None:
        return tests, 0
    if exclude.train.images.shape[1] != image_size:
        size = exclude.train.images.shape[1]
        raise ValueError(f"images of {size} pixels cannot be told from ones of {image_size}")
    seen = {_pixels(image) for split in (exclude.train, exclude.val) for image in split.images}
    kept = {
        key: [i for i in range(len(s)) if _pixels(s.images[i]) not in seen]
        for key, s in tests.items()
    }
    excluded = sum(len(split) - len(kept[key]) for key, split in tests.items())
    return {key: split.only(kept[key]) for key, split in tests.items()}, excluded


def _pixels(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def _parts(source, size, cache, limit=None, share=1.0, drop_duplicates=False, check=True) -> Source:
    """The source with its parts as they are used: grouped, drawn, without copies, shared, cut into
    tiles, limited.
    """
    looked = look(source, cache)
    if check:
        require(looked, cache, copies=drop_duplicates)
    source, dropped = looked.source, set(looked.copies) if drop_duplicates else ()
    train, val = (
        [p for p in part if str(p.image) not in dropped]
        for part in (source.train, source.val or [])
    )
    if source.val is None and not source.tests_only:
        train, val = draw(train, _group, VAL_FRACTION, SEED)
    if share < 1:
        train = prefix(train, _group, share, SEED)

    def part(pairs):
        if source.tiles:
            pairs = [pair for whole in pairs for pair in _tiles(whole, size)]
        chosen = _limited(len(pairs), limit)
        return [pairs[i] for i in chosen]

    tests = {key: part(pairs) for key, pairs in source.tests.items()}
    return replace(source, train=part(train), val=part(val), tests=tests)


def _group(pair: Pair) -> str:
    return pair.group


def _limited(n: int, limit: int | None) -> list[int]:
    """Which of `n` images are used: all, or `limit` of them, drawn at random, in order."""
    if not limit or limit >= n:
        return list(range(n))
    return sorted(np.random.default_rng(SEED).permutation(n)[:limit].tolist())


def _fingerprint(source: Source, cache: Path) -> str:
    parts = {
        "train": source.train,
        "val": source.val or [],
        **{f"test {k}": v for k, v in source.tests.items()},
    }
    files = list(
        dict.fromkeys(file for pairs in parts.values() for pair in pairs for file in pair.files)
    )
    # named after the folder of all files, which a smaller part of them has, too
    folder = os.path.commonpath(map(os.path.abspath, files)) if files else ""
    place = hashlib.sha256(folder.encode()).hexdigest()[:6]
    known = cache / f"content-{file_name(source.name)}-{place}.json"
    hashes = dict(zip(files, contents(files, known), strict=True))
    content = [
        (part, pair.id, *(hashes[f] for f in pair.files))
        for part, pairs in parts.items()
        for pair in pairs
    ]
    return hashlib.sha256(repr((source.classes, source.values, content)).encode()).hexdigest()[:16]


def _tiles(pair: Pair, size: int) -> list[Pair]:
    """The tiles of an image; the id of each ends in @x,y, its top left corner."""
    with Image.open(pair.image) as image:
        sides = image.size
    if min(sides) < size:
        raise ValueError(
            f"{pair.image} of {sides[0]} x {sides[1]} pixels cannot be cut into tiles of {size}"
        )
    xs, ys = (
        np.linspace(0, side - size, -(-side // size)).round().astype(int).tolist() for side in sides
    )
    return [Pair(f"{pair.id}@{x},{y}", *pair[1:]) for y in ys for x in xs]


def _decoded(source: Source, pairs: list[Pair], size: int, stem: Path) -> Split:
    def decode(pair):
        image, mask = read_image(pair.image), read_mask(pair.mask, source.values)
        if source.tiles:
            x, y = map(int, pair.id.rpartition("@")[2].split(","))
            return image[y : y + size, x : x + size], mask[y : y + size, x : x + size]
        return resize(image, size), resize(mask, size, mask=True)

    def rows():
        with ThreadPoolExecutor(env.cores()) as pool:
            for i in range(
                0, len(pairs), 64
            ):  # in chunks, so that decoded pictures never pile up in memory
                yield from pool.map(decode, pairs[i : i + 64])

    files = (file for pair in pairs for file in pair.files)
    name = stamp(files, [pair.id for pair in pairs], source.values, READING)
    path = stem.with_name(f"{stem.name}-{size}-{name}.npy")
    images, masks = _arrays(path, len(pairs), size, rows)
    ids, groups = [pair.id for pair in pairs], [pair.group for pair in pairs]
    return Split(ids, images, masks, groups, path, None if source.tiles else pairs, source.values)


def _arrays(path: Path, n: int, size: int, rows) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks, as views of the memory map at `path`, which is written from `rows()` if it
    is not there.

    A row of the file is an image followed by its mask, so that one file holds both and appears at
    once.
    """
    if not path.exists():
        with atomic(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n, size * size * 4)}
            np.lib.format.write_array_header_1_0(file, header)
            for row in rows():  # plain writes: a memory map on a full disk would kill the process
                file.write(b"".join(np.ascontiguousarray(part).data for part in row))
    return _opened(path)


def _opened(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of a file of the cache, as views of its memory map."""
    try:
        flat = np.load(path, mmap_mode="r")
    except ValueError:  # nothing to map: a part without images
        flat = np.load(path)
    n, size = len(flat), math.isqrt(flat.shape[1] // 4)
    return flat[:, : size * size * 3].reshape(n, size, size, 3), flat[:, size * size * 3 :].reshape(
        n, size, size
    )


def _drawn(name: str, limit: int | None, share: float) -> tuple[dict[str, list[int]], str]:
    """Which pictures of the generator's stream are in each part of a synthetic set, and its
    fingerprint.
    """
    parts, start = {}, 0
    for part, count in synthetic.COUNTS.items():
        numbers = list(range(start, start + count))
        if part == "train" and share < 1:
            numbers = prefix(numbers, str, share, SEED)
        parts[part] = numbers[: limit or count]
        start += count
    content = name, parts, Path(synthetic.__file__).read_text(encoding="utf-8")
    return parts, hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _synthetic(
    name: str, size: int, cache: Path, limit: int | None = None, share: float = 1.0
) -> SegData:
    kind, _, text = name.partition(":")
    try:
        knobs = {
            key: float(value)
            for key, value in (pair.split("=") for pair in text.split(",") if pair)
        }
    except ValueError:
        raise ValueError(
            f"dataset {name!r}: write the knobs as {kind}:contrast=0.8,hair=0"
        ) from None
    (drawn, data), parts, start = _drawn(name, limit, share), {}, 0
    for part, numbers in drawn.items():

        def rows(numbers=numbers):
            with ThreadPoolExecutor(env.cores()) as pool:
                draw_one = partial(synthetic.make, SYNTHETIC[kind], 1, size, 0, **knobs)
                yield from pool.map(draw_one, numbers)

        path = cache / f"{file_name(name)}-{size}-{part}{len(numbers)}-{data}.npy"
        ids = [f"{part}_{i - start:03d}" for i in numbers]
        parts[part] = Split(ids, *_arrays(path, len(numbers), size, rows), ids, path)
        start += synthetic.COUNTS[part]
    classes = ("lesion",) if kind == "synthetic" else ("polyp",)
    return SegData(name, classes, parts["train"], parts["val"], {"test": parts["test"]}, data)
