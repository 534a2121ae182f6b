"""Reading the papers, and our runs under other people's rules: figures worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from unetv2.teaching import other_rules, published, reading, reading_charts

LABELS = {"a": "copy", "b": "SDI"}


# Printed tables


def test_six_printed_rows_cannot_be():
    found = reading.possible()
    wrong = found[found.finding != ""]
    assert len(found) == 63
    assert wrong.source.value_counts().to_dict() == {
        "unetpp-tmi": 4,
        "unetv2-paper": 1,
        "drishti-blog": 1,
    }
    over = wrong.set_index("model").loc["U-Net v2"]
    assert over.most == pytest.approx(91.3929, abs=1e-4)
    assert over.excess == pytest.approx(0.1271, abs=1e-4)


def test_a_planted_row_is_found_and_possible_ones_are_not(monkeypatch):
    def row(model, dice, iou, protocol="per_image"):
        return dict(source="s", table="t", dataset="d", model=model, protocol=protocol) | {
            "dice": dice,
            "iou": iou,
        }

    rows = [row("mean", 79.0, 66.7), row("edge", 80.0, 66.7), row("above", 80.3, 66.7)]
    rows += [row("below", 66.0, 66.7), row("matrix", 79.0, 66.7, "global"), {"iou": 5.0}]
    monkeypatch.setattr(published, "rows", lambda: rows)
    found = reading.possible().set_index("model").finding
    assert list(found[found != ""].index) == ["above", "below", "matrix"]
    assert found["below"].startswith("Dice 66.0 beside IoU 66.7; IoU is never above")


def test_background_excuses_all_but_one_row():
    found = reading.possible()
    high = found[found.iou > found.dice]
    excused = high.iou <= reading.with_background(high.dice)
    assert reading.with_background(75.73) == pytest.approx(87.865)
    assert list(high.model[~excused]) == ["U-Net"]


def test_ledger_keeps_the_digits_of_the_print():
    blocks = reading.ledger("unetv2-paper")
    (third,) = (block for (table, _), block in blocks.items() if table == "Table 3")
    assert "90.20 ± 0.13" in list(third.loc["isic2017", "Dice"])
    assert "78.0 ± 4.3" in list(third.loc["colondb", "Dice"])
    second = pd.concat(block for (table, _), block in blocks.items() if table == "Table 2")
    assert len(second) == 30 and second.MAE.str.len().eq(5).all()
    assert third.columns[-1] == "remark"
    with pytest.raises(ValueError, match="unknown source"):
        reading.ledger("unetv3")


def test_a_folded_ledger_holds_every_row_and_opens_the_first_block():
    text = reading.folded("unetv2-paper", opened=True)
    assert text.startswith("### U-Net v2 paper") and text.count("<details open>") == 1
    assert "<summary><b>Table 1, isic2017</b>, 5 rows</summary>" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    blocks = reading.ledger("unetv2-paper").values()
    assert len(rows) == sum(len(block) + 2 for block in blocks)
    assert text.count("</details>") == len(blocks)
    with pytest.raises(ValueError, match="unknown source"):
        reading.folded("nature")


def test_claims_have_one_of_four_verdicts():
    claims = reading.claims()
    counts = claims.verdict.value_counts()
    assert set(counts.index) == {"denied by the tables", "denied by the code", "holds", "open"}
    wide = claims[claims.claim.str.startswith("wide U-Net is consistently")].iloc[0]
    assert wide.verdict == "denied by the tables" and "90.47" in wide.evidence
    first = claims[claims.claim.str.startswith("the encoder is PVT")].iloc[0]
    assert first.verdict == "denied by the code"


def test_effect_sizes_by_hand():
    table = reading.effects("unetv2-paper", "Table 3", [("U-Net v2", "UNet++ (PVT)")])
    row = table[(table.dataset == "isic2017") & (table.metric == "dice")].iloc[0]
    d = 0.61 / ((0.13**2 + 0.17**2) / 2) ** 0.5
    assert row.d == pytest.approx(d) and row.gain == pytest.approx(0.61)
    assert row.p == pytest.approx(2 * student.sf(d * (5 / 2) ** 0.5, 8))
    assert row.needed == pytest.approx(2.306 * (2 / 5) ** 0.5, abs=1e-4)
    other = table[(table.dataset == "colondb") & (table.metric == "dice")].iloc[0]
    assert row.p < 0.05 < other.p, "the smaller gain is the one that is shown"
    assert (table.p < 0.05).equals(table.d > table.needed)


def test_effects_know_the_best_row_and_the_networks_in_3d():
    pairs = [("best", "runner-up"), ("UNet++", "U-Net"), ("nobody", "U-Net")]
    table = reading.effects("unetpp-tmi", "Table IV", pairs).set_index(["dataset", "pair"])
    assert len(table) == 12
    best = table.loc["liver", "best over runner-up"]
    assert (best.model, best.over) == ("UNet+ with DS", "UNet++ with DS")
    assert table.loc["lung", "UNet++ over U-Net"].gain == pytest.approx(76.24 - 71.17)
    with pytest.raises(ValueError, match="no standard deviations"):
        reading.effects("unetv2-paper", "Table 1", pairs)


def test_marks():
    marks = reading.marks("unetv2-paper", ["Table 1", "Table 2", "Table 3"])
    assert len(marks) == 2 * 2 + 5 * 3 + 2 * 2
    of = marks.set_index(["table", "dataset", "score"]).verdict
    assert of["Table 1", "isic2017", "Dice"] == "stands"
    assert of["Table 1", "isic2018", "IoU"] == "an impossible row"
    assert of["Table 2", "colondb", "Dice"] == "not shown", "0.4 points with a deviation of 3.9"
    assert of["Table 2", "kvasir", "Dice"] == "no deviation"
    assert of["Table 2", "etis", "MAE"] == "a tie"
    best = marks.set_index(["table", "dataset", "score"]).loc["Table 2", "cvc300", "Dice"]
    assert best.best == "Polyp-PVT" and best.gain == pytest.approx(0.3)
    article = reading.marks("unetpp-tmi", ["Table IV", "Table V"])
    assert list(article.verdict[:6]) == ["stands"] + ["not shown"] * 5
    assert set(article.verdict[6:]) == {"an impossible row"}


def test_reruns():
    again = reading.reruns().set_index(["source", "dataset"])
    first = again.loc["unetv2-logs", "isic2017"]
    assert first.gap == pytest.approx(-0.71) and first.sd == 0.13
    assert again.loc["unetv2-issue-18", "colondb"].gap == pytest.approx(0.1)


# Records


def run(model="thin+copy", seed=0, val=(0.5, 0.9, 0.8), test=(0.7, 0.75, 0.85), **other):
    """A record of two images of 32 x 32 pixels whose scores are known."""
    counts = [[[20, 10], [20, 0], [0, 0]]]  # TP, FP, FN: Dice 2/3 and 1, IoU 1/2 and 1
    names = ("per_image", "global", "own")
    summary = {name: {"dice": 0.8, "iou": 0.7} for name in names}
    summary["pranet"] = {"dice": 0.6, "iou": 0.5, "dice_max": 0.9, "iou_max": 0.8}
    params = {"dataset": "isic2017", "model": model, "seed": seed, "image_size": 32} | other
    log = {"epoch": [1, 2, 3], "val_dice": list(val)}
    if test is not None:
        log["test_dice"] = list(test)
    return {
        "params": {"epochs": 3, **params},
        "fingerprint": "abcdef012345",
        "training_version": 1,
        "log": log,
        "tests": {"isic2017": {"ids": ["x", "y"], "net": counts, "summary": summary}},
    }


def parts_of(*records):
    return {"s": list(records)}


def test_choices_of_a_known_log():
    chosen = other_rules.choices(parts_of(run(), run(seed=1, val=(0.1, 0.2, 0.3)), run(test=None)))
    assert chosen[["validation", "test", "last"]].to_numpy().tolist() == [[75, 85, 85], [85] * 3]
    assert list(chosen.excess) == pytest.approx([10, 0])


def test_the_gain_at_the_chosen_and_at_the_last_epoch():
    """The copy 75 and 85 in seed 0; SDI 77 and 84, and a seed that the copy has not."""
    records = [run(), run("thin+sdi", test=(0.7, 0.77, 0.84)), run("thin+sdi", seed=1)]
    (row,) = other_rules.by_epoch(other_rules.choices(parts_of(*records)), "thin+copy").to_numpy()
    assert list(row) == [1, "2.00", "-1.00"]
    assert other_rules.by_epoch(other_rules.choices({}), "thin+copy").empty


def test_choosing_on_the_test_set_can_change_the_order():
    calm = run("thin+sdi", test=(0.7, 0.8, 0.8))  # 80 by validation, 80 on the test set
    chosen = other_rules.choices(parts_of(run(), calm))  # the copy: 75, and 85
    row = other_rules.orders(chosen).loc["s"]
    assert row["best on validation"] == f"{LABELS['b']} > {LABELS['a']}"
    assert row["best on the test set"] == f"{LABELS['a']} > {LABELS['b']}"
    assert (row.seeds, row["seeds that change"]) == (1, 1)
    (text,) = other_rules.sentences(chosen)
    for part in ("10.00 to copy", "0.00 to SDI", "5.00 apart", "changes to copy", "1 of 1"):
        assert part in text


def test_orders_take_the_common_seeds():
    records = [run(), run(seed=1), run("thin+sdi", seed=1), run("thin+sdi", seed=2)]
    chosen = other_rules.choices(parts_of(*records))
    assert other_rules.orders(chosen).seeds["s"] == 1
    apart = other_rules.choices(parts_of(run(), run("thin+sdi", seed=2)))
    assert other_rules.orders(apart).seeds["s"] == 0
    assert "order" not in other_rules.sentences(apart)[0]


def test_nothing_is_mixed_in_a_series():
    same = [run(seed=1), run(), run("thin+sdi"), run(epochs=24)]
    parts = other_rules.series(same)
    assert list(parts) == ["isic2017, 3 epochs", "isic2017, 24 epochs"]
    assert [one["params"]["seed"] for one in parts["isic2017, 3 epochs"]] == [0, 0, 1]
    odd = [run(encoder="resnet34"), run() | {"fingerprint": "fff"}]
    names = list(other_rules.series([*same[:3], *odd]))
    assert len(names) == 3
    assert any("encoder resnet34" in name for name in names)
    assert any("files fff" in name for name in names)


def test_what_a_model_does_not_have_parts_no_series():
    weights = {"encoder": "resnet34", "encoder_weights": "imagenet"}
    (name,) = other_rules.series([run(**weights), run("malunet", 1), run("tmi-unet-l4", width=8)])
    assert name == "isic2017, 3 epochs"
    names = list(other_rules.series([run(**weights), run("transfuse-s")]))  # can be pretrained
    assert names == [
        "isic2017, 3 epochs, encoder_weights imagenet",
        "isic2017, 3 epochs, encoder_weights None",
    ]


def test_what_is_missing_is_said():
    models = ["thin+copy", "thin+sdi", "thin+nested"]
    parts = other_rules.series([run(), run(seed=1, test=None), run("thin+sdi")])
    said = other_rules.state(parts, ["isic2017", "pranet"], models)
    assert said.startswith("isic2017, 3 epochs: 3 runs.\n  missing: nested (UNet++'s skip)\n")
    assert "seeds 0, 1: copy (U-Net's skip)\n  seed 0: SDI" in said
    assert "1 run without test scores" in said
    assert said.endswith("pranet: no run has a record yet.")
    whole = other_rules.series(run(seed=seed) for seed in range(5))
    said = other_rules.state(whole, ["isic2017"], ["thin+copy"])
    assert said == "isic2017, 3 epochs: 5 runs.\n  seeds 0 to 4: of each"
    assert other_rules.fullest(parts) == "isic2017, 3 epochs" and other_rules.fullest({}) is None


def test_protocols_of_one_record_by_hand():
    table = other_rules.protocols(parts_of(run())).set_index("protocol")
    assert table.dice["per image"] == 80 and table.dice["best of 256"] == pytest.approx(90)
    # the background of the first image: 984 right, 20 missed; of the second all 1014
    dice = np.mean([(2 / 3 + 1968 / 1988) / 2, 1])
    assert table.dice["with background"] == pytest.approx(100 * dice)
    assert table.iou["with background"] == pytest.approx(
        100 * np.mean([(1 / 2 + 984 / 1004) / 2, 1])
    )
    two = run()
    two["tests"]["isic2017"]["net"] *= 2  # two classes
    assert "with background" not in set(other_rules.protocols(parts_of(two)).protocol)


def test_gains_are_of_the_same_seed_and_protocol():
    better = run("thin+sdi", seed=1)
    better["tests"]["isic2017"]["summary"]["global"] = {"dice": 0.83, "iou": 0.7}
    parts = parts_of(run(), run(seed=1), better, run("thin+sdi", seed=2))
    found = other_rules.gains(other_rules.protocols(parts), "thin+copy").set_index("protocol")
    assert set(found.seed) == {1} and set(found.model) == {"thin+sdi"}
    assert found.gain["one matrix"] == pytest.approx(3) and found.gain["own size"] == 0


def test_orders_stand_beside_the_protocols_that_give_them():
    better = run("thin+sdi")
    summary = better["tests"]["isic2017"]["summary"]
    better["tests"]["isic2017"]["summary"] = summary | {"global": {"dice": 0.83, "iou": 0.7}}
    for name in ("per_image", "own"):
        better["tests"]["isic2017"]["summary"][name] = {"dice": 0.7, "iou": 0.6}
    lines = other_rules.spread(other_rules.protocols(parts_of(run(), better)))
    assert lines[0].startswith("* s, tested on isic2017: on identical masks the protocols stand ")
    assert lines[1].startswith("    * copy > SDI: per image, own size")
    assert lines[2] == "    * SDI > copy: one matrix"
    alone = other_rules.spread(other_rules.protocols(parts_of(run())))
    assert len(alone) == 1 and "models" in alone[0] and ">" not in alone[0]


# The scene


def test_softness_changes_no_mask():
    truth, sharp = other_rules.one_disc(6, 4, 0.5)
    _, soft = other_rules.one_disc(6, 4, 3)
    assert ((sharp >= 0.5) == (soft >= 0.5)).all() and truth.sum() == (sharp >= 0.5).sum()
    with pytest.raises(ValueError, match="soft is 0"):
        other_rules.one_disc(6, 4, 0)


def test_scores_of_two_images_by_hand():
    first, second, p = (np.zeros((10, 10)) for _ in range(3))
    first[:2], p[:4], second[:1] = 1, 1, 1  # 20 of 40 are right; then all 10
    found = other_rules.scored([(first > 0, p), (second > 0, second)])
    assert found.loc["per image"].tolist() == pytest.approx([250 / 3, 75])
    assert found.loc["one matrix"].tolist() == pytest.approx([75, 60])
    dice = np.mean([(2 / 3 + 120 / 140) / 2, 1])
    assert found.loc["with background", "Dice"] == pytest.approx(100 * dice)
    whole = (40 / 120 + 20 / 110) / 2  # at threshold 0 all is foreground
    assert found.loc["256 thresholds", "Dice"] == pytest.approx(100 * (255 * 5 / 6 + whole) / 256)
    assert found.loc["best of 256", "Dice"] == pytest.approx(250 / 3)
    with pytest.raises(ValueError, match="nothing to score"):
        other_rules.scored([])


# Charts


def test_charts_draw_what_there_is_and_say_what_is_not():
    parts = parts_of(run(), run("thin+sdi"))
    table, chosen = other_rules.protocols(parts), other_rules.choices(parts)
    gains = other_rules.gains(table, "thin+copy")
    assert len(reading_charts.under_protocols(table).axes) == 2
    assert len(reading_charts.chosen(chosen).axes) == 1
    assert len(reading_charts.gains(gains, "thin+copy").axes) == 1
    none = [reading_charts.under_protocols(table[:0]), reading_charts.chosen(chosen[:0])]
    none.append(reading_charts.gains(gains[:0], "thin+copy"))
    assert all("yet" in fig.axes[0].texts[0].get_text() for fig in none)


def test_impossible_rows_are_named_in_the_plane():
    fig = reading_charts.plane(reading.possible())
    texts = {text.get_text() for text in fig.axes[0].texts}
    assert {"U-Net v2, ISIC 2018", "Mask R-CNN", "UNet++, Drishti"} <= texts
    pairs = [("wide U-Net", "U-Net")]
    table = reading.effects("unetpp-tmi", "Table IV", pairs)
    cells = reading_charts.matrix({"title": table}).axes[0].texts
    assert "−0.10\nd −0.1" in {cell.get_text() for cell in cells}


def test_the_scene_prints_its_counts():
    disc = other_rules.one_disc(6, 4, 0.5)
    fig = reading_charts.scene(["small"], [disc], [other_rules.one_disc(6, 4, 3)])
    tp, fn = 64, 48  # counted on the drawing
    assert disc[0].sum() == tp + fn
    assert fig.axes[0].get_xlabel() == "TP 64, FP 48, FN 48\nDice 0.57, IoU 0.40"
