"""What flips and thresholds changed in the records, and on a reader's folder."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation import record
from .plots import STYLE, blank, label, palette

__all__ = ["changes", "gains"]

TITLES = {"flips": "four flips", "threshold gain": "threshold from validation"}


def gains(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per record that holds both studies: what flips and a chosen threshold changed.

    In points of Dice (protocol per_image) on the record's first test split, to one pass and to 0.5.
    The threshold is the one with the highest Dice on the validation part.

    Returns:
        `model`, `epochs`, `seed`; `flips` and `flip images`, how many they were tried on;
        `threshold`, what it `promised` on validation, `threshold gain` and `images`.
    """
    rows = []
    for one in records:
        params, test = record.params_of(one), next(iter(one["tests"]))
        studies = one["studies"]
        if not {"flips", "thresholds"} <= set(studies):
            continue
        flips, cuts = studies["flips"][test], studies["thresholds"]
        best = int(np.argmax(cuts["val"]["dice"]))
        dice, half = cuts[test]["dice"], cuts[test]["thresholds"].index(0.5)
        row = {"model": params.model, "epochs": params.epochs, "seed": params.seed}
        row |= {"flips": 100 * (flips["dice"][1] - flips["dice"][0])}
        row |= {"flip images": flips["images"], "threshold": cuts["val"]["thresholds"][best]}
        row |= {"promised": 100 * (cuts["val"]["dice"][best] - cuts["val"]["dice"][half])}
        row |= {"threshold gain": 100 * (dice[best] - dice[half])}
        rows.append(row | {"images": len(one["tests"][test]["ids"])})
    names = ["model", "epochs", "seed", "flips", "flip images", "threshold", "promised"]
    table = pd.DataFrame(rows, columns=[*names, "threshold gain", "images"])
    return table.sort_values("epochs", kind="stable", ignore_index=True)


@mpl.rc_context(STYLE)
def changes(table: pd.DataFrame, here: Mapping[str, float], name: str) -> Figure:
    """The columns `flips` and `threshold gain` of `gains`, a dot for each training.

    Args:
        here: the same two on a reader's folder, in points: a hollow diamond in the row `name`.
    """
    arms = list(table.groupby(["epochs", "model"], sort=False))
    colours, height = palette(table["model"]), 1.1 + 0.32 * (len(arms) + 1)
    fig, [axes] = blank(height, 1, 2, sharey=True, sharex=True)
    for ax, (column, title) in zip(axes, TITLES.items(), strict=True):
        for place, ((_, model), rows) in enumerate(arms, 1):
            ax.plot(rows[column], [place] * len(rows), "o", color=colours[model], alpha=0.7)
        look = {"markerfacecolor": "white", "markersize": 8}
        ax.plot(here[column], 0, "D", color="black", **look)
        ax.axvline(0, color="black", linewidth=1)
        ax.set(title=title, xlabel="change, points of Dice")
        ax.grid(axis="x", alpha=0.3)
    names = [f"{label(model)}, {epochs} epochs" for (epochs, model), _ in arms]
    axes[0].set_yticks(range(len(arms) + 1), [name, *names])
    axes[0].set_ylim(len(arms) + 0.5, -0.5)
    return fig
