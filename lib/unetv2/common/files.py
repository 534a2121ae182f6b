"""Writing files so that a reader never sees half of one."""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import env

__all__ = ["atomic", "read_json", "write_json", "write_result", "write_text"]


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends well, remove it
    if not.

    Raises:
        OSError: `path` cannot be written, or its disk is full; the message names `path` and what to
            do.
    """
    path = Path(path)
    # a random name: in a folder that machines share, two processes may have the same number
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        cure = (
            "free space there or choose another output"
            if error.errno == errno.ENOSPC
            else "choose another output"
        )
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror or error}; {cure}"
        ) from error
    finally:
        if (
            temporary.exists()
        ):  # not unlink(missing_ok): that raises anew where the parent is no folder
            temporary.unlink()


def read_json(path: str | Path) -> dict[str, Any]:
    """The mapping in the JSON file `path`; ValueError, which names it, where there is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or delete its folder") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (no mapping); restore it, or delete its folder")
    return value


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def write_result(path: str | Path, *, command: str, protocol: str, **values: Any) -> None:
    """Write a result that may be quoted: `values` with the command, the protocol, the versions and
    the device.
    """
    write_json(
        path, {"command": command, "protocol": protocol, "environment": env.describe(), **values}
    )
