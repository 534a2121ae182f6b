"""Where in a model arithmetic, traffic and time are, and the roof of the machine."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from ..common.errors import unknown
from .clock import turns
from .count import mode, tensors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["groups", "roof"]


class _Traffic(TorchDispatchMode):
    """FLOPs, bytes moved and seconds of all operations, by the innermost group they run in."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        super().__init__()
        self.names = sorted(names, key=len, reverse=True)
        self.wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.tracker, self.sums = ModuleTracker(), defaultdict(lambda: np.zeros(3))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.wait()
        start = time.perf_counter()
        result = func(*args, **kwargs)
        self.wait()
        elapsed = time.perf_counter() - start
        count = flop_registry.get(func._overloadpacket, lambda *_, **__: 0)
        flops = count(*args, **kwargs, out_val=result)
        moved = 0 if func.is_view else sum(t.nbytes for t in tensors([args, kwargs, result]))
        self.sums[self._group()] += flops, moved, elapsed
        return result

    def _group(self) -> str:
        running = [f"{parent.partition('.')[2]}." for parent in self.tracker.parents]
        inside = (n for n in self.names if any(r.startswith(f"{n}.") for r in running))
        return next(inside, "other")


def groups(model: nn.Module, x: Tensor, names: Sequence[str], repeats: int = 5) -> "pd.DataFrame":
    """A forward pass in eval mode by groups of layers.

    Args:
        names: submodules, as "encoder"; an operation counts for the innermost of them that it runs
            in, else for "other".

    Returns:
        A row for each group: macs, bytes, intensity (FLOPs per byte) and median seconds. Bytes are
        what each operation reads and writes, as if nothing stayed in a cache between two of them.

    Raises:
        ValueError: a name that the model does not have, no repeats.
    """
    import pandas as pd

    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    names = [names] if isinstance(names, str) else names
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise unknown("group of layers", name, (n for n in known if n.count(".") < 2 and n))
    runs = []
    with mode(model, train=False), torch.no_grad():
        for _ in range(1 + repeats):  # the first warms up
            with (traffic := _Traffic(names, x.device)), traffic.tracker:
                model(x)
            runs.append(traffic.sums)
    rows = {}
    for name in [n for n in [*names, "other"] if n in traffic.sums]:
        flops, moved, seconds = np.median([run[name] for run in runs[1:]], axis=0)
        rows[name] = {
            "macs": flops / 2,
            "bytes": moved,
            "intensity": flops / max(moved, 1),
            "seconds": seconds,
        }
    return pd.DataFrame(rows).T


def roof(
    device: torch.device, size: int = 1024, megabytes: int = 128, repeats: int = 10
) -> tuple[float, float]:
    """The roof of `device` in float32, measured.

    FLOP/s of a (size, size) matrix product, and bytes/s of a large copy.
    """
    a = torch.rand(size, size, device=device)
    source = torch.rand(megabytes * 250_000, device=device)
    target = torch.empty_like(source)
    product, moved = turns([lambda: a @ a, lambda: target.copy_(source)], repeats, device)
    flops, read_and_written = 2 * size**3, 2 * source.nbytes
    return flops / float(np.median(product)), read_and_written / float(np.median(moved))
