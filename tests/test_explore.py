"""What 90_explore shows for a slider's position, and when it shows sliders at all."""

from types import SimpleNamespace

import IPython
import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from unetv2.skips import SDI
from unetv2.teaching import explore

SIDE = 8


class Skip(nn.Module):
    """Two levels; each map it returns is the product of both that it receives, as SDI's."""

    out_channels = (1, 1)

    def forward(self, maps):
        fine, coarse = maps
        large = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return [fine * large, coarse * fine[..., ::2, ::2]]


class Net(nn.Module):
    """Where the image is red the logit is 2 by level 0, and 1 more by level 1; all less 1."""

    normalisation = ((0, 0, 0), (1, 1, 1))

    def __init__(self):
        super().__init__()
        self.skip, self.bias = Skip(), nn.Parameter(torch.tensor(-1.0))

    def forward(self, x):
        red = (x[:, :1] > 0.5).float()
        fine, coarse = self.skip([red, red[..., ::2, ::2]])
        return 2 * fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3) + self.bias


def half(id="a-1") -> explore.Case:
    """Red on its left half, which is the truth."""
    small = np.zeros((SIDE, SIDE, 3), np.uint8)
    small[:, : SIDE // 2, 0] = 255
    return explore.Case(id, small, small, small[..., 0] > 0)


@pytest.mark.parametrize(
    ("zeros", "before", "logit"),
    [((), False, 2), ((0,), False, 0), ((1,), False, 1), ((0,), True, -1), ((0, 1), False, -1)],
)
def test_a_level_is_removed_after_or_before_the_skip(zeros, before, logit):
    net = Net()
    (p,) = explore.answers(net, [half()], zeros, before)
    assert p[0, 0] == pytest.approx(1 / (1 + np.exp(-logit)))
    assert p[0, -1] == pytest.approx(1 / (1 + np.e)), "nothing there"
    whole = explore.answers(net, [half()])[0]
    assert whole[0, 0] == pytest.approx(1 / (1 + np.exp(-2.0))), "what was removed is back"


def test_a_network_without_a_skip_has_no_level_to_remove():
    with pytest.raises(ValueError, match="no submodule called skip"):
        explore.answers(nn.Conv2d(3, 1, 1), [half()], (0,))


def test_means_are_over_images_and_settings():
    other = half()
    other.truth[:, 2:] = False  # half of what is red: Dice 2/3
    table = explore.means({"thin+sdi": Net()}, [half(), other], {"all": (), "none": (0, 1)})
    assert table.loc["thin+sdi"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 0])


def test_scores_by_hand():
    truth = np.zeros((4, 4), bool)
    truth[0] = True
    p = np.where(truth, 0.8, 0.1)
    p[1] = 0.6  # four more pixels at the threshold 0.5
    found = explore.scores(p, truth)
    assert found["precision"] == 0.5 and found["recall"] == 1
    assert found["Dice"] == pytest.approx(2 / 3) == explore.dice(p, truth)
    assert explore.scores(p, truth, 0.7)["Dice"] == 1
    nothing = explore.scores(p, truth, 0.9)
    assert (nothing["Dice"], nothing["precision"], nothing["recall"]) == (0, 1, 0)


def test_a_sample_is_named_by_the_beginning_of_its_id():
    cases = [half("a-1"), half("a-2"), half("b-1")]
    assert explore.named(cases, "b") is cases[2]
    for wrong in ("a", "c"):
        with pytest.raises(ValueError, match=f"unknown sample '{wrong}'.*Valid: a-1, a-2, b-1"):
            explore.named(cases, wrong)


def test_a_row_of_masks_is_a_position_of_the_slider():
    case = half()
    right = np.where(case.truth, 0.8, 0.2)
    rows = {"all": {"thin+copy": right, "thin+sdi": 1 - right}, "cut": {"a": right, "b": right}}
    figure = explore.masks(case, rows, threshold=[0.5, 0.9], photo=True)
    assert [ax.get_title() for ax in figure.axes[:3]] == [
        "",
        "copy (U-Net's skip)",
        "SDI (U-Net v2's skip)",
    ]
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["all", "cut"]
    captions = [ax.get_xlabel() for ax in figure.axes]
    assert captions[:3] == ["image and truth", "Dice 1.00, F 1.00", captions[2]]
    assert captions[2].startswith("Dice 0.00") and captions[4].startswith("Dice 0.00")


def test_factors_multiply_to_the_finest_map_of_sdi():
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4), torch.randn(2, 4, 2, 2)]
    for skip in (explore.fresh(maps), explore.fresh(maps, 2, unit_bias=True)):
        product = explore.factors(skip.eval(), maps).prod(0)
        torch.testing.assert_close(product, skip(maps)[0], rtol=1e-4, atol=1e-5)


def test_the_scale_multiplies_the_weights_of_the_same_start():
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)]
    once, thrice = explore.fresh(maps, seed=4), explore.fresh(maps, 3, seed=4)
    assert isinstance(once, SDI) and once.training
    torch.testing.assert_close(thrice.theta[1][0].weight, 3 * once.theta[1][0].weight)
    torch.testing.assert_close(thrice.theta[1][0].bias, once.theta[1][0].bias)
    bias = [theta.bias.mean().item() for theta in explore.fresh(maps, unit_bias=True).theta[0]]
    assert abs(bias[0]) < 0.2 and bias[1] == 1


def test_charts_show_what_they_say():
    case = half()
    p = np.where(case.truth, 0.6, 0.2)
    left, right = explore.curves({"thin+copy": p}, case.truth, at=0.7).axes
    dots = [line for ax in (left, right) for line in ax.lines if line.get_marker() == "o"]
    assert [tuple(np.ravel(dot.get_data())) for dot in dots] == [(0.7, 0), (0, 1)]
    tables = {k: pd.DataFrame({1: [0.5], 2: [0.9]}, index=["thin+sdi"]) for k in ("a", "b")}
    assert [ax.lines[0].get_ydata().tolist() for ax in explore.kept(tables).axes] == [
        [0.5, 0.9]
    ] * 2
    tens = torch.full((2, 10), 10.0)
    lines = explore.spread({"start": tens}, torch.ones(3)).axes[0].lines
    peaks = [line.get_xdata()[np.argmax(line.get_ydata())] for line in lines]
    assert peaks == pytest.approx([1, 2, 0], abs=0.11), "10, 10 x 10, and the trained one"


@pytest.mark.parametrize("asks", [True, False])
def test_sliders_need_a_front_end_with_a_user(asks, monkeypatch):
    parent = {"content": {"allow_stdin": asks}}
    kernel = SimpleNamespace(get_parent=lambda: parent)
    monkeypatch.setattr(IPython, "get_ipython", lambda: kernel)
    assert explore.answering() is asks
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    assert explore.answering() is False, "a script"


def test_play_makes_controls_that_start_at_the_defaults(monkeypatch, capsys):
    made = {}
    monkeypatch.setattr(ipywidgets, "interact", lambda draw, **controls: made.update(controls))

    def draw(sample, level=None, threshold=0.5, before=False): ...

    where = {"none": None, "1/4": 0}
    controls = {"sample": list("abcdefghijk"), "level": where, "threshold": [0.1, 0.5]}
    explore.play(draw, True, **controls, before=True)
    kinds = [type(control).__name__ for control in made.values()]
    assert kinds == ["Dropdown", "SelectionSlider", "SelectionSlider", "Checkbox"]
    assert [control.value for control in made.values()] == ["a", None, 0.5, True]
    made["level"].index = 1
    assert made["level"].value == 0 and not capsys.readouterr().out
    made.clear()
    explore.play(draw, False, **controls)
    assert not made and capsys.readouterr().out.startswith("No sliders in this copy")
