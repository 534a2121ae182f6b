"""Pictures and charts of the notebooks: colours, error overlays, grids, curves, intervals.

Every function builds its own figure and returns it: nothing is shown, no setting of matplotlib is
changed, and a notebook shows the figure by ending a cell with it. Widths are for 700 pixels on a
page. A model has one colour in all of them, that of its skip, and the name that readers see.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import networks
from ..common import files
from ..evaluation import stats

__all__ = ["COLOURS", "OTHERS", "REGIONS", "STYLE", "WIDTH", "blank", "contact_sheet", "curves"]
__all__ += ["grid", "intervals", "label", "nothing", "overlay", "palette", "save"]

# By skip. The set of Okabe and Ito ("Color Universal Design", 2008) first, which colour-blind
# readers can tell apart; then two of Tol's.
COLOURS = {
    "copy": "#0072B2",
    "nested": "#E69F00",
    "sdi": "#009E73",
    "sum": "#CC79A7",
    "concat": "#56B4E9",
    "copy-attention": "#D55E00",
    "copy-matched": "#332288",
    "sdi-noattention": "#000000",
    "sdi-unitbias": "#8C6D31",
    "sdi-shared": "#882255",
    "sdi-released": "#999999",
    "mdu-style": "#661100",
}
OTHERS = (  # for what is no skip of ours; none is that of copy, nested or SDI
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
    "#999933",
    "#8C6D31",
    "#332288",
    "#882255",
    "#999999",
    "#AA4499",
    "#DDCC77",
    "#88CCAA",
    "#F77189",
    "#A6CEE3",
)
SKIP_OF = {  # the skip of a model whose name does not hold it
    "unetv2": "sdi",
    "unetv2-released": "sdi-released",
    "tmi-unet-l4": "copy",
    "tmi-unet++": "nested",
}
REGIONS = {  # true positive, false positive and negative
    "found": "#009E73",
    "invented": "#D55E00",
    "missed": "#56B4E9",
}
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
WIDTH = 7.0  # inches


def palette(names: Iterable[str]) -> dict[str, str]:
    """Colour of each model (or of anything with a name), no two alike.

    A model has the colour of its skip (`COLOURS`), the other members of UNet++'s family and smp's
    architectures have one of `OTHERS` each, in any company. Where two want the same, the one with
    the shorter name has it, so that `thin+sdi` stays green beside `thin+sdi-c16`, and the other
    takes the next free one.
    """
    names = list(dict.fromkeys(names))
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: len(str(name))):
        wanted = _wanted(str(name))
        if wanted and wanted not in chosen.values():
            chosen[name] = wanted
    pool = [*dict.fromkeys([*OTHERS, *COLOURS.values()])]
    if len(names) > len(pool):
        import seaborn

        pool += map(mpl.colors.to_hex, seaborn.husl_palette(len(names)))
    free = (colour for colour in dict.fromkeys(pool) if colour not in chosen.values())
    for name in names:
        if name not in chosen:
            chosen[name] = next(free)
    return {name: chosen[name] for name in names}


def _wanted(name: str) -> str | None:
    from ..networks.names import FAMILY, FILLED, PEERS, PYRAMID, parts

    found = parts(name)
    if skip := found.skip if found else SKIP_OF.get(name):
        return COLOURS.get(skip)
    for kind in (FAMILY, [*(f"smp-{arch}" for arch in PYRAMID), *FILLED], PEERS):
        others = [model for model in kind if model not in SKIP_OF]
        if name in others:
            return OTHERS[others.index(name) % len(OTHERS)]
    return None


def label(name: str) -> str:
    """What readers see for a model's name (`networks.label`); any other text as it is."""
    try:
        return networks.label(str(name))
    except ValueError:
        return str(name)


def blank(
    height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of this size in inches, and its empty charts (rows, columns).

    Args:
        options: of `plt.subplots`.
    """
    options |= {"figsize": (width, height), "squeeze": False}
    fig, axes = plt.subplots(rows, columns, **options)
    plt.close(fig)  # pyplot forgets it; the caller holds it
    return fig, axes


def nothing(text: str) -> Figure:
    """What stands in place of a chart until there is something to draw: a line of text."""
    fig, [[ax]] = blank(0.5)  # without axes a notebook shows no picture
    ax.axis("off")
    ax.text(0.5, 0.5, text, color="#666666", ha="center", va="center")
    return fig


def overlay(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, strength: float = 0.6
) -> np.ndarray:
    """`image` in grey, tinted as in `REGIONS` where `truth` and `prediction` have an object.

    Grey, so that the tints are seen on red tissue too. Class ids count: a pixel of the wrong class
    is "invented".

    Shapes:
        image (H, W, 3) uint8; truth and prediction (H, W) -> (H, W, 3) uint8.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    grey = np.repeat(grey[..., None], 3, axis=2)
    truth, prediction = np.asarray(truth).astype(int), np.asarray(prediction).astype(int)
    found = (truth == prediction) & (truth > 0)
    invented = (prediction > 0) & (truth != prediction)
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
    """Rows of pictures under column titles.

    Args:
        captions: what stands below each picture.
        legend: name the overlay's tints.
    """
    n, m = len(pictures), max(map(len, pictures))
    letters = max(8, round(13 * width / m))  # of a title, in the width of a column
    titles = [textwrap.fill(label(title), letters) for title in columns]
    lines = max((title.count("\n") for title in titles), default=0)
    height = width / m * n * (1.13 if captions else 1.03) + 0.3 + 0.15 * lines + 0.3 * legend
    fig, axes = blank(height, n, m, width)
    for i, j in np.ndindex(n, m):
        there = j < len(pictures[i])
        caption = captions[i][j] if captions and there else ""
        _picture(axes[i, j], pictures[i][j] if there else None, caption)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title)
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
    width: float = WIDTH,
) -> Figure:
    """Small pictures in reading order, each with a line of title.

    The outline of each mask is drawn in yellow on black.
    """
    lines = [list(images[i : i + columns]) for i in range(0, len(images), columns)]
    labels = [list(titles[i : i + columns]) for i in range(0, len(titles), columns)]
    fig = grid(lines, captions=labels, width=width)
    for ax, mask in zip(fig.axes, masks, strict=False):  # in reading order, as the images
        if 0 < np.count_nonzero(mask) < np.size(mask):
            for colour, line in (("black", 2.4), ("#F0E442", 1.2)):
                ax.contour(np.asarray(mask) > 0, levels=[0.5], colors=colour, linewidths=line)
    return fig


@mpl.rc_context(STYLE)
def curves(logs: pd.DataFrame, values: dict[str, str], facet: str = "dataset") -> Figure:
    """Learning curves, a row for each `facet`. Thin: each seed; thick: their mean.

    Args:
        logs: the rows of log.csv with `model`, `seed` and `facet`.
        values: column of log.csv -> its label; a column of charts for each.
    """
    import seaborn

    facets = logs[facet].unique()
    fig, axes = blank(2.6 * len(facets), len(facets), len(values), sharex="row")
    colours = {label(model): colour for model, colour in palette(logs["model"]).items()}
    logs = logs.assign(model=logs["model"].map(label))
    for i, name in enumerate(facets):
        rows = logs[logs[facet] == name]
        ends = {"marker": "o"} if rows["epoch"].nunique() == 1 else {}  # a point is no line
        for ax, (value, text) in zip(axes[i], values.items(), strict=True):
            what = {"data": rows, "x": "epoch", "y": value, "ax": ax}
            what |= {"hue": "model", "palette": colours, "legend": False}
            seaborn.lineplot(**what, units="seed", estimator=None, linewidth=0.7, alpha=0.5)
            seaborn.lineplot(**what, errorbar=None, linewidth=2, **ends)
            ax.set(ylabel=text)
        axes[i, 0].set_title(name if len(facets) > 1 else "")
    lines = [mpl.lines.Line2D([], [], color=c, linewidth=2, label=m) for m, c in colours.items()]
    fig.legend(handles=lines, loc="outside lower center", ncols=min(3, len(lines)))
    return fig


@mpl.rc_context(STYLE)
def intervals(
    table: pd.DataFrame,
    unit: str,
    value="mean_difference",
    low="ci_low",
    high="ci_high",
) -> Figure:
    """A tick on its interval for each row, named by the index and coloured by its `model`.

    An interval of two to four seeds is so wide that on its scale no tick could be read: where
    `table` has `seeds`, such intervals may leave the page, and the label says so.

    Args:
        unit: label of the axis.
    """
    colours = palette(table["model"])
    fig, [[ax]] = blank(1.1 + 0.34 * len(table))
    places = range(len(table))
    ax.hlines(places, table[low], table[high], colors=table["model"].map(colours), linewidth=2)
    # a tick hides no interval
    ax.plot(table[value], places, "|", color="black", markersize=10, markeredgewidth=1.5)
    ax.axvline(0, color="black", linewidth=1)
    # one group alone has no interval: its ends are not numbers
    seeds = table.get("seeds", pd.Series(1, table.index))
    few = seeds.between(2, stats.SEEDS_FOR_A_VERDICT - 1)
    ends = table.loc[~few, [low, high]].abs().max().max()
    reach = np.nanmax([1e-6, ends, table[value].abs().max() * (3 if few.any() else 1)])
    ax.set(xlim=(-1.1 * reach, 1.1 * reach))
    unit += "; intervals of so few seeds may leave the page" if few.any() else ""
    ax.set_title("← worse than the reference", loc="left")
    ax.set_title("better than the reference →", loc="right")
    names = [" · ".join(map(label, n)) if isinstance(n, tuple) else label(n) for n in table.index]
    ax.set(ylim=(len(table) - 0.5, -0.5), xlabel=unit)
    ax.set_yticks(places, names)
    ax.grid(axis="x", alpha=0.3)
    return fig


def save(fig: Figure, path: str | Path) -> Path:
    """Write the figure, whole or not at all, in the format of the path's ending."""
    with files.atomic(path) as temporary:
        fig.savefig(temporary, format=Path(path).suffix[1:], dpi=150, bbox_inches="tight")
    return Path(path)
