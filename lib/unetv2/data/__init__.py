"""The data room: datasets by name, on disk or synthetic, checked, grouped, cached, split and
augmented.

>>> data = load("synthetic", image_size=64)     # or "kvasir", "pranet", "folder:my/data", ...
>>> loader = torch.utils.data.DataLoader(TorchSplit(data.train, "light"), batch_size=16,
shuffle=True)
"""

from ..common.lazy import lazily
from .corrupt import CORRUPTIONS, corrupt
from .dataset import SegData, Split, fingerprint, load, load_tests
from .readers import may_publish, names, registry

_WITH_TORCH = ("AUGMENTATIONS", "MEAN", "STD", "TorchSplit", "denormalise")

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

__getattr__ = lazily(__name__, dict.fromkeys(_WITH_TORCH, "augment"))  # torch loads at first use
