"""Our own runs under other people's rules: another epoch is kept, another protocol scores.

The records of audited runs say what choosing the epoch on the test set would have been worth
(`choices`), and what the protocol alone does to the score of the same masks (`protocols`). Scores
are in points, hundredths.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..common import words
from ..evaluation import metrics, record
from .cells import short
from .landed import report
from .plots import label

__all__ = ["PROTOCOLS", "RULES", "by_epoch", "choices", "fullest", "gains", "one_disc", "orders"]
__all__ += ["protocols", "scored", "sentences", "series", "spread", "state"]

Record = Mapping[str, Any]


# Which runs may stand together --------------------------------------------------------------------


def series(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records parted into those that may stand together: {"isic2017, 24 epochs": records}.

    Within a series only model and seed differ, see `record.setting`. Where the dataset and length
    of two series are the same, what else is not (an encoder, other files) joins the name.
    """
    settings, values = [], {}
    for one in records:
        setting = record.setting(one)
        setting["files"] = setting["files"][:6]
        place = setting["dataset"], setting["epochs"]
        settings.append((*place, record.params_of(one).seed, setting, one))
        for name, value in setting.items():
            values.setdefault((*place, name), set()).add(str(value))
    found: dict[str, list[Record]] = {}
    for dataset, epochs, _, setting, one in sorted(settings, key=lambda row: row[:3]):
        odd = [name for name in sorted(setting) if len(values[dataset, epochs, name]) > 1]
        parts = [dataset, words.many(epochs, "epoch"), *(f"{name} {setting[name]}" for name in odd)]
        found.setdefault(", ".join(parts), []).append(one)
    return found


def state(
    parts: Mapping[str, Sequence[Record]], datasets: Iterable[str], models: Iterable[str]
) -> str:
    """What has landed of each series: runs, models, seeds; datasets without a record after it."""
    models, lines = list(models), []
    for name, part in parts.items():
        runs = pd.DataFrame(map(record.whose, part))
        seeds = {model: runs.seed[runs.model == model].tolist() for model in models}
        missing = [label(model) for model, held in seeds.items() if not held]
        dumb = sum("test_dice" not in one["log"] for one in part)
        more = [f"{words.many(dumb, 'run')} without test scores in the log"] if dumb else []
        there = {label(model): held for model, held in seeds.items() if held}
        lines.append(report(f"{name}: {words.many(len(part), 'run')}.", missing, there, more))
    there = {record.params_of(one).dataset for part in parts.values() for one in part}
    lines += [f"{name}: no run has a record yet." for name in datasets if name not in there]
    return "\n".join(lines)


def fullest(parts: Mapping[str, Sequence[Record]]) -> str | None:
    """The name of the series with the most runs, the longer trainings first; None for none."""
    epochs = {name: record.params_of(part[0]).epochs for name, part in parts.items()}
    return max(parts, key=lambda name: (len(parts[name]), epochs[name]), default=None)


# What "best on the test set" is worth -------------------------------------------------------------

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
            row = {"series": name, **record.whose(one)}
            row |= {"validation": scores[log.val_dice.idxmax()], "test": scores.max()}
            found.append(row | {"last": scores.iloc[-1]})
    columns = ["series", "model", "seed", *RULES]
    return pd.DataFrame(found, columns=columns).assign(excess=lambda t: t.test - t.validation)


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
    return " > ".join(short(model) for model in scores.sort_values(ascending=False).index)


def sentences(chosen: pd.DataFrame) -> list[str]:
    """What choosing on the test set would have been worth: a sentence for each series."""
    found = []
    ordered = orders(chosen)
    for name, block in chosen.groupby("series", sort=False):
        models = block.groupby("model", sort=False)
        each = models.excess.mean()
        gains = ", ".join(f"{gain:.2f} to {short(model)}" for model, gain in each.items())
        text = f"{name}: choosing on the test set would have added {gains}"
        text += f" (at most {block.excess.max():.2f} to one run)"
        if len(each) > 1 and ordered.seeds[name]:
            common = block.pivot(index="seed", columns="model", values="validation").dropna()
            means = common.mean()
            row = ordered.loc[name]
            same = row[RULES["validation"]] == row[RULES["test"]]
            text += f"; the models lie {means.max() - means.min():.2f} apart. The order of the "
            text += f"means over {words.many(row.seeds, 'common seed')} "
            text += "stays" if same else f"changes to {row[RULES['test']]}"
            text += f"; that within a seed changes in {row['seeds that change']} of {row.seeds}"
        found.append(text + ".")
    return found


# One prediction, every protocol -------------------------------------------------------------------

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
            of = {"series": name, **record.whose(one)}
            for test, block in one["tests"].items():
                scores = {p: _summarised(block, one, where) for p, where in PROTOCOLS.items()}
                for protocol, pair in scores.items():
                    if pair is not None:
                        row = of | {"test": test, "protocol": protocol}
                        found.append(row | dict(zip(("dice", "iou"), pair, strict=True)))
    return pd.DataFrame(
        found, columns=["series", "test", "model", "seed", "protocol", "dice", "iou"]
    )


def spread(table: pd.DataFrame) -> list[str]:
    """How far protocols and models stand apart, and which order of models each protocol gives.

    Args:
        table: of `protocols`.

    Returns:
        lines of Markdown, for each series and test set.
    """
    found = []
    for (name, test), block in table.groupby(["series", "test"], sort=False):
        means = block.pivot_table("dice", "protocol", "model", sort=False)
        rules, models = (np.ptp(means, axis=axis).mean() for axis in (0, 1))
        text = f"* {name}, tested on {test}: on identical masks the protocols stand {rules:.1f}"
        text += " points of Dice apart (mean over the models)"
        if means.shape[1] == 1:  # one model has no order
            found.append(f"{text}.")
            continue
        found.append(f"{text}, the models {models:.1f} (mean over the protocols).")
        orders = means.apply(_order, axis=1)
        for order, of in orders.groupby(orders, sort=False):
            found.append(f"    * {order}: {', '.join(of.index)}")
    return found


def _summarised(block: Mapping, one: Record, where: tuple | None) -> Sequence[float] | None:
    if where:
        protocol, *names = where
        return [100 * block["summary"][protocol][name] for name in names]
    counts = record.counts(block)
    if counts.shape[1] > 1:
        return None
    pixels = record.params_of(one).image_size ** 2
    return 100 * np.mean([_two_classes(*image, pixels) for image in counts[:, 0]], axis=0)


def _two_classes(tp: int, fp: int, fn: int, pixels: int) -> np.ndarray:
    """Dice and IoU, each the mean of object and background."""
    pairs = metrics.dice_iou(tp, fp, fn), metrics.dice_iou(pixels - tp - fp - fn, fn, fp)
    return np.mean(pairs, axis=0)


def gains(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The Dice of each model less that of the reference in the same series, seed and protocol.

    Args:
        table: of `protocols`; several test sets are averaged.

    Returns:
        series, model, protocol, seed, gain; no row where either has no run.
    """
    dice = table.groupby(["series", "model", "protocol", "seed"], sort=False).dice.mean()
    own = dice.rename("gain").reset_index()
    theirs = own[own.model == reference].drop(columns="model")
    both = own[own.model != reference].merge(theirs, on=["series", "protocol", "seed"])
    both["gain"] = both.gain_x - both.gain_y
    return both.drop(columns=["gain_x", "gain_y"])


def by_epoch(chosen: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The gain in Dice on `reference` at the epoch that validation chose, and at the last one.

    Args:
        chosen: of `choices`.

    Returns:
        a row per series and model: `seeds`, those that both have, and a column for each rule, in
        points, mean ± deviation over these seeds.
    """
    rules = {"validation": "chosen by validation", "last": "the last epoch"}
    long = chosen.melt(["series", "model", "seed"], [*rules], "protocol", "dice")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for (name, model, rule), of in gains(long, reference).groupby(
        ["series", "model", "protocol"], sort=False
    ):
        text = words.spread(of.gain.mean(), of.gain.std())
        rows.setdefault((name, label(model)), {"seeds": len(of)})[rules[rule]] = text
    return pd.DataFrame(rows, ["seeds", *rules.values()]).T


# A scene to see it on -----------------------------------------------------------------------------


def one_disc(radius: float, off: float, soft: float) -> tuple[np.ndarray, np.ndarray]:
    """A disc in the middle of an image, and a prediction of it that stands `off` pixels aside.

    Returns:
        truth (96, 96) bool, and the probabilities p (96, 96), which fall from 1 to 0 within
        some `soft` pixels of the edge. p >= 0.5 is the same mask for every `soft`.

    Raises:
        ValueError: `soft` is not above 0.
    """
    if soft <= 0:
        raise ValueError(f"soft is {soft}; it is a width in pixels, above 0")
    y, x = np.mgrid[:96, :96] - 95 / 2
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
