"""44_when_skips_help: in which world which skip helps, and what its finest map is for.

A **stage** is what runs were trained and tested on; its runs differ in model and seed alone. On a
stage the scores of all images are there, and `contrasts.compare` gives intervals for other seeds
and other images together. What was measured on trained nets alone, maps set to zero and spoilt
images, is in `trained_nets`; the figures of both are in `worlds_figures`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from ..common.words import interval, many, spread
from ..data.synthetic import Knobs
from ..evaluation import record, stats
from . import contrasts
from .cells import Cell, short
from .landed import Landed, report, spelled
from .other_rules import fullest, series
from .params import AblationParams, WorldsParams

__all__ = ["DEFAULT", "Named", "Records", "away", "gains", "moved", "pairs", "scores", "second"]
__all__ += ["stage", "stages", "state", "sweep", "title"]

DEFAULT = "synthetic"
KNOBS = asdict(Knobs())
Records = Sequence[Mapping[str, Any]]


# What has landed ----------------------------------------------------------------------------------


def sweep(steps: Iterable[float]) -> list[str]:
    """The datasets of the sweep: the default world, then each knob alone at each of `steps`."""
    return [DEFAULT, *(f"{DEFAULT}:{knob}={step:g}" for knob in KNOBS for step in steps)]


def title(dataset: str) -> str:
    """ "hair = 1" for `synthetic:hair=1`; a real dataset's name as it is."""
    kind, _, knobs = dataset.partition(":")
    return knobs.replace("=", " = ") if knobs else {DEFAULT: "default"}.get(kind, dataset)


def stage(records: Records, params: WorldsParams) -> Landed:
    """The runs of the fullest series of `records` (see `other_rules`), the other series named."""
    parts = series(records)
    name = fullest(parts)
    others = {other: len(part) for other, part in parts.items() if other != name}
    beside = [f"{other} ({many(runs, 'run')})" for other, runs in others.items()]
    settings = AblationParams(dataset=params.dataset, metric=params.metric)
    return Landed(settings, parts.get(name, []), [], beside)


def stages(params: WorldsParams, datasets: Iterable[str]) -> dict[str, Landed]:
    """Each dataset by its `title`, trained and tested on.

    Raises:
        ValueError: a damaged record; a dataset that is asked for twice.
    """
    names = list(datasets)
    if len(set(names)) < len(names):
        raise ValueError(f"a dataset stands twice in {', '.join(names)}: name each once")
    return {
        title(name): stage(record.collect(name, params.every, params.folders), params)
        for name in names
    }


def away(found: Landed, test: str) -> Landed:
    """The same runs, tested on another dataset: those whose records have it (`also_test`)."""
    records = []
    for one in found.records:
        other = one["studies"].get("others", {}).get(test)
        records += [{**one, "tests": other["tests"]}] if other else []
    return replace(found, records=records)


def state(of: Mapping[str, Landed], models: Sequence[str], what: str) -> str:
    """What has landed of all stages and models, what is missing, and of which seeds."""
    seeds = {
        name: {short(m): held for m in models if (held := found.seeds(_cell(found, m)))}
        for name, found in of.items()
    }
    if not any(seeds.values()):
        return f"None of the {len(of)} {what} has a record yet."
    whole = sum(len(held) == len(models) for held in seeds.values())
    head = f"{whole} of {len(of)} {what} have records of all {len(models)} networks."
    lacking = {
        name: [short(m) for m in models if short(m) not in held] for name, held in seeds.items()
    }
    parts = [f"{name} ({spelled(ms)})" for name, ms in lacking.items() if 0 < len(ms) < len(models)]
    absent = [name for name, held in seeds.items() if not held]
    each = {f"{name}, {model}": one for name, held in seeds.items() for model, one in held.items()}
    beside = [one for found in of.values() for one in found.left_out]
    more = [f"not mixed in: {spelled(beside, 4)}"] if beside else []
    return report(head, [*parts, *absent], each, more)


def _cell(found: Landed, model: str) -> Cell:
    """The cell of `model` on a stage, where a model has one."""
    return next((cell for cell in found.scores if cell.model == model), Cell(model, 0))


def scores(of: Mapping[str, Landed], models: Sequence[str]) -> pd.DataFrame:
    """Mean ± deviation over seeds of the metric, points: a row for each stage with records."""
    rows: dict[str, dict[str, str]] = {}
    for name, found in of.items():
        for model in models:
            if found.seeds(cell := _cell(found, model)):
                by_seed = 100 * found.wide(cell, found.params.metric).mean(axis=1)
                text = spread(by_seed.mean(), by_seed.std())
                rows.setdefault(name, {})[short(model)] = text
    return pd.DataFrame(rows).T.fillna("").rename_axis("points")


# Differences on stages ----------------------------------------------------------------------------

Named = Mapping[str, tuple[str, str]]


def pairs(models: Sequence[str], levels: int | None = None) -> dict[str, tuple[str, str]]:
    """Each model against the first; with `levels` each one without its finest level against it."""
    if levels is None:
        return {short(model): (model, models[0]) for model in models[1:]}
    return {short(model): (f"{model}-l{levels}", model) for model in models}


def gains(of: Mapping[str, Landed], named: Named, comparisons: int | None = None) -> pd.DataFrame:
    """`contrasts.compare` of each pair on each stage, corrected for all of them, landed or not.

    The columns `place` (the stage) and `arm` (the pair) join.

    Raises:
        ValueError: two runs of a stage were scored on other images.
    """
    tables = []
    for name, found in of.items():
        weights = {
            f"{name}: {arm}": {_cell(found, one): 1.0, _cell(found, less): -1.0}
            for arm, (one, less) in named.items()
        }
        table = contrasts.compare(found, weights, comparisons or len(of) * len(named))
        tables.append(table.assign(place=name, arm=list(named)))
    whole = pd.concat(tables)
    no_cell = (whole.seeds == 0) & whole.text.str.startswith("no record")
    return whole.assign(text=whole.text.mask(no_cell, "no record yet"))


def second(table: pd.DataFrame) -> pd.DataFrame:
    """A table of differences with the second metric, which is not corrected, as its first."""
    names = {"second_difference": "mean_difference", "second_low": "ci_low"}
    names |= {"second_high": "ci_high", "second_by_seed": "by_seed"}
    return table.drop(columns=[*names.values()], errors="ignore").rename(columns=names)


def moved(of: Mapping[str, Landed], named: Named, steps: Sequence[float]) -> pd.DataFrame:
    """How much a gain grows when a knob goes from the first to the last of `steps`.

    Two worlds have other images and other trainings, so the two gains are independent and the
    squares of their half widths add up (Banerjee, as in `stats.crossed`). No verdict is given on
    the second metric.
    """
    number = len(KNOBS) * len(named)
    ends = [{knob: f"{knob} = {step:g}" for knob in KNOBS} for step in (steps[0], steps[-1])]
    names = [name for end in ends for name in end.values()]
    table = gains({name: of[name] for name in names}, named, number).set_index(["place", "arm"])
    rows = {}
    for knob in KNOBS:
        for arm in named:
            low, high = (table.loc[(end[knob], arm)] for end in ends)
            rows[f"{knob}: {arm}"] = {"place": knob, "arm": arm} | _apart(low, high)
    return pd.DataFrame(rows).T.infer_objects()


def _apart(low: pd.Series, high: pd.Series) -> dict[str, Any]:
    mean = high.mean_difference - low.mean_difference
    half = float(np.hypot(*((row.ci_high - row.ci_low) / 2 for row in (low, high))))
    seeds = int(min(low.seeds, high.seeds))
    found = {"mean_difference": mean, "ci_low": mean - half, "ci_high": mean + half}
    side = int(mean > half) - int(mean < -half) if seeds >= stats.SEEDS_FOR_A_VERDICT else 0
    word = {1: "more where it is hard", -1: "less where it is hard", 0: ""}[side]
    text = f"{mean:+z.2f} points {interval(mean - half, mean + half)}, {many(seeds, 'seed')}: "
    text += word or _why(seeds)
    return found | {"seeds": seeds, "verdict": word, "text": text if seeds else "no record yet"}


def _why(seeds: int) -> str:
    if seeds < stats.SEEDS_FOR_A_VERDICT:
        return f"no verdict from fewer than {stats.SEEDS_FOR_A_VERDICT} seeds"
    return "no difference shown"
