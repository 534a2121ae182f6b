"""Data check: everything that is wrong with a dataset, by file, before it costs a training run.

An "error" would corrupt a result, so `load` stops at it; a "note" is something to know. As a command:
    python -m unetv2.data.check kvasir --data DIR
"""

import argparse
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image

from ..common.files import write_json
from .dataset import cache_folder, fingerprint
from .images import read_image, read_raw_mask, to_classes
from .readers import Pair, Source, find

__all__ = ["Problem", "check", "require"]

HASH_BITS, CORRELATION = 8, 0.95  # images are alike if both agree: pHash alone takes any two centred moles for one
GREY_SHARE = 0.2  # a mask with more than this between black and white is no binary mask


class Problem(NamedTuple):
    severity: str  # "error" or "note"
    file: str
    text: str


def check(source: Source) -> list[Problem]:
    """All problems of a dataset, errors first. Opens every file at its own size."""
    problems = [Problem("error", file, text) for file, text in source.problems]
    if len(source.train) < (1 if source.val else 2) or not any(source.tests.values()):
        problems.append(Problem("error", source.name, "too few pairs to train and validate, or none to test on"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = list(pool.map(lambda pair: _look(pair, source.values), source.pairs))
    facts = {pair.image: fact for pair, (_, fact) in zip(source.pairs, looked, strict=True) if fact}
    for found, _ in looked:
        problems += found
    for key, text in (("empty", "all masks are empty: wrong folder or values?"), ("dark", "all images are black")):
        if facts and all(fact[key] for fact in facts.values()):
            problems.append(Problem("error", source.name, text))
    if grey := [fact for fact in facts.values() if 0 < fact["grey"] <= GREY_SHARE]:  # of Kvasir-SEG it is every mask
        worst = max(grey, key=lambda fact: fact["grey"])
        text = f"{len(grey)} masks have grey borders, this one most ({worst['grey']:.1%}); above 127 is read as object"
        problems.append(Problem("note", worst["mask"], text))
    train = [facts[p.image] for p in [*source.train, *(source.val or [])] if p.image in facts]
    test = [facts[p.image] for pairs in source.tests.values() for p in pairs if p.image in facts]
    return sorted([*problems, *_duplicates(train, test)])


def _look(pair: Pair, values: tuple[int, ...] | None) -> tuple[list[Problem], dict | None]:
    """The problems of one pair, and what the comparison of all pairs needs."""
    found, file, mask = [], str(pair.image), str(pair.mask)
    try:
        image, raw = read_image(pair.image), read_raw_mask(pair.mask)
    except ValueError as error:
        return [Problem("error", mask if mask in str(error) else file, str(error))], None
    if image.shape[:2] != raw.shape:
        sizes = " and ".join(f"{w} x {h}" for h, w in (image.shape[:2], raw.shape))
        found.append(Problem("error", mask, f"image and mask differ in size: {sizes} (width x height)"))
    if values and (stray := sorted(set(np.unique(raw).tolist()) - {0, *values})):
        found.append(Problem("error", mask, f"values that dataset.yaml does not name: {stray[:8]}"))
    grey = float(((raw > 0) & (raw < 255)).mean()) if values is None and raw.max() > 1 else 0.0
    if grey > GREY_SHARE:
        found.append(Problem("error", mask, f"not binary: {grey:.0%} of it is grey; for classes, see data/README.md"))
    empty, dark = not to_classes(raw, values).any(), int(image.max()) < 8
    if empty:
        found.append(Problem("note", mask, "empty mask"))
    if dark:
        found.append(Problem("note" if empty else "error", file, "black image"))
    thumb = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    thumb = thumb.ravel() - thumb.mean(dtype=np.float32)
    phash = int(str(imagehash.phash(Image.fromarray(image))), 16)
    thumb /= max(float(np.linalg.norm(thumb)), 1e-6)
    pixels = hashlib.sha256(np.ascontiguousarray(image)).digest()
    names = "file mask grey empty dark phash thumb pixels".split()
    return found, dict(zip(names, (file, mask, grey, empty, dark, phash, thumb, pixels), strict=True))


def _duplicates(train: list[dict], test: list[dict]) -> list[Problem]:
    """Test images that are in the training part too (error) or look like one there (note)."""
    if not train or not test:
        return []
    hashes, thumbs = np.array([t["phash"] for t in train], np.uint64), np.stack([t["thumb"] for t in train])
    pixels, found = {t["pixels"]: t["file"] for t in train}, []
    for fact in test:
        if (same := pixels.get(fact["pixels"])) and not fact["dark"]:
            found.append(Problem("error", fact["file"], f"the same image is in the training part: {same}"))
            continue
        bits = np.unpackbits((hashes ^ np.uint64(fact["phash"])).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
        alike = np.where(bits <= HASH_BITS, thumbs @ fact["thumb"], 0)
        if alike.max() > CORRELATION:
            file = train[int(alike.argmax())]["file"]
            found.append(Problem("note", fact["file"], f"looks like a training image (duplicate or video): {file}"))
    return found


def cached(source: Source, cache: Path) -> list[Problem]:
    """`check`, or its result from the cache if no file has changed."""
    parts = [[p.id for p in pairs] for pairs in (source.train, source.val or [], *source.tests.values())]
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    path = cache / f"check-{fingerprint(source.pairs, source.values, source.problems, parts, code)}.json"
    if not path.is_file():
        write_json(path, check(source))
    return [Problem(*problem) for problem in json.loads(path.read_text(encoding="utf-8"))]


def require(source: Source, cache: Path) -> None:
    """Check the dataset; the result is cached.

    Raises:
        ValueError: there are errors; lists them by file.
    """
    if errors := [p for p in cached(source, cache) if p.severity == "error"]:
        lines = "\n  ".join(f"{p.file}: {p.text}" for p in errors[:20])
        more = f"\n  and {len(errors) - 20} more" if len(errors) > 20 else ""
        command = f"python -m unetv2.data.check {source.name} --data DIR"
        raise ValueError(f"dataset {source.name!r} has {len(errors)} errors:\n  {lines}{more}\nAll of them: {command}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns 1 if there are errors."""
    parser = argparse.ArgumentParser(prog="python -m unetv2.data.check", description="Check a dataset.")
    parser.add_argument("name", help="dataset, or folder:PATH")
    parser.add_argument("--data", help="folder that holds the datasets (or set DATA_DIR)")
    options = parser.parse_args(arguments)
    try:
        source = find(options.name, options.data)
        problems = cached(source, cache_folder())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for problem in problems:
        print(f"{problem.severity:5}  {problem.file}: {problem.text}")
    errors, tests = sum(p.severity == "error" for p in problems), {key: len(t) for key, t in source.tests.items()}
    train = len(source.train) + len(source.val or [])
    print(f"{source.name}: {train} to train, to test {tests}; {errors} errors, {len(problems) - errors} notes")
    return int(errors > 0)


if __name__ == "__main__":
    sys.exit(main())
