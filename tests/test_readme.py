"""What the pages say of results is what the committed files say."""

import re
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_computed_from_committed_files(page):
    text = page.read_text(encoding="utf-8")
    assert readme.renewed(text) == text, "python workflow/readme.py"
    assert re.search(r"<!-- table: ", text)


@pytest.mark.parametrize("page", ["README.md", "data/README.md", "outputs/results/README.md"])
def test_links_lead_somewhere(page):
    place = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", (ROOT / page).read_text("utf-8")):
        assert (place / target).exists(), target


def test_a_table_by_hand():
    """Two seeds and two models: means, deviations and a difference that can be followed."""
    chosen = readme.records("isic2017", readme.LEADERS, epochs=6)
    copies = [r for r in chosen if r["params"].get("model") == "thin+copy"]
    dice = [r["tests"]["isic2017"]["summary"]["per_image"]["dice"] for r in copies]
    line = f"| copy (U-Net's skip) | {100 * sum(dice) / len(dice):.2f}"
    assert line in readme.compared("isic2017", readme.LEADERS, epochs=6)


def test_the_family_by_hand():
    chosen = readme.records("dsb2018", ["tmi-unet-l3"], 15, readme.FAMILY)
    iou = [r["tests"]["dsb2018"]["summary"]["per_image"]["iou"] for r in chosen]
    line = f"| U-Net L3 | 0.48 | {100 * sum(iou) / len(iou):.2f}"
    assert line in readme.family("dsb2018", ["tmi-unet-l3"], 15)


def test_what_41_asks_is_corrected_for_all_of_it():
    """The difference of two models is that of their scores; those without records count, too."""
    pair, missing = ("thin+sdi", "thin+copy"), ("thin+sdi-c8", "thin+copy")
    questions = readme.contrasts.pairs({"SDI's gain": pair, "narrow": missing}, 24)
    chosen = readme.records("isic2017", list(pair), 24)
    edges = [r["tests"]["isic2017"]["summary"]["own"]["boundary_f"] for r in chosen]
    half = len(edges) // 2
    gain = 100 * (sum(edges[:half]) - sum(edges[half:])) / half
    text = readme.asked("isic2017", 24, questions)
    assert "Corrected for 2 comparisons" in text and "narrow" not in text
    assert f"| SDI's gain | {half} | {gain:+.2f} [" in text
