"""The one door as a person meets it: options, one line per step, failures, nothing done twice."""

import json
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
import plan
import pytest
import snakemake_logger_plugin_door as reporter
import yaml

from unetv2.evaluation import record
from unetv2.evaluation.identity import deciding

ROOT = Path(__file__).resolve().parents[1]
LESSON = "print('hello')"
# what a training does, as unetv2.training.run: nothing where it is done
TRAIN = """
import json, pathlib
folder = pathlib.Path(output_dir)
if not (folder / "metrics.json").is_file():
    (folder / "trained.txt").open("a").write(f"{model} {epochs}\\n")
    about = dict(line[2:].split() for line in (folder / "params.yaml").open() if line[0] == "#")
    about |= {"fingerprint": about["data"]}
    (folder / "identity.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_text("")
    (folder / "metrics.json").write_text(json.dumps({"model": model}))
"""
BROKEN = "x = 1\n\nraise ValueError('the moon is in the wrong phase')"
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
SLOW = (
    "import pathlib, time\n"
    "pathlib.Path(output_dir, 'begun.txt').open('a').write('x')\n"
    "time.sleep(seconds)"
)
ROLES = {
    "00": {"role": "lesson", "params": "StartParams"},
    "10": {"role": "dataset", "params": "DataParams"},
    "30": {"role": "run", "params": "RunParams"},
    "40": {"role": "after", "params": "CompareParams", "models": "models"},
    "43": {"role": "after", "params": "StudyParams", "models": "family"},
    "50": {"role": "dataset-after", "params": "FigureParams", "models": "models"},
}
LESSONS = {"role": "lesson", "params": "LessonParams"}


def write(path: Path, *code: str) -> None:
    """A notebook with a `parameters` cell and one cell for each of `code`."""
    tags = {"tags": ["parameters"]}
    parameters = nbformat.v4.new_code_cell("output_dir: str = ''", metadata=tags)
    cells = [parameters, *map(nbformat.v4.new_code_cell, code)]
    about = {"unetv2": ROLES.get(path.name[:2], LESSONS)}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), path)


class House:
    """A folder with small notebooks and a config, and the door to them."""

    def __init__(self, folder: Path):
        self.folder, self.notebooks = folder, folder / "notebooks"
        self.out = folder / "out" / "tiny"
        self.notebooks.mkdir()
        write(self.notebooks / "00_start.ipynb", LESSON)
        write(self.notebooks / "30_train.ipynb", TRAIN)
        write(self.notebooks / "40_compare.ipynb", LESSON)
        self.save()

    def save(self, **changes) -> None:
        config = {
            "datasets": ["synthetic"],
            "models": ["thin+copy", "thin+sdi"],
            "seeds": [0],
            "run": {"epochs": 1},
            "jobs": 2,
        }
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(config | changes))

    @property
    def place(self) -> list[str]:
        return ["--config", str(self.folder / "tiny.yaml"), "--output", str(self.folder / "out")]

    def plan(self, *options: str) -> door.Plan:
        """What the door would do, without doing it."""
        given = door.options([*self.place, *options])
        return door.Plan(door.configure(given), self.out, given)

    def start(self, *options: str, **more: str) -> subprocess.Popen:
        path = [str(ROOT / "lib"), str(ROOT / "workflow"), os.environ.get("PYTHONPATH")]
        path = os.pathsep.join(filter(None, path))
        own = {"NOTEBOOKS_DIR": str(self.notebooks), "PYTHONPATH": path, "PWD": str(self.folder)}
        command = [sys.executable, str(ROOT / "workflow" / "door.py"), *self.place, *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        where = {"env": os.environ | own | more, "cwd": self.folder, "start_new_session": True}
        return subprocess.Popen(command, **pipes, **where)

    def __call__(self, *options: str, **more: str) -> tuple[int, str]:
        process = self.start(*options, **more)
        output = process.communicate(timeout=600)[0]
        return process.returncode, output


@pytest.fixture(autouse=True)
def _environment():
    """The door sets DATA_DIR and WEIGHTS_DIR for its notebooks."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@pytest.fixture
def near(house, monkeypatch):
    """A house whose plans are made in this process, with committed records of its own."""
    monkeypatch.setattr(door, "NOTEBOOKS", house.notebooks)
    monkeypatch.setattr(plan, "RECORDS", house.folder / "records")
    monkeypatch.setattr(record, "FOLDER", house.folder / "records")
    plan._fingerprint.cache_clear()
    return house


@pytest.mark.slow
def test_steps_are_run_once_and_again_only_when_they_change(house):
    status, listed = house("--dry-run")
    assert status == 0
    assert re.findall(r"^\[(\d/\d)\] (.*)  \(not done yet\)$", listed, re.M)[:3] == [
        ("1/4", "00_start"),
        ("2/4", "30_train synthetic/thin+copy/s0"),
        ("3/4", "30_train synthetic/thin+sdi/s0"),
    ]
    assert "[4/4] 40_compare" in listed and not (house.out / "runs").exists()

    status, output = house()
    lines = output.splitlines()
    assert status == 0 and lines[-1].startswith("4 of 4 steps done, ")
    assert [line[:6] for line in lines[:-1]] == ["[1/4] ", "[2/4] ", "[3/4] ", "[4/4] "]
    assert re.fullmatch(r"\[4/4\] 40_compare \.\.\. \d+ s", lines[3])
    run = house.out / "runs" / "synthetic" / "thin+copy" / "s0"
    there = {path.name for path in run.iterdir()}
    assert {"30_train.ipynb", "metrics.json", "params.yaml", "run.log"} <= there

    assert house() == (0, "nothing to do: all steps are done\n")

    listed = house("--epochs", "2", "--dry-run")[1]
    assert "[1/3] 30_train synthetic/thin+copy/s0  (changed: epochs)" in listed
    status, output = house("--epochs", "2")
    assert status == 0 and "3 of 3 steps done" in output and "00_start" not in output
    assert (run / "trained.txt").read_text() == "thin+copy 2\n"
    aside = next(run.parent.glob("s0.*-1"))
    assert re.fullmatch(r"s0\.\d{4}-\d\d-\d\d-1", aside.name)
    assert (aside / "trained.txt").read_text() == "thin+copy 1\n"
    assert (aside / "30_train.ipynb").is_file() and (aside / "metrics.json").is_file()

    write(house.notebooks / "00_start.ipynb", LESSON, LESSON)
    write(house.notebooks / "30_train.ipynb", TRAIN, "print('another chart')")
    status, output = house("--epochs", "2")
    assert status == 0 and "4 of 4 steps done" in output
    assert "] 00_start ... " in output, "in any order: neither waits for the other"
    assert "another chart" in (run / "30_train.ipynb").read_text()
    assert (run / "trained.txt").read_text() == "thin+copy 2\n", (
        "over the finished run: no training"
    )
    assert len(list(run.parent.iterdir())) == 2, "nothing was moved aside"


def finish(run: plan.Run, **about: str) -> None:
    """A finished run in its folder, as a command trains it."""
    run.path.mkdir(parents=True, exist_ok=True)
    about = {"identity": run.identity, "fingerprint": run.fingerprint} | about
    (run.path / "identity.json").write_text(json.dumps(about))
    (run.path / "metrics.json").write_text("{}")


def trained(plan: door.Plan) -> list[str]:
    steps = {entry["name"]: entry["jobs"] for entry in plan.steps()}
    return [target.split("/")[2] for target in steps.get("30_train", {})]


def test_a_run_of_the_same_identity_is_done_whatever_else_changed(near):
    assert trained(near.plan()) == ["thin+copy", "thin+sdi"]
    for run in near.plan().runs:
        finish(run)
    assert trained(near.plan()) == []
    near.save(run={"epochs": 1, "audit": True}, models=["thin+copy", "thin+sdi", "thin+sum"])
    assert trained(near.plan()) == ["thin+sum"], "another model, and an audit: neither supersedes"
    assert trained(near.plan("--seeds", "0", "1", "--models", "thin+copy")) == ["thin+copy"]
    finish(near.plan().runs[0], identity="another", fingerprint="of other images")
    assert trained(near.plan()) == ["thin+copy", "thin+sum"]


def test_images_that_change_are_another_run(near, fake_dataset):
    folder = fake_dataset()
    data = ["--datasets", f"folder:{folder}", "--models", "thin+copy"]
    finish(near.plan(*data).runs[0])
    assert trained(near.plan(*data)) == []
    mask = next((folder / "masks").iterdir())
    mask.write_bytes(next(reversed(list((folder / "masks").iterdir()))).read_bytes())
    plan._fingerprint.cache_clear()
    assert trained(near.plan(*data)) == ["thin+copy"]


def commit(run: plan.Run, fingerprint: str) -> None:
    """A record of `run` among the committed ones."""
    name = plan.identity(run.params, fingerprint)
    place = plan.RECORDS / run.wildcards["dataset"] / run.wildcards["model"]
    about = {"identity": name, "fingerprint": fingerprint, "log": {"val_dice": [0.5]}, "tests": {}}
    about |= {"params": deciding(run.params) | {"model": run.model}}
    record.write(place / f"s{run.seed}-{name}.json.gz", about)


def test_a_committed_record_counts_as_done(near, capsys):
    write(near.notebooks / "50_figures.ipynb", LESSON)
    first = near.plan().runs[0]
    commit(first, first.fingerprint)
    assert trained(near.plan()) == ["thin+sdi"] and "--train trains them" in capsys.readouterr().out
    assert trained(near.plan("--train")) == ["thin+copy", "thin+sdi"]
    steps = {entry["name"]: entry["jobs"] for entry in near.plan().steps()}
    assert steps["40_compare"]["compare/40_compare.ipynb"]["needs"] == [
        "runs/synthetic/thin+sdi/s0/.done"
    ]
    drawn = steps["50_figures"]["figures/synthetic/50_figures.ipynb"]["parameters"]
    assert yaml.safe_load(drawn)["models"] == ["thin+sdi"], "50 draws what has weights"
    assert trained(near.plan("--limit", "8")) == ["thin+copy", "thin+sdi"], "those are other runs"


def test_without_data_the_committed_records_answer(near, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    write(near.notebooks / "10_data.ipynb", LESSON)
    write(near.notebooks / "50_figures.ipynb", LESSON)
    near.save(datasets=["kvasir"])
    with pytest.raises(FileNotFoundError, match="kvasir"):
        near.plan("--only", "40")
    for run in near.plan("--dry-run").runs:
        commit(run, "the fingerprint of the committed runs")
    assert [entry["name"] for entry in near.plan("--only", "40").steps()] == ["40_compare"]
    capsys.readouterr()
    assert near.plan("--only", "50").steps() == []
    assert "50_figures kvasir: no weights to draw from; --train" in capsys.readouterr().out
    for number in (["10"], ["40", "--train"]):
        with pytest.raises(FileNotFoundError, match="kvasir"):
            near.plan("--only", *number).steps()


def test_a_superseded_run_does_not_stand_in_for_a_committed_one(near):
    first = near.plan().runs[0]
    commit(first, first.fingerprint)
    finish(first, identity="another")
    near.plan().tidy()
    assert not first.path.exists() and next(first.path.parent.glob("s0.*-1/metrics.json"))


@pytest.mark.slow
def test_a_superseded_run_is_trained_again_without_snakemakes_memory(near):
    """A copy of the outputs without hidden folders has .done, and not how it came about."""
    first = near.plan().runs[0]
    finish(first, identity="another")
    (first.path / ".done").touch()
    near.plan().tidy()
    assert not (first.path / ".done").exists()


def test_a_failure_is_explained_and_the_rest_goes_on(house):
    write(house.notebooks / "20_broken.ipynb", LESSON, BROKEN)
    write(house.notebooks / "21_dies.ipynb", DIES)
    fails = TRAIN + "\nif model == 'thin+copy':\n    (folder / 'metrics.json').unlink()\n    1 / 0"
    write(house.notebooks / "30_train.ipynb", fails)
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
    assert (house.out / "runs" / "synthetic" / "thin+sdi" / "s0" / "metrics.json").is_file()

    write(house.notebooks / "20_broken.ipynb", LESSON)
    status, output = house("--only", "20")
    assert status == 0 and output.startswith("[1/1] 20_broken ... ")


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(house):
    write(house.notebooks / "00_start.ipynb", "seconds = 600", SLOW)
    begun = house.out / "start" / "begun.txt"
    process = house.start("--only", "00")
    until = time.monotonic() + 120
    while not begun.is_file() and time.monotonic() < until:
        time.sleep(0.2)
    status, output = house("--only", "00")
    assert (
        status == 2 and "another run_all.sh is at work" in output and len(output.splitlines()) == 1
    )
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
        (["--models", "thin+sid"], "unknown model 'thin+sid'; did you mean 'thin+sdi"),
        (["--models", "unet"], "'thin+copy'"),
        (["--models", "thin+no_such_module:Mine"], "no_such_module"),
        (["--datasets", "folder:/nowhere"], "/nowhere"),
        (["--datasets", "folder:/a/mine", "folder:/b/mine"], "two have the same; rename one"),
        (["--datasets", "kvasr"], "unknown dataset 'kvasr'; did you mean 'kvasir'"),
        (["--encoder", "resnet19"], "unknown encoder 'resnet19'; did you mean 'resnet"),
        (
            ["--encoder", "tu-pvt_v3_b2"],
            "unknown encoder 'tu-pvt_v3_b2'; did you mean 'tu-pvt_v2_b2'",
        ),
        (["--config", "quik"], "unknown config 'quik'; did you mean 'quick'"),
        (["--config", "mine/none.yaml"], "no file mine/none.yaml"),
        (["--data", "/no/such/folder"], "data folder not found: /no/such/folder"),
        (["--weights", "/no/such/folder"], "weights folder not found: /no/such/folder"),
        (["--encoder-weights", "imagenet", "--weights", "."], "no weights of resnet18 in"),
        (["--only", "99"], "unknown notebook '99'"),
        (["--models", "malunet", "--encoder-weights", "imagenet"], "malunet has no pretrained"),
        (["--models", "pranet", "--encoder", "tu-test_vit"], "tu-test_vit has no pyramid of 5"),
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
        ({"model": ["thin+sdi"]}, "unknown parameter 'model'; did you mean 'models'"),
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
def test_a_wrong_config_is_one_clear_error(near, changes, message, capsys):
    near.save(**changes)
    assert door.main(near.place) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("role", ["lecture", None])
def test_a_notebook_says_how_it_takes_part(near, role):
    path = near.notebooks / "60_mine.ipynb"
    write(path, LESSON)
    about = json.loads(path.read_text())
    about["metadata"] = {"unetv2": {"role": role, "params": "LessonParams"}} if role else {}
    path.write_text(json.dumps(about))
    if role:
        with pytest.raises(ValueError, match="unknown role of 60_mine"):
            near.plan()
    else:
        assert "60" not in {one.number for one in near.plan().chosen}, "a notebook of the reader's"


@pytest.mark.parametrize("name", [path.stem for path in door.CONFIGS.glob("*.yaml")])
def test_configs_name_what_exists_and_can_be_planned(name, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    given = door.options(["--config", name, "--dry-run", "--train"])
    config = door.configure(given)
    door.check(door.names_in(config), known={})
    planned = door.Plan(config, tmp_path, given)
    runs = len(config.datasets) * len(config.every) * len(config.seeds)
    assert len(planned.todo) == runs and planned.steps()


def test_a_config_takes_from_its_base_what_it_does_not_say(tmp_path):
    (tmp_path / "long.yaml").write_text("{models: [a], seeds: [0], run: {epochs: 9, lr: 0.1}}")
    (tmp_path / "short.yaml").write_text("{base: long, seeds: [1], run: {epochs: 2}}")
    found = plan.Config.read(tmp_path / "short.yaml")
    assert found == {"models": ["a"], "seeds": [1], "run": {"epochs": 2, "lr": 0.1}}
    (tmp_path / "third.yaml").write_text("{base: short}")
    with pytest.raises(ValueError, match="its base short has itself a base: name long"):
        plan.Config.read(tmp_path / "third.yaml")
    (tmp_path / "third.yaml").write_text("{base: lonk}")
    with pytest.raises(ValueError, match=r"base of third.yaml 'lonk'; did you mean 'long'"):
        plan.Config.read(tmp_path / "third.yaml")


def test_names_that_are_not_looked_up_exist():
    door.check(door.KNOWN, known={})


def test_the_paper_configs_hold_the_papers_rows():
    for name, steps in (("isic2017", 75_000), ("isic2018", 75_000), ("polyps", None)):
        config = door.configure(door.options(["--config", f"paper-{name}"]))
        params = config.run_params(config.datasets[0], "unetv2", 0)
        assert params.encoder == "tu-pvt_v2_b2" and len(config.seeds) == 5
        assert config.models[:2] == ["smp-unet-stride2", "smp-unetplusplus-stride2"]
        if steps:
            assert params.epochs * params.steps_per_epoch == steps and params.batch_size == 49
    assert (params.image_size, params.epochs, params.recipe) == (352, 99, "released")


def test_data_are_looked_for_before_anything_runs_but_not_in_a_dry_run(
    near, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert door.main([*near.place, "--datasets", "kvasir"]) == 2
    assert "dataset 'kvasir' was not found" in capsys.readouterr().err
    assert near("--datasets", "kvasir", "--dry-run")[0] == 0


def test_overrides_win_over_the_config_and_its_datasets(near):
    near.save(per_dataset={"synthetic": {"image_size": 96, "epochs": 3}})
    given = [*near.place, "--image-size", "128", "--encoder-weights", "none", "--limit", "5"]
    params = door.configure(door.options(given)).run_params("synthetic", "thin+copy", 7)
    assert (params.image_size, params.encoder_weights, params.limit) == (128, None, 5)
    assert params.epochs == 3


def test_the_family_is_trained_for_43_alone(near):
    near.save(family=["thin+sdi", "tmi-unet-l1"], family_run={"width": 4})
    for name in ("42_costs", "43_study"):
        write(near.notebooks / f"{name}.ipynb", LESSON)
    widths = {run.model: run.params.width for run in near.plan().runs}
    assert widths == {"thin+copy": 32, "thin+sdi": 4, "tmi-unet-l1": 4}
    every = {one.number: one for one in near.plan().chosen}
    assert every["40"].models == ["thin+copy", "thin+sdi"]
    assert every["43"].values(None)["models"] == ["thin+sdi", "tmi-unet-l1"]
    assert trained(near.plan("--only", "42", "40")) == ["thin+copy", "thin+sdi"]
    assert trained(near.plan("--only", "43")) == ["thin+sdi", "tmi-unet-l1"]
    near.save()
    assert "43" not in {one.number for one in near.plan().chosen}, "nothing to study"


def test_a_readers_own_skip_goes_through_the_door(near, monkeypatch, tmp_path):
    (tmp_path / "mine_for_the_door.py").write_text("class Mine: pass")
    monkeypatch.syspath_prepend(tmp_path)
    own = near.plan("--models", "thin+mine_for_the_door:Mine", "thin+copy")
    door.check(door.names_in(own.config))
    assert own.runs[0].folder == "runs/synthetic/thin+mine_for_the_door.Mine/s0"
    training = next(entry for entry in own.steps() if entry["name"] == "30_train")
    entry = training["jobs"][own.runs[0].folder + "/.done"]
    assert yaml.safe_load(entry["parameters"])["model"] == "thin+mine_for_the_door:Mine"


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as end:
        door.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "--config paper-isic2017 --data DIR" in text
    assert "folder:PATH" in text and "--train" in text


def test_planning_quick_loads_no_torch():
    code = "import sys, door; door.main(['--dry-run']); print('torch' in sys.modules)"
    path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "workflow")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.slow
def test_trainings_share_the_gpus_and_threads_are_the_steps(house):
    seen = "import os\n(folder / 'seen').write_text("
    seen += "os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + os.environ['OMP_NUM_THREADS'])"
    write(house.notebooks / "30_train.ipynb", TRAIN + seen)
    status, output = house("--only", "30", CUDA_VISIBLE_DEVICES="4,6", OMP_NUM_THREADS="99")
    assert status == 0, output
    threads = max(1, (os.cpu_count() or 1) // 2)
    found = sorted(path.read_text() for path in house.out.glob("runs/*/*/s0/seen"))
    assert found == [f"4 {threads}", f"6 {threads}"]
    planned = json.loads((house.out / "plan.json").read_text())
    assert planned["gpus"] == ["4", "6"]


@pytest.mark.parametrize(
    ("given", "found"), [("0,1", ["0", "1"]), ("", []), ("-1", []), ("GPU-a", ["GPU-a"])]
)
def test_gpus_are_those_that_may_be_used(given, found, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert door.gpus() == found


@pytest.mark.parametrize(
    ("seconds", "text"), [(41.2, "41 s"), (725, "12 min 5 s"), (12000, "3 h 20 min")]
)
def test_times_are_readable(seconds, text):
    assert reporter.duration(seconds) == text
