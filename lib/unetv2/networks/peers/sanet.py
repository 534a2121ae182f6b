"""SANet, the shallow attention network: deep maps gate shallow ones.

Source: Wei, Hu, Zhang, Li, Zhou, Cui, "Shallow Attention Network for Polyp Segmentation"
(arXiv:2108.00882, MICCAI 2021). With f3, f4, f5 the encoder's levels at strides 8, 16
and 32, each reduced to 64 channels that are not negative, and U upsampling to the size of f3,

    logit = 1x1 convolution of [U f5, U f4 * U f5, f3 * U f4 * U f5]

A pixel of f3 counts only where both deeper maps are above 0. This is the closest ancestor of SDI's
product.
"""

from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from torch import Tensor, nn

from ...skips.sdi import at_least_float32
from ..names import PUBLISHED_ENCODER
from ..thin import full_precision
from .base import Peer, enlarged

__all__ = ["SANet"]


class SANet(Peer):
    """SANet on any encoder with levels at strides 8, 16 and 32.

    Args:
        encoder_name: any encoder of smp, or of timm as "tu-NAME"; the published one is Res2Net-50
            v1b.
        encoder_depth: encoder stages; 5, for the level at stride 32.
        encoder_weights: "imagenet" or None (random).
        decoder_channels: width of the reduced levels; 64 in the paper.
        in_channels, classes: as everywhere in smp.
        kwargs: for the encoder.

    Shapes:
        (N, in_channels, H, W), sides multiples of 32 -> (N, classes, H, W).

    Deviations: the paper's colour exchange belongs to training and its probability correction to
    the test; neither is here. The correction keeps the sign of every logit, so that a mask at
    threshold 0.5 is the same without it. In fp16 the products are taken in float32.

    Raises:
        ValueError: see `Peer`.
    """

    title = "SANet"

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = PUBLISHED_ENCODER["sanet"],
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 64,
        in_channels: int = 3,
        classes: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder_name, encoder_weights, encoder_depth, in_channels, kwargs)
        c = decoder_channels
        self.decoder = nn.ModuleList(_reduced(n, c) for n in self.channels)
        self.segmentation_head = nn.Conv2d(3 * c, classes, 1)
        for module in (*self.decoder.modules(), self.segmentation_head):
            if isinstance(module, nn.Conv2d):  # as released
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def decode(self, features: list[Tensor], size: Sequence[int]) -> Tensor:
        pairs = zip(self.decoder, features, strict=True)
        f3, f4, f5 = (at_least_float32(reduce(f)) for reduce, f in pairs)
        with full_precision(f3):
            f4, f5 = (enlarged(f, f3.shape[-2:], align_corners=True) for f in (f4, f5))
            gated = f4 * f5
            logit = self.segmentation_head(torch.cat([f5, gated, f3 * gated], 1))
            return enlarged(logit, size, align_corners=True)


def _reduced(inputs: int, c: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, c, 1), nn.BatchNorm2d(c), nn.ReLU(inplace=True))
