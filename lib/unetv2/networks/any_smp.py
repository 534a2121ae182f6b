"""Any skip in any segmentation-models-pytorch (smp) decoder, with smp's interface kept."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base import SegmentationHead, SegmentationModel, initialization
from torch import Tensor, nn

from ..common.errors import unknown
from ..skips import create_skip
from .encoders import UpsampledFirst, encoder, normalisation
from .names import PYRAMID

__all__ = ["SkipEncoder", "SupervisedUnet", "UpsampledUnet", "register", "with_skip"]


class SkipEncoder(nn.Module):
    """An smp encoder followed by a skip: what `with_skip` registers with smp.

    A level without channels (timm's transformers have none at stride 2) stays as it is. So does the
    image, features[0]. Levels beyond the coarsest `levels` are handed on without channels.
    """

    def __init__(
        self,
        name: str,
        weights: str | None,
        depth: int,
        output_stride: int,
        skip: str = "sdi",
        c: int = 32,
        levels: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        options = {"depth": depth, "weights": weights, "output_stride": output_stride, **kwargs}
        self._make = partial(encoder, name, **options)
        self.encoder = self._make(in_channels=3)
        self.output_stride = self.encoder.output_stride
        widths = self.encoder.out_channels[1:]
        full = [i for i, n in enumerate(widths) if n > 0]
        if levels is not None and not 1 <= levels <= len(full):
            raise ValueError(f"levels={levels}, but {name} of depth {depth} has {len(full)}")
        self.taken = full[-levels:] if levels else full
        self.skip = create_skip(skip, [widths[i] for i in self.taken], c)
        infused = dict(zip(self.taken, self.skip.out_channels, strict=True))
        self.widths = [infused.get(i, 0) for i in range(len(widths))]

    @property
    def out_channels(self) -> list[int]:
        return [self.encoder.out_channels[0], *self.widths]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        if in_channels != 3:
            self.encoder = self._make(in_channels=in_channels)

    def make_dilated(self, output_stride: int) -> None:
        """smp's call; the inner encoder was built dilated."""

    def forward(self, x: Tensor) -> list[Tensor]:
        image, *features = self.encoder(x)
        infused = self.skip([features[i] for i in self.taken])
        handed = dict(zip(self.taken, infused, strict=True))
        return [image, *(handed.get(i, f[:, :0]) for i, f in enumerate(features))]


def with_skip(
    arch: str,
    encoder_name: str = "resnet34",
    encoder_weights: str | None = "imagenet",
    *,
    skip: str = "sdi",
    c: int = 32,
    levels: int | None = None,
    deep_supervision: bool = False,
    drop_path_rate: float | None = None,
    **kwargs: Any,
) -> SegmentationModel:
    """An architecture of smp with a skip between its encoder and its decoder.

    Args:
        arch: one of `names.PYRAMID`.
        encoder_name, encoder_weights: as in smp.
        skip, c: name and width of the skip, see `skips.create_skip`.
        levels: how many of the coarsest levels take part, None: all. The finer ones are left out.
        deep_supervision: for "unet" alone, see `SupervisedUnet`.
        drop_path_rate: stochastic depth of an encoder that has it; not kept in the config.
        kwargs: for the architecture.

    The encoder's name in the model's config holds the options, and `from_pretrained` reads it back.
    smp's decoders compute in fp16 under autocast to it, which SDI's product may exceed: take bf16
    there, or the thin decoder, which stays in float32.

    Raises:
        ValueError: an unknown architecture, encoder or skip; supervision in another decoder.
    """
    if arch.lower() not in PYRAMID:
        raise unknown("architecture", arch, PYRAMID)
    name = f"{skip}-c{c}" + (f"-l{levels}" if levels else "") + f"@{encoder_name}"
    register(
        name, encoder_weights, **({"drop_path_rate": drop_path_rate} if drop_path_rate else {})
    )
    options = {"encoder_name": name, "encoder_weights": None, **kwargs}
    if deep_supervision and arch.lower() != "unet":
        raise ValueError(f"smp's {arch} has no heads for deep supervision: use 'unet'")
    model = SupervisedUnet(**options) if deep_supervision else smp.create_model(arch, **options)
    model.normalisation = normalisation(encoder_name)
    return model


def register(name: str, weights: str | None = None, **options: Any) -> None:
    """Make smp know the encoder "skip-cN-lN@encoder" (its way for encoders of one's own)."""
    skip, c, levels, inner = re.fullmatch(r"(.+?)-c(\d+)(?:-l(\d+))?@(.+)", name).groups()
    params = {"name": inner, "weights": weights, "skip": skip, "c": int(c)}
    params |= {"levels": levels and int(levels), **options}
    smp.encoders.encoders[name] = {
        "encoder": SkipEncoder,
        "pretrained_settings": {},
        "params": params,
    }


class SupervisedUnet(smp.Unet):
    """smp.Unet with a head on each of its four finest decoder blocks; arguments are smp.Unet's.

    In training a list of logits at H, H/2, H/4, H/8, finest first, as `ThinUnet` with deep
    supervision; else one tensor. With aux_params a pair: this and the labels.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        classes = self.segmentation_head[0].out_channels
        widths = [block.conv2[0].out_channels for block in self.decoder.blocks][-2:-5:-1]
        self.supervision_heads = nn.ModuleList(SegmentationHead(n, classes) for n in widths)
        initialization.initialize_head(self.supervision_heads)

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]:
        if not self.training:
            return super().forward(x)
        self.check_input_shape(x)
        features = self.encoder(x)
        *coarse, finest = self._decoded(features)
        heads = [self.segmentation_head, *self.supervision_heads]
        masks = [head(y) for head, y in zip(heads, [finest, *coarse[:-4:-1]], strict=True)]
        if self.classification_head is None:
            return masks
        return masks, self.classification_head(features[-1])

    def _decoded(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The output of each decoder block, coarsest first, as smp's decoder computes them."""
        coarsest_first = features[::-1]
        x, skips, found = self.decoder.center(coarsest_first[0]), coarsest_first[1:-1], []
        for i, block in enumerate(self.decoder.blocks):
            height, width = coarsest_first[i + 1].shape[2:]
            x = block(x, height, width, skip_connection=skips[i] if i < len(skips) else None)
            found.append(x)
        return found


class UpsampledUnet(smp.Unet):
    """smp.Unet over an encoder whose empty stride-2 level is filled, see `UpsampledFirst`.

    Arguments are smp.Unet's. An encoder without a gap at stride 2 is refused.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # smp.Unet sizes its decoder by self.encoder.out_channels: wrap it as soon as it is set
        wrap = name == "encoder" and not isinstance(value, UpsampledFirst)
        super().__setattr__(name, UpsampledFirst(value) if wrap else value)
