"""U-Net v2, and any other skip in its place: one encoder, one thin decoder, one head.

Everything but the skip is fixed, so that a comparison of these networks is one of skips.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import ClassificationHead, SegmentationModel
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Activation
from torch import Tensor, nn

from ..skips import create_skip
from ..skips.sdi import at_least_float32
from .encoders import encoder, normalisation

__all__ = ["ThinDecoder", "ThinUnet", "UnetV2"]


class ThinDecoder(nn.Module):
    """The decoder of the released U-Net v2: y_{M-1} = s_{M-1} and y_i = T(y_{i+1}) + s_i.

    T is a 4x4 transposed convolution of stride 2; c channels, no bias, normalisation or activation.

    Args:
        skip: takes the coarsest levels; where it has fewer than `levels`, y_i = T(y_{i+1}) above.

    Shapes:
        features of M levels, finest first -> y_0 ... y_{M-1}, each (N, c, H_i, W_i).
    """

    def __init__(self, skip: nn.Module, c: int, levels: int) -> None:
        super().__init__()
        self.skip, self.levels = skip, levels
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(c, c, 4, stride=2, padding=1, bias=False) for _ in range(levels - 1)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        skips = self.skip(features[-len(self.skip.out_channels) :])
        skips = [at_least_float32(s) for s in skips]
        with full_precision(skips[0]):
            y = [skips.pop()]
            for up in self.up:
                y.append(up(y[-1]) + skips.pop() if skips else up(y[-1]))
        return y[::-1]


class ThinUnet(SegmentationModel):
    """Any encoder, any skip, the thin decoder of U-Net v2.

    Args:
        encoder_name: any encoder of smp, or of timm as "tu-NAME".
        encoder_depth: encoder stages, 3 to 5.
        encoder_weights: "imagenet" or None (random).
        decoder_channels: c, the width of skip and decoder.
        skip: a name of `skips.SKIPS`, or "module:Class".
        levels: how many of the encoder's coarsest levels the decoder climbs; 4 in the paper
            (strides 4 to 32).
        skip_levels: how many of the coarsest of these the skip takes; None: all.
        deep_supervision: a head for each level, and all their logits in training.
        in_channels, classes, activation, aux_params: as everywhere in smp.
        kwargs: for the encoder (the released code trains PVT with drop_path_rate=0.1).

    Shapes:
        (N, in_channels, H, W), sides multiples of 2 ** encoder_depth -> (N, classes, H, W). In
        training with deep supervision a list of logits at H, H/2, H/4, H/8, finest first. With
        aux_params a pair: this and the labels.

    Deviations: the paper leaves decoder and heads open; these are the released code's, without its
    unused layer. In fp16 the decoder computes in float32, because a product of four levels can be
    more than fp16 holds.

    Raises:
        ValueError: an unknown skip or encoder, or fewer encoder levels than `levels`.
        RuntimeError: sides that do not fit (smp's message names the next valid ones).
    """

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "tu-pvt_v2_b2",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 32,
        skip: str = "sdi",
        levels: int = 4,
        skip_levels: int | None = None,
        deep_supervision: bool = False,
        in_channels: int = 3,
        classes: int = 1,
        activation: str | Callable | None = None,
        aux_params: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.encoder = encoder(encoder_name, in_channels, encoder_depth, encoder_weights, **kwargs)
        channels = [n for n in self.encoder.out_channels[1:] if n > 0][-levels:]
        if len(channels) < levels or levels < 1:
            there = f"{encoder_name} of depth {encoder_depth} has {len(channels)}"
            raise ValueError(f"levels={levels}, but {there}")
        taken = levels if skip_levels is None else skip_levels
        if not 1 <= taken <= levels:
            raise ValueError(f"skip_levels={taken} must lie between 1 and levels={levels}")
        c = decoder_channels
        self.decoder = ThinDecoder(create_skip(skip, channels[-taken:], c), c, levels)
        self.segmentation_head = nn.Conv2d(c, classes, 1)
        self.supervision_heads = nn.ModuleList(
            nn.Conv2d(c, classes, 1) for _ in range(levels - 1 if deep_supervision else 0)
        )
        self.activation = Activation(activation)
        last = self.encoder.out_channels[-1]
        self.classification_head = aux_params and ClassificationHead(last, **aux_params)
        self.normalisation = normalisation(encoder_name)
        self.name = f"{skip}-{encoder_name}"

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]:
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            self.check_input_shape(x)
        features = self.encoder(x)
        decoded = self.decoder(features)
        heads = [self.segmentation_head, *(self.supervision_heads if self.training else ())]
        with full_precision(x):
            masks = [head(y) for head, y in zip(heads, decoded, strict=False)]
        scale = x.shape[-1] // decoded[0].shape[-1]
        masks = [self.activation(_enlarged(mask, scale)) for mask in masks]
        result = masks if len(masks) > 1 else masks[0]
        if self.classification_head is None:
            return result
        return result, self.classification_head(features[-1])


class UnetV2(ThinUnet):
    """U-Net v2 (arXiv:2311.17791): SDI in the thin decoder. See `ThinUnet` for all but:

    Args:
        released: channel, then spatial attention, as the released code; else the paper's Eq. 1.
    """

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "tu-pvt_v2_b2",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 32,
        released: bool = False,
        levels: int = 4,
        deep_supervision: bool = False,
        in_channels: int = 3,
        classes: int = 1,
        activation: str | Callable | None = None,
        aux_params: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoder_name,
            encoder_depth,
            encoder_weights,
            decoder_channels,
            skip="sdi-released" if released else "sdi",
            levels=levels,
            deep_supervision=deep_supervision,
            in_channels=in_channels,
            classes=classes,
            activation=activation,
            aux_params=aux_params,
            **kwargs,
        )
        self.name = f"unetv2-{encoder_name}"


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast inside where it is to fp16; bf16 has float32's range and may stay."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if on and torch.get_autocast_dtype(kind) == torch.float16:
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _enlarged(mask: Tensor, scale: int) -> Tensor:
    height, width = mask.shape[-2:]
    return F.interpolate(mask, [height * scale, width * scale], mode="bilinear")
