"""papermill's silent mistakes, and those of YAML, are errors here."""

import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from unetv2.common.params import Params, RunParams, slug
from unetv2.teaching.params import CompareParams, FigureParams

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sede": 9}, r"unknown parameter 'sede'; did you mean 'seed'"),
        ({"epochs": 0}, "epochs=0: .*greater than or equal to 1"),
        (
            {"epochs": "3"},
            "epochs='3': .*valid integer.*this is text: write numbers without quotes",
        ),
        ({"lr": "1e-4"}, r"lr='1e-4': .*YAML reads 1e-4 as text"),
        ({"seed": True}, "seed=True"),
        ({"precision": False}, "precision=False: .*YAML reads no, yes.*quote"),
        ({"image_size": 8}, "image_size=8: .*32"),
        ({"recipe": "papre"}, "recipe='papre': .*'paper', 'released'"),
        ({"dataset": " "}, "dataset=' ': .*empty"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_wrong_run_parameters_are_one_clear_error(given, message):
    with pytest.raises(ValueError, match=message):
        RunParams.make(given)


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)seed=-1.*epochs=0"):
        RunParams.make({"epochs": 0, "seed": -1})


def test_right_values_are_taken_as_they_are():
    params = RunParams.make({"lr": 1e-4, "seed": 3, "encoder_weights": None, "limit": 10})
    assert (params.lr, params.seed, params.limit) == (1e-4, 3, 10)
    assert RunParams.make(params.model_dump()) == params
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 4


@pytest.mark.parametrize("wrong", [{"models": []}, {"seeds": [-1]}, {"datasets": "kvasir"}])
def test_lists_of_a_comparison_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CompareParams.make(wrong)
    assert FigureParams.make({"models": ["unet"], "seeds": [0, 1]}).seeds == [0, 1]


def test_slug_is_a_folder_name():
    assert slug("kvasir") == "kvasir"
    assert slug("folder:/some where/My images/") == "folder-My-images"
    assert "/" not in slug("folder:a/b") and "=" not in slug("synthetic:contrast=0.8,hair=0")


@pytest.fixture
def execute(tmp_path):
    """Runs a notebook of a parameters cell and its check through papermill; returns what it
    printed.
    """

    def run(parameters, tags=("parameters",)):
        cell = nbformat.v4.new_code_cell(
            "seed: int = 0  # seed\nepochs: int = 6  # epochs", metadata={"tags": list(tags)}
        )
        check = f"import sys\nsys.path.insert(0, {str(ROOT / 'lib')!r})\n"
        check += "from unetv2.common.params import RunParams\n"
        check += "P = RunParams.from_notebook(globals())\nprint(P.seed, P.epochs)"
        notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(check)])
        nbformat.write(notebook, tmp_path / "in.ipynb")
        places = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
        kernel = {"kernel_name": "python3", "language": "python"}
        done = papermill.execute_notebook(*places, parameters, progress_bar=False, **kernel)
        return done.cells[-1].outputs[0]["text"].strip()

    return run


def test_papermill_passes_right_parameters(execute):
    assert execute({"seed": 9}) == "9 6"


@pytest.mark.parametrize(
    ("parameters", "tags", "message"),
    [
        ({"sede": 9}, ["parameters"], "unknown parameter 'sede'; did you mean 'seed'"),
        ({"seed": 9}, [], "the parameters cell has lost its 'parameters' tag"),
        ({"epochs": "3"}, ["parameters"], "epochs='3'"),
    ],
    ids=["misspelt", "lost tag", "text for a number"],
)
def test_papermills_silent_mistakes_stop_the_notebook(execute, parameters, tags, message):
    with pytest.raises(PapermillExecutionError, match=message):
        execute(parameters, tags)


def test_parameters_need_no_torch(tmp_path):
    """The door checks parameters before anything heavy is loaded."""
    import subprocess

    code = "import sys; from unetv2.common.params import Params; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "lib")}
        ).returncode
        == 0
    )
    assert issubclass(RunParams, Params)
