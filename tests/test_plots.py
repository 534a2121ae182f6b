"""Figures: the overlay tells found, invented and missed apart, and no figure stays behind in pyplot."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from unetv2 import plots


def test_overlay_tints_each_kind_of_pixel():
    image = np.full((2, 2, 3), 128, np.uint8)
    truth, prediction = np.array([[1, 0], [1, 0]]), np.array([[1, 1], [0, 0]])
    drawn = plots.overlay(image, truth, prediction, strength=1.0) / 255
    for place, kind in (((0, 0), "found"), ((0, 1), "invented"), ((1, 0), "missed")):
        assert drawn[place] == pytest.approx(to_rgb(plots.REGIONS[kind]), abs=1 / 255)
    assert (drawn[1, 1] == 128 / 255).all() and (image == 128).all()


def test_overlay_of_a_wrong_class_is_invented():
    drawn = plots.overlay(np.zeros((1, 1, 3), np.uint8), np.array([[1]]), np.array([[2]]), strength=1.0) / 255
    assert drawn[0, 0] == pytest.approx(to_rgb(plots.REGIONS["invented"]), abs=1 / 255)


def test_palette_gives_every_model_its_own_colour():
    names = ["unet", "unetv2-sum", "unetpp", "smp-fpn", "unetv2", "unetv2-concat"]
    assert len(set(plots.palette(names).values())) == len(names)
    assert plots.palette(["unetv2"])["unetv2"] == plots.palette(names)["unetv2"]


def test_figures_leave_nothing_behind(tmp_path):
    pictures, masks = np.zeros((5, 8, 8, 3), np.uint8), np.zeros((5, 8, 8), np.uint8)
    masks[0, 2:5, 2:5] = 1
    before = dict(plt.rcParams)
    logs = pd.DataFrame({"dataset": "d", "model": "unet", "seed": 0, "epoch": [1, 2], "loss": [2.0, 1.0]})
    gain = pd.DataFrame({"model": ["unetv2"], "mean_difference": [1.0], "ci_low": [-1.0], "ci_high": [3.0]})
    figures = [
        plots.contact_sheet(pictures, masks, columns=3),
        plots.grid([[pictures[0], masks[0]], [pictures[1], None]], ["image", "mask"], legend=True),
        plots.curves(logs, {"loss": "loss"}),
        plots.intervals(gain, "points"),
    ]
    assert not plt.get_fignums() and dict(plt.rcParams) == before
    assert sum(bool(ax.collections) for ax in figures[0].axes) == 1  # the one mask that has an outline
    for k, fig in enumerate(figures):
        assert plots.save(fig, tmp_path / f"{k}.png").read_bytes().startswith(b"\x89PNG")
