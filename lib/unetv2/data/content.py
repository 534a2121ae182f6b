"""The content of files: a hash of each, kept with its size and time so that it is read once.

Also the folder of everything that is computed once, and the stamp that names it.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..common import env
from ..common.files import write_json

__all__ = ["cache_folder", "contents", "file_name", "of_code", "stamp"]


def cache_folder() -> Path:
    """Where decoded arrays and results of the data check are kept: UNETV2_CACHE, else the user's
    cache folder.
    """
    if named := os.environ.get("UNETV2_CACHE"):
        return Path(named)
    import pooch

    return Path(pooch.os_cache("unetv2"))


def file_name(name: str) -> str:
    """The name of a dataset as a part of file names; different names stay different."""
    plain = "".join(c if c.isalnum() else "-" for c in name)[-40:]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def stamp(files: Iterable[Path], *more) -> str:
    """A hash of the files' paths, sizes and times of change, and of `more`: the name of a result in
    the cache.
    """
    stamps = [(path, *_stat(path)) for path in map(os.path.abspath, files)]
    return hashlib.sha256(repr((stamps, more)).encode()).hexdigest()[:16]


def of_code(*names: str) -> list[str]:
    """Hashes of modules of this room: a result in the cache is that of the code that made it."""
    files = (Path(__file__).with_name(f"{name}.py") for name in names)
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def contents(files: Iterable[Path], known: Path) -> list[str]:
    """The sha256 of each file's content; of a folder, of its files.

    Args:
        known: a JSON file of the cache with the hashes of earlier calls; a file whose size and time
            are the same is not read again.

    Raises:
        OSError: a file cannot be read, or `known` cannot be written.
    """
    paths = [os.path.abspath(file) for file in files]
    old = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    now = {path: _stat(path) for path in paths}
    new = [path for path, stat in now.items() if old.get(path, [])[:2] != stat]
    with ThreadPoolExecutor(env.cores()) as pool:
        hashes = dict(zip(new, pool.map(_hash, new), strict=True))
    kept = old | {path: [*now[path], hashes.get(path) or old[path][2]] for path in now}
    if kept != old:
        write_json(known, kept)
    return [kept[path][2] for path in paths]


def _stat(path: str) -> list[int]:
    """Size and time of change; of a folder, their sums over its files."""
    inside = os.scandir(path) if os.path.isdir(path) else ()
    found = [os.stat(path), *(entry.stat() for entry in inside)]
    return [sum(f.st_size for f in found), sum(f.st_mtime_ns for f in found)]


def _hash(path: str) -> str:
    if os.path.isdir(path):
        inside = [_hash(entry.path) for entry in sorted(os.scandir(path), key=lambda e: e.name)]
        return hashlib.sha256("".join(inside).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
