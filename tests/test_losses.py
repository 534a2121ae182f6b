"""Losses: values by hand, structure and hybrid losses by their definitions, deep supervision."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unetv2.training import losses
from unetv2.training.losses import hybrid


def test_ce_dice_by_hand():
    # p = 0.5 everywhere, 1 of 4 pixels foreground: BCE = ln 2; Dice = (2 * 0.5 + 1) / (2 + 1 + 1)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert losses.ce_dice_loss(torch.zeros(1, 1, 2, 2), mask).item() == pytest.approx(
        math.log(2) + 0.5
    )
    # three classes, p = 1/3 each, so sum(p) = 4/3; class 1 on 1 pixel, class 2 on 2
    target = torch.tensor([[[1, 2], [2, 0]]])
    dice = ((2 / 3 + 1) / (4 / 3 + 2) + (4 / 3 + 1) / (4 / 3 + 3)) / 2
    assert losses.ce_dice_loss(torch.zeros(1, 3, 2, 2), target).item() == pytest.approx(
        math.log(3) + 1 - dice
    )


def test_monai_agrees_on_soft_dice():
    from monai.losses import DiceLoss

    g = torch.Generator().manual_seed(0)
    logits, mask = (
        torch.randn(3, 1, 9, 7, generator=g),
        (torch.rand(3, 1, 9, 7, generator=g) > 0.6).float(),
    )
    monai = DiceLoss(sigmoid=True, batch=True, smooth_nr=1, smooth_dr=1)(logits, mask)
    ours = losses.ce_dice_loss(logits, mask) - F.binary_cross_entropy_with_logits(logits, mask)
    torch.testing.assert_close(ours, monai)


def test_structure_loss_is_what_the_released_line_computes():
    """The legacy argument is still true in torch: the mean BCE, where the weight cancels."""
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
    torch.testing.assert_close(
        losses.structure_loss(logits, mask, as_written=True), (weighted + iou).mean()
    )
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
    assert losses.make("unetpp", 1)(maps, mask).item() == pytest.approx(
        hybrid(whole, mask).item(), rel=1e-5
    )


@pytest.mark.parametrize("name", losses.NAMES)
def test_the_right_answer_costs_least(name):
    """Also of UNet++'s printed equations, which one sigmoid channel would make blind to excess."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 16:48] = 1
    loss = losses.make(name, 1)
    answers = (40 * mask - 20, torch.full_like(mask, -20), torch.full_like(mask, 20))
    right, none, everywhere = (loss(z, mask).item() for z in answers)
    floor = -1 if name.startswith("unetpp") else 0
    assert right == pytest.approx(floor, abs=1e-3)
    assert right + 0.1 < min(none, everywhere)


def test_released_isic_by_hand():
    """nnU-Net's: cross-entropy + 1.5 soft Dice over the batch, without background."""
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    loss = losses.make("released-isic", 1)(torch.zeros(1, 1, 2, 2), mask)
    assert loss.item() == pytest.approx(math.log(2) + 1.5 * (1 - 1 / 3), rel=1e-4)
    two = torch.zeros(1, 2, 2, 2)  # one sigmoid is two softmax channels, one of them fixed at 0
    same = losses.make("released-isic", 2)(two, mask[:, 0].long())
    assert loss.item() == pytest.approx(same.item())


def test_heads_without_a_loss_may_be_infinite():
    """In fp16 a head that nothing trains may overflow: it must not turn the loss into nan."""
    mask = torch.zeros(1, 1, 8, 8)
    values = {8: 0.0, 4: 0.0, 2: math.inf, 1: math.nan}
    maps = [torch.full((1, 1, s, s), v, requires_grad=True) for s, v in values.items()]
    loss = losses.make("released", 1)(maps, mask)
    loss.backward()
    assert math.isfinite(loss.item())
    assert [m.grad.abs().sum().item() > 0 for m in maps] == [True, True, False, False]
    assert all(
        m.grad.isfinite().all() for m in maps
    )  # 0, and not None: other processes wait for it


def test_half_precision_logits_are_computed_in_float32():
    mask = (torch.arange(128 * 128).reshape(1, 1, 128, 128) % 3 == 0).float()
    z = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)).half()
    assert losses.make("paper", 1)(z, mask).item() == pytest.approx(
        losses.make("paper", 1)(z.float(), mask).item()
    )


def test_wrong_names_and_classes():
    with pytest.raises(ValueError, match="did you mean 'released'"):
        losses.make("relesed", 1)
    with pytest.raises(ValueError, match="one foreground class, not 4 channels"):
        losses.make("released", 4)


# UNet++'s hybrid loss ----------------------------------------------------------------------------

P = torch.tensor([0.8, 0.4, 0.1, 0.6], dtype=torch.float64).view(2, 1, 1, 2)
Y = torch.tensor([1.0, 1, 0, 0], dtype=torch.float64).view(2, 1, 1, 2)


def test_hybrid_by_hand():
    z = torch.logit(P)
    log = np.log
    bce = -(log(0.8) + log(0.4) + log(0.9) + log(0.4)) / 4
    assert hybrid(z, Y).item() == pytest.approx(0.5 * bce - (2 * 1.2 + 1) / (2 + 1.9 + 1))
    tmi = -(log(0.8) + log(0.4) + 1.6 / 1.64 + 0.8 / 1.16) / 4
    assert hybrid(z, Y, "tmi").item() == pytest.approx(tmi)
    dlmia = -((log(0.8) + log(0.4)) / 4 + 2 * 1.2 / (2 + 1.2) + 0) / 2
    assert hybrid(z, Y, "dlmia").item() == pytest.approx(dlmia)


def test_hybrid_of_the_code_against_smp_and_torch():
    from segmentation_models_pytorch.losses import DiceLoss

    torch.manual_seed(0)
    z, y = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.7).float()
    dice = DiceLoss("binary", smooth=0.5)(z, y)  # smp halves sums and smooth
    expected = 0.5 * F.binary_cross_entropy_with_logits(z, y) + dice - 1
    torch.testing.assert_close(hybrid(z, y), expected)


@pytest.mark.parametrize("form", ["code", "tmi", "dlmia"])
def test_hybrid_with_two_classes(form):
    """Perfect and sure: cross-entropy 0 and Dice 1 (in Eq. 2 for each pixel)."""
    ids = torch.tensor([[[0, 1], [1, 0]]])
    z = 60 * F.one_hot(ids, 2).movedim(-1, 1).double()
    assert hybrid(z, ids, form).item() == pytest.approx(-1)
    assert hybrid(-z, ids, form) > 10
    z = torch.zeros(1, 2, 2, 2, requires_grad=True)
    hybrid(z, ids, form).backward()
    assert (
        z.grad.gather(1, ids[:, None]) < 0
    ).all()  # the right class goes up in every pixel, background too


@pytest.mark.parametrize(("form", "blind"), [("code", False), ("dlmia", False), ("tmi", True)])
def test_eq_2_with_a_sigmoid_is_blind_to_false_positives(form, blind):
    z = torch.zeros(1, 1, 2, 2, requires_grad=True)
    y = torch.tensor([[[[1.0, 0], [0, 0]]]])
    hybrid(z, y, form).backward()
    assert (z.grad[y == 0] == 0).all() == blind
    everywhere, right = torch.full_like(y, 30), (y - 0.5) * 60
    assert (hybrid(everywhere, y, form) <= hybrid(right, y, form)) == blind
    assert torch.isfinite(hybrid(torch.full_like(y, -200), torch.zeros_like(y), form))


def test_hybrid_sums_the_heads_with_their_weights():
    torch.manual_seed(0)
    z, y = [torch.randn(2, 1, 4, 4) for _ in range(3)], (torch.rand(2, 1, 4, 4) > 0.5).float()
    single = torch.stack([hybrid(head, y) for head in z])
    torch.testing.assert_close(hybrid(z, y), single.sum())
    torch.testing.assert_close(hybrid(z, y, weights=[1, 0.5, 0]), single[0] + single[1] / 2)
    with pytest.raises(ValueError, match="2 weights for 3 heads"):
        hybrid(z, y, weights=[1, 2])
    with pytest.raises(ValueError, match=r"unknown form.*dlmia"):
        hybrid(z, y, "DLMIA")
