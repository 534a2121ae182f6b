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
| `pranet`              | structure loss, as it ran     | 1 each                              |
| `polyp-pvt`           | structure loss, as it ran     | the first two, 1 each               |
| `sanet`               | `per_image`, no s above       | the first                           |
| `transfuse`           | structure loss, as PraNet's   | .5, .3, .2                          |
| `ege`                 | `per_image`                   | 1, .5, .4, .3, .2, .1               |

The U-Net v2 paper names no loss. Its ISIC trainer used cross-entropy + 1.5 soft Dice over the
batch, background left out, with the halved weights (they sum to 1 and let the finest map, the one
that is evaluated, dominate): `released-isic`. `paper` keeps that with 1:1 in place of 1:1.5, the
BCE + Dice of the ISIC line and of UNet++. Deviation: nnU-Net shrinks the labels to each map, we
enlarge each map to the labels, so that small objects do not vanish from the coarse targets.

Where a list is shorter than the weights, the first of them count; maps beyond the weights have
none. EGE-UNet's weights are for its mask and those of its stages, the finest next; TransFuse's are
for its finest map, the transformer's and its coarsest.

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

__all__ = ["NAMES", "ce_dice_loss", "hybrid", "make", "per_image_loss", "structure_loss"]

NAMES = tuple(RECIPES)
STRUCTURE = ("released", "released-as-written", "pranet", "polyp-pvt", "transfuse")
AS_WRITTEN = ("released-as-written", "transfuse")
WEIGHTS = {  # of the maps, for the recipes that end their list
    "released": (1.0, 1.0),
    "released-as-written": (1.0, 1.0),
    "polyp-pvt": (1.0, 1.0),
    "sanet": (1.0,),
    "transfuse": (0.5, 0.3, 0.2),
    "ege": (1.0, 0.5, 0.4, 0.3, 0.2, 0.1),
}
EQUAL = ("unetpp", "unetpp-tmi", "unetpp-dlmia", "pranet")


def ce_dice_loss(
    logits: Tensor, mask: Tensor, smooth: float = 1.0, dice_weight: float = 1.0
) -> Tensor:
    """Cross-entropy + `dice_weight` (1 - D), D = (2 sum(p y) + s) / (sum(p) + sum(y) + s).

    D is the soft Dice with sums over batch and pixels and s = `smooth`. One channel: sigmoid and
    binary cross-entropy. K >= 2 channels: softmax, D averaged over channels 1..K-1.
    """
    ce, p, y = _foreground(logits, mask)
    overlap, both = total((p * y).sum((0, 2, 3))), total((p + y).sum((0, 2, 3)))
    return ce + dice_weight * (1 - ((2 * overlap + smooth) / (both + smooth)).mean())


def per_image_loss(logits: Tensor, mask: Tensor, above: float = 1.0) -> Tensor:
    """Cross-entropy + mean of 1 - (2 sum(p y) + `above`) / (sum(p) + sum(y) + 1) over the images.

    Sums over the pixels of one image, and of one channel but the background's. MALUNet and EGE-UNet
    have 1 above; SANet 0, so that an image without an object costs 1 whatever is predicted.
    """
    ce, p, y = _foreground(logits, mask)
    overlap, both = (p * y).sum((2, 3)), (p + y).sum((2, 3))
    return ce + 1 - ((2 * overlap + above) / (both + 1)).mean()


def _foreground(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, and probability and truth of the channels but the background's."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits, mask), logits.sigmoid(), mask
    ce = F.cross_entropy(logits, mask)
    p = logits.softmax(1)[:, 1:]
    return ce, p, F.one_hot(mask, logits.shape[1]).movedim(-1, 1)[:, 1:].to(p.dtype)


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
    structure = name in STRUCTURE
    if structure and classes != 1:
        given = f"recipe {name!r} is defined for one foreground class, not {classes} channels"
        raise ValueError(f"{given}; use 'paper'")

    def one(logits: Tensor, mask: Tensor) -> Tensor:
        logits = logits.float()
        if logits.shape[-2:] != mask.shape[-2:]:
            size = mask.shape[-2:]
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        if structure:
            return structure_loss(logits, mask, as_written=name in AS_WRITTEN)
        if name == "paper":
            return ce_dice_loss(logits, mask)
        if name == "released-isic":
            return ce_dice_loss(logits, mask, smooth=1e-5, dice_weight=1.5)
        if name in ("sanet", "ege"):
            return per_image_loss(logits, mask, above=0.0 if name == "sanet" else 1.0)
        form = name.partition("-")[2] or "code"
        if form != "code" and classes == 1:
            logits, mask = torch.cat([torch.zeros_like(logits), logits], 1), mask[:, 0].long()
        return hybrid(logits, mask, form)

    def loss(outputs: Tensor | Sequence[Tensor], mask: Tensor) -> Tensor:
        maps = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = _weights(name, len(maps))
        maps[0] = _beside(maps[0], maps[len(weights) :])
        return sum(w * one(m, mask) for w, m in zip(weights, maps, strict=False))

    return loss


def _weights(name: str, maps: int) -> Sequence[float]:
    """Weights of so many maps, fewer where the rest has none."""
    if name in EQUAL:
        return (1.0,) * maps
    if name in WEIGHTS:
        return WEIGHTS[name][:maps]
    return [0.5**i / (2 - 0.5 ** (maps - 1)) for i in range(maps)]


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
