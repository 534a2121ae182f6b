"""`./run_all.sh site [DIR]`: the collection as static pages, in outputs/site or in DIR.

Pages are the reading copies in outputs/results, the solutions, the texts, and the public names of
the library. They are collected into a temporary folder, where Sphinx builds them; nothing is
executed, and what DIR held stays until the new pages are complete. They need no network, and no
server either.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import address
import figures
import links

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
ROOMS = "skips networks data training inference evaluation costs teaching common".split()
TEXTS = {  # a file of the repository, and its page
    "README.md": "index.md",
    "outputs/results/README.md": "results.md",
    "data/README.md": "data.md",
    "data/samples/README.md": "samples.md",
    "CHANGES.md": "changes.md",
}
FIRST = "quick"  # the folder of copies that links between notebooks lead to, where it has one
BEHIND = "*Not executed here; a test of the collection executes it. Try the exercises first.*"


@dataclass(frozen=True)
class Page:
    """A page of the site, and the file of the repository that it shows."""

    file: str
    page: str

    @property
    def folder(self) -> str:
        """Of the site; "" for its root."""
        return self.page.rpartition("/")[0]


def pages_of(root: Path) -> list[Page]:
    """The pages of the site but those of the library; reading copies in the order of reading.

    Raises:
        FileNotFoundError: there is no reading copy.
    """
    results = root / "outputs" / "results"
    copies = sorted(results.glob("*/[0-9][0-9]_*.ipynb"), key=lambda p: (p.parent.name != FIRST, p))
    if not copies:
        how = "./run_all.sh makes them, python workflow/publish.py puts them there"
        raise FileNotFoundError(f"no reading copies (NN_*.ipynb) in {results}/*: {how}")
    cards = sorted((results / "weights").glob("*/README.md"))
    solutions = sorted((root / "notebooks" / "solutions").glob("*.ipynb"))
    found = [(path, f"{path.parent.name}/{path.name}") for path in copies]
    found += [(path, f"weights/{path.parent.name}.md") for path in cards]
    found += [(path, f"solutions/{path.name}") for path in solutions]
    found += [(root / file, page) for file, page in TEXTS.items()]
    return [Page(path.relative_to(root).as_posix(), page) for path, page in found]


def waiting(root: Path, pages: list[Page]) -> list[Path]:
    """The notebooks without a reading copy."""
    there = {Path(one.file).name for one in pages}
    sources = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [path for path in sources if path.name not in there]


def collect(target: Path, root: Path = ROOT, public: str = "") -> None:
    """Write the sources of all pages into `target`.

    Args:
        target: an empty folder.
        root: of the repository.
        public: its address, or "".

    Raises:
        FileNotFoundError: there is no reading copy, or no text, or no picture that one shows.
        ValueError: a reading copy holds an error.
    """
    pages = pages_of(root)
    copies = [one for one in pages if one.file.endswith(".ipynb") and one.folder != "solutions"]
    places = {one.file: one.page for one in pages}
    for one in reversed(copies):  # the first folder has the last word
        places[f"notebooks/{Path(one.file).name}"] = one.page
    pictures = {}
    for one in pages:
        beside = [other for other in copies if other.folder == one.folder]
        own = {f"notebooks/{Path(other.file).name}": other.page for other in beside}
        here = f"notebooks/{Path(one.file).name}" if one in copies else one.file

        def relinked(text: str, here=here, one=one, known=places | own) -> str:
            new, shown = links.relinked(text, here, one.page, known, public)
            pictures.update(shown)
            return new

        text = (root / one.file).read_text(encoding="utf-8")
        new = notebook(text, one, relinked) if one.file.endswith(".ipynb") else relinked(text)
        if one.page == "index.md":
            new += _contents(pages, waiting(root, pages))
        _write(target / one.page, new)
    for file, place in pictures.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, target / place)
    for room in ROOMS:
        _write(target / "library" / f"{room}.rst", _names(room, root / "lib" / "unetv2" / room))


def notebook(text: str, one: Page, relinked) -> str:
    """The JSON of a notebook as the site shows it.

    Its links are mended, its figures described, and its first cell, which finds the library, is
    folded. Nothing else changes.
    """
    content = json.loads(text)
    cells = content["cells"]
    for cell in cells:
        if any(output["output_type"] == "error" for output in cell.get("outputs", [])):
            raise ValueError(f"{one.file} holds an error: execute it again")
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked("".join(cell["source"]))
        tags = cell["metadata"].setdefault("tags", [])
        if "bootstrap" in tags:
            tags.append("hide-input")
    for cell, words in figures.described(cells):
        cell["metadata"]["mystnb"] = {"image": {"alt": words}}
    if one.folder == "solutions":
        cells.insert(1, {"cell_type": "markdown", "metadata": {}, "source": BEHIND, "id": "behind"})
    return json.dumps(content)


def _contents(pages: list[Page], missing: list[Path]) -> str:
    """What the home page has below its text: what waits, and the contents of the site."""
    text = ""
    if missing:
        names = "\n".join(f"- {path.stem}" for path in missing)
        text += f"\n## Not executed yet\n\nThese notebooks have no reading copy:\n\n{names}\n"
    groups: dict[str, list[str]] = {}
    for one in pages:
        if one.page != "index.md":
            groups.setdefault(_caption(one), []).append(one.page.rpartition(".")[0])
    solutions = groups.pop("Solutions", [])
    groups["The library"] = [f"library/{room}" for room in ROOMS]
    groups["Solutions"] = solutions
    for caption, entries in groups.items():
        lines = "\n".join(entries)
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"
    return text


def _caption(one: Page) -> str:
    fixed = {"": "Results and data", "weights": "Trained networks", "solutions": "Solutions"}
    fixed[FIRST] = "Notebooks"
    return fixed.get(one.folder, f"The same: {one.folder}")


def _names(room: str, folder: Path) -> str:
    """The page of a room: what it says of itself, and the public names of each of its files."""
    lines = [f"unetv2.{room}", "=" * 40, "", f".. automodule:: unetv2.{room}", "   :no-members:"]
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(["unetv2", room, *path.relative_to(folder).with_suffix("").parts])
        if path.stem != "__init__":
            lines += ["", name, "-" * 60, "", f".. automodule:: {name}", "   :members:"]
    return "\n".join([*lines, ""])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build(site: Path, root: Path = ROOT) -> None:
    """The pages in `site`; RuntimeError where Sphinx has something to complain of."""
    mathjax = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
    with tempfile.TemporaryDirectory() as place:
        source, made = Path(place, "source"), Path(place, "made")
        collect(source, root, address.settings()["address"])
        for path in (HERE / "conf.py", HERE / "site.css"):
            shutil.copy(path, source)
        shutil.copy(Path(mathjax, "static", "mathjax", "tex-svg.js"), source)
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
        done = subprocess.run([*command, "-d", Path(place, "trees"), source, made])
        if done.returncode:
            raise RuntimeError("Sphinx complains of the above; nothing was written")
        shutil.rmtree(site, ignore_errors=True)
        site.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, site)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="./run_all.sh site",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", nargs="?", type=Path, default=ROOT / "outputs" / "site")
    site = parser.parse_args().dir.resolve()
    try:
        missing = waiting(ROOT, pages_of(ROOT))
        build(site)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"./run_all.sh site: {error}")
    if missing:
        print("not executed yet:", ", ".join(path.stem for path in missing))
    print(f"open {site / 'index.html'}")


if __name__ == "__main__":
    main()
