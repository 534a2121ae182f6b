"""Where the pairs of a dataset lie: the registry, the layouts on disk, `folder:PATH`, and the splits.

`find` reads file names only, never pixels, so that it costs little; `images.py` opens the files.
"""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from ..errors import unknown

__all__ = ["HERE", "Pair", "Source", "find", "names", "registry"]

HERE = Path(__file__).parent
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm"}
MASK_ENDING = re.compile(r"[-_ ](mask|masks|segmentation|seg|gt|groundtruth|label|labels)$", re.IGNORECASE)
SYNTHETIC = {"synthetic": "lesion", "synthetic-polyp": "polyp"}


class Pair(NamedTuple):
    id: str
    image: Path
    mask: Path  # a file, or a folder of masks to be united


@dataclass
class Source:
    """What was found on disk: the pairs of each split, and what is wrong with the names."""

    name: str
    classes: tuple[str, ...]
    values: tuple[int, ...] | None  # mask value of each class; None: binary, see images.read_mask
    train: list[Pair]
    val: list[Pair] | None  # None: to be carved from train
    tests: dict[str, list[Pair]]
    problems: list[tuple[str, str]] = field(default_factory=list)  # (file or folder, what is wrong)

    @property
    def pairs(self) -> list[Pair]:
        return [*self.train, *(self.val or []), *(pair for pairs in self.tests.values() for pair in pairs)]


@cache
def registry() -> dict:
    """`data/registry.yaml` as a dict: dataset name -> its entry."""
    return yaml.safe_load((HERE / "registry.yaml").read_text(encoding="utf-8"))


def names() -> list[str]:
    """All dataset names; `folder:PATH` and `synthetic:knob=value,...` are accepted as well."""
    return [*SYNTHETIC, *registry()]


def data_root(data_dir: str | Path | None) -> Path:
    """The folder of the datasets: the argument, else DATA_DIR, else the repository's `data`."""
    return Path(data_dir or os.environ.get("DATA_DIR") or (HERE / "registry.yaml").resolve().parent)


def find(name: str, data_dir: str | Path | None = None) -> Source:
    """The pairs of dataset `name` under `data_dir`, split.

    Raises:
        ValueError: unknown name, or a set that is a test set only.
        FileNotFoundError: nothing there; says where it looked and how to get the data.
    """
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")).expanduser(), name)
    if name not in registry():
        raise unknown("dataset", name, [*names(), "folder:PATH"])
    entry, root = registry()[name], data_root(data_dir)
    if entry["split"] == "test-only":
        raise ValueError(f"dataset {name!r} is a test set ({entry['title']}), it has no training part: train on 'pranet'; "
                         f"its scores on {name!r} come with it where the files are present")  # fmt: skip
    if "join" in entry["split"]:
        return _join(name, entry["split"]["join"], root)
    pairs, problems = _scan(name, root)
    train, test = _split(pairs, entry["split"])
    return Source(name, tuple(entry["classes"]), None, train, None, {name: test}, problems)


def _join(name: str, parts: list[str], root: Path) -> Source:
    train, tests, problems = [], {}, []
    for part in parts:
        only_test = registry()[part]["split"] == "test-only"
        try:
            pairs, wrong = _scan(part, root)
        except FileNotFoundError:
            if only_test:
                continue
            raise
        kept, tests[part] = ([], pairs) if only_test else _split(pairs, registry()[part]["split"])
        train += kept
        problems += wrong
    return Source(name, ("polyp",), None, train, None, tests, problems)


def _scan(name: str, root: Path) -> tuple[list[Pair], list[tuple[str, str]]]:
    """All pairs of one registry entry in the first layout that has images."""
    entry, searched = registry()[name], []
    for layout in entry["layouts"]:
        for base in (root / name / layout["root"], root / layout["root"]):
            searched += [base / part["images"] for part in layout["pairs"]]
            pairs, problems = [], []
            for part in layout["pairs"]:
                found, wrong = _match(base, part["images"], part["mask"], layout.get("id") == "folder")
                pairs, problems = pairs + found, problems + wrong
            if pairs or problems:
                if len(pairs) < entry["pairs"]:
                    problems.append((str(base), f"incomplete: {len(pairs)} of {entry['pairs']} image and mask pairs"))
                return sorted(pairs), problems
    places = "\n  ".join(dict.fromkeys(map(str, searched)))
    if entry["urls"]:
        how = f"python -m unetv2.data.download {name} --data {root}"
    else:
        how = " ".join(entry["manual"].split())
    raise FileNotFoundError(
        f"dataset {name!r} was not found. Searched:\n  {places}\nGet it: {how}\n"
        "or point data_dir (--data, DATA_DIR) at the folder that holds it; see data/README.md"
    )


def _match(base: Path, images: str, mask: str, folder_is_id: bool) -> tuple[list[Pair], list[tuple[str, str]]]:
    there = {(path.relative_to(base).parts[0] if folder_is_id else path.stem): path for path in base.glob(images)}
    left, right = (base / mask).as_posix().split("{id}")
    stem = f"{Path(left).name}*{right}" if not left.endswith("/") else f"*{right}"
    masks = {path.as_posix()[len(left) : -len(right) or None]: path for path in _parent(left).glob(stem)}
    pairs = [Pair(id, path, masks[id]) for id, path in there.items() if id in masks]
    problems = [(str(path), "image without a mask") for id, path in there.items() if id not in masks]
    # a bundle's folder holds several datasets: a mask is an orphan only where no image at all has its name
    siblings = {path.stem for path in base.glob(str(Path(images).parent / "*"))} | set(there)
    problems += [(str(path), "mask without an image") for id, path in masks.items() if id not in siblings]
    return pairs, problems


def _parent(prefix: str) -> Path:
    return Path(prefix) if prefix.endswith("/") else Path(prefix).parent


def _split(pairs: list[Pair], rule: dict) -> tuple[list[Pair], list[Pair]]:
    """(train, test) by the registry's rule."""
    if "lists" in rule:
        listed = set((HERE / "splits" / rule["lists"]).read_text(encoding="utf-8").split())
        return [p for p in pairs if p.id not in listed], [p for p in pairs if p.id in listed]
    random = rule["random"]
    return draw(pairs, random["test"] / random["of"], random["seed"])


def draw(items: list, fraction: float, seed: int) -> tuple[list, list]:
    """(rest, drawn): a share of `items` drawn at random, both in the order of `items`; at least one is drawn."""
    order = np.random.default_rng(seed).permutation(len(items))
    drawn = set(order[: max(1, round(fraction * len(items)))].tolist())
    return [x for i, x in enumerate(items) if i not in drawn], [x for i, x in enumerate(items) if i in drawn]


def _folder(path: Path, name: str) -> Source:
    """A user's own data: PATH/{images,masks}, or the same below PATH/train, PATH/val and PATH/test.

    Masks pair with images by stem, with or without an ending such as `_mask`. Without a test (val) folder, 20 % of the
    pairs are drawn as test (validation is carved from train as for every set). PATH/dataset.yaml may hold
    `classes: {name: mask value}`.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{name}: no such folder: {path.absolute()}")
    values, classes = None, ("object",)
    if (path / "dataset.yaml").is_file():
        classes, values = _classes(path / "dataset.yaml")
    found, problems = {}, []
    for split, folders in {"all": ["."], "train": ["train"], "val": ["val", "valid", "validation"], "test": ["test"]}.items():
        for folder in folders:
            if (path / folder / "images").is_dir() or (path / folder / "masks").is_dir():
                found[split], wrong = _by_stem(path / folder)
                problems += wrong
    if not any(found.values()) and not problems:
        raise FileNotFoundError(
            f"{name}: no image and mask pairs. Expected {path / 'images'} and {path / 'masks'}, or the same below "
            f"{path / 'train'} (and val, test), with equal file stems; see data/README.md"
        )
    train = found.get("all", []) + found.get("train", [])
    test = found.get("test")
    if test is None and len(train) > 1:
        train, test = draw(train, 0.2, 0)
    return Source(name, classes, values, train, found.get("val"), {"test": test or []}, problems)


def _classes(path: Path) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    classes = content.get("classes") if isinstance(content, dict) else None
    whole = isinstance(classes, dict) and all(isinstance(v, int) and 0 < v < 256 for v in classes.values())
    if not whole or not classes or len(set(classes.values())) < len(classes):
        raise ValueError(f"{path}: expected `classes: {{name: mask value}}` with different whole numbers from 1 to 255 "
                         f"(0 is background), got {content!r}")  # fmt: skip
    return tuple(map(str, classes)), tuple(classes.values())


def _by_stem(folder: Path) -> tuple[list[Pair], list[tuple[str, str]]]:
    def files(sub):
        there = (folder / sub).iterdir() if (folder / sub).is_dir() else []
        return sorted(p for p in there if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))

    images, masks, problems = {}, {}, []
    for path in files("images"):
        if path.stem in images:
            problems.append((str(path), f"second image of the name {path.stem!r}"))
        images.setdefault(path.stem, path)
    for path in files("masks"):
        stem = path.stem if path.stem in images else MASK_ENDING.sub("", path.stem)
        if stem in masks:
            problems.append((str(path), f"second mask of the image {stem!r}"))
        masks.setdefault(stem, path)
    problems += [(str(path), "image without a mask") for stem, path in images.items() if stem not in masks]
    problems += [(str(path), "mask without an image") for stem, path in masks.items() if stem not in images]
    return [Pair(stem, path, masks[stem]) for stem, path in images.items() if stem in masks], problems
