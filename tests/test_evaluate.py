"""Evaluation: a model that knows the answer scores 1; sizes, classes and files that do not fit."""

import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unetv2 import data, networks
from unetv2.common import env
from unetv2.common.params import RunParams
from unetv2.evaluation import command, metrics, score
from unetv2.inference import infer, load


class Marks(nn.Module):
    """Reads the mask out of the picture: channel k of the image is 255 where class k + 1 is."""

    def __init__(self, classes=1):
        super().__init__()
        self.classes, self.scale = classes, nn.Parameter(torch.tensor(40.0))

    def forward(self, x):
        mean, std = (torch.tensor(v)[:, None, None] for v in (data.MEAN, data.STD))
        marks = (x * std + mean)[:, : self.classes] - 0.5
        if self.classes > 1:
            marks = torch.cat([torch.zeros_like(marks[:, :1]), marks], 1)
        return self.scale * marks


class Seg(SimpleNamespace):
    logit_channels = property(lambda self: 1 if len(self.classes) == 1 else len(self.classes) + 1)


def make_seg(classes=1, n=3, size=64, native=2):
    """Discs, one per class; the masks' own size is `native` times the training size."""
    y, x = np.mgrid[: size * native, : size * native]
    natives = np.zeros((n, size * native, size * native), np.uint8)
    for i in range(n):
        for k in range(1, classes + 1):
            centre = size * native * np.array([0.2 + 0.3 * (k - 1), 0.3 + 0.1 * i])
            natives[i][np.hypot(y - centre[0], x - centre[1]) < 8 * native] = k
    masks = natives[:, ::native, ::native]
    images = np.stack([np.stack([(m == k) * np.uint8(255) for k in (1, 2, 3)], -1) for m in masks])

    class Split(SimpleNamespace):
        def __len__(self):
            return n

        def native_mask(self, i):
            return natives[i]

    ids = [f"i{i}" for i in range(n)]
    split = Split(ids=ids, groups=[f"g{i // 2}" for i in range(n)], images=images, masks=masks)
    return Seg(
        name="discs", classes=tuple("abc"[:classes]), train=split, val=split, tests={"test": split}
    )


@pytest.mark.parametrize("classes", [1, 2])
def test_the_right_answer(classes):
    per_image, summary = score.score(Marks(classes), make_seg(classes), batch_size=2)
    assert per_image["id"].tolist() == ["i0", "i1", "i2"]
    assert per_image["group"].tolist() == ["g0", "g0", "g1"]
    assert set(summary["test"]) == set(metrics.PROTOCOLS)
    for protocol in ("per_image", "global"):
        assert summary["test"][protocol]["dice"] == summary["test"][protocol]["iou"] == 1
        assert summary["test"][protocol]["mae"] == 0
    best = summary["test"]["pranet"]["dice_max"]
    assert 0.85 < summary["test"]["pranet"]["dice"] < best <= 1  # enlarged: edges blur
    assert summary["test"]["own"]["dice"] > 0.95 and summary["test"]["own"]["boundary_f"] == 1
    assert per_image["size"][0] == pytest.approx(classes * np.pi * 64 / 4096, rel=0.1)
    json.dumps(summary)


def test_counts_at_both_sizes_are_of_the_network_and_of_the_file():
    """The model marks the left half of every picture: by hand, in pixels of either size."""

    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.sign = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            z = torch.ones_like(x[:, :1])
            z[..., 32:] = -1
            return self.sign * z

    seg = make_seg(native=3)
    per_image, summary = score.score(Left(), seg)
    split = seg.tests["test"]
    for i, row in per_image.iterrows():
        truth, own = split.masks[i], split.native_mask(i)
        tp = (truth[:, :32].sum(), own[:, :96].sum())
        assert (row.tp, row.own_tp) == tp
        assert (row.fp, row.own_fp) == (64 * 32 - tp[0], 192 * 96 - tp[1])
        assert (row.fn, row.own_fn) == (truth.sum() - tp[0], own.sum() - tp[1])
        half = np.zeros((192, 192), bool)
        half[:, :96] = True
        assert row.boundary_f == metrics.boundary_f(half, own > 0)
        assert row.own_dice == pytest.approx(2 * tp[1] / (192 * 96 + own.sum()))
    assert summary["test"]["own"]["dice"] == pytest.approx(per_image["own_dice"].mean())
    several = score.score(Marks(2), make_seg(2))[0]
    assert (
        several[["fp1", "fn2"]].to_numpy().sum() == 0 < several[["tp1", "own_tp2"]].to_numpy().min()
    )


def test_audit_is_the_mean_dice_of_the_tests():
    seg = make_seg()
    seg.tests["other"] = make_seg(n=3).tests["test"]
    seg.tests["other"].images = 0 * seg.tests["other"].images
    assert score.test_dice(Marks(), seg) == 0.5  # all right on one test, all wrong on the other


def test_pranet_is_scored_at_the_masks_own_size_and_per_image_is_not():
    fine, coarse = make_seg(native=4), make_seg(native=1)
    a, b = (score.score(Marks(), seg)[1]["test"] for seg in (fine, coarse))
    assert a["per_image"] == b["per_image"] and a["pranet"] != b["pranet"]
    assert b["pranet"]["mae"] < 1e-6  # saturated and at its own size: a binary map


def test_per_image_is_the_mean_and_global_pools():
    seg = make_seg()
    seg.tests["test"].images = seg.tests["test"].images.copy()
    seg.tests["test"].images[0, :, :30] = 0  # hide most of the first disc
    per_image, summary = score.score(Marks(), seg)
    assert summary["test"]["per_image"]["dice"] == pytest.approx(per_image["dice"].mean())
    pairs = zip(infer.predict(Marks(), seg.val), seg.val.masks, strict=True)
    counts = sum(score.confusion(z, m, 1) for z, m in pairs)
    assert summary["test"]["global"]["dice"] == pytest.approx(metrics.dice_iou(*counts[0])[0])
    assert per_image["dice"][0] < 1 and per_image["dice"][1:].eq(1).all()


def test_predict_keeps_order_and_mode_and_enlarging_is_torchs_bilinear():
    seg, model = make_seg(), Marks().train()
    logits = list(infer.predict(model, seg.val, batch_size=2, indices=[2, 0]))
    assert model.training and logits[0].dtype == np.float32 and logits[0].shape == (1, 64, 64)
    np.testing.assert_array_equal(infer.labels(logits[0]), seg.val.masks[2])
    z = np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32)
    wide = nn.functional.interpolate(torch.from_numpy(z)[None], (47, 50), mode="bilinear")[
        0
    ].softmax(0)[1:]
    np.testing.assert_allclose(infer.foreground(infer.enlarge(z, (47, 50))), wide, atol=1e-5)


def test_model_of_other_classes():
    with pytest.raises(
        ValueError, match="1 logit channels cannot be scored on 2 foreground classes"
    ):
        score.score(Marks(1), make_seg(2))


def test_damaged_missing_and_foreign_weights(tmp_path):
    model, path = Marks(), tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="train the run first"):
        load.load_weights(model, path)
    with pytest.raises(FileNotFoundError, match="holds no trained run"):
        load.load_run(tmp_path)
    save_file({"other": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="weights of another model than Marks"):
        load.load_weights(model, path)
    save_file({"scale": torch.tensor(3.0)}, path, metadata={"classes": "1"})
    assert load.load_weights(model, path).scale == 3
    path.write_bytes(path.read_bytes()[:-2])
    (tmp_path / "params.json").write_text(json.dumps(RunParams(model="thin+copy").model_dump()))
    for read in (lambda: load.load_weights(model, path), lambda: load.load_run(tmp_path)):
        with pytest.raises(ValueError, match="is damaged"):
            read()


@pytest.fixture
def run_dir(tmp_path):
    """A run folder as unetv2 train leaves it, with random weights."""
    folder = tmp_path / "repository" / "run"
    folder.mkdir(parents=True)
    params = RunParams(model="thin+copy", encoder="tu-test_resnet", image_size=32)
    (folder / "params.json").write_text(json.dumps(params.model_dump()))
    state = {k: v.contiguous() for k, v in networks.for_run(params).state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"classes": "1"})
    return folder


def test_a_relative_run_is_the_working_directorys_else_the_repositorys(
    run_dir, monkeypatch, tmp_path
):
    monkeypatch.setattr(env, "root", lambda: tmp_path / "repository")
    for here in (run_dir.parent, tmp_path):
        monkeypatch.chdir(here)
        assert load.find_run("run") == run_dir
        assert load.load_run("run")[1].model == "thin+copy"
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/repository/gone holds no trained run"):
        load.load_run("gone")
    with pytest.raises(SystemExit, match=f"error: {tmp_path} holds no trained run"):
        command.main(["."])


@pytest.mark.parametrize("text, words", [
    ("{", "Expecting"),
    ("[]", "dictionary"),
    ("null", "None"),
    ('{"modle": "thin+sdi"}', "did you mean 'model'"),
    ('{"model": "unet"}', "thin.copy"),
    ('{"encoder": "resnet17"}', "unknown encoder 'resnet17'"),
    ('{"image_size": "big"}', "image_size='big'"),
])  # fmt: skip
def test_damaged_parameters_are_one_line_that_names_the_file(run_dir, text, words):
    (run_dir / "params.json").write_text(text)
    match = rf"{run_dir}/params.json describes no run \(.*{words}.*restore it"
    with pytest.raises(ValueError, match=match) as caught:
        load.load_run(run_dir)
    assert len(str(caught.value).splitlines()) == 1


def test_weights_of_another_model_name_the_expected_one_in_one_line(run_dir):
    (run_dir / "params.json").write_text('{"model": "thin+sdi", "encoder": "resnet18"}')
    with pytest.raises(
        ValueError, match=r"another model than .*name thin.sdi, encoder resnet18"
    ) as caught:
        load.load_run(run_dir)
    text = str(caught.value)
    assert (
        len(text.splitlines()) == 1
        and "state_dict" not in text
        and "weight" not in text.split("than")[1]
    )


@pytest.fixture
def outside(run_dir, fake_dataset):
    """A run on a folder of ten images, and a folder outside of twelve that holds all of them."""
    folder = fake_dataset(ids=range(12), images="all/images/{id}.png", masks="all/masks/{id}.png")
    for id in range(10):
        for kind in ("images", "masks"):
            path = folder / "own" / kind / f"{id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "all" / kind / f"{id}.png", path)
    params = json.loads((run_dir / "params.json").read_text())
    params["dataset"] = f"folder:{folder / 'own'}"
    (run_dir / "params.json").write_text(json.dumps(params))
    return folder


def test_an_outside_folder_is_scored_whole_less_the_runs_own_images(run_dir, outside, capsys):
    own = data.load(f"folder:{outside / 'own'}", None, 32)
    trained = len(own.train) + len(own.val)
    other = f"folder:{outside / 'all'}"
    command.main([str(run_dir), "--dataset", other, "--output", str(outside / "out")])
    text = capsys.readouterr().out
    assert f"left out: {trained} images of the run's own training or validation part" in text
    assert all(protocol in text for protocol in metrics.PROTOCOLS)
    table = pd.read_csv(outside / "out/per_image.csv")
    assert len(table) == 12 - trained and {10, 11} <= set(table["id"])
    done = json.loads((outside / "out/metrics.json").read_text())
    assert (done["dataset"], done["excluded"]) == (other, trained)


def test_another_dataset_where_the_runs_own_is_gone(run_dir, outside, capsys):
    shutil.rmtree(outside / "own")
    _, _, done = command.evaluate(run_dir, f"folder:{outside / 'all'}")
    assert done["excluded"] is None
    command.main([str(run_dir), "--dataset", f"folder:{outside / 'all'}"])
    assert "the run's own data is not here" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^error: .*own"):
        command.main([str(run_dir)])


def test_own_data_that_changed_since_the_training_are_not_scored(run_dir, outside):
    for harm in ("{bad", "[]"):
        (run_dir / "identity.json").write_text(harm)
        with pytest.raises(SystemExit, match=r"^error: .*identity.json is damaged"):
            command.main([str(run_dir)])
    (run_dir / "identity.json").write_text('{"fingerprint": "0123456789abcdef"}')
    with pytest.raises(
        SystemExit, match=r"^error: folder:.* has other images, masks or parts than"
    ):
        command.main([str(run_dir)])


def test_a_dataset_of_other_classes_or_with_nothing_left_is_one_error(run_dir, outside):
    (outside / "all/dataset.yaml").write_text("classes: {a: 255, b: 1}\n")
    with pytest.raises(SystemExit, match=r"^error: .*has 2 foreground classes, and the run has 1"):
        command.main([str(run_dir), "--dataset", f"folder:{outside / 'all'}"])
    own = data.load(f"folder:{outside / 'own'}", None, 32)
    for id in {str(i) for i in range(12)} - {*own.train.ids, *own.val.ids}:
        (outside / f"all/images/{id}.png").unlink()
        (outside / f"all/masks/{id}.png").unlink()
    (outside / "all/dataset.yaml").unlink()
    with pytest.raises(SystemExit, match=r"^error: nothing of folder:.* is left to score"):
        command.main([str(run_dir), "--dataset", f"folder:{outside / 'all'}"])


def test_pickled_weights_are_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (cv2.imwrite, (str(tmp_path / "boom.png"), np.zeros((2, 2), np.uint8)))

    torch.save(Bomb(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        load.load_weights(Marks(), tmp_path / "model.safetensors")
    assert not (tmp_path / "boom.png").exists()
