"""Training: the same seed gives the same weights, killed or not; one error for each misuse."""

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

from unetv2 import data, networks
from unetv2.common import env, files
from unetv2.common.params import RunParams
from unetv2.data import SegData, Split, synthetic
from unetv2.evaluation import identity, record, score
from unetv2.inference.infer import predict
from unetv2.inference.load import load_run, load_weights
from unetv2.training import fit as train
from unetv2.training import losses, recipes, run

FILES = {
    "env.json", "identity.json", "log.csv", "metrics.json", "model.safetensors", "params.json",
    "per_image.csv", "record.json.gz",
}  # fmt: skip
LIB = str(Path(train.__file__).parents[2])
pytestmark = pytest.mark.usefixtures("one_thread")


class Tiny(nn.Module):
    """Two maps (deep supervision), dropout, batch norm: all that a resume can get wrong."""

    def __init__(self, classes=1):
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
        )
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


def toy():
    images, masks = synthetic.make("lesion", 20, 32, seed=0)
    ids = [str(i) for i in range(20)]
    parts = (slice(12), slice(12, 16), slice(16, 20))
    train_, val, test = (Split(ids[s], images[s], masks[s]) for s in parts)
    return SegData("toy", ("lesion",), train_, val, {"test": test}, fingerprint="f" * 16)


@pytest.fixture(scope="module")
def seg():
    return toy()


def params(folder, **kwargs):
    values = {"image_size": 32, "epochs": 3, "batch_size": 4, "device": "cpu", "studies": False}
    values["output_dir"] = str(folder)
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
            batches = (
                batch if i == 0 else (_ for _ in ()).throw(error) for i, batch in enumerate(batches)
            )
        return batches

    monkeypatch.setattr(train, "_loader", cut)


def test_a_run_folder_is_complete_and_the_model_is_its_best(tmp_path, seg):
    model = tiny()
    result = train.fit(model, seg, params(tmp_path, lr=0.02, epochs=4))
    assert (tmp_path / "log.csv").read_text().splitlines()[
        0
    ] == "epoch,loss,val_dice,val_iou,lr,seconds"
    best = max(result["history"], key=lambda row: row["val_dice"])
    assert (result["best_epoch"], result["val_dice"]) == (best["epoch"], best["val_dice"])
    assert same(weights(tmp_path), model.state_dict())
    pairs = zip(predict(model, seg.val), seg.val.masks, strict=True)
    dice = np.mean(
        [
            2 * tp / max(2 * tp + fp + fn, 1)
            for z, m in pairs
            for tp, fp, fn in score.confusion(z, m, 1)
        ]
    )
    assert dice == pytest.approx(result["val_dice"])
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    assert result["history"][-1]["lr"] == pytest.approx(
        0.02 * (1 / 12) ** 0.9
    )  # the 12th of 12 steps


def test_same_seed_same_weights(tmp_path, seg):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train.fit(tiny(), seg, params(tmp_path / name, seed=seed))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(
        weights(tmp_path / "a"), weights(tmp_path / "c")
    )  # order, augmentation and dropout differ


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


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_killed_between_checkpoint_and_best_weights(tmp_path, seg, monkeypatch, epoch):
    train.fit(tiny(), seg, params(tmp_path / "whole", lr=0.01))
    write = train._write_best

    def cut(run_dir, weights, history, classes):
        if len(history) == epoch:
            raise KeyboardInterrupt
        write(run_dir, weights, history, classes)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "_write_best", cut)
        train.fit(tiny(), seg, params(tmp_path / "killed", lr=0.01))
    train.fit(tiny(seed=5), seg, params(tmp_path / "killed", lr=0.01))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert log(tmp_path / "whole") == log(tmp_path / "killed")


def test_a_finished_training_is_not_repeated(tmp_path, seg, monkeypatch):
    first = train.fit(tiny(), seg, params(tmp_path))
    monkeypatch.setattr(train, "_loader", None)
    assert train.fit(tiny(3), seg, params(tmp_path)) == first
    with pytest.raises(ValueError, match=r"holds another run .*seed: 0 there, 1 asked"):
        train.fit(tiny(), seg, params(tmp_path, seed=1))


@pytest.fixture
def runs(seg, monkeypatch):
    """`run.run` on `seg` with the tiny network; a list of the networks that were built."""
    built = []
    monkeypatch.setattr(data, "load", lambda *a, **k: seg)
    monkeypatch.setattr(data, "fingerprint", lambda *a, **k: seg.fingerprint)
    monkeypatch.setattr(networks, "for_run", lambda *a, **k: built.append(k) or tiny())
    return built


def test_run_writes_everything_and_is_not_repeated(tmp_path, runs, monkeypatch):
    result = run.run(params(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    keys = {"dataset", "model", "seed", "best_epoch", "val_dice", "params", "protocol", "tests"}
    assert set(result) == keys
    assert str(tmp_path) not in (tmp_path / "env.json").read_text()
    found = record.load(tmp_path / "record.json.gz")
    who = json.loads((tmp_path / "identity.json").read_text())
    assert who == {key: found[key] for key in ("identity", "fingerprint", "training_version")}
    assert found["tests"]["test"]["ids"] == ["16", "17", "18", "19"]
    built = len(runs)
    assert run.run(params(tmp_path, audit=True, device="auto")) == result
    with pytest.raises(ValueError, match="is finished and was not tested on cvc300; score it with"):
        run.run(params(tmp_path, also_test=["cvc300"]))
    assert len(runs) == built == 1
    model, loaded = load_run(tmp_path)
    assert loaded == params(tmp_path) and same(model.state_dict(), weights(tmp_path))

    def absent(*args, **kwargs):
        raise FileNotFoundError("no data")

    monkeypatch.setattr(data, "fingerprint", absent)  # a finished run needs its data no more
    built = len(runs)
    assert run.run(params(tmp_path)) == result and len(runs) == built
    with pytest.raises(FileNotFoundError, match="no data"):
        run.run(params(tmp_path / "new"))


def test_a_folder_of_another_run_is_refused_and_says_why(tmp_path, runs, seg, monkeypatch):
    run.run(params(tmp_path))
    cases = [
        ({"lr": 0.1}, "lr: None there, 0.1 asked"),
        ({"model": "thin+copy"}, "model: 'thin\\+sdi' there, 'thin\\+copy' asked"),
        ({"lr": 0.1, "seed": 2}, "lr: .*; seed: 0 there, 2 asked"),
    ]
    for changes, why in cases:
        with pytest.raises(ValueError, match=f"holds another run .*{why}"):
            run.run(params(tmp_path, **changes))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="training code"):
        patch.setattr(identity, "TRAINING_VERSION", -1)
        patch.setattr(train, "TRAINING_VERSION", -1)
        run.run(params(tmp_path))
    monkeypatch.setattr(data, "fingerprint", lambda *a, **k: "e" * 16)
    with pytest.raises(ValueError, match="other images, masks or split"):
        run.run(params(tmp_path))


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_the_encoder_gets_the_recipes_drop_path(tmp_path, runs, recipe):
    run.run(params(tmp_path, recipe=recipe, epochs=1))
    assert runs[0]["drop_path"] == (0.1 if recipe == "released" else 0)


def test_the_audit_is_logged_and_changes_nothing(tmp_path, runs, monkeypatch):
    """A test score that draws random numbers would be the worst; the weights do not move."""
    settings = {"augment": "strong", "lr": 0.02}
    run.run(params(tmp_path / "plain", **settings))

    def noisy(model, *args):
        torch.rand(3), np.random.seed(3), model.eval()  # noqa: NPY002
        return 0.5

    with monkeypatch.context() as patch:
        patch.setattr(score, "test_dice", noisy)
        run.run(params(tmp_path / "noisy", audit=True, **settings))
    run.run(params(tmp_path / "audited", audit=True, **settings))
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "noisy"))
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "audited"))
    plain, audited = (record.load(tmp_path / n / "record.json.gz") for n in ("plain", "audited"))
    dice = audited["log"].pop("test_dice")
    assert plain["log"] == audited["log"] and plain["identity"] == audited["identity"]
    best = audited["best_epoch"] - 1
    summary = audited["tests"]["test"]["summary"]["per_image"]["dice"]
    assert dice[best] == pytest.approx(summary, abs=1e-5)
    run.run(params(tmp_path / "own", audit=True, dataset="folder:mine"))  # of a reader: never
    assert "test_dice" not in (tmp_path / "own" / "log.csv").read_text()


def test_steps_per_epoch_go_through_the_images_again_and_again(tmp_path, seg):
    """Seven batches of 4 of 12 images: two whole passes and a third begun, each in its order."""
    model = tiny()
    size, batches, parts = train._training_part(model, seg, params(tmp_path, steps_per_epoch=7), 1)
    assert (size, batches, len(parts)) == (4, 7, 3)
    settings = params(tmp_path, steps_per_epoch=7, augment="strong")
    accelerator = train.accelerator_for(settings)
    size, batches, parts = train._training_part(model, seg, settings, 1)
    loader = train._loader(parts, 1, size, batches, settings, accelerator)
    order = np.concatenate([batch["index"] for batch in loader])
    first, second, third = order[:12], order[12:24], order[24:]
    assert sorted(first) == sorted(second) == list(range(12)) and len(set(third)) == 4
    assert first.tolist() != second.tolist()
    again = torch.cat([batch["image"] for batch in loader])
    once, twice = (again[12 * k : 12 * k + 12][np.argsort(order[12 * k :][:12])] for k in (0, 1))
    assert not torch.equal(once[0], twice[0])  # the same image, augmented anew

    train.fit(tiny(), seg, params(tmp_path / "pass"))
    train.fit(tiny(), seg, params(tmp_path / "steps", steps_per_epoch=3))
    assert same(weights(tmp_path / "pass"), weights(tmp_path / "steps"))  # three batches are a pass
    result = train.fit(tiny(), seg, params(tmp_path / "long", steps_per_epoch=7, lr=0.02))
    assert result["history"][-1]["lr"] == pytest.approx(0.02 * (1 / 21) ** 0.9)


def test_the_part_of_the_data_that_the_parameters_name(tmp_path, runs, seg, monkeypatch):
    asked = []
    monkeypatch.setattr(data, "load", lambda *a, **k: asked.append(k) or seg)
    run.run(params(tmp_path, limit=9, train_share=0.5, drop_duplicates=True, epochs=1))
    assert asked == [{"limit": 9, "share": 0.5, "drop_duplicates": True}]


def test_the_model_sees_images_in_its_encoders_normalisation(tmp_path, seg):
    model = tiny()
    model.normalisation = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    settings = params(tmp_path, augment="none")
    own, usual = (train._training_part(m, seg, settings, 1)[2][0][0] for m in (model, tiny()))
    pixels = torch.from_numpy(seg.train.images[0].copy()).movedim(-1, 0) / 255
    torch.testing.assert_close(own["image"], (pixels - 0.5) / 0.25)
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.MEAN, data.STD))
    torch.testing.assert_close(usual["image"], (pixels - mean) / std)


def test_released_recipe(seg, tmp_path, monkeypatch):
    """Steps at 0.75, 1, 1.25 in multiples of 32; constant rate; the gradient within +-0.5."""
    images = torch.zeros(2, 3, 352, 352)
    sizes = [
        x.shape[-1]
        for x, _ in train._scaled(
            [{"image": images, "mask": images[:, :1]}], recipes.RECIPES["released"], "cpu", (0, 1)
        )
    ]
    assert sizes == [256, 352, 448]
    model, seen = tiny(), []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        seen.append(
            (max(p.grad.abs().max().item() for p in model.parameters()), self.param_groups[0]["lr"])
        )
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    make = losses.make
    monkeypatch.setattr(losses, "make", lambda *a: lambda out, mask: 1e4 * make(*a)(out, mask))
    train.fit(model, seg, params(tmp_path, recipe="released", epochs=2))
    assert len(seen) == 2 * 3 * 3
    assert {lr for _, lr in seen} == {1e-4} and max(g for g, _ in seen) == 0.5


def test_several_classes(tmp_path, seg):
    split = Split(
        seg.train.ids,
        seg.train.images,
        seg.train.masks * (1 + np.arange(12) % 2)[:, None, None].astype("uint8"),
    )
    two = SegData("two", ("a", "b"), split, split, {"test": split})
    result = train.fit(tiny(classes=3), two, params(tmp_path, lr=0.02))
    assert (
        0 <= result["val_dice"] <= 1
        and result["history"][-1]["loss"] < result["history"][0]["loss"]
    )
    with pytest.raises(ValueError, match="use 'paper'"):
        train.fit(tiny(classes=3), two, params(tmp_path / "b", recipe="released"))


def test_nan_stops_and_keeps_the_best(tmp_path, seg, monkeypatch):
    make, calls = losses.make, []

    def poisoned(*args):
        def loss(out, mask):
            calls.append(1)
            return make(*args)(out, mask) * (
                float("nan") if len(calls) == 5 else 1
            )  # in epoch 2 of 3 steps

        return loss

    with (
        monkeypatch.context() as patch,
        pytest.raises(FloatingPointError, match="the loss is nan in epoch 2, step 2"),
    ):
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
    blas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")
    for k, error in enumerate((torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), blas)):
        with (
            monkeypatch.context() as patch,
            pytest.raises(MemoryError, match=r"batch_size \(now 4\) or image_size \(now 32"),
        ):
            stop_in_epoch(patch, 0, error)
            train.fit(tiny(), seg, params(tmp_path / str(k)))
    with pytest.raises(RuntimeError, match="something else"), monkeypatch.context() as patch:
        stop_in_epoch(patch, 0, RuntimeError("something else"))
        train.fit(tiny(), seg, params(tmp_path / "other"))


@pytest.mark.parametrize(
    "happens",
    [
        lambda: os.kill(os.getpid(), signal.SIGKILL),  # as Linux does when memory is over
        lambda: (_ for _ in ()).throw(np._core._exceptions._ArrayMemoryError((9,), np.dtype("f4"))),
        lambda: (_ for _ in ()).throw(MemoryError()),
        None,  # not even a worker can be started
    ],
)
def test_out_of_memory_in_a_loaders_worker(tmp_path, seg, monkeypatch, happens):
    def item(*args):
        happens()

    def no_process(*args):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    if happens:
        monkeypatch.setattr(data.TorchSplit, "__getitem__", item)
    else:
        monkeypatch.setattr("multiprocessing.process.BaseProcess.start", no_process)
    advice = r"lower batch_size \(now 4\) .* each of the 1 workers needs memory"
    with pytest.raises(MemoryError, match=advice):
        train.fit(tiny(), seg, params(tmp_path, workers=1))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("CUDA error: out of memory")],
)
def test_out_of_memory_while_resuming_keeps_the_checkpoint(tmp_path, seg, monkeypatch, error):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_epoch(patch, 1)
        train.fit(tiny(), seg, params(tmp_path))

    def full(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch, pytest.raises(MemoryError, match="out of memory: lower"):
        patch.setattr(torch, "load", full)
        train.fit(tiny(), seg, params(tmp_path))
    train.fit(tiny(), seg, params(tmp_path))
    train.fit(tiny(), seg, params(tmp_path.with_name("whole")))
    assert same(weights(tmp_path), weights(tmp_path.with_name("whole")))


def test_a_process_tries_its_own_gpu_alone(tmp_path, monkeypatch):
    """The check of the GPU runs on "cuda", the current device: this process's by then."""
    seen = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(env, "gpu_problem", lambda: seen.append("tried") or "none here")
    monkeypatch.setattr(train, "Accelerator", lambda **k: type("One", (), {"num_processes": 1}))
    train.accelerator_for(params(tmp_path, device="auto"))
    assert seen[:2] == [1, "tried"]
    seen.clear()
    train.accelerator_for(params(tmp_path, device="cpu"))
    assert seen == []


def test_errors_before_training(tmp_path, seg, monkeypatch):
    monkeypatch.setattr(train, "_loader", None)  # nothing below may get as far as a batch
    with pytest.raises(
        ValueError, match=r"image_size=50 cannot be used with .*Wrong input shape.*try 32 or 64"
    ):
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
        train.fit(
            tiny(), SegData("toy", ("a",), seg.train, Split([], [], []), {}), params(tmp_path)
        )
    monkeypatch.setattr(train.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match="has 0 MiB free"):
        train.fit(tiny(), seg, params(tmp_path / "full"))


def test_a_training_goes_on_after_its_disk_was_full(tmp_path, seg, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    train.fit(tiny(), seg, params(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"No space left.*free space"):
        patch.setattr(torch, "save", full)
        train.fit(tiny(), seg, params(tmp_path / "run"))
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"identity.json", "params.json"}
    train.fit(tiny(), seg, params(tmp_path / "run"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_bf16(tmp_path, seg):
    model = tiny()
    result = train.fit(model, seg, params(tmp_path, precision="bf16"))
    assert np.isfinite([row["loss"] for row in result["history"]]).all()
    assert {t.dtype for t in weights(tmp_path).values()} == {torch.float32, torch.int64}
    assert model.eval()(torch.zeros(1, 3, 32, 32)).dtype == torch.float32  # autocast is gone again


def test_channels_last(tmp_path, seg, monkeypatch):
    """Another layout of the same training: files as ever, and a killed run goes on to the same."""
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


@pytest.mark.slow
def test_compile(tmp_path, seg, monkeypatch, capsys):
    def small():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1)
        )

    plain = train.fit(small(), seg, params(tmp_path / "plain"))
    monkeypatch.setattr(env, "compile_problem", lambda device: "no compiler")
    train.fit(small(), seg, params(tmp_path / "left_out", compile=True))
    assert "compile is left out: no compiler" in capsys.readouterr().out
    assert same(weights(tmp_path / "left_out"), weights(tmp_path / "plain"))
    monkeypatch.undo()
    if problem := env.compile_problem("cpu"):
        pytest.skip(problem)
    compiled, calls = (
        train.fit(small(), seg, params(tmp_path / "compiled", compile=True)),
        torch._dynamo.utils.counters,
    )
    assert calls["stats"]["unique_graphs"] > 0
    losses_ = ([row["loss"] for row in result["history"]] for result in (compiled, plain))
    np.testing.assert_allclose(*losses_, rtol=1e-4)
    assert weights(tmp_path / "compiled").keys() == weights(tmp_path / "plain").keys()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "no"},
        {"precision": "fp16"},
        {"precision": "bf16"},
        {"channels_last": True},
        {"compile": True},
        {"recipe": "released", "precision": "bf16"},  # three scales
        {"recipe": "released", "precision": "bf16", "compile": True},
    ],
)
def test_gpu(tmp_path, seg, settings):
    result = train.fit(tiny(), seg, params(tmp_path, device="cuda", lr=0.02, **settings))
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_gpu_goes_on_where_it_was_killed(tmp_path, seg, monkeypatch, precision):
    settings = {"device": "cuda", "precision": precision, "lr": 0.01}
    whole = train.fit(tiny(), seg, params(tmp_path / "whole", **settings))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_epoch(patch, 1)
        train.fit(tiny(), seg, params(tmp_path / "killed", **settings))
    killed = train.fit(tiny(seed=5), seg, params(tmp_path / "killed", **settings))
    losses_ = ([row["loss"] for row in result["history"]] for result in (whole, killed))
    np.testing.assert_allclose(*losses_, rtol=0.02)  # a GPU adds in no fixed order


ARGS = [
    "--model",
    "thin+copy",
    "--encoder",
    "tu-test_resnet",
    "--image-size",
    "32",
    "--limit",
    "8",
    "--batch-size",
    "4",
]


def environment():
    own = {"PYTHONPATH": LIB, "TQDM_DISABLE": "1", "ACCELERATE_USE_CPU": "true"}
    return os.environ | own | {"OMP_NUM_THREADS": "1"}


TWO = """
import os, sys, time
from pathlib import Path
import torch
from unetv2 import data
from unetv2.training import fit, run
sys.path.insert(0, sys.argv[2])
from test_train import Shared, params, shared, toy

folder, rank, load = Path(sys.argv[1]), os.environ["RANK"], data.load

def watched(*args, **kwargs):
    with open(folder / "order", "a") as log:
        log.write(rank)
    time.sleep(0.2)
    seg = load(*args, **kwargs)
    with open(folder / "order", "a") as log:
        log.write(rank)
    return seg

for recipe in ("paper", "released-isic", "unetpp", "released"):
    fit.fit(shared(), toy(), params(folder / recipe, recipe=recipe, lr=0.01))
data.load = watched
run.main(sys.argv[3:])
"""


class Shared(nn.Module):
    """No dropout, which several processes draw on their own; batch normalisation, timm's too, whose
    activation is inside; a head that the released recipe does not train. No bias before batch
    normalisation: its gradient is 0 but for rounding, which Adam would enlarge."""

    def __init__(self):
        from timm.layers import BatchNormAct2d

        super().__init__()
        first = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), BatchNormAct2d(8)]
        second = [nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        self.down = nn.Sequential(*first, *second)
        self.heads = nn.ModuleList(nn.Conv2d(8, 1, 1) for _ in range(3))

    def forward(self, x):
        y = self.down(x)
        fine = nn.functional.interpolate(self.heads[0](y), x.shape[-2:], mode="bilinear")
        return [fine, self.heads[1](y), self.heads[2](y)] if self.training else fine


def shared():
    torch.manual_seed(0)
    return Shared()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """The same weights but for rounding, one writer, each dataset decoded once."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--epochs", "1", "--studies", "False", "--output-dir", str(tmp_path / "run")]
    here = str(Path(__file__).parent)
    line = [*launcher, "--nproc-per-node", "2", str(script), str(tmp_path), here, *ARGS, *options]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for recipe in ("paper", "released-isic", "unetpp", "released"):
        one = params(tmp_path / f"{recipe}-1", recipe=recipe, lr=0.01)
        expected = train.fit(shared(), toy(), one)["history"]
        start, alone, two = (
            shared().state_dict(),
            *map(weights, (tmp_path / f"{recipe}-1", tmp_path / recipe)),
        )
        moved = [k for k in alone if not torch.equal(alone[k], start[k])]
        assert len(moved) >= 10 and {"down.1.running_var", "down.3.running_var"} <= set(moved)
        for key in alone:
            torch.testing.assert_close(
                two[key], alone[key], rtol=1e-4, atol=1e-5, msg=f"{recipe} {key}"
            )
        found = np.atleast_1d(
            np.genfromtxt(tmp_path / recipe / "log.csv", delimiter=",", names=True)
        )
        np.testing.assert_allclose(found["loss"], [row["loss"] for row in expected], rtol=1e-5)
        np.testing.assert_allclose(
            found["val_dice"], [row["val_dice"] for row in expected], rtol=1e-5
        )
    assert (tmp_path / "order").read_text() == "0011"
    assert done.stdout.count("per_image  Dice") == 1
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES


@pytest.mark.slow
def test_a_terminated_process_leaves_a_resumable_folder(tmp_path):
    options = ["--epochs", "60", "--output-dir", str(tmp_path)]
    line = [sys.executable, "-m", "unetv2", "train", *ARGS, *options]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(line, env=environment(), **pipe)
    while not (tmp_path / "log.csv").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, process.stdout.read()
    begun = {"identity.json", "log.csv", "model.safetensors", "params.json", "resume.pt"}
    assert {p.name for p in tmp_path.iterdir()} <= begun
    history = torch.load(tmp_path / "resume.pt", weights_only=True)["history"]
    assert 1 <= len(history) < 60 and len(
        load_weights(
            networks.create_model("thin+copy", "tu-test_resnet", deep_supervision=True),
            tmp_path / "model.safetensors",
        ).state_dict()
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--epochs", "0"], "epochs=0"), (["--seed", "x"], "seed='x'"),
     (["--recipe", "papr"], "recipe='papr'"),
     (["--dataset", "syntetic"], "did you mean 'synthetic'"), (["--lr", "-1"], "lr=-1")],
)  # fmt: skip
def test_command_line_errors(args, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        run.main([*args, "--output-dir", str(tmp_path / "run"), "--device", "cpu"])
    assert not (tmp_path / "run").exists()


def test_every_parameter_is_an_option(capsys):
    with pytest.raises(SystemExit) as end:
        run.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "example:" in text
    for name in RunParams.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    given = vars(
        run._parser().parse_args("--lr 1e-3 --encoder-weights None --data 7 --limit 5".split())
    )
    here = str(Path("7").absolute())
    assert given == {"lr": 1e-3, "encoder_weights": None, "data_dir": here, "limit": 5}


def test_files_stay_whole_when_writing_fails(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(OSError, match="cannot write"), files.atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
