"""Numbers in words: how a count, a deviation and an interval are spelled, on every page alike."""

import math

__all__ = ["difference", "interval", "many", "spread"]


def many(number: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def spread(mean: float, sd: float) -> str:
    """`90.45 ± 0.12`; the mean alone where there is no deviation, which is NaN."""
    return f"{mean:.2f}" + ("" if math.isnan(sd) else f" ± {sd:.2f}")


def difference(mean: float, low: float, high: float) -> str:
    """`+0.57 [+0.20, +1.00]`; the mean alone where there is no interval, its ends NaN."""
    return f"{mean:+z.2f}" + ("" if math.isnan(low) else f" {interval(low, high)}")


def interval(low: float, high: float) -> str:
    """`[+0.20, +1.00]`; an end near 0 keeps the digit that says on which side it lies."""
    return f"[{_end(low)}, {_end(high)}]"


def _end(x: float) -> str:
    return f"{x:+.1g}" if 0 < abs(x) < 0.005 else f"{x:+z.2f}"
