"""The figures of 41_ablation.

An interval is drawn where five seeds or more stand behind it. With fewer it is either wider than
the page or, for one seed, blind to luck: then there is a hollow dot for each seed. What has not
landed keeps its place beside what has, and says so; where nothing has, a line says that.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import networks
from ..evaluation.stats import NAMES, SEEDS_FOR_A_VERDICT
from . import diagrams
from .cells import ARMS, CORNERS, Cell
from .contrasts import other
from .landed import Landed
from .plots import STYLE, blank, label, nothing, palette

__all__ = ["corners", "drawings", "gains", "over"]

GREY = "#555555"
COLUMNS = {  # of `ablation.compare`: a metric's place among them
    "first": ("mean_difference", "ci_low", "ci_high", "by_seed"),
    "second": ("second_difference", "second_low", "second_high", "second_by_seed"),
}


def _colours(models: Iterable[str]) -> dict[str, str]:
    """Those of `palette`, beside all arms: a reader's own has the same in every figure."""
    models = list(dict.fromkeys(models))
    colours = palette([*ARMS, *models])
    return {model: colours[model] for model in models}


def drawings(models: Sequence[str]) -> Figure:
    """The arms as they are wired, see `diagrams.of`; links are read off the networks."""
    designs = [diagrams.of(networks.create_model(m, "tu-test_resnet"), label(m)) for m in models]
    return diagrams.draw(designs, columns=4, height=1.75)


@mpl.rc_context(STYLE)
def gains(
    compared: pd.DataFrame, metric: str, title: str = "", names: Sequence[str] | None = None
) -> Figure:
    """A row for each comparison: its interval and tick, or the seeds it has, or that it has none.

    Left `metric`, right the metric that may object, whose interval is not corrected.

    Args:
        compared: a table of `ablation.compare`; the colour is that of its `model`.
        names: of the rows; None: the models' labels.
    """
    if not compared.seeds.any():
        return nothing(f"No record yet: {title}")
    fig, axes = blank(0.9 + 0.3 * len(compared), 1, 2, sharey=True)
    colours = _colours(m for m in compared.model if label(m) != m)
    for ax, part, score in zip(axes[0], COLUMNS, (metric, other(metric)), strict=True):
        for place, (_, row) in enumerate(compared.iterrows()):
            _mark(ax, row, part, place, colours.get(row.model, GREY), upright=False)
        ax.axvline(0, color="black", linewidth=1, zorder=0)
        ax.grid(axis="x", alpha=0.3)
        ax.set(ylim=(len(compared) - 0.5, -0.5), xlabel=f"{NAMES[score]}, points")
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, -0.5), max(high, 0.5))
    names = [label(m) for m in compared.model] if names is None else names
    axes[0, 0].set_yticks(range(len(compared)), names)
    fig.suptitle(title, x=0.01, ha="left", fontsize=10)
    fig.supxlabel(
        "line: interval from five seeds or more, left corrected, right not;"
        " ○: one seed, where there are fewer",
        fontsize=8.5,
    )
    return fig


def _mark(ax: Axes, row: pd.Series, part: str, place: float, colour: str, upright: bool) -> None:
    """One comparison at `place` of the axis that does not count points."""
    mean, low, high, by_seed = (row[name] for name in COLUMNS[part])
    if row.seeds == 0:
        if not upright:
            text = {"va": "center", "ha": "right", "color": "#888888", "fontsize": 8}
            text["transform"] = ax.get_yaxis_transform()  # at the right, wherever 0 lies
            ax.text(0.99, place, "no record yet", **text)
        return
    if row.seeds < SEEDS_FOR_A_VERDICT:
        points = np.full(len(by_seed), place), by_seed
        looks = {"markerfacecolor": "white", "color": colour, "markersize": 5, "linestyle": ""}
        ax.plot(*(points if upright else points[::-1]), marker="o", **looks)
        return
    line, ends = (ax.vlines if upright else ax.hlines), (low, high)
    line(place, *ends, colors=colour, linewidth=2)
    tick = {"color": "black", "markersize": 9, "markeredgewidth": 1.5}
    if upright:
        ax.plot(place, mean, "_", **tick)
    else:
        ax.plot(mean, place, "|", **tick)


@mpl.rc_context(STYLE)
def over(
    found: Landed,
    steps: Mapping[str, Mapping[float, Cell]],
    compared: pd.DataFrame,
    axis: str,
    percent: bool = False,
) -> Figure:
    """A factor with several steps: how high each skip stands, and what it gains on the first.

    Above the first metric, below the other. Left: a dot for each training, a line through the
    means, dashed to a mean of fewer than five seeds. Right: `gains` at each step. A curve takes two
    steps with records.

    Args:
        steps: model -> {step: cell}; the first model is the reference.
        compared: of `contrasts.compare`, a row for each other cell, named by the cell.
        axis: what a step is.
        percent: steps are shares.
    """
    metric = found.params.metric
    colours, reference = _colours(steps), next(iter(steps))
    places = sorted({step for cells in steps.values() for step in cells})
    there = {step for cells in steps.values() for step, cell in cells.items() if found.seeds(cell)}
    if len(there) < 2:
        return nothing(
            f"{axis}: {len(there)} of {len(places)} steps have records; a curve takes two"
        )
    fig, axes = blank(5, 2, 2, sharex=True)
    shifts = {model: 0.16 * (k - (len(steps) - 1) / 2) for k, model in enumerate(steps)}
    for line, part, score in zip(axes, COLUMNS, (metric, other(metric)), strict=True):
        for model, cells in steps.items():
            at = {cell: places.index(step) + shifts[model] for step, cell in cells.items()}
            _levels(line[0], found, at, score, colours[model])
            for cell, place in at.items():
                if model != reference and str(cell) in compared.index:
                    _mark(line[1], compared.loc[str(cell)], part, place, colours[model], True)
        line[1].axhline(0, color="black", linewidth=1, zorder=0)
        line[0].set_ylabel(f"{NAMES[score]}, points")
        for ax in line:
            ax.grid(axis="y", alpha=0.3)
    titles = ("score: a dot is a training", f"gain on {label(reference)}")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    for ax in axes[1]:
        ax.set(xlabel=axis, xlim=(-0.5, len(places) - 0.5))
        ax.set_xticks(range(len(places)), [f"{p:.0%}" if percent else f"{p:g}" for p in places])
    marks = [mpl.lines.Line2D([], [], color=c, lw=2, label=label(m)) for m, c in colours.items()]
    seeds = [len(found.seeds(cell)) for cells in steps.values() for cell in cells.values()]
    if any(0 < many < SEEDS_FOR_A_VERDICT for many in seeds):
        hollow = {"marker": "o", "linestyle": "--", "markerfacecolor": "white", "color": GREY}
        marks.append(mpl.lines.Line2D([], [], label="of fewer than five seeds", **hollow))
    fig.legend(handles=marks, loc="outside lower center", ncols=2)
    return fig


def _levels(ax: Axes, found: Landed, at: Mapping[Cell, float], score: str, colour: str) -> None:
    """A dot for each seed of each cell that has landed, a line through the means."""
    means: list[tuple[float, float, bool]] = []  # place, mean, of few seeds
    for cell, place in sorted(at.items(), key=lambda pair: pair[1]):
        if seeds := found.seeds(cell):
            dots = 100 * found.wide(cell, score).mean(axis=1)
            ax.plot(np.full(len(dots), place), dots, "o", color=colour, alpha=0.7, markersize=4)
            means.append((place, dots.mean(), len(seeds) < SEEDS_FOR_A_VERDICT))
    for (x, y, few), (to, high, fewer) in pairwise(means):
        ax.plot([x, to], [y, high], "--" if few or fewer else "-", color=colour, linewidth=1.8)


@mpl.rc_context(STYLE)
def corners(found: Landed, epochs: int) -> Figure:
    """The eight cells of the factorial: from copy to SDI, a line for each decoder and supervision.

    Parallel lines: no interaction with the skip. Two lines at least need both ends.
    """
    metric = found.params.metric
    cells = {bits: Cell(model, epochs) for bits, model in CORNERS.items()}
    lines = sorted({bits[1:] for bits in CORNERS})
    whole = sum(all(found.seeds(cells[skip, *line]) for skip in (0, 1)) for line in lines)
    if whole < 2:
        return nothing(f"{whole} of {len(lines)} lines from copy to SDI have both ends yet")
    fig, axes = blank(3, 1, 2)
    for ax, score in zip(axes[0], (metric, other(metric)), strict=True):
        for decoder, supervision in lines:
            colour, dash = ("#666666", "#AA4499")[decoder], ("--", "-")[supervision]
            means = {}
            for skip in (0, 1):
                if found.seeds(cell := cells[skip, decoder, supervision]):
                    dots = 100 * found.wide(cell, score).mean(axis=1)
                    ax.plot(np.full(len(dots), skip), dots, "o", color=colour, alpha=0.45, ms=4)
                    means[skip] = dots.mean()
            heads = ("one head", "deep supervision")[supervision]
            text = f"{('thin', 'smp')[decoder]} decoder, {heads}"
            named = {"label": text} if ax is axes[0, 0] else {}
            ax.plot(list(means), list(means.values()), dash, color=colour, lw=1.8, **named)
        ax.set(ylabel=f"{NAMES[score]}, points", xlim=(-0.3, 1.3))
        ax.set_xticks([0, 1], ["copy", "SDI"])
        ax.grid(axis="y", alpha=0.3)
    fig.legend(loc="outside lower center", ncols=2)
    return fig
