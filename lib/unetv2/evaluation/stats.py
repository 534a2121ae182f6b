"""Comparing models: on images, not on seeds.

Three seeds say little (a Wilcoxon test over five can never reach p < 0.05), while a test set has a hundred images and
each is segmented by both models. So scores are averaged per image over the seeds and compared in pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

__all__ = ["claim", "holm", "paired", "summary"]


def paired(a, b, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> dict:
    """Does model `a` score higher than model `b` on the same images?

    Args:
        a, b: scores, (images,) or (seeds, images); `pd.Series` are matched by their index, which must be the same set.
        seed: of the bootstrap.
        resamples: bootstrap samples of images, drawn with replacement.
        level: of the percentile interval.

    Returns:
        dict: `mean_difference` (a - b), `ci_low`, `ci_high` (bootstrap over images), `p_wilcoxon` (two-sided signed
        rank, 1.0 if all differences are 0), `n` images, `wins`, `losses` (the rest are ties). The interval speaks of
        new images for these trained models, not of new trainings.

    Raises:
        ValueError: different images, or fewer than two.
    """
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        if a.index.has_duplicates or set(a.index) != set(b.index):
            raise ValueError("the two models were not scored on the same images, once each: average over seeds first")
        b = b.loc[a.index]
    a, b = (x.mean(0) if x.ndim == 2 else x for x in (np.asarray(a, float), np.asarray(b, float)))
    if a.shape != b.shape or a.size < 2:
        raise ValueError(f"paired scores need the same two or more images, got {a.size} and {b.size}")
    difference = a - b
    rng = np.random.default_rng(seed)
    means = [difference[rng.integers(0, a.size, a.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    p = sps.wilcoxon(difference).pvalue if difference.any() else 1.0
    return {
        "mean_difference": float(difference.mean()),
        "ci_low": float(low),
        "ci_high": float(high),
        "p_wilcoxon": float(p),
        "n": int(a.size),
        "wins": int((difference > 0).sum()),
        "losses": int((difference < 0).sum()),
    }


def holm(p: Sequence[float]) -> np.ndarray:
    """p values adjusted for their number (Holm, 1979), in the order given."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return np.minimum(adjusted, 1.0)[np.argsort(order)]


def claim(found: Mapping[str, Any], gains: Sequence[float]) -> str:
    """What the comparison of a model with a reference allows to say, by one rule, so that hope has no say in it.

    "Better" or "worse" takes three things, each a guard against another kind of luck: the interval excludes 0 (which
    images), p < 0.05 in the signed rank test after `holm` (how many comparisons, or one huge difference), and the same
    sign in all seeds, two or more (one training). With the interval alone the result leans to one side.

    Args:
        found: what `paired` returns, differences in points (hundredths), and its p value after `holm` as `p_holm`.
        gains: of each seed, the mean score of the model less that of the reference; only the signs count.
    """
    low, high, seeds = found["ci_low"], found["ci_high"], len(gains)
    text = f"{found['mean_difference']:+.2f} points [{low:+.2f}, {high:+.2f}], {found['n']:.0f} images. "
    if low <= 0 <= high:
        text += "The interval contains 0: no difference shown in the mean; "
        return text + f"more than {max(-low, high):.2f} points is unlikely."
    word, sign = ("better", 1) if low > 0 else ("worse", -1)
    agree = sum(sign * gain > 0 for gain in gains)
    doubts = ["one training each, and another seed may turn it"] if seeds == 1 else []
    doubts += [f"only {agree} of {seeds} seeds agree"] if agree < seeds > 1 else []
    if found["p_holm"] >= 0.05:
        doubts.append(f"the signed rank test has p = {found['p_holm']:.3f} after Holm")
    if doubts:
        return text + f"It leans to {word}, not enough for a claim: {'; '.join(doubts)}."
    return text + f"As trained here it is {word} on images like these; all {seeds} seeds agree."


def summary(
    df: pd.DataFrame, by: Sequence[str] = ("dataset", "test", "model"), metrics: Sequence[str] = ("dice", "iou")
) -> pd.DataFrame:
    """One row per group of `by`: number of seeds and images, mean and sd over seeds of each seed's mean over images.

    `df`: rows of several per_image.csv, with `seed` and the columns of `by`. The sd (n - 1) of a single seed is NaN.
    """
    by, metrics = list(by), list(metrics)
    seeds = df.groupby([*by, "seed"], sort=False)[metrics].mean().groupby(by, sort=False)
    table = seeds.agg(["mean", "std"])
    table.columns = [f"{metric}_{'sd' if of == 'std' else of}" for metric, of in table.columns]
    table.insert(0, "seeds", seeds.size())
    table.insert(1, "images", df.groupby([*by, "seed"], sort=False).size().groupby(by, sort=False).max())
    return table.reset_index()
