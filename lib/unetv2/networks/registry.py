"""U-Net v2 as a segmentation-models-pytorch (smp) model, SDI inside smp's architectures, and the names of all models.

A model is encoder -> skip -> decoder -> head. `UnetV2` fixes everything but the skip: U-Net's copy, UNet++'s nested
pathway and U-Net v2's SDI share the encoder, the thin decoder and the heads, so that a comparison is one of skips.
"""

import ast
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.base import ClassificationHead, SegmentationModel
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Activation
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from ..common.errors import unknown
from .family import WIDE, NestedUNet
from .unetpp_smp import NestedUnetPlusPlus, UpsampledUnet
from ..skips.sdi import SDI, Attention, Combine

__all__ = ["NestedSkip", "UnetV2", "build", "from_pretrained", "load_encoder", "names", "with_sdi"]


class NestedSkip(nn.Module):
    """UNet++'s skip (Zhou et al., arXiv:1912.05074, Fig. 1) in the place of SDI: nested, densely linked nodes.

    X^{i,0} is level i reduced to c channels, X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, U(X^{i+1,j-1})]) with H a 3x3
    convolution, normalisation and ReLU; level i hands on its last node. Deviations: c channels at every level and one
    convolution per node, as the thin decoder asks; bilinear upsampling. The paper's own widths are in `nested.py`.

    Shapes: as SDI.
    """

    def __init__(self, in_channels: Sequence[int], c: int = 32) -> None:
        super().__init__()
        self.out_channels = (c,) * len(in_channels)

        def unit(n: int, kernel: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(n, c, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c), nn.ReLU())

        self.reduce = nn.ModuleList(unit(n, 1) for n in in_channels)
        last = len(in_channels) - 1
        self.nodes = nn.ModuleDict(
            {f"{i}_{j}": unit((j + 1) * c, 3) for j in range(1, last + 1) for i in range(last + 1 - j)}
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        rows = [[reduce(f)] for reduce, f in zip(self.reduce, features, strict=True)]
        for j in range(1, len(rows)):
            for i, row in enumerate(rows[: len(rows) - j]):
                below = F.interpolate(rows[i + 1][j - 1], row[0].shape[-2:], mode="bilinear", align_corners=True)
                row.append(self.nodes[f"{i}_{j}"](torch.cat([*row, below], 1)))
        return [row[-1] for row in rows]


class ThinDecoder(nn.Module):
    """The decoder of the released U-Net v2: y_M = s_M and y_i = T(y_{i+1}) + s_i.

    T is a 4x4 transposed convolution of stride 2; c channels, no bias, normalisation or activation. Takes smp's feature
    list, returns y_1 ... y_M, finest first.
    """

    def __init__(self, skip: nn.Module, c: int, levels: int) -> None:
        super().__init__()
        self.skip, self.levels = skip, levels
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, c, 4, stride=2, padding=1, bias=False) for _ in range(levels - 1))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        skips = self.skip(features[-self.levels :])
        decoded = [skips[-1]]
        for up, s in zip(self.up, reversed(skips[:-1]), strict=True):
            decoded.append(up(decoded[-1]) + s)
        return decoded[::-1]


class UnetV2(SegmentationModel):
    """U-Net v2 (arXiv:2311.17791), and with another `skip` its controls.

    Args:
        encoder_name: any smp or timm ("tu-...") encoder; the paper's is "tu-pvt_v2_b2".
        encoder_depth: encoder stages, 3 to 5.
        encoder_weights: "imagenet" or None (random).
        decoder_channels: c, the width of skip and decoder.
        skip: "sdi" is U-Net v2; "nested" is UNet++'s pathway. U-Net's copy is SDI with `combine="copy"`.
        attention, combine, unit_bias, shared: options of `SDI`.
        levels: how many of the encoder's coarsest levels take part; 4 in the paper (strides 4 to 32).
        deep_supervision: one head per level, and all their logits in training; else a head on the finest alone.
        in_channels, classes, activation, aux_params: as everywhere in smp.
        kwargs: for the encoder (the released code trains PVT with drop_path_rate=0.1; smp's default is 0).

    Shapes:
        (N, in_channels, H, W), H and W multiples of 32 (2 ** encoder_depth). In evaluation mode -> (N, classes, H, W).
        In training mode with deep supervision -> list of logits, finest first, the k-th of size H / 2^k. With
        aux_params a pair: this and the labels.

    Deviations: the paper leaves decoder and heads open; these are the released code's, without its unused layer.

    Raises:
        ValueError: an unknown skip or encoder, or fewer encoder levels than `levels`.
        RuntimeError: H or W no multiple of 32 (smp's message names the next valid size).
    """

    @supports_config_loading
    def __init__(
        self,
        encoder_name: str = "tu-pvt_v2_b2",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 32,
        skip: Literal["sdi", "nested"] = "sdi",
        attention: Attention = "spatial-channel",
        combine: Combine = "product",
        unit_bias: bool = False,
        shared: bool = False,
        levels: int = 4,
        deep_supervision: bool = True,
        in_channels: int = 3,
        classes: int = 1,
        activation: str | Callable | None = None,
        aux_params: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.encoder = _encoder(encoder_name, in_channels, encoder_depth, encoder_weights, **kwargs)
        channels = [n for n in self.encoder.out_channels[1:] if n > 0][-levels:]
        if len(channels) < levels or levels < 1:
            raise ValueError(f"levels={levels}, but {encoder_name} of depth {encoder_depth} has {len(channels)}")
        c = decoder_channels
        skips = {
            "sdi": partial(SDI, attention=attention, combine=combine, unit_bias=unit_bias, shared=shared),
            "nested": NestedSkip,
        }
        if skip not in skips:
            raise unknown("skip", skip, skips)
        self.decoder = ThinDecoder(skips[skip](channels, c=c), c, levels)
        self.segmentation_head = nn.Conv2d(c, classes, 1)
        self.supervision_heads = nn.ModuleList(
            nn.Conv2d(c, classes, 1) for _ in range(levels - 1 if deep_supervision else 0)
        )
        self.activation = Activation(activation)
        self.classification_head = aux_params and ClassificationHead(self.encoder.out_channels[-1], **aux_params)
        self.name = f"unetv2-{encoder_name}"

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]:
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            self.check_input_shape(x)
        features = self.encoder(x)
        decoded = self.decoder(features)
        heads = [self.segmentation_head, *(self.supervision_heads if self.training else ())]
        scale = x.shape[-1] // decoded[0].shape[-1]
        masks = [
            self.activation(F.interpolate(head(y), [n * scale for n in y.shape[-2:]], mode="bilinear"))
            for head, y in zip(heads, decoded, strict=False)
        ]
        masks = masks if self.training and len(self.supervision_heads) else masks[0]
        return masks if self.classification_head is None else (masks, self.classification_head(features[-1]))


class SDIEncoder(nn.Module):
    """An smp encoder followed by SDI: what `with_sdi` registers with smp. features[0], the image, is left alone."""

    def __init__(self, name: str, weights: str | None, depth: int, output_stride: int, **options: Any) -> None:
        super().__init__()
        self._make = partial(_encoder, name, depth=depth, weights=weights, output_stride=output_stride)
        self.encoder = self._make(in_channels=3)
        self.sdi = SDI(self.encoder.out_channels[1:], **options)
        self.output_stride = self.encoder.output_stride

    @property
    def out_channels(self) -> list[int]:
        return [self.encoder.out_channels[0], *self.sdi.out_channels]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        if in_channels != 3:
            self.encoder = self._make(in_channels=in_channels)

    def make_dilated(self, output_stride: int) -> None:
        """smp's call; the inner encoder was built dilated."""

    def forward(self, x: Tensor) -> list[Tensor]:
        image, *features = self.encoder(x)
        return [image, *self.sdi(features)]


def with_sdi(
    arch: str,
    encoder_name: str = "resnet34",
    encoder_weights: str | None = "imagenet",
    *,
    sdi: dict | None = None,
    **kwargs: Any,
) -> SegmentationModel:
    """An smp architecture with SDI between its encoder and its decoder, smp's interface kept.

    Args:
        arch: an architecture of smp that decodes several levels: all but DPT (its encoder hands out no pyramid),
            PSPNet and DeepLabV3 (they read the last level alone).
        encoder_name, encoder_weights: as in smp.
        sdi: options of `SDI`, for example {"c": 64, "attention": None}.
        kwargs: for the architecture.

    The encoder's name in the model's config holds the options, and `from_pretrained` of this module reads it back.

    Raises:
        ValueError: an unknown architecture, encoder or option.
    """
    if arch.lower() not in _PYRAMID:
        raise unknown("architecture", arch, _PYRAMID)
    name = f"sdi{sdi or ''}-{encoder_name}"
    _register(name, encoder_weights)
    return smp.create_model(arch, encoder_name=name, encoder_weights=None, **kwargs)


def _register(name: str, weights: str | None = None) -> None:
    """Make smp know the encoder "sdi{options}-encoder" (its documented way for encoders of one's own)."""
    options, inner = re.fullmatch(r"sdi(\{.*\})?-(.+)", name).groups()
    params = {"name": inner, "weights": weights, **ast.literal_eval(options or "{}")}
    smp.encoders.encoders[name] = {"encoder": SDIEncoder, "pretrained_settings": {}, "params": params}


def from_pretrained(folder: str | Path) -> SegmentationModel:
    """The model that `save_pretrained` wrote to `folder`, whichever of this module's or smp's it is.

    Raises:
        FileNotFoundError: no model was saved there.
    """
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{config} does not exist: save a model there with save_pretrained first")
    settings = json.loads(config.read_text())
    if settings["_model_class"] == UnetV2.__name__:
        return UnetV2.from_pretrained(folder)
    if settings["encoder_name"].startswith("sdi"):
        _register(settings["encoder_name"])
    return smp.from_pretrained(str(folder))


def _encoder(name: str, in_channels: int, depth: int, weights: str | None, **kwargs: Any) -> nn.Module:
    """smp's `get_encoder` with errors that help: unknown names and weights that cannot be downloaded."""
    known = [*smp.encoders.get_encoder_names(), *(f"tu-{n}" for n in timm.list_models())]
    if name not in known and name.split(".")[0] not in known:
        raise unknown("encoder", name, known) if name.startswith("tu-") else unknown("encoder", name, known[:140])
    try:
        # timm names its weights in the model's name and wants a yes or no
        weights = (weights is not None or None) if name.startswith("tu-") else weights
        return get_encoder(name, in_channels=in_channels, depth=depth, weights=weights, **kwargs)
    except (OSError, RuntimeError) as error:
        if weights is None:
            raise
        raise OSError(
            f"the pretrained weights of {name} could not be downloaded ({error}); name a folder that holds "
            f"{name}.safetensors as weights_dir, or use encoder_weights=None"
        ) from error


def load_encoder(encoder: nn.Module, name: str, folder: str | Path) -> None:
    """Load `folder`/`name`.safetensors, a state dict under smp's key names, into an smp encoder. Any float type.

    Raises:
        FileNotFoundError: no such file; lists the names that are there.
        ValueError: the file is damaged, or holds another encoder's weights.
    """
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        there = sorted(p.stem for p in Path(folder).glob("*.safetensors"))
        raise FileNotFoundError(f"no weights of {name} in {folder}; it holds: {', '.join(there) or 'none'}")
    try:
        state = load_file(path)
        keys = {key for key in encoder.state_dict() if not key.endswith("num_batches_tracked")}
        strange = keys ^ {key for key in state if not key.endswith("num_batches_tracked")}
        if strange:
            raise RuntimeError(f"{len(strange)} keys are missing or not expected, as {min(strange)}")
        encoder.load_state_dict({**encoder.state_dict(), **state})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or not of {name}: {error}; fetch it again") from error


_UNETV2 = {  # name -> options of UnetV2: the same encoder, decoder and heads, another skip
    "unet": {"attention": None, "combine": "copy"},
    "unetpp": {"skip": "nested"},
    "unetv2": {},
    "unetv2-scaled": {"unit_bias": True},
    "unetv2-nosdi": {"combine": "copy"},
    "unetv2-nosc": {"attention": None},
    "unetv2-sum": {"combine": "sum"},
    "unetv2-concat": {"combine": "concat"},
    "unetv2-shared": {"shared": True},
    "unetv2-released": {"attention": "channel-spatial"},
}


_TMI = {  # name -> options of NestedUNet: UNet++'s own networks, without a pretrained encoder
    **{f"tmi-unet-l{d}": {"member": "unet", "depth": d} for d in (1, 2, 3, 4)},
    "tmi-unet-wide": {"member": "unet", "filters": WIDE},
    "tmi-unet-e": {"member": "unet-e"},
    "tmi-unet+": {"member": "unet+"},
    "tmi-unet++": {},
    "tmi-unet++-nods": {"deep_supervision": False},
    "tmi-unet++-l2": {"depth": 2},
    "tmi-unet++-l3": {"depth": 3},
}

_PYRAMID = [a for a in smp.MODEL_ARCHITECTURES_MAPPING if a not in ("dpt", "pspnet", "deeplabv3")]

_FILLED = {  # smp's decoders over an encoder whose missing stride-2 level is filled: the U-Net v2 paper's baselines
    "smp-unet+stride2": UpsampledUnet,
    "smp-unetplusplus+stride2": partial(NestedUnetPlusPlus, upsample_first=True, deep_supervision=False),
    "smp-unetplusplus+ds": partial(NestedUnetPlusPlus, upsample_first=True),
}


def names() -> list[str]:
    """All names that `build` takes: U-Net v2 and its controls, UNet++'s own family ("tmi-", from the article in IEEE
    TMI), smp's architectures plain, with SDI, with a filled stride-2 level and, UNet++, with deep supervision."""
    return [*_UNETV2, *_TMI, *(f"smp-{a}" for a in _PYRAMID), *(f"smp-{a}+sdi" for a in _PYRAMID), *_FILLED]


def build(
    name: str,
    encoder: str = "resnet18",
    encoder_weights: str | None = None,
    classes: int = 1,
    in_channels: int = 3,
    weights_dir: str | Path | None = None,
    deep_supervision: bool = True,
    width: int = 32,
    batchnorm: bool = False,
) -> nn.Module:
    """The model of that name: "unet", "unetpp", "unetv2", an ablation, "tmi-unet++", "smp-ARCH+sdi", ...; see `names`.

    Args:
        encoder: for all but the tmi- models, which have their own.
        encoder_weights: "imagenet" or None. With `weights_dir` they come from that folder and not from the hub.
        deep_supervision: for U-Net v2 and its controls; the other names say whether they have it.
        width: of the tmi- models, filters of the finest level; 32 in the article.
        batchnorm: of the tmi- models, batch normalisation in place of the article's dropout. Learns in a tenth of the
            steps (see 43_unetpp_study); adds 2 parameters per filter.

    Raises:
        ValueError: an unknown name or encoder, damaged weights, pretrained weights for a tmi- model.
        FileNotFoundError, OSError: weights that are not in the folder or cannot be downloaded.
    """
    if name not in names():
        raise unknown("model", name, names())
    if name in _TMI:
        if encoder_weights is not None:
            raise ValueError(f"{name} has no pretrained encoder: use encoder_weights=None (null in a config)")
        options = dict(_TMI[name])
        filters = [k * width // 32 for k in options.pop("filters", (32, 64, 128, 256, 512))]
        options |= {"norm": batchnorm, "dropout": 0.0 if batchnorm else 0.5}
        return NestedUNet(in_channels=in_channels, classes=classes, filters=filters, **options)
    from_folder = encoder_weights is not None and weights_dir is not None
    if from_folder and in_channels != 3:
        raise ValueError(f"weights from a folder are for images of 3 channels, not {in_channels}")
    settings = dict(
        encoder_name=encoder,
        encoder_weights=None if from_folder else encoder_weights,
        in_channels=in_channels,
        classes=classes,
    )
    if name in _UNETV2:
        model = UnetV2(**settings, **_UNETV2[name], deep_supervision=deep_supervision)
    elif name in _FILLED:
        model = _FILLED[name](**settings)
    elif name.endswith("+sdi"):
        model = with_sdi(name[4:-4], **settings)
    else:
        _encoder(encoder, in_channels, 5, None)  # for its errors
        model = smp.create_model(name[4:], **settings)
    if from_folder:
        load_encoder(getattr(model.encoder, "encoder", model.encoder), encoder, weights_dir)
    return model
