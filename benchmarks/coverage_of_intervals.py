"""Does the 95 % interval of `stats.crossed` hold the truth in 95 % of cases?

    python benchmarks/coverage_of_intervals.py [--repeats 30000] [--out FILE]

Differences of two models are drawn with known variances of seeds, groups and residual and a true
mean of 0, and intervals are made by the library's own code. One run covers 2 and 5 seeds with 6, 60
and 650 groups. What the shares are shares of, matters: of the variance of the MEAN, so that
each part is felt at every size, or of the variance of one SCORE, which many groups average away.
Groups have one image each, or from 1 to 12 images where they are few enough for that to matter.
"""

import argparse
from itertools import product

import numpy as np

from unetv2.evaluation import stats

# seeds, groups, residual
SHARES = (
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (0.5, 0.5, 0),
    (0.5, 0.25, 0.25),
    (0.5, 0, 0.5),
    (0, 0.5, 0.5),
    (1 / 3, 1 / 3, 1 / 3),
    (0.8, 0.2, 0),
    (0.95, 0.05, 0),
    (0.1, 0.8, 0.1),
    (0.1, 0.1, 0.8),
)
SEEDS = (2, 5)
GROUPS = (6, 60, 650)
DESIGNS = (("mean", "equal"), ("mean", "unequal"), ("score", "equal"))
DRAWN = 25_000_000  # at most in a cell, so that a large one takes fewer repeats
DRAWN_AT_ONCE = 1_000_000


def covered(seeds, sizes, sds, repeats, rng, level=0.95) -> float:
    """The share of intervals that hold the true mean; `sds`: of seeds, groups and residual."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    at_once = max(1, DRAWN_AT_ONCE // (seeds * codes.size))
    hits = 0
    for start in range(0, repeats, at_once):
        n = min(at_once, repeats - start)
        d = np.full((n, seeds, codes.size), 0.0, np.float32)
        if sds[2]:
            d += np.float32(sds[2]) * rng.standard_normal(d.shape, np.float32)
        d += np.float32(sds[0]) * rng.standard_normal((n, seeds, 1), np.float32)
        d += np.float32(sds[1]) * rng.standard_normal((n, 1, len(sizes)), np.float32)[..., codes]
        parts = stats._parts(d, codes)
        hits += int((np.abs(parts.mean) <= stats._half_width(parts, 1 - level)).sum())
    return hits / repeats


def grid(repeats: int, seed: int = 0, groups=GROUPS, designs=DESIGNS) -> list[dict]:
    """The coverage of every cell in per cent, a row for each setting, in the order of SHARES."""
    rng = np.random.default_rng(seed)
    rows = []
    for (of, kind), s, g in product(designs, SEEDS, groups):
        if kind == "unequal" and g > 100:
            continue
        sizes = np.ones(g, int) if kind == "equal" else np.round(np.geomspace(1, 12, g)).astype(int)
        images = int(sizes.sum())
        # the variance of the mean that a part of variance 1 gives
        given = np.array([1 / s, np.square(sizes / images).sum(), 1 / (s * images)])
        n = min(repeats, DRAWN // (s * images))
        row = {"shares_of": of, "groups_are": kind, "seeds": s, "groups": g, "repeats": n}
        found = []
        for share in SHARES:
            variances = np.array(share) / (given if of == "mean" else 1)
            found.append(round(100 * covered(s, sizes, np.sqrt(variances), n, rng), 2))
        rows.append(row | {"coverage": found})
    return rows


def skewed(groups: int, repeats: int, seed: int = 0) -> float:
    """The coverage in per cent where groups alone vary, by an exponential: no t mends that."""
    d = np.random.default_rng(seed).exponential(size=(repeats, 1, groups)) - 1
    parts = stats._parts(d.repeat(5, axis=1), np.arange(groups))
    return round(100 * float(np.mean(np.abs(parts.mean) <= stats._half_width(parts, 0.05))), 2)


def extremes(rows: list[dict]) -> dict[str, float]:
    """What is asked: at least 93 everywhere, at most 97 where seeds hold half at five seeds."""
    half = [i for i, share in enumerate(SHARES) if share[0] == 0.5]
    return {
        "least": min(min(r["coverage"]) for r in rows),
        "most_where_seeds_hold_half_at_5_seeds": max(
            r["coverage"][i] for r in rows if r["seeds"] == 5 for i in half
        ),
    }


def main() -> None:
    from unetv2.common.files import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30_000)
    parser.add_argument("--out", help="write the table to this file")
    args = parser.parse_args()
    rows = grid(args.repeats)
    shares = ["/".join(f"{100 * part:.0f}" for part in share) for share in SHARES]
    print("shares of   groups are  seeds groups  ", *(f"{share:>8s}" for share in shares))
    for r in rows:
        values = (f"{value:8.1f}" for value in r["coverage"])
        print(
            f"{r['shares_of']:11s} {r['groups_are']:11s} {r['seeds']:5d} {r['groups']:6d}  ",
            *values,
        )
    print(extremes(rows))
    limits = {g: skewed(g, min(args.repeats, DRAWN // (5 * g))) for g in GROUPS}
    print("groups alone vary, by an exponential:", limits)
    if args.out:
        write_result(
            args.out,
            command="python benchmarks/coverage_of_intervals.py "
            f"--repeats {args.repeats} --out FILE",
            protocol="normal seeds, groups and residual of known variance, true mean 0: the "
            "share of 95 % intervals of stats.crossed that hold it, in per cent",
            **extremes(rows),
            groups_alone_and_exponential=limits,
            shares_of_seeds_groups_residual=shares,
            rows=rows,
        )


if __name__ == "__main__":
    main()
