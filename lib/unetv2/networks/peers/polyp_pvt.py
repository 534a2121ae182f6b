"""Polyp-PVT: a transformer's coarse levels fused by products, its finest level as a guide.

Source: Dong, Wang, Fan, Li, Fu, Shao, "Polyp-PVT: Polyp Segmentation with Pyramid Vision
Transformers" (arXiv:2108.06932, CAAI AIR 2023). With f1 ... f4 the encoder's levels at strides 4,
8, 16 and 32:

    T1 = CIM(f1)             camouflage identification: CBAM's gates, channel, then spatial
    T2 = CFM(f2, f3, f4)     cascaded fusion: PraNet's partial decoder, at stride 8
    Z  = SAM(T2, T1)         similarity aggregation: T2 and what a graph of 16 anchors adds
    P1, P2 = heads of T2, Z
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from torch import Tensor, nn

from ...skips.attention import attend
from ...skips.sdi import at_least_float32
from ..names import PUBLISHED_ENCODER
from ..thin import full_precision
from .base import Peer, conv_norm, enlarged
from .pranet import PartialDecoder

__all__ = ["PolypPVT", "SimilarityAggregation"]


class PolypPVT(Peer):
    """Polyp-PVT on any encoder with levels at strides 4, 8, 16 and 32.

    Args:
        encoder_name: any encoder of smp, or of timm as "tu-NAME"; the published one is PVT v2-B2.
        encoder_depth: encoder stages; 5, for the level at stride 32.
        encoder_weights: "imagenet" or None (random).
        decoder_channels: width of the fused levels; 32 in the paper.
        deep_supervision: both logits in training, each with a loss, as published; else their sum.
        in_channels, classes: as everywhere in smp.
        kwargs: for the encoder (the released code trains PVT with drop_path_rate=0.1).

    Shapes:
        (N, in_channels, H, W), sides multiples of 32 -> (N, classes, H, W): the sum P2 + P1. In
        training with deep supervision a list of two such: P2 and P1.

    The sum is what is evaluated, as published. It is no member of the list, and alone among the
    models here the list's first is not the evaluated one: P2 is the refined of the two.

    Deviations: the released order of the list is P1, P2. In fp16 everything behind the 1x1
    reductions computes in float32, for CFM multiplies three levels and SAM sums over all pixels.

    Raises:
        ValueError: see `Peer`.
    """

    title = "Polyp-PVT"
    strides = (4, 8, 16, 32)

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = PUBLISHED_ENCODER["polyp-pvt"],
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 32,
        deep_supervision: bool = False,
        in_channels: int = 3,
        classes: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder_name, encoder_weights, encoder_depth, in_channels, kwargs)
        self.deep_supervision, c = deep_supervision, decoder_channels
        self.identify = attend(self.channels[:1], "channel-spatial")[0]
        self.reduce = nn.ModuleList(conv_norm(n, c, 1) for n in self.channels)
        self.decoder = PartialDecoder(c, outputs=c)
        self.aggregate = SimilarityAggregation(c)
        self.segmentation_head = nn.Conv2d(c, classes, 1)  # P2
        self.supervision_head = nn.Conv2d(c, classes, 1)  # P1

    def decode(self, features: list[Tensor], size: Sequence[int]) -> Tensor | list[Tensor]:
        finest, *coarse = features
        levels = [self.identify(finest), *coarse]
        pairs = zip(self.reduce, levels, strict=True)
        guide, *levels = (at_least_float32(reduce(f)) for reduce, f in pairs)
        with full_precision(guide):
            fused = self.decoder(*levels)
            guide = enlarged(guide, fused.shape[-2:], align_corners=True)
            refined = self.aggregate(fused, guide)
            p2, p1 = self.segmentation_head(refined), self.supervision_head(fused)
            if self.training and self.deep_supervision:
                return [enlarged(p2, size), enlarged(p1, size)]
            return enlarged(p2 + p1, size)


class SimilarityAggregation(nn.Module):
    """SAM: pixels share what they know by way of 4 x 4 anchors, between which a graph passes it on.

    The guide's second channel, as a softmax over channels, weighs the pixels. Their projections,
    pooled to 6 x 6 and stripped of the border, are the anchors; a pixel belongs to each anchor by
    the softmax of their inner products. The pixels' states are summed into the anchors, mixed there
    by a graph convolution, handed back by the same weights and added.

    Args:
        c: channels of the features, at least 2.
        hidden: channels of states and projections; 16 in the paper.

    Shapes:
        features (N, c, h, w), guide (N, c, h, w) -> (N, c, h, w).
    """

    anchors = 4  # on a side

    def __init__(self, c: int, hidden: int = 16) -> None:
        super().__init__()
        self.state, self.project = nn.Conv2d(c, hidden, 1), nn.Conv2d(c, hidden, 1)
        self.between_anchors = nn.Conv1d(self.anchors**2, self.anchors**2, 1)
        self.between_channels = nn.Conv1d(hidden, hidden, 1, bias=False)
        self.extend = nn.Conv2d(hidden, c, 1, bias=False)

    def forward(self, features: Tensor, guide: Tensor) -> Tensor:
        weight = guide.softmax(1)[:, 1:2]
        projected = self.project(features)
        pooled = F.adaptive_avg_pool2d(projected * weight, self.anchors + 2)
        anchors = pooled[:, :, 1:-1, 1:-1].flatten(2)  # (N, hidden, 16)
        belongs = (anchors.mT @ projected.flatten(2)).softmax(1)  # (N, 16, h w)
        nodes = self.state(features).flatten(2) @ belongs.mT  # (N, hidden, 16)
        mixed = self.between_anchors(nodes.mT).mT - nodes
        mixed = self.between_channels(mixed).relu()
        back = (mixed @ belongs).unflatten(2, features.shape[-2:])
        return features + self.extend(back)
