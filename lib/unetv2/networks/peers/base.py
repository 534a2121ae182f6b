"""What the peers share: an encoder whose levels they name by stride, and clear errors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from ..encoders import encoder, levels, normalisation

__all__ = ["Peer", "check_binary", "check_sides", "conv_norm", "enlarged"]


class Peer(SegmentationModel):
    """A published decoder on any encoder that has the levels it reads.

    A subclass names itself and the `strides` that it reads, finest first, and maps their features
    to logits in `decode`: one tensor, or a list, the evaluated one first.

    Raises:
        ValueError: an unknown encoder or one without such a level; sides that are no multiple of
            the coarsest stride.
    """

    title: str
    strides: tuple[int, ...] = (8, 16, 32)

    def __init__(
        self, name: str, weights: str | None, depth: int, in_channels: int, options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.encoder = encoder(name, in_channels, depth, weights, **options)
        self.channels = levels(self.encoder.out_channels, self.strides, f"{self.title} on {name}")
        self.classification_head = None
        self.normalisation = normalisation(name)
        self.name = f"{self.title.lower()}-{name}"

    def check_input_shape(self, x: Tensor) -> None:
        check_sides(x, self.strides[-1], self.title)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            self.check_input_shape(x)
        features = self.encoder(x)
        read = [features[stride.bit_length() - 1] for stride in self.strides]
        return self.decode(read, x.shape[-2:])

    def decode(self, features: list[Tensor], size: Sequence[int]) -> Tensor | list[Tensor]:
        raise NotImplementedError


def check_binary(title: str, classes: int) -> None:
    """ValueError for a method that is defined for one foreground and asked for several classes."""
    if classes != 1:
        cure = "choose another model, such as thin+sdi"
        raise ValueError(f"{title} is defined for one foreground, not {classes} channels: {cure}")


def check_sides(x: Tensor, multiple: int, title: str) -> None:
    """ValueError for an image (N, C, H, W) whose sides are no multiples of `multiple`."""
    height, width = x.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        what = f"{title} takes sides that are multiples of {multiple}, not {height} x {width}"
        raise ValueError(f"{what}: the nearest are {near[0]} x {near[1]}")


def conv_norm(
    inputs: int, outputs: int, kernel: int | tuple[int, int], dilation: int = 1
) -> nn.Module:
    """A convolution without bias that keeps the size, and batch normalisation; no activation."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (height // 2 * dilation, width // 2 * dilation)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, (height, width), 1, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
    )


def enlarged(z: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """`z` (N, C, h, w), bilinear at `size` (H, W)."""
    return F.interpolate(z, tuple(size), mode="bilinear", align_corners=align_corners)
