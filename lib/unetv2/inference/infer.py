"""From images to logits, and from logits to masks and probabilities at any size."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import nn

from .. import data

if TYPE_CHECKING:
    from ..data import Split

__all__ = ["enlarge", "foreground", "infer", "labels", "normalisation", "predict"]


def infer(
    model: nn.Module, images: Iterable[np.ndarray], batch_size: int = 16, device=None
) -> Iterator[np.ndarray]:
    """Logits, float32 (C, S, S), of each of `images`, uint8 (S, S, 3) RGB, in their order.

    Takes from `images` as it goes, a batch ahead, so that they may be a generator over more than
    memory holds. Normalises as `normalisation` says. Runs in eval mode on `device` (default: where
    the model is) and leaves the model in the mode it had.
    """
    device, images = device or next(model.parameters()).device, iter(images)
    mean, std = (_channels(values, device) for values in normalisation(model))
    training = model.training
    model.to(device).eval()
    try:
        while batch := list(islice(images, batch_size)):
            x = torch.from_numpy(np.stack(batch)).to(device).movedim(-1, 1).float() / 255
            with torch.inference_mode():
                logits = model((x - mean) / std)
            yield from logits.float().cpu().numpy()
    finally:
        model.train(training)


def normalisation(model: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of RGB in [0, 1]: the encoder's, ImageNet's where the model says none."""
    return getattr(model, "normalisation", None) or (data.MEAN, data.STD)


def _channels(values: Sequence[float], device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def predict(
    model: nn.Module,
    split: "Split",
    batch_size: int = 16,
    indices: Sequence[int] | None = None,
) -> Iterator[np.ndarray]:
    """`infer` on the images of `split`, in its order or that of `indices`."""
    indices = range(len(split)) if indices is None else indices
    return infer(model, (split.images[i] for i in indices), batch_size)


def labels(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Class ids uint8 (h, w) of logits (C, h, w).

    One channel: 1 where p >= `threshold`. Several: the largest one's index.
    """
    if len(logits) > 1:
        return logits.argmax(0).astype(np.uint8)
    return (logits[0] >= np.float32(np.log(threshold / (1 - threshold)))).astype(np.uint8)


def enlarge(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Logits (C, h, w) at `size` = (height, width), bilinear."""
    if logits.shape[1:] == tuple(size):
        return logits
    return np.stack([cv2.resize(z, size[::-1], interpolation=cv2.INTER_LINEAR) for z in logits])


def foreground(logits: np.ndarray) -> np.ndarray:
    """Probabilities (K, h, w) of the foreground classes."""
    if len(logits) == 1:
        return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    e = np.exp(logits - logits.max(0))
    return e[1:] / e.sum(0)
