"""The released U-Net v2 from a clone that the user made: model, loader, loss, names of weights.

It has no licence, so none of it is kept here.
"""

import contextlib
import importlib.util
import io
import re
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["difference", "in_our_names", "loader", "loss", "model", "our_key"]


def model(repo: Path, drop_path: bool = False) -> nn.Module:
    """The released U-Net v2 with random weights.

    Importing it replaces timm's pvt_v2_b2: build ours first.

    As it starts, its logits in evaluation mode are the head's bias and little else (deviation
    1e-5), for a product of four small factors is next to nothing. Nothing could be told from their
    differences. So the factors are made as large as what they are computed from, and batch
    normalisation gets statistics.
    """
    _wants(repo / "unet_v2" / "UNet_v2.py")
    sys.path.insert(0, str(repo))
    with warnings.catch_warnings(
        action="ignore"
    ):  # old names of timm's modules, and that nothing is pretrained
        from unet_v2.UNet_v2 import UNetV2

        net = UNetV2(n_classes=1, deep_supervision=True, pretrained_path=None)
    for module in net.modules():
        if hasattr(module, "drop_prob") and not drop_path:
            module.drop_prob = 0.0
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for key, weight in net.named_parameters():
            if key.startswith("sdi_") and weight.ndim == 4:
                weight *= (
                    3**0.5
                )  # PyTorch's start gives a convolution a third of its input's variance
        for norm in norms:
            norm.momentum = None  # the plain mean of what it sees
        net.train()(torch.randn(8, 3, 128, 128))
    for norm in norms:
        norm.momentum = 0.1
    return net


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative, in the norm, after the mean of `expected` is taken from both, so that no bias hides
    it.
    """
    centre = expected.mean() if expected.numel() > 1 else 0
    return ((found - expected).norm() / (expected - centre).norm()).item()


def loader(
    repo: Path, folder: Path, batch: int, size: int, workers: int, pin_memory: bool
) -> DataLoader:
    """The released polyp loader of `folder`/images and `folder`/masks."""
    source = repo / "PolypSeg" / "utils" / "dataloader.py"
    _wants(source)
    spec = importlib.util.spec_from_file_location("released_dataloader", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folders = (f"{folder / name}/" for name in ("images", "masks"))
    with contextlib.redirect_stdout(io.StringIO()):
        return module.get_loader(*folders, batch, size, num_workers=workers, pin_memory=pin_memory)


def _wants(file: Path) -> None:
    if not file.is_file():
        raise SystemExit(
            f"there is no {file}: name a whole clone of github.com/yaoppeng/U-Net_v2 as --repo"
        )


def loss(maps: list[Tensor], mask: Tensor) -> Tensor:
    """The loss of the released polyp training, from its description: see
    `losses.structure_loss`.
    """
    total = 0
    for z in maps[:2]:
        if z.shape[-1] != mask.shape[-1]:
            z = F.interpolate(z, mask.shape[-2:], mode="bilinear", align_corners=False)
        w = 1 + 5 * (F.avg_pool2d(mask, 31, stride=1, padding=15) - mask).abs()
        bce = (w * F.binary_cross_entropy_with_logits(z, mask)).sum((2, 3)) / w.sum((2, 3))
        p = z.sigmoid()
        inter, union = (p * mask * w).sum((2, 3)), ((p + mask) * w).sum((2, 3))
        total = total + (bce + 1 - (inter + 1) / (union - inter + 1)).mean()
    return total


def our_key(key: str) -> str | None:
    """Our name of a released parameter; None for the layer that the released forward never uses."""
    if key.startswith("deconv5"):
        return None
    rules = [
        # PVT v2-B2: the released module list to timm's stages
        (r"encoder\.backbone\.patch_embed1\.(.+)", r"encoder.model.patch_embed.\1"),
        (r"encoder\.backbone\.patch_embed(\d)\.(.+)", r"encoder.model.stages_{0}.downsample.\2"),
        (r"encoder\.backbone\.block(\d)\.(.+)", r"encoder.model.stages_{0}.blocks.\2"),
        (r"encoder\.backbone\.norm(\d)\.(.+)", r"encoder.model.stages_{0}.norm.\2"),
        # Eq. 1 in the released order: channel, then spatial; the 1x1 reduction; Eq. 3
        (r"ca_(\d)\.fc1\.(.+)", r"decoder.skip.attention.{0}.0.squeeze.\2"),
        (r"ca_(\d)\.fc2\.(.+)", r"decoder.skip.attention.{0}.0.excite.\2"),
        (r"sa_(\d)\.conv1\.(.+)", r"decoder.skip.attention.{0}.1.conv.\2"),
        (r"Translayer_(\d)\.conv\.(.+)", r"decoder.skip.reduce.{0}.0.\2"),
        (r"Translayer_(\d)\.bn\.(.+)", r"decoder.skip.reduce.{0}.1.\2"),
        (r"sdi_(\d)\.convs\.(.+)", r"decoder.skip.theta.{0}.\2"),
        # decoder and heads; the released list of heads begins at the coarsest level
        (r"deconv(\d)\.(.+)", r"decoder.up.{1}.\2"),
        (r"seg_outs\.3\.(.+)", r"segmentation_head.\1"),
        (r"seg_outs\.(\d)\.(.+)", r"supervision_heads.{2}.\2"),
    ]
    for pattern, target in rules:
        found = re.fullmatch(pattern, key)
        if found:
            digit = int(found[1]) if found[1].isdigit() else 0
            return (
                found.expand(target)
                .format(digit - 1, digit - 2, 2 - digit)
                .replace("dwconv.dwconv", "dwconv")
            )
    raise KeyError(f"no rule for the released parameter {key}")


def in_our_names(state: dict[str, Tensor], ours: nn.Module) -> dict[str, Tensor]:
    """The released state dict as one of `ours`, "unetv2-released" with deep supervision."""
    mapped = {our_key(k): v for k, v in state.items() if our_key(k)}
    return {k: mapped[k].reshape(v.shape) for k, v in ours.state_dict().items()}
