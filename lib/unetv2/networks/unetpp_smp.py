"""UNet++ and UNet+ over any segmentation-models-pytorch or timm encoder, with what smp's lacks.

smp.UnetPlusPlus has one head. Here every top node X^{0,1..L} of its grid can have one: deep
supervision in training, the mean of the heads or one head in use, and `prune`, which cuts off the
deeper part of grid and encoder. The grid is `skips.graph("unet++", L)`, L = encoder_depth - 1, its
finest level at stride 2; blocks, names and widths are smp's, so that without supervision state_dict
and logits are those of smp.UnetPlusPlus (its VGG checkpoints hold a `decoder.center` that never
runs: load them with strict=False). UNet+ is the same grid with short skips alone, `graph("unet+",
L)`: the backbone studies of the UNet++ article set the two beside U-Net.

Encoders that begin at stride 4 (PVT, Swin, ConvNeXt, ...) leave smp's stride-2 level without
channels, and with it the top row of the grid. The remedy in the U-Net v2 paper's comparisons is to
upsample the stride-4 level (nearest, x2): UNet++ (PVT) then has its 29,864,977 parameters and U-Net
(PVT) its 28,149,009 (tu-pvt_v2_b2, one class).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import (
    ClassificationHead,
    SegmentationHead,
    SegmentationModel,
    initialization,
)
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Activation
from segmentation_models_pytorch.decoders.unetplusplus.decoder import DecoderBlock
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor, nn

from ..common.errors import unknown
from ..skips.graph import graph, needed
from .encoders import UpsampledFirst, encoder, normalisation
from .family import Heads, average

__all__ = ["NestedUnetPlusPlus"]


class _Grid(nn.Module):
    """smp's blocks under smp's names, built and run along `skips.graph`, with one concatenation
    per node, not two.
    """

    def __init__(
        self,
        encoder: Sequence[int],
        decoder: Sequence[int],
        columns: Sequence[int],
        member: str,
        **options: Any,
    ):
        super().__init__()
        self.depth = len(decoder) - 1
        self.member, self.graph = member, graph(member, self.depth)

        def width(
            i: int, j: int
        ) -> int:  # the outermost diagonal has the decoder's widths, the rest the encoder's
            return decoder[self.depth - 1 - i] if i + j == self.depth and j else encoder[i]

        self.blocks = nn.ModuleDict()
        for (i, j), inputs in needed(self.graph, columns):
            if j:
                skips = (len(inputs) - 1) * encoder[i]
                self.blocks[self.name(i, j)] = DecoderBlock(
                    width(i + 1, j - 1), skips, width(i, j), **options
                )
        if self.depth in columns:
            self.blocks[f"x_0_{self.depth}"] = DecoderBlock(
                decoder[-2], 0, decoder[-1], **options
            )  # to full size

    def name(self, i: int, j: int) -> str:  # smp's of X^{i,j}
        return f"x_{self.depth - i - j}_{self.depth - 1 - i}"

    def forward(self, features: list[Tensor], columns: Sequence[int]) -> list[Tensor]:
        """X^{0,j} for j in `columns`, that of j = L at full size."""
        x = {(i, 0): feature for i, feature in enumerate(features[1:])}
        for (i, j), inputs in needed(self.graph, columns):
            if j:
                skips = [
                    x[source] for source, _ in inputs[:0:-1]
                ]  # smp concatenates the newest first
                x[i, j] = _run(self.blocks[self.name(i, j)], x[inputs[0][0]], skips)
        return [
            _run(self.blocks[f"x_0_{j}"], x[0, j], []) if j == self.depth else x[0, j]
            for j in columns
        ]


def _run(block: DecoderBlock, below: Tensor, skips: list[Tensor]) -> Tensor:
    below = F.interpolate(below, scale_factor=2.0, mode=block.interpolation_mode)
    if block.is_empty:
        return below.new_empty(below.shape[0], 0, *below.shape[2:])
    if skips:
        below = block.attention1(torch.cat([below, *skips], dim=1))
    return block.attention2(block.conv2(block.conv1(below)))


class NestedUnetPlusPlus(Heads, SegmentationModel):
    """smp.UnetPlusPlus with deep supervision, averaged and pruned modes. Arguments as
    smp.UnetPlusPlus, and:

    Args:
        deep_supervision: a 3x3 head on each top node (j < L: at stride 2, its logits upsampled x2).
            Train mode then returns the list of the heads' logits, deepest first.
        output: what eval mode returns: "averaged" or the j of one head. May be set at any time.
        upsample_first: fill an empty stride-2 level (`UpsampledFirst`); an encoder that has one is
            left as it is.
        pruned: build what `prune(pruned)` leaves. Set by `prune`, so that its result can be saved
            and loaded.
        member: "unet++", or "unet+": X^{i,j} reads X^{i,j-1} alone of its level.

    Raises:
        ValueError: no classes; another member; head or depth out of range; supervision without a
            stride-2 level.
    """

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_use_norm: bool | str | dict[str, Any] = "batchnorm",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        decoder_attention_type: str | None = None,
        decoder_interpolation: str = "nearest",
        in_channels: int = 3,
        classes: int = 1,
        activation: str | Callable | None = None,
        aux_params: dict | None = None,
        deep_supervision: bool = False,
        output: int | Literal["averaged"] = "averaged",
        upsample_first: bool = False,
        pruned: int | None = None,
        member: Literal["unet++", "unet+"] = "unet++",
        **kwargs: Any,
    ):
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes={classes} must be at least 1; a binary mask has 1 class")
        if member not in ("unet++", "unet+"):
            raise unknown("member of the family over an encoder", member, ("unet++", "unet+"))
        deepest = encoder_depth - 1 if pruned is None else pruned
        if not 1 <= deepest < encoder_depth == len(decoder_channels):
            given = f"encoder_depth={encoder_depth}, pruned={pruned}"
            raise ValueError(
                f"{given}, {len(decoder_channels)} decoder_channels: expected 1 <= pruned < "
                "encoder_depth and one decoder channel per encoder level"
            )
        self.encoder = encoder(encoder_name, in_channels, deepest + 1, encoder_weights, **kwargs)
        if pruned and not isinstance(self.encoder, TimmUniversalEncoder):  # timm does so itself
            _drop_unused(self.encoder, in_channels)
        if upsample_first and self.encoder.out_channels[1] == 0:
            self.encoder = UpsampledFirst(self.encoder)
        channels = self.encoder.out_channels
        if deep_supervision and channels[1] == 0:
            cure = "upsample_first=True gives it one"
            raise ValueError(f"{encoder_name} has no stride-2 level to carry heads: {cure}")
        self.columns = list(range(deepest, 0, -1)) if deep_supervision else [deepest]
        self.decoder = _Grid(
            channels[1:], decoder_channels, self.columns, member, use_norm=decoder_use_norm,
            attention_type=decoder_attention_type, interpolation_mode=decoder_interpolation,
        )  # fmt: skip
        width, scale = (
            (decoder_channels[-1], 1) if deepest == encoder_depth - 1 else (channels[1], 2)
        )
        self.segmentation_head = SegmentationHead(width, classes, upsampling=scale)
        others = {
            str(j): SegmentationHead(channels[1], classes, upsampling=2) for j in self.columns[1:]
        }
        self.heads = nn.ModuleDict(others)
        self.activation = Activation(activation)
        self.classification_head = (
            ClassificationHead(channels[-1], **aux_params) if aux_params else None
        )
        self.output = output
        self.normalisation = normalisation(encoder_name)
        self.initialize()
        initialization.initialize_head(self.heads)

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]:
        self.check_input_shape(x)
        features = self.encoder(x)
        tops = self.decoder(features, self.active)
        logits = [self._head(j)(top) for j, top in zip(self.active, tops, strict=True)]
        several = self.training and len(logits) > 1
        masks = (
            [self.activation(z) for z in logits] if several else self.activation(average(logits))
        )
        return (
            masks
            if self.classification_head is None
            else (masks, self.classification_head(features[-1]))
        )

    def _head(self, j: int) -> nn.Module:
        return self.segmentation_head if j == self.columns[0] else self.heads[str(j)]

    def prune(self, d: int) -> "NestedUnetPlusPlus":
        """The model of depth `d` inside this one: its weights, without deeper nodes and encoder
        stages and other heads.

        Its logits equal, to the bit, this model's with `output = d`; with d = L it is
        smp.UnetPlusPlus. With d < L an auxiliary classification head goes too. ValueError: no head
        d, or one head only (trained without supervision).
        """
        self.check_head(d, prune=True)
        changes = {"encoder_weights": None, "deep_supervision": False, "output": "averaged"}
        if d < self.columns[0]:
            changes |= {"pruned": d, "aux_params": None}
        small = type(self)(**{**self.config, **changes})
        own = self.state_dict() | self._head(d).state_dict(prefix="segmentation_head.")
        small.load_state_dict({key: own[key] for key in small.state_dict()})
        weight = self.segmentation_head[0].weight
        return small.to(weight.device, weight.dtype).train(self.training)


def _drop_unused(encoder: nn.Module, in_channels: int) -> None:
    """Replace what the features do not depend on by nn.Identity: smp's own encoders keep stages
    beyond their depth.
    """
    features = encoder.eval()(torch.zeros(1, in_channels, 64, 64))[1:]
    weights = dict(encoder.named_parameters())
    gradients = torch.autograd.grad(
        sum(f.sum() for f in features), weights.values(), allow_unused=True
    )
    used = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
    for name, _ in reversed(list(encoder.named_modules())):  # from the inside out
        inside = {key for key in weights if key.startswith(f"{name}.")}
        if inside and used.isdisjoint(inside):
            encoder.set_submodule(name, nn.Identity())
    encoder.train()
