"""Tables of the notebooks that compare runs, from records and from `stats.compare`.

Numbers are in points, hundredths, but for MAE, which is a fraction. Models have the names that
readers see, `networks.label`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import networks
from ..common.words import difference, spread
from ..evaluation import metrics, record, stats
from ..evaluation.stats import NAMES
from . import published
from .plots import label

__all__ = [
    "cautions",
    "chosen_by_test",
    "company",
    "differences",
    "facts",
    "heads",
    "lines",
    "markdown",
]
__all__ += ["p_value", "printed", "readable", "results", "seven", "tests", "thirds", "widths"]

FEW = 20  # groups; below, t quantiles promise more than they hold where differences are skewed
SHOWN = {  # title: (protocol, score)
    "Dice": ("per_image", "dice"),
    "boundary F": ("own", "boundary_f"),
    "IoU": ("per_image", "iou"),
    "Dice, own size": ("own", "dice"),
    "Dice, global": ("global", "dice"),
    "IoU, global": ("global", "iou"),
    "Dice, pranet": ("pranet", "dice"),
}
PLACE = ["dataset", "test"]
PRINTED = ["dice", "dice_sd", "iou", "iou_sd", "mae", "protocol", "source", "table", "caveat"]


def facts(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """What the runs are: a row for each dataset and model."""
    rows = {}
    for each in records:
        params = record.params_of(each)
        encoder = "own" if networks.has_own_encoder(params.model) else params.encoder
        encoder += f", {params.width} wide" * networks.is_family(params.model)
        row = {
            "encoder": encoder + f" ({params.encoder_weights})" * bool(params.encoder_weights),
            "image size": params.image_size,
            "epochs": params.epochs,
            "recipe": params.recipe,
            "M parameters": round(each["parameters"] / 1e6, 2),
            "best epoch": [],
            "seeds": [],
        }
        row = rows.setdefault((params.dataset, label(params.model)), row)
        row["best epoch"].append(each["best_epoch"])
        row["seeds"].append(params.seed)
    table = pd.DataFrame(rows).T.rename_axis(["dataset", "model"])
    for name in ("best epoch", "seeds"):
        table[name] = [", ".join(map(str, values)) for values in table[name]]
    return table


def results(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Mean and deviation over seeds of all scores.

    Index: dataset, test, protocol, model; columns (score, "mean" or "std"). The deviation of one
    seed is NaN.
    """
    table = record.summary(records)
    scores = [name for name in (*NAMES, "mae") if name in table]
    table[[name for name in scores if name != "mae"]] *= 100
    by = [*PLACE, "protocol"]  # each in the order met
    table = table.sort_values(by, kind="stable", key=lambda column: pd.factorize(column)[0])
    return table.groupby([*by, "model"], sort=False)[scores].agg(["mean", "std"])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`results` for the eye: a row for each dataset, test and model, "90.45 ± 0.12" in a cell."""
    rows = {}
    for (dataset, test, protocol, model), scores in table.iterrows():
        row = rows.setdefault((dataset, test, label(model)), {})
        for title, (of, score) in SHOWN.items():
            if of == protocol:
                row[title] = spread(scores[score, "mean"], scores[score, "std"])
    return pd.DataFrame(rows).T.rename_axis([*PLACE, "model"])[list(SHOWN)]


def differences(table: pd.DataFrame, metric: str = "dice", second: str = "boundary_f"):
    """`stats.compare`'s table for the eye; the interval of `second` is not corrected."""
    shown = pd.DataFrame(index=table.index)
    told = None
    for place in PLACE:
        if place in table and table[place].nunique() > 1 and not table[place].equals(told):
            shown[place] = told = table[place]
    shown["model"] = table.model.map(label)
    parts = {metric: ("mean_difference", "ci_low", "ci_high")}
    parts[second] = ("second_difference", "second_low", "second_high")
    for name, columns in parts.items():
        cells = table[list(columns)].to_numpy()
        note = " (not corrected)" * (name == second and len(table) > 1)
        shown[f"{NAMES[name]}, points{note}"] = [difference(*cell) for cell in cells]
    shown.insert(shown.shape[1] - 1, "p", table.p.map(p_value))
    shown["seed by seed"] = [", ".join(f"{gain:+z.2f}" for gain in row) for row in table.by_seed]
    shown[["groups", "images"]] = table[["groups", "images"]]
    shown["verdict"] = table.verdict.replace("", "none")
    return shown.set_index([name for name in (*PLACE, "model") if name in shown])


def tests(
    frame: pd.DataFrame, reference: str, compared: pd.DataFrame, metric: str = "iou"
) -> pd.DataFrame:
    """p of three tests of one difference, for the eye; that of UNet++'s article first.

    "two samples": t of two independent samples, the mean scores of the trainings. "pairs": t of
    their differences, seed by seed. "ours": of `compared`, for other seeds and groups of images,
    corrected for the number of comparisons, which the first two are not. A test that one training
    cannot have is "–".

    Args:
        compared: `stats.compare`'s table of this frame, reference and metric.
    """
    from scipy.stats import ttest_ind, ttest_rel

    rows = {}
    for row in compared.itertuples():
        block = frame[(frame.dataset == row.dataset) & (frame.test == row.test)]
        means = 100 * block.groupby(["model", "seed"])[metric].mean().unstack("seed")
        a, b = means.loc[row.model].to_numpy(), means.loc[reference].to_numpy()
        several = a.size > 1
        rows[row.dataset, row.test, label(row.model)] = {
            label(reference): spread(b.mean(), b.std(ddof=1) if several else np.nan),
            "the model": spread(a.mean(), a.std(ddof=1) if several else np.nan),
            "p, two samples": p_value(ttest_ind(a, b).pvalue if several else np.nan),
            "p, pairs": p_value(ttest_rel(a, b).pvalue if several else np.nan),
            "p, ours": p_value(row.p),
        }
    return pd.DataFrame(rows).T.rename_axis([*PLACE, "model"])


def p_value(p: float) -> str:
    """Three digits, and "< 0.001" where these would be zeros."""
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def cautions(frame: pd.DataFrame) -> list[str]:
    """What a reader must know of the images behind the intervals, a sentence each.

    Args:
        frame: as `record.frame` gives it.
    """
    found = []
    for place, block in frame.groupby(PLACE, sort=False):
        images, groups = block.id.nunique(), block.group.nunique()
        where, what = ", ".join(dict.fromkeys(place)), f"the {images} images are of {groups} groups"
        if groups < FEW:
            text = (
                f"CAUTION, {where}: {what}. With so few an interval is wide, and still too narrow"
            )
            found.append(f"{text} where the groups' differences are skewed.")
        elif groups < images:
            found.append(f"{where}: {what}; images of a group are alike, and count as one sample.")
    return found


def widths(
    frame: pd.DataFrame, reference: str, models: Sequence[str], metric: str = "dice"
) -> pd.DataFrame:
    """Half the width of the 95 % interval, by what it lets vary; points, for one comparison.

    A row for each dataset, test and model. "images": each is taken as a group of its own;
    "groups": other groups, for the mean of these trainings; "seeds": other trainings, for these
    images; "both": what `stats.crossed` gives.
    """
    from scipy.stats import t

    rows = {}
    for place, block in frame.groupby(PLACE, sort=False):
        models_of = block.groupby("model")
        wide = {m: of.pivot(index="seed", columns="id", values=metric) for m, of in models_of}
        groups = block.drop_duplicates("id").set_index("id").group[wide[reference].columns]
        for model in models:
            a, b = wide[model].to_numpy(), wide[reference].to_numpy()
            k, gains = len(a), (a - b).mean(1)
            of_seeds = t.ppf(0.975, k - 1) * gains.std(ddof=1) / k**0.5 if k > 1 else np.nan
            found = {
                "images": _half(a.mean(0), b.mean(0)),
                "groups": _half(a.mean(0), b.mean(0), groups),
                "seeds": 100 * of_seeds,
                "both": _half(a, b, groups),
            }
            rows[(*place, label(model))] = found
    return pd.DataFrame(rows).T.rename_axis([*PLACE, "model"])


def _half(a: np.ndarray, b: np.ndarray, groups=None) -> float:
    found = stats.crossed(a, b, groups)
    return 50 * (found.high - found.low)


def thirds(values: pd.Series, by: Sequence[str] = PLACE) -> pd.Series:
    """`values` of images as "small", "medium" and "large": thirds of equal number within `by`.

    Of two images the smaller is small and the larger large.
    """
    within = values.groupby(level=list(by))
    middle = (within.rank(method="first") - 0.5) / within.transform("size")
    return pd.cut(middle, [0, 1 / 3, 2 / 3, 1], labels=["small", "medium", "large"])


def seven(percent: pd.Series) -> pd.Series:
    """Images in up to seven groups by their objects, equal steps of the square root of the area.

    Args:
        percent: area of each image's objects, % of the image.

    Returns:
        an ordered category with the upper end of each group, as "≤ 4.2".
    """
    root = np.sqrt(percent.to_numpy(float))
    ends = np.linspace(root.min(), root.max(), 8)[1:]
    names = [f"≤ {end**2:.1f}" for end in ends]
    found = [names[i] for i in np.minimum(np.searchsorted(ends, root - 1e-9), 6)]
    kept = [name for name in dict.fromkeys(names) if name in found]
    return pd.Series(pd.Categorical(found, kept, ordered=True), percent.index)


def heads(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per record, test, head and image: the scores of each head alone.

    Columns: those of `record.frame` up to `iou`, and `head`: "averaged" for what the run was scored
    by, "L3" for the head of depth 3. A model of one head has "averaged" alone.
    """
    tables = []
    for each in records:
        whole = record.frame([each])[["dataset", "model", "seed", *["test", "id", "group"]]]
        for test, block in whole.groupby("test", sort=False):
            found = {"averaged": record.counts(each["tests"][test])}
            found |= {f"L{j}": counts for j, counts in record.heads(each, test).items()}
            for head, counts in found.items():
                pairs = [[metrics.dice_iou(*of) for of in image] for image in counts]
                dice, iou = np.mean(pairs, axis=1).T
                tables.append(block.assign(head=head, dice=dice, iou=iou))
    return pd.concat(tables, ignore_index=True)


def company(found: pd.DataFrame, alone: Mapping[int, str]) -> pd.DataFrame:
    """The head of each depth, trained alone ("isolated") and within UNet++ ("embedded").

    Args:
        found: `heads` of all runs.
        alone: depth -> the model that is the graph of this depth, scored by its deepest head.

    Returns:
        rows of `found` with `depth`, and "isolated" or "embedded" as `model`.
    """
    tables = [found.iloc[:0].assign(depth=0)]
    for depth, model in alone.items():
        rows = found[found.model == model]
        head = f"L{depth}" if (rows["head"] == f"L{depth}").any() else "averaged"
        tables.append(rows[rows["head"] == head].assign(depth=depth, model="isolated"))
        rows = found[(found.model == "tmi-unet++") & (found["head"] == f"L{depth}")]
        tables.append(rows.assign(depth=depth, model="embedded"))
    return pd.concat(tables, ignore_index=True)


def chosen_by_test(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Of runs that were audited: the test Dice of the epoch that validation chose, and the best.

    A row for each dataset and model, means over seeds; empty where no run was audited.
    """
    log = record.log(records)
    if "test_dice" not in log or log.test_dice.isna().any():
        return pd.DataFrame()
    runs = log.groupby(["dataset", "model", "seed"], sort=False)
    found = pd.DataFrame(
        {
            "chosen by validation": 100 * log.loc[runs.val_dice.idxmax(), "test_dice"].to_numpy(),
            "chosen by the test images": 100 * runs.test_dice.max().to_numpy(),
        },
        runs.size().index,
    )
    found["excess"] = found["chosen by the test images"] - found["chosen by validation"]
    mean = found.groupby(level=["dataset", "model"], sort=False).mean().rename(index=label)
    return mean.assign(epochs=int(log.epoch.max()))


def printed(datasets: Iterable[str]) -> pd.DataFrame:
    """The published rows of these datasets with their caveats; empty where there are none.

    A row that a source prints in several tables stands once, with all of them.
    """
    found: dict[tuple, dict] = {}
    for row in (row for name in dict.fromkeys(datasets) for row in published.rows(dataset=name)):
        key = tuple(row.get(name) for name in ("dataset", "model", "dice", "iou", "source"))
        if "iou" in row:
            first = found.setdefault(key, row)
            places = dict.fromkeys([*first["table"].split(", "), row["table"]])
            found[key] = row | first | {"table": ", ".join(places)}
    if not found:
        return pd.DataFrame()
    table = pd.DataFrame(found.values(), columns=["dataset", "model", *PRINTED])
    table = table.dropna(axis=1, how="all").astype(object)
    return table.where(table.notna(), "").set_index(["dataset", "model"])


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a Markdown table of text, the index as its first column(s)."""
    table = table.reset_index()
    head = [" | ".join(map(str, table.columns)), " | ".join("---" for _ in table.columns)]
    return [f"| {line} |" for line in (*head, *(" | ".join(map(str, r)) for r in table.to_numpy()))]


def lines(compared: pd.DataFrame, reference: str) -> list[str]:
    """A sentence for each row of `stats.compare`'s table: what may be claimed."""
    found = []
    for row in compared.itertuples():
        place = dict.fromkeys(str(getattr(row, name)) for name in PLACE if name in compared)
        where = ", ".join(place) + ": " if place else ""
        found.append(f"{where}{label(row.model)} against {label(reference)}: {row.text}")
    return found
