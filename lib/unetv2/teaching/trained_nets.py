"""44_when_skips_help: what was measured on trained nets, once, at the end of each training.

Maps of the skip are set to zero, or the images are spoilt. A record holds means over images of
these studies and not every image, so an interval is for other seeds, on the same images. The tables
have the columns of `contrasts.compare`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation import metrics, record, stats
from . import contrasts
from .cells import short
from .landed import Landed
from .worlds import Named, Records

__all__ = ["beyond", "corrupted", "finest", "leans", "level_name", "scatter", "spoilt"]
__all__ += ["spoilt_by_series", "zeroed", "zeroed_by_series"]

MANY = stats.SEEDS_FOR_A_VERDICT


# Maps of the skip set to zero ---------------------------------------------------------------------


def level_name(level: int, levels: int) -> str:
    """A map of a skip over the `levels` coarsest of an encoder of stride 32."""
    ends = {0: "finest", levels - 1: "coarsest"}
    return f"1/{32 >> (levels - 1 - level)}" + (f", {ends[level]}" if level in ends else "")


def zeroed(records: Records, models: Sequence[str]) -> pd.DataFrame:
    """How the scores of a trained net change when one map of its skip is zero, in points.

    Returns:
        model, seed, level (0 is the finest), levels, images, `dice` and `boundary_f`, each with the
        map less without nothing missing; the mean over tests. Runs without this study have no row.
    """
    found = []
    for one in records:
        run = record.whose(one)
        if run["model"] not in models:
            continue
        for test, study in one["studies"].get("skips", {}).items():
            base = {name: study[name][0] for name in ("dice", "boundary_f")}
            for place, level in enumerate(study["levels"][1:], 1):
                change = {name: 100 * (study[name][place] - base[name]) for name in base}
                row = run | {"level": level, "levels": len(study["levels"]) - 1, "test": test}
                found.append(row | change | {"images": study["images"]})
    columns = ["model", "seed", "level", "levels", "test", "dice", "boundary_f", "images"]
    table = pd.DataFrame(found, columns=columns)
    how = {"dice": "mean", "boundary_f": "mean", "images": "sum"}
    return table.groupby(["model", "seed", "level", "levels"], sort=False).agg(how).reset_index()


def leans(table: pd.DataFrame, models: Sequence[str], reference: str | None = None) -> pd.DataFrame:
    """What each map is worth to each net: the change of Dice when it is zero; boundary F objects.

    Args:
        table: of `zeroed`.
        reference: then the change less that of this model, seed by seed.

    Returns:
        the columns of `stats.compare`, `place` (the model) and `arm` (the map); intervals for
        other seeds, corrected for all rows.
    """
    wide = table.pivot(index="seed", columns=["model", "level"], values=["dice", "boundary_f"])
    images = int(table.images.max()) if len(table) else 0
    levels = int(table.levels.max()) if len(table) else 4
    others = [model for model in models if model != reference]
    words = ("gains", "loses") if reference is None else ("loses less", "loses more")
    rows = {}
    for model in others:
        for level in range(levels):
            values = [_seeds(wide, score, model, level) for score in ("dice", "boundary_f")]
            if reference is not None:
                theirs = (_seeds(wide, score, reference, level) for score in ("dice", "boundary_f"))
                values = [(a - b).dropna() for a, b in zip(values, theirs, strict=True)]
            arm = level_name(level, levels)
            name = f"{short(model)} without {arm}"
            row = _over_seeds(*values, images, len(others) * levels, words)
            rows[name] = {"place": short(model), "arm": arm, "model": model} | row
    return pd.DataFrame(rows).T.infer_objects()


def zeroed_by_series(parts: Mapping[str, Records], models: Sequence[str]) -> pd.DataFrame:
    """The change of Dice when each map is zero, points: a row for each series and net."""
    rows = []
    for name, part in parts.items():
        table = leans(zeroed(part, models), models)
        for net, of in table[table.seeds > 0].groupby("place", sort=False):
            values = of.set_index("arm").mean_difference.round(2).to_dict()
            rows.append({"series": name, "net": net, "seeds": of.seeds.max()} | values)
    return _by_series(rows)


def finest(of: Mapping[str, Landed], models: Sequence[str]) -> pd.DataFrame:
    """The change of the metric when the finest map of a trained net is zero, on each stage.

    Columns as `leans`, with `place` (the stage) and `arm` (the net); corrected for all rows.
    """
    rows = {}
    for name, found in of.items():
        metrics_of = found.params.metric, contrasts.other(found.params.metric)
        table = zeroed(found.records, models)
        table = table[table.level == 0]
        images = int(table.images.max()) if len(table) else 0
        for model in models:
            values = (table[table.model == model].set_index("seed")[m] for m in metrics_of)
            row = _over_seeds(*values, images, len(of) * len(models), ("gains", "loses"))
            rows[f"{name}: {short(model)}"] = {"place": name, "arm": short(model)} | row
    return pd.DataFrame(rows).T.infer_objects()


# Spoilt images ------------------------------------------------------------------------------------


def corrupted(records: Records) -> pd.DataFrame:
    """The scores under the corruptions of the records' study, in points.

    Returns:
        model, seed, kind, step (0: the image as it is), images, `dice` (the mean over images) and
        `global` (of the pooled pixels); the mean over tests.
    """
    found = []
    for one in records:
        for test, study in one["studies"].get("corruptions", {}).items():
            for kind, scored in study["kinds"].items():
                for step, dice, counts in zip(
                    study["steps"], scored["dice"], scored["global"], strict=True
                ):
                    pooled = np.mean([metrics.dice_iou(*of)[0] for of in counts])
                    row = record.whose(one) | {"kind": kind, "step": step, "test": test}
                    row |= {"dice": 100 * dice, "global": 100 * pooled, "images": study["images"]}
                    found.append(row)
    columns = ["model", "seed", "kind", "step", "test", "dice", "global", "images"]
    table = pd.DataFrame(found, columns=columns)
    how = {"dice": "mean", "global": "mean", "images": "sum"}
    return table.groupby(["model", "seed", "kind", "step"], sort=False).agg(how).reset_index()


def spoilt(table: pd.DataFrame, named: Named) -> pd.DataFrame:
    """The gain of each pair under each corruption and step, corrected for all of them.

    Columns as `leans`, with `place` (the corruption), `arm` (the step) and `pair`.
    """
    kinds, steps = _kinds(table)
    wide = table.pivot(index="seed", columns=["model", "kind", "step"], values=["dice", "global"])
    images = int(table.images.max()) if len(table) else 0
    number, rows = len(named) * len(kinds) * len(steps), {}
    for arm, (one, less) in named.items():
        for kind in kinds:
            for step in steps:
                values = [
                    (_seeds(wide, s, one, kind, step) - _seeds(wide, s, less, kind, step)).dropna()
                    for s in ("dice", "global")
                ]
                row = _over_seeds(*values, images, number, ("better", "worse"))
                rows[f"{kind} {step}, {arm}"] = {"place": kind, "arm": str(step), "pair": arm} | row
    return pd.DataFrame(rows).T.infer_objects()


def beyond(table: pd.DataFrame, named: Named) -> pd.DataFrame:
    """Who loses less: the gain on spoilt images, mean of the five steps, less that on clean ones.

    Columns as `leans`, with `place` (the corruption) and `arm` (the pair).
    """
    kinds, _ = _kinds(table)
    rows = {}
    images = int(table.images.max()) if len(table) else 0
    bad = table[table.step > 0].groupby(["seed", "model", "kind"])[["dice", "global"]].mean()
    clean = table[table.step == 0].set_index(["seed", "model", "kind"])[["dice", "global"]]
    wide = (bad - clean).unstack(["model", "kind"])
    for kind in kinds:
        for arm, (one, less) in named.items():
            values = [
                (_seeds(wide, s, one, kind) - _seeds(wide, s, less, kind)).dropna()
                for s in ("dice", "global")
            ]
            words = ("loses less", "loses more")
            row = _over_seeds(*values, images, len(kinds) * len(named), words)
            rows[f"{kind}: {arm}"] = {"place": kind, "arm": arm} | row
    return pd.DataFrame(rows).T.infer_objects()


def spoilt_by_series(parts: Mapping[str, Records]) -> pd.DataFrame:
    """The mean Dice of the five steps, points: a row for each series and net."""
    rows = []
    for name, part in parts.items():
        table = corrupted(part).query("step > 0")
        for model, of in table.groupby("model", sort=False):
            values = of.groupby("kind", sort=False).dice.mean().round(1).to_dict()
            rows.append({"series": name, "net": short(model), "seeds": of.seed.nunique()} | values)
    return _by_series(rows)


def scatter(table: pd.DataFrame, models: Sequence[str]) -> str:
    """How far trainings of one net lie apart, clean and at step 3 of each corruption: Markdown."""
    of = table[table.model.isin(models)].groupby(["kind", "step", "model"], sort=False).dice
    apart = (of.max() - of.min()).reset_index()
    text = "**What this run showed.**"
    if not apart.dice.gt(0).any():
        return f"{text} Nothing yet: no net has two trainings with spoilt images."
    clean = apart[apart.step == 0].dice.max()
    rows = apart[apart.step == 3]
    rows = rows.loc[rows.groupby("kind", sort=False).dice.idxmax()]
    each = [f"{row.dice:.1f} under {row.kind} ({short(row.model)})" for row in rows.itertuples()]
    text += f" Trainings of one net lie up to {clean:.1f} points apart on clean images; at step 3"
    return f"{text} they lie up to {', '.join(each)} apart."


def _kinds(table: pd.DataFrame) -> tuple[list[str], list[int]]:
    from ..data.corrupt import CORRUPTIONS, STEPS

    return list(table.kind.unique()) or list(CORRUPTIONS), [0, *STEPS]


# What both have in common -------------------------------------------------------------------------


def _seeds(wide: pd.DataFrame, *key: Any) -> pd.Series:
    """The values of a column by seed; none where there is no such column."""
    return wide[key].dropna() if key in wide.columns else pd.Series(dtype=float)


def _over_seeds(
    first: pd.Series, other: pd.Series, images: int, comparisons: int, words: tuple[str, str]
) -> dict[str, Any]:
    """A row for values in points of several seeds on the same images: t over the seeds."""
    found, objection = _interval(first, images, comparisons), _interval(other, images, 1)
    if not len(first):
        return stats.columns(found, objection, stats.Claim("", "no record yet"))
    if len(first) == 1:
        text = f"{first.iloc[0]:+z.2f} points, 1 seed: no verdict from fewer than {MANY} seeds"
        return stats.columns(found, objection, stats.Claim("", text))
    claim = stats.claim(found, objection, words=words)
    text = claim.text.replace(f"{images} groups", f"the same {images} images")
    return stats.columns(found, objection, stats.Claim(claim.verdict, text))


def _interval(values: pd.Series, images: int, comparisons: int) -> stats.Difference:
    """Of points; the two-sided interval for other seeds, at the level corrected."""
    from scipy.special import stdtrit

    x, k = values.to_numpy(float) / 100, len(values)
    mean = x.mean() if k else np.nan
    alpha = 0.05 / comparisons
    half = -stdtrit(k - 1, alpha / 2) * x.std(ddof=1) / k**0.5 if k > 1 else np.nan
    ends = {"low": mean - half, "high": mean + half, "level": 1 - alpha, "p": np.nan}
    sizes = {"seeds": k, "groups": images, "images": images, "comparisons": comparisons}
    return stats.Difference(mean=mean, **ends, **sizes, by_seed=tuple(x.tolist()))


def _by_series(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=None if rows else ["series", "net"]).set_index(
        ["series", "net"]
    )
