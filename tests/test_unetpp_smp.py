"""UNet++ over smp and timm encoders: equal to smp's own where that exists, and to its own pruned
parts.
"""

import json
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from unetv2.networks import create_model, supervised
from unetv2.networks.any_smp import UpsampledUnet
from unetv2.networks.encoders import UpsampledFirst
from unetv2.networks.unetpp_smp import NestedUnetPlusPlus
from unetv2.training.losses import hybrid

SMALL = "tu-test_resnet.r160_in1k"  # timm's tiny one, strides 2 to 32
PVT = "tu-pvt_v2_b0"  # strides 4 to 32


def build(encoder=SMALL, cls=NestedUnetPlusPlus, **options):
    torch.manual_seed(0)
    if cls is NestedUnetPlusPlus:
        options.setdefault("deep_supervision", True)
    return cls(encoder, encoder_weights=None, **options)


def image(size=64, batch=1):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("resnet18", {}),
        (SMALL, {"encoder_depth": 3, "decoder_channels": (32, 16, 8), "classes": 2}),
        (
            SMALL,
            {
                "decoder_attention_type": "scse",
                "decoder_interpolation": "bilinear",
                "decoder_use_norm": "identity",
            },
        ),
        (SMALL, {"aux_params": {"classes": 4}, "activation": "sigmoid", "in_channels": 3}),
        (PVT, {}),
    ],
    ids=str,
)
def test_equals_smp_weight_for_weight(encoder, options):
    ours = build(encoder, deep_supervision=False, **options).eval()
    theirs = build(encoder, smp.UnetPlusPlus, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours(image()), theirs(image()))
    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.1)
    theirs.load_state_dict(ours.state_dict())
    assert_same(ours(image()), theirs(image()))


def assert_same(ours, theirs):
    for a, b in zip(*([x] if torch.is_tensor(x) else x for x in (ours, theirs)), strict=True):
        assert torch.equal(a, b)


def test_equals_smp_over_vgg_but_for_its_dead_center():
    options = {"encoder_depth": 3, "decoder_channels": (32, 16, 8)}
    theirs = build("vgg11", smp.UnetPlusPlus, **options).eval()
    ours = build("vgg11", deep_supervision=False, **options).eval()
    keys = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not keys.missing_keys
    assert {key.split(".")[1] for key in keys.unexpected_keys} == {"center"}
    assert torch.equal(ours(image(32)), theirs(image(32)))


@pytest.mark.parametrize(
    ("expected", "build"),
    [
        (29_864_977, lambda: build("tu-pvt_v2_b2", deep_supervision=False, upsample_first=True)),
        (28_149_009, lambda: build("tu-pvt_v2_b2", UpsampledUnet)),
    ],
    ids=["UNet++ (PVT)", "U-Net (PVT)"],
)
def test_parameters_of_the_papers_pvt_models(expected, build):
    with torch.device("meta"):
        assert count(build()) == expected


def test_upsampled_first_level():
    encoder = build(PVT, UpsampledUnet).encoder.eval()
    features, raw = encoder(image()), encoder.encoder(image())
    assert [f.shape[1] for f in features] == encoder.out_channels == [3, 32, 32, 64, 160, 256]
    assert torch.equal(features[1], raw[2].repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert all(torch.equal(a, b) for a, b in zip(features[2:], raw[2:], strict=True))
    with pytest.raises(ValueError, match="channels at stride 2"):
        UpsampledFirst(build().encoder)


@pytest.mark.parametrize(
    ("encoder", "options"), [(SMALL, {}), (PVT, {"upsample_first": True})], ids=str
)
def test_train_mode_gives_all_heads_deepest_first(encoder, options):
    model = build(encoder, classes=2, **options)
    outputs = model(image(batch=2))
    assert [z.shape for z in outputs] == [(2, 2, 64, 64)] * 4
    hybrid(outputs, torch.randint(2, (2, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    heads = []
    for j in (4, 3, 2, 1):
        model.output = j
        heads.append(model.predict(image()).softmax(1))
    model.output = "averaged"
    torch.testing.assert_close(model.predict(image()).softmax(1), torch.stack(heads).mean(0))
    assert len({z.flatten()[0].item() for z in heads}) == 4


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        (SMALL, {}),
        ("resnet18", {}),
        ("mobilenet_v2", {}),
        (PVT, {"upsample_first": True}),
        ("mit_b0", {"upsample_first": True}),
    ],
    ids=str,
)
def test_pruned_model_equals_the_head_to_the_bit(encoder, options):
    model = build(encoder, **options)
    model(image(batch=2))  # running statistics
    model.eval()
    sizes = []
    for d in (1, 3):
        model.output = d
        small = model.prune(d)
        sizes.append(count(small))
        assert torch.equal(small(image()), model(image()))
        small.train()(image(batch=2)).sum().backward()
        assert all(
            p.grad is not None for p in small.parameters()
        )  # no stage, node or head left that is not needed
    assert sizes[0] < sizes[1] < count(model)


def test_pruned_to_its_full_depth_it_is_smps():
    model = build(aux_params={"classes": 2}).eval()
    theirs = build(cls=smp.UnetPlusPlus, aux_params={"classes": 2}).eval()
    theirs.load_state_dict(model.prune(4).state_dict())
    model.output = 4
    assert_same(model(image()), theirs(image()))
    assert model.prune(3).classification_head is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: build(PVT, upsample_first=True, output=2, classes=3),
        lambda: build("resnet18", decoder_channels=(64, 32, 16, 8, 8)).prune(2),
        lambda: build(PVT, UpsampledUnet),
        lambda: build(member="unet+"),
    ],
    ids=["supervised", "pruned", "U-Net", "UNet+"],
)
def test_save_pretrained_and_back(make, tmp_path):
    model = make().eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(image()), model(image()))
    assert count(again) == count(model)


def test_freezing_and_export():
    model = build()
    model.freeze_encoder()
    sum(z.mean() for z in model(image(batch=2))).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    small = model.prune(2).eval()
    program = torch.export.export(small, (image(),))
    torch.testing.assert_close(program.module()(image()), small(image()))


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        (SMALL, {"classes": 0}, "classes=0"),
        (SMALL, {"output": 5}, r"no head 5.*\[1, 2, 3, 4\]"),
        (SMALL, {"pruned": 5}, "pruned=5.*1 <= pruned < encoder_depth"),
        (
            SMALL,
            {"encoder_depth": 3},
            "encoder_depth=3.* 5 decoder_channels: .*one decoder channel per encoder level",
        ),
        (PVT, {}, "no stride-2 level.*upsample_first=True"),
    ],
    ids=str,
)
def test_bad_arguments(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        build(encoder, **options)


def test_bad_use():
    model = build()
    for d in (0, 5):
        with pytest.raises(ValueError, match=f"no head {d}"):
            model.prune(d)
    with pytest.raises(
        ValueError, match=r"no shallower node has been trained.*deep_supervision=True"
    ):
        build(deep_supervision=False).prune(2)
    with pytest.raises(RuntimeError, match=r"divisible by 32.*\(64, 96\)"):
        model(torch.rand(1, 3, 64, 70))


# UNet+: the same grid with short skips ------------------------------------------------------------


def test_a_node_of_unet_plus_reads_its_left_neighbour_alone():
    plus = build(member="unet+").eval()
    skips = {name: block.conv1[0].in_channels for name, block in plus.decoder.blocks.items()}
    widths = plus.encoder.out_channels[1:]
    below = {"x_2_3": widths[1], "x_1_3": widths[1], "x_0_2": 128}  # of X^{0,2}, X^{0,3}, X^{1,3}
    for name, n in below.items():
        level = 3 - int(name[-1])
        assert skips[name] == n + widths[level], name
    dense = build().decoder.blocks["x_1_3"].conv1[0].in_channels
    assert dense == widths[1] + 3 * widths[0]


def test_depth_two_of_unet_plus_has_one_link_less_than_unet_plus_plus():
    """X^{0,2} reads X^{0,0} in UNet++ and not in UNet+; all other nodes are the same."""
    options = {"encoder_depth": 3, "decoder_channels": (32, 16, 8)}
    plus, dense = build(member="unet+", **options), build(**options)
    first, kernel, width = dense.encoder.out_channels[1], 9, 16
    assert count(dense) - count(plus) == first * width * kernel
    outputs = plus.train()(image(batch=2))
    assert [o.shape for o in outputs] == [(2, 1, 64, 64)] * 2
    sum(o.square().mean() for o in outputs).backward()
    assert all(p.grad is not None for p in plus.parameters())
    small = plus.eval().prune(1)
    plus.output = 1
    assert torch.equal(small(image()), plus(image()))


def test_unet_plus_is_drawn_as_it_is_linked():
    from unetv2.teaching import designs

    links = designs.of(build(member="unet+"), "").links
    assert [link.source for link in links if link.target == ("x", 0, 3)] == [
        ("x", 1, 2),
        ("x", 0, 2),
    ]


def test_another_member_is_one_error():
    with pytest.raises(ValueError, match=r"unknown member .* 'unet-e'.*Valid: unet\+, unet\+\+"):
        build(member="unet-e")


# The backbones of the UNet++ article --------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["vgg19", "resnet152", "densenet201"])
@pytest.mark.parametrize("name", ["smp-unet", "smp-unetplus-ds", "smp-unetplusplus-ds"])
def test_a_training_step_over_the_backbones_of_the_article(name, encoder):
    """Shapes alone, on the meta device: nothing of these large networks is computed."""
    with torch.device("meta"):
        model = create_model(name, encoder, deep_supervision=supervised(name)).train()
        x, y = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64)
        outputs = model(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        assert [o.shape for o in outputs] == [y.shape] * (4 if supervised(name) else 1)
        sum(hybrid(o, y) for o in outputs).backward()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        optimizer.step()
    heads = [n for n, p in model.named_parameters() if "head" in n and p.grad is None]
    assert not heads, "each head learns"


def test_a_real_step_of_unet_plus_lowers_the_loss():
    torch.manual_seed(0)
    model = create_model("smp-unetplus-ds", SMALL, deep_supervision=True).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, y = image(batch=2), torch.zeros(2, 1, 64, 64)
    x[..., :32] += 2
    y[..., :32] = 1
    values = []
    for _ in range(4):
        values.append(sum(hybrid(o, y) for o in model(x)))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert values[-1] < values[0]


def test_the_counts_of_the_backbones_are_committed():
    """VGG-19's, ResNet-152's and DenseNet-201's own parameters as torchvision counts them, less
    their classifiers.
    """
    folder = Path(__file__).resolve().parents[1] / "outputs" / "results"
    found = json.loads((folder / "backbones.json").read_text())["backbones"]
    own = {"VGG-19": 20_024_384, "ResNet-152": 58_143_808, "DenseNet-201": 18_092_928}
    for title, rows in found.items():
        assert {row["parameters, encoder"] for row in rows.values()} == {own[title]}
        unet, plus, dense = (row["parameters"] for row in rows.values())
        assert own[title] < unet < plus < dense
