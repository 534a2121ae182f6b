"""Every model by its name (see `names`): this file chooses, the file of its kind builds."""

from functools import partial
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from ..common import files
from ..common.params import RunParams
from . import any_smp, encoders
from .any_smp import SupervisedUnet, UpsampledUnet, with_skip
from .family import WIDE, NestedUNet
from .names import (
    FAMILY,
    FILLED,
    ONE_HEAD,
    PEERS,
    PUBLISHED,
    RANDOM,
    check_model,
    check_pretrained,
    parts,
    supervised,
)
from .peers.ege_unet import EGEUNet
from .peers.malunet import MALUNet
from .peers.polyp_pvt import PolypPVT
from .peers.pranet import PraNet
from .peers.sanet import SANet
from .peers.transfuse import TransFuse
from .thin import ThinUnet, UnetV2
from .unetpp_smp import NestedUnetPlusPlus

__all__ = ["create_model", "for_run", "load_saved"]

MEMBERS = {  # options of NestedUNet
    **{f"tmi-unet-l{d}": {"member": "unet", "depth": d} for d in (1, 2, 3, 4)},
    "tmi-unet-wide": {"member": "unet", "filters": WIDE},
    "tmi-unet-e": {"member": "unet-e"},
    "tmi-unet+": {"member": "unet+"},
    "tmi-unet+-nods": {"member": "unet+"},
    "tmi-unet++": {},
    "tmi-unet++-nods": {},
    "tmi-unet++-l2": {"depth": 2},
    "tmi-unet++-l3": {"depth": 3},
}
ON_ANY_ENCODER = {"sanet": SANet, "pranet": PraNet, "polyp-pvt": PolypPVT}
WITH_THEIR_OWN = {
    "transfuse-s": partial(TransFuse, size="s"),
    "transfuse-l": partial(TransFuse, size="l"),
    "malunet": MALUNet,
    "ege-unet": EGEUNet,
}


def create_model(
    name: str,
    encoder: str = "resnet18",
    encoder_weights: str | None = None,
    classes: int = 1,
    in_channels: int = 3,
    weights_dir: str | Path | None = None,
    deep_supervision: bool = False,
    width: int = 32,
    batchnorm: bool = False,
    drop_path: float = 0.0,
) -> nn.Module:
    """The model of that name, see `names`.

    Args:
        encoder: for all but those that have their own: the tmi- models and some of `names.PEERS`.
        encoder_weights: "imagenet" or None. With `weights_dir` they come from that folder.
        deep_supervision: several heads, whose logits training returns as a list; `supervised(name)`
            says what the name is trained with. U-Net^e has no other form.
        width: of the tmi- models, filters of the finest level; 32 in the article.
        batchnorm: of the tmi- models, batch normalisation in place of the article's dropout.
            Learns in a tenth of the steps (43_unetpp_study); adds 2 parameters a filter.
        drop_path: stochastic depth of the encoder, where it has that (PVT, ...).

    Raises:
        ValueError: an unknown name or encoder; damaged weights; pretrained weights for a model
            that has none; several classes for a binary method; deep supervision of one head;
            weights from a folder for an image of other than three channels.
        FileNotFoundError, OSError: weights that are not in the folder or cannot be downloaded.
    """
    check_model(name)
    if encoder_weights is not None:
        check_pretrained(name)
    if deep_supervision and name in ONE_HEAD:
        raise ValueError(f"{name} has one head and no deep supervision: build it without")
    if name in WITH_THEIR_OWN:
        own = {"classes": classes, "in_channels": in_channels}
        if name not in RANDOM:
            own |= {"encoder_weights": encoder_weights, "weights_dir": weights_dir}
        model = WITH_THEIR_OWN[name](**own, deep_supervision=deep_supervision)
        model.normalisation = encoders.IMAGENET
        return model
    if name in FAMILY:
        options = dict(MEMBERS[name])
        filters = [k * width // 32 for k in options.pop("filters", (32, 64, 128, 256, 512))]
        options |= {"norm": batchnorm, "dropout": 0.0 if batchnorm else 0.5}
        options["deep_supervision"] = deep_supervision or name == "tmi-unet-e"
        model = NestedUNet(in_channels=in_channels, classes=classes, filters=filters, **options)
        model.normalisation = encoders.IMAGENET
        return model
    from_folder = encoder_weights is not None and weights_dir is not None
    if from_folder and in_channels != 3:
        raise ValueError(f"weights from a folder are for 3 channels, not {in_channels}")
    encoders.check_name(encoder)
    weights = None if from_folder else encoder_weights
    settings = {"encoder_name": encoder, "encoder_weights": weights, "classes": classes}
    settings |= {"in_channels": in_channels}
    settings |= encoders.drop_path(encoder, drop_path)
    model = _assemble(name, settings, deep_supervision)
    if from_folder:
        inner = getattr(model.encoder, "encoder", model.encoder)
        encoders.load_weights(inner, encoder, weights_dir)
    model.normalisation = encoders.normalisation(encoder)
    return model


def for_run(params: RunParams, **options: Any) -> nn.Module:
    """The network of a run, supervised as its name says; `options` are those of `create_model`."""
    own = {"deep_supervision": supervised(params.model), **params.network}
    return create_model(**own, **options)


def _assemble(name: str, settings: dict, deep_supervision: bool) -> nn.Module:
    found = parts(name)
    if found and found.base == "thin":
        own = {"skip": found.skip, "decoder_channels": found.c, "skip_levels": found.levels}
        return ThinUnet(**settings, **own, deep_supervision=deep_supervision)
    if name in PEERS:
        own = {} if name in ONE_HEAD else {"deep_supervision": deep_supervision}
        return ON_ANY_ENCODER[name](**settings, **own)
    if name in PUBLISHED:
        released = name == "unetv2-released"
        return UnetV2(**settings, released=released, deep_supervision=deep_supervision)
    if found:
        own = {"skip": found.skip, "c": found.c, "levels": found.levels}
        own["deep_supervision"] = deep_supervision
        return with_skip(found.base.removeprefix("smp-"), **settings, **own)
    if name in FILLED and name != "smp-unet-stride2":
        member = "unet++" if "plusplus" in name else "unet+"
        own = {"upsample_first": True, "deep_supervision": deep_supervision}
        return NestedUnetPlusPlus(member=member, **settings, **own)
    if deep_supervision and name == "smp-unet":
        return SupervisedUnet(**settings)
    if deep_supervision:
        raise ValueError(f"{name} has no heads for deep supervision: build it without")
    if name in FILLED:
        return UpsampledUnet(**settings)
    return smp.create_model(name.removeprefix("smp-"), **settings)


def load_saved(folder: str | Path) -> nn.Module:
    """The model that `save_pretrained` wrote to `folder`, whichever of ours or smp's it is.

    Raises:
        FileNotFoundError: no model was saved there.
        ValueError: its config names no model that is known here.
    """
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{config} does not exist: save a model there with save_pretrained")
    settings = files.read_json(config)
    ours = (UnetV2, ThinUnet, NestedUnetPlusPlus, SupervisedUnet, UpsampledUnet)
    ours += tuple(ON_ANY_ENCODER.values())
    own = {cls.__name__: cls for cls in ours}
    encoder = settings.get("encoder_name", "")
    if "@" in encoder:
        any_smp.register(encoder)
    kind = settings.get("_model_class")
    if kind not in own and not hasattr(smp, str(kind)):
        raise ValueError(f"{config} names no model of this library or of smp, but {kind!r}")
    # its weights replace the encoder's pretrained ones, which need not be fetched
    model = own.get(kind, smp).from_pretrained(str(folder), encoder_weights=None)
    model.normalisation = encoders.normalisation(encoder.rpartition("@")[2])
    return model
