"""Time: calls in turns, so that a busy moment hits all alike, and their spread."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["WARM_UP", "spread", "turns"]

WARM_UP = 3  # turns before the clock counts


def turns(calls: Sequence[Callable[[], Any]], repeats: int, device: torch.device) -> np.ndarray:
    """Seconds of each call in each turn, (calls, repeats). Waits for a GPU.

    Each turn goes in the reverse order of the last; `WARM_UP` turns, not counted, come first.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = np.zeros((len(calls), WARM_UP + repeats))
    for turn in range(WARM_UP + repeats):
        for k in sorted(range(len(calls)), reverse=turn % 2 == 1):
            wait()
            start = time.perf_counter()
            calls[k]()
            wait()
            seconds[k, turn] = time.perf_counter() - start
    return seconds[:, WARM_UP:]


def spread(values: np.ndarray) -> list[float]:
    """[median, 10th, 90th percentile], as all times are given."""
    return np.percentile(values, (50, 10, 90)).tolist()
