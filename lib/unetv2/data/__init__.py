"""The data room: datasets by name, on disk or synthetic, checked, grouped, cached, split and
augmented.

>>> data = load("synthetic", image_size=64)     # or "kvasir", "pranet", "folder:my/data", ...
>>> loader = torch.utils.data.DataLoader(TorchSplit(data.train, "light"), batch_size=16,
shuffle=True)
"""

from .corrupt import CORRUPTIONS, corrupt
from .dataset import SegData, Split, fingerprint, load, load_tests
from .readers import may_publish, names, registry

_WITH_TORCH = (
    "AUGMENTATIONS",
    "MEAN",
    "STD",
    "TorchSplit",
    "denormalise",
)  # imported when first asked for

__all__ = [
    "CORRUPTIONS",
    "SegData",
    "Split",
    "corrupt",
    "fingerprint",
    "load",
    "load_tests",
    "may_publish",
    "names",
    "registry",
    *_WITH_TORCH,
]


def __getattr__(name: str):
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import augment

    return getattr(augment, name)
