"""The figures of 44_when_skips_help; a function builds its figure and returns it.

In a map a cell is coloured by its difference. It is hatched where the interval holds 0, pale and
dotted where fewer than five seeds stand behind it, and grey where nothing has landed yet.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..common.words import many
from ..data import synthetic
from ..evaluation.stats import SEEDS_FOR_A_VERDICT
from . import plots
from .plots import STYLE, blank, label, nothing, palette
from .worlds import KNOBS

__all__ = ["gallery", "heat", "knobs", "under"]

MAP = mpl.colormaps["PuOr"]  # brown: the reference is above; violet: it is below


def gallery(steps: Sequence[float]) -> Figure:
    """A generated lesion with each knob at each step, all else default: the same scene."""
    shown = [(knob, step) for step in steps for knob in KNOBS]
    images = [synthetic.make("lesion", 1, 128, 3, **{k: step})[0][0] for k, step in shown]
    titles = [f"{knob} = {step:g}" for knob, step in shown]
    fig = plots.contact_sheet(images, titles=titles, columns=len(KNOBS))
    fig.set_dpi(75)  # photographs are large files
    return fig


@mpl.rc_context(STYLE | {"hatch.linewidth": 0.5})
def heat(panels: Mapping[str, pd.DataFrame], unit: str, height: float = 0.42) -> Figure:
    """A map for each panel: a row for each `place`, a column for each `arm`, differences in points.

    Args:
        panels: title -> columns `place`, `arm`, `mean_difference`, `ci_low`, `ci_high`, `seeds`;
            all have the same places. A place without any record is counted and not drawn; where
            no place has one yet, a line says so.
        unit: what the colour is.
        height: of a row, inches.
    """
    if all(table.mean_difference.isna().all() for table in panels.values()):
        return nothing(f"No record yet: {unit}")
    planned = list(dict.fromkeys(next(iter(panels.values())).place))
    there = {place for table in panels.values() for place in table.place[table.seeds > 0]}
    places = [place for place in planned if place in there]
    counts = [table.arm.nunique() for table in panels.values()]
    fig, axes = blank(height * len(places) + 1.5, 1, len(panels), width_ratios=counts)
    shown = pd.concat([table.mean_difference for table in panels.values()]).astype(float).abs()
    reach = max(shown.max() if shown.notna().any() else 1, 0.5)
    norm = mpl.colors.Normalize(-reach, reach)
    for k, (ax, (title, table)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        arms = list(dict.fromkeys(table.arm))
        for _, row in table[table.place.isin(places)].iterrows():
            _cell(ax, arms.index(row.arm), places.index(row.place), row, norm, len(arms))
        ax.set(xlim=(-0.5, len(arms) - 0.5), ylim=(len(places) - 0.5, -0.5), title=title)
        ax.set_xticks(range(len(arms)), arms)
        ax.set_yticks(
            range(len(places)), [label(p) for p in places] if k == 0 else [""] * len(places)
        )
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    colours = mpl.cm.ScalarMappable(norm, MAP)
    bar = fig.colorbar(
        colours, ax=axes[0].tolist(), location="bottom", shrink=0.5, aspect=40, pad=0.02
    )
    text = f"{unit}   (/// interval holds 0, ∘ fewer than five seeds)"
    if absent := len(planned) - len(places):
        text += f"\n{absent} of {len(planned)} rows have no record yet and are not drawn"
    bar.set_label(text, fontsize=8.5)
    return fig


def _cell(ax: Axes, x: int, y: int, row: pd.Series, norm, arms: int) -> None:
    few = row.seeds < SEEDS_FOR_A_VERDICT
    looks = {"facecolor": "#eeeeee", "edgecolor": "white", "linewidth": 1.5}
    hatch, text, colour = None, "no record\nyet" if arms <= 4 else "–", "#999999"
    if row.seeds:
        shade = MAP(norm(row.mean_difference))
        if few:
            shade = tuple(0.4 * part + 0.6 for part in shade[:3])
        unsure = not few and row.ci_low <= 0 <= row.ci_high
        looks |= {"facecolor": shade}
        hatch = "////" if unsure else "oo" if few else None
        text, colour = f"{row.mean_difference:+z.1f}\n", "black"
        half = (row.ci_high - row.ci_low) / 2  # the intervals are symmetric
        text += many(row.seeds, "seed") if few else f"± {half:.1f}"
    ax.add_patch(mpl.patches.Rectangle((x - 0.5, y - 0.5), 1, 1, **looks))
    if hatch:
        lines = {"fill": False, "hatch": hatch, "edgecolor": "#aaaaaa", "linewidth": 0}
        ax.add_patch(mpl.patches.Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, **lines))
    size = 8 if arms <= 4 else 7
    back = {"facecolor": looks["facecolor"], "edgecolor": "none", "pad": 0.8, "alpha": 0.75}
    dark = row.seeds and not few and sum(looks["facecolor"][:3]) < 1.3
    ax.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=size,
        linespacing=1.05,
        bbox=back,
        color="white" if dark else colour,
    )


@mpl.rc_context(STYLE)
def under(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """Dice under each corruption: a thin line for each training, a thick one for their mean.

    Args:
        table: `trained_nets.corrupted`.
    """
    kinds = list(table.kind.unique())
    if not kinds:
        return nothing("No record with spoilt images yet")
    fig, axes = blank(5, 2, 2, sharex=True)
    colours = palette(models)
    for ax, kind in zip(axes.flat, kinds, strict=False):
        for model in models:
            rows = table[(table.model == model) & (table.kind == kind)]
            wide = rows.pivot(index="step", columns="seed", values="dice")
            ax.plot(wide, color=colours[model], lw=0.7, alpha=0.5)
            ax.plot(wide.mean(axis=1), color=colours[model], lw=2.2)
        ax.set(title=kind, ylabel="Dice, points")
        ax.grid(axis="y", alpha=0.3)
    for ax in axes[1]:
        ax.set_xlabel("step, 0 is the image as it is")
    marks = [mpl.lines.Line2D([], [], color=c, lw=2, label=label(m)) for m, c in colours.items()]
    fig.legend(handles=marks, loc="outside lower center", ncols=3)
    return fig


@mpl.rc_context(STYLE)
def knobs(
    table: pd.DataFrame, arms: Mapping[str, str], steps: Sequence[float], unit: str
) -> Figure:
    """The gain of each arm as a knob turns: a panel for each knob, with the default world between.

    Args:
        table: `worlds.gains` on the sweep.
        arms: arm -> the model whose colour it has.
        unit: label of the axis.
    """
    if not table.seeds.any():
        return nothing(f"No record yet: {unit}")
    fig, axes = blank(4.6, 2, 3, sharex=True, sharey=True)
    colours = palette(arms.values())
    rows = table.set_index(["place", "arm"])
    for ax, (knob, default) in zip(axes.flat, KNOBS.items(), strict=True):
        places = {step: f"{knob} = {step:g}" for step in steps} | {default: "default"}
        for k, (arm, model) in enumerate(arms.items()):
            line = {x: rows.loc[(places[x], arm)] for x in sorted(places)}
            line = {x: row for x, row in line.items() if row.seeds}
            xs = np.array(list(line)) + 0.03 * (k - (len(arms) - 1) / 2)
            means = [row.mean_difference for row in line.values()]
            ax.plot(xs, means, color=colours[model], lw=1.5)
            for x, row in zip(xs, line.values(), strict=True):
                few = row.seeds < SEEDS_FOR_A_VERDICT
                if not few:
                    ax.vlines(x, row.ci_low, row.ci_high, color=colours[model], lw=1)
                face = "white" if few else colours[model]
                ax.plot(x, row.mean_difference, "o", mfc=face, color=colours[model], ms=4.5)
        ax.axhline(0, color="black", lw=1, zorder=0)
        ax.set(title=knob, xlim=(-0.1, 1.1))
        ax.grid(axis="y", alpha=0.3)
        if not any(rows.loc[(place, arm)].seeds for place in places.values() for arm in arms):
            grey = {"color": "#999999", "ha": "center", "va": "center"}
            ax.text(0.5, 0.25, "no record yet", transform=ax.transAxes, **grey)
    for ax in axes[1]:
        ax.set_xlabel("easy ← knob → hard")
    for ax in axes[:, 0]:
        ax.set_ylabel(unit)
    lines = [mpl.lines.Line2D([], [], color=colours[m], lw=2, label=a) for a, m in arms.items()]
    fig.legend(handles=lines, loc="outside lower center", ncols=3)
    return fig
