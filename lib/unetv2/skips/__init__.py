"""What this collection is about: skips, by name.

A skip is a module built from `in_channels` (finest first) and a width `c`. It has `out_channels`
and maps a list of feature maps to a list of feature maps of the same sizes. Any skip goes between
any encoder and any decoder; this room knows neither, and imports torch alone.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from ..common.errors import unknown
from .copy import Copy, MatchedCopy
from .mdu import MDUStyle
from .nested import NestedSkip
from .sdi import SDI

__all__ = ["SDI", "SKIPS", "Copy", "MDUStyle", "MatchedCopy", "NestedSkip", "create_skip"]
__all__ += ["is_skip", "label", "source"]

_GATES = "spatial-channel"  # the attention of Eq. 1, in the paper's order

SKIPS: dict[
    str, tuple[Callable[..., nn.Module], str]
] = {  # name: (how to build it, what readers see)
    "copy": (Copy, "copy (U-Net's skip)"),
    "copy-attention": (partial(Copy, attention=_GATES), "copy with attention"),
    "copy-matched": (MatchedCopy, "copy with ReLU and SDI's size"),
    "sum": (partial(SDI, combine="sum"), "sum in place of the product"),
    "concat": (partial(SDI, combine="concat"), "concatenation in place of the product"),
    "nested": (NestedSkip, "nested (UNet++'s skip)"),
    "sdi": (SDI, "SDI (U-Net v2's skip)"),
    "sdi-noattention": (partial(SDI, attention=None), "SDI without attention"),
    "sdi-unitbias": (partial(SDI, unit_bias=True), "SDI with biases that start at 1"),
    "sdi-shared": (partial(SDI, shared=True), "SDI with shared convolutions"),
    "sdi-released": (partial(SDI, attention="channel-spatial"), "SDI, released order"),
    "mdu-style": (MDUStyle, "MDU-style (widths not public)"),
}
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:Class, a reader's own


def is_skip(name: str) -> bool:
    """Whether `name` is one of `SKIPS` or has the form module:Class of a reader's own skip."""
    return name in SKIPS or _OWN.fullmatch(name) is not None


def create_skip(name: str, in_channels: Sequence[int], c: int = 32) -> nn.Module:
    """The skip of that name, one of `SKIPS`, or `module:Class` for a reader's own.

    Args:
        in_channels: channels of each level, finest first.
        c: width; channels of every level afterwards.

    Raises:
        ValueError: an unknown name, a module or class that is not there, or a class whose object
            is no skip: it needs `out_channels`, one number for each level.
    """
    make = SKIPS[name][0] if name in SKIPS else _own(name)
    skip = make(in_channels, c)
    widths = getattr(skip, "out_channels", None)
    if not isinstance(skip, nn.Module) or widths is None or len(widths) != len(in_channels):
        needs = f"a torch module with `out_channels`, {len(in_channels)} numbers"
        raise ValueError(f"{name} made no skip for {len(in_channels)} levels: it must be {needs}")
    return skip


def label(name: str) -> str:
    """What readers see for a skip's name: "copy (U-Net's skip)"; of their own, module.Class."""
    return SKIPS[name][1] if name in SKIPS else name.replace(":", ".")


def source(name: str) -> str | None:
    """The source of the module of a reader's own skip, which decides what a training gives.

    None for one of `SKIPS`: the training version speaks for those.

    Raises:
        ValueError: the module or class is not there.
    """
    return None if name in SKIPS else inspect.getsource(inspect.getmodule(_own(name)))


def _own(name: str) -> type:
    if not _OWN.fullmatch(name):
        raise unknown("skip", name, [*SKIPS, "module:Class"])
    module, _, cls = name.partition(":")
    try:
        return getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        where = "it must be importable: put its folder on PYTHONPATH"
        raise ValueError(f"skip {name!r} was not found ({error}); {where}") from error
