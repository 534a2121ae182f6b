"""Style of code and notebooks: what a reader may rely on in each of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import address
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
COPIES = sorted((ROOT / "outputs" / "results").rglob("*.ipynb"))
HEADINGS = ["Parameters", "Summary", "Questions", "Exercises", "Files written", "References"]
LONGEST = 16  # lines of a code cell; the tag "lesson" lifts it


def cells_of(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        c | {"source": "".join(c["source"]), "tags": c["metadata"].get("tags", [])} for c in cells
    ]


def code_of(path: Path) -> list[dict]:
    return [c for c in cells_of(path) if c["cell_type"] == "code"]


def prose_of(path: Path) -> list[str]:
    return [c["source"] for c in cells_of(path) if c["cell_type"] == "markdown"]


def name(path: Path) -> str:
    return path.stem


each = pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
every = pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=name)


@each
def test_first_cell_asks_the_question_and_says_what_it_takes(path):
    first = cells_of(path)[0]
    assert first["cell_type"] == "markdown"
    assert re.match(rf"# {path.stem[:2]} · \S", first["source"]), "title: '# NN · Title'"
    assert "**Question.**" in first["source"] and "?" in first["source"]
    for row in ("GPU needed?", "time", "reads", "writes"):
        assert re.search(rf"^\| {re.escape(row)} \|", first["source"], re.M), f"table row {row!r}"


@pytest.mark.parametrize("path", address.pages(), ids=name)
def test_first_cell_and_badges_are_those_of_the_one_address(path):
    text, known = path.read_text(encoding="utf-8"), address.settings()["address"]
    assert text == address.renewed(text, address.pages()[path], known), "workflow/address.py"
    assert code_of(path)[0]["tags"] == ["bootstrap"]


@pytest.mark.parametrize("known", ["", "https://github.com/someone/skips"])
def test_first_cell_is_short_and_badges_need_an_address(known):
    first = address.first_cell(known)
    assert len([line for line in first.splitlines() if line]) <= 12
    assert max(map(len, first.splitlines())) <= 100
    file = NOTEBOOKS[0].name
    text = address.renewed(NOTEBOOKS[0].read_text(encoding="utf-8"), file, known)
    head = "".join(json.loads(text)["cells"][0]["source"])
    blob = f"someone/skips/blob/main/notebooks/{file})"
    assert head.count("[![") == head.count(blob) == (2 if known else 0)
    assert address.renewed(text, file, known) == text
    assert (known in first) and ("git" in first) == bool(known)


@pytest.mark.parametrize("wrong", ["someone/skips", "https://github.com/someone", "http://a.b/c"])
def test_an_address_that_colab_cannot_open_is_refused(wrong):
    with pytest.raises(ValueError, match=r"not of the form https://github.com/OWNER/NAME"):
        address.renewed(NOTEBOOKS[0].read_text(encoding="utf-8"), NOTEBOOKS[0].name, wrong)


@each
def test_parameters_are_annotated_literals_with_a_comment_and_checked(path):
    code = code_of(path)
    assert [i for i, c in enumerate(code) if "parameters" in c["tags"]] == [1], (
        "one cell, the second of the code"
    )
    for line in code[1]["source"].splitlines():
        assert re.fullmatch(r"\w+: [\w\[\], |]+ = [^#]+  # \S.*", line), (
            f"'name: type = literal  # comment': {line}"
        )
    assert re.search(r"^P = \w+Params\.from_notebook\(globals\(\)\)$", code[2]["source"], re.M), (
        "the strict check follows"
    )


@each
def test_parameters_are_those_of_its_class(path):
    import plan

    about = json.loads(path.read_text(encoding="utf-8"))["metadata"]["unetv2"]
    assert about["role"] in plan.ROLES
    assert ("models" in about) == ("after" in about["role"])
    names = [line.split(":")[0] for line in code_of(path)[1]["source"].splitlines()]
    params = plan.params_of(about)
    assert set(names) <= set(params.model_fields)
    assert re.search(r"P = (\w+)\.", code_of(path)[2]["source"])[1] == params.__name__


@each
def test_headings_are_there_in_order(path):
    found = re.findall(r"^## (.+)$", "\n".join(prose_of(path)), re.M)
    assert [h for h in found if h in HEADINGS] == HEADINGS


@each
def test_prose_at_least_balances_code(path):
    words = sum(len(text.split()) for text in prose_of(path))
    code = sum(len(c["source"].split()) for c in code_of(path))
    assert words >= code


@every
def test_code_cells_are_short(path):
    for cell in code_of(path):
        if not {"bootstrap", "parameters", "lesson"} & set(cell["tags"]):
            assert len(cell["source"].strip().splitlines()) <= LONGEST, cell["source"]


@each
def test_exercises_have_solutions(path):
    solutions = path.parent / "solutions" / f"{path.stem}_solutions.ipynb"
    assert solutions.is_file()
    count = re.search(r"## Exercises\n(.*?)(?=\n## |\Z)", "\n".join(prose_of(path)), re.S)[1]
    headings = re.findall(r"^## .*?(\d+)", "\n".join(prose_of(solutions)), re.M)
    assert headings == re.findall(r"^(\d+)\. ", count, re.M), "one section '## Exercise N' for each"


@every
def test_source_is_stripped_and_of_no_machine(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    for cell in code_of(path):
        assert not cell["outputs"] and cell["execution_count"] is None, "strip it: nbstripout FILE"
        assert set(cell["metadata"]) <= {"tags"}
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info", "unetv2"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not re.search(r"/home/|/Users/|/root/|/work/|[A-Z]:\\\\", text)


@each
def test_links_between_notebooks_lead_somewhere(path):
    for target in re.findall(r"\]\(([\w./-]+\.ipynb)\)", "\n".join(prose_of(path))):
        assert (path.parent / target).is_file(), target


@pytest.mark.skipif(not COPIES, reason="no reading copies are committed")
@pytest.mark.parametrize("path", COPIES, ids=name)
def test_reading_copies_match_their_sources(path):
    source = next((p for p in NOTEBOOKS if path.stem.startswith(p.stem)), None)
    assert source, f"no source for {path.name}"
    added = {"injected-parameters", "papermill-error-cell-tag"}
    copy = [c["source"].strip() for c in cells_of(path) if not added & set(c["tags"])]
    assert copy == [c["source"].strip() for c in cells_of(source)], "execute it again"
    counts = [c["execution_count"] for c in code_of(path)]
    assert counts == list(range(1, len(counts) + 1)), "executed in order, in a fresh kernel"
    assert path.stat().st_size < 2**20, "under 1 MB"
    assert not re.search(r"/home/|/Users/|/root/|/work/", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lock_holds_the_requirements_and_names_no_host():
    lock = (ROOT / "requirements.lock.txt").read_text(encoding="utf-8")
    assert "://" not in lock and "--index" not in lock
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if required := re.match(r"[\w-]+", line):
            assert re.search(rf"^{required[0]}==", lock, re.M), f"{required[0]} is not in the lock"


def test_package_needs_what_the_requirements_say():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    ranges = {line.split("#")[0].strip() for line in lines}
    extras = {line for group in project["optional-dependencies"].values() for line in group}
    assert set(project["dependencies"]) | extras <= ranges


def test_no_path_of_a_machine_is_committed():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split("\n")
    if not any(files):
        pytest.skip("not a git checkout")
    for file in filter(None, files):
        path = ROOT / file
        if (
            path.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ".json", ".csv", ".txt")
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.])/(?:home|Users|root|work)/\w", text) or path == Path(
                __file__
            ), file
