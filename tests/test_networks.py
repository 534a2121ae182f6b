"""Networks by name: smp's interface, the papers' counts, any skip in any decoder, errors that
help.
"""

import json
import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from unetv2 import create_model, from_pretrained, list_models, networks
from unetv2.networks import supervised
from unetv2.networks.names import BINARY, PEERS, PYRAMID, parts

THIN = [n for n in list_models() if n.startswith(("thin+", "unetv2"))]
PLUGGED = [n for n in list_models() if n.endswith("+sdi")]
SIZE = {"smp-pan": 128, "smp-pan+sdi": 128}  # PAN pools the last level three times


def count(model):
    return sum(p.numel() for p in model.parameters())


def image(size=64, batch=2, channels=3):
    torch.manual_seed(0)
    return torch.randn(batch, channels, size, size)


def trained_as(name, *args, **options):
    return create_model(name, *args, deep_supervision=supervised(name), **options)


@pytest.mark.parametrize("name", list_models())
def test_forward_backward_and_logits_at_the_input_size(name):
    # PVT has no stride-2 level to be filled
    encoder = "tu-pvt_v2_b0" if name == "smp-unet-stride2" else "tu-test_resnet"
    classes = 1 if name in BINARY else 2
    model = trained_as(name, encoder, classes=classes, width=8)
    x = image(SIZE.get(name, 64))
    outputs = model.train()(x)
    assert isinstance(outputs, list) == supervised(name)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(o.square().mean() for o in outputs).backward()
    assert outputs[0].shape == (2, classes, *x.shape[2:])
    if name in THIN or name in PEERS:
        idle = [n for n, p in model.named_parameters() if p.grad is None]
        assert not idle, f"parameters that get no gradient: {idle}"
    with torch.inference_mode():
        assert model.eval()(x).shape == outputs[0].shape


@pytest.mark.parametrize(
    ("skip", "linear"),
    [("copy", True), ("copy-matched", False), ("nested", False), ("sdi-noattention", False)],
)
def test_behind_the_encoder_the_copy_alone_is_linear(skip, linear):
    model = create_model(f"thin+{skip}", "tu-test_resnet").eval()

    def logits(features):
        return model.segmentation_head(model.decoder(features)[0])

    with torch.inference_mode():
        a, b = (model.encoder(seeded)[-4:] for seeded in (image(), image().flip(-1) * 2))
        both = logits([x + y for x, y in zip(a, b, strict=True)])
        apart = logits(a) + logits(b) - logits([x * 0 for x in a])
    assert torch.allclose(both, apart, rtol=1e-4, atol=1e-4 * both.abs().max()) == linear


@pytest.mark.parametrize("name", [*THIN, "smp-unet+sdi-l4-ds", "thin+sdi-c8", "thin+copy-l3"])
def test_deep_supervision_gives_a_map_per_level_finest_first(name):
    model = create_model(name, "tu-test_resnet", deep_supervision=True).train()
    assert [o.shape[-1] for o in model(image())] == [64, 32, 16, 8]
    without = create_model(name, "tu-test_resnet").train()
    assert without(image()).shape == (2, 1, 64, 64), "one tensor unless asked for more"


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        *((name, "tu-test_resnet") for name in PLUGGED),
        *((name, "tu-pvt_v2_b0") for name in ("smp-unet+sdi", "smp-fpn+sdi", "thin+nested")),
        ("smp-unet-stride2", "tu-pvt_v2_b0"),
        *((name, "mit_b0") for name in ("smp-unet+sdi", "unetv2")),
    ],
)
def test_a_skip_with_any_encoder_saves_and_loads(name, encoder, tmp_path):
    """A CNN, a timm transformer with an empty stride-2 level, and smp's own transformer."""
    model, x = create_model(name, encoder), image(SIZE.get(name, 64))
    model.train()(x).sum().backward()
    model.save_pretrained(tmp_path)
    smp.encoders.encoders.pop(f"sdi-c32@{encoder}", None)  # as in a fresh process
    again = from_pretrained(tmp_path)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    assert again.normalisation == model.normalisation


def test_levels_without_channels_are_left_alone():
    """timm's PVT has no stride-2 features: smp hands an empty map there."""
    model = networks.with_skip("unet", "tu-pvt_v2_b0", None)
    features = model.encoder(image())
    assert model.encoder.out_channels == [3, 0, 32, 32, 32, 32] == [f.shape[1] for f in features]
    coarse = networks.with_skip("unet", "resnet18", None, skip="copy", levels=3)
    assert coarse.encoder.out_channels == [3, 0, 0, 32, 32, 32]
    assert coarse(image()).shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("thin+sdi", ("thin", "sdi", 32, None, True)),
        ("thin+sdi-noattention-c8-l3-nods", ("thin", "sdi-noattention", 8, 3, False)),
        ("smp-unet+copy-l4-ds", ("smp-unet", "copy", 32, 4, True)),
        ("thin+my.module:Mine-c16", ("thin", "my.module:Mine", 16, None, True)),
        ("tmi-unet++", None),
        ("tmi-unet+", None),
        ("smp-unet", None),
        ("thin+sdi-l3-c8", None),
        ("thin+SDI", None),
    ],
)
def test_a_name_splits_at_the_first_plus_that_a_skip_follows(name, expected):
    found = parts(name)
    shape = found and (found.base, found.skip, found.c, found.levels, found.deep_supervision)
    assert shape == expected


def test_suffixes_do_what_they_say():
    model = create_model("thin+sdi-c8-l3", "resnet18", deep_supervision=True)
    assert model.decoder.skip.out_channels == (8, 8, 8) and model.decoder.levels == 4
    assert [head.in_channels for head in model.supervision_heads] == [8, 8, 8]
    assert not supervised("thin+sdi-nods") and supervised("thin+sdi")
    assert supervised("smp-unet+sdi-ds") and not supervised("smp-unet+sdi")
    assert supervised("tmi-unet++") and not supervised("tmi-unet+-nods")
    assert not any(supervised(f"tmi-unet-{m}") for m in ("l1", "l2", "l3", "l4", "wide"))


def test_readers_see_no_code():
    assert networks.label("thin+copy") == "copy (U-Net's skip)"
    assert networks.label("smp-fpn+sdi-c8") == "SDI (U-Net v2's skip) in FPN (smp), c = 8"
    assert len({networks.label(n) for n in list_models()}) == len(list_models())


def test_the_architectures_are_smps():
    left_out = {"dpt", "pspnet", "deeplabv3"}
    assert {*PYRAMID} == {*smp.MODEL_ARCHITECTURES_MAPPING} - left_out


@pytest.mark.parametrize("name", ["unet", "unetpp"])
def test_names_that_could_mean_three_things_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' could mean several networks: choose 'thin\\+"):
        create_model(name)


def test_the_papers_parameter_counts():
    """Released: 25.145 M with its unused deconv5 of 16,384; with one shared SDI, as in Table 4,
    25,034,060 with it.
    """
    with torch.device("meta"):
        released = create_model("unetv2-released", "tu-pvt_v2_b2", deep_supervision=True)
        shared = create_model("thin+sdi-shared", "tu-pvt_v2_b2", deep_supervision=True)
    assert round((count(released) + 16_384) / 1e6, 4) == 25.1450
    assert count(released) - count(shared) == 12 * 9_248
    assert count(shared) + 16_384 == 25_034_060


def test_unetpps_own_family_has_table_is_counts_and_takes_no_pretrained_weights():
    """TMI, Table I (one grey channel): the counts of its code; the wide U-Net is the code's, not
    the printed 9.1 M.
    """
    expected = {
        "tmi-unet-l1": 100_961,
        "tmi-unet-l2": 465_953,
        "tmi-unet-l3": 1_925_025,
        "tmi-unet-l4": 7_759_521,
        "tmi-unet-wide": 9_282_246,
        "tmi-unet-e": 8_728_356,
        "tmi-unet+": 8_728_356,
        "tmi-unet+-nods": 8_728_257,
        "tmi-unet++-nods": 9_041_601,
        "tmi-unet++": 9_041_700,
    }
    with torch.device("meta"):
        assert {name: count(trained_as(name, in_channels=1)) for name in expected} == expected
        assert (
            count(create_model("smp-unet-stride2", "tu-pvt_v2_b2")) == 28_149_009
        )  # the U-Net v2 paper's baselines
        assert count(create_model("smp-unetplusplus-stride2", "tu-pvt_v2_b2")) == 29_864_977
    half = create_model("tmi-unet++", width=16, batchnorm=True)
    kinds = {type(m).__name__ for m in half.modules()}
    assert (
        "BatchNorm2d" in kinds
        and "Dropout" not in kinds
        and half.nodes["x_0_0"].unit[0].out_channels == 16
    )
    with pytest.raises(ValueError, match="tmi-unet\\+ has no pretrained encoder"):
        create_model("tmi-unet+", encoder_weights="imagenet")


def test_only_the_skip_differs():
    """The thin networks share encoder, decoder and heads key by key: what differs is the skip."""
    keys = {}
    for name in THIN:
        state = trained_as(name, "tu-test_resnet").state_dict()
        keys[name] = {key for key in state if not key.startswith("decoder.skip")}
    assert all(k == keys["thin+copy"] for k in keys.values())


@pytest.mark.parametrize("encoder, rate", [("tu-pvt_v2_b0", 30 - 14), ("resnet18", 0)])
def test_drop_path_reaches_encoders_that_have_it(encoder, rate):
    for name in ("thin+sdi", "smp-unet", "smp-unet+sdi"):
        model = create_model(name, encoder, drop_path=0.1)
        found = [m for m in model.modules() if type(m).__name__ == "DropPath"]
        assert bool(found) == bool(rate)


def test_networks_carry_the_mean_and_deviation_of_their_encoder():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert create_model("thin+sdi", "resnet18").normalisation == imagenet
    assert create_model("smp-unet", "mit_b0").normalisation == imagenet
    assert create_model("thin+sdi", "tu-mobilevitv2_050").normalisation != imagenet
    assert create_model("tmi-unet-l1").normalisation == imagenet


def test_freezing_the_encoder():
    model = create_model("unetv2", "resnet18")
    model.freeze_encoder()
    model.train()
    before = model.encoder.bn1.running_mean.clone()
    model(image()).sum().backward()
    assert model.encoder.conv1.weight.grad is None and model.encoder.bn1.running_mean.equal(before)
    assert model.decoder.skip.theta[0][0].weight.grad is not None


def test_rectangles_channels_activation_and_labels():
    options = {"in_channels": 5, "classes": 3, "activation": "sigmoid"}
    labelled = {"aux_params": {"classes": 4}}
    model = networks.UnetV2("resnet18", encoder_weights=None, **options, **labelled)
    masks, labels = model.eval()(torch.randn(1, 5, 64, 96))
    assert masks.shape == (1, 3, 64, 96) and labels.shape == (1, 4)
    assert masks.min() >= 0 and masks.max() <= 1


def test_options_of_a_skip_reach_it_and_survive_saving(tmp_path):
    model = networks.with_skip("unet", "resnet18", None, skip="sum", c=8)
    assert model.encoder.out_channels == [3, 8, 8, 8, 8, 8]
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert again.encoder.skip.combine == "sum" and count(again) == count(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thin+copy", "thin+nested", "thin+sdi"])
def test_onnx_and_compile(name, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    model, x = create_model(name, "tu-test_resnet").eval(), image(64, 1)
    expected = model(x).detach()
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-3, atol=1e-4)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: create_model("unetv3"), "unknown model 'unetv3'; did you mean 'unetv2'"),
        (
            lambda: create_model("unetv2", "resnet81"),
            "unknown encoder 'resnet81'; did you mean 'resnet18'",
        ),
        (
            lambda: create_model("smp-unet", "tu-pvt_v2_b9"),
            "unknown encoder 'tu-pvt_v2_b9'; did you mean",
        ),
        (lambda: networks.with_skip("dpt", "resnet18", None), "unknown architecture 'dpt'"),
        (
            lambda: networks.ThinUnet("resnet18", encoder_weights=None, skip="sdl"),
            "unknown skip 'sdl'; did you mean 'sdi'",
        ),
        (
            lambda: networks.UnetV2("resnet18", encoder_weights=None, levels=6),
            "levels=6, but resnet18 of depth 5 has 5",
        ),
        (
            lambda: create_model(
                "unetv2", in_channels=1, encoder_weights="imagenet", weights_dir="."
            ),
            "3 channels, not 1",
        ),
    ],
)
def test_wrong_names_say_the_near_ones(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_size_the_encoder_cannot_take_names_the_next_one():
    with pytest.raises(RuntimeError, match=r"divisible by 32.*\(128, 128\)"):
        create_model("unetv2", "resnet18")(image(112))


def test_weights_from_a_folder(tmp_path):
    source = create_model("thin+copy", "resnet18")
    state = {
        k: v.half()
        for k, v in source.encoder.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "resnet18.safetensors")
    for name in ("unetv2", "smp-unet+sdi", "smp-fpn"):
        model = create_model(name, "resnet18", "imagenet", weights_dir=tmp_path)
        encoder = getattr(model.encoder, "encoder", model.encoder)
        torch.testing.assert_close(encoder.conv1.weight.half(), state["conv1.weight"])
    with pytest.raises(
        FileNotFoundError, match=r"no weights of resnet34 in .*; it holds: resnet18"
    ):
        create_model("thin+copy", "resnet34", "imagenet", weights_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04K\x01."])
def test_damaged_weights_are_refused_by_name(content, tmp_path):
    (tmp_path / "resnet18.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"resnet18.safetensors is damaged"):
        create_model("thin+copy", "resnet18", "imagenet", weights_dir=tmp_path)


def test_weights_of_another_encoder_are_refused(tmp_path):
    save_file(
        {"conv1.weight": torch.zeros(64, 3, 7, 7), "other": torch.zeros(1)},
        tmp_path / "resnet18.safetensors",
    )
    with pytest.raises(ValueError, match=r"not of resnet18: .* keys are missing"):
        create_model("thin+copy", "resnet18", "imagenet", weights_dir=tmp_path)


def test_no_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"could not be downloaded.*weights_dir, or use no weights"):
        create_model("thin+copy", "resnet18", "imagenet")


def test_weights_are_checked_without_building_the_network(tmp_path):
    source = create_model("thin+copy", "resnet18").encoder
    state = {key: value.contiguous() for key, value in source.state_dict().items()}
    save_file(state, tmp_path / "resnet18.safetensors")
    networks.check_weights("resnet18", tmp_path)
    networks.check_weights("resnet18", None)  # from the hub: nothing to look at
    with pytest.raises(FileNotFoundError, match=r"no weights of resnet34 .* it holds: resnet18"):
        networks.check_weights("resnet34", tmp_path)
    state["conv1.weight"] = state["conv1.weight"][:, :1].contiguous()
    save_file(state, tmp_path / "resnet18.safetensors")
    with pytest.raises(ValueError, match=r"not of resnet18: conv1\.weight has the shape"):
        networks.check_weights("resnet18", tmp_path)


def test_skips_load_neither_timm_nor_torchvision():
    code = "import sys, unetv2.skips; print(*({'timm', 'torchvision'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", ["thin+copy", "thin+sdi", "smp-unet+sdi", "polyp-pvt"])
def test_a_model_made_half_takes_half_images(name):
    model = create_model(name, "tu-test_resnet").half().eval()
    assert model(image(64, 1).half()).dtype == torch.float16


@pytest.mark.parametrize("name", ["thin+sdi", "smp-unet+sdi"])
def test_a_trace_is_saved_and_gives_the_same(name, tmp_path):
    model, x = create_model(name, "tu-test_resnet").eval(), image(64, 1)
    torch.jit.save(torch.jit.trace(model, x), tmp_path / "model.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(x), model(x))


def test_labels_come_in_training_too():
    options = {"deep_supervision": True, "aux_params": {"classes": 2}}
    model = networks.with_skip("unet", "resnet18", None, **options)
    masks, labels = model.train()(image())
    assert len(masks) == 4 and labels.shape == (2, 2)
    assert model.eval()(image())[0].shape == (2, 1, 64, 64)


def test_a_saved_model_needs_no_pretrained_encoder(tmp_path):
    """Its config asks for ImageNet's weights, which may be out of reach where it is loaded."""
    model = networks.UnetV2("resnet18", encoder_weights=None)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"encoder_weights": "a name that nobody has"}))
    torch.testing.assert_close(from_pretrained(tmp_path)(image()), model.eval()(image()))
    for damage, words in (({}, "names no model"), ({"_model_class": "Foo"}, "'Foo'")):
        config.write_text(json.dumps(damage))
        with pytest.raises(ValueError, match=f"config.json.*{words}"):
            from_pretrained(tmp_path)
