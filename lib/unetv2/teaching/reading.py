"""Reading the papers: what is printed, what of it can be, and what stands out from luck.

The first half reads the papers' tables (`published`), the second the records of our own runs: what
choosing on the test set is worth, and what the protocol alone does to a score. Scores are in
points, hundredths. The figures of both are in `reading_charts`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..common.params import RunParams
from ..evaluation import metrics, record
from ..evaluation.identity import deciding
from . import published
from .bounds import check_table, digits
from .plots import label

__all__ = ["PROTOCOLS", "choices", "effects", "ledger", "marks", "one_disc", "orders", "possible"]
__all__ += ["protocols", "reruns", "scored", "sentences", "series", "with_background"]

Record = Mapping[str, Any]
LEVEL = 0.05  # of every test here, as in the UNet++ article
SHOWN = {"dice": "Dice", "iou": "IoU", "score": "score", "mae": "MAE", "parameters": "M parameters"}
SHOWN |= {"memory": "memory, MB", "flops": "FLOPs, G", "fps": "images a second"}
SHOWN |= {"images": "images", "size": "size", "modality": "modality", "minutes": "minutes"}
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


def _block(rows: list[dict]) -> pd.DataFrame:
    """The rows with the digits of their print, without columns that nobody filled."""
    table = pd.DataFrame(index=pd.Index([row.get("dataset", "") for row in rows], name="dataset"))
    table["model"] = [row.get("model", "") for row in rows]
    for key, title in SHOWN.items():
        cells = [[row[k] for k in (key, f"{key}_sd") if k in row] for row in rows]
        numbers = [n for cell in cells for n in cell if not isinstance(n, str)]
        places = digits(numbers) if numbers else 0
        table[title] = [" ± ".join(_spelled(n, places) for n in cell) for cell in cells]
    table["remark"] = [row["remark"] for row in rows]
    return table.loc[:, (table != "").any()]


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


VERDICTS = ("its row cannot be", "a tie", "not shown", "cannot be judged", "stands")


def marks(source: str, tables: Sequence[str]) -> pd.DataFrame:
    """What each mark "best" is worth: the best row of each dataset and score against the next.

    Columns: table, dataset, score, best, value, `next`, gain; `sd`, the deviation of the best
    row, printed there or elsewhere by the source (NaN: nowhere); `verdict`, one of VERDICTS. A mark
    stands where a t test of two independent samples has p < 0.05; where the next row is printed
    without a deviation it is lent that of the best.
    """
    wrong = possible()
    wrong = set(wrong.loc[wrong.finding != "", ["source", "dataset", "dice", "iou"]].agg(tuple, 1))
    lent = {}
    for row in published.rows(source):
        for metric in ("dice", "iou"):
            if f"{metric}_sd" in row:
                lent[row["dataset"], row["model"], metric] = row[f"{metric}_sd"]
    found = []
    for table in tables:
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
        verdict = "its row cannot be"
    elif not gain:
        verdict = "a tie"
    elif np.isnan(sd):
        verdict = "cannot be judged"
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


# Our own records ----------------------------------------------------------------------------------


def series(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records parted into those that may stand together: {"isic2017, 24 epochs": records}.

    Within a series only model and seed differ. Where the dataset and length of two series are the
    same, what else is not (an encoder, other files) joins the name.
    """
    groups: dict[str, list[Record]] = {}
    for one in records:
        groups.setdefault(json.dumps(_setting(one), sort_keys=True), []).append(one)
    settings = sorted(map(json.loads, groups), key=lambda s: (s["dataset"], s["epochs"]))
    found = {}
    for setting in settings:
        same = ("dataset", "epochs")
        alike = [s for s in settings if all(s[key] == setting[key] for key in same)]
        odd = [k for k in setting if len({str(s.get(k)) for s in alike}) > 1]
        name = ", ".join([setting["dataset"], _many(setting["epochs"], "epoch")])
        name += "".join(f", {key} {setting[key]}" for key in odd)
        members = groups[json.dumps(setting, sort_keys=True)]
        found[name] = sorted(members, key=lambda one: one["params"].get("seed", 0))
    return found


def _setting(one: Record) -> dict[str, Any]:
    """What decides a training, but for model and seed."""
    params = RunParams.make(one["params"])
    kept = {key: getattr(params, key) for key in ("dataset", "epochs", "encoder", "image_size")}
    kept |= {k: v for k, v in deciding(params).items() if k not in ("model", "seed")}
    return kept | {"files": one["fingerprint"][:6], "version": one["training_version"]}


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


RULES = {"validation": "best on validation", "test": "best on the test set", "last": "last epoch"}


def choices(parts: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """The test Dice of each audited run at three epochs: the one that validation chose, the best
    one on the test set, and the last.

    Args:
        parts: from `series`.

    Returns:
        a row per run: series, model, seed, `validation`, `test` and `last` (points of Dice,
        protocol per_image, mean over the test sets), `excess` = test - validation. Runs whose
        test scores were not logged have no row.
    """
    found = []
    for name, records in parts.items():
        for one in records:
            log = pd.DataFrame(one["log"])
            if "test_dice" not in log or log.test_dice.isna().any():
                continue
            scores = 100 * log.test_dice
            row = {"series": name, "model": one["params"]["model"], "seed": _seed(one)}
            row |= {"validation": scores[log.val_dice.idxmax()], "test": scores.max()}
            found.append(row | {"last": scores.iloc[-1]})
    columns = ["series", "model", "seed", *RULES]
    return pd.DataFrame(found, columns=columns).assign(excess=lambda t: t.test - t.validation)


def _seed(one: Record) -> int:
    return one["params"].get("seed", 0)


def orders(chosen: pd.DataFrame) -> pd.DataFrame:
    """The order of the models in each series under each rule, best first; over common seeds.

    A row per series: seeds, `best on validation`, `best on the test set`, `last epoch`, and
    `seeds that change`, in how many the first two rules order the models otherwise.
    """
    found = {}
    for name, block in chosen.groupby("series", sort=False):
        wide = block.pivot(index="seed", columns="model", values=list(RULES)).dropna()
        row: dict[str, Any] = {"seeds": len(wide)}
        if len(wide):
            mean = wide.mean()
            row |= {text: _order(mean[rule]) for rule, text in RULES.items()}
            both = (wide.loc[seed] for seed in wide.index)
            changed = sum(_order(scores["validation"]) != _order(scores["test"]) for scores in both)
            row["seeds that change"] = changed
        found[name] = row
    return pd.DataFrame(found).T.rename_axis("series")


def _order(scores: pd.Series) -> str:
    return " > ".join(label(model) for model in scores.sort_values(ascending=False).index)


def sentences(chosen: pd.DataFrame) -> list[str]:
    """What choosing on the test set would have been worth: a sentence for each series."""
    found = []
    ordered = orders(chosen)
    for name, block in chosen.groupby("series", sort=False):
        models = block.groupby("model", sort=False)
        each = models.excess.mean()
        gains = ", ".join(f"{gain:.2f} to {label(model)}" for model, gain in each.items())
        text = f"{name}: choosing on the test set would have added {gains}"
        text += f" (at most {block.excess.max():.2f} to one run)"
        if len(each) > 1 and ordered.seeds[name]:
            means = block.groupby("model").validation.mean()
            row = ordered.loc[name]
            same = row[RULES["validation"]] == row[RULES["test"]]
            text += f"; the models lie {means.max() - means.min():.2f} apart. The order of the "
            text += f"means over {_many(row.seeds, 'common seed')} "
            text += "stays" if same else f"changes to {row[RULES['test']]}"
            text += f"; that within a seed changes in {row['seeds that change']} of {row.seeds}"
        found.append(text + ".")
    return found


PROTOCOLS = {  # title: (block of the record's summary, Dice's name there, IoU's)
    "per image": ("per_image", "dice", "iou"),
    "own size": ("own", "dice", "iou"),
    "one matrix": ("global", "dice", "iou"),
    "with background": None,
    "256 thresholds": ("pranet", "dice", "iou"),
    "best of 256": ("pranet", "dice_max", "iou_max"),
}


def protocols(parts: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """The same masks under every protocol: series, test, model, seed, protocol, dice, iou.

    "with background" is the mean of the object's and the background's score of each image, at the
    network's size; it has no row where there are several classes.
    """
    found = []
    for name, records in parts.items():
        for one in records:
            of = {"series": name, "model": one["params"]["model"], "seed": _seed(one)}
            for test, block in one["tests"].items():
                scores = {p: _summarised(block, one, where) for p, where in PROTOCOLS.items()}
                for protocol, pair in scores.items():
                    if pair is not None:
                        row = of | {"test": test, "protocol": protocol}
                        found.append(row | dict(zip(("dice", "iou"), pair, strict=True)))
    return pd.DataFrame(
        found, columns=["series", "test", "model", "seed", "protocol", "dice", "iou"]
    )


def _summarised(block: Mapping, one: Record, where: tuple | None) -> Sequence[float] | None:
    if where:
        protocol, *names = where
        return [100 * block["summary"][protocol][name] for name in names]
    counts = record.counts(block)
    if counts.shape[1] > 1:
        return None
    pixels = RunParams.make(one["params"]).image_size ** 2
    return 100 * np.mean([_two_classes(*image, pixels) for image in counts[:, 0]], axis=0)


def _two_classes(tp: int, fp: int, fn: int, pixels: int) -> np.ndarray:
    """Dice and IoU, each the mean of object and background."""
    pairs = metrics.dice_iou(tp, fp, fn), metrics.dice_iou(pixels - tp - fp - fn, fn, fp)
    return np.mean(pairs, axis=0)


# A scene to see it on -----------------------------------------------------------------------------


def one_disc(
    radius: float, off: float, soft: float, side: int = 96
) -> tuple[np.ndarray, np.ndarray]:
    """A disc in the middle of an image, and a prediction of it that stands `off` pixels aside.

    Returns:
        truth (side, side) bool, and the probabilities p (side, side), which fall from 1 to 0 within
        some `soft` pixels of the edge. p >= 0.5 is the same mask for every `soft`.

    Raises:
        ValueError: `soft` is not above 0.
    """
    if soft <= 0:
        raise ValueError(f"soft is {soft}; it is a width in pixels, above 0")
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = radius - np.hypot(x - off, y)
    return np.hypot(x, y) <= radius, 1 / (1 + np.exp(-inside / soft))


def scored(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Dice and IoU of (truth, probabilities) of one size under each of PROTOCOLS, in points.

    "own size" is left out: these images have one size.

    Raises:
        ValueError: no pair.
    """
    pairs = list(pairs)
    if not pairs:
        raise ValueError("nothing to score: give pairs of a mask and probabilities")
    counts = np.array([metrics.counts(p >= 0.5, truth) for truth, p in pairs])
    curves = [metrics.threshold_scores(metrics.eight_bit(p), truth) for truth, p in pairs]
    curve = np.mean(curves, axis=0)
    found = {
        "per image": np.mean([metrics.dice_iou(*image) for image in counts], axis=0),
        "one matrix": metrics.dice_iou(*counts.sum(0)),
        "with background": np.mean(
            [_two_classes(*c, truth.size) for c, (truth, _) in zip(counts, pairs, strict=True)], 0
        ),
        "256 thresholds": curve.mean(1),
        "best of 256": curve.max(1),
    }
    return 100 * pd.DataFrame(found, ["Dice", "IoU"]).T
