"""The record of a run: small, the same bytes again, found by identity, and never silently wrong."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from unetv2 import data
from unetv2.common import env
from unetv2.common.params import RunParams
from unetv2.evaluation import record, score, studies
from unetv2.evaluation.identity import identity
from unetv2.networks import NestedUNet

SIZE = 32
HISTORY = [
    {"epoch": 1, "loss": 0.5, "val_dice": 0.61234567, "val_iou": 0.5, "lr": 1e-3, "seconds": 2.5},
    {"epoch": 2, "loss": 0.4, "val_dice": 0.6, "val_iou": 0.5, "lr": 5e-4, "seconds": 2.4},
]


class Bright(nn.Module):
    """Marks what is brighter than half."""

    normalisation = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        return self.scale * x.mean(1, keepdim=True)


class Sides(nn.Module):
    """`left` and `right`: the logits of the halves of every picture."""

    def __init__(self, left, right):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([left, right]))

    def forward(self, x):
        return self.logits.repeat_interleave(SIZE // 2).expand(len(x), 1, SIZE, SIZE)


class Halves(nn.Module):
    """A skip of two maps, 1 on the left and 1 on the right; what none of them marks is -1."""

    def __init__(self):
        super().__init__()
        self.skip, self.one = self.Skip(), nn.Parameter(torch.tensor(1.0))

    class Skip(nn.Module):
        def forward(self, x):
            left = torch.zeros(len(x), 1, SIZE, SIZE)
            left[..., : SIZE // 2] = 1
            return [x[:, :0], left, 1 - left]

    def forward(self, x):
        _, left, right = self.skip(x)
        return self.one * (2 * (left + right) - 1)


def left_half(n=3):
    """A dataset whose objects are the left halves of the pictures."""
    masks = np.zeros((n, SIZE, SIZE), np.uint8)
    masks[..., : SIZE // 2] = 1
    images = np.random.default_rng(0).integers(0, 255, (n, SIZE, SIZE, 3), dtype=np.uint8)
    ids = [f"i{i}" for i in range(n)]
    split = data.Split(ids=ids, images=images, masks=masks, groups=["a", *"bb", *ids[3:]])
    return data.SegData("left", ("object",), split, split, {"test": split}, "0123456789abcdef")


@pytest.fixture(scope="module")
def seg():
    return data.load("synthetic", None, SIZE, limit=4)


def make(seg, net=None, **params):
    """The record of a run that ended with `net`."""
    net = net or Bright()
    params = RunParams(**{"image_size": SIZE, "limit": 4, "studies": False, **params})
    return record.build(net, seg, params, HISTORY, *score.score(net, seg))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "root", lambda: tmp_path)
    return tmp_path


def commit(found):
    params = RunParams.make(found["params"])
    path = record.home(params) / f"s{params.seed}-{found['identity']}.json.gz"
    record.write(path, found)
    return path


def test_a_record_holds_the_scores_and_is_the_same_bytes_again(seg, tmp_path):
    model = Bright()
    per_image, summary = score.score(model, seg)
    found = make(seg, model, audit=True)
    for name in ("a", "b"):
        record.write(tmp_path / name, make(seg, model, audit=True))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = record.load(tmp_path / "a")
    assert read == found and "seconds" not in read["log"]
    assert read["log"]["val_dice"] == [0.612346, 0.6] and read["best_epoch"] == 1
    assert RunParams.make(read["params"]).audit and read["parameters"] == 1
    table = record.frame([read])
    for name in ("dice", "iou", "own_dice", "own_iou", "tp", "fp", "fn"):
        np.testing.assert_allclose(table[name], per_image[name], rtol=1e-12)
    np.testing.assert_allclose(table["boundary_f"], per_image["boundary_f"], atol=5e-5)
    assert table["group"].tolist() == per_image["group"].tolist()
    assert table.loc[0, ["dataset", "model", "seed", "test"]].tolist() == [
        "synthetic", "thin+sdi", 0, "test"
    ]  # fmt: skip
    rows = record.summary([read]).set_index("protocol")
    for protocol, scores in summary["test"].items():
        assert rows.loc[protocol, "dice"] == pytest.approx(scores["dice"], abs=1e-6)
    assert record.log([read])["epoch"].tolist() == [1, 2]


def test_several_classes_keep_their_counts(tmp_path):
    table = pd.DataFrame({"test": "t", "id": ["x", "y"], "group": ["g", "g"], "boundary_f": 0.5})
    for size in ("net", "own"):
        for k, name in enumerate(score.count_columns(2, size)):
            table[name] = [k, 10 + k]
    block = record._tests(table, {"t": {}}, 2)["t"]
    for size in ("net", "own"):
        assert record.counts(block, size).tolist() == [
            [[0, 1, 2], [3, 4, 5]], [[10, 11, 12], [13, 14, 15]]
        ]  # fmt: skip
    assert block["groups"] == ["g", "g"] and block["boundary_f"] == [5000, 5000]


def test_650_images_and_24_epochs_take_at_most_20_kilobytes(tmp_path):
    """Lesions as of ISIC: areas over two decades, errors of some per cent, large files."""
    rng, n = np.random.default_rng(0), 650
    area = np.exp(rng.uniform(np.log(300), np.log(8000), n))
    wrong = np.sort(rng.exponential(0.04, (2, n)) * area, 0).astype(int)
    net = np.stack([area.astype(int) - wrong[1], *wrong])
    own = (net * (rng.choice([0.76, 3.1, 7.2], n) * 1e6 / 128**2)).astype(int)
    table = pd.DataFrame({"test": "test", "id": [f"ISIC_00{12000 + 3 * i}" for i in range(n)]})
    table["group"] = table["id"].where(rng.random(n) > 0.1, "ISIC_0012000")
    table["boundary_f"] = rng.beta(8, 3, n)
    for size, counts in (("net", net), ("own", own)):
        for name, column in zip(score.count_columns(1, size), counts, strict=True):
            table[name] = column
    summary = {p: {"dice": 0.9, "iou": 0.8, "mae": 0.05} for p in ("per_image", "global", "own")}
    found = make(left_half(), Halves(), studies=True, audit=True)
    found["tests"] = record._tests(table, {"test": summary}, 1)
    names = ("loss", "val_dice", "val_iou", "lr", "test_dice")
    rows = [{"epoch": e} | dict(zip(names, rng.random(5), strict=True)) for e in range(1, 25)]
    found["log"] = record._columns(rows)
    heads = rng.normal(0, 0.01, (4, 1, 2, n)) * area
    tests = {"test": heads.astype(int).tolist()}
    found["studies"]["heads"] = {"columns": [4, 3, 2, 1], "tests": tests}
    size = record.write(tmp_path / "r", found)
    assert 5_000 < size <= 20_000 and size == (tmp_path / "r").stat().st_size


def test_heads_are_those_of_the_pruned_models():
    torch.manual_seed(0)
    model = NestedUNet(in_channels=3, filters=(4, 8, 16), norm=True, deep_supervision=True).eval()
    seg = left_half()
    found = make(seg, model, studies=True)
    assert model.output == "averaged"
    heads = record.heads(found, "test")
    assert list(heads) == [2, 1]
    for j, counts in heads.items():
        small = model.prune(j)
        np.testing.assert_array_equal(
            counts, record.counts(make(seg, small)["tests"]["test"]), strict=True
        )
        row = found["studies"]["heads"]["columns"].index(j)
        assert found["studies"]["heads"]["parameters"][row] == sum(
            p.numel() for p in small.parameters()
        )
    assert record.heads(make(seg), "test") == {}


def test_each_skip_set_to_zero():
    """By hand: with both maps all is marked, without the left one nothing that is right."""
    found = studies.skips(Halves(), left_half())["test"]
    assert found["levels"] == [None, 1, 2] and found["images"] == 3
    assert found["dice"] == [0.66667, 0.0, 1.0] and found["boundary_f"][2] == 1
    half = 3 * SIZE * SIZE // 2
    assert found["global"] == [[[half, half, 0]], [[0, half, half]], [[half, 0, 0]]]
    assert studies.skips(Bright(), left_half()) == {}


def test_flips_average_probabilities_turned_back():
    found = studies.flips(Sides(3.0, -1.0), left_half())["test"]
    assert found["passes"] == [1, 4]
    assert found["dice"] == [1.0, 0.66667]  # (0.95 + 0.27) / 2 > 0.5 on both sides


def test_nine_thresholds_on_validation_and_tests():
    found = studies.thresholds(Sides(0.2, -5.0), left_half())  # p = 0.55 and 0.007
    assert list(found) == ["val", "test"]
    assert found["test"]["thresholds"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert found["val"]["dice"] == [1.0] * 5 + [0.0] * 4


def test_corruptions_take_five_steps_from_the_image_as_it_is(seg):
    model = Bright()
    found = studies.corruptions(model, seg)["test"]
    plain = score.score(model, seg)[0]["dice"].mean()
    assert found["steps"] == [0, 1, 2, 3, 4, 5] and set(found["kinds"]) == set(data.CORRUPTIONS)
    for rows in found["kinds"].values():
        assert len(rows["dice"]) == len(rows["global"]) == 6
        assert rows["dice"][0] == pytest.approx(plain, abs=1e-5)
    assert len({rows["dice"][5] for rows in found["kinds"].values()}) > 1


def test_studies_take_a_part_of_a_large_test_evenly():
    assert studies.some(3) == [0, 1, 2]
    many = studies.some(650)
    assert len(many) == studies.AT_MOST and many[0] == 0 and many[-1] == 649
    assert set(np.diff(many)) == {5, 6} or set(np.diff(many)) == {5}


def test_other_datasets_are_scored_and_the_runs_own_images_left_out(seg, fake_dataset):
    folder = fake_dataset(ids=range(3))
    name = f"folder:{folder}"
    found = make(seg, also_test=[name])
    other = found["studies"]["others"][name]
    assert other["excluded"] == 0 and len(other["tests"]["test"]["ids"]) == 3
    with pytest.raises(FileNotFoundError):
        record.others(RunParams(image_size=SIZE, also_test=["folder:/nowhere"]), seg)


def test_a_committed_record_is_found_by_its_identity(seg, home):
    found = make(seg)
    params = RunParams.make(found["params"])
    assert record.committed(params, seg.fingerprint) is None
    path = commit(found)
    assert path.relative_to(home).as_posix() == (
        f"outputs/results/records/synthetic/thin+sdi/s0-{identity(params, seg.fingerprint)}.json.gz"
    )
    elsewhere = params.model_copy(update={"output_dir": "x", "audit": True, "studies": True})
    for same in (params, elsewhere):
        assert record.committed(same, seg.fingerprint) == path == record.committed(same)
    assert record.committed(params, "f" * 16) is None
    longer = params.model_copy(update={"epochs": 7})
    assert record.committed(longer, seg.fingerprint) is None is record.committed(longer)
    other = commit({**found, "identity": identity(params, "f" * 16), "fingerprint": "f" * 16})
    assert record.committed(params, "f" * 16) == other
    with pytest.raises(ValueError, match="records of different data"):
        record.committed(params)


@pytest.mark.parametrize("harm, words", [
    (lambda raw, found: raw[:-20], "Compressed file ended|CRC"),
    (lambda raw, found: raw[:50] + b"x" + raw[51:], ""),
    (lambda raw, found: b"nonsense", "gzipped"),
    (lambda raw, found: gzip.compress(b"[1, 2]"), "indices"),
    (lambda raw, found: gzip.compress(json.dumps({"a": 1}).encode()), "it has no 'params'"),
    (lambda raw, found: packed({**found, "params": {"modle": "x"}}), "did you mean 'model'"),
    (lambda raw, found: packed(cut(found)), "columns of different lengths"),
])  # fmt: skip
def test_a_damaged_record_is_one_line_that_names_it(harm, words, seg, home):
    found = make(seg)
    path = commit(found)
    path.write_bytes(harm(path.read_bytes(), found))
    params = RunParams.make(make(seg)["params"])
    for read in (
        lambda: record.load(path),
        lambda: record.committed(params, seg.fingerprint),
        lambda: record.gather("runs", ["synthetic"], ["thin+sdi"], [0]),
    ):
        with pytest.raises(ValueError, match=rf"{path.name} is damaged .*({words})") as caught:
            read()
        assert len(str(caught.value).splitlines()) == 1


def packed(found):
    return gzip.compress(json.dumps(found).encode())


def cut(found):
    found["tests"]["test"]["boundary_f"].pop()
    return found


ARMS = ["thin+copy", "thin+sdi"]


def test_what_only_some_epochs_have_is_left_out_of_the_log(seg):
    """A run that was begun with `audit` and goes on without it ends as any other."""
    net, params = Bright(), RunParams(image_size=SIZE, limit=4, studies=False)
    history = [HISTORY[0] | {"test_dice": 0.5}, HISTORY[1]]
    found = record.build(net, seg, params, history, *score.score(net, seg))
    assert "test_dice" not in found["log"] and found["log"]["epoch"] == [1, 2]


def gather(seeds=(0, 1), **settings):
    return record.gather("runs", ["synthetic"], ARMS, seeds, **settings)


def test_gather_takes_finished_runs_and_committed_ones(seg, home):
    for model in ARMS:
        commit(make(seg, model=model) | {"parameters": 7})
        found = make(seg, model=model, seed=1)
        record.write(home / f"runs/synthetic/{model}/s1/{record.FILE}", found)
    record.write(home / f"runs/synthetic/thin+sdi/s0/{record.FILE}", make(seg))
    found = gather()
    assert [(r["params"].get("model", "thin+sdi"), r["parameters"]) for r in found] == [
        ("thin+copy", 7), ("thin+copy", 1), ("thin+sdi", 1), ("thin+sdi", 1)
    ]  # fmt: skip
    assert len(record.frame(found)) == 4 * len(seg.tests["test"])


def test_gather_names_what_is_missing(seg, home):
    commit(make(seg, model="thin+copy"))
    with pytest.raises(FileNotFoundError, match=r"1 runs .* synthetic/thin\+sdi/s0; train") as no:
        gather([0])
    assert len(str(no.value).splitlines()) == 1


def test_gather_refuses_what_cannot_be_compared(seg, home):
    commit(make(seg, model="thin+copy"))
    commit(make(seg, epochs=9))
    with pytest.raises(ValueError, match=r"cannot be compared: .*epochs \(6, 9\)"):
        gather([0])
    path = commit(make(seg, width=8))  # says nothing of a model that is not of UNet++'s family
    with pytest.raises(ValueError, match=rf"several runs of seed 0 .*{path.name}.*epochs \(6, 9\)"):
        gather([0])
    assert len(gather([0], epochs=6)) == 2
    path.unlink()
    other = make(seg) | {"fingerprint": "f" * 16, "identity": "0" * 12}
    commit(other)
    with pytest.raises(ValueError, match=r"differ in files \("):
        gather([0], epochs=6)
    record.write(home / f"runs/synthetic/thin+sdi/s0/{record.FILE}", make(seg, seed=3))
    with pytest.raises(ValueError, match=r"record of another run \(synthetic, thin\+sdi, seed 3\)"):
        gather([0])


def test_what_has_landed_is_collected_by_its_settings():
    there = record.collect("isic2017", ["thin+sdi", "thin+copy"], epochs=6)
    assert [one["params"]["model"] for one in there] == ["thin+sdi"] * 5 + ["thin+copy"] * 5
    assert [one["params"]["seed"] for one in there] == [0, 1, 2, 3, 4] * 2
    assert record.collect("isic2017", ["thin+sum"], epochs=7) == []
    with pytest.raises(ValueError, match="unknown field of RunParams 'epoch'"):
        record.collect("isic2017", epoch=6)


def test_a_run_that_was_moved_aside_has_no_part(seg, home):
    for seed in ("s0", "s0.2026-11-21-1"):
        record.write(home / f"runs/synthetic/thin+sdi/{seed}/{record.FILE}", make(seg))
    record.write(
        home / f"runs/synthetic/thin+sdi/s0.2026-11-21-2/{record.FILE}",
        make(seg) | {"identity": "0" * 12},
    )
    assert len(record.collect("synthetic", folders=[home / "runs"])) == 1
