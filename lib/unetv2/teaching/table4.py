"""A model as the counters behind Table 4 of the U-Net v2 paper (arXiv:2311.17791) see it."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..costs.count import macs, mode
from ..skips import SDI

__all__ = ["as_released", "counters", "unfused"]


class _AsReleased(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for sdi in (m for m in self.model.modules() if isinstance(m, SDI)):
            sdi.forward = sdi.equations

    def forward(self, x: Tensor) -> Any:
        self.model.training = True  # of this one module: all heads run, every layer keeps its mode
        return self.model(x)


def as_released(model: nn.Module) -> nn.Module:
    """A copy of a U-Net v2 that computes the same in the released code's steps.

    Counters react to those: Eqs. 2-4 with a resize and a convolution module for every pair of
    levels (`SDI.equations`), and all heads that it was built with in eval mode too. The released
    model is built with deep_supervision=True.
    """
    return _AsReleased(model)


@contextmanager
def unfused(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, timm's attention as two matrix products and a softmax, with the same result."""
    flags = {m: m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")}
    try:
        for module in flags:
            module.fused_attn = False
        yield model
    finally:
        for module, flag in flags.items():
            module.fused_attn = flag


def counters(model: nn.Module, x: Tensor) -> dict[str, float]:
    """`model` on `x` as four counters see it.

    torch, fvcore_eval, fvcore_train, thop: operations, "FLOPs" as each prints them; torch's are
        FLOPs / 2. fvcore gets unfused attention, since it skips the fused one; thop its own rule of
        nn.LayerNorm for timm's subclass, which it skips.
    thop_params: the parameters that thop counts.
    info_params_bytes, info_outputs_bytes, info_input_bytes: the terms of torchinfo's estimate.

    Raises:
        ModuleNotFoundError: fvcore, thop or torchinfo is not installed (requirements.txt has them).
    """
    # fvcore scripts functions at its import
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        import thop
        import torchinfo
        from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    found: dict[str, float] = {"torch": macs(model, x)}
    with unfused(model):
        for name in ("eval", "train"):
            with mode(model, name == "train"), torch.no_grad():
                found[f"fvcore_{name}"] = (
                    FlopCountAnalysis(model, x).tracer_warnings("none").total()
                )
    rules = thop.profile.__globals__["register_hooks"]
    layers = (m for m in model.modules() if isinstance(m, nn.LayerNorm))
    norms = {type(layer): rules[nn.LayerNorm] for layer in layers}
    counted = thop.profile(copy.deepcopy(model), (x,), norms, verbose=False)
    found["thop"], found["thop_params"] = counted
    info = torchinfo.summary(model, input_data=x, mode="eval", verbose=0)
    return found | {
        "info_params_bytes": info.total_param_bytes,
        "info_outputs_bytes": info.total_output_bytes,
        "info_input_bytes": info.total_input,
    }
