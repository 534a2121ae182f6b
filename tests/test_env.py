"""Where a run finds its folders and device, and what it records about the machine."""

import getpass
import json
import platform
from pathlib import Path

import pytest

from unetv2.common import env


def test_relative_paths_start_at_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert env.path("outputs/x") == env.root() / "outputs" / "x"
    assert env.path(tmp_path) == tmp_path
    assert (env.root() / "lib" / "unetv2" / "common" / "env.py").is_file()


def test_data_folder_setting_wins_over_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert env.data_dir() == tmp_path
    assert env.data_dir(str(tmp_path / "mine")) == tmp_path / "mine"
    monkeypatch.delenv("DATA_DIR")
    assert env.data_dir() == env.root() / "data"
    monkeypatch.delenv("WEIGHTS_DIR", raising=False)
    assert env.weights_dir() is None


def test_a_relative_data_folder_is_the_same_for_all(monkeypatch, tmp_path):
    """As a parameter, in the environment, for a run and for the datasets: below the repository."""
    from unetv2.data.readers import data_root

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()  # not this one
    expected = env.root() / "data"
    assert env.data_dir("data") == data_root("data") == expected
    monkeypatch.setenv("DATA_DIR", "data")
    assert env.data_dir() == data_root(None) == expected
    assert data_root("data/not/there/yet") == expected / "not" / "there" / "yet"  # for a download


@pytest.mark.parametrize(("kind", "find"), [("data", env.data_dir), ("weights", env.weights_dir)])
def test_a_folder_that_is_not_there_is_one_clear_error(monkeypatch, tmp_path, kind, find):
    with pytest.raises(
        FileNotFoundError, match=rf"{kind} folder not found: .*nowhere.*{kind}_dir.*--{kind}"
    ):
        find(str(tmp_path / "nowhere"))
    monkeypatch.setenv(f"{kind.upper()}_DIR", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=f"from {kind.upper()}_DIR"):
        find()


@pytest.mark.parametrize("mount", ["kvasir", "owner/kvasir", "datasets/owner/kvasir/versions"])
def test_kaggle_data_is_found_by_marker_at_any_depth(monkeypatch, tmp_path, mount):
    (tmp_path / "another" / "thing").mkdir(parents=True)
    (tmp_path / mount / "Kvasir-SEG").mkdir(parents=True)
    monkeypatch.setattr(env, "KAGGLE_INPUT", tmp_path)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.delenv("DATA_DIR", raising=False)
    assert env.on_kaggle()
    assert env.data_dir() == tmp_path / mount


@pytest.fixture
def read_only(monkeypatch, tmp_path):
    """A repository below Kaggle's read-only input, an attached dataset and the working folder."""
    kaggle = tmp_path / "kaggle"
    (kaggle / "input" / "lib" / "data" / "samples").mkdir(parents=True)
    (kaggle / "input" / "some" / "one" / "outputs" / "results" / "records").mkdir(parents=True)
    (kaggle / "working").mkdir()
    monkeypatch.setattr(env, "root", lambda: kaggle / "input" / "lib")
    monkeypatch.setattr(env, "KAGGLE_INPUT", kaggle / "input")
    monkeypatch.setattr(env, "KAGGLE_WORKING", kaggle / "working")
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    env._attached.cache_clear()
    yield kaggle
    env._attached.cache_clear()


def test_kaggle_reads_what_is_attached_and_writes_to_the_working_folder(read_only):
    attached = read_only / "input" / "some" / "one" / "outputs" / "results" / "records"
    assert env.path("outputs/results/records") == attached
    assert env.path("data/samples") == read_only / "input" / "lib" / "data" / "samples"
    assert env.path("outputs/compare") == read_only / "working" / "outputs" / "compare"
    mine = read_only / "working" / "outputs" / "results" / "records"
    mine.mkdir(parents=True)
    assert env.path("outputs/results/records") == mine, "what was written is found again"
    assert env.path("/somewhere/else") == Path("/somewhere/else")
    assert env.data_dir() == read_only / "working" / "data"


def test_a_repository_that_cannot_be_written_leaves_outputs_in_the_current_folder(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(env.os, "access", lambda path, mode: False)
    assert env.path("outputs/compare") == tmp_path / "outputs" / "compare"
    assert env.path("outputs/results") == env.root() / "outputs" / "results"


def test_description_is_json_and_names_no_person_or_place():
    facts = env.describe()
    text = json.dumps(facts)
    assert facts["torch"] and facts["device"] and facts["python"] == platform.python_version()
    assert str(env.root()) not in text and platform.node() not in text
    assert getpass.getuser() not in text.split('"')


def test_unknown_device():
    with pytest.raises(ValueError, match=r"unknown device 'gpu'.* Valid: auto, cpu, cuda"):
        env.device("gpu")


def test_a_gpu_that_fails_at_its_first_operation_is_not_used(monkeypatch, capsys):
    import torch

    def fails(*args, **kwargs):
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nmore"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100")
    monkeypatch.setattr(torch, "ones", fails)
    env.gpu_problem.cache_clear()
    try:
        assert env.device().type == "cpu"
        with pytest.raises(RuntimeError, match="Tesla P100 fails at a first operation"):
            env.device("cuda")
        env.report()
        assert "no kernel image" in capsys.readouterr().out
    finally:
        env.gpu_problem.cache_clear()


def test_the_device_of_a_run_is_its_own_not_the_machines(monkeypatch):
    monkeypatch.setattr(env, "gpu_problem", lambda: None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert env.describe()["device"] == "a GPU" and env.describe("cpu")["device"] == "cpu"
