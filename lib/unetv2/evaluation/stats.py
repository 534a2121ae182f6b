"""Comparing models: an interval that speaks for seeds and groups of images together, and a rule.

A group is a patient, a video or a slide where that is known: images of one are alike, and a
hundred of them say less than a hundred patients. Seeds and groups are crossed, for every seed
sees every image. So the mean difference of two models varies for two reasons, other trainings
and other patients, and its interval has to hold both.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.words import interval, many

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SEEDS_FOR_A_VERDICT",
    "Claim",
    "Difference",
    "claim",
    "columns",
    "compare",
    "crossed",
]

SEEDS_FOR_A_VERDICT = 5
NAMES = {"dice": "Dice", "iou": "IoU", "boundary_f": "boundary F"}


@dataclass(frozen=True)
class Difference:
    """The mean difference of two models with its interval, in the unit of the scores.

    `low`, `high`, `p`: NaN where there is one group only. `level`: of the interval, as corrected
    for `comparisons`. `p`: two-sided and corrected too, so that it is below 0.05 just where an
    interval asked for at 0.95 excludes 0. `by_seed`: the mean difference of each seed.
    """

    mean: float
    low: float
    high: float
    level: float
    p: float
    seeds: int
    groups: int
    images: int
    comparisons: int
    by_seed: tuple[float, ...]

    @property
    def side(self) -> int:
        """1 or -1 where the whole interval lies above or below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def points(self) -> str:
        """Of scores in fractions: "+0.57 points [+0.20, +1.00]", and what the interval is of."""
        ends = interval(100 * self.low, 100 * self.high)
        ends = ends if self.groups > 1 else "(no interval from one group)"
        seeds, groups = many(self.seeds, "seed"), many(self.groups, "group")
        text = f"{100 * self.mean:+z.2f} points {ends}, {seeds}, {groups}"
        if self.seeds == 1 and self.groups > 1:
            text += " (the interval is over groups only)"
        if self.comparisons > 1:
            text += f", corrected for {self.comparisons} comparisons"
        return text


@dataclass(frozen=True)
class Claim:
    """What may be said: `verdict` is "better", "worse" (or what words were given for these) or ""
    (none); `text` says why.
    """

    verdict: str
    text: str


def crossed(
    a, b, groups: Sequence[Hashable] | None = None, *, comparisons: int = 1, level: float = 0.95
) -> Difference:
    """The mean of a - b over images, with an interval for new seeds and new groups together.

    Two-way random effects with seeds x groups as the residual. The variance of the mean is that of
    the seeds' means, V_s, and of the groups', V_g, less the residual's, which both hold. V_g is a
    jackknife over groups, so that groups may differ in size, and has 1 / sum(share²) - 1 degrees
    of freedom: G - 1 if all are equal, fewer if some are large. The half width is
    sqrt(t_s² V_s + t_g² V_g), each part with its own t quantile (Banerjee, Sankhyā 1960), which
    covers what it promises with two seeds, where Satterthwaite's single t covers 87 %. The groups'
    quantile takes Satterthwaite's degrees of freedom where these are more than its own: groups
    as few as seeds made it too wide (97.4 %). `benchmarks/coverage_of_intervals.py` is the check,
    and shows a limit: six groups whose differences are skewed are too few for any t (88 %).

    Args:
        a, b: scores, (seeds, images) or (images,); row s of both is the same seed.
        groups: one label per image; None takes each image as a group.
        comparisons: how many were listed beforehand. The interval is at 1 - (1 - level) /
            comparisons and p is multiplied by it (Bonferroni), so that the two agree.
        level: 0.95 for a 95 % interval before the correction.

    Returns:
        Difference: of one seed, the interval is over groups only, for that training.

    Raises:
        ValueError: shapes or labels that do not fit, no image, scores that are not finite.
    """
    a, b = np.atleast_2d(np.asarray(a, float)), np.atleast_2d(np.asarray(b, float))
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise ValueError(
            "paired scores need the same seeds and images, at least one, "
            f"got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("some scores are not finite: leave those images out, of both models")
    if comparisons < 1 or not 0 < level < 1:
        raise ValueError(f"want comparisons >= 1 and 0 < level < 1, got {comparisons} and {level}")
    codes = _codes(range(a.shape[1]) if groups is None else groups, a.shape[1])
    parts = _parts(a - b, codes)
    alpha = (1 - level) / comparisons
    mean, half = float(parts.mean), float(_half_width(parts, alpha))
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        level=1 - alpha,
        p=float(np.minimum(1, comparisons * _p(parts))),  # NaN stays NaN
        seeds=a.shape[0],
        groups=int(codes.max()) + 1,
        images=a.shape[1],
        comparisons=comparisons,
        by_seed=tuple((a - b).mean(1).tolist()),
    )


def claim(
    first: Difference,
    second: Difference,
    second_name: str = "the second metric",
    words: tuple[str, str] = ("better", "worse"),
) -> Claim:
    """The one rule for a verdict.

    "Better" or "worse" takes five seeds or more, an interval without 0 after the correction, and a
    second metric that does not contradict it: its own interval must not lie on the other side.

    Args:
        first: `crossed` of the metric that was chosen beforehand, with the number of comparisons:
            boundary F in the ablation, Dice elsewhere.
        second: of the other metric. Uncorrected is the stricter choice, for it can only object.
        words: the verdict on a difference above and below 0.
    """
    word = {1: words[0], -1: words[1], 0: ""}[first.side]
    if first.seeds < SEEDS_FOR_A_VERDICT:
        verdict, says = "", f"no verdict from fewer than {SEEDS_FOR_A_VERDICT} seeds"
    elif first.groups == 1:
        verdict, says = "", "no verdict from one group"
    elif not word:
        verdict, says = "", "no difference shown"
    elif second.side == -first.side:
        verdict, says = "", f"no verdict, {second_name} says the opposite ({second.points})"
    else:
        verdict = says = word
    return Claim(verdict, f"{first.points}: {says}")


def columns(first: Difference, second: Difference, found: Claim) -> dict[str, Any]:
    """A comparison as a row of a table: both differences in points, and what may be claimed."""
    return {
        "mean_difference": 100 * first.mean,
        "ci_low": 100 * first.low,
        "ci_high": 100 * first.high,
        "p": first.p,
        "seeds": first.seeds,
        "groups": first.groups,
        "images": first.images,
        "by_seed": [100 * gain for gain in first.by_seed],
        "second_difference": 100 * second.mean,
        "second_low": 100 * second.low,
        "second_high": 100 * second.high,
        "verdict": found.verdict,
        "text": found.text,
    }


def compare(
    frame: pd.DataFrame,
    reference: str,
    models: Sequence[str],
    metric: str = "dice",
    second: str = "boundary_f",
    *,
    comparisons: int | None = None,
) -> pd.DataFrame:
    """Each listed model against the reference, on each dataset and test of the frame.

    Args:
        frame: a row per model, seed and image (`record.frame`): the columns model, seed, id, group,
            both metrics in fractions and, where there are several, dataset and test.
        reference, models: what was listed beforehand; other models of the frame are left out.
        metric, second: the metric of the claim, and the one that may object (see `claim`).
        comparisons: how many to correct for, where the list is longer than this table.

    Returns:
        DataFrame: one row per comparison: dataset and test where the frame has them, `model`,
        `mean_difference`, `ci_low` and `ci_high` (points, corrected), `p` (corrected), `seeds`,
        `groups`, `images`, `by_seed` (points), `second_difference`, `second_low`, `second_high`
        (points, not corrected), `verdict` and `text`, those of `claim`.

    Raises:
        ValueError: a column or a model is missing, two models have other seeds, images or groups,
            an image is scored twice, or `comparisons` is below the number of rows.
    """
    import pandas as pd

    lacking = {"model", "seed", "id", "group", metric, second} - set(frame.columns)
    if lacking:
        raise ValueError(f"the scores lack the column(s) {', '.join(sorted(lacking))}")
    listed = [reference, *models]
    if not models or len(set(listed)) < len(listed):
        raise ValueError(f"list each model once and not the reference among them, got {listed}")
    places = [column for column in ("dataset", "test") if column in frame]
    blocks = list(frame.groupby(places, sort=False)) if places else [((), frame)]
    count = len(models) * len(blocks)
    if comparisons is not None and comparisons < count:
        raise ValueError(f"comparisons={comparisons}, but this table alone has {count}")
    rows = []
    for place, block in blocks:
        where = ", ".join(map(str, place))
        arms = {model: _arm(block, model, [metric, second], where) for model in listed}
        for model in models:
            _check_pair(arms[model], arms[reference], model, reference, where)
            one, other = (
                crossed(
                    arms[model][name],
                    arms[reference][name],
                    arms[reference]["group"],
                    comparisons=number,
                )
                for name, number in ((metric, comparisons or count), (second, 1))
            )
            found = claim(one, other, NAMES.get(second, second))
            place_of = {**dict(zip(places, place, strict=True)), "model": model}
            rows.append(place_of | columns(one, other, found))
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Parts:
    """The mean, the two parts of its variance, and the degrees of freedom of each part."""

    mean: np.ndarray
    of_seeds: np.ndarray
    of_groups: np.ndarray
    df_seeds: int
    df_groups: np.ndarray


def _parts(d: np.ndarray, codes: np.ndarray) -> _Parts:
    """`d`: differences (..., seeds, images), so that a simulation can do many at once."""
    seeds, images = d.shape[-2:]
    share = np.bincount(codes) / images
    order = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[order], np.arange(share.size))
    in_group = np.add.reduceat(d[..., order], first, axis=-1) / images  # sums over a group
    by_seed = in_group.sum(-1)
    mean = by_seed.mean(-1)
    if share.size == 1:
        unknown = np.full_like(mean, np.nan)
        return _Parts(mean, unknown, unknown, seeds - 1, unknown)
    # how far a seed's mean moves when a group is left out
    moves = (in_group - share * by_seed[..., None]) / (1 - share)
    scale = (share.size - 1) / share.size
    groups = scale * np.square(moves.mean(-2)).sum(-1)
    df = 1 / np.square(share).sum() - 1
    if seeds == 1:
        return _Parts(mean, np.zeros_like(mean), groups, 1, np.full_like(mean, df))
    of_seeds = by_seed.var(-1, ddof=1) / seeds
    residual = scale * moves.var(-2, ddof=1).sum(-1) / seeds
    of_groups = np.maximum(groups - residual, 0)
    spread = of_seeds**2 / (seeds - 1) + groups**2 / df + residual**2 / ((seeds - 1) * df)
    satterthwaite = (of_seeds + of_groups) ** 2 / np.where(spread > 0, spread, 1)
    return _Parts(mean, of_seeds, of_groups, seeds - 1, np.maximum(df, satterthwaite))


def _half_width(parts: _Parts, alpha: float) -> np.ndarray:
    """Half the interval at level 1 - alpha."""
    from scipy.special import stdtrit  # the t quantile; scipy.stats takes a second to import

    t_seeds, t_groups = (stdtrit(df, alpha / 2) for df in (parts.df_seeds, parts.df_groups))
    return np.sqrt(t_seeds**2 * parts.of_seeds + t_groups**2 * parts.of_groups)


def _p(parts: _Parts) -> float:
    """The alpha at which the interval ends at 0, by bisection: at least 1e-12, NaN without one."""
    if np.isnan(parts.of_groups):
        return float("nan")
    distance = abs(float(parts.mean))
    if distance == 0:
        return 1.0
    low, high = np.log(1e-12), 0.0
    for _ in range(60):
        middle = (low + high) / 2
        too_narrow = _half_width(parts, np.exp(middle)) < distance
        low, high = (low, middle) if too_narrow else (middle, high)
    return float(np.exp(high))


def _codes(groups: Sequence[Hashable], images: int) -> np.ndarray:
    """The groups' labels as 0, 1, 2, ... in the order met."""
    groups = list(groups)
    if len(groups) != images:
        raise ValueError(f"one group label per image: got {len(groups)} labels for {images} images")
    if any(group is None or group != group for group in groups):  # NaN is not equal to itself
        raise ValueError("some images have no group label: give an image of its own its own label")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups])


def _arm(block: pd.DataFrame, model: str, metrics: list[str], where: str) -> dict:
    """Of one model: each metric as (seeds, images), and the images' groups."""
    rows = block[block.model == model]
    at = f" on {where}" if where else ""
    if rows.empty:
        here = ", ".join(map(str, block.model.unique()))
        raise ValueError(f"no scores of {model!r}{at}: there are {here}")
    if rows.duplicated(["seed", "id"]).any():
        twice = rows[rows.duplicated(["seed", "id"])].iloc[0]
        raise ValueError(f"{model!r}{at} has image {twice.id!r} of seed {twice.seed} twice")
    arm = {metric: rows.pivot(index="seed", columns="id", values=metric) for metric in metrics}
    for metric, scores in arm.items():
        if scores.isna().any(axis=None):
            seed, image = scores.isna().stack().idxmax()
            raise ValueError(f"{model!r}{at} has no {metric} of image {image!r} in seed {seed}")
    groups = rows.drop_duplicates(["id", "group"]).set_index("id").group
    if groups.index.has_duplicates:
        image = groups.index[groups.index.duplicated()][0]
        raise ValueError(f"{model!r}{at} has image {image!r} in two groups")
    return arm | {"group": groups.reindex(arm[metrics[0]].columns)}


def _check_pair(arm: dict, other: dict, model: str, reference: str, where: str) -> None:
    """Both models must have the same seeds, images and groups."""
    at = f" on {where}" if where else ""
    scores, others = next(iter(arm.values())), next(iter(other.values()))
    if not scores.index.equals(others.index):
        seeds = f"{list(scores.index)} and {list(others.index)}"
        raise ValueError(f"{model!r} and {reference!r}{at} have other seeds: {seeds}")
    if not scores.columns.equals(others.columns):
        odd = scores.columns.symmetric_difference(others.columns)
        raise ValueError(
            f"{model!r} and {reference!r}{at} were scored on other images: "
            f"{len(odd)} are in one only, as {odd[0]!r}"
        )
    if not arm["group"].equals(other["group"]):
        raise ValueError(f"{model!r} and {reference!r}{at} group the images differently")
