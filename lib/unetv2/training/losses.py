"""The losses of the papers' training lines, with deep supervision over any list of logits.

`make(name, classes)` gives a callable `(outputs, mask) -> scalar`; `outputs` is one tensor of
logits (N, C, h, w) or a list of them, the evaluated one first, of any sizes: each is upsampled
(bilinear) to the mask. A binary mask is float (N, 1, H, W) in [0, 1], a multi-class one int64 (N,
H, W) with 0 = background. Losses are computed in float32 under mixed precision. Sums over the batch
run over the batches of all processes, so that their number does not change the loss.

| name                  | loss of one map               | weights of the maps, in their order |
|-----------------------|-------------------------------|-------------------------------------|
| `paper`               | cross-entropy + soft Dice     | halved: .533, .267, .133, .067      |
| `released`            | structure loss, as it ran     | the first two, 1 each               |
| `released-as-written` | structure loss, as PraNet's   | the first two, 1 each               |
| `released-isic`       | cross-entropy + 1.5 soft Dice | halved                              |
| `unetpp`              | `hybrid`, form "code"         | 1 each, as UNet++ has it            |
| `unetpp-tmi`          | `hybrid`, form "tmi"          | 1 each                              |
| `unetpp-dlmia`        | `hybrid`, form "dlmia"        | 1 each                              |

The U-Net v2 paper names no loss. Its ISIC trainer used cross-entropy + 1.5 soft Dice over the
batch, background left out, with the halved weights (they sum to 1 and let the finest map, the one
that is evaluated, dominate): `released-isic`. `paper` keeps that with 1:1 in place of 1:1.5, the
BCE + Dice of the ISIC line and of UNet++. Deviation: nnU-Net shrinks the labels to each map, we
enlarge each map to the labels, so that small objects do not vanish from the coarse targets.

UNet++'s printed equations hold only the positive term of the cross-entropy and are blind to false
positives of one sigmoid channel. `unetpp-tmi` and `unetpp-dlmia` therefore see a binary mask as two
classes, background and object, of logits 0 and z, whose softmax is the sigmoid of z.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.errors import unknown
from .processes import total
from .recipes import RECIPES

__all__ = ["NAMES", "ce_dice_loss", "hybrid", "make", "structure_loss"]

NAMES = tuple(RECIPES)


def ce_dice_loss(
    logits: Tensor, mask: Tensor, smooth: float = 1.0, dice_weight: float = 1.0
) -> Tensor:
    """Cross-entropy + `dice_weight` (1 - D), D = (2 sum(p y) + s) / (sum(p) + sum(y) + s).

    D is the soft Dice with sums over batch and pixels and s = `smooth`. One channel: sigmoid and
    binary cross-entropy. K >= 2 channels: softmax, D averaged over channels 1..K-1.
    """
    if logits.shape[1] == 1:
        ce = F.binary_cross_entropy_with_logits(logits, mask)
        p, y = logits.sigmoid(), mask
    else:
        ce = F.cross_entropy(logits, mask)
        p = logits.softmax(1)[:, 1:]
        y = F.one_hot(mask, logits.shape[1]).movedim(-1, 1)[:, 1:].to(p.dtype)
    overlap, both = total((p * y).sum((0, 2, 3))), total((p + y).sum((0, 2, 3)))
    return ce + dice_weight * (1 - ((2 * overlap + smooth) / (both + smooth)).mean())


def structure_loss(logits: Tensor, mask: Tensor, as_written: bool = False) -> Tensor:
    """PraNet's weighted BCE + weighted IoU, w = 1 + 5 |avgpool31(mask) - mask|; binary.

    `as_written` is the formula of the PraNet paper: sum(w bce) / sum(w) per image. The released
    code of PraNet, Polyp-PVT and U-Net v2 passes `reduce='none'`, a legacy argument that any
    non-empty string makes true, so its BCE is a scalar mean already and the weight cancels: it acts
    on the IoU term only. The published figures of the line were trained so, hence the default.

    Shape:
        logits and mask: (N, 1, H, W) both.
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
    """avgpool31, zeros beyond the border: columns, then rows; 62 terms in place of 961."""
    return F.avg_pool2d(F.avg_pool2d(mask, (31, 1), 1, (15, 0)), (1, 31), 1, (0, 15))


def hybrid(
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
    form: Literal["code", "tmi", "dlmia"] = "code",
    weights: Sequence[float] | None = None,
) -> Tensor:
    """UNet++'s hybrid loss, cross-entropy and Dice, summed over the heads, in one of three forms.

    The papers and their code differ:

    - "code": 1/2 CE - (2 sum(yp) + 1) / (sum(y) + sum(p) + 1), sums over the whole batch; CE has
      both terms. From -1.
    - "tmi" (Eq. 2): -1/N sum_n sum_c (y log p + 2yp / (y^2 + p^2)), N pixels, no 1/2, and a ratio
      for each pixel.
    - "dlmia": -1/N sum_b (1/2 y_b log p_b + 2 y_b p_b / (y_b + p_b)), N images; read as the mean of
      the cross-entropy over the pixels and the ratio of the sums of image b (its y_b and p_b are
      the flattened image).

    In words: both printed equations have only the positive term y log p of the cross-entropy. With
    softmax that is all of it; with one sigmoid channel a background pixel adds nothing to "tmi",
    neither loss nor gradient, and "foreground everywhere" is its minimum: use "code" there, or two
    classes, as the recipe `unetpp-tmi` does.

    Args:
        outputs: logits (N, C, ...), or a list of such, all of the target's size.
        target: C = 1: (N, 1, ...) in [0, 1]. C >= 2: class ids (N, ...), int64.
        weights: one per head, in the order of `outputs`; None: 1 each, as the papers.

    Raises:
        ValueError: unknown form; not one weight per head.
    """
    if form not in ("code", "tmi", "dlmia"):
        raise unknown("form of the hybrid loss", form, ("code", "tmi", "dlmia"))
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    weights = [1.0] * len(outputs) if weights is None else weights
    if len(weights) != len(outputs):
        given = f"{len(weights)} weights for {len(outputs)} heads"
        raise ValueError(f"{given}: give one weight per head, deepest first")
    return sum(w * _hybrid(z, target, form) for w, z in zip(weights, outputs, strict=True))


def _hybrid(z: Tensor, target: Tensor, form: str) -> Tensor:
    binary = z.shape[1] == 1
    log_p = F.logsigmoid(z) if binary else F.log_softmax(z, dim=1)
    y = target.reshape(z.shape) if binary else F.one_hot(target, z.shape[1]).movedim(-1, 1)
    log_p, y = log_p.flatten(2), y.to(z.dtype).flatten(2)  # each (N, C, pixels)
    p = log_p.exp()
    entropy = -(y * log_p).sum(1)
    tiny = torch.finfo(p.dtype).tiny  # 0 / 0 is 0: y = 0 makes the numerator 0
    if form == "tmi":
        return (entropy - (2 * y * p / (y**2 + p**2).clamp_min(tiny)).sum(1)).mean()
    if form == "dlmia":
        ratio = 2 * (y * p).sum((1, 2)) / (y + p).sum((1, 2)).clamp_min(tiny)
        return (0.5 * entropy.mean(1) - ratio).mean()
    if binary:
        entropy = F.binary_cross_entropy_with_logits(z.flatten(2), y)
    overlap, both = total((y * p).sum()), total(y.sum() + p.sum())
    return 0.5 * entropy.mean() - (2 * overlap + 1) / (both + 1)


def make(name: str, classes: int) -> Callable[[Tensor | Sequence[Tensor], Tensor], Tensor]:
    """The loss called `name` (see the module) for models with `classes` logit channels.

    Raises:
        ValueError: unknown name, or a structure loss for several classes (it is defined for one
            foreground).
    """
    if name not in NAMES:
        raise unknown("loss", name, NAMES)
    structure = name in ("released", "released-as-written")
    if structure and classes != 1:
        given = f"recipe {name!r} is defined for one foreground class, not {classes} channels"
        raise ValueError(f"{given}; use 'paper'")

    def one(logits: Tensor, mask: Tensor) -> Tensor:
        logits = logits.float()
        if logits.shape[-2:] != mask.shape[-2:]:
            size = mask.shape[-2:]
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        if structure:
            return structure_loss(logits, mask, as_written=name == "released-as-written")
        if name == "paper":
            return ce_dice_loss(logits, mask)
        if name == "released-isic":
            return ce_dice_loss(logits, mask, smooth=1e-5, dice_weight=1.5)
        form = name.partition("-")[2] or "code"
        if form != "code" and classes == 1:
            logits, mask = torch.cat([torch.zeros_like(logits), logits], 1), mask[:, 0].long()
        return hybrid(logits, mask, form)

    def loss(outputs: Tensor | Sequence[Tensor], mask: Tensor) -> Tensor:
        maps = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if structure:
            first, *rest = maps
            return sum(one(m, mask) for m in (_beside(first, rest[1:]), *rest[:1]))
        if name.startswith("unetpp"):
            return sum(one(m, mask) for m in maps)
        halved = [0.5**i / (2 - 0.5 ** (len(maps) - 1)) for i in range(len(maps))]
        return sum(w * one(m, mask) for w, m in zip(halved, maps, strict=True))

    return loss


def _beside(first: Tensor, rest: Sequence[Tensor]) -> Tensor:
    """`first`; in backward `rest` get a gradient of 0: several processes wait for every head's."""
    return _Beside.apply(first, *rest) if rest else first


class _Beside(torch.autograd.Function):
    """No product with 0, which would be nan for a head that overflowed in fp16."""

    @staticmethod
    def forward(ctx, first: Tensor, *rest: Tensor) -> Tensor:
        ctx.rest = [(x.shape, x.dtype) for x in rest]
        return first.view_as(first)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, *(gradient.new_zeros(shape, dtype=dtype) for shape, dtype in ctx.rest)
