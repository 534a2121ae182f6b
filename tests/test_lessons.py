"""What the lessons share: the short training, the maps' pictures, the charts."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from unetv2 import data
from unetv2.skips import SDI
from unetv2.teaching import lessons, plots
from unetv2.training import losses


def test_product_of_sdi_starts_small_and_with_heavy_tails():
    """Against figures that were measured on the released code, with random maps of deviation 1."""
    torch.manual_seed(0)
    noise = [torch.randn(8, 32, 64 >> k, 64 >> k) for k in range(4)]
    with torch.no_grad():
        f = [f.double() for f in SDI([32] * 4, attention=None)(noise)]
    measured = [0.032, 0.023, 0.0089, 0.0014]
    assert [g.std().item() for g in f] == pytest.approx(measured, rel=0.15)
    kurtosis = (f[0].pow(4).mean() / f[0].pow(2).mean() ** 2).item()
    assert 40 < kurtosis < 200  # theory 3^4 = 81, measured about 70; an estimate of heavy tails
    (ax,) = lessons.tails({4: f[0], 1: noise[0]}).axes
    bell, product, _ = (line.get_ydata() for line in ax.lines)
    assert np.nanmax(product) > 2 * bell.max()  # the peak at zero
    assert product[0] > 1e-5 > bell[0]  # and the tail


def test_training_goes_down_and_comes_again():
    split = data.load("synthetic", image_size=32, limit=16).train
    loss, noted = losses.make("paper", classes=1), []

    def run():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
        watch = {"watch": lambda net: net[0].weight.grad.norm().item(), "after": noted.append}
        return lessons.train(net, split, loss, epochs=4, lr=1e-2, cycle=True, **watch)

    first, second = run(), run()
    pd.testing.assert_frame_equal(first, second)
    assert list(first) == ["loss", "watched"] and len(first) == 4 * 2  # 16 images in eights
    assert first.loss.iloc[-2:].mean() < first.loss.iloc[:2].mean()
    assert noted == [1, 2, 3, 4] * 2


def test_dice_of_each_image():
    truth = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    truth[:, :, :2] = True
    logits = torch.full((2, 1, 4, 4), -1.0)
    logits[0, :, :2], logits[1, :, 1:3] = 1, 1  # all of it; half of it, and as much beside
    assert lessons.dices(logits, truth) == pytest.approx([1, 0.5])


def test_strength_is_a_picture():
    picture = lessons.strength(torch.randn(5, 6, 7))
    assert picture.shape == (6, 7) and picture.min() == 0 and picture.max() == 1


def test_numbers_leaves_the_missing_empty():
    table = np.array([[1.0, 0], [np.nan, 0.5]])
    (ax,) = lessons.numbers({"a": table}, "#009E73", rows=["x", "y"]).axes
    assert [text.get_text() for text in ax.texts] == ["1.00", "0", "", "0.50"]


def test_lines_have_the_colours_of_their_models():
    names = ["thin+copy", "thin+sdi"]
    runs = {name: pd.Series([1.0, 0.5]) for name in names}
    figure = lessons.steps({"loss": runs, "work": runs}, ["step", "G"], logarithmic=["work"])
    colours = list(plots.palette(names).values())
    for ax, text in zip(figure.axes, ("step", "G"), strict=True):
        assert [line.get_color() for line in ax.lines] == colours
        assert ax.get_xlabel() == text
    assert figure.axes[1].get_yscale() == "log"
    (ax,) = lessons.arriving(pd.DataFrame(runs), "gradient").axes
    assert [line.get_color() for line in ax.lines] == colours
    history = pd.DataFrame({"head 1": [0.5], "averaged": [0.6]}, index=[1])
    assert lessons.heads(history, "Dice").axes[0].lines[-1].get_color() == "black"


def test_every_link_has_a_bar():
    kinds = list(lessons.KINDS)
    changes = [
        {"source": (1, 0), "target": (0, 1), "kind": kinds[0], "change": -0.2},
        {"source": (0, 0), "target": (0, 1), "kind": kinds[1], "change": -0.1},
    ]
    groups = pd.DataFrame({"summed": [-0.2, -0.1], "at once": [-0.2, -0.3]}, index=kinds[:2])
    left, right = lessons.links(pd.DataFrame(changes), groups, "Dice").axes
    assert [bar.get_height() for bar in left.patches] == [-0.2, -0.1]
    ink = mpl.colors.to_rgba(lessons.KINDS[kinds[0]])
    assert left.patches[0].get_facecolor() == ink and len(right.patches) == 4
