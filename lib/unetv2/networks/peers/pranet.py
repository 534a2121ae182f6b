"""PraNet: a partial decoder's coarse guess, then reverse attention, which looks where it is not.

Source: Fan, Ji, Zhou, Chen, Fu, Shen, Shao, "PraNet: Parallel Reverse Attention Network for Polyp
Segmentation" (arXiv:2006.11392, MICCAI 2020). With f3, f4, f5 the encoder's levels at strides 8, 16
and 32:

    S_g = PD(RFB(f3), RFB(f4), RFB(f5))         the global map, at stride 8
    A_i = 1 - sigmoid(S_{i+1})                  reverse attention; S_6 = S_g, at the size of f_i
    S_i = S_{i+1} + convolutions of f_i * A_i   for i = 5, 4, 3

RFB, the receptive field block (Liu, Huang, Wang, ECCV 2018), and PD, the cascaded partial decoder
(Wu, Su, Huang, CVPR 2019, there CPD), are those works'.
"""

from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from torch import Tensor, nn

from ...skips.sdi import at_least_float32
from ..names import PUBLISHED_ENCODER
from ..thin import full_precision
from .base import Peer, check_binary, conv_norm, enlarged

__all__ = ["PartialDecoder", "PraNet", "ReceptiveField", "ReverseAttention"]


class PraNet(Peer):
    """PraNet on any encoder with levels at strides 8, 16 and 32; for one foreground.

    Args:
        encoder_name: any encoder of smp, or of timm as "tu-NAME"; the published one is Res2Net-50
            v1b.
        encoder_depth: encoder stages; 5, for the level at stride 32.
        encoder_weights: "imagenet" or None (random).
        decoder_channels: width of the partial decoder; 32 in the paper.
        deep_supervision: all four logits in training.
        in_channels: as everywhere in smp.
        classes: 1.
        kwargs: for the encoder.

    Shapes:
        (N, in_channels, H, W), sides multiples of 32 -> (N, 1, H, W), S_3. In training with deep
        supervision a list of four such: S_3, S_4, S_5 and S_g.

    Deviations: the released model's order of the list is S_g first, and it owns the encoder's
    classifier, which nothing uses (2,049,000 parameters). In fp16 the partial decoder computes in
    float32, for it multiplies three levels.

    Raises:
        ValueError: see `Peer`; classes other than 1, for 1 - sigmoid is the rest of one foreground.
    """

    title = "PraNet"

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = PUBLISHED_ENCODER["pranet"],
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 32,
        deep_supervision: bool = False,
        in_channels: int = 3,
        classes: int = 1,
        **kwargs: Any,
    ) -> None:
        check_binary(self.title, classes)
        super().__init__(encoder_name, encoder_weights, encoder_depth, in_channels, kwargs)
        self.deep_supervision, c = deep_supervision, decoder_channels
        self.fields = nn.ModuleList(ReceptiveField(n, c) for n in self.channels)
        self.decoder = PartialDecoder(c)
        self.segmentation_head = nn.Conv2d(3 * c, 1, 1)
        f3, f4, f5 = self.channels
        self.reverse = nn.ModuleList(  # coarsest first: 5, 4, 3
            [
                ReverseAttention(f5, 256, kernel=5, layers=3, last=1),
                ReverseAttention(f4, 64, kernel=3, layers=2, last=3),
                ReverseAttention(f3, 64, kernel=3, layers=2, last=3),
            ]
        )

    def decode(self, features: list[Tensor], size: Sequence[int]) -> Tensor | list[Tensor]:
        fields = zip(self.fields, features, strict=True)
        fields = [at_least_float32(field(f)) for field, f in fields]
        with full_precision(fields[0]):
            guess = self.segmentation_head(self.decoder(*fields))
        maps = [guess]  # S_g, S_5, S_4, S_3
        for reverse, f in zip(self.reverse, reversed(features), strict=True):
            maps.append(reverse(f, enlarged(maps[-1], f.shape[-2:])))
        if self.training and self.deep_supervision:
            return [enlarged(s, size) for s in reversed(maps)]
        return enlarged(maps[-1], size)


class ReceptiveField(nn.Module):
    """RFB: four branches of growing reach and a shortcut. (N, inputs, h, w) -> (N, c, h, w), >= 0.

    The first branch is a 1x1 convolution; the others, for k = 3, 5, 7, are 1x1, 1xk, kx1 and 3x3 of
    dilation k.
    """

    def __init__(self, inputs: int, c: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(conv_norm(inputs, c, 1))])
        for k in (3, 5, 7):
            reach = conv_norm(c, c, (1, k)), conv_norm(c, c, (k, 1)), conv_norm(c, c, 3, dilation=k)
            self.branches.append(nn.Sequential(conv_norm(inputs, c, 1), *reach))
        self.merge = conv_norm(4 * c, c, 3)
        self.shortcut = conv_norm(inputs, c, 1)

    def forward(self, f: Tensor) -> Tensor:
        merged = self.merge(torch.cat([branch(f) for branch in self.branches], 1))
        return (merged + self.shortcut(f)).relu()


class PartialDecoder(nn.Module):
    """PD of three levels of c channels: products of a level with all coarser ones, then a cascade.

        p4 = T(U f5) * f4
        p3 = T(U U f5) * T(U f4) * f3
        q4 = T[p4, T(U f5)]
        q3 = T[p3, T(U q4)]

    [] concatenates, U doubles the size, and each T is a 3x3 convolution and batch normalisation of
    its own that keeps the width.

    Args:
        c: channels of each level.
        outputs: channels of one more T at the end; 3 c in PraNet.

    Shapes:
        f3, f4, f5, each (N, c, h_i, w_i), each half as large as the one before -> (N, outputs, h_3,
        w_3).
    """

    def __init__(self, c: int, outputs: int | None = None) -> None:
        super().__init__()
        self.gate4, self.gate3_by5, self.gate3_by4 = (conv_norm(c, c, 3) for _ in range(3))
        self.climb5, self.climb4 = conv_norm(c, c, 3), conv_norm(2 * c, 2 * c, 3)
        self.merge4, self.merge3 = conv_norm(2 * c, 2 * c, 3), conv_norm(3 * c, 3 * c, 3)
        self.last = conv_norm(3 * c, outputs or 3 * c, 3)

    def forward(self, f3: Tensor, f4: Tensor, f5: Tensor) -> Tensor:
        up5 = _doubled(f5)
        p4 = self.gate4(up5) * f4
        p3 = self.gate3_by5(_doubled(up5)) * self.gate3_by4(_doubled(f4)) * f3
        q4 = self.merge4(torch.cat([p4, self.climb5(up5)], 1))
        q3 = self.merge3(torch.cat([p3, self.climb4(_doubled(q4))], 1))
        return self.last(q3)


class ReverseAttention(nn.Module):
    """S_i = S_{i+1} + convolutions of f_i (1 - sigmoid(S_{i+1})).

    The convolutions, each with batch normalisation: 1x1 to `c` channels, `layers` of c to c with a
    ReLU behind each, and the last to one channel.

    Args:
        inputs: channels of f_i.
        kernel, last: sizes of the middle kernels and of the last one.

    Shapes:
        f_i (N, inputs, h, w) and S_{i+1} (N, 1, h, w) -> S_i (N, 1, h, w).
    """

    def __init__(self, inputs: int, c: int, kernel: int, layers: int, last: int) -> None:
        super().__init__()
        middle = (nn.Sequential(conv_norm(c, c, kernel), nn.ReLU(True)) for _ in range(layers))
        self.refine = nn.Sequential(conv_norm(inputs, c, 1), *middle, conv_norm(c, 1, last))

    def forward(self, f: Tensor, coarser: Tensor) -> Tensor:
        return coarser + self.refine(f * (1 - coarser.sigmoid()))


def _doubled(f: Tensor) -> Tensor:
    return enlarged(f, (2 * f.shape[-2], 2 * f.shape[-1]), align_corners=True)
