"""The one door as a person meets it: options, one line per step, failures reported, nothing done twice."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import door
import nbformat
import pytest
import snakemake_logger_plugin_door as reporter
import step
import yaml

ROOT = Path(__file__).resolve().parents[1]
LESSON = "print('hello')"
TRAIN = """
import json, pathlib
folder = pathlib.Path(output_dir)
(folder / "trained.txt").open("a").write(f"{model} {epochs}\\n")
(folder / "metrics.json").write_text(json.dumps({"model": model}))
"""
BROKEN = "x = 1\n\nraise ValueError('the moon is in the wrong phase')"
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
SLOW = "import pathlib, time\npathlib.Path(output_dir, 'begun.txt').open('a').write('x')\ntime.sleep(seconds)"


def write(path: Path, *code: str) -> None:
    """A notebook with a `parameters` cell and one cell for each of `code`."""
    parameters = nbformat.v4.new_code_cell("output_dir: str = ''", metadata={"tags": ["parameters"]})
    cells = [parameters, *map(nbformat.v4.new_code_cell, code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


class House:
    """A folder with small notebooks and a config, and the door to them."""

    def __init__(self, folder: Path):
        self.folder, self.notebooks, self.out = folder, folder / "notebooks", folder / "out" / "tiny"
        self.notebooks.mkdir()
        write(self.notebooks / "00_start.ipynb", LESSON)
        write(self.notebooks / "30_train.ipynb", TRAIN)
        write(self.notebooks / "40_compare.ipynb", LESSON)
        self.save()
        self.out.mkdir(parents=True)  # names were checked before: that loads torch, and has a test of its own
        config = door.configure(door.options(["--config", str(folder / "tiny.yaml")]))
        (self.out / ".checked").write_text(repr(door.names_in(config)))

    def save(self, **changes) -> None:
        config = {
            "datasets": ["synthetic"],
            "models": ["unet", "unetv2"],
            "seeds": [0],
            "run": {"epochs": 1},
            "jobs": 2,
        }
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(config | {"jobs": 2} | changes))

    def start(self, *options: str) -> subprocess.Popen:
        path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "workflow")])
        environment = os.environ | {"NOTEBOOKS_DIR": str(self.notebooks), "PYTHONPATH": path, "PWD": str(self.folder)}
        command = [sys.executable, str(ROOT / "workflow" / "door.py"), "--config", str(self.folder / "tiny.yaml")]
        command += ["--output", str(self.folder / "out"), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen(command, env=environment, cwd=self.folder, **pipes)

    def __call__(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        output = process.communicate(timeout=240)[0]
        return process.returncode, output


@pytest.fixture(autouse=True)
def _environment():
    """The door sets DATA_DIR and WEIGHTS_DIR for its notebooks."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_steps_are_run_once_and_again_only_when_they_change(house):
    status, listed = house("--dry-run")
    assert status == 0 and re.findall(r"^\[(\d/\d)\] (.*)  \(not done yet\)$", listed, re.M) == [
        ("1/4", "00_start"), ("2/4", "30_train synthetic/unet/s0"), ("3/4", "30_train synthetic/unetv2/s0"),
    ]  # fmt: skip
    assert "[4/4] 40_compare" in listed and not list(house.out.glob("runs"))

    status, output = house()
    lines = output.splitlines()
    assert status == 0 and lines[-1].startswith("4 of 4 steps done, ")
    assert [line[:6] for line in lines[:-1]] == ["[1/4] ", "[2/4] ", "[3/4] ", "[4/4] "]
    assert re.fullmatch(r"\[4/4\] 40_compare \.\.\. \d+ s", lines[3])
    run = house.out / "runs" / "synthetic" / "unet" / "s0"
    assert {"30_train.ipynb", "metrics.json", "params.yaml", "run.log"} <= {p.name for p in run.iterdir()}

    assert house() == (0, "nothing to do: all steps are done\n")

    assert "[1/3] 30_train synthetic/unet/s0  (changed: epochs)" in house("--epochs", "2", "--dry-run")[1]
    status, output = house("--epochs", "2")
    assert status == 0 and "3 of 3 steps done" in output and "00_start" not in output
    assert (run / "trained.txt").read_text() == "unet 2\n", "a run with other parameters starts in an empty folder"

    write(house.notebooks / "00_start.ipynb", LESSON, LESSON)
    assert house("--epochs", "2", "--only", "00")[1].startswith("[1/1] 00_start ... ")


def test_a_failure_is_explained_and_the_rest_goes_on(house):
    write(house.notebooks / "20_broken.ipynb", LESSON, BROKEN)
    write(house.notebooks / "21_dies.ipynb", DIES)
    write(house.notebooks / "30_train.ipynb", TRAIN + "\nif model == 'unet':\n    1 / 0")
    status, output = house()
    assert status == 1
    report = output[output.index("20_broken ... FAILED") :].splitlines()[1:]
    assert report[0].strip() == "20_broken.ipynb, code cell [4]: x = 1"
    shown = "\n".join(report)
    assert "ValueError: the moon is in the wrong phase" in shown
    for name in ("out/tiny/broken/run.log", "out/tiny/broken/20_broken.ipynb"):
        assert name in shown and (house.folder / name).is_file()
    killed = output[output.index("21_dies ... FAILED") :].splitlines()[1:3]
    assert killed[0].strip() == "21_dies.ipynb, code cell [3]: import os, signal"
    assert "killed" in killed[1] and "batch_size" in killed[1] and "image_size" in killed[1]
    assert "ZeroDivisionError" in output
    assert output.splitlines()[-1].startswith("2 of 6 steps done, 3 failed, 1 not run, ")
    assert (house.out / "runs" / "synthetic" / "unetv2" / "s0" / "metrics.json").is_file()

    write(house.notebooks / "20_broken.ipynb", LESSON)
    status, output = house("--only", "20")
    assert status == 0 and output.startswith("[1/1] 20_broken ... ")


def test_after_a_kill_the_same_command_goes_on(house):
    write(house.notebooks / "00_start.ipynb", "seconds = 600", SLOW)
    begun = house.out / "start" / "begun.txt"
    process = house.start("--only", "00")
    until = time.monotonic() + 120
    while not begun.is_file() and time.monotonic() < until:
        time.sleep(0.2)
    status, output = house("--only", "00")
    assert status == 2 and "another run_all.sh is at work" in output and len(output.splitlines()) == 1
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    again = house.start("--only", "00")
    until = time.monotonic() + 120
    while begun.read_text() != "xx" and time.monotonic() < until:
        time.sleep(0.2)
    os.killpg(again.pid, signal.SIGKILL)
    again.communicate()
    assert begun.read_text() == "xx", "the folder is kept, no stale lock is in the way"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epoch", "3"], "unknown option '--epoch'; did you mean '--epochs'"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'; ./run_all.sh --help"),
        (["--epochs", "0"], "epochs=0: Input should be greater than or equal to 1"),
        (["--image-size", "3"], "image_size=3"),
        (["--models", "unet", "unet3"], "unknown model 'unet3'; did you mean 'unet"),
        (["--datasets", "folder:/nowhere"], "/nowhere"),
        (["--datasets", "kvasr"], "unknown dataset 'kvasr'; did you mean 'kvasir'"),
        (["--encoder", "resnet19"], "unknown encoder 'resnet19'; did you mean 'resnet"),
        (["--encoder", "tu-pvt_v3_b2"], "unknown encoder 'tu-pvt_v3_b2'; did you mean 'tu-pvt_v2_b2'"),
        (["--config", "quik"], "unknown config 'quik'; did you mean 'quick'"),
        (["--config", "mine/none.yaml"], "no file mine/none.yaml"),
        (["--data", "/no/such/folder"], "data folder not found: /no/such/folder"),
        (["--weights", "/no/such/folder"], "weights folder not found: /no/such/folder"),
        (["--only", "99"], "unknown notebook '99'"),
        (["tset"], "unknown option 'tset'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert door.main([*options, "--output", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and message in printed and len(printed) < 1500
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ["unet"]}, "unknown parameter 'model'; did you mean 'models'"),
        ({"run": {"epoch": 3}}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"run": {"lr": "1e-4"}}, "YAML reads 1e-4 as text"),
        ({"run": {"precision": False}}, "YAML reads no, yes, on and off"),
        ({"per_dataset": {"kvasr": {}}}, "unknown dataset 'kvasr'"),
        ({"notebooks": {"00": {"sede": 1}}}, "unknown parameter 'sede'; did you mean 'seed'"),
        ({"notebooks": {"77": {}}}, "unknown notebook '77'"),
        ({"seeds": ["0"]}, "seeds.0='0'"),
        ({"models": []}, "models=[]"),
    ],
)
def test_a_wrong_config_is_one_clear_error(house, changes, message, capsys, monkeypatch):
    house.save(**changes)
    monkeypatch.setattr(door, "NOTEBOOKS", house.notebooks)
    assert door.main(["--config", str(house.folder / "tiny.yaml"), "--output", str(house.folder / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", [path.stem for path in door.CONFIGS.glob("*.yaml")])
def test_configs_name_what_exists(name):
    config = door.configure(door.options(["--config", name]))
    door.check(door.names_in(config))
    assert door.choose(config, "outputs", None)


def test_data_are_looked_for_before_anything_runs_but_not_in_a_dry_run(house, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(door, "NOTEBOOKS", house.notebooks)
    place = ["--config", str(house.folder / "tiny.yaml"), "--output", str(house.folder / "other")]
    assert door.main([*place, "--datasets", "kvasir"]) == 2
    assert "dataset 'kvasir' was not found" in capsys.readouterr().err
    assert house("--datasets", "kvasir", "--dry-run")[0] == 0


def test_overrides_win_over_the_config_and_its_datasets():
    config = door.configure(door.options("--config paper --image-size 128 --encoder-weights none --seeds 7".split()))
    params = config.run_params("pranet", "unet", 7)
    assert (params.image_size, params.encoder_weights, params.epochs, config.seeds) == (128, None, 100, [7])


def test_the_family_is_trained_for_43_alone(house, monkeypatch):
    house.save(family=["unetv2", "tmi-unet-l1"], family_run={"width": 4})
    for name in ("42_costs", "43_study"):
        write(house.notebooks / f"{name}.ipynb", LESSON)
    monkeypatch.setattr(door, "NOTEBOOKS", house.notebooks)
    config = door.configure(door.options(["--config", str(house.folder / "tiny.yaml")]))
    assert [config.run_params("synthetic", model, 0).width for model in ("unet", "unetv2", "tmi-unet-l1")] == [32, 4, 4]
    every = {s.number: s for s in door.choose(config, "out", None)}
    assert every["30"].models == ["unet", "unetv2", "tmi-unet-l1"] and every["40"].models == ["unet", "unetv2"]
    assert every["43"].values({})["models"] == ["unetv2", "tmi-unet-l1"]
    listed = house("--dry-run", "--only", "42", "40")[1]
    assert "tmi-unet-l1" not in listed and "42_costs" in listed
    assert "30_train synthetic/tmi-unet-l1/s0" in house("--dry-run", "--only", "43")[1]
    house.save()
    assert "43_study" not in house("--dry-run")[1], "nothing to study without a family"


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as end:
        door.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "--config paper --data DIR" in text and "folder:PATH" in text


def test_steps_share_the_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(step.tempfile, "gettempdir", lambda: str(tmp_path))
    used = []
    for _ in range(3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        step.choose_gpu()
        used.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert used[:2] == ["4", "6"] and used[2] in ("4", "6")


@pytest.mark.parametrize(("seconds", "text"), [(41.2, "41 s"), (725, "12 min 5 s"), (12000, "3 h 20 min")])
def test_times_are_readable(seconds, text):
    assert reporter.duration(seconds) == text
