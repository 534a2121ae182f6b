"""Training: the same seed gives the same weights, killed or not; recipes; one clear error for each misuse."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unetv2 import data, env, evaluate, files, losses, models, train
from unetv2.data import SegData, Split, synthetic
from unetv2.params import RunParams

LIB = str(Path(train.__file__).parents[1])


class Tiny(nn.Module):
    """Two levels, two maps (deep supervision), dropout and batch norm: all that a resume can get wrong."""

    def __init__(self, classes=1):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.fine, self.coarse = nn.Conv2d(8, classes, 3, 1, 1), nn.Conv2d(8, classes, 1)

    def forward(self, x):
        if x.shape[-1] % 32:
            raise RuntimeError("Wrong input shape: expected a multiple of 32")
        y = self.down(x)
        fine = nn.functional.interpolate(self.fine(y), x.shape[-2:], mode="bilinear")
        return [fine, self.coarse(y)] if self.training else fine


def tiny(seed=0, classes=1):
    torch.manual_seed(seed)
    return Tiny(classes)


@pytest.fixture(scope="module")
def seg():
    images, masks = synthetic.make("lesion", 20, 32, seed=0)
    ids = [str(i) for i in range(20)]
    train_, val, test = (Split(ids[s], images[s], masks[s]) for s in (slice(12), slice(12, 16), slice(16, 20)))
    return SegData("toy", ("lesion",), train_, val, {"test": test})


def params(folder, **kwargs):
    values = {"image_size": 32, "epochs": 3, "batch_size": 4, "device": "cpu", "output_dir": str(folder)}
    return RunParams.make(values | kwargs)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def log(folder):
    rows = np.genfromtxt(folder / "log.csv", delimiter=",", names=True)
    return rows[[name for name in rows.dtype.names if name != "seconds"]].tolist()


def stop_in_epoch(monkeypatch, epoch, error=KeyboardInterrupt):
    """Interrupt the training in the middle of epoch `epoch` (from 0)."""
    loader = train._loader

    def cut(split, e, *args):
        batches = loader(split, e, *args)
        if e == epoch:
            batches = (batch if i == 0 else (_ for _ in ()).throw(error) for i, batch in enumerate(batches))
        return batches

    monkeypatch.setattr(train, "_loader", cut)


def test_a_run_folder_is_complete_and_the_model_is_its_best(tmp_path, seg):
    model = tiny()
    result = train.fit(model, seg, params(tmp_path, lr=0.02, epochs=4))
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,loss,val_dice,val_iou,lr,seconds"
    best = max(result["history"], key=lambda row: row["val_dice"])
    assert (result["best_epoch"], result["val_dice"]) == (best["epoch"], best["val_dice"])
    assert same(weights(tmp_path), model.state_dict())
    pairs = zip(evaluate.predict(model, seg.val), seg.val.masks, strict=True)
    dice = np.mean([2 * tp / max(2 * tp + fp + fn, 1) for z, m in pairs for tp, fp, fn in evaluate.confusion(z, m, 1)])
    assert dice == pytest.approx(result["val_dice"])
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    assert result["history"][-1]["lr"] == pytest.approx(0.02 * (1 / 12) ** 0.9)  # the 12th of 12 steps


def test_same_seed_same_weights(tmp_path, seg):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.fit(tiny(), seg, params(tmp_path / name, seed=seed))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))  # order, augmentation and dropout differ


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, seg, monkeypatch, recipe, epoch):
    settings = {"recipe": recipe, "augment": "strong", "lr": 0.01}
    train.fit(tiny(), seg, params(tmp_path / "whole", **settings))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_epoch(patch, epoch)
        train.fit(tiny(), seg, params(tmp_path / "killed", **settings))
    torch.rand(7)  # whatever happens in between
    model = tiny(seed=5)  # not even the start matters once an epoch is done
    train.fit(model if epoch else tiny(), seg, params(tmp_path / "killed", workers=1, **settings))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert log(tmp_path / "whole") == log(tmp_path / "killed")


def test_a_finished_training_is_not_repeated(tmp_path, seg, monkeypatch):
    first = train.fit(tiny(), seg, params(tmp_path))
    monkeypatch.setattr(train, "_loader", None)
    assert train.fit(tiny(3), seg, params(tmp_path)) == first
    with pytest.raises(ValueError, match=r"holds another run .*seed: 0 there, 1 asked"):
        train.fit(tiny(), seg, params(tmp_path, seed=1))


def test_run_writes_everything_and_is_not_repeated(tmp_path, seg, monkeypatch):
    built = []
    monkeypatch.setattr(data, "load", lambda *a, **k: seg)
    monkeypatch.setattr(models, "build", lambda *a, **k: built.append(a) or tiny())
    result = train.run(params(tmp_path))
    names = ["env.json", "log.csv", "metrics.json", "model.safetensors", "params.json", "per_image.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    assert set(result) == {"dataset", "model", "seed", "best_epoch", "val_dice", "params", "protocol", "tests"}
    assert str(tmp_path) not in (tmp_path / "env.json").read_text()
    assert train.run(params(tmp_path)) == result and len(built) == 1
    model, loaded = evaluate.load_run(tmp_path)
    assert loaded == params(tmp_path) and same(model.state_dict(), weights(tmp_path))


def test_released_recipe(seg, tmp_path, monkeypatch):
    """Three steps a batch at 0.75, 1, 1.25 in multiples of 32; constant rate; each element of the gradient in +-0.5."""
    images = torch.zeros(2, 3, 352, 352)
    sizes = [x.shape[-1] for x, _ in train._scaled([{"image": images, "mask": images[:, :1]}], (0.75, 1, 1.25), "cpu")]
    assert sizes == [256, 352, 448]
    model, seen = tiny(), []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        seen.append((max(p.grad.abs().max().item() for p in model.parameters()), self.param_groups[0]["lr"]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    make = losses.make
    monkeypatch.setattr(losses, "make", lambda *a: lambda out, mask: 1e4 * make(*a)(out, mask))
    train.fit(model, seg, params(tmp_path, recipe="released", epochs=2))
    assert len(seen) == 2 * 3 * 3
    assert {lr for _, lr in seen} == {1e-4} and max(g for g, _ in seen) == 0.5


def test_several_classes(tmp_path, seg):
    split = Split(
        seg.train.ids, seg.train.images, seg.train.masks * (1 + np.arange(12) % 2)[:, None, None].astype("uint8")
    )
    two = SegData("two", ("a", "b"), split, split, {"test": split})
    result = train.fit(tiny(classes=3), two, params(tmp_path, lr=0.02))
    assert 0 <= result["val_dice"] <= 1 and result["history"][-1]["loss"] < result["history"][0]["loss"]
    with pytest.raises(ValueError, match="use 'paper'"):
        train.fit(tiny(classes=3), two, params(tmp_path / "b", recipe="released"))


def test_nan_stops_and_keeps_the_best(tmp_path, seg, monkeypatch):
    make, calls = losses.make, []

    def poisoned(*args):
        def loss(out, mask):
            calls.append(1)
            return make(*args)(out, mask) * (float("nan") if len(calls) == 5 else 1)  # in epoch 2 of 3 steps

        return loss

    with monkeypatch.context() as patch, pytest.raises(FloatingPointError, match="the loss is nan in epoch 2, step 2"):
        patch.setattr(losses, "make", poisoned)
        train.fit(tiny(), seg, params(tmp_path))
    assert all(torch.isfinite(t).all() for t in weights(tmp_path).values())
    assert len(train.fit(tiny(), seg, params(tmp_path))["history"]) == 3  # and the run can go on


def test_weights_that_blow_up_after_the_last_step_are_not_kept(tmp_path, seg, monkeypatch):
    def boom(self, *args, **kwargs):
        for p in self.param_groups[0]["params"]:
            p.data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.Adam, "step", boom)
    with pytest.raises(FloatingPointError, match=r"not finite.*no epoch was finished"):
        train.fit(tiny(), seg, params(tmp_path, batch_size=12))
    assert not (tmp_path / "model.safetensors").exists() and not (tmp_path / "resume.pt").exists()


@pytest.mark.parametrize("damage", ["cut", "noise", "pickle"])
def test_corrupt_resume_checkpoint(tmp_path, seg, monkeypatch, damage):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_epoch(patch, 1)
        train.fit(tiny(), seg, params(tmp_path))
    path = tmp_path / "resume.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "noise":
        path.write_bytes(os.urandom(2000))
    else:

        class Bomb:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "boom"),))

        torch.save({"history": Bomb()}, path)
    with pytest.raises(ValueError, match=r"resume.pt is corrupt .* delete it to train again"):
        train.fit(tiny(), seg, params(tmp_path))
    assert not (tmp_path / "boom").exists()


def test_out_of_memory_names_what_to_lower(tmp_path, seg, monkeypatch):
    for k, error in enumerate((torch.OutOfMemoryError("CUDA out of memory"), MemoryError())):
        with (
            monkeypatch.context() as patch,
            pytest.raises(MemoryError, match=r"batch_size \(now 4\) or image_size \(now 32"),
        ):
            stop_in_epoch(patch, 0, error)
            train.fit(tiny(), seg, params(tmp_path / str(k)))
    with pytest.raises(RuntimeError, match="something else"), monkeypatch.context() as patch:
        stop_in_epoch(patch, 0, RuntimeError("something else"))
        train.fit(tiny(), seg, params(tmp_path / "other"))


def test_errors_before_training(tmp_path, seg, monkeypatch):
    monkeypatch.setattr(train, "_loader", None)  # nothing below may get as far as a batch
    with pytest.raises(ValueError, match=r"image_size=50 cannot be used with .*Wrong input shape.*try 32 or 64"):
        train.fit(tiny(), seg, params(tmp_path / "size", image_size=50))
    assert not (tmp_path / "size").exists()
    with pytest.raises(RuntimeError, match="precision 'fp16' is for a GPU"):
        train.fit(tiny(), seg, params(tmp_path, precision="fp16"))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="'cuda' was asked for"):
            train.fit(tiny(), seg, params(tmp_path, device="cuda"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/run/params.json"):
        train.fit(tiny(), seg, params(tmp_path / "file" / "run"))
    with pytest.raises(ValueError, match="not enough"):
        train.fit(tiny(), SegData("toy", ("a",), seg.train, Split([], [], []), {}), params(tmp_path))
    monkeypatch.setattr(train.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="has 0 MiB free"):
        train.fit(tiny(), seg, params(tmp_path / "full"))


def test_a_disk_that_fills_up_leaves_the_last_epoch(tmp_path, seg, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    train.fit(tiny(), seg, params(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"No space left.*free space"):
        patch.setattr(torch, "save", full)
        train.fit(tiny(), seg, params(tmp_path / "run"))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["model.safetensors", "params.json"]
    train.fit(tiny(), seg, params(tmp_path / "run"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_bf16(tmp_path, seg):
    model = tiny()
    result = train.fit(model, seg, params(tmp_path, precision="bf16"))
    assert np.isfinite([row["loss"] for row in result["history"]]).all()
    assert {t.dtype for t in weights(tmp_path).values()} == {torch.float32, torch.int64}
    assert model.eval()(torch.zeros(1, 3, 32, 32)).dtype == torch.float32  # autocast is gone again


def test_channels_last(tmp_path, seg, monkeypatch):
    """Another layout of the same training: files as ever, and a killed run goes on to the same bits."""
    plain = train.fit(tiny(), seg, params(tmp_path / "plain"))
    model = tiny()
    fast = train.fit(model, seg, params(tmp_path / "whole", channels_last=True))
    assert model.fine.weight.is_contiguous(memory_format=torch.channels_last)
    assert fast["history"][0]["loss"] == pytest.approx(plain["history"][0]["loss"], rel=1e-3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_epoch(patch, 1)
        train.fit(tiny(), seg, params(tmp_path / "killed", channels_last=True))
    train.fit(tiny(5), seg, params(tmp_path / "killed", channels_last=True))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_compile(tmp_path, seg, monkeypatch, capsys):
    def small():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1))

    plain = train.fit(small(), seg, params(tmp_path / "plain"))
    monkeypatch.setattr(env, "compile_problem", lambda device: "no compiler")
    train.fit(small(), seg, params(tmp_path / "left_out", compile=True))
    assert "compile is left out: no compiler" in capsys.readouterr().out
    assert same(weights(tmp_path / "left_out"), weights(tmp_path / "plain"))
    monkeypatch.undo()
    if problem := env.compile_problem("cpu"):
        pytest.skip(problem)
    compiled, calls = train.fit(small(), seg, params(tmp_path / "compiled", compile=True)), torch._dynamo.utils.counters
    assert calls["stats"]["unique_graphs"] > 0
    losses_ = ([row["loss"] for row in result["history"]] for result in (compiled, plain))
    np.testing.assert_allclose(*losses_, rtol=1e-4)
    assert weights(tmp_path / "compiled").keys() == weights(tmp_path / "plain").keys()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_gpu(tmp_path, seg, precision):
    result = train.fit(tiny(), seg, params(tmp_path, device="cuda", precision=precision, lr=0.02))
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]


ARGS = ["--model", "unet", "--encoder", "resnet18", "--image-size", "32", "--limit", "8", "--batch-size", "4"]


def command(*args, launcher=(sys.executable, "-m")):
    environment = os.environ | {"PYTHONPATH": LIB, "TQDM_DISABLE": "1", "ACCELERATE_USE_CPU": "true"}
    environment["OMP_NUM_THREADS"] = "1"
    return [*launcher, "unetv2.train", *ARGS, *args], environment


def test_two_processes_over_torchrun(tmp_path):
    """Only one process writes, and its folder is complete; the released recipe leaves heads without a loss."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    line, environment = command(
        "--epochs", "2", "--recipe", "released", "--output-dir", str(tmp_path), launcher=launcher
    )
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 1/2") == 1 and done.stdout.count("per_image  Dice") == 1
    names = ["env.json", "log.csv", "metrics.json", "model.safetensors", "params.json", "per_image.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert len(log(tmp_path)) == 2


def test_a_terminated_process_leaves_a_resumable_folder(tmp_path):
    line, environment = command("--epochs", "60", "--output-dir", str(tmp_path))
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "resume.pt").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, process.stdout.read()
    assert {p.name for p in tmp_path.iterdir()} <= {"params.json", "resume.pt", "model.safetensors", "log.csv"}
    history = torch.load(tmp_path / "resume.pt", weights_only=True)["history"]
    assert 1 <= len(history) < 60 and len(
        evaluate.load_weights(models.build("unet"), tmp_path / "model.safetensors").state_dict()
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--epochs", "0"], "epochs=0"), (["--seed", "x"], "seed='x'"), (["--recipe", "papr"], "recipe='papr'"),
     (["--dataset", "syntetic"], "did you mean 'synthetic'"), (["--lr", "-1"], "lr=-1")],
)  # fmt: skip
def test_command_line_errors(args, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        train.main([*args, "--output-dir", str(tmp_path / "run"), "--device", "cpu"])
    assert not (tmp_path / "run").exists()


def test_every_parameter_is_an_option(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "example:" in text
    for name in RunParams.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    given = vars(train._parser().parse_args("--lr 1e-3 --encoder-weights None --data 7 --limit 5".split()))
    assert given == {"lr": 1e-3, "encoder_weights": None, "data_dir": "7", "limit": 5}


def test_files_stay_whole_when_writing_fails(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match="cannot write"), files.atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
