"""Recipes: how a model is trained, as the papers write it or as their released code ran.

| recipe                | optimiser              | rate     | loss                            |
|-----------------------|------------------------|----------|---------------------------------|
| `paper`               | Adam 1e-3              | poly 0.9 | cross-entropy + Dice            |
| `released`            | AdamW 1e-4, decay 1e-4 | constant | structure loss, as it ran       |
| `released-as-written` | AdamW 1e-4, decay 1e-4 | constant | structure loss, as PraNet wrote |
| `released-isic`       | SGD 1e-3, decay 3e-5   | poly 0.9 | cross-entropy + 1.5 Dice        |
| `unetpp`              | Adam 3e-4              | constant | UNet++'s, as its code has it    |
| `unetpp-tmi`          | Adam 3e-4              | constant | UNet++'s, Eq. 2 of TMI          |
| `unetpp-dlmia`        | Adam 3e-4              | constant | UNet++'s, as DLMIA prints it    |

Each recipe's loss is the one of its name, see `losses`. The number of epochs, batch and image size
and augmentation are parameters of the run, not of the recipe.
"""

from dataclasses import dataclass

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How to train: optimiser, schedule, clipping, scales.

    Attributes:
        optimizer: name in torch.optim; Adam's betas are .9 and .999.
        lr: peak learning rate.
        weight_decay: the optimiser's.
        momentum: Nesterov's, of SGD; None for others.
        poly: learning rate = lr (1 - progress) ** poly at each step; 0: constant.
        clip_norm: largest norm of the whole gradient; None: not clipped.
        clip_value: largest absolute value of each element of the gradient; None: not clipped.
        scales: one optimiser step per batch and scale; sizes are rounded to a multiple of 32.
        drop_path: rate of stochastic depth of the encoder (PVT's is 0.1). An encoder without drop
            path (ResNet, VGG, MobileNet of smp) is trained without.
    """

    optimizer: str
    lr: float
    weight_decay: float = 0.0
    momentum: float | None = None
    poly: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    scales: tuple[float, ...] = (1.0,)
    drop_path: float = 0.0


# The U-Net v2 paper's text: Adam 1e-3, betas .9/.999, poly 0.9. It says nothing of clipping: 12 is
# its ISIC trainer's. The rate falls at every step (the trainer's: at every epoch), which matters
# only in runs of few epochs.
_PAPER = Recipe("Adam", 1e-3, poly=0.9, clip_norm=12.0)

# The released polyp code as it runs: its decay (x 0.1 every 200 epochs) is never reached in 99.
# Deviations: the best epoch is chosen on validation (there: on the test sets); images are augmented
# unless augment="none".
_RELEASED = Recipe(
    "AdamW",
    1e-4,
    weight_decay=1e-4,
    clip_value=0.5,
    scales=(0.75, 1.0, 1.25),
    drop_path=0.1,
)

# The released ISIC code, a trainer of nnU-Net: batch_size 49, steps_per_epoch 250, epochs 300 and
# precision fp16 are what it adds. Deviations: the best epoch is chosen on validation (there: on the
# test images); the rate falls at every step, not at every epoch; the coarse maps are enlarged to
# the labels (there: the labels shrunk to the maps); one sigmoid in place of two softmax channels,
# which is the same function; images are normalised by the encoder's mean and deviation (there: by
# their own); augment="strong" is near its augmentation and not equal; and there is no test-time
# flipping.
_RELEASED_ISIC = Recipe(
    "SGD",
    1e-3,
    weight_decay=3e-5,
    momentum=0.99,
    poly=0.9,
    clip_norm=12.0,
    drop_path=0.1,
)

# UNet++ (TMI): Adam 3e-4, constant; the hybrid loss, 1 per head. Its code has 1e-3 and an L2
# penalty instead, and both stop early on validation: here the best epoch is kept, and the epochs
# are given.
_UNETPP = Recipe("Adam", 3e-4)

RECIPES = {
    "paper": _PAPER,
    "released": _RELEASED,
    "released-as-written": _RELEASED,
    "released-isic": _RELEASED_ISIC,
    "unetpp": _UNETPP,
    "unetpp-tmi": _UNETPP,
    "unetpp-dlmia": _UNETPP,
}
