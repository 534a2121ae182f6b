"""Losses of both papers' training lines, with deep supervision over any list of logits.

`make(name, classes)` gives a callable `(outputs, mask) -> scalar`; `outputs` is one tensor of logits (N, C, h, w) or a
list of them, finest first, of any sizes: each is upsampled (bilinear) to the mask. A binary mask is float (N, 1, H, W)
in [0, 1], a multi-class one int64 (N, H, W) with 0 = background. Losses are computed in float32 under mixed precision.

| name                  | loss of one map                 | weights of the maps, finest first              |
|-----------------------|---------------------------------|------------------------------------------------|
| `paper`               | cross-entropy + soft Dice       | halved at each level: .533, .267, .133, .067   |
| `released`            | structure loss, as the code ran | the two finest, 1 each                         |
| `released-as-written` | structure loss, as PraNet wrote | the two finest, 1 each                         |
| `unetpp`              | `nested.hybrid`, form "code"    | 1 each, as UNet++ has it                       |

The U-Net v2 paper names no loss. Its ISIC trainer used cross-entropy + 1.5 soft Dice over the batch, background left
out, with the halved weights (they sum to 1 and let the finest map, the one that is evaluated, dominate); we keep that
with 1:1 in place of 1:1.5, the BCE + Dice of the ISIC line and of UNet++. Deviation: nnU-Net shrinks the labels to each
map, we enlarge each map to the labels, so that small objects do not vanish from the coarse targets.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from ..common.errors import unknown
from ..networks.family import hybrid

__all__ = ["NAMES", "ce_dice_loss", "make", "structure_loss"]

NAMES = ("paper", "released", "released-as-written", "unetpp")


def ce_dice_loss(logits: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """Cross-entropy plus 1 - soft Dice = 1 - (2 sum(p y) + s) / (sum(p) + sum(y) + s), sums over batch and pixels.

    One channel: sigmoid and binary cross-entropy. K >= 2 channels: softmax, the Dice averaged over channels 1..K-1.
    """
    if logits.shape[1] == 1:
        ce = F.binary_cross_entropy_with_logits(logits, mask)
        p, y = logits.sigmoid(), mask
    else:
        ce = F.cross_entropy(logits, mask)
        p = logits.softmax(1)[:, 1:]
        y = F.one_hot(mask, logits.shape[1]).movedim(-1, 1)[:, 1:].to(p.dtype)
    overlap, total = (p * y).sum((0, 2, 3)), (p + y).sum((0, 2, 3))
    return ce + 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


def structure_loss(logits: Tensor, mask: Tensor, as_written: bool = False) -> Tensor:
    """PraNet's weighted BCE + weighted IoU with w = 1 + 5 |avgpool31(mask) - mask|; binary, (N, 1, H, W) both.

    `as_written` is the formula of the PraNet paper: sum(w bce) / sum(w) per image. The released code of PraNet,
    Polyp-PVT and U-Net v2 passes `reduce='none'`, a legacy argument that any non-empty string makes true, so its BCE
    is a scalar mean already and the weight cancels: it acts on the IoU term only. The published figures of the line
    were trained so, hence the default.
    """
    w = 1 + 5 * (_mean31(mask) - mask).abs()
    if as_written:
        bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
        bce = (w * bce).sum((2, 3)) / w.sum((2, 3))
    else:
        bce = F.binary_cross_entropy_with_logits(logits, mask)
    p = logits.sigmoid()
    inter, union = (w * p * mask).sum((2, 3)), (w * (p + mask)).sum((2, 3))
    return (bce + 1 - (inter + 1) / (union - inter + 1)).mean()


def _mean31(mask: Tensor) -> Tensor:
    """avgpool31 of the structure loss, zeros beyond the border: columns first, then rows, 62 terms in place of 961."""
    return F.avg_pool2d(F.avg_pool2d(mask, (31, 1), 1, (15, 0)), (1, 31), 1, (0, 15))


def make(name: str, classes: int) -> Callable[[Tensor | Sequence[Tensor], Tensor], Tensor]:
    """The loss called `name` (see the module) for models with `classes` logit channels.

    Raises:
        ValueError: unknown name, or a structure loss for several classes (it is defined for one foreground).
    """
    if name not in NAMES:
        raise unknown("loss", name, NAMES)
    if name.startswith("released") and classes != 1:
        raise ValueError(f"recipe {name!r} is defined for one foreground class, not {classes} channels; use 'paper'")

    def one(logits: Tensor, mask: Tensor) -> Tensor:
        logits = logits.float()
        if logits.shape[-2:] != mask.shape[-2:]:
            logits = F.interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
        if name.startswith("released"):
            return structure_loss(logits, mask, as_written=name == "released-as-written")
        return ce_dice_loss(logits, mask) if name == "paper" else hybrid(logits, mask)

    def loss(outputs: Tensor | Sequence[Tensor], mask: Tensor) -> Tensor:
        maps = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if name.startswith("released"):
            rest = sum(0 * m.sum() for m in maps[2:])  # several processes wait for a gradient of every head, even of 0
            return sum(one(m, mask) for m in maps[:2]) + rest
        if name == "unetpp":
            return sum(one(m, mask) for m in maps)
        halved = [0.5**i / (2 - 0.5 ** (len(maps) - 1)) for i in range(len(maps))]
        return sum(w * one(m, mask) for w, m in zip(halved, maps, strict=True))

    return loss
