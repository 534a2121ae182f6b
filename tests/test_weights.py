"""Published weights: what they compute is what their record says, on the samples in the repository.

A sample is a test image, byte for byte, so that a committed record holds TP, FP and FN of it.
"""

import json
import re

import numpy as np
import publish_weights
import pytest
import torch
from safetensors.torch import load_file, save_file

import unetv2
from unetv2 import data, networks
from unetv2.common import env
from unetv2.common.params import RunParams
from unetv2.evaluation import command, score
from unetv2.evaluation.identity import deciding
from unetv2.evaluation.weights import record_of
from unetv2.inference import export, load, predict
from unetv2.training import run as training

PUBLISHED = load.published()
COPY = {"dataset": "isic2017", "model": "thin+copy", "encoder": "tu-test_resnet"}
NUCLEI = {"dataset": "dsb2018", "model": "tmi-unet++", "width": 4, "batchnorm": True}
each = pytest.mark.parametrize("name", PUBLISHED)


@each
def test_the_counts_on_the_samples_are_those_of_the_record(name):
    """Half precision moves a few pixels of a border, and nothing else."""
    model, params = load.load_run(name)
    (samples,) = data.load_tests(f"samples-{params.dataset}", None, params.image_size)[0].values()
    table, _ = score.score_tests(model, {"samples": samples}, 1)
    block = record_of(name)["tests"][params.dataset]
    rows = [block["ids"].index(id) for id in samples.ids]
    for size, pixels in (("net", params.image_size**2), ("own", samples.native_mask(0).size)):
        recorded = np.array(block[size])[0][:, rows].T
        counts = table[score.count_columns(1, size)].to_numpy()
        assert len(counts) >= 20 and recorded.sum(0).min() > 0
        assert np.array_equal(counts[:, [0, 2]].sum(1), recorded[:, [0, 2]].sum(1)), "the truth"
        changed = np.abs(counts - recorded)
        assert changed.sum() <= 1e-3 * pixels * len(counts), "of all pixels"
        assert changed.max() <= 5e-3 * pixels, "of one image"
    assert np.abs(table.boundary_f - np.array(block["boundary_f"])[rows] / 1e4).mean() < 0.01


@each
def test_they_are_small_and_say_what_they_are(name):
    path = env.path(load.WEIGHTS) / name / "model.safetensors"
    assert path.stat().st_size < 6e6
    found, params = record_of(name), load.load_run(name)[1]
    assert found["training_version"] and load.trained_on(name) == found["fingerprint"]
    assert RunParams.make(found["params"]).network == params.network
    assert name == f"{params.dataset}-{params.model}"
    for key, value in load_file(path).items():
        if value.is_floating_point():
            statistics = key.endswith(("running_mean", "running_var"))
            assert value.dtype == (torch.float32 if statistics else torch.float16), key


@each
def test_the_card_is_computed_from_the_record(name):
    text = (env.path(load.WEIGHTS) / name / "README.md").read_text(encoding="utf-8")
    assert text == publish_weights.card(name), "python workflow/publish_weights.py"
    dice = record_of(name)["tests"][load.load_run(name)[1].dataset]["summary"]["global"]["dice"]
    assert f"{100 * dice:.2f}" in text and "no medical device" in text


@each
def test_the_command_of_the_card_is_that_training(name):
    text = publish_weights.card(name).replace(" --data DIR", "").replace(" --weights DIR", "")
    line = next(line for line in text.splitlines() if line.startswith("unetv2 train "))
    given = vars(training._parser().parse_args(line.split()[2:]))
    recorded = RunParams.make(record_of(name)["params"])
    assert deciding(RunParams.make(given)) == deciding(recorded)


@pytest.mark.skipif(not PUBLISHED, reason="no weights are published")
def test_a_newcomer_names_them():
    name = PUBLISHED[-1]
    model = unetv2.from_pretrained(name)
    assert not model.training and model.normalisation
    assert str(export._beside(load.find_run(name), "onnx")) == f"{name}.onnx", "not beside them"
    tests, excluded = command.evaluate(name, f"samples-{load.load_run(name)[1].dataset}")[1:]
    ((_, protocols),) = tests.items()
    assert excluded["excluded"] == 0 and protocols["global"]["dice"] > 0.8


def test_a_wrong_name_lists_the_right_ones(monkeypatch):
    if PUBLISHED:
        hint = re.escape(f"did you mean '{PUBLISHED[-1]}'")
        with pytest.raises(FileNotFoundError, match=hint):
            unetv2.from_pretrained(PUBLISHED[-1][:-1])
    monkeypatch.setattr(load, "published", list)
    with pytest.raises(FileNotFoundError, match=r"published weights are in .* repository"):
        unetv2.from_pretrained("nowhere")


def test_one_function_reads_run_folders_and_what_smp_saved(tmp_path):
    params = RunParams(model="thin+copy", encoder="tu-test_resnet", image_size=32)
    model = networks.for_run(params).eval()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/params.json").write_text(params.model_dump_json())
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "run/model.safetensors", metadata={"classes": "1"})
    model.save_pretrained(str(tmp_path / "saved"))
    x = torch.rand(1, 3, 32, 32)
    for folder in ("run", "saved"):
        again = unetv2.from_pretrained(tmp_path / folder)
        assert torch.equal(again(x), model(x)) and again.normalisation == model.normalisation


@pytest.fixture
def finished(tmp_path, monkeypatch, request):
    """A finished run of a network with random weights, and a place to publish it to."""
    monkeypatch.setattr(env, "root", lambda: tmp_path)
    (tmp_path / "data").symlink_to(publish_weights.Path(__file__).parents[1] / "data")
    params = RunParams(**getattr(request, "param", COPY))
    run, model = tmp_path / "run", networks.for_run(params).eval()
    run.mkdir()
    (run / "params.json").write_text(params.model_dump_json())
    (run / "identity.json").write_text(json.dumps({"identity": "0123456789ab"}))
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, run / "model.safetensors", metadata={"classes": "1"})
    seg = data.SegData(params.dataset, ("object",), None, None, {}, "f" * 16)
    (split,) = data.load_tests(f"samples-{params.dataset}", None, 64)[0].values()
    table, summary = score.score_tests(model, {params.dataset: split}, 1)
    history = [{"epoch": 1, "loss": 1.0, "val_dice": 0.5, "val_iou": 0.4, "lr": 1e-3}]
    quick = params.model_copy(update={"studies": False})
    found = publish_weights.record.build(model, seg, quick, history, table, summary)
    found["identity"] = "0123456789ab"
    publish_weights.record.write(run / "record.json.gz", found)
    return run, model


@pytest.mark.parametrize("finished", [COPY, NUCLEI], indirect=True, ids=["isic2017", "dsb2018"])
def test_publishing_a_run(finished, monkeypatch):
    run, model = finished
    params = json.loads((run / "params.json").read_text())
    name = publish_weights.publish(run)
    assert name == f"{params['dataset']}-{params['model']}" == load.published()[0]
    x = torch.rand(2, 3, 64, 64)
    again = unetv2.from_pretrained(name)
    assert torch.allclose(again(x), model(x), atol=2e-2) and not torch.equal(again(x), model(x))
    assert record_of(name)["identity"] == "0123456789ab"
    text = publish_weights.card(name)
    command = f"unetv2 train --dataset {params['dataset']} --model {params['model']} "
    assert command in text and "{" not in text
    monkeypatch.setattr(publish_weights, "LARGEST", 1000)
    with pytest.raises(ValueError, match="bytes are more than 1000"):
        publish_weights.publish(run)


def test_what_may_not_be_published_is_refused(finished):
    run, _ = finished
    params = json.loads((run / "params.json").read_text())
    (run / "params.json").write_text(json.dumps(params | {"dataset": "kvasir"}))
    with pytest.raises(ValueError, match="terms of kvasir do not allow"):
        publish_weights.publish(run)
    (run / "identity.json").write_text(json.dumps({"identity": "ba9876543210"}))
    with pytest.raises(ValueError, match="holds the record of another run"):
        publish_weights.publish(run)


def test_half_precision_keeps_statistics_and_refuses_what_it_cannot_hold():
    state = {"w": torch.tensor([1.0]), "bn.running_var": torch.tensor([1e6]), "n": torch.tensor(3)}
    half = publish_weights.rounded(state)
    assert [value.dtype for value in half.values()] == [torch.float16, torch.float32, torch.int64]
    with pytest.raises(ValueError, match="beyond the range of half precision: w"):
        publish_weights.rounded({"w": torch.tensor([1e6])})


def test_prediction_by_name_draws_masks(tmp_path):
    if not PUBLISHED:
        pytest.skip("no weights are published")
    name = PUBLISHED[-1]
    photos = env.root() / "data" / "samples" / load.load_run(name)[1].dataset / "images"
    done = predict.predict(name, sorted(photos.iterdir())[:3], tmp_path / "masks", overlay=True)
    assert len(done.masks) == 3 and not done.failed
    shares = [predict.read_image(path).mean() / 255 for path in done.masks]
    assert 0 < min(shares) and max(shares) < 0.95


def test_records_and_weights_stay_small():
    """A clone is small: what is committed of results that is not text."""
    places = (load.WEIGHTS, publish_weights.record.FOLDER)
    files = [path for place in places for path in env.path(place).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 35e6


@pytest.mark.realdata
@pytest.mark.parametrize("dataset", publish_weights.DATA)
def test_the_cards_count_the_images(dataset, data_dir):
    seg = data.load(dataset, data_dir, 128)
    counts = [len(part) for part in (seg.train, seg.val, *seg.tests.values())]
    assert re.findall(r"\d+(?= to|(?: images))", publish_weights.DATA[dataset]) == [
        *map(str, counts)
    ]
