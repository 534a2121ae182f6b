"""Figures of 45_reading_the_paper, from the tables of `reading` and `other_rules`.

As in `plots`: a function builds its figure and returns it, and a model has one colour in all.
"""

from functools import partial

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation import metrics
from .other_rules import PROTOCOLS, RULES
from .plots import STYLE, blank, grid, label, nothing, overlay, palette
from .reading import LEVEL

__all__ = ["chosen", "gains", "matrix", "plane", "scene", "under_protocols"]

WRONG, FINE = "#D55E00", "#0072B2"  # what cannot be, and what can
SETS = {"isbi2012": "EM", "dsb2018": "nuclei", "isic2017": "ISIC 2017", "isic2018": "ISIC 2018"}
SETS |= {"colondb": "ColonDB"}
LUCK = {"shown, p < 0.05": "#A6D8C8", "not shown": "#EEEEEE", "the other way": "#F2B896"}


@mpl.rc_context(STYLE)
def plane(rows: pd.DataFrame) -> Figure:
    """Every row in the plane of IoU and Dice, and how far the rows of one matrix miss the curve.

    Args:
        rows: of `reading.possible`.
    """
    fig, [[ax], [near]] = blank(7.4, 2, height_ratios=(4.3, 3.1))
    iou = np.linspace(30, 100, 200)
    most = 200 * iou / (100 + iou)
    ax.fill_between(iou, iou, most, color=FINE, alpha=0.16, linewidth=0)
    ax.plot(iou, most, color=FINE, linewidth=1.2)
    ax.plot(iou, iou, color="black", linewidth=0.9)
    wrong = rows[rows.finding != ""]
    fine = rows[rows.finding == ""]
    one = fine.protocol == "global"
    ax.plot(fine.iou[~one], fine.dice[~one], "o", color=FINE, fillstyle="none", markersize=4.5)
    ax.plot(fine.iou[one], fine.dice[one], "o", color=FINE, markersize=4.5)
    ax.plot(wrong.iou, wrong.dice, "X", color=WRONG, markersize=9, markeredgecolor="white")
    _named(ax, wrong)
    ax.text(32, 74, "Dice = 2 IoU / (1 + IoU)", color=FINE)
    ax.text(55, 51, "Dice = IoU")
    ax.text(79, 58, "no masks are here", color=WRONG)
    ax.text(32, 88, "nor here", color=WRONG)
    ax.set(xlim=(30, 117), ylim=(30, 101), xlabel="IoU, points", ylabel="Dice, points")
    ax.set_xticks(range(30, 101, 10))
    looks = {"one confusion matrix": "full", "means, or unclear": "none"}
    marks = [
        mpl.lines.Line2D([], [], marker="o", color=FINE, fillstyle=f, linewidth=0, label=text)
        for text, f in looks.items()
    ]
    marks.append(mpl.lines.Line2D([], [], marker="X", color=WRONG, linewidth=0, label="impossible"))
    ax.legend(handles=marks, loc="lower left", bbox_to_anchor=(0.3, 0))
    ax.set_title("every printed row with both scores", loc="left")
    _misses(near, rows[rows.protocol == "global"])
    return fig


def _named(ax, wrong: pd.DataFrame) -> None:
    """The names of rows that cannot be, apart from each other, with a line to each."""
    height = 101
    for row in wrong.sort_values("dice", ascending=False, kind="stable").itertuples():
        looks = {"color": WRONG, "fontsize": 8, "va": "center"}
        looks["arrowprops"] = {"arrowstyle": "-", "color": WRONG, "linewidth": 0.6}
        text = row.model + ", Drishti" * (row.dataset == "drishti-gs")
        place = (64, 97)
        if row.dice < row.iou:
            height = min(height - 4.5, row.dice)
            place = (101.5, height)
        else:
            text += f", {SETS.get(row.dataset, row.dataset)}"
            looks["ha"] = "right"
        ax.annotate(text, (row.iou, row.dice), xytext=place, **looks)


def _misses(ax, rows: pd.DataFrame) -> None:
    """How far rows of one confusion matrix lie above the Dice that goes with their IoU."""
    rows = rows.drop_duplicates(["dataset", "dice", "iou"]).sort_values("excess", kind="stable")
    places = np.arange(len(rows))
    colours = np.where(rows.finding != "", WRONG, FINE)
    rounding = 0.005 * (1 + 2e4 / (100 + rows.iou.min()) ** 2)  # of both, at most
    ax.axvspan(-rounding, rounding, color=FINE, alpha=0.16, linewidth=0)
    ax.hlines(places, 0, rows.excess, colors=colours, linewidth=1)
    ax.scatter(rows.excess, places, c=colours, s=18, zorder=3)
    names = [f"{row.model}, {SETS.get(row.dataset, row.dataset)}" for row in rows.itertuples()]
    logs = [" (log)" * (source == "unetv2-logs") for source in rows.source]
    ax.set_yticks(places, map("".join, zip(names, logs, strict=True)), fontsize=7.5)
    ax.set(xlabel="Dice above the curve, points", xlim=(-0.03, 0.15), ylim=(-0.7, len(rows) - 0.3))
    ax.set_title("rows of one confusion matrix, against the curve", loc="left")


@mpl.rc_context(STYLE)
def matrix(tables: dict[str, pd.DataFrame]) -> Figure:
    """Gains in points and in standard deviations; a cell has a colour where luck is unlikely.

    Args:
        tables: {title: table of `reading.effects`}; a chart each.
    """
    heights = [table.pair.nunique() for table in tables.values()]
    height = 0.46 * sum(heights) + 0.95 * len(tables)
    fig, axes = blank(height, len(tables), height_ratios=heights)
    seen = set()
    for ax, (title, table) in zip(axes[:, 0], tables.items(), strict=True):
        pairs = list(dict.fromkeys(table.pair))
        columns = list(dict.fromkeys(zip(table.dataset, table.metric, strict=True)))
        several = len(set(table.metric)) > 1
        for row in table.itertuples():
            x, y = columns.index((row.dataset, row.metric)), pairs.index(row.pair)
            shown, unshown, against = LUCK.values()
            colour = unshown if row.p >= LEVEL else shown if row.gain > 0 else against
            seen.add(colour)
            ax.add_patch(plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour))
            small = {"ha": "center", "va": "center", "fontsize": 8}
            d = f"{row.d:+.1f}" if abs(row.d) >= 0.05 else f"{row.d:+.2f}"
            ax.text(x, y, f"{row.gain:+.2f}\nd {d}".replace("-", "−"), **small)
        names = [
            SETS.get(d, d) + f"\n{m}".replace("iou", "IoU").replace("dice", "Dice") * several
            for d, m in columns
        ]
        ax.set_xticks(range(len(columns)), names)
        ax.set_yticks(range(len(pairs)), [pair.replace(" over ", "\nover ") for pair in pairs])
        ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(pairs) - 0.5, -0.5))
        ax.tick_params(length=0, labelsize=8.5, top=True, labeltop=True, bottom=False)
        ax.tick_params(labelbottom=False)
        ax.spines[:].set_visible(False)
        ax.set_title(title, loc="left")
    marks = [mpl.patches.Patch(color=c, label=text) for text, c in LUCK.items() if c in seen]
    fig.legend(handles=marks, loc="outside lower center", ncols=3)
    return fig


@mpl.rc_context(STYLE)
def chosen(table: pd.DataFrame) -> Figure:
    """The test Dice of each run at the epoch of each rule; a chart for each series, on one scale.

    Args:
        table: of `other_rules.choices`.
    """
    if not len(table):
        return nothing("no audited run has a record yet")
    names = list(dict.fromkeys(table.series))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    most = table.groupby("series").size().max()
    fig, axes = blank(rows * (0.9 + 0.17 * most) + 0.3, rows, columns)
    colours = palette(table.model)
    for ax, name in zip(axes.flat, names, strict=False):
        runs = table[table.series == name]
        runs = runs.assign(place=pd.Categorical(runs.model, list(colours))).sort_values(
            ["place", "seed"]
        )
        places, shades = np.arange(len(runs)), runs.model.map(colours)
        ax.hlines(places, runs[[*RULES]].min(axis=1), runs.test, colors=shades, linewidth=1)
        ax.scatter(runs["last"], places, marker="|", c=shades, s=60)
        ax.scatter(runs.validation, places, c=shades, s=22, zorder=3)
        ax.scatter(runs.test, places, marker="D", c="white", edgecolors=shades, s=34, zorder=2)
        ax.set(title=name, xlabel="test Dice, points", ylim=(len(runs) - 0.4, -0.6), yticks=[])
        ax.grid(axis="x", alpha=0.3)
        ax.margins(x=0.08)
    widest = max(np.ptp(ax.get_xlim()) for ax in axes.flat[: len(names)])
    for ax in axes.flat[: len(names)]:  # a point is as wide in every chart
        middle = np.mean(ax.get_xlim())
        ax.set_xlim(middle - widest / 2, middle + widest / 2)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    looks = {"validation": ("o", "#666666"), "test": ("D", "white"), "last": ("|", "#666666")}
    mark = partial(mpl.lines.Line2D, [], [], linewidth=0)
    marks = [mark(marker="s", color=c, label=label(model)) for model, c in colours.items()]
    marks += [
        mark(marker=m, color="#666666", markerfacecolor=c, label=RULES[rule])
        for rule, (m, c) in looks.items()
    ]
    fig.legend(handles=marks, loc="outside lower center", ncols=2 if len(colours) > 3 else 3)
    return fig


def scene(names: list[str], sharp: list[tuple], soft: list[tuple]) -> Figure:
    """Each image's mask with its counts, and the two maps of probabilities that it came from.

    Args:
        names: of the images.
        sharp, soft: (truth, p) of each, as `other_rules.one_disc`; one mask at p >= 0.5.
    """
    rows, captions = [], []
    for (truth, p), (_, q) in zip(sharp, soft, strict=True):
        grey = np.full((*truth.shape, 3), 90, np.uint8)
        rows.append([overlay(grey, truth, p >= 0.5), p, q])
        counts = metrics.counts(p >= 0.5, truth)
        dice, iou = metrics.dice_iou(*counts)
        text = "TP {}, FP {}, FN {}\n".format(*counts)
        captions.append([f"{text}Dice {dice:.2f}, IoU {iou:.2f}", "", ""])
    titles = ["the mask, p ≥ 0.5", "p, sharp edge", "p, soft edge"]
    return grid(rows, titles, names, captions, legend=True)


@mpl.rc_context(STYLE)
def under_protocols(table: pd.DataFrame) -> Figure:
    """The scores of the same masks under each protocol: thin a run, thick the mean of a model.

    Args:
        table: of `other_rules.protocols`, of one series; a row of charts for each test set.
    """
    if not len(table):
        return nothing("no run has a record yet")
    tests = list(dict.fromkeys(table.test))
    fig, axes = blank(3.1 * len(tests) + 0.4, len(tests), 2, sharex=True)
    colours = palette(table.model)
    names = [name for name in PROTOCOLS if name in set(table.protocol)]
    for line, test in zip(axes, tests, strict=True):
        for ax, (metric, title) in zip(line, {"dice": "Dice", "iou": "IoU"}.items(), strict=True):
            wide = table[table.test == test].pivot(
                index=["model", "seed"], columns="protocol", values=metric
            )[names]
            for (model, _), scores in wide.iterrows():
                ax.plot(names, scores, color=colours[model], linewidth=0.7, alpha=0.45)
            for model in colours:
                mean = wide.loc[model].mean()
                ax.plot(names, mean, "o-", color=colours[model], linewidth=2, markersize=4)
            ax.set(ylabel=f"{title}, points", title=test)
            ax.tick_params(axis="x", rotation=35)
            plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
            ax.grid(axis="y", alpha=0.3)
    marks = [mpl.lines.Line2D([], [], color=c, lw=2, label=label(m)) for m, c in colours.items()]
    fig.legend(handles=marks, loc="outside lower center", ncols=min(3, len(marks)))
    return fig


@mpl.rc_context(STYLE)
def gains(table: pd.DataFrame, reference: str) -> Figure:
    """The difference to the reference under each protocol: a dot for each seed, a bar their mean.

    Args:
        table: of `other_rules.gains`, of one series.
        reference: what the differences are against.
    """
    if not len(table):
        return nothing(f"no pair of runs with {label(reference)} has records yet")
    names = [name for name in PROTOCOLS if name in set(table.protocol)]
    of_runs = table.pivot(index=["model", "seed"], columns="protocol", values="gain")[names]
    colours = palette(table.model)
    fig, [[ax]] = blank(2.6)
    for i, (model, colour) in enumerate(colours.items()):
        found = of_runs.loc[model]
        x = np.arange(len(names)) + 0.24 * (i - (len(colours) - 1) / 2)
        for gain in found.to_numpy():
            ax.plot(x, gain, "o", color=colour, alpha=0.6, markersize=4)
        ax.hlines(found.mean(), x - 0.09, x + 0.09, color=colour, linewidth=2.5, label=label(model))
    ax.axhline(0, color="black", linewidth=1)
    ax.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    ax.set_ylabel("gain in Dice, points")
    ax.grid(axis="y", alpha=0.3)
    fig.legend(loc="outside upper center", ncols=3, title=f"against {label(reference)}")
    return fig
