"""From cached arrays to the tensors of a training step: augmentation and normalisation.

The augmentation of an item depends on (seed, epoch, index) alone, so that neither the number of
workers nor a resumed run changes it. The released U-Net v2 trains its polyp models without any
("none"); "light" keeps every pixel value.
"""

import os
import random

import cv2
import numpy as np
import torch

from ..common.errors import unknown
from .dataset import Split

__all__ = ["AUGMENTATIONS", "MEAN", "STD", "TorchSplit", "denormalise", "exchange_colours"]

AUGMENTATIONS = ("none", "light", "strong")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, what most encoders expect


def _transform(augment: str, mean: tuple[float, ...], std: tuple[float, ...]):
    """The steps of an augmentation, then normalisation and tensors."""
    os.environ.setdefault(
        "NO_ALBUMENTATIONS_UPDATE", "1"
    )  # else its import looks for a newer version on the network
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    light = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=1)]
    strong = [
        A.Affine(
            scale=(0.75, 1.25),
            translate_percent=(-0.1, 0.1),
            rotate=(-45, 45),
            shear=(-8, 8),
            p=0.7,
        ),
        A.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.03, p=0.7),
        A.GaussianBlur(sigma_limit=(0.3, 1.5), p=0.2),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.2),
    ]
    steps = {"none": [], "light": light, "strong": light + strong}[augment]
    return A.Compose([*steps, A.Normalize(mean, std), ToTensorV2()])


class TorchSplit(torch.utils.data.Dataset):
    """A `Split` as a torch Dataset of {"image": float32 (3, S, S), "mask": see `binary`, "index":
    int}.

    Args:
        augment: "none", "light" (flips, quarter turns) or "strong" (and affine, colour, blur,
            noise).
        binary: mask as float32 (1, S, S) in {0, 1}; else int64 (S, S) class ids.
        mean, std: of each channel, on the scale from 0 to 1: what the encoder was trained with.
        colour_exchange: first give each image the colours of another of the split, drawn anew each
            time (`exchange_colours`).

    Raises:
        ValueError: unknown augmentation.
    """

    def __init__(
        self,
        split: Split,
        augment: str = "none",
        seed: int = 0,
        binary: bool = True,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
        colour_exchange: bool = False,
    ):
        if augment not in AUGMENTATIONS:
            raise unknown("augmentation", augment, AUGMENTATIONS)
        self.split, self.seed, self.binary = split, seed, binary
        self.colour_exchange = colour_exchange
        self.transform = _transform(augment, mean, std)
        self.epoch = torch.zeros(
            1, dtype=torch.int64
        ).share_memory_()  # shared: workers that live on see a new epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> dict:
        # one stream for all steps: set_random_seed would give each step the same draws, a flip for
        # both or none
        rng = np.random.default_rng([self.seed, int(self.epoch), i])
        self.transform.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        image = np.array(self.split.images[i])
        if self.colour_exchange:
            image = exchange_colours(
                image, np.array(self.split.images[int(rng.integers(len(self)))])
            )
        item = self.transform(image=image, mask=np.array(self.split.masks[i]))
        mask = item["mask"][None].float() if self.binary else item["mask"].long()
        return {"image": item["image"], "mask": mask, "index": i}


def exchange_colours(image: np.ndarray, giver: np.ndarray) -> np.ndarray:
    """SANet's colour exchange: `image` with the mean and deviation of `giver` in each LAB channel.

    Both are uint8 RGB of any sizes. So a polyp's shape is learned apart from the colours of the
    camera (arXiv:2108.00882, Section 2.1). Values beyond 0 to 255 are clipped; a channel that does
    not vary gets the giver's mean.
    """
    lab, other = (cv2.cvtColor(x, cv2.COLOR_RGB2LAB).astype(np.float64) for x in (image, giver))
    deviation = lab.std((0, 1))
    gain = np.divide(other.std((0, 1)), deviation, np.zeros(3), where=deviation > 0)
    lab = (lab - lab.mean((0, 1))) * gain + other.mean((0, 1))
    return cv2.cvtColor(lab.round().clip(0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


def denormalise(image, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> np.ndarray:
    """uint8 (H, W, 3) for pictures, from a normalised (3, H, W) tensor or array."""
    x = torch.as_tensor(image).detach().float().cpu().numpy().transpose(1, 2, 0)
    return np.clip((x * np.array(std) + np.array(mean)) * 255 + 0.5, 0, 255).astype(np.uint8)
