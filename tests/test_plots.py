"""Figures: one colour for a model, overlays by kind, and nothing stays behind in pyplot."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from unetv2 import networks
from unetv2.skips import SKIPS
from unetv2.teaching import plots


def test_overlay_tints_each_kind_of_pixel():
    image = np.full((2, 2, 3), 128, np.uint8)
    truth, prediction = np.array([[1, 0], [1, 0]]), np.array([[1, 1], [0, 0]])
    drawn = plots.overlay(image, truth, prediction, strength=1.0) / 255
    for place, kind in (((0, 0), "found"), ((0, 1), "invented"), ((1, 0), "missed")):
        assert drawn[place] == pytest.approx(to_rgb(plots.REGIONS[kind]), abs=1 / 255)
    assert (drawn[1, 1] == 128 / 255).all() and (image == 128).all()


def test_overlay_of_a_wrong_class_is_invented():
    black, truth, prediction = np.zeros((1, 1, 3), np.uint8), np.array([[1]]), np.array([[2]])
    drawn = plots.overlay(black, truth, prediction, strength=1.0) / 255
    assert drawn[0, 0] == pytest.approx(to_rgb(plots.REGIONS["invented"]), abs=1 / 255)


ARMS = [f"thin+{skip}" for skip in SKIPS]
FAMILY = [name for name in networks.list_models() if networks.is_family(name)]
MANY = [*ARMS, *networks.names.PEERS, "smp-unet"]  # more than there are colours of ours
MIXED = ["smp-unet", "thin+sdi-c16", "thin+sdi", "smp-unet+sdi", "unetv2", "thin+mine:Skip"]


@pytest.mark.parametrize("names", [ARMS, FAMILY, MANY, MIXED, networks.list_models()])
def test_no_two_models_of_a_figure_have_one_colour(names):
    colours = plots.palette(names)
    assert list(colours) == list(names) and len(set(colours.values())) == len(names)


def test_a_model_has_the_colour_of_its_skip_in_any_company():
    for names in (ARMS, FAMILY):
        for name, colour in plots.palette(names).items():
            assert plots.palette([name]) == {name: colour}
    skips = {"thin+copy": "#0072B2", "thin+nested": "#E69F00", "thin+sdi": "#009E73"}
    assert plots.palette(["thin+sdi-c16", *skips]).items() >= skips.items()
    others = ["tmi-unet-l4", "tmi-unet++", "unetv2"]
    assert list(plots.palette(others).values()) == list(skips.values())


def test_readers_see_no_code_names():
    assert plots.label("thin+copy") == "copy (U-Net's skip)"
    assert plots.label("truth") == "truth"
    log = {"dataset": "d", "model": "thin+sdi", "seed": 0, "epoch": [1, 2], "loss": [2.0, 1.0]}
    figures = [
        plots.curves(pd.DataFrame(log), {"loss": "training loss"}),
        plots.grid([[np.zeros((4, 4))]], ["thin+sdi"]),
        plots.intervals(gain().rename({0: "thin+sdi"}), "points"),
    ]
    for fig in figures:
        words = [text.get_text() for text in fig.findobj(plt.Text)]
        assert "SDI (U-Net v2's skip)" in words and not any("thin+" in word for word in words)


def gain():
    columns = {"model": "thin+sdi", "mean_difference": [1.0], "ci_low": [-1.0], "ci_high": [3.0]}
    return pd.DataFrame(columns)


def test_curves_show_each_seed_and_their_mean():
    rows = [("thin+sdi", seed, epoch, seed + epoch) for seed in (0, 2) for epoch in (1, 2, 3)]
    logs = pd.DataFrame(rows, columns=["model", "seed", "epoch", "loss"]).assign(dataset="d")
    fig = plots.curves(logs, {"loss": "training loss"})
    (ax,) = fig.axes
    drawn = sorted(
        tuple(map(float, line.get_ydata())) for line in ax.lines if len(line.get_ydata())
    )
    assert drawn == [(1, 2, 3), (2, 3, 4), (3, 4, 5)]
    assert {to_hex(line.get_color()) for line in ax.lines} == {plots.COLOURS["sdi"].lower()}
    assert ax.get_ylabel() == "training loss" and len(fig.legends[0].get_texts()) == 1


def test_figures_leave_nothing_behind(tmp_path):
    pictures, masks = np.zeros((5, 8, 8, 3), np.uint8), np.zeros((5, 8, 8), np.uint8)
    masks[4, 2:5, 2:5] = 1
    before = dict(plt.rcParams)
    log = {"dataset": "d", "model": "thin+copy", "seed": 0, "epoch": [1], "loss": [2.0]}
    figures = [
        plots.contact_sheet(pictures, masks, columns=3),
        plots.grid([[pictures[0], masks[0]], [pictures[1], None]], ["image", "mask"], legend=True),
        plots.curves(pd.DataFrame(log), {"loss": "loss"}),
        plots.intervals(gain(), "points"),
    ]
    assert not plt.get_fignums() and dict(plt.rcParams) == before
    outlined = [bool(ax.collections) for ax in figures[0].axes]
    assert outlined == [False] * 4 + [True, False]  # the one mask that has an outline
    for k, fig in enumerate(figures):
        assert plots.save(fig, tmp_path / f"{k}.png").read_bytes().startswith(b"\x89PNG")


def test_an_interval_that_one_group_does_not_have_is_left_out():
    table = pd.DataFrame(
        {
            "model": ["thin+sdi", "thin+nested"],
            "mean_difference": [0.5, -3.0],
            "ci_low": [np.nan, np.nan],
            "ci_high": [np.nan, np.nan],
        },
        index=["thin+sdi", "thin+nested"],
    )
    (ax,) = plots.intervals(table, "points").axes
    assert ax.get_xlim() == pytest.approx((-3.3, 3.3))


def test_intervals_of_few_seeds_do_not_set_the_scale():
    table = gain().assign(ci_low=-70.0, ci_high=72.0)
    (ax,) = plots.intervals(table.assign(seeds=2), "points").axes
    assert ax.get_xlim() == pytest.approx((-3.3, 3.3)) and "leave the page" in ax.get_xlabel()
    (ax,) = plots.intervals(table.assign(seeds=5), "points").axes
    assert ax.get_xlim() == pytest.approx((-79.2, 79.2)) and ax.get_xlabel() == "points"
