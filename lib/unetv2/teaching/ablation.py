"""41_ablation: which skip, which part of it, and where, from the records that have landed.

A **cell** is what all its trainings share but the seed: model, epochs, share of the training part.
A **contrast** weighs the scores of cells, image by image and seed by seed: +1 and -1 for the
difference of two arms, more of them for a factorial. `stats.crossed` gives its interval, so a
factorial's effects hold seeds and groups of images together as every other comparison does.
What has not landed is a row without numbers, and a sentence. The figures are in `ablation_plots`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from .. import costs, networks
from ..common import env
from ..common.params import PLACES, Params, RunParams, file_name, slug
from ..evaluation import record, stats
from ..evaluation.identity import AFTERWARDS, TRAINING_VERSION
from ..networks.names import parts
from . import tables
from .params import AblationParams, Protocol
from .plots import label

__all__ = ["ARMS", "CORNERS", "FACTORS", "LEADERS", "PARTS", "ROWS", "SHARES", "WIDTHS", "Cell"]
__all__ += [
    "Landed",
    "against",
    "arms",
    "claims",
    "command",
    "compare",
    "counted",
    "effects",
    "factorial",
]
__all__ += [
    "fullest",
    "landed",
    "later",
    "leaders",
    "other",
    "pairs",
    "prices",
    "results",
    "said",
    "sizes",
]
__all__ += ["by_files", "spelled", "state", "stepwise", "thirds"]

LEADERS = ("thin+copy", "thin+nested", "thin+sdi")  # the first is the reference of all arms
ARMS = {  # the skip alone: attention, what level i takes from the others, and what stands apart
    "thin+copy": ("no", "nothing", ""),
    "thin+copy-attention": ("yes", "nothing", ""),
    "thin+copy-matched": ("no", "nothing", "as many parameters as SDI"),
    "thin+sum": ("yes", "sum", ""),
    "thin+concat": ("yes", "concatenation", ""),
    "thin+nested": ("no", "coarser levels, by convolutions", ""),
    "thin+sdi": ("yes", "product", ""),
    "thin+sdi-noattention": ("no", "product", "the paper's 'w/o SC'"),
    "thin+sdi-unitbias": ("yes", "product", "factors start at 1"),
    "thin+sdi-shared": ("yes", "product", "the convolutions of all levels are shared"),
}
PARTS = {  # one part of SDI at a time: with it, without it
    "attention, no exchange": ("thin+copy-attention", "thin+copy"),
    "attention, within SDI": ("thin+sdi", "thin+sdi-noattention"),
    "exchange, no attention": ("thin+sdi-noattention", "thin+copy"),
    "exchange, with attention": ("thin+sdi", "thin+copy-attention"),
    "product, not sum": ("thin+sdi", "thin+sum"),
    "product, not concatenation": ("thin+sdi", "thin+concat"),
    "parameters alone": ("thin+copy-matched", "thin+copy"),
    "factors that start at 1": ("thin+sdi-unitbias", "thin+sdi"),
    "own convolutions per level": ("thin+sdi", "thin+sdi-shared"),
}
FACTORS = {  # the factorial: off, on
    "skip": ("copy", "SDI"),
    "decoder": ("thin", "smp"),
    "supervision": ("off", "on"),
}
CORNERS = {  # its models: skip, decoder, supervision
    (0, 0, 0): "thin+copy-nods",
    (0, 0, 1): "thin+copy",
    (0, 1, 0): "smp-unet+copy-l4",
    (0, 1, 1): "smp-unet+copy-l4-ds",
    (1, 0, 0): "thin+sdi-nods",
    (1, 0, 1): "thin+sdi",
    (1, 1, 0): "smp-unet+sdi-l4",
    (1, 1, 1): "smp-unet+sdi-l4-ds",
}
ROWS = {  # the comparisons of the paper's Table 3
    "UNet++ against U-Net": ("smp-unetplusplus", "smp-unet"),
    "SDI against U-Net": ("thin+sdi", "smp-unet"),
    "SDI, with SC against without": ("thin+sdi", "thin+sdi-noattention"),
}
WIDTHS = (8, 16, 32, 64)
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
PROTOCOL = tuple(Protocol.model_fields)


class Cell(NamedTuple):
    """What all its trainings share but the seed."""

    model: str
    epochs: int
    share: float = 1.0

    def __str__(self) -> str:
        part = f", {self.share:.0%} of the images" * (self.share < 1)
        return f"{short(self.model)} ({self.epochs} epochs{part})"


def short(model: str) -> str:
    """A model's label for lists: "SDI" for "SDI (U-Net v2's skip)", corners by their factors."""
    for bits, corner in CORNERS.items():
        if model == corner and model not in ARMS:
            skip, decoder, on = (of[bit] for of, bit in zip(FACTORS.values(), bits, strict=True))
            return f"{skip} with the {decoder} decoder, supervision {on}"
    return re.sub(r" \([^()]*'s skip\)", "", label(model))


# What has landed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landed:
    """The records of one protocol, by cell.

    Attributes:
        params: of the notebook, which name the protocol.
        records: of the same data, for each share of the training part.
        beside: of the same protocol on other files of the same dataset; shown, never mixed in.
        left_out: a sentence for each record of another protocol.
    """

    params: AblationParams
    records: list[Mapping[str, Any]] = field(repr=False)
    beside: list[Mapping[str, Any]] = field(repr=False)
    left_out: list[str]

    @cached_property
    def scores(self) -> dict[Cell, pd.DataFrame]:
        """`record.frame` of each cell, all tests of the dataset together."""
        found: dict[Cell, list[Mapping[str, Any]]] = {}
        for one in self.records:
            found.setdefault(_cell(_params(one)), []).append(one)
        return {cell: _frame(of) for cell, of in found.items()}

    def seeds(self, cell: Cell) -> list[int]:
        """The seeds that this cell has a record of."""
        there = self.scores.get(cell)
        return [] if there is None else sorted(there.seed.unique().tolist())

    def wide(self, cell: Cell, score: str) -> pd.DataFrame:
        """`score`, a row per seed and a column per image."""
        return self.scores[cell].pivot(index="seed", columns="id", values=score)


def landed(params: AblationParams) -> Landed:
    """What there is of the protocol that `params` names, committed and in its folders.

    Raises:
        ValueError: a damaged record; a wrong parameter; `own` is not thin+module:Class.
    """
    RunParams.make(_protocol(params))
    if params.own is not None:
        _check_own(params.own)
    fit, left_out = [], []
    for one in record.collect(params.dataset, _models(params.own), params.folders):
        odd = _odd(one, params)
        if odd:
            run = _params(one)
            left_out.append(f"{_cell(run)}, seed {run.seed}, is left out: {odd}")
        else:
            fit.append(one)
    return by_files(params, fit, left_out)


def by_files(params: Params, fit: Sequence[Mapping[str, Any]], left_out: list[str]) -> Landed:
    """The records of one protocol, those on the files that most of them have apart from others."""
    usual = {}  # a smaller part of the images has a fingerprint of its own
    for share in {_params(one).train_share for one in fit}:
        of = Counter(one["fingerprint"] for one in fit if _params(one).train_share == share)
        usual[share] = of.most_common(1)[0][0]
    ours = [one["fingerprint"] == usual[_params(one).train_share] for one in fit]
    records = [one for one, same in zip(fit, ours, strict=True) if same]
    beside = [one for one, same in zip(fit, ours, strict=True) if not same]
    return Landed(params, records, beside, left_out)


def _models(own: str | None) -> list[str]:
    """Every model of the study, a reader's own with the widths that it may have."""
    several = [f"{one}-c{c}" for one in leaders(own) for c in WIDTHS if c != 32]
    names = [*leaders(own), *ARMS, *CORNERS.values(), *sum(ROWS.values(), ()), *several]
    return list(dict.fromkeys(names))


def datasets(params: AblationParams) -> list[str]:
    """The folders of datasets that have records, committed or in the folders of `params`."""
    tops = [env.path(record.FOLDER), *map(env.path, params.folders)]
    return sorted({path.name for top in tops for path in top.glob("*/")})


def leaders(own: str | None) -> tuple[str, ...]:
    """The skips that every section shows: copy, nested, SDI, and a reader's own."""
    return (*LEADERS, *([own] if own else []))


def _check_own(own: str) -> None:
    found = parts(own) if ":" in own else None
    if found is None or own != f"thin+{found.skip}":
        raise ValueError(f"own={own!r} must be 'thin+module:Class', as 'thin+my_skip:MySkip'")


def _protocol(params: AblationParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in PROTOCOL}


def _odd(one: Mapping[str, Any], params: AblationParams) -> str:
    """In what a record is of another protocol; "" where it is of this one."""
    run = _params(one)
    steps = None if run.train_share == 1 else params.steps_per_epoch
    wanted = RunParams.make(_protocol(params) | {"steps_per_epoch": steps})
    free = {"dataset", "model", "seed", "epochs", "train_share", "width", "batchnorm"}
    names = sorted(set(RunParams.model_fields) - set(PLACES) - AFTERWARDS - free)
    pairs = {name: (getattr(run, name), getattr(wanted, name)) for name in names}
    pairs["training version"] = (one["training_version"], TRAINING_VERSION)
    return "; ".join(
        f"{name} {is_}, not {want}" for name, (is_, want) in pairs.items() if is_ != want
    )


def _params(one: Mapping[str, Any]) -> RunParams:
    return RunParams.make(one["params"])


def _cell(run: RunParams) -> Cell:
    return Cell(run.model, run.epochs, run.train_share)


def _frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One name for each image, also where a dataset has several tests."""
    frame = record.frame(records)
    if frame.test.nunique() > 1:
        for name in ("id", "group"):
            frame[name] = frame.test + "/" + frame[name]
    return frame


def arms(models: Iterable[str], epochs: int, share: float = 1.0) -> list[Cell]:
    """The cells of these models at one length."""
    return [Cell(model, epochs, share) for model in models]


def state(found: Landed, cells: Sequence[Cell], what: str = "arms") -> str:
    """How many of the planned cells have records, which have not, and of which seeds."""
    one_length = len({cell.epochs for cell in cells}) == 1
    where = f" at {cells[0].epochs} epochs" if one_length else ""
    several = len({cell.share for cell in cells}) > 1
    name = {
        cell: short(cell.model) + f" on {cell.share:.0%}" * several if one_length else str(cell)
        for cell in cells
    }
    there = {cell: found.seeds(cell) for cell in cells if found.seeds(cell)}
    if not there:
        return f"None of the {len(cells)} {what} has a record{where} yet."
    text = f"{len(there)} of {len(cells)} {what} have records{where}"
    if missing := [name[cell] for cell in cells if cell not in there]:
        text += f"; missing: {spelled(missing)}"
    kinds: dict[tuple[int, ...], list[str]] = {}
    for cell, seeds in there.items():
        kinds.setdefault(tuple(seeds), []).append(name[cell])
    if len(kinds) == 1:
        text += f". Seeds: {_numbers(next(iter(kinds)))}."
    else:
        each = " / ".join(f"{_numbers(seeds)} of {spelled(of)}" for seeds, of in kinds.items())
        text += f". The seeds differ ({each}), and a comparison takes those that both sides have."
    if min(map(len, there.values())) < stats.SEEDS_FOR_A_VERDICT:
        text += f" Fewer than {stats.SEEDS_FOR_A_VERDICT} seeds are numbers without a verdict."
    return text


def counted(found: Landed) -> pd.DataFrame:
    """How many seeds each model has, a column for each length and share."""
    rows: dict[str, dict[str, str]] = {}
    for cell in sorted(found.scores, key=lambda cell: (-cell.share, cell.epochs)):
        of = f"{cell.epochs} epochs" + f", {cell.share:.0%}" * (cell.share < 1)
        rows.setdefault(cell.model, {})[of] = _numbers(found.seeds(cell))
    order = [model for model in _models(found.params.own) if model in rows]
    table = pd.DataFrame([rows[model] for model in order], [label(model) for model in order])
    return table.fillna("").rename_axis("seeds of")


def _numbers(numbers: Sequence[int]) -> str:
    """`0 to 4` for 0, 1, 2, 3, 4."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 2 and list(numbers) == list(range(first, last + 1)):
        return f"{first} to {last}"
    return ", ".join(map(str, numbers))


def spelled(names: Iterable[str], at_most: int = 6) -> str:
    """Names in a sentence, the first few of many."""
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return "; ".join(names[:at_most]) + more


def fullest(found: Landed, models: Sequence[str]) -> int | None:
    """The longest training of which all `models` have five seeds, else that with most of them.

    None where no length has a seed of all.
    """
    lengths = {cell.epochs for cell in found.scores if cell.share == 1}
    common = {epochs: len(_common(found, arms(models, epochs))) for epochs in lengths}
    common = {epochs: seeds for epochs, seeds in common.items() if seeds}
    return max(common, key=lambda e: (min(common[e], stats.SEEDS_FOR_A_VERDICT), e), default=None)


def _common(found: Landed, cells: Iterable[Cell]) -> list[int]:
    return sorted(set.intersection(*(set(found.seeds(cell)) for cell in cells)))


# Contrasts ----------------------------------------------------------------------------------------

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
    """A row for each contrast, in the columns of `stats.compare`; its index is the question.

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
        row = _row(found, weights, metric, second, comparisons or len(questions), images)
        if row["verdict"]:
            word = words[row["verdict"] == "worse"]
            text = row["text"].removesuffix(row["verdict"]) + word
            row |= {"verdict": word, "text": text}
        model = name.model if isinstance(name, Cell) else str(name)
        rows.append({"question": str(name), "model": model, **row})
    return pd.DataFrame(rows).set_index("question")


def other(metric: str) -> str:
    """The second metric, which may object: Dice to boundary F, boundary F to any other."""
    return "dice" if metric == "boundary_f" else "boundary_f"


def _row(found: Landed, weights: Weights, metric, second, comparisons, images) -> dict[str, Any]:
    seeds = _common(found, weights)
    if not seeds:
        return _nothing(found, weights)
    one, objection = (
        stats.crossed(*_sides(found, weights, score, seeds, images), comparisons=number)
        for score, number in ((metric, comparisons), (second, 1))
    )
    claim = stats.claim(one, objection, tables.NAMES[second])
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
        by_size.append(part.set_index("size", append=True, drop=False).swaplevel())
    return pd.concat(by_size)


# Tables -------------------------------------------------------------------------------------------


def prices(params: AblationParams, models: Iterable[str]) -> pd.DataFrame:
    """What each model costs, by name: `parameters` and `macs`, multiply-adds of one image.

    Counted on networks without weights (torch's meta device), with the heads that they are trained
    with. A reader's own skip whose module cannot be imported has no numbers.
    """
    found = {}
    for model in dict.fromkeys(models):
        options = {"deep_supervision": networks.supervised(model)}
        found[model] = {"parameters": np.nan, "macs": np.nan}
        try:
            with torch.device("meta"):
                net = networks.create_model(model, params.encoder, **options)
                image = torch.zeros(1, 3, params.image_size, params.image_size)
        except ValueError:
            if ":" not in model:
                raise
            continue
        size = sum(p.numel() for p in net.parameters())
        found[model] = {"parameters": size, "macs": costs.macs(net, image)}
    return pd.DataFrame(found).T


def results(found: Landed, cells: Sequence[Cell], price: pd.DataFrame | None = None):
    """A row for each cell: its seeds, its scores, mean ± deviation over seeds, and its cost.

    Dice global pools the pixels of all images of a seed.
    """
    rows, costly = {}, price is not None
    for cell in cells:
        seeds = found.seeds(cell)
        row = {"seeds": len(seeds), "boundary F": "", "Dice": "", "Dice, global": ""}
        if seeds:
            by_seed = found.scores[cell].groupby("seed")
            pooled = by_seed[["tp", "fp", "fn"]].sum()
            whole = 2 * pooled.tp / (2 * pooled.tp + pooled.fp + pooled.fn)
            row["boundary F"] = _spread(by_seed.boundary_f.mean())
            row |= {"Dice": _spread(by_seed.dice.mean()), "Dice, global": _spread(whole)}
        if costly:
            cost, base = price.loc[cell.model], price.iloc[0]
            row["k parameters"] = _beyond(cost.parameters, base.parameters, 1e3)
            row["M multiply-adds"] = _beyond(cost.macs, base.macs, 1e6)
        rows[label(cell.model)] = row
    return pd.DataFrame(rows).T.rename_axis("model")


def _spread(values: pd.Series) -> str:
    text = f"{100 * values.mean():.2f}"
    return text if len(values) < 2 else f"{text} ± {100 * values.std():.2f}"


def _beyond(value: float, base: float, unit: float) -> str:
    """A cost, and how much more it is than that of the first row."""
    if np.isnan(value):
        return "–"
    more = f" ({(value - base) / unit:+,.0f})" if value != base else ""
    return f"{value / unit:,.0f}{more}"


def said(compared: pd.DataFrame, what: str = "") -> list[str]:
    """A sentence for each row of `compare` that has landed."""
    there = compared[compared.seeds > 0]
    before = f"{what}, " if what else ""
    return [f"{before}{label(row.Index)}: {row.text}" for row in there.itertuples()]


def brief(compared: pd.DataFrame) -> str:
    """Rows of `compare` in a line: the difference and the verdict of each, or that it waits."""
    parts = []
    for row in compared.itertuples():
        name = row.Index if isinstance(row.Index, str) else ", ".join(row.Index)
        word = row.verdict or "no verdict"
        seeds = f"{row.seeds} seed" + "s" * (row.seeds > 1)
        found = f"{row.mean_difference:+.2f} from {seeds}, {word}" if row.seeds else "waits"
        parts.append(f"{name}: {found}")
    return "; ".join(parts) or "waits"


def claims(sections: Mapping[str, pd.DataFrame]) -> list[str]:
    """What all comparisons together allow to say, in lines of Markdown.

    A comparison that several sections make stands once, as the first of them corrects it.

    Args:
        sections: title -> a table of `compare`.
    """
    kinds: dict[str, list[str]] = {"claimed": [], "open": [], "few": [], "missing": []}
    seen: set[str] = set()
    for title, table in sections.items():
        for row in table[~table.index.isin(seen)].itertuples():
            few, said = row.seeds < stats.SEEDS_FOR_A_VERDICT, f"{title}, {label(row.Index)}"
            if row.seeds == 0:
                kinds["missing"].append(said)
            elif few or not row.verdict:
                seeds = f", {row.seeds} seed" + "s" * (row.seeds > 1) if few else ""
                half = (row.ci_high - row.ci_low) / 2
                width = "" if few else f" ± {half:.2f}"
                text = f"{said}: {row.mean_difference:+.2f}{width} points{seeds}"
                kinds["few" if few else "open"].append(text)
            else:
                kinds["claimed"].append(f"{said}: {row.text}")
        seen |= set(table.index)
    titles = {
        "claimed": "What may be claimed, for this dataset, encoder, size and these lengths",
        "open": "Five seeds, and no verdict: the interval holds 0, or the second metric objects",
        "few": "Observed with fewer than five seeds, so neither claimed nor denied",
    }
    lines = []
    for kind, head in titles.items():
        lines += [f"**{head}:**", "", *(f"* {line}" for line in kinds[kind] or ["nothing yet"]), ""]
    missing = len(kinds["missing"])
    return [
        *lines,
        f"{missing} of {sum(map(len, kinds.values()))} comparisons have no records yet.",
    ]


# A reader's own -----------------------------------------------------------------------------------


def command(found: Landed, model: str, epochs: int, top: str, share: float = 1.0) -> str:
    """What trains `model` by the protocol, once for each seed in `$s`, into the folder `top`.

    `top` then belongs into the notebook's `folders`.
    """
    params = found.params
    given = {"dataset": params.dataset, "model": model, **_protocol(params), "epochs": epochs}
    if share < 1:
        given |= {"train_share": share, "steps_per_epoch": params.steps_per_epoch}
    folder = f"{top}/{slug(params.dataset)}/{file_name(model)}/s$s"
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(["unetv2 train", *flags, "--audit", "--seed $s", f"--output-dir {folder}"])
