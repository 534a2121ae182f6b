"""Where the pairs of a dataset lie: the registry, the layouts on disk, `folder:PATH`, and the
splits.

`find` reads file names only, never pixels; `images.py` opens the files.
"""

import os
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from ..common.errors import unknown

__all__ = [
    "HERE",
    "SYNTHETIC",
    "Pair",
    "Source",
    "data_root",
    "draw",
    "find",
    "may_publish",
    "names",
    "registry",
]

HERE = Path(__file__).parent
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm"}
MASK_ENDING = re.compile(
    r"[-_ ](mask|masks|segmentation|seg|gt|groundtruth|label|labels)$", re.IGNORECASE
)
SYNTHETIC = {"synthetic": "lesion", "synthetic-polyp": "polyp"}
Problems = list[tuple[str, str]]  # (file or folder, what is wrong)


class Pair(NamedTuple):
    id: str
    image: Path
    mask: Path  # a file, or a folder of masks to be united
    group: str = ""  # patient, video, slide; empty: not known

    @property
    def files(self) -> tuple[Path, Path]:
        return self.image, self.mask


@dataclass
class Source:
    """What was found on disk: the pairs of each part, and what is wrong with the names."""

    name: str
    classes: tuple[str, ...]
    values: tuple[int, ...] | None  # mask value of each class; None: binary, see images.to_classes
    train: list[Pair]
    val: list[Pair] | None  # None: to be carved from train
    tests: dict[str, list[Pair]]
    problems: Problems = field(default_factory=list)
    tiles: bool = False  # few large images, cut into tiles instead of resized
    test_share: float = 0.0  # of `train`, still to be drawn by group as the test part
    tests_only: bool = False  # nothing here is trained on

    @property
    def pairs(self) -> list[Pair]:
        return [
            *self.train,
            *(self.val or []),
            *(pair for pairs in self.tests.values() for pair in pairs),
        ]


@cache
def registry() -> dict:
    """`data/registry.yaml` as a dict: dataset name -> its entry."""
    return yaml.safe_load((HERE / "registry.yaml").read_text(encoding="utf-8"))


def names() -> list[str]:
    """All dataset names; `folder:PATH` and `synthetic:knob=value,...` are accepted as well."""
    return [*SYNTHETIC, *registry()]


def may_publish(name: str) -> bool:
    """Whether pictures made from the images of dataset `name` may be shown to others; never for a
    user's own folder.
    """
    kind = name.partition(":")[0]
    return kind in SYNTHETIC or registry().get(kind, {}).get("may_publish", False)


def data_root(data_dir: str | Path | None) -> Path:
    """The folder of the datasets: the argument, else DATA_DIR, else the repository's `data`."""
    return Path(data_dir or os.environ.get("DATA_DIR") or (HERE / "registry.yaml").resolve().parent)


def find(name: str, data_dir: str | Path | None = None, *, tests_only: bool = False) -> Source:
    """The pairs of dataset `name` under `data_dir`, split; `unetv2.data.check.look` fills in what
    pixels tell.

    With `tests_only` a folder is a test part, all of it, and of the registry's sets the test parts
    are left.

    Raises:
        ValueError: unknown name, or a set that is a test set only and not asked for as one.
        FileNotFoundError: nothing there; says where it looked and how to get the data.
    """
    if name.startswith("folder:"):
        source = _folder(Path(name.removeprefix("folder:")).expanduser(), name)
    else:
        source = _registered(name, data_root(data_dir), tests_only)
    if tests_only:
        tests = {"test": source.pairs} if name.startswith("folder:") else source.tests
        source = replace(source, train=[], val=None, tests=tests, test_share=0.0, tests_only=True)
    return source


def _registered(name: str, root: Path, tests_only: bool) -> Source:
    if name not in registry():
        raise unknown("dataset", name, [*names(), "folder:PATH"])
    entry = registry()[name]
    if entry["split"] == "test-only" and not tests_only:
        raise ValueError(
            f"dataset {name!r} is a test set ({entry['title']}) and cannot be trained on: train on 'pranet', "
            f"and its scores on {name!r} come with it where the files are present"
        )
    source = Source(
        name, tuple(entry["classes"]), None, [], None, {}, tiles=entry.get("tiles", False)
    )
    joined = entry["split"]["join"] if "join" in entry["split"] else [name]
    for part in joined:
        try:
            pairs, problems = _scan(part, root)
        except FileNotFoundError:
            if registry()[part]["split"] != "test-only" or part == name:
                raise
            continue
        train, source.tests[part] = _split(pairs, registry()[part]["split"])
        source.train += train
        source.problems += problems
    return source


def _scan(name: str, root: Path) -> tuple[list[Pair], Problems]:
    """All pairs of one registry entry, in the first layout that has any file."""
    entry, searched = registry()[name], []
    for layout in entry["layouts"]:
        for base in (root / name / layout["root"], root / layout["root"]):
            searched += [str(base / part["images"]) for part in layout["pairs"]]
            matched = [_match(base, **part) for part in layout["pairs"]]
            pairs = [pair for found, _ in matched for pair in found]
            problems = [problem for _, wrong in matched for problem in wrong]
            if pairs or problems:
                if len(pairs) < entry["pairs"]:
                    problems.append(
                        (
                            str(base),
                            f"incomplete: {len(pairs)} of {entry['pairs']} image and mask pairs",
                        )
                    )
                return sorted(pairs), problems
    places = "\n  ".join(dict.fromkeys(searched))
    how = (
        f"unetv2 download {name} --data {root}"
        if entry["urls"]
        else " ".join(entry["manual"].split())
    )
    raise FileNotFoundError(
        f"dataset {name!r} was not found. Searched:\n  {places}\nGet it: {how}\n"
        "or point data_dir (--data, DATA_DIR) at the folder that holds it; see data/README.md"
    )


def _match(base: Path, images: str, mask: str) -> tuple[list[Pair], Problems]:
    """Pairs of the glob `images` with the template `mask`; where each image has a folder, that
    folder is its id.
    """
    by_folder = images.startswith("*/")
    there = {
        path.relative_to(base).parts[0] if by_folder else path.stem: path
        for path in base.glob(images)
    }
    template = re.compile(re.escape(mask).replace(r"\{id\}", "(.+)"))
    found = base.glob(mask.replace("{id}", "*"))
    masks = {template.fullmatch(path.relative_to(base).as_posix())[1]: path for path in found}
    # a bundle's folder holds several datasets: a mask is an orphan only where no image at all has
    # its name
    images_there = (
        there
        if by_folder
        else {path.stem for path in base.glob(f"{Path(images).parent.as_posix()}/*")}
    )
    problems = [(str(there[id]), "image without a mask") for id in there if id not in masks]
    problems += [
        (str(masks[id]), "mask without an image") for id in masks if id not in images_there
    ]
    return [Pair(id, path, masks[id]) for id, path in there.items() if id in masks], problems


def _split(pairs: list[Pair], rule: dict | str) -> tuple[list[Pair], list[Pair]]:
    """(train, test) by the registry's rule."""
    if rule == "test-only":
        return [], pairs
    if "lists" in rule:
        listed = set((HERE / "splits" / rule["lists"]).read_text(encoding="utf-8").split())
        return [p for p in pairs if p.id not in listed], [p for p in pairs if p.id in listed]
    return draw(pairs, rule["random"]["test"] / rule["random"]["of"], rule["random"]["seed"])


def draw(items: list, fraction: float, seed: int) -> tuple[list, list]:
    """(rest, drawn): a share of `items`, at least one, drawn at random; both keep the order of
    `items`.
    """
    drawn = set(
        np.random.default_rng(seed)
        .permutation(len(items))[: max(1, round(fraction * len(items)))]
        .tolist()
    )
    return [x for i, x in enumerate(items) if i not in drawn], [
        x for i, x in enumerate(items) if i in drawn
    ]


def _folder(path: Path, name: str) -> Source:
    """A user's own data: PATH/{images,masks}, or the same below PATH/train, PATH/val and PATH/test.

    Without a test folder 20 % of the pairs are to be drawn as test. PATH/dataset.yaml may hold
    `classes: {name: mask value}`.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{name}: no such folder: {path.absolute()}")
    classes, values = _classes(path / "dataset.yaml")
    parts, problems = {}, []
    for part in (".", "train", "val", "test"):
        if (path / part / "images").is_dir() or (path / part / "masks").is_dir():
            parts[part], wrong = _by_stem(path / part)
            problems += wrong
    if not any(parts.values()) and not problems:
        raise FileNotFoundError(
            f"{name}: no image and mask pairs. Expected {path / 'images'} and {path / 'masks'}, or the same below "
            f"{path / 'train'} (and val, test), with equal file stems; see data/README.md"
        )
    train, test = parts.get(".", []) + parts.get("train", []), parts.get("test")
    share = 0.2 if test is None else 0.0
    return Source(
        name,
        classes,
        values,
        train,
        parts.get("val"),
        {"test": test or []},
        problems,
        test_share=share,
    )


def _classes(path: Path) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    if not path.is_file():
        return ("object",), None
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes = content.get("classes") if isinstance(content, dict) else None
    values = tuple(classes.values()) if isinstance(classes, dict) else ()
    if (
        not values
        or len(set(values)) < len(values)
        or not all(isinstance(v, int) and 0 < v < 256 for v in values)
    ):
        raise ValueError(
            f"{path}: expected `classes: {{name: mask value}}` with different whole numbers from 1 to 255 "
            f"(0 is background), got {content!r}"
        )
    return tuple(map(str, classes)), values


def _by_stem(folder: Path) -> tuple[list[Pair], Problems]:
    """Pairs of folder/images and folder/masks; a mask's stem may end in `_mask`, `_segmentation`
    and the like.
    """
    found, problems = {"images": {}, "masks": {}}, []
    for sub, files in found.items():
        for path in sorted((folder / sub).glob("[!.]*")):
            if path.suffix.lower() in SUFFIXES:
                stem = (
                    MASK_ENDING.sub("", path.stem)
                    if path.stem not in found["images"]
                    else path.stem
                )
                stem = path.stem if sub == "images" else stem
                if stem in files:
                    problems.append((str(path), f"a second file for {stem!r} in {sub}"))
                files.setdefault(stem, path)
    images, masks = found["images"], found["masks"]
    problems += [
        (str(path), "image without a mask") for stem, path in images.items() if stem not in masks
    ]
    problems += [
        (str(path), "mask without an image") for stem, path in masks.items() if stem not in images
    ]
    return [
        Pair(stem, path, masks[stem]) for stem, path in images.items() if stem in masks
    ], problems
