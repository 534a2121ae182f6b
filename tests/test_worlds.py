"""44_when_skips_help from made-up records: what is put in comes out, what is missing is said."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rehearse import execute

from unetv2.common.params import RunParams, file_name, slug
from unetv2.data.corrupt import CORRUPTIONS
from unetv2.evaluation import record
from unetv2.evaluation.identity import TRAINING_VERSION, deciding
from unetv2.teaching import trained_nets, verdicts, worlds, worlds_figures
from unetv2.teaching.params import WorldsParams

ROOT = Path(__file__).resolve().parents[1]
REAL, HOSPITALS = "etis", ["kvasir", "clinicdb"]  # without committed records
MODELS = WorldsParams().models
SWEEP = worlds.sweep([0, 1])
IMAGES, AREA = 20, 10_000
ZERO = {"copy": (-5.0, -1.0, 0.0, -2.0), "nested": (-7.0, 0.0, 0.0, -2.0)}  # by level
ZERO["sdi"] = (-5.0, -1.0, 0.0, 0.0)
LOSS = {"copy": 20.0, "nested": 22.0, "sdi": 10.0}  # under noise, at every step


def gain(model: str, test: str, shifted: bool) -> float:
    """Points over the copy: what is planted."""
    value = 2.0 * ("sdi" in model and test == "synthetic:hair=1")
    value -= 2.0 * ("nested" in model and test == "synthetic:blur=1")
    if model.endswith("-l3"):
        value += 1.5 if shifted else -3.0
    return value - 1.0 * ("sdi" in model and shifted)


def block(model: str, test: str, seed: int, shifted: bool = False) -> dict:
    """Scores of a test, near 80 points of both metrics."""
    rng = np.random.default_rng([1, seed, shifted, *map(ord, model + test)])
    hard = np.random.default_rng([0, *map(ord, test)]).normal(0, 5, IMAGES)
    points = (
        80 + hard + gain(model, test, shifted) + rng.normal(0, 0.1) + rng.normal(0, 0.3, IMAGES)
    )
    found = (AREA * points / 100).round().astype(int)
    counts = [[found.tolist(), (AREA - found).tolist(), (AREA - found).tolist()]]
    ids = [f"i{i}" for i in range(IMAGES)]
    edges = (100 * points).round().astype(int).tolist()
    size = {"net": counts, "own": counts, "boundary_f": edges}
    return {"ids": ids, "groups": None, **size, "summary": {}}


def studies(model: str, dataset: str, seed: int) -> dict:
    """Maps set to zero, spoilt images, and other datasets."""
    rng = np.random.default_rng([seed, *map(ord, model)])
    skip = model.removeprefix("thin+").removesuffix("-l3")
    dice = [0.8, *(0.8 + (cost + rng.normal(0, 0.05)) / 100 for cost in ZERO[skip])]
    zero = {"images": IMAGES, "levels": [None, 0, 1, 2, 3], "dice": dice, "boundary_f": dice}
    kinds = {}
    for kind in CORRUPTIONS:
        lost = LOSS[skip] / 100 * (kind == "noise")
        scores = [0.8] + [0.8 - lost + rng.normal(0, 0.005) for _ in range(5)]
        pooled = [[[round(1000 * x), round(1000 * (1 - x)), round(1000 * (1 - x))]] for x in scores]
        kinds[kind] = {"dice": scores, "global": pooled}
    steps = {"images": IMAGES, "steps": [0, 1, 2, 3, 4, 5], "kinds": kinds}
    found = {"skips": {"test": zero}, "corruptions": {"test": steps}}
    tests = SWEEP[1:] if dataset == worlds.DEFAULT else HOSPITALS if dataset in HOSPITALS else []
    others = {t: {"test": block(model, t, seed, True)} for t in tests if t != dataset}
    others = {name: {"excluded": 0, "tests": of} for name, of in others.items()}
    return found | ({"others": others} if others else {})


def save(top: Path, dataset: str, model: str, seed: int, **changes) -> None:
    """The record of a run that was never trained."""
    small = dataset.startswith("synthetic")
    given = {"dataset": dataset, "model": model, "seed": seed, "encoder": "mobilenet_v2"}
    given |= {"epochs": 12, "batch_size": 8, "image_size": 64 if small else 128}
    params = RunParams.make(given | changes)
    log = {"epoch": [1], "loss": [1.0], "val_dice": [0.8], "test_dice": [0.8]}
    found = {
        "fingerprint": slug(dataset).ljust(16, "0"),
        "training_version": TRAINING_VERSION,
        "params": deciding(params) | {"dataset": dataset, "model": model, "seed": seed},
        "environment": {},
        "log": log,
        "best_epoch": 1,
        "parameters": 1,
        "tests": {"test": block(model, dataset, seed)},
        "studies": studies(model, dataset, seed),
    }
    text = json.dumps([found["params"], found["fingerprint"]])
    found["identity"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"s{seed}-{found['identity']}.json.gz"
    record.write(top / slug(dataset) / file_name(model) / name, found)


def look(*folders: Path, **given) -> WorldsParams:
    names = [str(folder) for folder in folders]
    return WorldsParams(dataset=REAL, hospitals=HOSPITALS, folders=names, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The parameters of the study as it will be."""
    top = tmp_path_factory.mktemp("records")
    params = look(top)
    for dataset in [*SWEEP, REAL, *HOSPITALS]:
        for model in params.every:
            for seed in range(5):
                save(top, dataset, model, seed)
    return params


@pytest.fixture(scope="module")
def sweep(whole):
    return worlds.stages(whole, SWEEP)


def test_the_skip_that_wins_in_a_world_is_found_there_and_nowhere_else(sweep):
    found = worlds.gains(sweep, worlds.pairs(MODELS))
    assert len(found) == 26 and (found.seeds == 5).all() and (found.images == IMAGES).all()
    won = found[found.verdict != ""]
    assert list(zip(won.place, won.arm, won.verdict, strict=True)) == [
        ("blur = 1", "nested", "worse"),
        ("hair = 1", "SDI", "better"),
    ]
    assert won.mean_difference.to_numpy() == pytest.approx([-2, 2], abs=0.4)
    assert "corrected for 26 comparisons" in found.text.iloc[0]


def test_a_slope_is_the_difference_of_two_gains_and_holds_both_intervals(sweep):
    found = worlds.moved(sweep, worlds.pairs(MODELS), [0, 1])
    assert len(found) == 12
    row = found.loc["hair: SDI"]
    ends = worlds.gains(sweep, worlds.pairs(MODELS), 12)
    low, high = ends.loc["hair = 0: SDI"], ends.loc["hair = 1: SDI"]
    assert row.mean_difference == pytest.approx(high.mean_difference - low.mean_difference)
    half = [(end.ci_high - end.ci_low) / 2 for end in (row, low, high)]
    assert half[0] ** 2 == pytest.approx(half[1] ** 2 + half[2] ** 2)
    assert row.verdict == "more where it is hard"
    assert found.loc["blur: nested"].verdict == "less where it is hard"
    assert (found.verdict != "").sum() == 2


def test_what_a_net_loses_without_a_map_comes_out(whole):
    records = worlds.stages(whole, [REAL])[REAL].records
    table = trained_nets.zeroed(records, MODELS)
    found = trained_nets.leans(table, MODELS)
    planted = [cost for costs in ZERO.values() for cost in costs]
    assert found.mean_difference.to_numpy() == pytest.approx(planted, abs=0.1)
    assert list(found.arm[:4]) == ["1/4, finest", "1/8", "1/16", "1/32, coarsest"]
    assert list(found.verdict[:4]) == ["loses", "loses", "", "loses"]
    assert "the same 20 images" in found.text.iloc[0]
    against = trained_nets.leans(table, MODELS, MODELS[0])
    assert len(against) == 8
    row = against.loc["SDI without 1/32, coarsest"]
    assert row.verdict == "loses less" and row.mean_difference == pytest.approx(2, abs=0.1)


def test_the_interval_over_seeds_is_that_of_a_t_test(whole):
    from scipy.stats import ttest_1samp

    records = worlds.stages(whole, [REAL])[REAL].records
    table = trained_nets.zeroed(records, MODELS[:1])
    row = trained_nets.leans(table, MODELS[:1]).iloc[0]  # of four comparisons
    values = table[table.level == 0].dice
    ends = ttest_1samp(values, 0).confidence_interval(1 - 0.05 / 4)
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(ends))


def test_who_loses_less_on_spoilt_images_comes_out(whole):
    table = trained_nets.corrupted(worlds.stages(whole, [REAL])[REAL].records)
    found = trained_nets.beyond(table, worlds.pairs(MODELS))
    assert found.loc["noise: SDI"].mean_difference == pytest.approx(10, abs=0.5)
    assert found.loc["noise: SDI"].verdict == "loses less"
    assert found.loc["noise: nested"].verdict == "loses more"
    assert (found.verdict != "").sum() == 2
    steps = trained_nets.spoilt(table, worlds.pairs(MODELS))
    assert len(steps) == 2 * len(CORRUPTIONS) * 6
    assert steps.loc["noise 3, SDI"].verdict == "better" and not steps.loc["noise 0, SDI"].verdict


def test_the_finest_level_hurts_at_home_and_helps_elsewhere_as_planted(whole, sweep):
    at_home = worlds.gains(sweep, worlds.pairs(MODELS, 3))
    assert (at_home.verdict == "worse").all() and len(at_home) == 39
    away = {world: worlds.away(sweep["default"], world) for world in SWEEP[1:]}
    assert (worlds.gains(away, worlds.pairs(MODELS, 3)).verdict == "better").all()
    kvasir = worlds.stages(whole, HOSPITALS)["kvasir"]
    found = worlds.gains({"away": worlds.away(kvasir, "clinicdb")}, worlds.pairs(MODELS))
    assert list(found.verdict) == ["", "worse"]
    zero = trained_nets.finest(sweep, MODELS)
    assert (zero.verdict == "loses").all() and len(zero) == 39


def test_tables_by_series_and_the_scatter_of_seeds(whole, tmp_path):
    home = worlds.stages(whole, [REAL])[REAL].records
    zero = trained_nets.zeroed_by_series({"a": home}, MODELS)
    assert zero.loc[("a", "nested"), "1/4, finest"] == pytest.approx(-7.0, abs=0.1)
    spoilt = trained_nets.spoilt_by_series({"a": home})
    assert spoilt.loc[("a", "nested"), "noise"] == pytest.approx(58.0, abs=0.5)
    assert set(zero.seeds) == set(spoilt.seeds) == {5}
    for found in (trained_nets.zeroed_by_series({}, MODELS), trained_nets.spoilt_by_series({})):
        assert found.empty and list(found.index.names) == ["series", "net"]
    table = trained_nets.corrupted(home)
    rows = table[(table.kind == "noise") & (table.step == 3)].groupby("model").dice
    widest = (rows.max() - rows.min()).max()
    assert f"lie up to {widest:.1f} under noise (" in trained_nets.scatter(table, MODELS)
    assert "Nothing yet" in trained_nets.scatter(table[:0], MODELS)


def test_heat_draws_places_with_records_and_counts_the_others():
    table = pd.DataFrame(
        {"place": ["a", "b"], "arm": "x", "mean_difference": [1.0, np.nan], "seeds": [5, 0]}
    ).assign(ci_low=0.5, ci_high=1.5)
    fig = worlds_figures.heat({"title": table}, "points")
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["a"]
    assert "1 of 2 rows have no record yet" in fig.axes[1].get_xlabel()
    (line,) = worlds_figures.heat({"title": table[1:]}, "points").axes[0].texts
    assert line.get_text() == "No record yet: points"


def test_what_is_missing_or_unequal_is_said_and_compared_over_common_seeds(tmp_path):
    for model, seeds in zip(MODELS, ((0, 1, 2), (0,), (1, 2, 3)), strict=True):
        for seed in seeds:
            save(tmp_path, "synthetic", model, seed)
    save(tmp_path, "synthetic:hair=1", "thin+copy", 0)
    found = worlds.stages(look(tmp_path), SWEEP)
    said = worlds.state(found, MODELS, "worlds")
    assert said.startswith("1 of 13 worlds have records of all 3 networks.\n  missing: hair = 1 (")
    assert "hair = 1 (nested; SDI); contrast = 0" in said and "blur = 1" in said
    assert "seeds 0 to 2: default, copy\n  seed 0: default, nested" in said
    assert "Fewer than 5" in said
    table = worlds.gains(found, worlds.pairs(MODELS))
    assert list(table.seeds[:2]) == [1, 2] and table.seeds[2:].sum() == 0
    assert not table.verdict.any() and table.text.iloc[4] == "no record yet"
    assert worlds.moved(found, worlds.pairs(MODELS), [0, 1]).seeds.sum() == 0
    of = trained_nets.leans(trained_nets.zeroed(found["default"].records, MODELS), MODELS)
    assert of.text.iloc[4].endswith("points, 1 seed: no verdict from fewer than 5 seeds")


def test_a_run_with_other_parameters_is_named_and_never_mixed_in(tmp_path):
    for seed in range(2):
        save(tmp_path, "synthetic", "thin+copy", seed)
        save(tmp_path, "synthetic", "thin+sdi", seed)
    save(tmp_path, "synthetic", "thin+sdi", 2, epochs=3)
    save(tmp_path, "synthetic", "thin+sdi", 3, encoder="resnet18")
    found = worlds.stages(look(tmp_path), ["synthetic"])
    assert len(found["default"].records) == 4
    said = worlds.state(found, ["thin+copy", "thin+sdi"], "worlds")
    assert "not mixed in: synthetic, 3 epochs (1 run); " in said and "resnet18" in said


def test_bad_input_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"twice in kvasir, kvasir: name each once"):
        worlds.stages(look(tmp_path), ["kvasir", "kvasir"])
    path = tmp_path / "synthetic" / "thin+copy" / "s0-0.json.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no record")
    with pytest.raises(ValueError, match="is damaged"):
        worlds.stages(look(tmp_path), ["synthetic"])


def test_claims_are_sorted_by_the_rule(sweep, tmp_path):
    few = worlds.stages(look(tmp_path), SWEEP)
    table = worlds.gains(sweep, worlds.pairs(MODELS))
    lines = verdicts.claims(
        {"worlds": table, "none": worlds.gains(few, worlds.pairs(MODELS))}, every=False
    )
    assert sum(line.startswith("* worlds, ") for line in lines) == 2
    assert lines[-1].startswith("Of 52 comparisons 2 have a verdict, 24 have five seeds and none")
    assert lines[-1].endswith("0 have fewer seeds, and 26 wait for records.")
    said = verdicts.tally({"a gain": (table, "better", "worse")})
    assert said == [
        "a gain: of 26 comparisons 26 have records, 26 of them 5 seeds; 1 for it, 1 against it."
    ]


@pytest.mark.slow
def test_the_notebook_tells_the_whole_study(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    given = whole.model_dump() | {"output_dir": str(tmp_path), "metric": "boundary_f"}
    names = execute(ROOT / "notebooks" / "44_when_skips_help.ipynb", given)
    waiting = [row for table in names["sections"].values() for row in table.seeds if row == 0]
    assert not waiting
    assert (tmp_path / "claims.md").read_text().count("\n* ") > 30
