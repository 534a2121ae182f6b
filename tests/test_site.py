"""The site: its links and texts by hand, and, where Sphinx and Chromium are, the pages themselves.

`./run_all.sh site` installs Sphinx; `uv pip install playwright` in .venv, and Chromium of the
system or of `playwright install chromium`, let the pages be opened.
"""

import importlib
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "site"))

build, figures, links = map(importlib.import_module, ("build", "figures", "links"))
BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome", "chromium-browser")
PHONE, DESKTOP = 390, 1280  # pixels


def cell(source: str, *images: str) -> dict:
    outputs = [{"output_type": "display_data", "data": {kind: ""}} for kind in images]
    kind = "markdown" if source.startswith("#") else "code"
    more = {"outputs": outputs, "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source} | more


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](40.ipynb#end)", "[a](../quick/40.ipynb#end)"),
        ("[a](../data/README.md)", "[a](../data.md)"),
        ("[`a`](../workflow/x.py)", "[`a`](https://github.com/a/b/blob/main/workflow/x.py)"),
        ("[a](../workflow)", "[a](https://github.com/a/b/tree/main/workflow)"),
        ("[a](https://b.c) and [d](#e)", "[a](https://b.c) and [d](#e)"),
        ("[a](../outputs/results/quick/24.ipynb)", "not executed yet"),
        ("`x[0](y)` and $[U](f)$", "`x[0](y)` and $[U](f)$"),
        ("[![Open](https://x.y/z.svg)](https://b.c)", "[Open](https://b.c)"),
    ],
)
def test_links_lead_to_pages_or_to_the_public_address(text, expected):
    pages = {"notebooks/40.ipynb": "quick/40.ipynb", "data/README.md": "data.md"}
    here = ("notebooks/41.ipynb", "solutions/41.ipynb")
    assert links.relinked(text, *here, pages, "https://github.com/a/b") == (expected, {})


def test_without_an_address_the_words_of_a_link_stay():
    text = "See [the *plan*](../workflow/plan.py) and ![two lines](x/lines.png)."
    new, pictures = links.relinked(text, "data/README.md", "data.md", {})
    assert new == "See the *plan* and ![two lines](_images/data/x/lines.png)."
    assert pictures == {"data/x/lines.png": "_images/data/x/lines.png"}


def test_a_figure_is_described_by_what_the_notebook_says():
    cells = [
        cell("# 40 · Compare\n\n## 3. Luck\n\nFirst.\n\nA dot is [one](x.md) **training**:"),
        cell("from unetv2.teaching import charts\nfig = charts.waterfall(a, b)"),
        cell("fig", "image/png"),
        cell("ax.plot(x, label='copy')\nax.set(xlabel='epoch')\nplt.show()", "image/png"),
        cell("figures[main, 'best']", "image/jpeg", "image/png"),
    ]
    first, second, third = (text for _, text in figures.described(cells))
    start, end = "Figure in “3. Luck”. ", " Text above: A dot is one training:"
    assert first.startswith(start) and first.endswith(end)
    assert len(first) > len(start) + len(end) + 20  # what charts.waterfall says of itself
    assert second == f"{start}Labels: copy; epoch.{end}"
    assert third == "2 figures in “3. Luck”. Code: figures[main, 'best']." + end


def test_a_site_without_reading_copies_or_with_a_failed_one_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reading copies .* \./run_all\.sh makes them"):
        build.collect(tmp_path / "pages", tmp_path)
    failed = cell("f()")
    failed["outputs"] = [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]
    copy = tmp_path / "outputs" / "results" / "quick" / "10_data.ipynb"
    copy.parent.mkdir(parents=True)
    copy.write_text(json.dumps({"cells": [failed]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"quick/10_data\.ipynb holds an error: execute it again"):
        build.collect(tmp_path / "pages", tmp_path)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built from what is committed."""
    for needed in ("myst_nb", "furo", "sphinx-mathjax-offline"):
        pytest.importorskip(needed, reason="Sphinx is not installed: ./run_all.sh site installs it")
    place = tmp_path_factory.mktemp("site") / "pages"
    command = [sys.executable, ROOT / "workflow" / "site" / "build.py", place]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return place


class Tags(HTMLParser):
    """What a page refers to, the places in it, and its pictures."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loaded, self.ids, self.pictures = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("script", "img", "link"):
            self.loaded += [values[name] for name in ("src", "href") if values.get(name)]
        if tag == "img":
            self.pictures.append(values)


@pytest.mark.slow
def test_every_link_has_an_end_and_every_picture_a_text(site):
    pages = {path: Tags(path) for path in site.rglob("*.html")}
    assert len(pages) > 30
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "mailto"):
                assert target not in page.loaded, f"{path.name} loads {target} from the network"
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert file.is_file(), f"{path.relative_to(site)} leads to {target}"
            if parts.fragment and file in pages:
                assert unquote(parts.fragment) in pages[file].ids, f"{path.name}: {target}"
        for picture in page.pictures:
            assert picture.get("alt", "").strip(), f"{path.relative_to(site)}: {picture['src']}"


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    say = "playwright is not installed: uv pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=say)
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as control:
        if not path and not Path(control.chromium.executable_path).exists():
            pytest.skip("no Chromium: apt install chromium, or playwright install chromium")
        chromium = control.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.slow
def test_pages_open_without_network_and_fit_a_phone(site, browser):
    tab, wrong = browser.new_page(), []
    tab.on("console", lambda line: line.type == "error" and wrong.append(line.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda sent: sent.url.startswith("http") and wrong.append(sent.url))
    for path in sorted(site.rglob("*.html")):
        tab.set_viewport_size({"width": DESKTOP, "height": 800})
        tab.goto(path.as_uri())
        tab.wait_for_function("!window.MathJax?.startup || MathJax.startup.promise.then(() => 1)")
        for width in (DESKTOP, PHONE):
            tab.set_viewport_size({"width": width, "height": 800})
            wide = tab.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path.relative_to(site)} is {wide} px wide at {width}"
        bad = tab.locator("[data-mjx-error]").count()
        assert not wrong and not bad, f"{path.relative_to(site)}: {wrong}, {bad} wrong formulas"


@pytest.mark.slow
def test_search_finds_without_a_server(site, browser):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=Hadamard")
    tab.wait_for_selector("#search-results li a")
    assert tab.locator("#search-results li").count() > 3
