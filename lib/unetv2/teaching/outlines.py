"""Masks as outlines on the image, magnified where models differ; and what their threshold hides.

As in `plots`: a function builds its figure and returns it, and a model has one colour in all.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from ..data.images import read_image
from ..inference.infer import enlarge, foreground, predict
from .plots import STYLE, WIDTH, blank, label, palette

if TYPE_CHECKING:
    from ..data import Split

__all__ = ["along_the_border", "contours", "doubt", "look", "window"]

TRUTH = {"colors": "white", "linewidths": 1.2, "linestyles": "dashed"}  # on black
SHARE = 0.3  # of an image, what is magnified
MAPS = Mapping[str, np.ndarray]  # of each model, the probability of "object", (H, W)


def look(
    nets: Mapping[str, nn.Module], split: "Split", indices: Sequence[int], own: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray], list[MAPS]]:
    """Images, truths and the models' probabilities of these rows of `split`: for `contours`.

    Args:
        own: at the size of the images' own files, not at the network's.
    """
    images, truths = [split.images[i] for i in indices], [split.masks[i] for i in indices]
    if own and split.pairs:
        images = [read_image(split.pairs[i].image) for i in indices]
        truths = [split.native_mask(i) for i in indices]
    maps: list[dict] = [{} for _ in indices]
    for model, net in nets.items():
        logits = predict(net, split, indices=indices)
        for found, z, truth in zip(maps, logits, truths, strict=True):
            found[model] = foreground(enlarge(z, truth.shape)).sum(0)
    return images, truths, maps


def window(masks: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """The square (rows, columns) in which the masks (H, W) differ in most pixels.

    Its side is `SHARE` of the image's shorter one.

    Args:
        masks: two or more, of bool.
    """
    stack = np.stack(masks)
    differ = stack.any(0) & ~stack.all(0)
    if not differ.any():  # then the middle of what all call object, or of the image
        differ = stack[0] if stack[0].any() else np.ones_like(stack[0])
    side = max(4, round(SHARE * min(differ.shape)))
    total = cv2.integral(differ.astype(np.uint8))
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side]
    inside = inside + total[:-side, :-side]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    found = np.argwhere(differ[top : top + side, left : left + side]).mean(0)  # its centre
    corner = np.array([top, left]) + np.round(found - side / 2).astype(int)
    y, x = np.clip(corner, 0, np.array(differ.shape) - side).tolist()
    return slice(y, y + side), slice(x, x + side)


def along_the_border(
    truths: Sequence[np.ndarray], masks: Iterable[Sequence[np.ndarray]], reach: int
) -> float:
    """Of the wrong pixels of all models, the share within `reach` pixels of the true outline.

    NaN where nothing is wrong.

    Args:
        truths: class ids, (H, W) each.
        masks: of each model, in the order of `truths`.
    """
    square, wrong, close = np.ones((3, 3), np.uint8), 0, 0
    bands = []
    for truth in truths:
        inside = (truth > 0).astype(np.uint8)
        wide, narrow = (f(inside, square, iterations=reach) for f in (cv2.dilate, cv2.erode))
        bands.append(wide > narrow)
    for of in masks:
        for mask, truth, band in zip(of, truths, bands, strict=True):
            wrong += np.count_nonzero(mask != truth)
            close += np.count_nonzero((mask != truth) & band)
    return close / wrong if wrong else float("nan")


@mpl.rc_context(STYLE)
def contours(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    maps: Sequence[MAPS],
    captions: Sequence[str] = (),
) -> Figure:
    """Each image beside a magnified part of it: where the models' masks differ most, or where they
    differ from the truth if all models agree.

    A model's outline is where its probability is 0.5; the truth is dashed, white on black.

    Shapes:
        images (H, W, 3) uint8; truths and maps (H, W), all of one image alike.
    """
    colours = palette(maps[0])
    lines = -(-len(images) // 2)
    fig, axes = blank((0.27 * WIDTH + 0.1) * lines + 0.4, lines, 4)
    for ax in axes.flat:
        ax.set_axis_off()
    pairs = axes.reshape(-1, 2)
    for k, (image, truth, of) in enumerate(zip(images, truths, maps, strict=True)):
        masks = [p >= 0.5 for p in of.values()]
        agreed = all(np.array_equal(mask, masks[0]) for mask in masks)
        rows, columns = window([masks[0], truth > 0] if agreed else masks)
        whole, part = pairs[k]
        for ax in (whole, part):
            ax.imshow(image, interpolation="nearest" if len(image) < 100 else "bilinear")
            _outline(ax, truth > 0, colors="black", linewidths=2.2)
            _outline(ax, truth > 0, **TRUTH)
            for model, p in of.items():
                _outline(ax, p, colors=colours[model], linewidths=1.3 if ax is part else 0.9)
        frame = (columns.start - 0.5, rows.start - 0.5), columns.stop - columns.start
        for colour, line in (("white", 2.4), ("black", 1.0)):  # seen on dark images too
            look = {"fill": False, "edgecolor": colour, "linewidth": line}
            whole.add_patch(mpl.patches.Rectangle(*frame, frame[1], **look))
        part.set(xlim=(columns.start - 0.5, columns.stop - 0.5))
        part.set(ylim=(rows.stop - 0.5, rows.start - 0.5))
        if captions:
            whole.set_title(captions[k], loc="left", fontsize=8.5)
    marks = [mpl.lines.Line2D([], [], color=c, label=label(model)) for model, c in colours.items()]
    dashes = {"color": "black", "linestyle": TRUTH["linestyles"], "linewidth": 1.6}
    marks.append(mpl.lines.Line2D([], [], label="truth", **dashes))
    fig.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
    return fig


def _outline(ax: Axes, values: np.ndarray, **look) -> None:
    """The line where `values` (H, W) cross 0.5; nothing where they do not."""
    if values.min() < 0.5 <= values.max():
        ax.contour(values, levels=[0.5], **look)


@mpl.rc_context(STYLE)
def doubt(image: np.ndarray, truth: np.ndarray, maps: MAPS) -> Figure:
    """Each model's probability of "object", and all of them along one row of pixels.

    The truth is an outline on the image and the grey part of the row; no line covers the maps. The
    row is the one in which most pixels are object.

    Shapes:
        image (H, W, 3) uint8; truth and each of `maps` (H, W).
    """
    cut, colours = int((truth > 0).sum(1).argmax()), palette(maps)
    side = WIDTH / (1 + len(maps))
    letters = max(8, round(11 * side))  # of a title
    fig = plt.figure(figsize=(WIDTH, side + 2.2))
    plt.close(fig)  # pyplot forgets it; the caller holds it
    above, below = fig.subfigures(2, 1, height_ratios=(side + 0.4, 1.8))
    axes = above.subplots(1, 1 + len(maps))
    axes[0].imshow(image)
    _outline(axes[0], truth > 0, colors="black", linewidths=2.2)
    _outline(axes[0], truth > 0, **TRUTH)
    axes[0].axhline(cut, color="white", linewidth=0.8)
    axes[0].set_title(textwrap.fill("image, truth and row", letters))
    for ax, (model, p) in zip(axes[1:], maps.items(), strict=True):
        shown = ax.imshow(p, cmap="magma", vmin=0, vmax=1)
        ax.set_title(textwrap.fill(label(model), letters), color=colours[model])
    for ax in axes:
        ax.set_axis_off()
    above.colorbar(shown, ax=axes, shrink=0.6, label="probability", location="right", aspect=14)
    ax = below.subplots()
    for model, p in maps.items():
        ax.plot(p[cut], color=colours[model], linewidth=1.6)
    inside = np.where(truth[cut] > 0, 1.0, np.nan)
    ax.fill_between(range(len(inside)), 0, inside, color="#DDDDDD", step="mid")
    if np.isfinite(inside).any():
        ax.text(np.nanmean(np.where(truth[cut] > 0, range(len(inside)), np.nan)), 0.1, "truth")
    ax.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    ax.set(xlabel=f"pixels of row {cut}", ylabel="probability", xlim=(0, len(inside) - 1))
    ax.set(ylim=(-0.02, 1.02))
    return fig
