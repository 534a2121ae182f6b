"""From cached arrays to the tensors of a training step: augmentation and normalisation.

The augmentation of an item depends on (seed, epoch, index) alone, so that neither the number of workers nor a resumed
run changes it. The released U-Net v2 trains its polyp models without any ("none"); "light" keeps every pixel value.
"""

import os
import random

import numpy as np
import torch

from .dataset import Split

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it looks for a newer version on the network at import
import albumentations as A

from ..common.errors import unknown

__all__ = ["AUGMENTATIONS", "MEAN", "STD", "TorchSplit", "denormalise"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, what the pretrained encoders expect

_LIGHT = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=1)]
_STRONG = [
    A.Affine(scale=(0.75, 1.25), translate_percent=(-0.1, 0.1), rotate=(-45, 45), shear=(-8, 8), p=0.7),
    A.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.03, p=0.7),
    A.GaussianBlur(sigma_limit=(0.3, 1.5), p=0.2),
    A.GaussNoise(std_range=(0.01, 0.05), p=0.2),
]
AUGMENTATIONS = {"none": [], "light": _LIGHT, "strong": _LIGHT + _STRONG}


class TorchSplit(torch.utils.data.Dataset):
    """A `Split` as a torch Dataset of {"image": float32 (3, S, S), "mask": see `binary`, "index": int}.

    Args:
        augment: "none", "light" (flips, quarter turns) or "strong" (and affine, colour, blur, noise).
        binary: mask as float32 (1, S, S) in {0, 1}; else int64 (S, S) class ids.

    Raises:
        ValueError: unknown augmentation.
    """

    def __init__(self, split: Split, augment: str = "none", seed: int = 0, binary: bool = True):
        if augment not in AUGMENTATIONS:
            raise unknown("augmentation", augment, AUGMENTATIONS)
        self.split, self.seed, self.binary = split, seed, binary
        self.transform = A.Compose(AUGMENTATIONS[augment]) if AUGMENTATIONS[augment] else None
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # shared: workers that live on see a new epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> dict:
        image, mask = np.array(self.split.images[i]), np.array(self.split.masks[i])
        if self.transform is not None:
            # one stream for all steps: set_random_seed would give each step the same draws, a flip for both or none
            rng = np.random.default_rng([self.seed, int(self.epoch), i])
            self.transform.set_random_state(rng, random.Random(int(rng.integers(2**32))))
            out = self.transform(image=image, mask=mask)
            image, mask = out["image"], out["mask"]
        x = (image.astype(np.float32) * np.float32(1 / 255) - np.float32(MEAN)) / np.float32(STD)
        y = torch.from_numpy(np.ascontiguousarray(mask))
        y = y[None].float() if self.binary else y.long()
        return {"image": torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))), "mask": y, "index": i}


def denormalise(image) -> np.ndarray:
    """uint8 (H, W, 3) for pictures, from a normalised (3, H, W) tensor or array."""
    x = torch.as_tensor(image).detach().float().cpu().numpy().transpose(1, 2, 0)
    return np.clip((x * STD + np.array(MEAN)) * 255 + 0.5, 0, 255).astype(np.uint8)
