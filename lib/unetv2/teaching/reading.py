"""Reading the papers: what is printed, what of it can be, and what stands out from luck.

Tables of the printed rows (`published`), scores in points. `other_rules` has the part about our own
runs, `reading_charts` the figures of both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..common.words import many
from . import published, tables
from .bounds import check_table, digits
from .published import LEVEL

__all__ = ["LEVEL", "VERDICTS", "claims", "effects", "folded", "ledger", "marks", "possible"]
__all__ += ["reruns", "shorter", "with_background"]

SHOWN = {"dice": "Dice", "iou": "IoU", "score": "score", "mae": "MAE", "parameters": "M parameters"}
SHOWN |= {"memory": "memory, MB", "flops": "FLOPs, G", "fps": "images a second"}
SHOWN |= {
    "images": "images",
    "size": "size",
    "modality": "modality",
    "provider": "provider",
    "minutes": "minutes",
}
SHOWN |= {"epoch_seconds": "seconds an epoch", "less_time": "less time, %"}
SHOWN |= {"less_memory": "less memory, %", "less_iou": "less IoU"}


# What is printed ----------------------------------------------------------------------------------


def ledger(source: str) -> dict[tuple[str, str], pd.DataFrame]:
    """All rows of a source: {(table, what holds for all of it): its rows as printed}.

    A row that needs a remark of its own has it in the last column.

    Raises:
        ValueError: no such source.
    """
    blocks: dict[tuple[str, str], list] = {}
    for row in published.rows(source):
        blocks.setdefault((row["table"], row["about"]), []).append(row)
    return {key: _block(rows) for key, rows in blocks.items()}


def folded(source: str, opened: bool = False) -> str:
    """The `ledger` of a source as Markdown: each block opens and closes with a click.

    Args:
        opened: the first block is open.

    Raises:
        ValueError: no such source.
    """
    lines = [f"### {published.sources().get(source)}"]
    for (table, about), block in ledger(source).items():
        sets = block.index.unique()
        what = f"{table}, {sets[0]}" if len(sets) == 1 and sets[0] else table
        rows = many(len(block), "row")
        lines.append(f"<details{' open' * opened}><summary><b>{what}</b>, {rows}</summary>")
        lines += [
            f"{about[0].upper()}{about[1:]}.",
            "\n".join(tables.markdown(block)),
            "</details>",
        ]
        opened = False
    return "\n\n".join(lines)


def _block(rows: list[dict]) -> pd.DataFrame:
    """The rows with the digits of their print, without columns that nobody filled."""
    table = pd.DataFrame(index=pd.Index([row.get("dataset", "") for row in rows], name="dataset"))
    table["model"] = [row.get("model", "") for row in rows]
    for key, title in SHOWN.items():
        table[title] = _column(rows, key)
    table["remark"] = [row["remark"] for row in rows]
    return table.loc[:, (table != "").any()]


def _column(rows: list[dict], key: str) -> list[str]:
    """The cells of a column, with the digits of the longest number of their dataset."""
    cells = [[row[k] for k in (key, f"{key}_sd") if k in row] for row in rows]
    of: dict[str, list] = {}
    for row, cell in zip(rows, cells, strict=True):
        of.setdefault(row.get("dataset"), []).extend(n for n in cell if not isinstance(n, str))
    places = {dataset: digits(numbers) if numbers else 0 for dataset, numbers in of.items()}
    return [
        " ± ".join(_spelled(n, places[row.get("dataset")]) for n in cell)
        for row, cell in zip(rows, cells, strict=True)
    ]


def _spelled(number: float | str, places: int) -> str:
    return number if isinstance(number, str) else f"{number:.{places}f}"


def possible() -> pd.DataFrame:
    """Every printed row that has both Dice and IoU, and whether the two can be of the same masks.

    Columns: source, table, dataset, model, protocol, dice, iou; `most`, the highest Dice beside
    this IoU, 2 IoU / (1 + IoU), without allowance for rounding; `excess`, the Dice above that;
    `finding`, why the row cannot be, "" where it can.
    """
    both = [row for row in published.rows() if {"dice", "iou"} <= row.keys()]
    names = ["source", "table", "dataset", "model", "protocol", "dice", "iou"]
    found = pd.DataFrame(both, columns=names).assign(finding="")
    for _, block in found.groupby(["source", "table"], sort=False):
        numbered = block.assign(model=[f"#{i}" for i in block.index])
        for wrong in check_table(numbered[["model", "protocol", "dice", "iou"]].to_dict("records")):
            number, _, text = wrong["finding"].partition(": ")
            found.loc[int(number[1:]), "finding"] = text
    found["most"] = 200 * found.iou / (100 + found.iou)
    found["excess"] = found.dice - found.most
    return found


def with_background(dice: float) -> float:
    """The highest IoU, the mean of object and background, beside this Dice of the object alone.

    The object's mean IoU is at most its mean Dice, the background's at most 100; all in points.
    """
    return (100 + dice) / 2


def claims() -> pd.DataFrame:
    """Every sentence that was checked: claim, where, verdict, evidence, note.

    The verdict is "denied by the tables", "denied by the code", "holds" or "open".
    """
    table = pd.DataFrame(published.deny())
    words = {(False, True): "denied by the tables", (False, False): "denied by the code"}
    pairs = zip(table.holds, table.recomputed, strict=True)
    table["verdict"] = [
        "holds" if holds else "open" if holds is None else words[holds, recomputed]
        for holds, recomputed in pairs
    ]
    table["evidence"] = table.evidence.map("; ".join)
    return table[["claim", "where", "verdict", "evidence", "note"]]


def shorter(evidence: str, at_most: int = 4) -> str:
    """The first few parts of the evidence of a claim, and how many more there are."""
    parts = evidence.split("; ")
    more = len(parts) - at_most
    return "; ".join(parts[:at_most]) + (f"; and {more} more of the kind" if more > 0 else "")


# What stands out from luck ------------------------------------------------------------------------


def effects(source: str, table: str, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """How large printed differences are beside the printed deviations.

    Args:
        pairs: (model, over which other one); "best" is each dataset's best row, over "runner-up".
            3-D networks go by the name of the 2-D one: V-Net for U-Net.

    Returns:
        a row per pair, dataset and metric: pair, dataset, metric, model, over, gain; `d`, the gain
        in standard deviations (Cohen's, the two pooled); `p` of the t test of two independent
        samples; `needed`, the smallest d that has p < 0.05 with so many runs. A pair of which a
        dataset has no row is left out.

    Raises:
        ValueError: no such source or table, or one without deviations.
    """
    there = published.rows(source, table)
    if not any("iou_sd" in row for row in there):
        raise ValueError(f"{source}, {table} prints no standard deviations")
    found = []
    for dataset in dict.fromkeys(row["dataset"] for row in there):
        rows = {row["model"]: row for row in there if row["dataset"] == dataset}
        for metric in ("dice", "iou"):
            if any(f"{metric}_sd" not in row for row in rows.values()):
                continue
            ranked = sorted(rows.values(), key=lambda row: -row[metric])
            places = {"best": ranked[0], "runner-up": ranked[1]}
            for a, b in pairs:
                ours, other = (places.get(n) or rows.get(n) or rows.get(_in_3d(n)) for n in (a, b))
                if ours and other:
                    of = {"pair": f"{a} over {b}", "dataset": dataset, "metric": metric}
                    found.append(of | _effect(ours, other, metric))
    return pd.DataFrame(found)


def _in_3d(name: str) -> str:
    return name.replace("U-Net", "V-Net").replace("UNet", "VNet")


def _effect(ours: Mapping, other: Mapping, metric: str) -> dict[str, Any]:
    from scipy.stats import t

    gain, runs = ours[metric] - other[metric], ours["runs"]
    pooled = np.hypot(ours[f"{metric}_sd"], other[f"{metric}_sd"]) / np.sqrt(2)
    needed = t.ppf(1 - LEVEL / 2, 2 * runs - 2) * np.sqrt(2 / runs)
    return {
        "model": ours["model"],
        "over": other["model"],
        "gain": gain,
        "d": gain / pooled,
        "p": published.t_test(ours, other, metric),
        "needed": needed,
    }


VERDICTS = ("stands", "not shown", "no deviation", "a tie", "an impossible row")


def marks(source: str, of: Sequence[str]) -> pd.DataFrame:
    """What each mark "best" is worth: the best row of each dataset and score against the next.

    Columns: table, dataset, score, best, value, `next`, gain; `sd`, the deviation of the best row,
    printed there or elsewhere by the source; `verdict`, one of VERDICTS. A mark stands where a t
    test of two independent samples has p < 0.05. Where the next row is printed without a deviation,
    it is lent that of the best; where there is none at all, the mark cannot be judged.
    """
    wrong = possible()
    wrong = set(wrong.loc[wrong.finding != "", ["source", "dataset", "dice", "iou"]].agg(tuple, 1))
    lent = {}
    for row in published.rows(source):
        for metric in ("dice", "iou"):
            if f"{metric}_sd" in row:
                lent[row["dataset"], row["model"], metric] = row[f"{metric}_sd"]
    found = []
    for table in of:
        there = published.rows(source, table)
        for dataset in dict.fromkeys(row["dataset"] for row in there):
            rows = [row for row in there if row["dataset"] == dataset]
            for metric in ("dice", "iou", "score", "mae"):
                if all(metric in row for row in rows):
                    found.append({"table": table} | _mark(rows, metric, lent, wrong))
    return pd.DataFrame(found)


def _mark(rows: list[dict], metric: str, lent: Mapping, wrong: set) -> dict[str, Any]:
    sign = -1 if metric in published.LOWER else 1
    best, after = sorted(rows, key=lambda row: -sign * row[metric])[:2]
    gain = sign * (best[metric] - after[metric]) or 0.0  # no minus before a zero
    sd = lent.get((best["dataset"], best["model"], metric), np.nan)
    pair = [row | {f"{metric}_sd": row.get(f"{metric}_sd", sd)} for row in (best, after)]
    if tuple(best.get(key) for key in ("source", "dataset", "dice", "iou")) in wrong:
        verdict = "an impossible row"
    elif not gain:
        verdict = "a tie"
    elif np.isnan(sd):
        verdict = "no deviation"
    else:
        verdict = "stands" if published.t_test(*pair, metric) < LEVEL else "not shown"
    shown = {"dataset": best["dataset"], "score": SHOWN[metric], "best": best["model"]}
    shown |= {"value": best[metric], "next": after["model"], "gain": gain}
    return shown | {"sd": sd, "verdict": verdict}


def reruns() -> pd.DataFrame:
    """U-Net v2's printed Dice beside what its authors' logs and a user's rerun say.

    Columns: dataset, printed, sd (NaN where none is printed), rerun, source, gap.
    """
    printed = {}
    for row in published.rows("unetv2-paper"):
        if row.get("model") == "U-Net v2" and "dice" in row:
            known = printed.setdefault(row["dataset"], {"printed": row["dice"], "sd": np.nan})
            known["sd"] = row.get("dice_sd", known["sd"])
    found = [
        {"dataset": row["dataset"], **printed[row["dataset"]], "rerun": row["dice"], "source": name}
        for name in ("unetv2-logs", "unetv2-issue-18")
        for row in published.rows(name)
        if row["model"] == "U-Net v2"
    ]
    return pd.DataFrame(found).assign(gap=lambda table: table.rerun - table.printed)
