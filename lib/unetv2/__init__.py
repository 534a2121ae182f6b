"""U-Net, UNet++ and U-Net v2: the skip connection, taken apart.

>>> model = create_model("thin+sdi", encoder="resnet18")   # list_models() has the names
>>> skip = SDI([64, 128, 320, 512], c=32)                  # a list of maps in, a list of maps out
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "SDI": "skips",
    "UnetV2": "networks",
    "create_model": "networks",
    "list_models": "networks",
}

__all__ = ["SDI", "UnetV2", "__version__", "create_model", "list_models"]


def __getattr__(name: str) -> Any:  # torch, timm and smp load at first use
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
