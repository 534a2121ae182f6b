"""Charts of one notebook each; those that several share are in `plots`.

As there: a function builds its figure and returns it, and a model has one colour in all of them.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .plots import STYLE, blank, label, palette

__all__ = ["company", "depths", "pruning", "ranked", "seeds", "sizes", "waterfall"]


@mpl.rc_context(STYLE)
def seeds(scores: pd.DataFrame, values: Mapping[str, str]) -> Figure:
    """A dot for each training, a bar for their mean.

    Args:
        scores: `record.frame`'s columns; a column of charts for each dataset and test.
        values: score -> label of its axis, a row of charts each.
    """
    colours = palette(scores.model)
    by_seed = scores.groupby(["dataset", "test", "model", "seed"], sort=False)
    means = 100 * by_seed[list(values)].mean()
    places = list(dict.fromkeys(key[:2] for key in means.index))
    few = len(colours) * len(places) < 5  # else the names stand in a legend
    fig, axes = blank(2.1 * len(values), len(values), len(places), sharex="col")
    for (i, value), (j, place) in product(enumerate(values), enumerate(places)):
        ax = axes[i, j]
        for x, (model, colour) in enumerate(colours.items()):
            dots = means.loc[(*place, model), value].to_numpy()
            ax.plot(np.full(dots.size, x), dots, "o", color=colour, alpha=0.7)
            ax.hlines(dots.mean(), x - 0.25, x + 0.25, color=colour)
        ax.set(xlim=(-0.6, len(colours) - 0.4), title="" if i else "\n".join(dict.fromkeys(place)))
        ax.set_xticks(range(len(colours)), map(label, colours) if few else [""] * len(colours))
    for ax, text in zip(axes[:, 0], values.values(), strict=True):
        ax.set_ylabel(text)
    if not few:
        marks = [mpl.patches.Patch(color=c, label=label(model)) for model, c in colours.items()]
        fig.legend(handles=marks, loc="outside lower center", ncols=3)
    return fig


@mpl.rc_context(STYLE)
def waterfall(scores: pd.DataFrame, reference: str) -> Figure:
    """The difference in Dice of each image to the reference, sorted, a line for each other model.

    Args:
        scores: `record.frame`'s columns, of one test; an image's score is its mean over seeds.
    """
    wide = 100 * scores.groupby(["id", "model"], sort=False).dice.mean().unstack("model")
    fig, [[ax]] = blank(2.8)
    for model, colour in palette([reference, *wide]).items():
        if model != reference:
            gains = np.sort(wide[model] - wide[reference])
            share = 100 * (np.arange(gains.size) + 0.5) / gains.size
            ax.plot(share, gains, color=colour, linewidth=1.8, label=label(model))
    ax.axhline(0, color="black", linewidth=1)
    ax.set(xlabel="images in the order of their difference, %", ylabel="difference, points")
    ax.set(xlim=(0, 100), yscale="symlog")
    ax.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%+g"))
    ax.grid(alpha=0.3)
    fig.legend(loc="outside upper center", ncols=3, title=f"against {label(reference)}")
    return fig


@mpl.rc_context(STYLE)
def depths(scores: pd.DataFrame, depth: Mapping[str, int]) -> Figure:
    """IoU over the number of poolings: a dot for each training, a line through their means."""
    colours = palette(depth)
    by_seed = 100 * scores.groupby(["dataset", "model", "seed"], sort=False).iou.mean()
    datasets = list(dict.fromkeys(scores.dataset))
    fig, axes = blank(2.6, 1, len(datasets))
    for ax, dataset in zip(axes[0], datasets, strict=True):
        means = [by_seed[dataset, model].mean() for model in depth]
        ax.plot(list(depth.values()), means, color="#666666", linewidth=1)
        for model, d in depth.items():
            dots = by_seed[dataset, model].to_numpy()
            ax.plot(np.full(dots.size, d), dots, "o", color=colours[model], alpha=0.7)
        ax.set(xticks=list(depth.values()), xlabel="poolings", title=dataset)
    axes[0, 0].set_ylabel("IoU per image, points")
    return fig


@mpl.rc_context(STYLE)
def pruning(table: pd.DataFrame, datasets: Sequence[str]) -> Figure:
    """IoU over time of a UNet++ and its pruned forms; a dot's area is its parameters.

    Args:
        table: a row for "averaged" and each head, deepest first: `time`, `k parameters` and
            "IoU DATASET".
    """
    colour = palette(["tmi-unet++"])["tmi-unet++"]
    sizes = 25 + 375 * table["k parameters"] / table["k parameters"].max()
    fig, axes = blank(3.0, 1, len(datasets))
    for ax, dataset in zip(axes[0], datasets, strict=True):
        points = table[f"IoU {dataset}"]
        ax.plot(table.time.iloc[1:], points.iloc[1:], color=colour, zorder=1)
        looks = {"color": colour, "edgecolor": "black", "zorder": 2}
        ax.scatter(table.time.iloc[1:], points.iloc[1:], s=sizes.iloc[1:], alpha=0.7, **looks)
        looks["color"] = "white"
        ax.scatter(table.time.iloc[:1], points.iloc[:1], s=sizes.iloc[:1], **looks)
        beside = {table.index[0]: (14, 0, "left"), table.index[1]: (0, -18, "center")}  # neighbours
        for mode in table.index:
            where = {"xytext": (0, 15), "textcoords": "offset points", "ha": "center"}
            if mode in beside:
                x, y, side = beside[mode]
                where |= {"xytext": (x, y), "ha": side, "va": "center"}
            ax.annotate(mode, (table.time[mode], points[mode]), **where)
        ax.set(xlabel="time, averaged mode = 1", title=dataset, xlim=(0, 1.5))
        ax.margins(y=0.35)
    axes[0, 0].set_ylabel("IoU per image, points")
    return fig


@mpl.rc_context(STYLE)
def company(pairs: pd.DataFrame) -> Figure:
    """IoU over depth, of a head trained alone and of one trained in UNet++.

    Args:
        pairs: a row per image: `dataset`, `depth`, `seed`, `model` ("isolated" or "embedded") and
            `iou`.
    """
    looks = {"isolated": ("#666666", "o"), "embedded": (palette(["tmi-unet++"])["tmi-unet++"], "s")}
    by_seed = 100 * pairs.groupby(["dataset", "model", "depth", "seed"]).iou.mean()
    datasets = list(dict.fromkeys(pairs.dataset))
    fig, axes = blank(2.6, 1, len(datasets))
    for ax, dataset in zip(axes[0], datasets, strict=True):
        for name, (colour, marker) in looks.items():
            dots = by_seed[dataset, name]
            means = dots.groupby(level="depth").mean()
            ax.plot(means.index, means, color=colour, marker=marker, label=name)
            ax.plot(dots.index.get_level_values("depth"), dots, marker, color=colour, alpha=0.35)
        ax.set(xticks=sorted(set(pairs.depth)), xlabel="depth", title=dataset)
    axes[0, 0].set_ylabel("IoU per image, points")
    axes[0, -1].legend()
    return fig


@mpl.rc_context(STYLE)
def sizes(images: pd.DataFrame, clear: Mapping[tuple[str, str], bool]) -> Figure:
    """As Fig. 7 of UNet++'s article: how many images have which size, and their scores as boxes.

    Args:
        images: a row per image and model: `dataset`, `objects` (its group by `tables.seven`),
            `model` and `iou`, a fraction; the reference comes first.
        clear: (dataset, group of objects) -> is the difference of the models marked?
    """
    colours = palette(images.model)
    datasets = list(dict.fromkeys(images.dataset))
    fig, axes = blank(3.8, 2, len(datasets), sharex="col", height_ratios=[1, 2])
    for (above, below), dataset in zip(axes.T, datasets, strict=True):
        here = images[images.dataset == dataset]
        groups = sorted(set(here.objects), key=lambda group: float(group[2:]))
        first = here[here.model == next(iter(colours))]
        above.bar(
            range(len(groups)), first.objects.astype(str).value_counts()[groups], color="#999999"
        )
        above.set(ylabel="images", title=dataset)
        for k, (model, colour) in enumerate(colours.items()):
            rows = here[here.model == model]
            boxes = [100 * rows.iou[rows.objects == group].to_numpy() for group in groups]
            places = np.arange(len(groups)) + 0.36 * (k - (len(colours) - 1) / 2)
            line = {"color": colour, "linewidth": 1.4}
            looks = {f"{part}props": line for part in ("box", "whisker", "cap", "median")}
            flier = {"marker": ".", "markersize": 4, "markeredgecolor": colour}
            below.boxplot(boxes, positions=places, widths=0.28, flierprops=flier, **looks)
        marked = ["*" if clear.get((dataset, group)) else "" for group in groups]
        names = [f"{group}\n{star}" for group, star in zip(groups, marked, strict=True)]
        below.set_xticks(range(len(groups)), names, fontsize=8 if len(datasets) == 1 else 6.5)
        below.set(xlabel="objects, % of the image", ylabel="IoU, points")
    lines = [mpl.lines.Line2D([], [], color=c, label=label(model)) for model, c in colours.items()]
    fig.legend(handles=lines, loc="outside upper center", ncols=len(lines))
    return fig


@mpl.rc_context(STYLE)
def ranked(scores: pd.DataFrame, name: str) -> Figure:
    """Dice of every test image, hardest first: a dot for each model, a line for their mean.

    Args:
        scores: `record.frame`'s columns, of one test; an image's score is its mean over seeds.
        name: of the test, for the axis.
    """
    wide = scores.groupby(["id", "model"], sort=False).dice.mean().unstack("model")
    order = wide.mean(axis=1).sort_values(kind="stable")
    wide, size = wide.loc[order.index], 4 if len(order) < 200 else 2
    fig, [[ax]] = blank(2.8)
    for model, colour in palette(dict.fromkeys(scores.model)).items():
        ax.plot(wide[model].to_numpy(), ".", color=colour, markersize=size, label=label(model))
    ax.plot(order.to_numpy(), color="black", linewidth=1, label="mean of all")
    ax.set(xlabel=f"test images of '{name}', hardest first", ylabel="Dice (per image)")
    ax.set_ylim(-0.03, 1.03)
    fig.legend(ncols=4, loc="outside upper center", markerscale=8 / size)
    return fig
