"""Pictures and charts of the notebooks: one palette, error overlays, grids of pictures, curves,
intervals.

Every function builds its own figure and returns it: nothing is shown, no setting of matplotlib is
changed, and a notebook shows the figure by ending a cell with it. Widths are for 700 pixels on a
page.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common import files

__all__ = [
    "COLOURS", "LABELS", "REGIONS", "STYLE", "contact_sheet", "curves", "grid", "intervals", "label", "overlay",
    "palette", "save",
]  # fmt: skip

# The set of Okabe and Ito ("Color Universal Design", 2008), which colour-blind readers can tell
# apart.
COLOURS = {
    "unet": "#0072B2", "unetpp": "#E69F00", "unetv2": "#009E73", "tmi-unet-l4": "#0072B2", "tmi-unet++": "#E69F00",
}  # fmt: skip
LABELS = {
    "unet": "U-Net", "unetpp": "UNet++", "unetv2": "U-Net v2",
    "tmi-unet-wide": "wide U-Net", "tmi-unet-e": "U-Netᵉ", "tmi-unet+": "UNet+", "tmi-unet++": "UNet++",
    "tmi-unet++-nods": "UNet++ without supervision", "tmi-unet++-l2": "UNet++ L2", "tmi-unet++-l3": "UNet++ L3",
    **{f"tmi-unet-l{d}": f"U-Net L{d}" for d in (1, 2, 3, 4)},
}  # fmt: skip
OTHERS = ("#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999", "#8C6D31")
REGIONS = {
    "found": "#009E73",
    "invented": "#D55E00",
    "missed": "#56B4E9",
}  # true positive, false positive and negative
STYLE = {
    "font.size": 9.5, "axes.titlesize": 10, "legend.fontsize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "figure.dpi": 100, "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip
WIDTH = 7.0  # inches


def palette(models: Iterable[str]) -> dict[str, str]:
    """Colour of each model: its own in `COLOURS`, else the next of `OTHERS`."""
    others = cycle(OTHERS)
    return {name: COLOURS.get(name) or next(others) for name in dict.fromkeys(models)}


def label(model: str) -> str:
    """Name of a model as its paper writes it (`LABELS`); any other text as it is."""
    return LABELS.get(model, model)


def overlay(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, strength: float = 0.6
) -> np.ndarray:
    """`image` (H, W, 3) uint8 in grey, tinted as in `REGIONS` where `truth` and `prediction` (H, W)
    have an object.

    Grey, so that the tints are seen on red tissue too. Class ids count: a pixel of the wrong class
    is "invented".
    """
    grey = np.repeat(
        cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2
    )
    truth, prediction = np.asarray(truth).astype(int), np.asarray(prediction).astype(int)
    found, invented = (truth == prediction) & (truth > 0), (prediction > 0) & (truth != prediction)
    missed = (truth > 0) & (prediction == 0)
    for colour, region in zip(REGIONS.values(), (found, invented, missed), strict=True):
        tint = 255 * np.array(mpl.colors.to_rgb(colour))
        grey[region] = ((1 - strength) * grey[region] + strength * tint).astype(np.uint8)
    return grey


def _picture(ax: Axes, picture: np.ndarray | None, caption: str = "") -> None:
    """A picture (colour, or grey from 0 to 1) without ticks; None leaves the place empty."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if picture is not None:
        grey = {} if np.ndim(picture) == 3 else {"cmap": "gray", "vmin": 0, "vmax": 1}
        ax.imshow(picture, interpolation="nearest" if len(picture) < 100 else "antialiased", **grey)
    ax.set_xlabel(caption, fontsize=8.5, labelpad=2)


@mpl.rc_context(STYLE)
def grid(
    pictures: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    legend: bool = False,
    width: float = WIDTH,
) -> Figure:
    """Rows of pictures under column titles; `captions` stand below each picture, `legend` names the
    overlay's tints.
    """
    n, m = len(pictures), max(map(len, pictures))
    height = width / m * n * (1.13 if captions else 1.03) + 0.3 + 0.3 * legend
    fig, axes = plt.subplots(n, m, figsize=(width, height), squeeze=False)
    plt.close(fig)  # pyplot forgets it; the caller holds it
    for i, j in np.ndindex(n, m):
        there = j < len(pictures[i])
        caption = captions[i][j] if captions and there else ""
        _picture(axes[i, j], pictures[i][j] if there else None, caption)
    for ax, title in zip(axes[0], columns, strict=False):
        ax.set_title(label(title))
    for ax, title in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel(label(title))
    if legend:
        marks = [mpl.patches.Patch(color=colour, label=name) for name, colour in REGIONS.items()]
        fig.legend(handles=marks, loc="outside lower center", ncols=3)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    return fig


@mpl.rc_context(STYLE)
def contact_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray] = (),
    titles: Sequence[str] = (),
    columns: int = 8,
) -> Figure:
    """Small pictures in reading order, each with the outline of its mask (in yellow on black) and a
    line of title.
    """
    lines = [list(images[i : i + columns]) for i in range(0, len(images), columns)]
    labels = [list(titles[i : i + columns]) for i in range(0, len(titles), columns)]
    fig = grid(lines, captions=labels)
    for i, mask in enumerate(masks):
        if 0 < np.count_nonzero(mask) < np.size(mask):
            ax = fig.axes[i // len(lines[0]) * len(lines[0]) + i % len(lines[0])]
            for colour, line in (("black", 2.4), ("#F0E442", 1.2)):
                ax.contour(np.asarray(mask) > 0, levels=[0.5], colors=colour, linewidths=line)
    return fig


@mpl.rc_context(STYLE)
def curves(logs: pd.DataFrame, values: dict[str, str], facet: str = "dataset") -> Figure:
    """Learning curves: a row for each `facet`, a column for each of `values` (column of log.csv ->
    its label).

    `logs`: the rows of log.csv with `model`, `seed` and `facet`. Thin: each seed; thick: their
        mean.
    """
    facets, colours = logs[facet].unique(), palette(logs["model"])
    size = (WIDTH, 2.6 * len(facets))
    fig, axes = plt.subplots(len(facets), len(values), figsize=size, squeeze=False, sharex="row")
    plt.close(fig)
    for (i, name), (j, (value, text)) in (
        (a, b) for a in enumerate(facets) for b in enumerate(values.items())
    ):
        for model, runs in logs[logs[facet] == name].groupby("model", sort=False):
            table = runs.pivot(index="epoch", columns="seed", values=value)
            ends = {"marker": "o"} if len(table) == 1 else {}  # a single epoch would draw nothing
            axes[i, j].plot(table, color=colours[model], linewidth=0.7, alpha=0.5)
            axes[i, j].plot(
                table.mean(axis=1), color=colours[model], linewidth=2, label=label(model), **ends
            )
        axes[i, j].set(
            xlabel="epoch", ylabel=text, title=name if j == 0 and len(facets) > 1 else ""
        )
    axes[0, -1].legend()
    return fig


@mpl.rc_context(STYLE)
def intervals(
    table: pd.DataFrame,
    unit: str,
    zero: bool = True,
    value="mean_difference",
    low="ci_low",
    high="ci_high",
) -> Figure:
    """A tick on its interval for each row of `table`, named by the index and coloured by the column
    `model`.

    `unit`: label of the axis; `zero`: draw the line of no difference, with a word on what lies on
        either side of it.
    """
    colours = palette(table["model"])
    fig, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.34 * len(table)))
    plt.close(fig)
    for y, (_, row) in enumerate(table.iterrows()):
        colour = colours[row["model"]]
        ax.plot([row[low], row[high]], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot(
            row[value], y, "|", color="black", markersize=10, markeredgewidth=1.5
        )  # hides no interval
    if zero:
        ax.axvline(0, color="black", linewidth=1)
        reach = 1.1 * max(table[[low, high]].abs().max().max(), 1e-6)
        ax.set(xlim=(-reach, reach))
        ax.set_title("← worse than the reference", loc="left")
        ax.set_title("better than the reference →", loc="right")
    ax.set(yticks=range(len(table)), ylim=(len(table) - 0.5, -0.5), xlabel=unit)
    ax.set_yticklabels(
        [" · ".join(map(label, n)) if isinstance(n, tuple) else label(n) for n in table.index]
    )
    ax.grid(axis="x", alpha=0.3)
    return fig


def save(fig: Figure, path: str | Path) -> Path:
    """Write the figure, whole or not at all, in the format of the path's ending."""
    with files.atomic(path) as temporary:
        fig.savefig(temporary, format=Path(path).suffix[1:], dpi=150, bbox_inches="tight")
    return Path(path)
