"""Memory: what a forward pass keeps for backward, and the most that is held at one time."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from .count import mode, tensors

__all__ = ["kept", "peaks", "saved"]


def kept(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass in train mode keeps for backward, without the parameters."""
    with mode(model, train=True):
        return saved(lambda: model(x), model.parameters())


def saved(forward: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd saves in `forward()`, each storage once, without the `parameters`."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    storages = {}

    def note(t: Tensor) -> None:  # not `t`: an output that its own graph holds is never freed
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no address is used twice

    with torch.autograd.graph.saved_tensors_hooks(note, lambda _: None):
        result = forward()
    del result
    return sum(s.nbytes() for address, s in storages.items() if address not in own)


def peaks(model: nn.Module, x: Tensor) -> dict[str, int]:
    """The most bytes held at one time: the weights, and what a pass over `x` allocates.

    Whatever else lies there does not count. `peak_inference_bytes` is without gradients,
    `peak_training_bytes` with a backward pass and no optimizer.
    """
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))

    def infer() -> None:
        with torch.no_grad():
            model(x)

    def train() -> None:
        if means := [t.float().mean() for t in tensors(model(x)) if t.requires_grad]:
            sum(means).backward()

    found = {}
    for phase, work in (("inference", infer), ("training", train)):
        with mode(model, train=work is train):
            found[f"peak_{phase}_bytes"] = weights + _allocated(work, x.device)
    return found


def _allocated(work: Callable[[], None], device: torch.device) -> int:
    """The most bytes that PyTorch holds at one time during `work()`, without those from before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's own messages: none
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    of_memory = (e for e in events if e.get("name") == "[memory]")
    held = sorted((e["ts"], e["args"]["Total Allocated"], e["args"]["Bytes"]) for e in of_memory)
    return max(total for _, total, _ in held) - (held[0][1] - held[0][2])
