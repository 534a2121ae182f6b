"""What is pushed to Kaggle, and a rehearsal of every notebook on Kaggle and on Colab."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import address
import pytest
import to_kaggle

from unetv2.common import packages

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(ROOT.glob(address.SOURCES))
OWNER = "someone"
# the client's documentation (Kaggle/kaggle-cli, docs/kernels_metadata.md and datasets_metadata.md)
KERNEL = {"id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu"}
KERNEL |= {"enable_internet", "machine_shape", "dataset_sources", "competition_sources"}
KERNEL |= {"kernel_sources", "model_sources"}
LICENCES = {"CC0-1.0", "CC-BY-4.0", "other", "unknown", "copyright-authors"}


@pytest.fixture(scope="session")
def copies(tmp_path_factory) -> Path:
    """Reading copies of all sources, as if each had just been executed."""
    results = tmp_path_factory.mktemp("results")
    (results / "quick").mkdir()
    for source in SOURCES:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        given = {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}}
        notebook["cells"].insert(4, given | {"source": "# Parameters\n", "outputs": []})
        (results / "quick" / source.name).write_text(json.dumps(notebook))
    return results


@pytest.fixture(scope="session")
def pushed(copies, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pushed") / "new"
    to_kaggle.write(folder, OWNER, copies)
    return folder


def metadata(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_notebook_is_a_kernel_as_the_client_wants_it(pushed):
    folders = sorted((pushed / "kernels").iterdir())
    assert [folder.name for folder in folders] == [source.stem for source in SOURCES]
    datasets = {metadata(path)["id"] for path in pushed.glob("datasets/*/dataset-metadata.json")}
    for folder in folders:
        kernel = metadata(folder / "kernel-metadata.json")
        assert set(kernel) == KERNEL
        assert (folder / kernel["code_file"]).is_file()
        assert len(kernel["title"]) in range(5, 51)
        slug = re.sub(r"[^a-z0-9]+", "-", kernel["title"].lower()).strip("-")
        assert kernel["id"] == f"{OWNER}/{slug}", "the title must resolve to the id"
        assert (kernel["language"], kernel["kernel_type"]) == ("python", "notebook")
        assert set(kernel["dataset_sources"]) == datasets
        assert kernel["enable_internet"] == "false", "the client's own default is true"
        assert kernel["machine_shape"] in ("", "NvidiaTeslaT4"), "a P100 fails with today's torch"
        assert (kernel["enable_gpu"] == "true") == (kernel["machine_shape"] != "")
    gpus = [f.name for f in folders if metadata(f / "kernel-metadata.json")["machine_shape"]]
    assert "30_train" in gpus and "40_compare" not in gpus


def test_datasets_are_as_the_client_wants_them(pushed):
    found = {path.parent.name: path for path in pushed.glob("datasets/*/dataset-metadata.json")}
    assert {"library", "records"} <= set(found) <= {"library", "records", "weights", "samples"}
    for name, path in found.items():
        about = metadata(path)
        assert set(about) == {"title", "subtitle", "id", "licenses", "description"}
        assert about["id"] == f"{OWNER}/unetv2-{name}" and len(about["id"].split("/")[1]) <= 50
        assert len(about["title"]) in range(6, 51) and len(about["subtitle"]) in range(20, 81)
        assert [one["name"] in LICENCES for one in about["licenses"]] == [True]
    library = pushed / "datasets" / "library"
    assert (library / "lib" / "unetv2" / "data" / "registry.yaml").is_file(), "a link in git"
    assert (library / "requirements.txt").is_file(), "the first cell reads it"
    assert any((pushed / "datasets" / "records").rglob("*.json.gz"))
    unwanted = {path.name for path in pushed.rglob("*") if path.name.startswith((".", "__pyc"))}
    assert not unwanted and not [path for path in pushed.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda results, folder: (folder / "mine").write_text("x"), "is not an empty folder"),
        (lambda results, folder: (results / "quick" / SOURCES[0].name).unlink(), "missing: 00_"),
        (
            lambda results, folder: (results / "quick" / SOURCES[1].name).write_text(
                SOURCES[1].read_text().replace("## Parameters", "## Old")
            ),
            "older than their sources: 10_data.*run_all.sh",
        ),
    ],
)
def test_what_cannot_be_published_is_one_clear_error(copies, tmp_path, spoil, said):
    results = shutil.copytree(copies, tmp_path / "results")
    (folder := tmp_path / "new").mkdir()
    spoil(results, folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=said):
        to_kaggle.write(folder, OWNER, results)
    assert sorted(folder.rglob("*")) == before, "nothing is written"


def test_owner_and_folder_are_asked_for(copies, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(address, "settings", lambda: {"address": "", "kaggle": ""})
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    assert to_kaggle.main([str(tmp_path / "new")]) == 2
    assert "KAGGLE_USERNAME" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        to_kaggle.write(tmp_path / "file" / "new", OWNER, copies)


def test_wheels_that_cannot_be_fetched_are_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(OSError, match=r"cannot fetch segmentation-models-pytorch==.* for Kaggle"):
        to_kaggle.wheels(tmp_path)


def test_lacking_packages_are_named_and_no_network_is_one_clear_error(tmp_path, monkeypatch):
    (file := tmp_path / "requirements.txt").write_text(
        "numpy>=1.26  # there\nnumpy<1\nno-such-package-of-ours>=2\n# deployment\nnot-asked\n"
    )
    assert packages.lacking(file) == ["numpy<1", "no-such-package-of-ours>=2"]
    assert packages.lacking(file, "# end")[-1] == "not-asked"
    assert packages.lacking(ROOT / "requirements.txt") == []
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"cannot install numpy<1, .*internet on.*or attach"):
        packages.install(file, tmp_path / "wheels")


def host(place: str, top: Path, **variables: str) -> str:
    """Rehearse the notebooks in `top`/notebooks on `place`; what was printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DATA", "WEIGHTS"))}
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "rehearse.py"), place, str(top)],
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def move_to(top: Path, library: Path) -> None:
    """Let the library in `library` take `top` for the root of the file system."""
    path = library / "lib" / "unetv2" / "common" / "env.py"
    text = path.read_text(encoding="utf-8")
    assert text.count('"/kaggle/') == 2
    path.write_text(text.replace('"/kaggle/', f'"{top}/kaggle/'), encoding="utf-8")


@pytest.mark.slow
def test_every_notebook_starts_on_kaggle_and_one_runs_to_its_end(pushed, tmp_path):
    """What was pushed is mounted read-only, in folders of other depths; 40 reads the records."""
    mounted = tmp_path / "kaggle" / "input"
    for depth, part in (("datasets/someone", "library"), ("", "records"), ("a/b", "samples")):
        if (pushed / "datasets" / part).is_dir():
            shutil.copytree(pushed / "datasets" / part, mounted / depth / f"unetv2-{part}")
    shutil.copytree(pushed / "kernels", tmp_path / "notebooks")
    (tmp_path / "kaggle" / "working").mkdir()
    move_to(tmp_path, mounted / "datasets" / "someone" / "unetv2-library")
    before = {path: path.stat().st_mtime_ns for path in mounted.rglob("*")}
    for path in before:
        path.chmod(0o555)
    values = {"datasets": ["isic2017"], "seeds": [0, 1], "epochs": 6}
    whole = {"NOTEBOOK": "40", "VALUES": json.dumps(values)}
    try:
        said = host("kaggle", tmp_path, KAGGLE_KERNEL_RUN_TYPE="Batch", **whole)
    finally:
        for path in before:
            path.chmod(0o755)
    assert re.findall(r"rehearsed (\w+)", said) == [source.stem for source in SOURCES]
    assert {p: p.stat().st_mtime_ns for p in mounted.rglob("*")} == before, (
        "nothing is written there"
    )
    assert (tmp_path / "kaggle" / "working" / "outputs" / "compare" / "comparison.md").is_file()


@pytest.mark.slow
def test_every_notebook_and_solution_starts_on_colab(pushed, tmp_path):
    """The repository is cloned to the working folder; the notebook lies elsewhere."""
    clone = tmp_path / "content" / "any-name"
    shutil.copytree(pushed / "datasets" / "library", clone)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=to_kaggle.UNSEEN)
    move_to(tmp_path, clone)
    said = host("content", tmp_path, COLAB_RELEASE_TAG="release")
    there = {path.stem for path in (tmp_path / "notebooks").rglob("*.ipynb")}
    assert set(re.findall(r"rehearsed (\w+)", said)) == there and len(there) > len(SOURCES)


def test_first_cell_fetches_the_library_or_says_what_to_attach(tmp_path):
    """With an address git clones into the working folder (here a folder), else it asks for it."""
    home = tmp_path / "home"
    (library := home / "lib" / "unetv2" / "common").mkdir(parents=True)
    (library.parent / "__init__.py").write_text("")
    (library / "__init__.py").write_text("")
    (library / "env.py").write_text("def ready():\n    print('ready')\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(home)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "library"]):
        subprocess.run([*git, *command], check=True)
    (work := tmp_path / "work").mkdir()

    def first(known: str):
        command = [sys.executable, "-S", "-c", address.first_cell(known)]
        return subprocess.run(command, cwd=work, capture_output=True, text=True)

    said = first("").stderr.splitlines()[-1]
    assert re.match(r"FileNotFoundError: .*attach .*\(Kaggle\).*clone .*\(Colab\)", said), said
    said = first(f"file://{tmp_path}/nowhere").stderr.splitlines()[-1]
    assert "turn the internet on, or attach" in said
    for _ in range(2):  # the second time it is there
        assert first(f"file://{home}").stdout == "ready\n"
