"""How cells are compared: contrasts, and their intervals.

A **contrast** weighs the scores of cells, image by image and seed by seed: +1 and -1 for the
difference of two arms, more of them for a factorial. `stats.crossed` gives its interval, so a
factorial's effects hold seeds and groups of images together as every other comparison does.
What has not landed is a row without numbers, and a sentence.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation import stats
from . import tables
from .cells import CORNERS, FACTORS, Cell
from .landed import Landed, common

__all__ = ["Weights", "against", "compare", "effects", "factorial", "later", "other", "pairs"]
__all__ += ["sizes", "stepwise", "thirds"]

Weights = Mapping[Cell, float]


def against(cells: Iterable[Cell], reference: Cell) -> dict[Cell, Weights]:
    """Each cell less the reference."""
    return {cell: {cell: 1.0, reference: -1.0} for cell in cells if cell != reference}


def pairs(named: Mapping[str, tuple[str, str]], epochs: int) -> dict[str, Weights]:
    """The first model of each pair less the second."""
    return {
        name: {Cell(one, epochs): 1.0, Cell(less, epochs): -1.0}
        for name, (one, less) in named.items()
    }


def later(model: str, reference: str, first: int, last: int) -> Weights:
    """What `model` gains on `reference` at `last` epochs less what it gains at `first`."""
    plus = {Cell(model, last): 1.0, Cell(reference, first): 1.0}
    return plus | {Cell(model, first): -1.0, Cell(reference, last): -1.0}


def factorial(epochs: int) -> dict[str, Weights]:
    """The three main effects and four interactions of `FACTORS`.

    A main effect is "on" less "off", the mean over the other two factors. An interaction of two is
    how much one effect grows when the other is switched on; that of three, how much this grows when
    the third is. All are in the unit of the scores, so an interaction is a difference of
    differences, with an interval twice as wide as a main effect's at the same scatter.
    """
    found = {}
    for order in (1, 2, 3):
        for chosen in combinations(range(3), order):
            name = " x ".join(list(FACTORS)[k] for k in chosen)
            if order == 1:
                off, on = FACTORS[name]
                name += f": {on}, not {off}"
            sign = {bits: math.prod(2 * bits[k] - 1 for k in chosen) for bits in CORNERS}
            found[name] = {
                Cell(model, epochs): sign[bits] * 2 ** (order - 1) / 4
                for bits, model in CORNERS.items()
            }
    return found


def effects(found: Landed, epochs: int) -> pd.DataFrame:
    """`compare` of `factorial`, corrected for its seven contrasts."""
    questions = factorial(epochs)
    main = {name: of for name, of in questions.items() if " x " not in name}
    more = {name: of for name, of in questions.items() if " x " in name}
    words = ("more together", "less together")
    return pd.concat(
        [
            compare(found, main, len(questions)),
            compare(found, more, len(questions), words=words),
        ]
    )


def compare(
    found: Landed,
    questions: Mapping[Any, Weights],
    comparisons: int | None = None,
    images: Sequence[str] | None = None,
    words: tuple[str, str] = ("better", "worse"),
) -> pd.DataFrame:
    """A row for each contrast, in the columns of `stats.compare`; its index is the question, and
    `contrast` is the same for the same cells and weights under any name.

    Each takes the seeds that all of its cells have. A question whose cells have no seed in common
    has `seeds` 0, no numbers, and a `text` that says what is missing.

    Args:
        questions: by a name, or by the cell that is compared.
        comparisons: to correct for; None: all questions, landed or not, for all were listed.
        images: only these.
        words: the verdict on a contrast above and below 0.

    Raises:
        ValueError: two cells were scored on other images, or grouped them otherwise.
    """
    metric, second = found.params.metric, other(found.params.metric)
    rows = []
    for name, weights in questions.items():
        row = _row(found, weights, metric, second, comparisons or len(questions), images, words)
        model = name.model if isinstance(name, Cell) else str(name)
        rows.append({"question": str(name), "model": model, "contrast": _key(weights), **row})
    return pd.DataFrame(rows).set_index("question")


def _key(weights: Weights) -> str:
    """The same text for the same contrast, whatever it is called."""
    return " ".join(sorted(f"{weight:+g} {cell}" for cell, weight in weights.items()))


def other(metric: str) -> str:
    """The second metric, which may object: Dice to boundary F, boundary F to any other."""
    return "dice" if metric == "boundary_f" else "boundary_f"


def _row(
    found: Landed, weights: Weights, metric, second, comparisons, images, words
) -> dict[str, Any]:
    seeds = common(found, weights)
    if not seeds:
        return _nothing(found, weights)
    one, objection = (
        stats.crossed(*_sides(found, weights, score, seeds, images), comparisons=number)
        for score, number in ((metric, comparisons), (second, 1))
    )
    claim = stats.claim(one, objection, stats.NAMES[second], words)
    by_seed = {"second_by_seed": [100 * gain for gain in objection.by_seed]}
    return stats.columns(one, objection, claim) | by_seed


def _nothing(found: Landed, weights: Weights) -> dict[str, Any]:
    missing = [str(cell) for cell in weights if not found.seeds(cell)]
    text = f"no record yet of {'; '.join(missing)}" if missing else "no seed that all sides have"
    if len(missing) > 2:
        text = f"{len(missing)} of its {len(weights)} cells have no record yet"
    numbers = ["mean_difference", "ci_low", "ci_high", "p"]
    numbers += ["second_difference", "second_low", "second_high"]
    whole = {"seeds": 0, "groups": 0, "images": 0, "by_seed": [], "second_by_seed": []}
    return dict.fromkeys(numbers, np.nan) | whole | {"verdict": "", "text": text}


def _sides(found: Landed, weights: Weights, score: str, seeds, images):
    """The weighted sums of the cells with a positive and with a negative weight, and the groups."""
    sides, first = [0.0, 0.0], None
    for cell, weight in weights.items():
        groups = found.scores[cell].drop_duplicates("id").set_index("id").group.sort_index()
        if first is None:
            first, whose = groups, cell
        if not groups.equals(first):
            raise ValueError(f"{whose} and {cell} were scored on other images, or group them apart")
        values = found.wide(cell, score).loc[seeds, first.index]
        sides[weight < 0] += abs(weight) * (values if images is None else values[list(images)])
    return *(side.to_numpy() for side in sides), first[sides[0].columns].tolist()


def stepwise(found: Landed, rows: Iterable[Sequence[Cell]]) -> pd.DataFrame:
    """`compare` of each row of cells to its first, corrected within the row.

    A row is a step of a factor: a length of training, a width, an amount of data.
    """
    return pd.concat([compare(found, against(cells, cells[0])) for cells in rows])


def thirds(found: Landed, cell: Cell) -> pd.Series:
    """Each image of a cell as "small", "medium" or "large", by the area of its objects."""
    frame = found.scores[cell]
    areas = frame.assign(area=frame.tp + frame.fn).drop_duplicates("id").set_index("id").area
    return tables.thirds(pd.concat({"": areas}, names=["all"]), ["all"]).droplevel("all")


def sizes(found: Landed, cells: Sequence[Cell], reference: Cell) -> pd.DataFrame:
    """`compare` to the reference in each of `thirds`, corrected for all rows.

    The index is the size and the cell's name; a column `size` beside.
    """
    size_of, questions = thirds(found, reference), against(cells, reference)
    by_size = []
    for size in size_of.cat.categories:
        images = sorted(size_of.index[size_of == size])
        part = compare(found, questions, 3 * len(questions), images).assign(size=size)
        part["contrast"] += f", {size} objects"
        by_size.append(part.set_index("size", append=True, drop=False).swaplevel())
    return pd.concat(by_size)
