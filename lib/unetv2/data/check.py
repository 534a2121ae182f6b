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

from ..files import write_json
from .dataset import cache_folder, fingerprint
from .images import read_image, read_raw_mask, to_classes
from .readers import Pair, Source, find

__all__ = ["Problem", "check", "require"]

HASH_BITS, CORRELATION = 8, 0.95  # both must hold to call two images alike: 64-bit pHash alone pairs any two centred moles
GREY_SHARE = 0.2  # a mask with more values strictly between black and white than this is no mask


class Problem(NamedTuple):
    severity: str  # "error" or "note"
    file: str
    text: str


def check(source: Source) -> list[Problem]:
    """All problems of a dataset, errors first. Opens every file at its own size."""
    problems = [Problem("error", file, text) for file, text in source.problems]
    if not source.train or not any(source.tests.values()):
        problems.append(Problem("error", source.name, "no pairs to train on, or none to test on"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = list(pool.map(lambda pair: _look(pair, source.values), source.pairs))
    for found, _ in looked:
        problems += found
    facts = [fact for _, fact in looked if fact]
    if facts and all(fact["empty"] for fact in facts):
        problems.append(Problem("error", source.name, "every mask is empty: wrong folder, or wrong class values?"))
    if facts and all(fact["dark"] for fact in facts):
        problems.append(Problem("error", source.name, "every image is black"))
    if grey := [fact for fact in facts if 0 < fact["grey"] <= GREY_SHARE]:  # one line: of Kvasir it is every file
        worst = max(grey, key=lambda fact: fact["grey"])
        text = f"{len(grey)} masks have grey borders, this one most ({worst['grey']:.1%}); above 127 is read as object"
        problems.append(Problem("note", worst["mask"], text))
    of = {pair.image: fact for pair, (_, fact) in zip(source.pairs, looked, strict=True) if fact}
    train = [of[p.image] for p in source.train + (source.val or []) if p.image in of]
    test = [of[p.image] for pairs in source.tests.values() for p in pairs if p.image in of]
    return sorted([*problems, *_duplicates(train, test)])


def _look(pair: Pair, values: tuple[int, ...] | None) -> tuple[list[Problem], dict | None]:
    """The problems of one pair, and what the comparison of all pairs needs."""
    try:
        image, raw = read_image(pair.image), read_raw_mask(pair.mask)
    except ValueError as error:
        return [Problem("error", str(pair.mask if str(pair.mask) in str(error) else pair.image), str(error))], None
    found, mask = [], str(pair.mask)
    if image.shape[:2] != raw.shape:
        sizes = " and ".join(f"{w} x {h}" for h, w in (image.shape[:2], raw.shape))
        found.append(Problem("error", mask, f"image and mask differ in size: {sizes} (width x height)"))
    empty, dark = not to_classes(raw, values).any(), int(image.max()) < 8
    if values and (stray := sorted(set(np.unique(raw).tolist()) - {0, *values})):
        found.append(Problem("error", mask, f"values that dataset.yaml does not name: {stray[:8]}"))
    grey = float(((raw > 0) & (raw < 255)).mean()) if values is None and raw.max(initial=0) > 1 else 0.0
    if grey > GREY_SHARE:
        found.append(Problem("error", mask, f"not binary: {grey:.0%} of it is grey; for classes, see data/README.md"))
    if empty:
        found.append(Problem("note", mask, "empty mask"))
    if dark:
        found.append(Problem("note" if empty else "error", str(pair.image), "black image"))
    thumb = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA).ravel()
    thumb = thumb.astype(np.float32) - thumb.mean(dtype=np.float32)
    phash = int(str(imagehash.phash(Image.fromarray(image))), 16)
    return found, {
        "file": str(pair.image),
        "mask": mask,
        "grey": grey,
        "empty": empty,
        "dark": dark,
        "phash": phash,
        "thumb": thumb / max(float(np.linalg.norm(thumb)), 1e-6),
        "pixels": hashlib.sha256(np.ascontiguousarray(image)).digest(),
    }


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
        raise ValueError(f"dataset {source.name!r} has {len(errors)} errors:\n  {lines}{more}\nCorrect them, or see "
                         f"all with: python -m unetv2.data.check {source.name} --data DIR")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command; returns 1 if there are errors."""
    parser = argparse.ArgumentParser(prog="python -m unetv2.data.check", description=__doc__.split("\n")[0])
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
    errors = sum(p.severity == "error" for p in problems)
    sizes = ", ".join(f"{len(pairs)} {key}" for key, pairs in source.tests.items())
    print(f"{source.name}: {len(source.train)} to train and validate, test {sizes}; "
          f"{errors} errors, {len(problems) - errors} notes")  # fmt: skip
    return int(errors > 0)


if __name__ == "__main__":
    sys.exit(main())
