"""Tables of the comparing notebooks, from a hand-made record whose scores are known."""

import numpy as np
import pandas as pd
import pytest

from unetv2.evaluation import record, stats
from unetv2.teaching import charts, tables


def run(model: str, seed: int, found: list[int]) -> dict:
    """A record of four images with ten object pixels each, of which `found` are found."""
    counts = [[found, [0] * 4, [10 - tp for tp in found]]]
    iou = float(np.mean(found)) / 10
    scores = {"dice": 2 * iou / (1 + iou), "iou": iou, "mae": 0.1}
    block = {
        "ids": list("abcd"),
        "groups": ["p", "p", "q", "q"],
        "net": counts,
        "own": counts,
        "boundary_f": [5000] * 4,
        "summary": {
            "per_image": scores,
            "global": scores,
            "pranet": scores,
            "own": scores | {"boundary_f": 0.5},
        },
    }
    heads = {"columns": [2, 1], "tests": {"test": [[[[0] * 4] * 2], [[[-1] * 4, [0] * 4]]]}}
    log = {"epoch": [1, 2], "val_dice": [0.9, 0.8], "test_dice": [0.7, 0.75]}
    return {
        "params": {"model": model, "seed": seed},
        "best_epoch": 1,
        "parameters": 2_500_000,
        "log": log,
        "tests": {"test": block},
        "studies": {"heads": heads} if model == "tmi-unet++" else {},
    }


PAIR = [run("tmi-unet-l2", s, [2 + s, 4, 6, 8]) for s in (0, 1)]
PAIR += [run("tmi-unet++", s, [4, 6, 8, 9 + s]) for s in (0, 1)]


def test_results_have_points_with_their_deviation_and_readers_names():
    shown = tables.readable(tables.results(PAIR))
    row = shown.loc["synthetic", "test", "U-Net L2"]
    sd = np.std([50, 52.5], ddof=1)
    assert row["IoU"] == f"51.25 ± {sd:.2f}"
    assert row["boundary F"] == "50.00 ± 0.00"
    facts = tables.facts(PAIR).loc["synthetic", "UNet++"]
    assert facts["M parameters"] == 2.5 and facts["seeds"] == "0, 1"


def test_differences_show_no_p_of_zero_and_no_verdict_of_two_seeds():
    frame = record.frame(PAIR)
    compared = stats.compare(frame, "tmi-unet-l2", ["tmi-unet++"], "iou")
    shown = tables.differences(compared, "iou", "boundary_f").loc["UNet++"]
    assert shown["verdict"] == "none" and shown["seed by seed"] == "+17.50, +17.50"
    assert tables.p_value(1e-9) == "< 0.001" and tables.p_value(float("nan")) == "–"
    (line,) = tables.lines(compared, "tmi-unet-l2")
    assert line.startswith("synthetic, test: UNet++ against U-Net L2: +17.50 points")


def test_few_groups_are_cautioned():
    assert tables.cautions(record.frame(PAIR))[0].startswith("CAUTION, synthetic, test: the 4")
    alone = record.frame(PAIR).assign(group=lambda t: t.id)
    assert tables.cautions(pd.concat(alone.assign(id=alone.id + str(i)) for i in range(9)))
    many = pd.concat(alone.assign(id=alone.id + str(i), group=alone.id + str(i)) for i in range(9))
    assert tables.cautions(many) == []


def test_widths_of_both_are_those_of_crossed():
    frame = record.frame(PAIR)
    row = tables.widths(frame, "tmi-unet-l2", ["tmi-unet++"], "iou").iloc[0]
    found = stats.compare(frame, "tmi-unet-l2", ["tmi-unet++"], "iou").iloc[0]
    assert row["both"] == pytest.approx((found.ci_high - found.ci_low) / 2)
    assert row["seeds"] == pytest.approx(0, abs=1e-9)


def test_heads_and_their_company():
    heads = tables.heads(PAIR)
    nested = heads[(heads.model == "tmi-unet++") & (heads.seed == 0)]
    means = nested.groupby("head", sort=False).iou.mean()
    assert means.to_dict() == pytest.approx({"averaged": 0.675, "L2": 0.675, "L1": 0.575})
    pairs = tables.company(heads, {2: "tmi-unet-l2"})
    assert pairs.groupby("model").size().to_dict() == {"embedded": 8, "isolated": 8}
    assert len(charts.company(pairs).axes) == 1
    assert tables.company(heads, {}).empty


def test_the_epoch_chosen_by_the_test_images():
    row = tables.chosen_by_test(PAIR).loc["synthetic", "UNet++"]
    assert row["chosen by validation"] == 70 and row["excess"] == pytest.approx(5)
    unaudited = run("tmi-unet++", 0, [4] * 4)
    del unaudited["log"]["test_dice"]
    assert tables.chosen_by_test([unaudited]).empty


def test_a_row_printed_twice_stands_once():
    found = tables.printed(["isic2017", "isic2017"]).reset_index()
    ours = found[(found.model == "U-Net v2") & (found.source == "unetv2-paper")]
    assert list(ours.table) == ["Table 1, Table 3"] and list(ours.dice_sd) == [0.13]
    assert tables.printed(["synthetic"]).empty


def test_thirds_and_markdown():
    index = pd.MultiIndex.from_product([["d"], ["t"], range(6)], names=["dataset", "test", "id"])
    third = tables.thirds(pd.Series([5, 1, 9, 2, 8, 4], index))
    assert list(third) == ["medium", "small", "large", "small", "large", "medium"]
    assert list(tables.thirds(pd.Series([5, 1], index[:2]))) == ["large", "small"]
    table = pd.DataFrame({"Dice": ["1.00"]}, pd.Index(["copy"], name="model"))
    assert tables.markdown(table) == ["| model | Dice |", "| --- | --- |", "| copy | 1.00 |"]


def test_charts_have_a_panel_for_each_place_and_score():
    frame = record.frame(PAIR)
    assert len(charts.seeds(frame, {"dice": "Dice", "iou": "IoU"}).axes) == 2
    assert len(charts.waterfall(frame, "tmi-unet-l2").axes[0].lines) == 2  # a model, and zero
    assert len(charts.ranked(frame, "test").axes[0].lines) == 3


def test_three_tests_of_a_difference_as_scipy_has_them():
    from scipy.stats import ttest_ind, ttest_rel

    found = {
        "tmi-unet-l2": ([4, 5, 3, 4], [5, 5, 4, 3]),
        "tmi-unet++": ([7, 8, 6, 7], [9, 8, 9, 8]),
    }
    runs = [run(model, seed, of[seed]) for model, of in found.items() for seed in (0, 1)]
    frame = record.frame(runs)
    compared = stats.compare(frame, "tmi-unet-l2", ["tmi-unet++"], "iou")
    shown = tables.tests(frame, "tmi-unet-l2", compared).loc["synthetic", "test", "UNet++"]
    a, b = [70.0, 85.0], [40.0, 42.5]
    assert shown["the model"].startswith("77.50") and shown["U-Net L2"].startswith("41.25")
    assert shown["p, two samples"] == f"{ttest_ind(a, b).pvalue:.3f}"
    assert shown["p, pairs"] == f"{ttest_rel(a, b).pvalue:.3f}"
    one = tables.tests(frame[frame.seed == 0], "tmi-unet-l2", compared)
    assert one.iloc[0]["p, two samples"] == "–"


def test_seven_groups_by_size_hold_every_image_once():
    percent = pd.Series([0, 1, 4, 9, 16, 25, 36, 49], list("abcdefgh"))
    found = tables.seven(percent)
    assert found.iloc[0] == found.iloc[1] == "≤ 1.0" and found.iloc[-1] == "≤ 49.0"
    assert found.nunique() == 7 and list(found) == sorted(
        found, key=found.cat.categories.tolist().index
    )
    assert tables.seven(pd.Series([3.0, 3.0])).nunique() == 1
    both = pd.concat({"s": percent, "t": 2 * percent}, names=["dataset", "id"])
    of = both.groupby(level="dataset", group_keys=False).apply(tables.seven).rename("objects")
    assert list(of["s"]) == list(found) and list(of["t"])[-1] == "≤ 98.0"
    images = of.reset_index().assign(model="tmi-unet-l4", iou=0.5)
    fig = charts.sizes(images, {("s", "≤ 49.0"): True})
    names = [tick.get_text() for tick in fig.axes[2].get_xticklabels()]  # below the first dataset
    assert names[-1] == "≤ 49.0\n*" and len(names) == 7
