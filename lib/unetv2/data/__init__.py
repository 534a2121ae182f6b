"""The data room: datasets by name, on disk or synthetic, checked, cached, split and augmented.

>>> data = load("synthetic", image_size=64)     # or "kvasir", "pranet", "folder:my/data", ...
>>> loader = torch.utils.data.DataLoader(TorchSplit(data.train, "light"), batch_size=16, shuffle=True)
"""

from .augment import AUGMENTATIONS, MEAN, STD, TorchSplit, denormalise
from .dataset import SegData, Split, load
from .readers import may_publish, names, registry

__all__ = [
    "AUGMENTATIONS",
    "MEAN",
    "STD",
    "SegData",
    "Split",
    "TorchSplit",
    "denormalise",
    "load",
    "may_publish",
    "names",
    "registry",
]
