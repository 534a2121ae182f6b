"""What tables of comparisons allow to say, in sentences and by one rule.

The tables are those of `contrasts.compare`, and others with the same columns. A verdict takes five
seeds; fewer give numbers; what has no record waits.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..common.words import difference, many
from ..evaluation import stats
from .landed import spelled
from .plots import label

__all__ = ["brief", "claims", "once", "showed", "tally"]

MANY = stats.SEEDS_FOR_A_VERDICT
KINDS = {  # of a comparison -> the head of its list in `claims`
    "claimed": "What may be claimed, {}",
    "open": "Five seeds, and no verdict: the interval holds 0, or the second metric objects",
    "few": "Observed with fewer than five seeds, so neither claimed nor denied",
    "waiting": "",
}


def showed(compared: pd.DataFrame) -> str:
    """What a table shows, a paragraph of Markdown that is true of any run.

    Each difference is in points, with its interval (corrected as in the table) or half its width.
    """
    kinds, text = _sorted(compared), "**What this run showed.**"
    if len(kinds["waiting"]) == len(compared):
        return f"{text} Nothing yet: none of its {many(len(compared), 'comparison')} has a record."
    claimed = kinds["claimed"]
    for word in dict.fromkeys(row.verdict for _, row in claimed):
        each = [f"{name}, {_interval(row)}" for name, row in claimed if row.verdict == word]
        text += f" **{word[0].upper()}{word[1:]}:** {spelled(each, 12)}."
    if rows := kinds["open"]:
        each = [f"{name}, {row.mean_difference:+z.2f} ± {_half(row):.2f}" for name, row in rows]
        text += f" No verdict from five seeds: {spelled(each, 12)}."
    if rows := kinds["few"]:
        each = [f"{name}, {row.mean_difference:+z.2f}" for name, row in rows]
        text += f" Fewer than five seeds, so no verdict: {spelled(each, 12)}."
    if waiting := len(kinds["waiting"]):
        text += f" {waiting} of {many(len(compared), 'comparison')} wait{'s' * (waiting == 1)}"
        text += " for records."
    return text


def brief(compared: pd.DataFrame) -> str:
    """A table in a line: the difference and the verdict of what has landed, and how many wait."""
    there = compared[compared.seeds > 0]
    parts = [
        f"{_name(question)} {row.mean_difference:+z.2f} from {many(row.seeds, 'seed')},"
        f" {row.verdict or 'no verdict'}"
        for question, row in there.iterrows()
    ]
    waiting = len(compared) - len(there)
    parts += [f"{waiting} of {len(compared)} wait for records"] if waiting else []
    return "; ".join(parts) or "nothing is compared"


def once(sections: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The sections without the contrasts that an earlier one makes, as that one corrects them."""
    seen: set[str] = set()
    found = {}
    for title, table in sections.items():
        found[title] = table[~table.contrast.isin(seen)]
        seen |= set(table.contrast)
    return found


def claims(
    sections: Mapping[str, pd.DataFrame],
    of: str = "for this dataset, encoder, size and these lengths",
    every: bool = True,
) -> list[str]:
    """What all comparisons together allow to say, in lines of Markdown.

    Args:
        sections: title -> a table of comparisons.
        of: for what the claims are made.
        every: list those without a verdict too; else they are only counted.
    """
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for title, table in sections.items():
        for kind, rows in _sorted(table).items():
            kinds[kind] += [f"{title}, {name}: {_line(kind, row)}" for name, row in rows]
    lines = []
    for kind in ("claimed", "open", "few") if every else ("claimed",):
        found = [f"* {line}" for line in kinds[kind] or ["nothing yet"]]
        lines += [f"**{KINDS[kind].format(of)}:**", "", *found, ""]
    counts = {kind: len(rows) for kind, rows in kinds.items()}
    text = "Of {total} comparisons {claimed} have a verdict, {open} have five seeds and none, {few}"
    text += " have fewer seeds, and {waiting} wait for records."
    return [*lines, text.format(total=sum(counts.values()), **counts)]


def tally(tested: Mapping[str, tuple[pd.DataFrame, str, str]]) -> list[str]:
    """How many comparisons speak for and against each hypothesis, a sentence each.

    Args:
        tested: hypothesis -> a table of differences, the verdict for it, and that against it.
    """
    lines = []
    for hypothesis, (table, yes, no) in tested.items():
        there, full = table.seeds > 0, table.seeds >= MANY
        text = f"{hypothesis}: of {len(table)} comparisons {there.sum()} have records,"
        text += f" {full.sum()} of them {MANY} seeds;"
        counts = (table.verdict == yes).sum(), (table.verdict == no).sum()
        lines.append(text + " {} for it, {} against it.".format(*counts))
    return lines


def _sorted(table: pd.DataFrame) -> dict[str, list[tuple[str, pd.Series]]]:
    """The comparisons by kind: (name, row)."""
    found: dict[str, list[tuple[str, pd.Series]]] = {kind: [] for kind in KINDS}
    for question, row in table.iterrows():
        without = "waiting" if row.seeds == 0 else "few" if row.seeds < MANY else "open"
        found["claimed" if row.verdict else without].append((_name(question), row))
    return found


def _line(kind: str, row: pd.Series) -> str:
    if kind == "open":
        return f"{row.mean_difference:+z.2f} ± {_half(row):.2f} points"
    if kind == "few":
        return f"{row.mean_difference:+z.2f} points, {many(row.seeds, 'seed')}"
    return row.text


def _name(question: Any) -> str:
    return label(question) if isinstance(question, str) else ", ".join(question)


def _interval(row: pd.Series) -> str:
    return difference(row.mean_difference, row.ci_low, row.ci_high)


def _half(row: pd.Series) -> float:
    return (row.ci_high - row.ci_low) / 2
