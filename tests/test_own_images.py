"""What the notebook on a reader's own images says of flips and thresholds, from records."""

import pytest

from unetv2.teaching import own_images


def one(model, epochs, seed, val, test):
    """A record with three thresholds; flips raise Dice from 0.80 to 0.81."""
    cuts = {"thresholds": [0.4, 0.5, 0.6]}
    studies = {"flips": {"isic2017": {"images": 130, "passes": [1, 4], "dice": [0.80, 0.81]}}}
    studies["thresholds"] = {"val": {**cuts, "dice": val}, "isic2017": {**cuts, "dice": test}}
    params = {"dataset": "isic2017", "model": model, "epochs": epochs, "seed": seed}
    return {"params": params, "tests": {"isic2017": {"ids": ["a", "b"]}}, "studies": studies}


RECORDS = [
    one("thin+sdi", 24, 0, [0.90, 0.88, 0.80], [0.70, 0.75, 0.79]),
    one("thin+copy", 6, 1, [0.80, 0.90, 0.85], [0.70, 0.75, 0.79]),
    one("thin+sdi", 6, 0, [0.80, 0.81, 0.85], [0.70, 0.75, 0.79]),
]


def test_the_threshold_is_chosen_on_validation_and_measured_on_test():
    table = own_images.gains([*RECORDS, {**RECORDS[0], "studies": {}}])
    assert table[["model", "epochs"]].values.tolist() == [
        ["thin+copy", 6],
        ["thin+sdi", 6],
        ["thin+sdi", 24],
    ]
    assert table["threshold"].tolist() == [0.5, 0.6, 0.4]  # test prefers 0.6 in all three
    assert table["promised"].tolist() == pytest.approx([0, 4, 2])
    assert table["threshold gain"].tolist() == pytest.approx([0, 4, -5])
    assert table["flips"].tolist() == pytest.approx([1, 1, 1])
    assert set(table["images"]) == {2} and set(table["flip images"]) == {130}


def test_each_training_is_a_dot_and_the_folder_a_diamond():
    here = {"flips": 0.3, "threshold gain": -0.2}
    figure = own_images.changes(own_images.gains(RECORDS), here, "mine, 8 images")
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[0] == "mine, 8 images" and len(names) == 4
    for ax, value in zip(figure.axes, here.values(), strict=True):
        marks = {line.get_marker(): line for line in ax.lines}
        assert marks["D"].get_xdata() == [value]
        assert sum(line.get_marker() == "o" for line in ax.lines) == 3


def test_without_records_the_folder_stands_alone():
    table = own_images.gains([])
    assert table.empty
    assert own_images.changes(table, {"flips": 0.0, "threshold gain": 0.0}, "mine").axes
