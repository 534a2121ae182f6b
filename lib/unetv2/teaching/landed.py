"""Which records have landed: those of one protocol, by cell, and what is missing, in sentences."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from ..common.params import Params, RunParams
from ..evaluation import record, stats
from ..evaluation.identity import TRAINING_VERSION
from .cells import Cell, arms, short

__all__ = ["Landed", "common", "fullest", "gather", "numbers", "report", "spelled", "state"]


@dataclass(frozen=True)
class Landed:
    """The records of one protocol, by cell.

    Attributes:
        params: of the notebook; `metric` is that of its claims.
        records: of the same data, for each share of the training part.
        beside: of the same protocol on other files of the same dataset; shown, never mixed in.
        left_out: a sentence for each record of another protocol.
    """

    params: Params
    records: list[Mapping[str, Any]] = field(repr=False)
    beside: list[Mapping[str, Any]] = field(repr=False)
    left_out: list[str]

    @cached_property
    def scores(self) -> dict[Cell, pd.DataFrame]:
        """`record.frame` of each cell, all tests of the dataset together."""
        found: dict[Cell, list[Mapping[str, Any]]] = {}
        for one in self.records:
            found.setdefault(_cell(record.params_of(one)), []).append(one)
        return {cell: _frame(of) for cell, of in found.items()}

    def seeds(self, cell: Cell) -> list[int]:
        """The seeds that this cell has a record of."""
        there = self.scores.get(cell)
        return [] if there is None else sorted(there.seed.unique().tolist())

    def wide(self, cell: Cell, score: str) -> pd.DataFrame:
        """`score`, a row per seed and a column per image."""
        return self.scores[cell].pivot(index="seed", columns="id", values=score)


def gather(
    params: Params,
    records: Iterable[Mapping[str, Any]],
    wanted: Callable[[RunParams], RunParams],
) -> Landed:
    """The records of one protocol; those on other files than most of them stand beside.

    Args:
        params: of the notebook.
        wanted: what a run would be by the protocol. A record that differs from it in anything that
            decides a training, or in the training's version, is left out, and named.
    """
    fit, left_out = [], []
    for one in records:
        run = record.params_of(one)
        if odd := _odd(one, wanted(run)):
            left_out.append(f"{_cell(run)}, seed {run.seed}, is left out: {odd}")
        else:
            fit.append(one)
    files = [(record.params_of(one).train_share, one["fingerprint"]) for one in fit]
    # a smaller part of the images has a fingerprint of its own; the most frequent comes last
    usual = dict(pair for pair, _ in reversed(Counter(files).most_common()))
    ours = [usual[share] == own for share, own in files]
    inside = [one for one, same in zip(fit, ours, strict=True) if same]
    beside = [one for one, same in zip(fit, ours, strict=True) if not same]
    return Landed(params, inside, beside, left_out)


def _odd(one: Mapping[str, Any], wanted: RunParams) -> str:
    """In what a record is of another protocol; "" where it is of this one."""
    planned = {"params": wanted.model_dump(), "training_version": TRAINING_VERSION}
    is_, want = record.setting(one), record.setting({**one, **planned})
    return "; ".join(f"{k} {is_[k]}, not {want[k]}" for k in sorted(is_) if is_[k] != want[k])


def _cell(run: RunParams) -> Cell:
    return Cell(run.model, run.epochs, run.train_share)


def _frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One name for each image, also where a dataset has several tests."""
    frame = record.frame(records)
    if frame.test.nunique() > 1:
        for name in ("id", "group"):
            frame[name] = frame.test + "/" + frame[name]
    return frame


def state(found: Landed, cells: Sequence[Cell], what: str = "arms") -> str:
    """How many of the planned cells have records, which have not, and of which seeds."""
    one_length = len({cell.epochs for cell in cells}) == 1
    where = f" at {cells[0].epochs} epochs" if one_length else ""
    several = len({cell.share for cell in cells}) > 1
    name = {
        cell: short(cell.model) + f" on {cell.share:.0%}" * several if one_length else str(cell)
        for cell in cells
    }
    there = {name[cell]: found.seeds(cell) for cell in cells if found.seeds(cell)}
    if not there:
        return f"None of the {len(cells)} {what} has a record{where} yet."
    head = f"{len(there)} of {len(cells)} {what} have records{where}."
    return report(head, [one for one in name.values() if one not in there], there)


def report(
    head: str, missing: Sequence[str], seeds: Mapping[str, Sequence[int]], more: Sequence[str] = ()
) -> str:
    """`head`, and below it a line each for what is missing, for who has which seeds, and `more`."""
    lines = [f"missing: {spelled(missing)}"] if missing else []
    kinds: dict[tuple[int, ...], list[str]] = {}
    for name, of in seeds.items():
        kinds.setdefault(tuple(of), []).append(name)
    for of, names in kinds.items():
        who = spelled(names) if len(kinds) > 1 else "of each"
        lines.append(f"seed{'s' * (len(of) > 1)} {numbers(of)}: {who}")
    if len(kinds) > 1:
        lines.append("A comparison takes the seeds that both of its sides have.")
    if kinds and min(map(len, kinds)) < stats.SEEDS_FOR_A_VERDICT:
        lines.append(f"Fewer than {stats.SEEDS_FOR_A_VERDICT} seeds give numbers, and no verdict.")
    return "\n  ".join([head, *lines, *more])


def numbers(of: Sequence[int]) -> str:
    """`0 to 4` for 0, 1, 2, 3, 4."""
    first, last = of[0], of[-1]
    if len(of) > 2 and list(of) == list(range(first, last + 1)):
        return f"{first} to {last}"
    return ", ".join(map(str, of))


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
    seeds = {epochs: len(common(found, arms(models, epochs))) for epochs in lengths}
    some = [epochs for epochs in lengths if seeds[epochs]]
    return max(some, key=lambda e: (min(seeds[e], stats.SEEDS_FOR_A_VERDICT), e), default=None)


def common(found: Landed, cells: Iterable[Cell]) -> list[int]:
    """The seeds that all these cells have."""
    return sorted(set.intersection(*(set(found.seeds(cell)) for cell in cells)))
