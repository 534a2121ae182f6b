"""Where the pairs of a dataset lie: the registry, the layouts on disk, `folder:PATH`, and the
splits.

`find` reads file names only, never pixels; `images.py` opens the files.
"""

import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from ..common import env
from ..common.errors import unknown
from .folder import grouped, read_folder
from .groups import draw
from .pairs import Pair, Problems, Source, unpaired

__all__ = [
    "HERE",
    "SYNTHETIC",
    "Pair",
    "Source",
    "data_root",
    "find",
    "may_publish",
    "names",
    "registry",
]

HERE = Path(__file__).parent
SYNTHETIC = {"synthetic": "lesion", "synthetic-polyp": "polyp"}


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
    """The folder of the datasets as `env.data_dir` finds it, but it need not be there yet.

    Absolute, and a relative one starts at the repository: what the data check keeps in the cache
    names files.
    """
    asked = data_dir or os.environ.get("DATA_DIR")
    return Path(os.path.abspath(env.path(asked) if asked else env.data_dir()))


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
        source = read_folder(Path(name.removeprefix("folder:")).expanduser(), name)
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
        whole = entry.get("samples_of", "pranet")
        raise ValueError(
            f"dataset {name!r} is a test set ({entry['title']}) and cannot be trained on: train on "
            f"{whole!r}, and score that run on it (unetv2 evaluate RUN --dataset {name})"
        )
    source = Source(
        name, tuple(entry["classes"]), None, [], None, {}, tiles=entry.get("tiles", False)
    )
    for part in entry["split"]["join"] if "join" in entry["split"] else [name]:
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
    if "samples_of" in entry:
        root = env.path("data/samples").parent
    for layout in entry["layouts"]:
        for base in (root / name / layout["root"], root / layout["root"]):
            searched += [str(base / part["images"]) for part in layout["pairs"]]
            matched = [_match(base, **part) for part in layout["pairs"]]
            pairs = [pair for found, _ in matched for pair in found]
            problems = [problem for _, wrong in matched for problem in wrong]
            if pairs or problems:
                if len(pairs) < entry["pairs"]:
                    text = f"incomplete: {len(pairs)} of {entry['pairs']} image and mask pairs"
                    problems.append((str(base), text))
                pairs, ungrouped = grouped(sorted(pairs), entry.get("groups"), HERE / "splits")
                return pairs, problems + ungrouped
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
    # a bundle's folder holds several datasets: a mask is an orphan where no image has its name
    beside = {path.stem for path in base.glob(f"{Path(images).parent.as_posix()}/*")}
    problems = unpaired(there, masks, known=there if by_folder else beside)
    return [Pair(id, path, masks[id]) for id, path in there.items() if id in masks], problems


def _split(pairs: list[Pair], rule: dict | str) -> tuple[list[Pair], list[Pair]]:
    """(train, test) by the registry's rule."""
    if rule == "test-only":
        return [], pairs
    if "lists" in rule:
        listed = set((HERE / "splits" / rule["lists"]).read_text(encoding="utf-8").split())
        return [p for p in pairs if p.id not in listed], [p for p in pairs if p.id in listed]
    share = rule["random"]["test"] / rule["random"]["of"]
    return draw(pairs, lambda pair: str(pair.image), share, rule["random"]["seed"])
