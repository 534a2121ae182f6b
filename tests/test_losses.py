"""Losses: values by hand, both structure losses against their definitions, deep supervision at any sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from unetv2 import losses
from unetv2.nested import hybrid


def test_ce_dice_by_hand():
    # p = 0.5 everywhere, 4 pixels, 1 of them foreground: BCE = ln 2; Dice = (2 * 0.5 + 1) / (2 + 1 + 1) = 0.5
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert losses.ce_dice_loss(torch.zeros(1, 1, 2, 2), mask).item() == pytest.approx(math.log(2) + 0.5)
    # three classes, p = 1/3 each, so sum(p) = 4/3; class 1 on 1 pixel, class 2 on 2
    target = torch.tensor([[[1, 2], [2, 0]]])
    dice = ((2 / 3 + 1) / (4 / 3 + 2) + (4 / 3 + 1) / (4 / 3 + 3)) / 2
    assert losses.ce_dice_loss(torch.zeros(1, 3, 2, 2), target).item() == pytest.approx(math.log(3) + 1 - dice)


def test_monai_agrees_on_soft_dice():
    from monai.losses import DiceLoss

    g = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(3, 1, 9, 7, generator=g), (torch.rand(3, 1, 9, 7, generator=g) > 0.6).float()
    monai = DiceLoss(sigmoid=True, batch=True, smooth_nr=1, smooth_dr=1)(logits, mask)
    ours = losses.ce_dice_loss(logits, mask) - F.binary_cross_entropy_with_logits(logits, mask)
    torch.testing.assert_close(ours, monai)


def test_structure_loss_is_what_the_released_line_computes():
    """The legacy argument is still truthy in torch: the mean BCE, so that the boundary weight cancels out of it."""
    g = torch.Generator().manual_seed(1)
    logits, mask = torch.randn(2, 1, 40, 40, generator=g), torch.zeros(2, 1, 40, 40)
    mask[:, :, 10:25, 12:30] = 1
    w = 1 + 5 * (F.avg_pool2d(mask, 31, 1, 15) - mask).abs()
    with pytest.warns(UserWarning, match="reduce"):
        legacy = F.binary_cross_entropy_with_logits(logits, mask, reduce="none")
    assert legacy.ndim == 0
    p = logits.sigmoid()
    inter, union = (w * p * mask).sum((2, 3)), (w * (p + mask)).sum((2, 3))
    iou = 1 - (inter + 1) / (union - inter + 1)
    bce = (w * legacy).sum((2, 3)) / w.sum((2, 3))
    torch.testing.assert_close(losses.structure_loss(logits, mask), (bce + iou).mean())
    pixel = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    weighted = (w * pixel).sum((2, 3)) / w.sum((2, 3))
    torch.testing.assert_close(losses.structure_loss(logits, mask, as_written=True), (weighted + iou).mean())
    assert not torch.allclose(weighted, bce.expand_as(weighted))


def test_deep_supervision_weights_and_sizes():
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    sizes = [(32, 32), (17, 13), (4, 4), (2, 2)]
    maps = [torch.full((2, 1, *size), float(i), requires_grad=True) for i, size in enumerate(sizes)]
    one = [losses.ce_dice_loss(torch.full_like(mask, float(i)), mask).item() for i in range(4)]
    expected = sum(w * v for w, v in zip((8 / 15, 4 / 15, 2 / 15, 1 / 15), one, strict=True))
    loss = losses.make("paper", 1)(maps, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    released = losses.make("released", 1)(maps, mask).item()
    two = [losses.structure_loss(torch.full_like(mask, float(i)), mask).item() for i in range(2)]
    assert released == pytest.approx(sum(two), rel=1e-5)
    whole = [torch.full_like(mask, float(i)) for i in range(4)]
    assert losses.make("unetpp", 1)(maps, mask).item() == pytest.approx(hybrid(whole, mask).item(), rel=1e-5)


@pytest.mark.parametrize("name", losses.NAMES)
def test_the_right_answer_costs_least(name):
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 16:48] = 1
    loss = losses.make(name, 1)
    right, none, everywhere = (loss(z, mask).item() for z in (40 * mask - 20, -20 + 0 * mask, 20 + 0 * mask))
    assert right < 1e-3 < none and right < everywhere


def test_half_precision_logits_are_computed_in_float32():
    mask = (torch.arange(128 * 128).reshape(1, 1, 128, 128) % 3 == 0).float()
    z = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)).half()
    assert losses.make("paper", 1)(z, mask).item() == pytest.approx(losses.make("paper", 1)(z.float(), mask).item())


def test_wrong_names_and_classes():
    with pytest.raises(ValueError, match="did you mean 'released'"):
        losses.make("relesed", 1)
    with pytest.raises(ValueError, match="one foreground class, not 4 channels"):
        losses.make("released", 4)
