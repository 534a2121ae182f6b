"""Statistics: known answers, scipy's own test, and the coverage that an interval promises."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from unetv2 import stats


def test_paired_by_hand():
    a = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    result = stats.paired(a, a - [0.1, 0.1, 0.0, -0.1, 0.2])
    assert result["mean_difference"] == pytest.approx(0.06)
    assert (result["n"], result["wins"], result["losses"]) == (5, 3, 1)
    assert result["ci_low"] < 0.06 < result["ci_high"]
    same = stats.paired(a, a)
    assert (same["mean_difference"], same["p_wilcoxon"], same["ci_low"], same["ci_high"]) == (0, 1, 0, 0)


def test_seeds_are_averaged_first_and_seeded():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 40)), rng.random((3, 40))
    assert stats.paired(a, b) == stats.paired(a.mean(0), b.mean(0))
    assert stats.paired(a, b)["p_wilcoxon"] == sps.wilcoxon(a.mean(0), b.mean(0)).pvalue
    assert stats.paired(a, b, seed=1)["ci_low"] != stats.paired(a, b, seed=2)["ci_low"]


def test_series_are_matched_by_image():
    a = pd.Series([0.1, 0.2, 0.3], ["x", "y", "z"])
    assert stats.paired(a, a[::-1])["wins"] == 0
    with pytest.raises(ValueError, match="not scored on the same images"):
        stats.paired(a, a.rename({"x": "w"}))
    with pytest.raises(ValueError, match="same two or more images"):
        stats.paired([1.0, 2.0], [1.0])


def test_the_interval_covers_and_agrees_with_scipy():
    rng = np.random.default_rng(1)
    draws = rng.normal(0.02, 0.1, (200, 60))
    results = [stats.paired(d, np.zeros(60), resamples=400) for d in draws]
    covered = np.mean([r["ci_low"] <= 0.02 <= r["ci_high"] for r in results])
    assert 0.88 <= covered <= 0.99
    theirs = sps.bootstrap((draws[0],), np.mean, method="percentile", rng=np.random.default_rng(2))
    ours = stats.paired(draws[0], np.zeros(60))
    np.testing.assert_allclose([ours["ci_low"], ours["ci_high"]], theirs.confidence_interval, atol=0.003)


def test_holm():
    # Holm 1979 by hand: sorted .01 .02 .03 .04 times 4 3 2 1, made monotone
    np.testing.assert_allclose(stats.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.6, 0.9]).max() == 1


def test_a_claim_takes_the_interval_the_rank_test_and_the_seeds():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=60)
    clear, none = noise + 1, noise - noise.mean() + 0.01
    skewed = np.append(-0.1 * rng.random(42), 2 + rng.random(18))  # a mean far above 0, ranks that balance
    p = {}
    for name, difference, sides in (("clear", clear, [1, 1]), ("none", none, [-1, 1]), ("skewed", skewed, [1, 1])):
        interval = sps.bootstrap((difference,), np.mean, method="percentile", rng=4).confidence_interval  # not ours
        assert np.sign(interval).tolist() == sides
        p[name] = sps.wilcoxon(difference).pvalue
    assert p["clear"] < 0.001 and p["skewed"] > 0.05

    def says(difference, p_holm, gains):
        return stats.claim(stats.paired(difference, np.zeros(60)) | {"p_holm": p_holm}, gains)

    better, lean = "As trained here it is better on images like these", "It leans to better, not enough for a claim: "
    assert says(clear, p["clear"], [1, 2]).endswith(f"{better}; all 2 seeds agree.")
    assert says(-clear, p["clear"], [-1, -2, -1]).endswith("it is worse on images like these; all 3 seeds agree.")
    assert says(clear, p["clear"], [1]).endswith(f"{lean}one training each, and another seed may turn it.")
    assert says(clear, p["clear"], [1, -1]).endswith(f"{lean}only 1 of 2 seeds agree.")
    assert says(skewed, p["skewed"], [1, 1]).endswith(f"test has p = {p['skewed']:.3f} after Holm.")
    assert lean in says(clear, 0.05, [1, 1]) and better in says(clear, 0.049, [1, 1])
    assert "no difference shown in the mean" in says(none, p["none"], [1, 1])
    assert says(clear, p["clear"], [1, 2]).startswith(f"{clear.mean():+.2f} points [+")


def test_summary_takes_the_sd_over_seeds_not_images():
    rows = [
        {"dataset": "d", "test": "t", "model": model, "seed": seed, "id": i, "dice": base + 0.1 * i, "iou": 0.5}
        for model, bases in (("a", [0.5, 0.6, 0.7]), ("b", [0.3]))
        for seed, base in enumerate(bases)
        for i in range(3)
    ]
    table = stats.summary(pd.DataFrame(rows)).set_index("model")
    assert table.loc["a", ["seeds", "images"]].tolist() == [3, 3]
    assert table.loc["a", "dice_mean"] == pytest.approx(0.7) and table.loc["a", "dice_sd"] == pytest.approx(0.1)
    assert table.loc["b", "dice_mean"] == pytest.approx(0.4) and np.isnan(table.loc["b", "dice_sd"])
