"""UNet++'s hybrid loss, in the three forms that its papers and their code have."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss

from unetv2.training.losses import hybrid

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
    torch.manual_seed(0)
    z, y = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.7).float()
    dice = DiceLoss("binary", smooth=0.5)(
        z, y
    )  # smp's sums are half of Dice's, and so is its smooth
    expected = 0.5 * F.binary_cross_entropy_with_logits(z, y) + dice - 1
    torch.testing.assert_close(hybrid(z, y), expected)


@pytest.mark.parametrize("form", ["code", "tmi", "dlmia"])
def test_hybrid_with_two_classes(form):
    """Perfect and sure: cross-entropy 0 and Dice 1 (for each pixel in Eq. 2, as the wrong class
    adds 0).
    """
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
