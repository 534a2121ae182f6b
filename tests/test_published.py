"""The papers' numbers: as printed, which cannot be, and which sentences they deny."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from unetv2.teaching import published
from unetv2.teaching.published import check_table, deny, rows

DATA = Path(__file__).resolve().parents[1] / "data"
PAPER = [row for row in rows("unetv2-paper") if row["table"] in ("Table 1", "Table 3")]
ISIC = [row for row in PAPER if row["dataset"].startswith("isic")]
NUMBERS = {"dice", "iou", "score", "mae", "parameters", "memory", "flops", "fps"}


def one(*where, model):
    return next(row for row in rows(*where) if row["model"] == model)


def verdict(words):
    (found,) = (claim for claim in deny() if words in claim["claim"])
    return found


# The rows


def test_every_table_is_there_with_all_its_rows():
    tables = Counter((row["source"], row["table"]) for row in rows())
    paper = {"Table 1": 5 + 6, "Table 2": 5 * 6, "Table 3": 2 * 4, "Table 4": 3}
    article = {"Table I": 9 * 3, "Table II": 6, "Table IV": 6 * 6, "Table V": 4}
    for source, expected in {"unetv2-paper": paper, "unetpp-tmi": article}.items():
        assert {table: tables[source, table] for table in expected} == expected


def test_sums_of_columns_as_printed():
    """The columns added by hand from the papers: a misread digit would show."""

    def total(key, *where):
        return round(sum(row.get(key, 0) for row in rows(*where)), 3)

    paper = ("unetv2-paper", "Table 1")
    assert (total("dice", *paper), total("iou", *paper)) == (976.30, 877.67)
    paper = ("unetv2-paper", "Table 2")
    assert [total(k, *paper) for k in ("dice", "iou", "mae")] == [2340.6, 2135.7, 0.764]
    paper = ("unetv2-paper", "Table 3")
    assert [total(k, *paper) for k in ("dice", "dice_sd")] == [679.56, 16.57]
    assert [total(k, *paper) for k in ("iou", "iou_sd")] == [614.06, 16.23]
    first = {"isbi2012": (794.74, 2.04), "cell": (811.69, 12.74), "brain": (808.55, 10.54)}
    fourth = {"isbi2012": (532.20, 0.88), "cell": (541.77, 7.77), "dsb2018": (549.62, 6.57)}
    fourth |= {"brain": (542.48, 6.09), "liver": (487.71, 7.21), "lung": (450.23, 19.46)}
    for table, sums in {"Table I": first, "Table IV": fourth}.items():
        for dataset, expected in sums.items():
            article = ("unetpp-tmi", table, dataset)
            assert (total("iou", *article), total("iou_sd", *article)) == expected


def test_twelve_numbers_of_table_4():
    table = rows("unetv2-paper", "Table 4")
    costs = [row[key] for row in table for key in ("parameters", "memory", "flops", "fps")]
    assert len(costs) == 12 and one("unetv2-paper", "Table 4", model="U-Net v2")["fps"] == 36.631


def test_rows_name_source_protocol_and_plain_numbers():
    sources = yaml.safe_load((DATA / "published.yaml").read_text(encoding="utf-8"))["sources"]
    for row in rows():
        assert row["source"] in sources and row["caveat"]
        for key in NUMBERS & row.keys():
            assert isinstance(row[key], int | float), row
        if row["table"] != "Table II":
            assert row["protocol"] in ("global", "per_image", "pranet", "unclear") and row["model"]


def test_tables_that_print_a_network_twice_agree():
    for dataset in ("isbi2012", "cell", "brain"):
        first, fourth = (
            {row["model"]: (row["iou"], row["iou_sd"]) for row in rows("unetpp-tmi", t, dataset)}
            for t in ("Table I", "Table IV")
        )
        assert first["U-Net L4"] == fourth["U-Net"]
        both = first.keys() & fourth.keys()
        assert len(both) == 4 and all(first[name] == fourth[name] for name in both)
    assert one("unetv2-paper", "Table 4", model="U-Net (PVT)")["dice"] == 89.85
    assert one("unetv2-paper", "Table 3", model="U-Net v2 w/o SDI")["dice"] == 89.85


def test_nuclei_of_the_article_are_not_those_of_the_conference_paper():
    def nuclei(source, table):
        return {row["model"]: row["iou"] for row in rows(source, table, "dsb2018")}

    article, conference = nuclei("unetpp-tmi", "Table IV"), nuclei("unetpp-dlmia", "Table 3")
    assert (article["U-Net"], article["UNet++ with DS"]) == (90.57, 92.37)
    assert (conference["U-Net"], conference["UNet++ with DS"]) == (90.77, 92.52)
    assert not any("wide" in row["model"] for row in rows("unetpp-tmi", "Table I"))


def test_rows_are_narrowed_and_strange_names_are_named():
    assert {row["dataset"] for row in rows(dataset="etis")} == {"etis"}
    assert rows(dataset="folder:mine") == []
    with pytest.raises(ValueError, match=r"unknown source 'unetv2'.*unetv2-paper"):
        rows("unetv2")
    with pytest.raises(ValueError, match=r"unknown table 'Table 9'.*Table 4"):
        rows("unetv2-paper", "Table 9")
    rows()[0]["dice"] = 0
    assert rows()[0]["dice"] == 86.99  # a caller's changes stay the caller's


# Rows that cannot be


def test_one_of_the_papers_isic_rows_breaks_the_equation():
    distinct = {(row["dataset"], row["dice"], row["iou"]) for row in ISIC}
    assert len(distinct) == 14  # U-Net v2 on ISIC 2017 stands in both tables
    off = [abs(dice - 200 * iou / (100 + iou)) for _, dice, iou in distinct]
    assert sorted(off)[-2] < 0.02 < sorted(off)[-1]
    (wrong,) = check_table(ISIC)
    assert (wrong["dice"], wrong["iou"]) == pytest.approx((91.52, 84.15))
    assert wrong["low"] < 91.39 < wrong["high"] < 91.42
    assert all(number in wrong["finding"] for number in ("91.52", "84.15", "91.39"))


def test_polyp_rows_obey_the_bounds_and_logs_the_equation():
    assert check_table(rows("unetv2-paper", "Table 2")) == []
    assert check_table(rows("unetv2-logs")) == []


@pytest.mark.parametrize(
    ("source", "table", "count"), [("unetpp-tmi", "Table V", 4), ("drishti-blog", "text", 1)]
)
def test_iou_above_dice_is_impossible(source, table, count):
    found = check_table(rows(source, table))
    assert len(found) == count and all("never above" in wrong["finding"] for wrong in found)


def test_per_image_means_have_room_below_and_none_above():
    table = [{"model": "a", "Dice": 80.0, "IoU": 66.7}, {"model": "b", "Dice": 70.0, "IoU": 66.7}]
    assert check_table(table) == []  # 80.0 is the most that goes with 66.7
    assert [f["row"] for f in check_table(table, "global")] == ["b"]
    table[0]["Dice"] = 80.2
    assert "at most 80.0" in check_table(table)[0]["finding"]


def test_means_over_runs_of_our_own_do_not_raise_an_alarm():
    ious = pd.Series([0.8237, 0.8275, 0.8120, 0.8301])
    table = pd.DataFrame({"iou": [ious.mean()], "dice": [(2 * ious / (1 + ious)).mean()]})
    assert check_table(table, "global") == []


TABS = """Dataset\tMethod\tDSC (%)\tIoU (%)
ISIC 2018\tU-Net [4]\t87.55\t77.86
\tU-Net v2 (ours)\t<b>91.52</b>\t<b>84.15</b>"""
MARKDOWN = """
| Model | mDice (%) ↑ | mIoU (%) ↑ | Backbone |
|:------|------------:|-----------:|----------|
| A | 89.60 ± 0.17 | 81.16 ± 0.07 | resnet101 |
| **B** | **75.73** | **91.03** | resnet101 |
| C | – | 80.1 | |
"""


def test_pasted_text():
    (wrong,) = check_table(TABS, "global")
    assert wrong["row"] == "U-Net v2 (ours)"
    (wrong,) = check_table(MARKDOWN)
    assert wrong["finding"] == "B, resnet101: Dice 75.73 beside IoU 91.03; IoU is never above Dice."
    (wrong,) = check_table("model,dice,iou\nA,0.8104,0.8580\nB,0.9,0.82\n")
    assert (wrong["row"], wrong["dice"], wrong["iou"]) == ("A", 0.8104, 0.858)
    assert check_table("Modell;Dice;Jaccard\nA;86,99;76,98\n", "global") == []
    (wrong,) = check_table("Protocol,Dice,IoU\nglobal,91.52,84.15\nper_image,91.30,84.15")
    assert wrong["row"] == "global"


def test_frames_and_their_index():
    frame = pd.DataFrame({"Dice": [0.91, 0.70], "IoU": [0.84, 0.75]}, index=["fine", "not"])
    (wrong,) = check_table(frame)
    assert wrong["row"] == "not"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("model,dice\nA,0.9", "no column IoU.*its columns: model, dice"),
        ("model,iou\nA,0.9", "no column Dice"),
        ([], "no column Dice.*none"),
        ("model,dice,iou,mIoU\nA,.9,.8,.8", "several columns are IoU: iou, mIoU"),
        ("model,dice,iou\nA,0.9,81.8", "mixed: A has Dice 0.9, A has IoU 81.8"),
        ("model,dice,iou\nA,109,90", "A: Dice is 109, out of range 0 to 100"),
        ("model,dice,iou\nA,-0.1,0.1", "A: Dice is -0.1, out of range"),
        ([{"dice": float("inf"), "iou": 0.5}], "mixed|out of range"),
        ("model,dice,iou\nA,good,0.1", "A: dice is 'good', which is no number"),
        ("model,dice,iou\nA,,0.1", "no row of the table has both"),
        ("model,dice,iou\nA,0,9,0.1", "row 1 has 4 cells, the head 3"),
        ("all words", "no columns in the text"),
        (3, "list of dicts"),
    ],
)
def test_bad_tables_get_one_clear_error(table, message):
    with pytest.raises(ValueError, match=message):
        check_table(table)


def test_unit_may_be_said():
    failed = [{"model": "A", "dice": 0.9, "iou": 0.5}, {"model": "B", "dice": 80, "iou": 67}]
    with pytest.raises(ValueError, match="percent=True"):
        check_table(failed)
    assert check_table(failed, percent=True) == []
    with pytest.raises(ValueError, match=r"B: Dice is 80\.0, out of range 0 to 1"):
        check_table(failed, percent=False)
    with pytest.raises(ValueError, match=r"unknown protocol 'globl'; did you mean 'global'"):
        check_table(failed, "globl")


# Sentences


@pytest.mark.parametrize(
    ("words", "evidence"),
    [
        (
            "consistently above the state",
            ["etis: iou 70.5", "cvc300: dice 89.7", "cvc300: iou 83.1"],
        ),
        ("ISIC 2018 the gain", ["89.27 (TransFuse), a gain of 2.25", "a gain of 3.52"]),
        ("Table 1 are of one set", ["91.52"]),
        ("attention of Eq. 1 adds", ["colondb: dice 81.2 (U-Net v2), 81.3 (U-Net v2 w/o SC)"]),
        ("significantly above UNet++ on ISIC 2017", ["colondb: dice", "colondb: iou"]),
        ("wide U-Net is consistently", ["dsb2018: iou 90.47 (wide U-Net), 90.57 (U-Net)"]),
        ("supervision and averaging further", ["dsb2018: iou 92.37 (UNet++ with DS), 92.44"]),
        ("consistently above U-Net and UNet+", ["liver: iou 82.60 (UNet++ with DS), 82.83"]),
        ("Table V are of one set", ["75.73", "89.74", "87.91", "91.36"]),
        ("Dice 0.8104", ["81.04 beside IoU 85.8"]),
        ("2050", ["2050 is said, 2150 is counted"]),
    ],
)
def test_sentences_that_the_tables_deny(words, evidence):
    claim = verdict(words)
    assert claim["holds"] is False and claim["recomputed"]
    assert len(claim["evidence"]) == len(evidence)
    for text, expected in zip(claim["evidence"], evidence, strict=True):
        assert expected in text


def test_sentences_that_hold():
    gain = verdict("ISIC 2017 the gain")
    assert gain["holds"] and "88.77 (EGE-UNet), a gain of 1.44" in gain["evidence"][0]
    assert "a gain of 2.36" in gain["evidence"][1]
    for words in ("four polyp sets", "slightly below", "contributes the most", "FLOPs and FPS"):
        assert verdict(words)["holds"] is True, words
    six = verdict("without supervision is significantly above")
    assert six["holds"] is True and len(six["evidence"]) == 12


def test_the_t_test_is_that_of_two_independent_samples():
    full, unetpp = (one("unetv2-paper", "Table 3", model=m) for m in ("U-Net v2", "UNet++ (PVT)"))
    t = (90.21 - 89.60) / ((0.13**2 + 0.17**2) / 5) ** 0.5
    from scipy.stats import t as student

    assert published.t_test(full, unetpp, "dice") == pytest.approx(2 * student.sf(t, 8))


def test_counts_are_those_of_our_registry():
    registry = yaml.safe_load((DATA / "registry.yaml").read_text(encoding="utf-8"))
    assert registry["isic2017"]["pairs"] == 2150 == 1500 + 650
    listed = {
        s: len((DATA / "splits" / f"pranet_test_{s}.txt").read_text().split())
        for s in ("kvasir", "clinicdb")
    }
    assert registry["kvasir"]["pairs"] - listed["kvasir"] == 900
    assert registry["clinicdb"]["pairs"] - listed["clinicdb"] == 550
    assert 1 - 2_204_961 / 9_041_601 == pytest.approx(0.756, abs=5e-4)


def test_what_no_number_can_decide_is_left_open():
    assert {claim["holds"] for claim in deny()} == {True, False, None}
    for claim in deny():
        assert claim["claim"] and claim["where"] and claim["evidence"]
    assert verdict("finer boundaries")["holds"] is None
    assert verdict("ICCV 2021")["recomputed"] is False


def test_importing_is_light():
    heavy = "{'torch', 'pandas', 'scipy', 'yaml', 'cv2', 'numpy'}"
    code = f"import sys, unetv2.teaching.published; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
