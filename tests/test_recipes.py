"""Recipes: three steps of every arm and recipe against committed losses; a rehearsal of them all.

When a loss here moves, the training has changed: raise unetv2.evaluation.identity.TRAINING_VERSION,
which supersedes every run and record, and write the losses anew with

    python tests/test_recipes.py
"""

import json
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from unetv2 import networks
from unetv2.common.params import RunParams
from unetv2.data import SegData, Split, synthetic
from unetv2.training import losses
from unetv2.training.recipes import RECIPES

COMMITTED = Path(__file__).with_name("three_steps.json")
THIN = ["copy", "copy-attention", "copy-matched", "sum", "concat", "nested"]
THIN += ["sdi", "sdi-noattention", "sdi-unitbias", "sdi-shared"]
ARMS = [f"thin+{skip}" for skip in THIN]
ARMS += ["smp-unet+sdi-l4-ds", "smp-unet-stride2"]
STRIDE4 = {"smp-unet-stride2": "tu-test_convnext"}  # it fills the level that such an encoder lacks
FAMILY = [name for name in networks.list_models() if networks.is_family(name)]
PEERS = list(networks.names.PEERS)
CASES = [(model, "paper") for model in ARMS + PEERS + FAMILY]
CASES += [("thin+sdi", recipe) for recipe in RECIPES if recipe != "paper"]


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


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def test_the_released_recipe_drops_paths_where_the_encoder_has_them():
    options = {"drop_path": RECIPES["released"].drop_path, "deep_supervision": True}
    pvt = networks.create_model("thin+copy", "tu-pvt_v2_b0", **options)
    rates = [m.drop_prob for m in pvt.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1)
    networks.create_model(
        "thin+copy", "resnet18", **options
    )  # it has none, and is built all the same


# A rehearsal of the whole registry ----------------------------------------------------------------


@pytest.mark.parametrize("name", networks.list_models())
def test_every_model_takes_a_step_of_every_recipe_without_a_device(name):
    """On "meta": shapes alone. A tensor made on another device would be an error, as on a GPU."""
    encoder = "tu-test_convnext" if "stride2" in name else "tu-test_resnet"
    params = RunParams.make({"model": name, "encoder": encoder, "width": 8})
    with torch.device("meta"):
        model = networks.for_run(params).train()
        image, mask = torch.rand(2, 3, 128, 128), torch.rand(2, 1, 128, 128)
    outputs = model(image)
    leaves = torch.utils._pytree.tree_map(lambda x: x.detach().requires_grad_(), outputs)
    for recipe in RECIPES:
        losses.make(recipe, 1)(leaves, mask).backward()
    grads = torch.utils._pytree.tree_map(lambda x: x.grad, leaves)
    torch.autograd.backward(outputs, grads)
    assert any(p.grad is not None for p in model.parameters())
    if networks.supervised(name):
        assert isinstance(outputs, list) and outputs[0].shape == mask.shape
    else:
        assert outputs.shape == mask.shape


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
