"""Data check: everything that is wrong with a dataset, by file, before it costs a training run.

An "error" would corrupt a result, so `load` stops at it; a "note" is something to know. The same
look at the pixels finds the groups: near copies of each other, where nothing else is known. As a
command: unetv2 check NAME --data DIR
"""

import argparse
import json
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common import env
from ..common.files import write_json, write_text
from .alike import CORRELATION, alike, exact_copies, sight
from .content import cache_folder, file_name, of_code, stamp
from .groups import connect, draw
from .images import in_colours, numbers, read_image, read_raw_mask, to_classes
from .pairs import Pair, Source, Values
from .readers import find, registry

__all__ = ["CORRELATION", "Looked", "Problem", "check", "look", "main", "require", "summary"]

EXAMPLES = 3  # of a kind of problem, in its line
LABELS_PRESENT = 0.8  # share of the labels 1 to n that a mask of instances holds: crops lose some
CLASSES = 8  # with up to so many values, the same in every mask, they may as well be classes
GREY_SHARE = 0.2  # a mask with more than this between black and white is no binary mask
COPY = "the same image is in the"  # begins the text of an exact copy
CODE = of_code("check", "alike", "groups", "images", "rle")  # what reads, looks and groups


class Problem(NamedTuple):
    """`text` begins with the kind of the problem, up to a colon."""

    severity: str  # "error" or "note"
    file: str
    text: str


@dataclass(frozen=True)
class Looked:
    """A source whose images were opened: each pair has its group, and the test part is drawn.

    `copies` are the images of the training and validation parts that a later part holds too, pixel
    by pixel, each with that part's file: training images in the validation part that the source
    came with, and both in the test parts.
    """

    source: Source
    problems: list[Problem]
    copies: dict[str, str]


def check(source: Source) -> list[Problem]:
    """All problems of a dataset, errors first. Opens every file at its own size."""
    return look(source).problems


def look(source: Source, cache: Path | None = None) -> Looked:
    """What the pixels tell of a source; with `cache`, from there if no file has changed."""
    known = [(pair.id, pair.group) for pair in source.pairs]
    parts = [len(part) for part in (source.train, source.val or [], *source.tests.values())]
    rules = (source.name, source.values, source.problems, source.test_share, source.tests_only)
    name = stamp((f for p in source.pairs for f in p.files), rules, parts, known, CODE)
    path = cache and cache / f"check-{name}.json"
    if path and path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        settled = _settle(source, found["groups"], found["labels"])
        return Looked(settled, [Problem(*p) for p in found["problems"]], found["copies"])
    problems, facts, labels = _facts(source)
    groups = _groups(source.pairs, facts)
    settled = _settle(source, groups, labels)
    across, copies = _across(settled, facts)
    problems = sorted([*problems, *_too_few(settled), *across])
    if path:
        found = {"groups": groups, "labels": labels, "problems": problems, "copies": copies}
        write_json(path, found)
    return Looked(settled, problems, copies)


def _settle(source: Source, groups: list[str], labels: bool) -> Source:
    """The source with the group of each pair, its test part drawn by them, and its masks' kind."""
    of = iter(groups)
    train, val, *tests = (
        [pair._replace(group=next(of)) for pair in part]
        for part in (source.train, source.val or [], *source.tests.values())
    )
    if source.test_share and train:
        train, tests[0] = draw(train, lambda pair: pair.group, source.test_share, 0)
    tests = dict(zip(source.tests, tests, strict=True))
    values = "instances" if labels else source.values
    return replace(source, values=values, train=train, val=val or None, tests=tests, test_share=0.0)


def _facts(source: Source) -> tuple[list[Problem], dict[Path, dict], bool]:
    """The problems of single files, what was seen of each image, and whether masks hold labels."""
    looked = _each(source.pairs, source.values)
    highest = {fact["labels"] for _, fact in looked if fact} - {0}
    whole = source.values is None and source.name.startswith("folder:")
    labels = whole and None not in highest and max(highest, default=0) > 1
    classes = labels and len(highest) == 1 and max(highest) <= CLASSES
    if labels:
        looked = _each(source.pairs, "instances")
    problems = [Problem("error", file, text) for file, text in source.problems]
    problems += [problem for found, _ in looked for problem in found]
    pairs = zip(source.pairs, looked, strict=True)
    facts = {pair.image: fact for pair, (_, fact) in pairs if fact}
    if classes:
        text = f"classes or objects: every mask has the values 1 to {max(highest)}"
        problems.append(Problem("error", source.name, text))
    elif labels:
        text = "masks hold instances 0, 1, 2 to n: every object counts, whatever its number"
        problems.append(Problem("note", source.name, text))
    for key, text in (
        ("empty", "all masks are empty: wrong folder or values?"),
        ("dark", "all images are black"),
    ):
        if facts and all(fact[key] for fact in facts.values()):
            problems.append(Problem("error", source.name, text))
    if grey := [fact for fact in facts.values() if 0 < fact["grey"] <= GREY_SHARE]:
        worst = max(grey, key=lambda fact: fact["grey"])  # Kvasir-SEG: all
        text = (
            f"masks with grey borders: {len(grey)} of them, this one most ({worst['grey']:.1%}); "
            "above 127 is read as object"
        )
        problems.append(Problem("note", worst["mask"], text))
    return problems, facts, labels


def _each(pairs: list[Pair], values: Values) -> list[tuple[list[Problem], dict | None]]:
    with ThreadPoolExecutor(env.cores()) as pool:
        return list(pool.map(lambda pair: _look(pair, values), pairs))


def _look(pair: Pair, values: Values) -> tuple[list[Problem], dict | None]:
    """The problems of one pair, and what the comparison of all pairs needs."""
    found, file, mask = [], str(pair.image), str(pair.mask)
    try:
        image, raw = read_image(pair.image), read_raw_mask(pair.mask, in_colours(values))
    except ValueError as error:
        where = mask if mask in str(error) else file
        return [Problem("error", where, str(error).replace(f"read {where}", "read"))], None
    if image.shape[:2] != raw.shape:
        sizes = " and ".join(f"{w} x {h}" for h, w in (image.shape[:2], raw.shape))
        text = f"image and mask differ in size: {sizes} (width x height)"
        found.append(Problem("error", mask, text))
    if isinstance(values, tuple):
        stray = sorted(set(np.unique(raw).tolist()) - {0, *numbers(values)})
        if stray:
            named = [f"#{v:06x}" if in_colours(values) else v for v in stray[:8]]
            text = f"values that dataset.yaml does not name: {named}"
            found.append(Problem("error", mask, text))
    grey = float(((raw > 0) & (raw < 255)).mean()) if values is None and raw.max() > 1 else 0.0
    if grey > GREY_SHARE:
        found.append(Problem("error", mask, f"not binary: {grey:.0%} of it is grey"))
    empty, dark = not to_classes(raw, values).any(), int(image.max()) < 8
    if empty:
        found.append(Problem("note", mask, "empty mask"))
    if dark:
        found.append(Problem("note" if empty else "error", file, "black image"))
    fact = {"file": file, "mask": mask, "grey": grey, "empty": empty, "dark": dark}
    return found, fact | sight(image) | {"labels": _labels(raw, mask)}


def _labels(raw: np.ndarray, file: str) -> int | None:
    """The highest label, if the mask's values are 0, 1, 2 to n, with few gaps; else None.

    Not of a JPEG, nor of 8 bits up to 255: soft edges may give them every value.
    """
    values = np.unique(raw[raw != 0])
    if not len(values):
        return 0
    soft = file.lower().endswith(("jpg", "jpeg")) or (raw.dtype == np.uint8 and values[-1] == 255)
    if soft or raw.dtype.kind == "f" or values[0] < 0:
        return None
    return int(values[-1]) if len(values) >= LABELS_PRESENT * values[-1] else None


def _groups(pairs: list[Pair], facts: dict[Path, dict]) -> list[str]:
    """The group of each pair: the known one, else near copies of each other, else the image
    itself.
    """
    seen = [i for i, pair in enumerate(pairs) if pair.image in facts]
    looked = [facts[pairs[i].image] for i in seen]
    edges, first = [], {}
    for i, pair in enumerate(pairs):
        if pair.group:
            edges.append((first.setdefault(pair.group, i), i))
    edges += [(seen[i], seen[j]) for i, j in exact_copies(looked)]
    if not first:
        edges += [(seen[i], seen[j]) for i, j, _ in alike(looked)]
    roots = connect(len(pairs), edges)
    names = {root: pairs[root].group or pairs[root].id for root in roots}
    counts = Counter(names.values())  # joined sets may have an id twice
    return [names[k] if counts[names[k]] == 1 else f"{names[k]}#{k}" for k in roots]


def _too_few(source: Source) -> list[Problem]:
    """Whether there is something in each part."""
    fit = source.tests_only or len(source.train) >= (1 if source.val else 2)
    if not fit or not any(source.tests.values()):
        text = "too few pairs to train and validate, or none to test on"
        return [Problem("error", source.name, text)]
    if not source.val and len({pair.group for pair in source.train}) == 1 < len(source.train):
        text = "one group has all training images: validation is drawn image by image"
        return [Problem("note", source.name, text)]
    return []


def _across(source: Source, facts: dict[Path, dict]) -> tuple[list[Problem], dict[str, str]]:
    """What lies in two parts: exact copies (an error where one is a test image), and near copies (a
    note).
    """
    tests = [pair for pairs in source.tests.values() for pair in pairs]
    parts = {"training": source.train, "validation": source.val or [], "test": tests}
    looked = [
        (part, facts[p.image]) for part, pairs in parts.items() for p in pairs if p.image in facts
    ]
    part, facts = [p for p, _ in looked], [fact for _, fact in looked]
    same = {}  # pixels -> the first image of each part that has them
    for i, fact in enumerate(facts):
        if not fact["dark"]:
            same.setdefault(fact["pixels"], {}).setdefault(part[i], i)
    problems, copies, told, order = [], {}, set(), list(parts)
    for i, fact in enumerate(facts):
        for other, k in same.get(fact["pixels"], {}).items():
            if order.index(other) > order.index(part[i]):
                copies[fact["file"]] = facts[k]["file"]
            elif other != part[i]:
                severity = "error" if part[i] == "test" else "note"
                text = f"{COPY} {other} part: {facts[k]['file']}"
                problems.append(Problem(severity, fact["file"], text))
                told.add((i, other))
    # image and other part -> what it resembles most there; parts come in order, so i is in the
    # earlier
    best = {}
    for i, j, correlation in alike(facts):
        apart = part[i] != part[j] and (j, part[i]) not in told
        if apart and correlation > best.get((j, part[i]), (0, 0))[0]:
            best[j, part[i]] = correlation, i
    for (j, other), (_, i) in best.items():
        text = f"looks like a {other} image (duplicate or video): {facts[i]['file']}"
        problems.append(Problem("note", facts[j]["file"], text))
    return problems, copies


REMEDIES = {
    "image without a mask": "name each mask like its image, or set mask_name in dataset.yaml",
    "mask without an image": "add the image, or remove the mask",
    "image without a group": "complete the table or the pattern of groups in dataset.yaml",
    "a second file of the same name": "keep one of them",
    "cannot read": "replace or remove it",
    "image and mask differ in size": "export the mask at the image's size",
    "values that dataset.yaml does not name": "name them under classes, or mend the masks",
    "not binary": "name classes, or masks: instances, in dataset.yaml; see data/README.md",
    "classes or objects": "name the classes, or masks: instances, in dataset.yaml",
    "masks hold instances 0, 1, 2 to n": "if they are classes, name them in dataset.yaml",
    f"{COPY} training part": "remove one, or set drop_duplicates",
    f"{COPY} validation part": "remove one, or set drop_duplicates",
    "incomplete": "unpack the archives again",
}


def summary(problems: list[Problem], whole: Path | None = None) -> list[str]:
    """A line for each kind of problem: how many, three examples, what to do.

    The file `whole` receives every problem where the lines leave some out.
    """
    kinds = {}
    for problem in problems:
        kinds.setdefault((problem.severity, problem.text.partition(": ")[0]), []).append(problem)
    lines = []
    for (severity, kind), found in kinds.items():
        details = (p.text.removeprefix(kind).removeprefix(": ") for p in found[:EXAMPLES])
        pairs = zip(found, details, strict=False)
        shown = ", ".join(f"{p.file} ({detail})" if detail else p.file for p, detail in pairs)
        more = f" and {len(found) - EXAMPLES} more" if len(found) > EXAMPLES else ""
        cure = REMEDIES.get(kind, "")
        cure = f"; {cure}" if cure and cure not in shown else ""  # some say it themselves
        count = f"{len(found)} x " if len(found) > 1 else ""
        lines.append(f"{severity:5}  {count}{kind}: {shown}{more}{cure}")
    if whole and any(len(found) > EXAMPLES for found in kinds.values()):
        write_text(whole, "".join(f"{p.severity:5}  {p.file}: {p.text}\n" for p in problems))
        lines.append(f"every one of them: {whole}")
    return lines


def require(looked: Looked, cache: Path | None = None, copies: bool = False) -> None:
    """Stop at errors; with `copies`, not at those of exact copies, which the caller leaves out.

    Raises:
        ValueError: there are errors; a line for each kind of them, see `summary`.
    """
    errors = [p for p in looked.problems if p.severity == "error"]
    errors = [p for p in errors if not (copies and p.text.startswith(COPY))]
    if errors:
        name = looked.source.name
        lines = "\n  ".join(summary(errors, cache and _whole(name, cache)))
        raise ValueError(f"dataset {name!r} has {len(errors)} errors:\n  {lines}")


def _whole(name: str, cache: Path) -> Path:
    return cache / f"problems-{file_name(name)}.txt"


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 if there are errors."""
    parser = argparse.ArgumentParser(prog="unetv2 check", description="Check a dataset.")
    parser.add_argument("name", help="dataset, or folder:PATH")
    parser.add_argument(
        "--data", type=env.here, help="folder that holds the datasets (or set DATA_DIR)"
    )
    options = parser.parse_args(argv)
    cache = cache_folder()
    try:
        test_only = registry().get(options.name, {}).get("split") == "test-only"
        looked = look(find(options.name, options.data, tests_only=test_only), cache)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    problems, source = looked.problems, looked.source
    errors = sum(p.severity == "error" for p in problems)
    tests = ", ".join(f"{len(pairs)} ({key})" for key, pairs in source.tests.items())
    groups = len({pair.group for pair in source.pairs})
    _say(
        *summary(problems, _whole(source.name, cache)),
        f"{source.name}: {len(source.train) + len(source.val or [])} to train, to test {tests}; "
        f"{groups} groups; {errors} errors, {len(problems) - errors} notes",
    )
    return int(errors > 0)


def _say(*lines: str) -> None:
    """Print; a reader that has seen enough, as `head`, is no error."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
