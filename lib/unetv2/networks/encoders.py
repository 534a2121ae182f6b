"""Encoders: smp's and timm's by name, their pretrained weights, and what every network asks of
them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from ..common.errors import unknown

__all__ = ["IMAGENET", "UpsampledFirst", "check_name", "check_weights", "drop_path", "encoder"]
__all__ += ["levels", "load_weights", "normalisation"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of RGB in [0, 1]


def check_name(name: str) -> None:
    """ValueError for an encoder that neither smp nor timm ("tu-...") has, with the nearest
    names.
    """
    of_smp = smp.encoders.get_encoder_names()
    of_timm = [f"tu-{model}" for model in timm.list_models()]
    if name not in of_smp and name.split(".")[0] not in of_timm:
        raise unknown("encoder", name, of_timm if name.startswith("tu-") else of_smp)


def encoder(
    name: str,
    in_channels: int = 3,
    depth: int = 5,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """smp's `get_encoder`, with errors that help.

    Args:
        name: of smp, or of timm as "tu-NAME".
        weights: "imagenet", from the hub, or None: random.
        options: for the encoder.

    Raises:
        ValueError: an unknown name; a network without a pyramid of levels.
        OSError: the weights cannot be downloaded.
    """
    check_name(name)
    if name.startswith("tu-") and weights is not None:
        weights = True  # timm names its weights in the model's name and wants a yes or no
    try:
        return get_encoder(name, in_channels=in_channels, depth=depth, weights=weights, **options)
    except ValueError as error:  # smp names neither the encoder nor a cure
        cure = "choose one with levels from stride 2 or 4 to 32, such as resnet18 or tu-pvt_v2_b2"
        raise ValueError(f"{name} has no pyramid of {depth} levels ({error}): {cure}") from error
    except (OSError, RuntimeError) as error:
        if weights is None:
            raise
        cure = f"name a folder that holds {name}.safetensors as weights_dir, or use no weights"
        raise OSError(
            f"the pretrained weights of {name} could not be downloaded ({error}); {cure}"
        ) from error


def levels(channels: Sequence[int], strides: Sequence[int], who: str) -> list[int]:
    """Of an encoder's `out_channels` (index k: stride 2 ** k) those at `strides`.

    Raises:
        ValueError: the encoder has no channels at one of them; `who` is named.
    """
    found = {2**k: n for k, n in enumerate(channels) if n > 0}
    if missing := [stride for stride in strides if stride not in found]:
        there = ", ".join(map(str, [stride for stride in found if stride > 1])) or "none"
        reads = f"{who} reads the levels of strides {', '.join(map(str, strides))}"
        lacks = f"the encoder has none of stride {', '.join(map(str, missing))} (it has {there})"
        raise ValueError(f"{reads}, but {lacks}: choose an encoder that has them")
    return [found[stride] for stride in strides]


def drop_path(name: str, rate: float) -> dict[str, float]:
    """The option of `encoder` for stochastic depth of that rate; none where it has no such
    thing.
    """
    if not rate or not name.startswith("tu-"):
        return {}
    try:
        with torch.device("meta"):
            timm.create_model(name.removeprefix("tu-"), features_only=True, drop_path_rate=rate)
    except TypeError:  # the network's class does not know the argument
        return {}
    return {"drop_path_rate": rate}


def load_weights(module: nn.Module, name: str, folder: str | Path) -> None:
    """Load `folder`/`name`.safetensors, a state dict under smp's key names, into an encoder.

    Raises:
        FileNotFoundError: no such file; lists the names that are there.
        ValueError: the file is damaged, or holds another encoder's weights.
    """
    path = _weights_file(name, folder)
    try:
        state = load_file(path)
        _compare(module, state)
        module.load_state_dict({**module.state_dict(), **state})
    except (SafetensorError, RuntimeError) as error:
        raise _wrong_weights(path, name, error) from error


def check_weights(name: str, folder: str | Path | None) -> None:
    """Whether `folder` holds weights that fit the encoder: names and shapes alone, in a second.

    Raises:
        ValueError: an unknown encoder, a damaged file, or another encoder's weights.
        FileNotFoundError: no such file; lists the names that are there.
    """
    check_name(name)
    if folder is None:
        return
    path = _weights_file(name, folder)
    with torch.device("meta"):
        module = encoder(name)
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
        _compare(module, shapes)
        own = module.state_dict()
        for key, shape in shapes.items():
            if key in own and list(own[key].shape) != shape:
                raise RuntimeError(f"{key} has the shape {shape}, not {list(own[key].shape)}")
    except (SafetensorError, RuntimeError) as error:
        raise _wrong_weights(path, name, error) from error


def _weights_file(name: str, folder: str | Path) -> Path:
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in Path(folder).glob("*.safetensors"))) or "none"
        raise FileNotFoundError(f"no weights of {name} in {folder}; it holds: {there}")
    return path


def _compare(module: nn.Module, state: dict) -> None:
    """RuntimeError where the keys differ, but for counters of batch normalisation."""
    own, given = (
        {key for key in keys if not key.endswith("num_batches_tracked")}
        for keys in (module.state_dict(), state)
    )
    if strange := own ^ given:
        raise RuntimeError(f"{len(strange)} keys are missing or not expected, as {min(strange)}")


def _wrong_weights(path: Path, name: str, reason: Exception) -> ValueError:
    return ValueError(f"{path} is damaged or not of {name}: {reason}; fetch it again")


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of RGB in [0, 1] that the encoder's pretrained weights expect.

    Where smp or timm name none, and for encoders that take other ranges, ImageNet's.
    """
    if name.startswith("tu-"):
        settings = timm.get_pretrained_cfg(name.removeprefix("tu-"))
        return (tuple(settings.mean), tuple(settings.std)) if settings else IMAGENET
    every = smp.encoders.encoders[name]["pretrained_settings"]
    settings = every.get("imagenet") or next(iter(every.values()), {})
    if settings.get("input_range", [0, 1]) != [0, 1] or settings.get("input_space") == "BGR":
        return IMAGENET
    mean, std = settings.get("mean", IMAGENET[0]), settings.get("std", IMAGENET[1])
    return tuple(mean), tuple(std)


class UpsampledFirst(nn.Module):
    """An encoder whose empty stride-2 level is filled by its stride-4 level, nearest-upsampled x2.

    Encoders that begin at stride 4 (PVT, Swin, ConvNeXt, ...) leave smp's stride-2 level without
    channels. The U-Net v2 paper's baselines had this remedy (its Table 4: U-Net (PVT) 28.15 M).

    Raises:
        ValueError: an encoder that has a stride-2 level.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        image, gap, first, *rest = encoder.out_channels
        if gap:
            has = f"has {gap} channels at stride 2"
            raise ValueError(f"this encoder {has} and needs none upsampled: use smp.Unet")
        self.encoder = encoder
        self.out_channels = [image, first, first, *rest]
        self.output_stride = encoder.output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        image, _, first, *rest = self.encoder(x)
        return [image, F.interpolate(first, scale_factor=2.0), first, *rest]
