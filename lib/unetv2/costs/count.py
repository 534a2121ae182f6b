"""Multiply-adds, and the mode that a model has during a measurement."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["macs", "mode", "tensors"]


def macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of one forward pass in eval mode: what torch's flop counter counts, halved.

    Matrix products, convolutions and attention count, nothing elementwise. The mode stays.
    """
    with mode(model, train=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


@contextmanager
def mode(model: nn.Module, train: bool) -> Iterator[None]:
    """Train or eval mode inside, without gradients.

    Afterwards modes, gradients and running statistics are as they were.
    """
    modes = {m: m.training for m in model.modules()}
    gradients = {p: p.grad for p in model.parameters()}
    buffers = {b: b.clone() for b in model.buffers()} if train else {}
    model.train(train).zero_grad()
    try:
        yield
    finally:
        for module, was in modes.items():
            module.training = was
        for p, gradient in gradients.items():
            p.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def tensors(values: Any) -> list[Tensor]:
    """The tensors in a tensor, or in any nest of lists, tuples and dicts."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
