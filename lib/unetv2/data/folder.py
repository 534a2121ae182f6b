"""A user's own images as they are: `folder:PATH`, with what PATH/dataset.yaml says of them."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..common.errors import unknown
from .pairs import SUFFIXES, Pair, Problems, Source, Values, unpaired
from .rle import RunLengths, read_table

__all__ = ["grouped", "read_folder"]

ENDING = re.compile(
    r"[-_ ](mask|masks|segmentation|seg|gt|groundtruth|label|labels)$", re.IGNORECASE
)
TEST_SHARE = 0.2  # of the images, where the folder has no test part


class Said(NamedTuple):
    """What dataset.yaml says."""

    classes: tuple[str, ...] = ("object",)
    values: Values = None
    mask_name: str | None = None
    groups: str | None = None


def read_folder(path: Path, name: str) -> Source:
    """PATH/images with PATH/masks or a table of run lengths, or the same below PATH/train, PATH/val
    and PATH/test. Without a test folder a fifth is to be drawn as test.

    Raises:
        FileNotFoundError: no such folder, or no pair in it.
        ValueError: dataset.yaml says what cannot be; the message says what may be there.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{name}: no such folder: {path.absolute()}")
    said, parts, problems = _said(path / "dataset.yaml"), {}, []
    for part in (".", "train", "val", "test"):
        if (path / part / "images").is_dir() or (path / part / "masks").is_dir():
            pairs, wrong = _part(path / part, said.mask_name)
            parts[part], ungrouped = grouped(pairs, said.groups, path)
            problems += wrong + ungrouped
    if not any(parts.values()) and not problems:
        raise FileNotFoundError(
            f"{name}: no image and mask pairs. Expected {path / 'images'} and {path / 'masks'}, "
            f"or the same below {path / 'train'} (and val, test), with equal file stems; see "
            "data/README.md"
        )
    train, test = parts.get(".", []) + parts.get("train", []), parts.get("test")
    share = TEST_SHARE if test is None else 0.0
    tests, val = {"test": test or []}, parts.get("val")
    source = Source(name, said.classes, said.values, train, val, tests, problems)
    source.test_share = share
    return source


def _said(path: Path) -> Said:
    if not path.is_file():
        return Said()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    keys = ("classes", "masks", "mask_name", "groups")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected `classes: {{name: mask value}}`, got {content!r}")
    for key in content:
        if key not in keys:
            raise ValueError(f"{path}: {unknown('setting', key, keys)}")
    classes, values = _classes(path, content["classes"]) if "classes" in content else Said()[:2]
    if (masks := content.get("masks")) is not None:
        if masks != "instances" or "classes" in content:
            raise ValueError(
                f"{path}: `masks: instances` (0 is background, every other value an object) is all "
                f"that masks may be, and has no `classes` beside it; got {content!r}"
            )
        values = "instances"
    mask_name, groups = content.get("mask_name"), content.get("groups")
    if mask_name is not None and "{id}" not in str(mask_name):
        raise ValueError(f'{path}: write mask_name as "{{id}}_lesion", where {{id}} is the image')
    if groups is not None and not isinstance(groups, str):
        raise ValueError(f"{path}: groups is a pattern or the name of a table, not {groups!r}")
    return Said(classes, values, mask_name, groups)


def _classes(path: Path, classes: Any) -> tuple[tuple[str, ...], Values]:
    """Names, and grey values or colours as "#rrggbb"."""
    values = tuple(map(_value, classes.values())) if isinstance(classes, dict) else ()
    kinds = {type(value) for value in values}
    if len(kinds) != 1 or None in values or len(set(values)) < len(values):
        raise ValueError(
            f"{path}: expected `classes: {{name: mask value}}` with different whole numbers from 1 "
            'to 255 (0 is background), or different colours as "#ff0000" or [255, 0, 0] (black is '
            f"background), got {classes!r}"
        )
    return tuple(map(str, classes)), values


def _value(value: Any) -> int | str | None:
    """A grey value, a colour as "#rrggbb", or None for what is neither."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 256:
        return value
    if isinstance(value, list) and len(value) == 3:
        if all(isinstance(v, int) and 0 <= v < 256 for v in value):
            value = "#{:02x}{:02x}{:02x}".format(*value)
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value) and value != "#000000":
        return value.lower()
    return None


def grouped(pairs: list[Pair], groups: str | None, folder: Path) -> tuple[list[Pair], Problems]:
    """The pairs with their groups, and those that have none.

    Args:
        groups: a pattern with one capture group, searched for in the id; or a table in `folder`
            (csv with the columns id and group).

    Raises:
        ValueError: neither a pattern nor a table.
    """
    if not groups:
        return pairs, []
    if groups.lower().endswith(".csv"):
        of = _table(folder / groups).get
    else:
        try:
            pattern = re.compile(groups)
        except re.error as error:
            raise ValueError(f"groups: {groups!r} is no pattern: {error}") from None
        if pattern.groups != 1:
            raise ValueError(f"groups: {groups!r} needs one pair of round brackets, for the group")

        def of(id):
            return (found := pattern.search(id)) and found[1]

    found = [pair._replace(group=of(pair.id) or "") for pair in pairs]
    return found, [(str(p.image), f"image without a group: {groups}") for p in found if not p.group]


def _table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise ValueError(f"groups: there is no table {path}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"id", "group"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns id and group, separated by commas")
        rows = [(row["id"] or "", row["group"] or "") for row in reader]
    # an id may be written as a file's name
    return {id: group for id, group in rows} | {_stem(id): group for id, group in rows}


def _part(folder: Path, mask_name: str | None) -> tuple[list[Pair], Problems]:
    """Pairs of folder/images with folder/masks, or with a table of run lengths beside images."""
    images, problems = {}, []
    for path in _pictures(folder / "images"):
        _add(images, path.stem, path, problems)
    tables = sorted(folder.glob("[!.]*.csv")) if not (folder / "masks").is_dir() else []
    for table in tables:
        if (rows := read_table(table)) is not None:
            # Kaggle's table names all images of the challenge: those elsewhere are no mistake
            by_stem = {_stem(id): (id, runs) for id, runs in rows.items()}
            there = images.keys() & by_stem.keys()
            masks = {id: RunLengths(table, *by_stem[id], images[id]) for id in there}
            break
    else:
        files, masks = _pictures(folder / "masks"), {}
        for path, id in zip(files, _ids(files, images, mask_name), strict=True):
            _add(masks, id, path, problems)
    problems += unpaired(images, masks)
    return [Pair(id, path, masks[id]) for id, path in images.items() if id in masks], problems


def _stem(name: str) -> str:
    """A name without the ending of a picture's file; other dots stay."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else name


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() in SUFFIXES)


def _add(files: dict[str, Path], id: str, path: Path, problems: Problems) -> None:
    if id in files:
        text = f"a second file of the same name: {id!r} in {path.parent.name}"
        problems.append((str(path), text))
    files.setdefault(id, path)


def _ids(files: list[Path], images: dict[str, Path], mask_name: str | None) -> list[str]:
    """The id of each mask file: by the name that dataset.yaml gives, its stem, a known ending, or
    the ending that the others have in common.
    """
    if mask_name:
        template = re.compile(re.escape(mask_name).replace(r"\{id\}", "(.+)"))
        matches = [template.fullmatch(p.stem) or template.fullmatch(p.name) for p in files]
        return [m[1] if m else p.stem for m, p in zip(matches, files, strict=True)]
    ids = [p.stem if p.stem in images else ENDING.sub("", p.stem) for p in files]
    longest = sorted(images, key=len, reverse=True)
    lost = [id for id in ids if id not in images]
    ends = Counter(id[len(s) :] for id in lost if (s := next(filter(id.startswith, longest), "")))
    if not ends:
        return ids
    ending, count = ends.most_common(1)[0]
    if count < max(2, len(lost) / 2):
        return ids
    return [id if id in images else id.removesuffix(ending) for id in ids]
