"""Recipes: three steps of every arm and recipe against committed losses; a rehearsal of them all.

When a loss here moves, the training has changed: raise unetv2.evaluation.identity.TRAINING_VERSION,
which supersedes every run and record, and write the losses anew with

    python tests/test_recipes.py
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from unetv2 import networks
from unetv2.common.params import RunParams
from unetv2.data import SegData, Split, TorchSplit, synthetic
from unetv2.training import losses
from unetv2.training.recipes import RECIPES

COMMITTED = Path(__file__).with_name("three_steps.json")
THIN = ["copy", "copy-attention", "copy-matched", "sum", "concat", "nested"]
THIN += ["sdi", "sdi-noattention", "sdi-unitbias", "sdi-shared"]
ARMS = [f"thin+{skip}" for skip in THIN]
ARMS += ["smp-unet+sdi-l4-ds", "smp-unet-stride2"]
STRIDE4 = {"smp-unet-stride2": "tu-test_convnext"}  # it fills the level that such an encoder lacks
FAMILY = [name for name in networks.list_models() if networks.is_family(name)]
PEERS = [name for name in networks.names.PEERS if "transfuse" not in name]  # that takes minutes
CASES = [(model, "paper") for model in ARMS + PEERS + FAMILY]
CASES += [("thin+sdi", recipe) for recipe in RECIPES if recipe != "paper"]
pytestmark = pytest.mark.usefixtures("one_thread")


class Double(nn.Module):
    """The network in float64: then no rounding of a processor is enlarged by Adam's quotient."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.normalisation = net.double(), getattr(net, "normalisation", None)

    def forward(self, x):
        return self.net(x.double())


def toy() -> SegData:
    images, masks = synthetic.make("lesion", 7, 64, seed=0)
    ids = [str(i) for i in range(7)]
    train, val = (Split(ids[s], images[s], masks[s]) for s in (slice(6), slice(6, 7)))
    return SegData("toy", ("lesion",), train, val, {}, fingerprint="f" * 16)


def three_steps(model: str, recipe: str) -> list[float]:
    """The losses of three epochs of one batch (with three scales: the mean of its three steps)."""
    from unetv2.training.fit import fit

    values = {"model": model, "recipe": recipe, "encoder": STRIDE4.get(model, "tu-test_resnet")}
    values |= {"width": 8, "epochs": 3, "batch_size": 2, "steps_per_epoch": 1, "device": "cpu"}
    params = RunParams.make(values | {"augment": "strong"})
    torch.manual_seed(0)
    net = Double(networks.for_run(params))
    with tempfile.TemporaryDirectory() as folder:
        history = fit(net, toy(), params, folder)["history"]
    return [float(f"{row['loss']:.7g}") for row in history]


@pytest.mark.parametrize(("model", "recipe"), CASES)
def test_three_steps_have_the_committed_losses(model, recipe):
    committed = json.loads(COMMITTED.read_text())[f"{model} {recipe}"]
    assert three_steps(model, recipe) == pytest.approx(committed, rel=1e-4)


def test_every_recipe_can_be_asked_for_and_has_a_loss():
    assert set(get_args(RunParams.model_fields["recipe"].annotation)) == set(RECIPES)
    assert set(losses.NAMES) == set(RECIPES)


def test_recipes_are_what_was_published():
    """FACTS A3, A4, A5 and C2: the released polyp and ISIC code, the paper's text, UNet++'s."""
    paper, released, isic = (RECIPES[name] for name in ("paper", "released", "released-isic"))
    assert (paper.optimizer, paper.lr, paper.poly, paper.drop_path) == ("Adam", 1e-3, 0.9, 0)
    assert (released.optimizer, released.lr, released.weight_decay) == ("AdamW", 1e-4, 1e-4)
    assert (released.poly, released.clip_value, released.drop_path) == (0, 0.5, 0.1)
    assert released.scales == (0.75, 1, 1.25)
    assert (isic.optimizer, isic.lr, isic.momentum, isic.weight_decay) == ("SGD", 1e-3, 0.99, 3e-5)
    assert (isic.poly, isic.clip_norm) == (0.9, 12)
    assert (RECIPES["unetpp"].optimizer, RECIPES["unetpp"].lr) == ("Adam", 3e-4)


def test_released_isic_weighs_the_maps_as_nnunet():
    """Four maps .533, .267, .133, .067; each CE + 1.5 (1 - Dice)."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    maps = [torch.full((1, 1, s, s), v) for s, v in ((8, 0.0), (4, 1.0), (2, 2.0), (1, 3.0))]
    loss = losses.make("released-isic", 1)
    each = [loss(m, mask).item() for m in maps]
    expected = np.dot([0.533, 0.267, 0.133, 0.067], each)
    assert loss(maps, mask).item() == pytest.approx(expected, rel=1e-3)


def test_recipes_of_the_peers_are_those_of_their_code():
    """Read in PraNet 95f12bd, Polyp-PVT cd71fbf, SANet 68da18e, TransFuse 3f50ab6, EGE f52ba30."""
    pranet, sanet, transfuse = (RECIPES[name] for name in ("pranet", "sanet", "transfuse"))
    ege = RECIPES["ege"]
    assert (pranet.optimizer, pranet.lr, pranet.weight_decay) == ("Adam", 1e-4, 0)
    assert (pranet.clip_value, pranet.scales) == (0.5, (0.75, 1, 1.25))
    assert RECIPES["polyp-pvt"] == RECIPES["released"]
    assert (sanet.optimizer, sanet.lr, sanet.weight_decay, sanet.momentum) == (
        "SGD",
        0.4,
        5e-4,
        0.9,
    )
    assert [round(352 * s) for s in sanet.scales] == [256, 288, 320, 352]
    assert (transfuse.optimizer, transfuse.lr, transfuse.betas) == ("Adam", 7e-5, (0.5, 0.999))
    assert transfuse.clip_norm == 2
    assert (ege.optimizer, ege.lr, ege.weight_decay) == ("AdamW", 1e-3, 1e-2)


def test_rates_fall_as_the_peers_have_them():
    """SANet halves twice; the EGE line's cosine turns at 1e-5 after 50 of 300 epochs, and rises."""
    sanet, ege = RECIPES["sanet"], RECIPES["ege"]
    assert [sanet.lr * sanet.share(p) for p in (0, 0.49, 0.5, 0.75, 1)] == [0.4, 0.4, 0.2, 0.1, 0.1]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1e-3)
    theirs, rates = schedule(optimizer, T_max=50, eta_min=1e-5), []
    for _ in range(300):
        rates += theirs.get_last_lr()
        optimizer.step()
        theirs.step()
    ours = [ege.lr * ege.share(epoch / 300) for epoch in range(300)]
    assert ours == pytest.approx(rates, rel=1e-6)


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        ("ege", [1, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("transfuse", [0.5, 0.3, 0.2]),
        ("pranet", [1, 1, 1, 1]),
        ("polyp-pvt", [1, 1]),
        ("sanet", [1]),
    ],
)
def test_recipes_of_the_peers_weigh_the_maps_as_their_code(recipe, weights):
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    maps = [torch.full((2, 1, 8, 8), 0.3 * k, requires_grad=True) for k in range(len(weights) + 1)]
    loss = losses.make(recipe, 1)
    counted = maps if recipe == "pranet" else maps[:-1]
    every = weights + [1] * (len(counted) - len(weights))
    expected = sum(w * alone(loss, m, mask, recipe) for w, m in zip(every, counted, strict=True))
    value = loss(maps, mask)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert (maps[-1].grad.abs().max() > 0) == (recipe == "pranet")


def alone(loss, map_, mask, recipe) -> float:
    """The loss of one map without its weight."""
    return loss(map_, mask).item() / (0.5 if recipe == "transfuse" else 1)


def test_dice_per_image_is_by_hand():
    """Two images of 4 pixels at p = 1/2: object 2 of 4, and none."""
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]]).view(2, 1, 2, 2)
    z, ce = torch.zeros(2, 1, 2, 2), np.log(2)
    ege = ce + ((1 - 3 / 5) + (1 - 1 / 3)) / 2
    sanet = ce + ((1 - 2 / 5) + 1) / 2
    assert losses.make("ege", 1)(z, mask).item() == pytest.approx(ege)
    assert losses.make("sanet", 1)(z, mask).item() == pytest.approx(sanet)
    two = torch.cat([torch.zeros_like(z), z], 1)  # one class and the background: the same
    assert losses.make("ege", 2)(two, mask[:, 0].long()).item() == pytest.approx(ege)


def test_sanet_trains_its_encoder_at_a_tenth_and_draws_one_scale_for_a_batch():
    from unetv2.training import fit

    model = networks.create_model("thin+copy", "tu-test_resnet")
    head, encoder = fit._optimizer(RECIPES["sanet"], model, 0.4).param_groups
    assert sum(p.numel() for p in encoder["params"]) == sum(
        p.numel() for p in model.encoder.parameters()
    )
    assert len(head["params"]) + len(encoder["params"]) == len(list(model.parameters()))
    batch = {"image": torch.rand(2, 3, 352, 352), "mask": torch.ones(2, 1, 352, 352)}
    recipe, device = RECIPES["sanet"], torch.device("cpu")
    drawn = list(fit._scaled([batch] * 40, recipe, device, (0, 0)))
    assert len(drawn) == recipe.steps(40) == 40
    assert {tuple(image.shape[-2:]) for image, _ in drawn} == {(s, s) for s in (256, 288, 320, 352)}
    assert all(image.shape[-2:] == mask.shape[-2:] for image, mask in drawn)


def test_colour_exchange_gives_the_other_images_mean_and_deviation_in_lab():
    from unetv2.data.augment import exchange_colours

    rng, lab = np.random.default_rng(0), lambda x: cv2.cvtColor(x, cv2.COLOR_RGB2LAB)
    image = rng.normal((90, 110, 140), (14, 12, 10), (48, 64, 3)).clip(0, 255).astype(np.uint8)
    giver = rng.normal((150, 120, 100), (8, 9, 12), (32, 40, 3)).clip(0, 255).astype(np.uint8)
    found = exchange_colours(image, giver)
    assert found.shape == image.shape and found.dtype == np.uint8
    np.testing.assert_allclose(lab(found).mean((0, 1)), lab(giver).mean((0, 1)), atol=0.7)
    np.testing.assert_allclose(lab(found).std((0, 1)), lab(giver).std((0, 1)), atol=0.7)
    light = [lab(x)[..., 0].ravel().astype(float) for x in (image, found)]
    assert np.corrcoef(light)[0, 1] > 0.98  # what the image shows is still there
    np.testing.assert_allclose(exchange_colours(image, image).astype(int), image, atol=3)
    flat = exchange_colours(np.full_like(image, 7), giver)
    assert np.ptp(flat.reshape(-1, 3), axis=0).max() == 0


def test_colour_exchange_leaves_masks_and_other_draws_alone():
    split = toy().train
    plain, exchanged = (TorchSplit(split, "light", colour_exchange=on) for on in (False, True))
    one, two, again = plain[0], exchanged[0], exchanged[0]
    assert not torch.equal(one["image"], two["image"])
    assert torch.equal(two["image"], again["image"])
    exchanged.set_epoch(1)
    assert not torch.equal(exchanged[0]["image"], two["image"])
    assert sorted(one["mask"].flatten().tolist()) == sorted(two["mask"].flatten().tolist())


def test_the_released_recipe_drops_paths_where_the_encoder_has_them():
    options = {"drop_path": RECIPES["released"].drop_path, "deep_supervision": True}
    pvt = networks.create_model("thin+copy", "tu-pvt_v2_b0", **options)
    rates = [m.drop_prob for m in pvt.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1)
    networks.create_model(
        "thin+copy", "resnet18", **options
    )  # it has none, and is built all the same


# A rehearsal of the whole registry ----------------------------------------------------------------


@cache
def sent_back(shapes: tuple[torch.Size, ...], listed: bool) -> list[torch.Tensor]:
    """The gradients of every recipe's loss for outputs of these shapes, which many models share."""
    mask = torch.rand(2, 1, 128, 128, device="meta")
    leaves = [torch.rand(shape, device="meta", requires_grad=True) for shape in shapes]
    for recipe in RECIPES:
        losses.make(recipe, 1)(leaves if listed else leaves[0], mask).backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("name", networks.list_models())
def test_every_model_takes_a_step_of_every_recipe_without_a_device(name):
    """On "meta": shapes alone. A tensor made on another device would be an error, as on a GPU."""
    encoder = "tu-test_convnext" if "stride2" in name else "tu-test_resnet"
    params = RunParams.make({"model": name, "encoder": encoder, "width": 8})
    with torch.device("meta"):
        model = networks.for_run(params).train()
        image = torch.rand(2, 3, 128, 128)
    outputs = model(image)
    listed = isinstance(outputs, list)
    maps = outputs if listed else [outputs]
    torch.autograd.backward(maps, sent_back(tuple(m.shape for m in maps), listed))
    assert any(p.grad is not None for p in model.parameters())
    assert listed == networks.supervised(name)
    assert all(m.device.type == "meta" for m in maps) and maps[0].shape == (2, 1, 128, 128)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sdi_trains_in_half_precision(tmp_path, precision):
    """Its product of four factors overflows fp16 at 20 each: it is computed in float32."""
    from unetv2.training.fit import fit

    values = {"model": "thin+sdi", "encoder": "tu-test_resnet", "epochs": 8, "batch_size": 2}
    values |= {"precision": precision, "device": "cuda", "lr": 3e-3}
    params = RunParams.make(values)
    torch.manual_seed(0)
    history = fit(networks.for_run(params), toy(), params, tmp_path)["history"]
    assert history[-1]["loss"] < history[0]["loss"]


if __name__ == "__main__":
    found = {f"{model} {recipe}": three_steps(model, recipe) for model, recipe in CASES}
    COMMITTED.write_text(json.dumps(found, indent=2) + "\n")
