"""TransFuse, MALUNet and EGE-UNet: the counts of their code, their shapes, errors and ideas."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from unetv2.networks.peers.ege_unet import EGEUNet, HadamardAttention
from unetv2.networks.peers.malunet import Bridge, ExternalAttention, MALUNet
from unetv2.networks.peers.transfuse import SIZES, BiFusion, TransFuse
from unetv2.training import losses

ROOT = Path(__file__).resolve().parents[1]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# MALUNet and EGE-UNet -----------------------------------------------------------------------------


def test_light_networks_have_the_published_counts():
    """Counted from the authors' code (FACTS F); EGE-UNet 53,241 without its mask heads."""
    ege = EGEUNet()
    assert (count(MALUNet()), count(ege)) == (177_943, 53_374)
    assert count(ege) - count(ege.mask_heads) == 53_241


def test_the_committed_count_of_the_light_networks_is_theirs():
    """thop does not see learned maps and layers of one's own: 45,806 is what EGE's readers got."""
    rows = json.loads((ROOT / "outputs/results/light_networks.json").read_text())["models"]
    counts = {name: (row["parameters"], row["parameters, thop"]) for name, row in rows.items()}
    assert counts["malunet"] == (count(MALUNet()), 175_031)
    assert counts["ege-unet"] == (count(EGEUNet()), 45_806)
    assert round(rows["malunet"]["multiply-adds"] / 1e9, 3) == 0.083
    assert round(rows["ege-unet"]["multiply-adds"] / 1e9, 3) == 0.072


@pytest.mark.parametrize("network", [MALUNet, EGEUNet])
def test_light_networks_keep_the_sides(network):
    x = torch.randn(2, 3, 64, 96)
    for model in (network().train(), network().eval()):
        assert model(x).shape == (2, 1, 64, 96)
    assert network(in_channels=1).eval()(x[:, :1]).shape == (2, 1, 64, 96)
    with pytest.raises(ValueError, match="multiples of 32, not 64 x 100"):
        network()(torch.zeros(1, 3, 64, 100))
    with pytest.raises(ValueError, match="six multiples of 4"):
        network(widths=(8, 16, 24, 32, 48, 50))


def test_several_classes():
    assert MALUNet(classes=3)(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="one foreground"):
        EGEUNet(classes=3)


def test_deep_supervision():
    x, model = torch.randn(2, 3, 64, 64), EGEUNet(deep_supervision=True)
    maps = model.train()(x)
    assert [m.shape for m in maps] == [(2, 1, 64, 64)] * 6
    # the coarsest mask is 2 x 2, so that its enlargement has no second difference
    assert maps[-1].diff(n=2, dim=-1).abs().max() < 1e-5 < maps[1].diff(n=2, dim=-1).abs().max()
    assert model.eval()(x).shape == (2, 1, 64, 64)
    with pytest.raises(ValueError, match="one head"):
        MALUNet(deep_supervision=True)


@pytest.mark.parametrize("model", [MALUNet(), EGEUNet(deep_supervision=True)], ids=["mal", "ege"])
def test_light_networks_learn(model):
    """Ten steps on one batch lower its loss by a tenth, and every parameter moves or is inert."""
    loss = losses.make("paper", 1)
    x = torch.randn(2, 3, 64, 64)
    mask = (x.mean(1, keepdim=True) > 0).float()
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-2)
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        values.append(loss(model(x), mask))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.9 * values[0]
    assert all(p.grad is not None for p in model.parameters())


def test_malunet_gates_all_levels_by_one_convolution():
    """With all weights at 0 each gate is 1/2: t/2 + (t + t/2)/2 = 1.25 t, at every level."""
    channels = (8, 16, 24)
    bridge = Bridge(channels)
    assert count(bridge.spatial) == 2 * 7 * 7 + 1
    for parameter in bridge.parameters():
        nn.init.zeros_(parameter)
    levels = [torch.randn(2, c, 32 >> i, 48 >> i) for i, c in enumerate(channels)]
    for out, level in zip(bridge(levels), levels, strict=True):
        torch.testing.assert_close(out, 1.25 * level)
    nn.init.constant_(bridge.spatial.bias, 1.0)  # and one number moves them all
    gate = torch.tensor(1.0).sigmoid()
    for out, level in zip(bridge(levels), levels, strict=True):
        torch.testing.assert_close(out, (gate + (1 + gate) / 2) * level)


def test_malunet_has_biases_that_the_softmax_cancels():
    model, x = MALUNet().double().eval(), torch.randn(1, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        before = model(x)
        blocks = [m for m in model.modules() if isinstance(m, ExternalAttention)]
        for block in blocks:
            block.before.bias += 1.0
        assert sum(block.before.bias.numel() for block in blocks) == 208
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-9)


def test_ege_unet_multiplies_each_group_along_its_own_axes():
    block = HadamardAttention(16, 16)
    seen = []
    block.after.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for map_ in (block.plane, block.rows, block.columns):
        nn.init.normal_(map_)
    x = torch.randn(1, 16, 12, 20)
    block(x)
    plane, rows, columns, _ = (seen[0] / block.before(x)).chunk(4, 1)
    assert rows.diff(dim=-1).abs().max() < 1e-3 < rows.diff(dim=-2).abs().max()
    assert columns.diff(dim=-2).abs().max() < 1e-3 < columns.diff(dim=-1).abs().max()
    assert min(plane.diff(dim=d).abs().max() for d in (-1, -2)) > 1e-3
    with torch.no_grad():
        block.plane += torch.randn_like(block.plane)
    block(x)
    changed = (seen[1] - seen[0]).abs().amax((0, 2, 3)) > 0
    assert changed.tolist() == [True] * 4 + [False] * 12


def test_ege_unet_reads_its_masks_whether_they_are_supervised_or_not():
    model, x = EGEUNet().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        for head in model.mask_heads:
            head.weight.neg_()
        assert (model(x) - before).abs().max() > 1e-3


# TransFuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "published", "token"), [("s", 26_248_725, 384), ("l", 143_540_789, 768)]
)
def test_transfuse_has_the_published_count_but_for_the_unused_class_token(size, published, token):
    with torch.device("meta"):
        model = TransFuse(size=size, deep_supervision=True)
    assert count(model) == published - token
    assert len(model.transformer.vit.blocks) == {"s": 8, "l": 12}[size]


def test_transfuse_takes_any_sides_of_whole_tokens():
    model = TransFuse(classes=2, in_channels=1).eval()
    with torch.no_grad():
        for sides in ((192, 256), (64, 48)):
            assert model(torch.zeros(1, 1, *sides)).shape == (1, 2, *sides)
    with pytest.raises(ValueError, match="multiples of 16, not 64 x 40"):
        model(torch.zeros(1, 1, 64, 40))
    with pytest.raises(ValueError, match="unknown size of TransFuse 'm'"):
        TransFuse(size="m")


def test_transfuse_says_which_weights_a_folder_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights of resnet34"):
        TransFuse(encoder_weights="imagenet", weights_dir=str(tmp_path))


def test_transfuse_learns(monkeypatch):
    monkeypatch.setitem(SIZES, "s", ("deit_tiny_patch16_224", 1, "resnet18"))
    model, loss = TransFuse(deep_supervision=True).train(), losses.make("paper", 1)
    x = torch.randn(2, 3, 64, 64)
    mask = (x.mean(1, keepdim=True) > 0).float()
    maps = model(x)
    assert [m.shape for m in maps] == [(2, 1, 64, 64)] * 3
    loss(maps, mask).backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    before = loss(model.train()(x), mask).item()
    for _ in range(2):
        optimizer.zero_grad()
        loss(model(x), mask).backward()
        optimizer.step()
    assert loss(model(x), mask).item() < before


def test_transfuse_places_its_tokens_by_interpolated_embeddings():
    """Embeddings that grow along the columns still do so at twice as many columns."""
    model = TransFuse().eval().transformer
    nn.init.zeros_(model.vit.patch_embed.proj.weight)
    nn.init.zeros_(model.vit.patch_embed.proj.bias)
    with torch.no_grad():
        model.position.copy_(torch.linspace(0, 1, 16).expand_as(model.position))
    seen = []
    model.vit.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(torch.zeros(1, 3, 32, 512))
    expected = torch.linspace(0, 1, 32).repeat(2)[:, None].expand(64, 384)
    torch.testing.assert_close(seen[0][0], expected)


def test_bifusion_joins_three_views():
    """With silent gates g and t count half; the third view is of their product."""
    block, g, t = BiFusion(8, 12, 2, 0.0).eval(), torch.randn(2, 8, 6, 6), torch.randn(2, 12, 6, 6)
    for parameter in (*block.where.parameters(), *block.what[2].parameters()):
        nn.init.zeros_(parameter)
    seen = {}
    for name in ("mix", "interact"):
        hook = lambda _, inputs, name=name: seen.update({name: inputs[0].clone()})  # noqa: E731
        getattr(block, name).register_forward_pre_hook(hook)
    block(g, t)
    torch.testing.assert_close(seen["mix"][:, :8], g / 2)
    torch.testing.assert_close(seen["mix"][:, 8:20], t / 2)
    torch.testing.assert_close(seen["interact"], block.of_g(g) * block.of_t(t))


def test_bifusion_in_half_precision_holds_a_large_product():
    block, x = BiFusion(8, 8, 2, 0.0), torch.randn(2, 8, 6, 6)
    nn.init.constant_(block.of_g[1].weight, 1000.0)
    nn.init.constant_(block.of_t[1].weight, 1000.0)
    with torch.autocast("cpu", torch.float16):
        assert block(x, x).isfinite().all()
