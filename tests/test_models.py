"""The models: smp's interface, the paper's counts, SDI in smp's architectures, and errors that help."""

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from unetv2 import models

THIN = [n for n in models.names() if not n.startswith(("smp-", "tmi-"))]
PLUGGED = [n for n in models.names() if n.endswith("+sdi")]
SIZE = {"smp-pan": 128, "smp-pan+sdi": 128}  # PAN pools the last level three times


def count(model):
    return sum(p.numel() for p in model.parameters())


def image(size=64, batch=2, channels=3):
    torch.manual_seed(0)
    return torch.randn(batch, channels, size, size)


@pytest.mark.parametrize("name", models.names())
def test_forward_backward_and_logits_at_the_input_size(name):
    encoder = "tu-pvt_v2_b0" if name == "smp-unet+stride2" else "resnet18"  # without a stride-2 level
    model, x = models.build(name, encoder, classes=2), image(SIZE.get(name, 64))
    outputs = model.train()(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(o.square().mean() for o in outputs).backward()
    assert outputs[0].shape == (2, 2, *x.shape[2:])
    if name in THIN:
        idle = [n for n, p in model.named_parameters() if p.grad is None]
        assert not idle, f"parameters that get no gradient: {idle}"
    with torch.inference_mode():
        assert model.eval()(x).shape == outputs[0].shape


@pytest.mark.parametrize("name", THIN)
def test_deep_supervision_gives_a_map_per_level_finest_first(name):
    model = models.build(name, "resnet18").train()
    assert [o.shape[-1] for o in model(image())] == [64, 32, 16, 8]
    assert models.build(name, "resnet18", deep_supervision=False).train()(image()).shape == (2, 1, 64, 64)


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "tu-pvt_v2_b0", "mit_b0"])
@pytest.mark.parametrize("name", [*PLUGGED, "unetv2", "unetpp"])
def test_sdi_with_any_encoder_saves_and_loads(name, encoder, tmp_path):
    """CNNs, a timm transformer with an empty stride-2 level, and smp's own transformer (which some decoders refuse)."""
    if name in ("smp-pan+sdi", "smp-deeplabv3plus+sdi") and not encoder.startswith(("resnet", "mobilenet")):
        pytest.skip("transformers cannot be dilated")
    model, x = models.build(name, encoder), image(SIZE.get(name, 64))
    loss = model.train()(x)
    (loss[0] if isinstance(loss, list) else loss).sum().backward()
    model.save_pretrained(tmp_path)
    smp.encoders.encoders.pop(f"sdi-{encoder}", None)  # as in a fresh process
    again = models.from_pretrained(tmp_path)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))


def test_the_papers_parameter_counts():
    """Released: 25.145 M with its unused deconv5 of 16,384; with one shared SDI, as in Table 4, 25,034,060 with it."""
    with torch.device("meta"):
        released = models.build("unetv2-released", "tu-pvt_v2_b2")
        shared = models.build("unetv2-shared", "tu-pvt_v2_b2")
    assert round((count(released) + 16_384) / 1e6, 4) == 25.1450
    assert count(released) - count(shared) == 12 * 9_248
    assert count(shared) + 16_384 == 25_034_060


def test_unetpps_own_family_has_table_is_counts_and_takes_no_pretrained_weights():
    """TMI, Table I (one grey channel): the counts of its code; the wide U-Net is the code's, not the printed 9.1 M."""
    expected = {
        "tmi-unet-l1": 100_961, "tmi-unet-l2": 465_953, "tmi-unet-l3": 1_925_025, "tmi-unet-l4": 7_759_521,
        "tmi-unet-wide": 9_282_246, "tmi-unet-e": 8_728_356, "tmi-unet+": 8_728_356, "tmi-unet++-nods": 9_041_601,
        "tmi-unet++": 9_041_700,
    }  # fmt: skip
    with torch.device("meta"):
        assert {name: count(models.build(name, in_channels=1)) for name in expected} == expected
        assert count(models.build("smp-unet+stride2", "tu-pvt_v2_b2")) == 28_149_009  # the U-Net v2 paper's baselines
        assert count(models.build("smp-unetplusplus+stride2", "tu-pvt_v2_b2")) == 29_864_977
    half = models.build("tmi-unet++", width=16, batchnorm=True)
    kinds = {type(m).__name__ for m in half.modules()}
    assert "BatchNorm2d" in kinds and "Dropout" not in kinds and half.nodes["x_0_0"].unit[0].out_channels == 16
    with pytest.raises(ValueError, match="tmi-unet\\+ has no pretrained encoder"):
        models.build("tmi-unet+", encoder_weights="imagenet")


def test_only_the_skip_differs():
    """unet, unetpp and unetv2 share encoder, decoder and heads key by key; what differs is in decoder.skip."""
    keys = {n: {k for k in models.build(n).state_dict() if not k.startswith("decoder.skip")} for n in THIN}
    assert all(k == keys["unet"] for k in keys.values())


def test_freezing_the_encoder():
    model = models.build("unetv2", "resnet18")
    model.freeze_encoder()
    model.train()
    before = model.encoder.bn1.running_mean.clone()
    model(image())[0].sum().backward()
    assert model.encoder.conv1.weight.grad is None and model.encoder.bn1.running_mean.equal(before)
    assert model.decoder.skip.theta[0][0].weight.grad is not None


def test_rectangles_channels_activation_and_labels():
    model = models.UnetV2("resnet18", encoder_weights=None, in_channels=5, classes=3, activation="sigmoid",
                          aux_params={"classes": 4})  # fmt: skip
    masks, labels = model.eval()(torch.randn(1, 5, 64, 96))
    assert masks.shape == (1, 3, 64, 96) and labels.shape == (1, 4)
    assert masks.min() >= 0 and masks.max() <= 1


def test_options_of_sdi_reach_it_and_survive_saving(tmp_path):
    model = models.with_sdi("unet", "resnet18", None, sdi={"c": 8, "attention": None, "combine": "sum"})
    assert model.encoder.out_channels == [3, 8, 8, 8, 8, 8]
    model.save_pretrained(tmp_path)
    again = models.from_pretrained(tmp_path)
    assert again.encoder.sdi.combine == "sum" and count(again) == count(model)


@pytest.mark.parametrize("name", ["unet", "unetpp", "unetv2"])
def test_onnx_and_compile(name, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    model, x = models.build(name, "resnet18").eval(), image(64, 1)
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
        (lambda: models.build("unet2"), "unknown model 'unet2'; did you mean 'unet"),
        (lambda: models.build("unetv2", "resnet81"), "unknown encoder 'resnet81'; did you mean 'resnet18'"),
        (lambda: models.build("smp-unet", "tu-pvt_v2_b9"), "unknown encoder 'tu-pvt_v2_b9'; did you mean"),
        (lambda: models.with_sdi("dpt", "resnet18", None), "unknown architecture 'dpt'"),
        (lambda: models.UnetV2("resnet18", encoder_weights=None, skip="sdl"), "unknown skip 'sdl'; did you mean 'sdi'"),
        (lambda: models.UnetV2("resnet18", encoder_weights=None, levels=6), "levels=6, but resnet18 of depth 5 has 5"),
        (
            lambda: models.build("unetv2", in_channels=1, encoder_weights="imagenet", weights_dir="."),
            "3 channels, not 1",
        ),
    ],
)
def test_wrong_names_say_the_near_ones(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_size_the_encoder_cannot_take_names_the_next_one():
    with pytest.raises(RuntimeError, match=r"divisible by 32.*\(128, 128\)"):
        models.build("unetv2", "resnet18")(image(112))


def test_weights_from_a_folder(tmp_path):
    source = models.build("unet", "resnet18")
    state = {k: v.half() for k, v in source.encoder.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "resnet18.safetensors")
    for name in ("unetv2", "smp-unet+sdi", "smp-fpn"):
        model = models.build(name, "resnet18", "imagenet", weights_dir=tmp_path)
        encoder = getattr(model.encoder, "encoder", model.encoder)
        torch.testing.assert_close(encoder.conv1.weight.half(), state["conv1.weight"])
    with pytest.raises(FileNotFoundError, match=r"no weights of resnet34 in .*; it holds: resnet18"):
        models.build("unet", "resnet34", "imagenet", weights_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04K\x01."])
def test_damaged_weights_are_refused_by_name(content, tmp_path):
    (tmp_path / "resnet18.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"resnet18.safetensors is damaged"):
        models.build("unet", "resnet18", "imagenet", weights_dir=tmp_path)


def test_weights_of_another_encoder_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "other": torch.zeros(1)}, tmp_path / "resnet18.safetensors")
    with pytest.raises(ValueError, match=r"not of resnet18: .* keys are missing"):
        models.build("unet", "resnet18", "imagenet", weights_dir=tmp_path)


def test_no_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"could not be downloaded.*weights_dir, or use encoder_weights=None"):
        models.build("unet", "resnet18", "imagenet")
