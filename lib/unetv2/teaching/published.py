"""What others have printed, and which of their sentences their own rows deny.

`data/published.yaml` holds every results table of the U-Net v2 paper and the UNet++ article, and
what two blogs state, each row with its protocol and caveats; its head explains the fields.

    rows(dataset="isic2017")   the printed rows, to stand beside one's own
    deny()                     each sentence of the sources: do the printed rows bear it out?
    check_table(text)          which rows of ANY table cannot be (from bounds.py)
"""

from functools import cache
from pathlib import Path

from ..common.errors import unknown
from .bounds import check_table, digits

__all__ = ["LOWER", "check_table", "deny", "rows", "sources", "t_test"]

FILE = Path(__file__).with_name("published.yaml")  # a link to data/published.yaml
LOWER = {"mae", "parameters", "memory", "flops"}  # the smaller the better
LEVEL = 0.05  # of every test, as in the UNet++ article


def rows(
    source: str | None = None, table: str | None = None, dataset: str | None = None
) -> list[dict]:
    """The printed rows, a dict each, narrowed to a source, a table, a dataset.

    Keys: source, table, dataset, protocol, runs, caveat (`remark`, of the row alone, and `about`,
    of its table), model, and the numbers of the row: dice, dice_sd, iou, iou_sd, score in percent,
    mae a fraction, parameters in millions, memory in MB, flops in G (a multiply-add is one), fps. A
    key that the source has no number for is absent.

    Raises:
        ValueError: no such source or table. A dataset without printed rows gives an empty list.
    """
    found = _rows()
    if source is not None:
        if source not in _book()["sources"]:
            raise unknown("source", source, _book()["sources"])
        found = [row for row in found if row["source"] == source]
    if table is not None:
        tables = {row["table"] for row in found}
        if table not in tables:
            raise unknown("table", table, tables)
        found = [row for row in found if row["table"] == table]
    return [dict(row) for row in found if dataset in (None, row.get("dataset"))]


def sources() -> dict[str, str]:
    """{source: what it is}, in the order of the file."""
    return dict(_book()["sources"])


def deny() -> list[dict]:
    """Each sentence of the sources, with whether the printed rows bear it out.

    Returns:
        a dict for each: claim, where, holds (True, False, or None where no printed number can
        decide), recomputed (False where it was read in code and not in a table), evidence (the
        comparisons that fail, or all where none does) and note.
    """
    return [_judged(claim) for claim in _book()["claims"]]


@cache
def _book() -> dict:
    """The file as it stands."""
    import yaml

    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


@cache
def _rows() -> list[dict]:
    """Every row with what its table says of all; "88.3 ± 0.2" parted into value and deviation."""
    found = []
    for table in _book()["tables"]:
        for line in table["rows"]:
            row = {key: value for key, value in table.items() if key != "rows"}
            for key, value in line.items():
                if isinstance(value, str) and "±" in value:
                    row[key], row[f"{key}_sd"] = (float(part) for part in value.split("±"))
                else:
                    row[key] = value
            row["remark"], row["about"] = (part.get("caveat", "") for part in (line, table))
            row["caveat"] = "; ".join(filter(None, (row["remark"], row["about"])))
            found.append(row)
    return found


def _judged(claim: dict) -> dict:
    """One claim, by the kind of its test."""
    if "compare" in claim:
        tried = [result for test in claim["compare"] for result in _compare(claim | test)]
        failed = [text for fine, text in tried if not fine]
        holds, evidence = not failed, failed or [text for _, text in tried]
    elif "possible" in claim:
        evidence = [found["finding"] for found in check_table(rows(*claim["in"]))]
        holds = not evidence
    elif "counted" in claim:
        said, counted = claim["counted"]["said"], claim["counted"]["is"]
        holds, evidence = said == counted, [f"{said} is said, {counted} is counted"]
    elif "instead" in claim:
        holds, evidence = False, [claim["instead"]]
    else:
        holds, evidence = None, [claim["untold"]]
    return {
        "claim": claim["claim"],
        "where": claim["where"],
        "holds": holds,
        "recomputed": holds is not None and "instead" not in claim,
        "evidence": evidence,
        "note": claim.get("note", ""),
    }


def _compare(test: dict) -> list[tuple[bool, str]]:
    """Whether `model` is above `over`, for each dataset and metric, with the numbers in words."""
    there = rows(*test["in"], dataset=test.get("dataset"))
    gain = test.get("gain", {})
    results = []
    for dataset in dict.fromkeys(row["dataset"] for row in there):
        models = {row["model"]: row for row in there if row["dataset"] == dataset}
        others = models if test["over"] == "rivals" else {test["over"]}
        others = [models[name] for name in others if name in models and name != test["model"]]
        if test["model"] not in models or not others:
            continue  # the networks in 3-D have other names
        ours = models[test["model"]]
        for metric in test.get("metrics", gain):
            rival, ahead = _nearest(ours, others, metric)
            places = digits(row[metric] for row in models.values())
            shown = [f"{row[metric]:.{places}f} ({row['model']})" for row in (ours, rival)]
            text = f"{dataset}: {metric} {', '.join(shown)}"
            fine = ahead > 0
            if metric in gain:
                fine = abs(ahead - gain[metric]) < 0.006  # tables have two digits at most
                text += f", a gain of {ahead:.{places}f}"
            if test.get("significant"):
                p = t_test(ours, rival, metric)
                fine = fine and p < LEVEL
                text += f", p = {p:.2g}"
            results.append((fine, text))
    if not results:
        raise ValueError(f"{FILE.name}: nothing to compare for {test['claim']!r}")
    return results


def _nearest(ours: dict, others: list[dict], metric: str) -> tuple[dict, float]:
    """The best of the others, and how far ours is ahead of it; behind is negative."""
    sign = -1 if metric in LOWER else 1
    rival = max(others, key=lambda row: sign * row[metric])
    return rival, sign * (ours[metric] - rival[metric])


def t_test(a: dict, b: dict, metric: str) -> float:
    """p of the t test of two independent samples, from the printed means, deviations and runs.

    `a` and `b` are rows that have `metric`, its deviation and `runs`.
    """
    from scipy.stats import ttest_ind_from_stats

    samples = [(row[metric], row[f"{metric}_sd"], row["runs"]) for row in (a, b)]
    return float(ttest_ind_from_stats(*samples[0], *samples[1]).pvalue)
