"""The methods that the papers compare with: counts, mechanisms, one training step, errors."""

import numpy as np
import pytest
import torch
from PIL import Image

from unetv2 import create_model, from_pretrained, networks
from unetv2.networks.names import BINARY, PEERS, PUBLISHED_ENCODER
from unetv2.networks.peers.polyp_pvt import SimilarityAggregation
from unetv2.networks.peers.pranet import PartialDecoder, PraNet, ReceptiveField, ReverseAttention
from unetv2.networks.peers.sanet import SANet
from unetv2.training import run

SMALL = "tu-test_resnet"


def count(module):
    return sum(p.numel() for p in module.parameters())


def image(size=64, batch=2):
    torch.manual_seed(0)
    return torch.randn(batch, 3, size, size)


@pytest.mark.parametrize(
    ("name", "whole", "encoder"),
    [
        ("sanet", 23_899_497, 23_669_352),
        ("pranet", 30_498_319, 23_669_352),  # 32,547,319 with the classifier that nothing uses
        ("polyp-pvt", 25_107_604, 24_849_856),
    ],
)
def test_parameters_are_those_of_the_released_code(name, whole, encoder):
    """FACTS E and F."""
    with torch.device("meta"):
        supervised = {"deep_supervision": networks.supervised(name)}
        model = create_model(name, PUBLISHED_ENCODER[name], **supervised)
    assert (count(model), count(model.encoder)) == (whole, encoder)
    assert PUBLISHED_ENCODER[name] == type(model)._hub_mixin_init_parameters["encoder_name"].default


def test_parameters_of_the_parts_of_polyp_pvt():
    assert count(PartialDecoder(32, outputs=32)) == 221_952
    assert count(SimilarityAggregation(32)) == 2_096


@pytest.mark.parametrize("name", PUBLISHED_ENCODER)
@pytest.mark.parametrize("encoder", [SMALL, "mobilenet_v2", "tu-pvt_v2_b0"])
def test_any_encoder_any_valid_size_one_step(name, encoder):
    """Training lowers the loss; a mask is one tensor of the image's size, also not square."""
    torch.manual_seed(0)
    model = create_model(name, encoder, deep_supervision=networks.supervised(name))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, y = image(64), torch.zeros(2, 1, 64, 64)
    x[..., :32] += 2
    y[..., :32] = 1
    values = []
    for _ in range(6):
        outputs = model.train()(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        assert {o.shape for o in outputs} == {y.shape}
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        values.append(sum(bce(o, y) for o in outputs))
        optimizer.zero_grad()
        values[-1].backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    assert values[-1] < values[0]
    with torch.inference_mode():
        assert model.eval()(torch.randn(1, 3, 96, 160)).shape == (1, 1, 96, 160)


def test_each_has_as_many_outputs_as_published():
    found = {}
    for name in PUBLISHED_ENCODER:
        model = create_model(name, SMALL, deep_supervision=networks.supervised(name)).train()
        outputs = model(image())
        found[name] = len(outputs) if isinstance(outputs, list) else 1
        assert torch.is_tensor(create_model(name, SMALL).train()(image()))
    assert found == {"sanet": 1, "pranet": 4, "polyp-pvt": 2}


def heads_in_eval_mode(name):
    """The list of training and the mask of evaluation, both with the statistics of evaluation."""
    model = create_model(name, SMALL, deep_supervision=True).eval()
    with torch.inference_mode():
        mask = model(image())
        model.training = True  # of the outermost module alone: the list, nothing else
        return model(image()), mask


def test_pranet_evaluates_the_first_of_its_list():
    (first, *rest), mask = heads_in_eval_mode("pranet")
    assert torch.equal(first, mask)
    assert not any(torch.allclose(other, mask, atol=1e-4) for other in rest)


def test_polyp_pvt_evaluates_the_sum_of_its_list():
    (p2, p1), mask = heads_in_eval_mode("polyp-pvt")
    assert torch.allclose(p2 + p1, mask, atol=1e-6)


# Mechanisms ---------------------------------------------------------------------------------------


def test_sanet_sees_a_shallow_level_only_where_both_deep_ones_are_positive():
    model = SANet(SMALL, encoder_weights=None).eval()
    f3, f4, f5 = (torch.randn(1, n, s, s) for n, s in zip(model.channels, (8, 4, 2), strict=True))
    deepest = model.decoder[2]
    torch.nn.init.zeros_(deepest[0].weight)

    def change_of_shallow(bias):
        torch.nn.init.constant_(deepest[0].bias, bias)  # batch normalisation starts as identity
        with torch.inference_mode():
            one, other = (model.decode([f, f4, f5], (64, 64)) for f in (f3, torch.randn_like(f3)))
        return (one - other).abs().max().item()

    assert change_of_shallow(-1.0) == 0
    assert change_of_shallow(1.0) > 1e-3


def test_sanet_is_the_product_by_hand():
    """1x1 maps, one channel, weights 1: the logit is f5 + f4 f5 + f3 f4 f5."""
    model = SANet(SMALL, encoder_weights=None, decoder_channels=1).eval()
    for reduce in model.decoder:
        torch.nn.init.zeros_(reduce[0].weight)
        reduce[1].eps = 0.0
    for reduce, value in zip(model.decoder, (2.0, 3.0, 5.0), strict=True):
        torch.nn.init.constant_(reduce[0].bias, value)
    torch.nn.init.ones_(model.segmentation_head.weight)
    with torch.inference_mode():
        logits = model.eval()(image())
    assert torch.allclose(logits, torch.tensor(5.0 + 15.0 + 30.0))
    for reduce in model.decoder:
        torch.nn.init.constant_(reduce[0].bias, 100.0)
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        logits = model(image())  # more than fp16 holds: the products are taken in float32
    assert torch.allclose(logits, torch.tensor(100.0 + 1e4 + 1e6))


def test_reverse_attention_weighs_by_one_minus_sigmoid():
    reverse = ReverseAttention(3, 4, kernel=3, layers=1, last=1).eval()
    seen = []
    reverse.refine.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    f, coarser = torch.randn(1, 3, 4, 4), torch.randn(1, 1, 4, 4)
    out = reverse(f, coarser)
    weight = 1 / (1 + coarser.exp())
    assert torch.allclose(seen[0], f * weight, atol=1e-6)
    assert torch.allclose(out - coarser, reverse.refine(f * weight), atol=1e-6)
    certain = torch.full_like(coarser, 40.0)  # nothing is left to look at
    assert torch.allclose(reverse(f, certain) - 40, reverse.refine(torch.zeros_like(f)), atol=1e-5)


def test_receptive_fields_grow_as_1_9_15_21():
    """Reach of the branches: 1; then 1xk and kx1 add k - 1, the dilated 3x3 adds 2k."""
    block = ReceptiveField(1, 1).eval()
    reach = []
    for branch in block.branches:
        for module in branch.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.ones_(module.weight)
        x = torch.zeros(1, 1, 41, 41)
        x[0, 0, 20, 20] = 1
        rows = branch(x)[0, 0].abs().sum(1).nonzero()
        reach.append(int(rows.max() - rows.min()) + 1)
    assert reach == [1, 3 - 1 + 2 * 3 + 1, 5 - 1 + 2 * 5 + 1, 7 - 1 + 2 * 7 + 1] == [1, 9, 15, 21]


def test_the_partial_decoder_multiplies_the_finest_level_with_all():
    """Doubling f4 doubles both products that hold it, and nothing else (no bias, no statistics)."""
    decoder = PartialDecoder(2).eval()
    products = {}
    for name in ("merge4", "merge3"):
        decoder.get_submodule(name).register_forward_pre_hook(
            lambda module, given, name=name: products.__setitem__(name, given[0][:, :2].clone())
        )
    f3, f4, f5 = (torch.randn(1, 2, s, s) for s in (8, 4, 2))
    decoder(f3, f4, f5)
    before = dict(products)
    for scaled, expected in (
        ((2 * f3, f4, f5), {"merge4": 1, "merge3": 2}),
        ((f3, 2 * f4, f5), {"merge4": 2, "merge3": 2}),
        ((f3, f4, 2 * f5), {"merge4": 2, "merge3": 2}),
    ):
        decoder(*scaled)
        for name, factor in expected.items():
            assert torch.allclose(products[name], factor * before[name], atol=1e-5), name


def test_similarity_aggregation_is_a_residual_that_the_guide_steers():
    block = SimilarityAggregation(4).eval()
    features, guide = torch.randn(1, 4, 12, 12), torch.randn(1, 4, 12, 12)
    with torch.inference_mode():
        out = block(features, guide)
        assert not torch.allclose(out, block(features, guide.flip(2)))
        second = guide.clone()
        second[:, 1] = -1e4  # weight 0 everywhere: all anchors alike, every pixel gets the same
        assert (block(features, second) - features).std((2, 3)).max() < 1e-5
        block.extend.weight.zero_()
        assert torch.equal(block(features, guide), features)


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED_ENCODER)
def test_an_encoder_without_the_levels_is_one_clear_error(name):
    peer = type(create_model(name, SMALL))
    with pytest.raises(ValueError, match=r"none of stride 32 \(it has 2, 4, 8, 16\)"):
        peer(SMALL, encoder_depth=4, encoder_weights=None)


@pytest.mark.parametrize("name", PUBLISHED_ENCODER)
def test_sides_that_do_not_fit_are_one_clear_error(name):
    model = create_model(name, SMALL).eval()
    with pytest.raises(ValueError, match="multiples of 32, not 100 x 64: the nearest are 96 x 64"):
        model(torch.randn(1, 3, 100, 64))


def test_other_errors():
    with pytest.raises(ValueError, match="PraNet is defined for one foreground, not 3 channels"):
        PraNet(SMALL, encoder_weights=None, classes=3)
    with pytest.raises(ValueError, match="sanet has one head"):
        create_model("sanet", SMALL, deep_supervision=True)
    with pytest.raises(ValueError, match="did you mean 'pranet'"):
        create_model("pranett", SMALL)


def test_a_command_says_that_nobody_has_pretrained_a_network(tmp_path):
    """And not that the weights of an encoder, which has no part in it, are missing."""
    words = ["--model", "malunet", "--encoder-weights", "imagenet", "--weights", str(tmp_path)]
    with pytest.raises(SystemExit, match="error: malunet has no pretrained encoder"):
        run.main([*words, "--output-dir", str(tmp_path / "run")])


@pytest.mark.parametrize("name", sorted(BINARY))
def test_a_command_says_that_a_method_takes_one_foreground(name, tmp_path):
    (tmp_path / "dataset.yaml").write_text("classes: {vessel: 128, nerve: 255}")
    random = np.random.default_rng(0)
    for folder, values in (("images", range(256)), ("masks", (0, 128, 255))):
        (tmp_path / folder).mkdir()
        for i in range(12):
            picture = random.choice(values, (32, 32)).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / folder / f"{i}.png")
    words = ["--model", name, "--dataset", f"folder:{tmp_path}", "--image-size", "32"]
    with pytest.raises(SystemExit, match=r"error: .* is defined for one foreground, not 3"):
        run.main([*words, "--output-dir", str(tmp_path / "run")])


@pytest.mark.parametrize("encoder", ["tu-test_vit", "tu-beit_base_patch16_224"])
def test_an_encoder_that_is_no_pyramid_is_one_clear_error(encoder):
    with torch.device("meta"), pytest.raises(ValueError, match=rf"{encoder} has no pyramid of 5"):
        create_model("sanet", encoder)


@pytest.mark.parametrize("name", ["sanet", "pranet", "polyp-pvt"])
def test_saved_models_come_back(name, tmp_path):
    supervised = networks.supervised(name)
    model = create_model(name, SMALL, deep_supervision=supervised).eval()
    model.save_pretrained(str(tmp_path))
    again = from_pretrained(tmp_path)
    x = image()
    with torch.inference_mode():
        assert torch.equal(again.eval()(x), model(x))
    assert type(again) is type(model) and again.normalisation == model.normalisation


def test_names_and_labels():
    assert [networks.label(name) for name in ("sanet", "pranet", "polyp-pvt")] == [
        "SANet",
        "PraNet",
        "Polyp-PVT",
    ]
    assert set(PEERS) <= set(networks.list_models())
    assert not any(networks.is_family(name) for name in PEERS)
    own = {name for name in networks.list_models() if networks.has_own_encoder(name)}
    assert own >= {"tmi-unet++"} and not own & set(PUBLISHED_ENCODER)
