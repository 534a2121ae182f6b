"""python workflow/address.py: write what is the same in all notebooks anew: first cell and badges.

The public address is `address` of [tool.unetv2] in pyproject.toml. With one, each notebook has its
badges below its question, and its first cell fetches the library where it is not there; without
one there are no badges. Reading copies are renewed with their sources. A test holds all of them to
what this writes.
"""

import argparse
import json
import re
import tomllib
from pathlib import Path

from unetv2.common import files

ROOT = Path(__file__).resolve().parents[1]
SOURCES = "notebooks/[0-9][0-9]_*.ipynb"
OTHERS = ("notebooks/solutions/*.ipynb", "outputs/results/*/*.ipynb")
SEARCH = """\
_places = [Path.cwd(), *Path.cwd().parents, *Path("/content").glob("*/")]
_places += Path("/kaggle/input").glob("**/")
ROOT = next((p for p in _places if (p / "lib" / "unetv2").is_dir()), {otherwise})
"""
FIND = """\
import sys
from pathlib import Path

{search}if ROOT is None:
    _how = "attach the collection as a dataset (Kaggle) or clone its repository here (Colab)"
    raise FileNotFoundError(f"lib/unetv2 not found from here: {{_how}}, see README.md")
"""
FETCH = """\
import subprocess
import sys
from pathlib import Path

{search}_clone = ["git", "clone", "--quiet", "--depth=1", "{address}", str(ROOT)]
if not ROOT.is_dir() and subprocess.run(_clone).returncode:
    raise FileNotFoundError("turn the internet on, or attach the collection as a dataset")
"""
START = """\
sys.path.insert(0, str(ROOT / "lib"))
from unetv2.common import env

env.ready()"""
BADGES = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]\
(https://colab.research.google.com/github/{name}/blob/main/notebooks/{file})
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]\
(https://kaggle.com/kernels/welcome?src=https://github.com/{name}/blob/main/notebooks/{file})

"""


def settings() -> dict[str, str]:
    """`address` and `kaggle` of [tool.unetv2]; "" where they are not known yet.

    Raises:
        ValueError: `address` is not that of a repository on GitHub, which Colab opens.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = project["tool"]["unetv2"]
    if found["address"]:
        _name(found["address"])
    return found


def _name(address: str) -> str:
    """OWNER/NAME of a repository on GitHub."""
    if match := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", address):
        return match[1]
    wanted = "https://github.com/OWNER/NAME"
    raise ValueError(f"address {address!r} in pyproject.toml is not of the form {wanted}")


def first_cell(address: str) -> str:
    """The text of the first code cell of every notebook: it finds the library, or fetches it."""
    search = SEARCH.format(otherwise='Path.cwd() / "unetv2"' if address else None)
    return (FETCH if address else FIND).format(search=search, address=address) + START


def renewed(notebook: str, file: str, address: str) -> str:
    """The text of a notebook with its first code cell and its badges as `address` has them.

    Args:
        notebook: the JSON of a notebook.
        file: the name of its source in notebooks/; "": it has no badges (a solution).
        address: of the public repository, or "".
    """
    content = json.loads(notebook)
    code = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    code["source"] = first_cell(address).splitlines(keepends=True)
    head = content["cells"][0]
    text = re.sub(r"\[!\[Open in .*\n+", "", "".join(head["source"]))
    if address and file:
        badges = BADGES.format(name=_name(address), file=file)
        text = text.replace("\n\n| | |\n", f"\n\n{badges}| | |\n", 1)
    head["source"] = text.splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def pages() -> dict[Path, str]:
    """All notebooks and reading copies, and the name of the source that each one's badges open."""
    sources = sorted(ROOT.glob(SOURCES))
    names = {path.stem: path.name for path in sources}
    others = sorted(path for pattern in OTHERS for path in ROOT.glob(pattern))
    return {path: names.get(path.stem, "") for path in [*sources, *others]}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    address = settings()["address"]
    for path, file in pages().items():
        old = path.read_text(encoding="utf-8")
        if (new := renewed(old, file, address)) != old:
            files.write_text(path, new)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
