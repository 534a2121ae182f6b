"""The links of a page: to other pages of the site, to the public repository, or plain text."""

import posixpath
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

__all__ = ["relinked"]

WAITING = "not executed yet"
BADGE = re.compile(r"\[!\[([^]]*)\]\([^)]*\)\]\(([^)]*)\)")  # a picture from the network, linked
TEXT = re.compile(
    r"(?s:```.*?```)|(?s:\$\$.*?\$\$)|`[^`\n]+`|\$[^$\n]+\$"  # code and formulas stay
    r"|(?P<image>!?)\[(?P<text>(?:[^][`]|`[^`]*`)*)\]\((?P<target>[^)\s]+)\)"
)


def relinked(
    text: str, here: str, page: str, pages: Mapping[str, str], address: str = ""
) -> tuple[str, dict[str, str]]:
    """Markdown with its links as the site has them, and the pictures that it shows.

    Args:
        text: of the file `here`.
        here: that file, from the root of the repository.
        page: where the site has it, with its ending.
        pages: of files of the repository, the place in the site.
        address: of the public repository; "": what is not in the site is plain text.

    Returns:
        The text, and for each picture's file of the repository its place in the site.
    """
    pictures = {}

    def one(match: re.Match) -> str:
        words, target = match["text"], match["target"]
        if target is None or re.match(r"\w+:|#", target):  # code, another site, this page
            return match[0]
        file, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(here), file))
        if match["image"]:
            pictures[file] = f"_images/{file}"
            return f"![{words}]({_from(page, pictures[file])})"
        if file in pages:
            return f"[{words}]({_from(page, pages[file])}{anchor and '#' + anchor})"
        if file.startswith("outputs/results/") and file.endswith(".ipynb"):
            return WAITING
        if not address:
            return words
        kind = "blob" if PurePosixPath(file).suffix else "tree"
        return f"[{words}]({address.removesuffix('.git').rstrip('/')}/{kind}/main/{file})"

    return TEXT.sub(one, BADGE.sub(r"[\1](\2)", text)), pictures


def _from(page: str, target: str) -> str:
    """`target` as a link in `page`, both from the root of the site."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")
