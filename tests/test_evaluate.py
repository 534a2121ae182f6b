"""Evaluation: a model that knows the answer scores 1 in every protocol; sizes, classes and files that do not fit."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unetv2 import data, env, evaluate, metrics, models
from unetv2.params import RunParams


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

    split = Split(ids=[f"i{i}" for i in range(n)], images=images, masks=masks)
    return Seg(name="discs", classes=tuple("abc"[:classes]), train=split, val=split, tests={"test": split})


@pytest.mark.parametrize("classes", [1, 2])
def test_the_right_answer(classes):
    per_image, summary = evaluate.score(Marks(classes), make_seg(classes), batch_size=2)
    assert list(per_image.columns) == [
        "test", "id", "dice", "iou", "mae", "boundary_f", "dice_256", "iou_256", "mae_soft", "size"
    ]  # fmt: skip
    assert per_image["id"].tolist() == ["i0", "i1", "i2"]
    assert set(summary["test"]) == set(metrics.PROTOCOLS)
    for protocol in ("per_image", "global"):
        assert summary["test"][protocol]["dice"] == summary["test"][protocol]["iou"] == 1
        assert summary["test"][protocol]["mae"] == 0
    assert 0.85 < summary["test"]["pranet"]["dice"] < summary["test"]["pranet"]["dice_max"] <= 1  # enlarged: edges blur
    assert per_image["size"][0] == pytest.approx(classes * np.pi * 64 / 4096, rel=0.1)
    json.dumps(summary)


def test_pranet_is_scored_at_the_masks_own_size_and_per_image_is_not():
    fine, coarse = make_seg(native=4), make_seg(native=1)
    a, b = evaluate.score(Marks(), fine)[1]["test"], evaluate.score(Marks(), coarse)[1]["test"]
    assert a["per_image"] == b["per_image"] and a["pranet"] != b["pranet"]
    assert b["pranet"]["mae"] < 1e-6  # saturated and at its own size: a binary map


def test_per_image_is_the_mean_and_global_pools():
    seg = make_seg()
    seg.tests["test"].images = seg.tests["test"].images.copy()
    seg.tests["test"].images[0, :, :30] = 0  # hide most of the first disc
    per_image, summary = evaluate.score(Marks(), seg)
    assert summary["test"]["per_image"]["dice"] == pytest.approx(per_image["dice"].mean())
    counts = sum(
        evaluate.confusion(z, m, 1) for z, m in zip(evaluate.predict(Marks(), seg.val), seg.val.masks, strict=True)
    )
    assert summary["test"]["global"]["dice"] == pytest.approx(metrics.dice_iou(*counts[0])[0])
    assert per_image["dice"][0] < 1 and per_image["dice"][1:].eq(1).all()


def test_predict_keeps_order_and_mode_and_enlarging_is_torchs_bilinear():
    seg, model = make_seg(), Marks().train()
    logits = list(evaluate.predict(model, seg.val, batch_size=2, indices=[2, 0]))
    assert model.training and logits[0].dtype == np.float32 and logits[0].shape == (1, 64, 64)
    np.testing.assert_array_equal(evaluate.labels(logits[0]), seg.val.masks[2])
    z = np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32)
    wide = nn.functional.interpolate(torch.from_numpy(z)[None], (47, 50), mode="bilinear")[0].softmax(0)[1:]
    np.testing.assert_allclose(evaluate.foreground(z, (47, 50)), wide, atol=1e-5)


def test_model_of_other_classes():
    with pytest.raises(ValueError, match="1 logit channels cannot be scored on 2 foreground classes"):
        evaluate.score(Marks(1), make_seg(2))


def test_damaged_missing_and_foreign_weights(tmp_path):
    model, path = Marks(), tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match="train the run first"):
        evaluate.load_weights(model, path)
    with pytest.raises(FileNotFoundError, match="holds no trained run"):
        evaluate.load_run(tmp_path)
    save_file({"other": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="weights of another model than Marks"):
        evaluate.load_weights(model, path)
    save_file({"scale": torch.tensor(3.0)}, path, metadata={"classes": "1"})
    assert evaluate.load_weights(model, path).scale == 3
    path.write_bytes(path.read_bytes()[:-2])
    (tmp_path / "params.json").write_text(json.dumps(RunParams(model="unet").model_dump()))
    for load in (lambda: evaluate.load_weights(model, path), lambda: evaluate.load_run(tmp_path)):
        with pytest.raises(ValueError, match="is damaged"):
            load()


@pytest.fixture
def run_dir(tmp_path):
    """A run folder as unetv2.train leaves it, with random weights."""
    folder = tmp_path / "repository" / "run"
    folder.mkdir(parents=True)
    params = RunParams(model="unet", encoder="tu-test_resnet")
    (folder / "params.json").write_text(json.dumps(params.model_dump()))
    state = models.build("unet", "tu-test_resnet").state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", metadata={"classes": "1"})
    return folder


def test_a_relative_run_is_the_working_directorys_else_the_repositorys(run_dir, monkeypatch, tmp_path):
    monkeypatch.setattr(env, "root", lambda: tmp_path / "repository")
    for here in (run_dir.parent, tmp_path):
        monkeypatch.chdir(here)
        assert evaluate.find_run("run") == run_dir and evaluate.load_run("run")[1].model == "unet"
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/repository/gone holds no trained run"):
        evaluate.load_run("gone")
    with pytest.raises(SystemExit, match=f"error: {tmp_path} holds no trained run"):
        evaluate.main(["."])


@pytest.mark.parametrize("text, words", [
    ("{", "Expecting"), ("[]", "dictionary"), ("null", "None"), ('{"modle": "unet"}', "did you mean 'model'"),
    ('{"model": "unet2"}', "unknown model 'unet2'"), ('{"encoder": "resnet17"}', "unknown encoder 'resnet17'"),
    ('{"image_size": "big"}', "image_size='big'"),
])  # fmt: skip
def test_damaged_parameters_are_one_line_that_names_the_file(run_dir, text, words):
    (run_dir / "params.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{run_dir}/params.json describes no run \(.*{words}.*restore it") as caught:
        evaluate.load_run(run_dir)
    assert len(str(caught.value).splitlines()) == 1


def test_weights_of_another_model_name_the_expected_one_in_one_line(run_dir):
    (run_dir / "params.json").write_text('{"model": "unetv2", "encoder": "resnet18"}')
    with pytest.raises(ValueError, match=r"another model than .*name unetv2, encoder resnet18") as caught:
        evaluate.load_run(run_dir)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and "state_dict" not in text and "weight" not in text.split("than")[1]


def test_pickled_weights_are_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (cv2.imwrite, (str(tmp_path / "boom.png"), np.zeros((2, 2), np.uint8)))

    torch.save(Bomb(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        evaluate.load_weights(Marks(), tmp_path / "model.safetensors")
    assert not (tmp_path / "boom.png").exists()
