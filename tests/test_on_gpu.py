"""The GPU programme: its stages at tiny size on a CPU, its minutes, failures and going on."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_trainings  # noqa: E402
import on_gpu  # noqa: E402
import stages  # noqa: E402

from unetv2.evaluation import record  # noqa: E402
from unetv2.evaluation.identity import deciding, identity  # noqa: E402


def stage(name, code, minutes=0.0, **more):
    """A stage of one Python program."""
    commands = more.pop("commands", lambda: [stages.python("-c", code)])
    made = {"result": lambda: {"found": 1}, **more}
    return stages.Stage(name, minutes, "the command", "the protocol", commands, **made)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(stages, "GRACE", 0.5)


@pytest.fixture
def place(monkeypatch):
    """main() changes the folder, the environment and what a signal does."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(on_gpu.signal, "signal", lambda *_: None)
    for name in ("UNETV2_CACHE", "TQDM_DISABLE", "DATA_DIR", "WEIGHTS_DIR"):
        monkeypatch.setenv(name, "set")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", "workflow"]))


def test_every_stage_at_tiny_size(tmp_path, place):
    names = ["tests", "quick", "speed-best", "frames", "isic2017"]  # the others are alike
    call = ["--minutes", "20", "--out", str(tmp_path), "--rehearse", "--stages", *names]
    assert on_gpu.main(call) == 0, [p.read_text()[-500:] for p in tmp_path.glob("logs/*")]
    for name in names:
        (found,) = tmp_path.glob(f"{name}*.json")
        text = found.read_text()
        values = json.loads(text)
        values = values[0] if isinstance(values, list) else values  # speed: one per processor
        assert values["command"] and values["protocol"]
        assert values["environment"]["device"] == "cpu" and values["environment"]["torch"]
        assert str(tmp_path) not in text and str(ROOT) not in text
    (row,) = json.loads((tmp_path / "isic2017-s0.json").read_text())["runs"]
    (kept,) = tmp_path.glob("records/*/*/*.json.gz")
    params = record.RunParams.make(record.load(kept)["params"])
    there = record.home(params) / kept.name  # where it is committed
    assert there.relative_to(on_gpu.ROOT / record.FOLDER) == kept.relative_to(tmp_path / "records")
    assert row["record"] == kept.name and 0 <= row["tests"]["test"]["per_image"]["dice"] <= 1


def test_the_costs_are_a_call_that_their_command_understands(tmp_path):
    from unetv2.costs import command

    (words,) = on_gpu._costs(tmp_path, rehearse=False).commands()
    given = command._parser().parse_args(words[words.index("costs") + 1 :])
    assert given.device == "cuda" and given.sizes == [256, 352]
    assert given.models == on_gpu.SKIPS and given.out == tmp_path / "costs.json"


def test_a_recorded_training_is_not_repeated(tmp_path, place):
    options = ("--config", "ablation-isic2017-e24", *gpu_trainings.TINY)
    config = gpu_trainings.config_of(options)
    (run,) = gpu_trainings.runs_of(options, config, ["thin+copy"], 0, tmp_path)
    assert (
        run.path.is_relative_to(tmp_path / "work") and gpu_trainings.recorded(run, tmp_path) is None
    )
    found = record.load(next((ROOT / record.FOLDER).glob("isic2017/thin+copy/s0-*")))
    found |= {"fingerprint": "f" * 16, "params": deciding(run.params)}
    found |= {"identity": identity(run.params, "f" * 16)}
    name = f"s0-{found['identity']}.json.gz"
    record.write(tmp_path / "records" / "synthetic" / "thin+copy" / name, found)
    assert gpu_trainings.recorded(run, tmp_path).name == name
    assert gpu_trainings.kept(run, tmp_path)["record"] == name
    first = gpu_trainings.trainings(tmp_path, None, 1, rehearse=True)[0]
    assert first.commands() == [] and first.result()["runs"][0]["record"] == name


def test_a_stage_that_fails_is_reported_and_the_next_goes_on(tmp_path, capsys):
    todo = [
        stage("broken", "raise SystemExit('the moon is in the wrong phase')"),
        stage("absent", "", commands=lambda: open("/no/such/file")),
        stage("silent", "", result=None),  # it should have written its file itself
        stage("well", "print(1)"),
    ]
    assert stages.go(todo, tmp_path, minutes=5) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["FAILED:", "FAILED:", "FAILED:", "done"]
    assert "the moon is in the wrong phase" in lines[0] and "broken-1.log" in lines[0]
    assert "/no/such/file" in lines[1] and "wrote no silent.json" in lines[2]
    assert [path.name for path in tmp_path.glob("*.json")] == ["well.json"]
    values = json.loads((tmp_path / "well.json").read_text())
    assert values["found"] == 1 and values["protocol"] == "the protocol" and values["seconds"] >= 0


def test_what_is_done_is_skipped_and_what_does_not_fit_is_not_begun(tmp_path, capsys):
    (tmp_path / "before.json").write_text("{}")
    touch = f"open({str(tmp_path / 'begun')!r}, 'w')"
    todo = [
        stage("before", touch),
        stage("long", touch, minutes=10),
        stage("trainings", touch, minutes=10, resumes=True),  # two minutes suffice to begin
    ]
    assert stages.go(todo, tmp_path, minutes=2) == 0  # less than that, with the time to end
    said = capsys.readouterr().out
    assert "before         done before" in said and not (tmp_path / "begun").exists()
    assert "long           not begun: it needs 10 minutes, 1.7 are left" in said
    assert "trainings      not begun: it needs 2 minutes" in said
    assert stages.go(todo[2:], tmp_path, minutes=3) == 0
    assert (tmp_path / "begun").exists() and (tmp_path / "trainings.json").is_file()


def test_a_stopped_training_goes_on_in_the_next_call(tmp_path, capsys, monkeypatch, fast):
    """Its child ends with it, and the second call finds what the first had written."""
    counter = tmp_path / "epochs"
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"file = pathlib.Path({str(counter)!r})\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "while (n := len(file.read_text()) if file.exists() else 0) < 40:\n"
        "    file.write_text('x' * (n + 1))\n"
        "    time.sleep(0.1)\n"
        "child.kill()\n"
    )
    monkeypatch.setattr(stages, "BEGIN", 0.0)
    training = stage("training", code, resumes=True)
    assert stages.go([training], tmp_path, minutes=2.5 / 60) == 0
    assert "stopped, the time is over: the next call goes on" in capsys.readouterr().out
    reached = len(counter.read_text())
    assert 0 < reached < 40 and not (tmp_path / "training.json").exists()
    pid = int((tmp_path / "child").read_text())
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child of a stopped command lives on")
    assert stages.go([training], tmp_path, minutes=1) == 0
    assert len(counter.read_text()) == 40 and (tmp_path / "training.json").is_file()
    fixed = stage("fixed", "import time; time.sleep(60)")
    assert stages.go([fixed], tmp_path, minutes=1.5 / 60) == 1
    assert "stopped, the time is over: give it more minutes" in capsys.readouterr().out


def test_trainings_run_at_most_so_many_at_a_time(tmp_path):
    wait = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); p.touch(); "
    wait += "n = len(list(p.parent.glob('run*'))); time.sleep(0.3); p.unlink(); sys.exit(n > 2)"
    many = [stages.python("-c", wait, tmp_path / f"run{k}") for k in range(5)]
    assert stages.go([stage("many", "", commands=lambda: many)], tmp_path, 5, jobs=2) == 0


def test_trainings_come_seed_by_seed_and_the_arms_last(tmp_path):
    every = gpu_trainings.trainings(tmp_path, None, 3, rehearse=False)
    names = [one.name for one in every]
    assert names[:4] == ["isic2017-s0", "pranet-s0", "isic2017-s1", "pranet-s1"]
    assert names[10:] == [f"arms-s{seed}" for seed in range(5)]
    copy = "--models thin+copy thin+nested thin+sdi --seeds 0"
    size = "--encoder resnet50 --image-size 256"
    assert size in every[0].command and copy in every[0].command
    assert "thin+sdi-noattention" in every[10].command and copy not in every[10].command
    (tmp_path / gpu_trainings.PVT).touch()
    papers = gpu_trainings.trainings(tmp_path, tmp_path, 3, rehearse=False)
    assert [one.command.split()[2] for one in papers[:2]] == ["paper-isic2017", "paper-polyps"]
    assert len(papers) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "sped-best"], "did you mean 'speed-best'"),
        (["--data", "nowhere"], "nowhere"),
        ([], "--rehearse goes through the stages on a CPU"),
    ],
)
def test_a_call_that_cannot_be_carried_out(tmp_path, place, capsys, monkeypatch, words, message):
    monkeypatch.setattr(on_gpu.env, "gpu_problem", lambda: "no GPU")
    assert on_gpu.main(["--minutes", "5", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
