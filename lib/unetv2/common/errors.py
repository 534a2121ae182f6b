"""One clear error for a wrong name: what is wrong, and which names are near or valid."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["unknown"]


def unknown(kind: str, name: str, valid: Iterable[str]) -> ValueError:
    """The error for `name` that is not a valid `kind`, with the nearest valid names first.

    >>> raise unknown("skip", "nestd", ["copy", "nested", "sum"])
    Traceback (most recent call last):
    ValueError: unknown skip 'nestd'; did you mean 'nested'? Valid: copy, nested, sum
    """
    valid = sorted(valid)
    near = get_close_matches(str(name), valid, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(map(repr, near))}?" if near else "."
    names = ", ".join(valid) if len(valid) <= 40 else f"{len(valid)} names"
    return ValueError(f"unknown {kind} {name!r}{hint} Valid: {names}")
