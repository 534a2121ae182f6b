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
| `pranet`              | Adam 1e-4              | constant | structure loss, as it ran       |
| `polyp-pvt`           | AdamW 1e-4, decay 1e-4 | constant | structure loss, as it ran       |
| `sanet`               | SGD 0.4, decay 5e-4    | halved   | cross-entropy + Dice per image  |
| `transfuse`           | Adam 7e-5, beta_1 0.5  | constant | structure loss, as PraNet wrote |
| `ege`                 | AdamW 1e-3, decay 1e-2 | cosine   | cross-entropy + Dice per image  |

Each recipe's loss is the one of its name, see `losses`. The number of epochs, batch and image size
and augmentation are parameters of the run, not of the recipe.

The last five are those of the methods that the papers compare with, read in their authors' code,
whose file and commit stand beside each below. All choose the best epoch on validation; the authors
choose it on test images (Polyp-PVT, TransFuse on its own validation images, the EGE line) or take
the last (PraNet, SANet).
"""

import math
from dataclasses import dataclass

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How to train: optimiser, schedule, clipping, scales.

    Attributes:
        optimizer: name in torch.optim.
        lr: peak learning rate.
        weight_decay: the optimiser's.
        momentum: Nesterov's, of SGD; None for others.
        betas: Adam's and AdamW's.
        encoder_rate: factor of the rate of a network's `encoder`; one without takes the whole rate.
        poly: learning rate = lr (1 - progress) ** poly at each step; 0: constant.
        halved: progress, from 0 to 1, at which the rate is halved.
        half_waves: of a cosine over the whole training, down first; 0: none.
        lowest: where that cosine turns, as a share of lr.
        clip_norm: largest norm of the whole gradient; None: not clipped.
        clip_value: largest absolute value of each element of the gradient; None: not clipped.
        scales: one optimiser step per batch and scale; sizes are rounded to a multiple of 32.
        chances: of each scale, where one of them is drawn for a batch in place of all in turn.
        colour_exchange: every image gets the colours of another, see `data.augment`.
        drop_path: rate of stochastic depth of the encoder (PVT's is 0.1). An encoder without drop
            path (ResNet, VGG, MobileNet of smp) is trained without.
    """

    optimizer: str
    lr: float
    weight_decay: float = 0.0
    momentum: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    encoder_rate: float = 1.0
    poly: float = 0.0
    halved: tuple[float, ...] = ()
    half_waves: int = 0
    lowest: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    scales: tuple[float, ...] = (1.0,)
    chances: tuple[float, ...] | None = None
    colour_exchange: bool = False
    drop_path: float = 0.0

    def share(self, progress: float) -> float:
        """The share of the peak learning rate at `progress`, from 0 to 1, through the training."""
        if self.half_waves:
            wave = (1 + math.cos(math.pi * self.half_waves * progress)) / 2
            return self.lowest + (1 - self.lowest) * wave
        if self.halved:
            return 0.5 ** sum(progress >= point for point in self.halved)
        return (1 - progress) ** self.poly

    def steps(self, batches: int) -> int:
        """Optimiser steps over so many batches."""
        return batches if self.chances else batches * len(self.scales)


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

# PraNet (DengPingFan/PraNet 95f12bd, MyTrain.py): 19 epochs, batch 16, 352 px, no augmentation; its
# decay (x 0.1 every 50 epochs) is never reached. `released` differs from it in AdamW and its decay
# of 1e-4, in drop path, in the first two maps in place of all, and in 99 epochs.
_PRANET = Recipe("Adam", 1e-4, clip_value=0.5, scales=(0.75, 1.0, 1.25))

# SANet (weijun88/SANet 68da18e, src/train.py): 128 epochs, batch 64, fp16, flips and quarter turns
# ("light"). The rate of a batch of 64: lower it with the batch. Deviations: images are shrunk to
# the run's size before the colours are exchanged, not after; the giver of the colours is drawn from
# all training images (there: seven times in ten from those whose name is a number, ClinicDB's, else
# from Kvasir's, and always the same two for an image); values beyond 255 are clipped (there: they
# wrap); the rates are halved after 1/2 and 3/4 of the training (there: 63 and 95 of 128 epochs).
_SANET = Recipe(
    "SGD",
    0.4,
    weight_decay=5e-4,
    momentum=0.9,
    encoder_rate=0.1,
    halved=(0.5, 0.75),
    scales=(256 / 352, 288 / 352, 320 / 352, 1.0),
    chances=(0.1, 0.2, 0.3, 0.4),
    colour_exchange=True,
)

# TransFuse (Rayicer/TransFuse 3f50ab6, train_isic.py): 25 epochs, batch 16, 192 x 256 px. Its
# augmentation (shift, scale, turn, colour, flips) is near "strong" and not equal.
_TRANSFUSE = Recipe("Adam", 7e-5, betas=(0.5, 0.999), clip_norm=2.0)

# The EGE line (JCruan519/EGE-UNet f52ba30 and MALUNet e184b47, configs/config_setting.py and
# utils.py): 300 epochs, batch 8, 256 px. Its cosine turns at 1e-5 every 50 epochs and rises again:
# six half waves, so that the last epoch has the highest rate. Deviations: the rate moves at every
# step, not at every epoch; images are normalised by mean and deviation (there: stretched from 0 to
# 255, each by its own extremes); "light" has quarter turns (there: one angle, drawn once for the
# whole training).
_EGE = Recipe("AdamW", 1e-3, weight_decay=1e-2, half_waves=6, lowest=0.01)

RECIPES = {
    "paper": _PAPER,
    "released": _RELEASED,
    "released-as-written": _RELEASED,
    "released-isic": _RELEASED_ISIC,
    "unetpp": _UNETPP,
    "unetpp-tmi": _UNETPP,
    "unetpp-dlmia": _UNETPP,
    "pranet": _PRANET,
    # Polyp-PVT (DengPingFan/Polyp-PVT cd71fbf, Train.py): U-Net v2's polyp code is a light edit of
    # it, and nothing that a recipe holds was changed.
    "polyp-pvt": _RELEASED,
    "sanet": _SANET,
    "transfuse": _TRANSFUSE,
    "ege": _EGE,
}
