"""Which rows of a table of scores cannot be: Dice and IoU of the same masks are tied.

For one mask Dice = 2 IoU / (1 + IoU), a curve that bends downwards. So one confusion matrix obeys
the equation, and means over images, thresholds or classes lie within
IoU <= Dice <= 2 IoU / (1 + IoU), as long as both are means over the same masks.
"""

import csv
import re
from collections.abc import Iterable
from decimal import Decimal

from ..common.errors import unknown

__all__ = ["check_table", "digits"]

PROTOCOLS = ("global", "per_image", "own", "pranet", "unclear")
RUNS = 1e-4  # by so much means over runs may miss the equation: runs differ by a point or so
COLUMN = {
    "Dice": r"(m|mean )?(dice|dsc|f1)( (similarity )?(coefficient|score))?",
    "IoU": r"(m|mean )?(iou|jaccard|jac)( (coefficient|index|score))?|intersection over union",
}
NUMBER = re.compile(r"([-+]?\d*\.?\d+)\s*%?\s*((±|\+/?-|\\pm|\().*)?")
EMPTY = {"", "-", "–", "—", "−", "nan", "none", "n/a"}


def check_table(table, protocol: str | None = None, percent: bool | None = None) -> list[dict]:
    """The rows of a table whose Dice and IoU cannot be of the same masks.

    Args:
        table: list of dicts, DataFrame, or text: Markdown, CSV, or columns parted by tabs. One
            column is Dice (DSC, F1), one IoU (Jaccard). "90.21 ± 0.13" and "**90.21**" are read.
            A row with an empty cell in either is passed over.
        protocol: "global" (one confusion matrix) asks for the equation; any other, and None, for
            the bounds of means. A column `protocol` in the table goes before it.
        percent: whether the scores are percent; None: seen from the values.

    Returns:
        a dict for each impossible row: row (its name), dice, iou, low and high (the Dice that may
        stand beside this IoU, rounding of both included), all in the table's unit, and finding (a
        sentence). A column is taken to be rounded to the digits of its longest number. Means over
        runs may miss the equation by 0.01 points.

    Raises:
        ValueError: no column of Dice or IoU, or several; no row with both; a cell that is no
            number; a value out of range; percent and fractions mixed; no such protocol.
    """
    if protocol not in (None, *PROTOCOLS):
        raise unknown("protocol", protocol, PROTOCOLS)
    scores = _scores(_read(table), protocol)
    full = _full(scores, percent)
    places = {kind: digits(values[kind] for _, _, values in scores) for kind in COLUMN}
    half = {kind: 0.5 * 10.0**-n / full for kind, n in places.items()}
    found = []
    for name, how, values in scores:
        dice, iou = float(values["Dice"]) / full, float(values["IoU"]) / full
        least, most = iou - half["IoU"], _dice(iou + half["IoU"])
        slack = half["Dice"] + 1e-6
        if how == "global":
            least, slack = _dice(least), slack + RUNS
        if least - slack <= dice <= most + slack:
            continue
        fits = f"{full * _dice(iou):.{places['Dice']}f}"
        if dice < iou:
            why = "IoU is never above Dice"
        elif how == "global":
            why = f"one confusion matrix with this IoU has Dice {fits}"
        else:
            why = f"beside this IoU Dice is at most {fits}"
        shown = " beside ".join(f"{kind} {values[kind]:.{places[kind]}f}" for kind in COLUMN)
        bounds = {"low": full * (least - slack), "high": full * (most + slack)}
        finding = f"{name}: {shown}; {why}."
        found.append(
            {"row": name, "dice": full * dice, "iou": full * iou, **bounds, "finding": finding}
        )
    return found


def digits(values: Iterable) -> int:
    """Digits after the point of the longest number: 2 for 90.2 and 84.15."""
    return max(max(-Decimal(str(value)).as_tuple().exponent, 0) for value in values)


def _dice(iou: float) -> float:
    """Dice of one mask, from its IoU; both are fractions."""
    return 2 * iou / (1 + iou)


def _scores(lines: list[dict], protocol: str | None) -> list[tuple]:
    """Name, protocol and the two numbers of each row that has both."""
    columns = {kind: _column(lines, kind) for kind in COLUMN}
    scores = []
    for number, line in enumerate(lines, 1):
        name = _name(line, columns.values()) or f"row {number}"
        own = [cell for column, cell in line.items() if column.lower() == "protocol" and cell]
        values = {kind: _number(line.get(column), name, column) for kind, column in columns.items()}
        if None not in values.values():
            scores.append((name, (*own, protocol)[0], values))
    if not scores:
        raise ValueError("no row of the table has both Dice and IoU")
    return scores


def _full(scores: list[tuple], percent: bool | None) -> int:
    """100 or 1: what a perfect score is in this table."""
    every = [(name, kind, value) for name, _, values in scores for kind, value in values.items()]
    small = next((score for score in every if 0 < score[2] <= 1), None)
    large = next((score for score in every if score[2] > 1), None)
    if percent is None and small and large:
        raise ValueError(
            "percent and fractions are mixed: {} has {} {}, {} has {} {}; bring them to one unit, "
            "or say percent=True or False".format(*small, *large)
        )
    full = 100 if percent or (percent is None and large) else 1
    for name, kind, value in every:
        if not 0 <= value <= full:
            raise ValueError(f"{name}: {kind} is {value}, out of range 0 to {full}")
    return full


def _read(table) -> list[dict]:
    """Any table as a list of dicts."""
    if isinstance(table, str):
        return _parse(table)
    if hasattr(table, "to_dict"):  # a DataFrame, whose index may hold the names
        table = table.reset_index().to_dict("records")
    table = list(table) if isinstance(table, Iterable) else [table]
    if not all(isinstance(line, dict) for line in table):
        raise ValueError("a table is text, a DataFrame or a list of dicts")
    return [{str(key): value for key, value in line.items()} for line in table]


def _parse(text: str) -> list[dict]:
    """Markdown, tabs, semicolons or commas; Markdown's rule below the head is passed over."""
    lines = [line.strip("\r\n ") for line in text.splitlines() if line.strip()]
    mark = next((m for m in "|\t;," if lines and m in lines[0]), None)
    if mark is None:
        raise ValueError("no columns in the text: part them by |, tabs, semicolons or commas")
    if mark == "|":
        lines = [re.sub(r"^\||\|$", "", line) for line in lines]
    cells = [[_plain(cell) for cell in line] for line in csv.reader(lines, delimiter=mark)]
    rule = re.compile(":?-+:?")
    head, *body = [line for line in cells if not all(rule.fullmatch(cell) for cell in line)]
    for number, line in enumerate(body, 1):
        if len(line) > len(head):
            raise ValueError(f"row {number} has {len(line)} cells, the head {len(head)}: {line}")
    if mark != ",":  # then a comma within a number is a decimal point
        body = [[re.sub(r"(?<=\d),(?=\d)", ".", cell) for cell in line] for line in body]
    return [dict(zip(head, line, strict=False)) for line in body]


def _plain(cell) -> str:
    """A cell without tags, stars and dollars."""
    return re.sub(r"<[^>]*>|[*$`]", "", str(cell)).strip()


def _column(lines: list[dict], kind: str) -> str:
    """The name of the one column that is Dice, or IoU."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    found = []
    for name in names:
        words = re.sub(r"\(.*?\)|[%↑↓_]", " ", _plain(name)).lower().split()
        if re.fullmatch(COLUMN[kind], " ".join(words)):
            found.append(name)
    if len(found) > 1:
        raise ValueError(f"several columns are {kind}: {', '.join(found)}; keep one")
    if not found:
        raise ValueError(
            f"the table has no column {kind}, and Dice is checked against IoU; "
            f"its columns: {', '.join(names) or 'none'}. Call the one that is meant {kind}"
        )
    return found[0]


def _name(line: dict, scores: Iterable[str]) -> str:
    """What a reader calls the row: its words, without the columns that are scores."""
    words = [cell for key, cell in line.items() if isinstance(cell, str) and key not in scores]
    words = [_plain(cell) for cell in words]
    if "model" in line:
        words = [_plain(line.get(key, "")) for key in ("source", "table", "dataset", "model")]
    return ", ".join(w for w in words if w.lower() not in EMPTY and not NUMBER.fullmatch(w))


def _number(cell, row: str, column: str) -> Decimal | None:
    """The number of a cell with its printed digits; None where the cell is empty."""
    text = _plain(cell)
    if text.lower() in EMPTY:
        return None
    try:
        if not isinstance(cell, str):
            return Decimal(repr(float(cell)))
        return Decimal(NUMBER.fullmatch(text)[1])
    except (TypeError, ValueError):
        raise ValueError(f"{row}: {column} is {text!r}, which is no number") from None
