"""Outlines: the magnified part is where masks differ, and no line hides a map."""

import matplotlib as mpl
import numpy as np
import pytest

from unetv2.teaching import outlines, plots

GREY = np.full((60, 80, 3), 128, np.uint8)


def disc(y, x, radius, shape=(60, 80)):
    """A soft disc: 0.5 at its radius."""
    rows, columns = np.indices(shape)
    return 1 / (1 + np.exp(np.hypot(rows - y, columns - x) - radius))


def test_the_window_holds_the_difference():
    a = disc(30, 20, 12) >= 0.5
    b = a | (disc(15, 70, 4) >= 0.5)
    rows, columns = outlines.window([a, b])
    assert rows.stop - rows.start == columns.stop - columns.start == 18
    assert (a != b)[rows, columns].sum() == (a != b).sum()
    assert abs((rows.start + rows.stop) / 2 - 15) <= 1


@pytest.mark.parametrize("mask", [disc(30, 20, 12) >= 0.5, np.zeros((60, 80), bool)])
def test_equal_masks_have_a_window_too(mask):
    rows, columns = outlines.window([mask, mask])
    assert 0 <= rows.start < rows.stop <= 60 and 0 <= columns.start < columns.stop <= 80


def test_every_model_has_its_colour_beside_and_in_the_magnified_part():
    maps = {"thin+copy": disc(30, 30, 12), "thin+sdi": disc(30, 33, 12)}
    fig = outlines.contours([GREY] * 3, [maps["thin+copy"] >= 0.5] * 3, [maps] * 3, ["a"] * 3)
    wanted = {mpl.colors.to_rgba(colour) for colour in plots.palette(maps).values()}
    for ax in fig.axes[:6]:
        drawn = {tuple(c) for s in ax.collections for c in s.get_edgecolor()}
        assert wanted <= drawn
    whole, part = fig.axes[:2]
    assert np.ptp(part.get_xlim()) == pytest.approx(0.3 * 60)
    assert np.ptp(whole.get_xlim()) == pytest.approx(80)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        *map(plots.label, maps),
        "truth",
    ]


def test_errors_along_the_border_are_told_from_others():
    truth = np.zeros((40, 40), int)
    truth[10:30, 10:30] = 1
    wider, elsewhere = truth.copy(), truth.copy()
    wider[8:32, 8:32] = 1  # a rim of two pixels: 176
    elsewhere[0:4, 0:11] = 1  # 44 far from the outline
    assert outlines.along_the_border([truth], [[wider]], 2) == 1
    assert outlines.along_the_border([truth], [[wider], [elsewhere]], 2) == 176 / 220
    assert np.isnan(outlines.along_the_border([truth], [[truth]], 2))


def test_where_all_models_agree_the_truth_says_where_to_look():
    missed = disc(50, 70, 5) >= 0.5
    fig = outlines.contours([GREY], [missed], [{"thin+copy": 0 * disc(1, 1, 1)}])
    left, right = fig.axes[1].get_xlim()
    assert left < 70 < right


def test_no_line_covers_the_maps_of_doubt():
    maps = {"thin+copy": disc(30, 30, 12), "thin+sdi": disc(30, 33, 12)}
    fig = outlines.doubt(GREY, disc(30, 30, 14) >= 0.5, maps)
    image, *others = fig.axes
    assert image.collections and not any(ax.collections for ax in others[:2])
    row = next(ax for ax in fig.axes if ax.get_xlabel())
    assert row.get_xlabel() == "pixels of row 30" and len(row.lines) == 3
    assert np.allclose(row.lines[1].get_ydata(), maps["thin+sdi"][30])


def test_a_truth_without_an_object_is_drawn_all_the_same():
    nothing = np.zeros((60, 80), np.uint8)
    assert outlines.doubt(GREY, nothing, {"thin+copy": disc(30, 30, 12)}).axes
    assert outlines.contours([GREY], [nothing], [{"thin+copy": disc(30, 30, 12)}]).axes
