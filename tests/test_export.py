"""Export: the file computes what the model computes, at any batch and size, alone."""

import copy
import json
import os

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from unetv2 import networks
from unetv2.common.params import RunParams
from unetv2.inference import export
from unetv2.networks import NestedUNet, NestedUnetPlusPlus

FREE = ("batch", "height", "width")


def load(path):
    """What a user does with the file, without this library: a function of the image."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])
    return torch.export.load(path).module()


def pruned():
    return NestedUNet(
        in_channels=2, filters=(4, 8, 16, 32), norm=True, classes=3, deep_supervision=True
    ).prune(2)


def pruned_smp():
    options = {"encoder_weights": None, "deep_supervision": True}
    return NestedUnetPlusPlus("tu-test_resnet", **options).prune(1)


CASES = {
    "sdi.onnx": lambda: networks.create_model("thin+sdi-l2", "tu-test_resnet"),  # few levels: quick
    "pruned.onnx": pruned,
    "pruned-smp.onnx": pruned_smp,
    "unetpp.pt2": lambda: networks.create_model("thin+nested", "tu-test_resnet"),
    "sdi.pt2": lambda: networks.create_model("smp-unet+sdi-l2", "tu-test_resnet"),
}


@pytest.mark.parametrize("case", CASES)
def test_file_computes_the_same_at_other_sizes(case, tmp_path):
    model, path = CASES[case]().train(), tmp_path / case
    before = copy.deepcopy(model.state_dict())
    done = export.export(model, path, {".onnx": "onnx", ".pt2": "torch"}[path.suffix], size=64)
    assert done.path == path and done.free == FREE and 0 <= done.difference < 1e-5
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    channels, run = model.config["in_channels"], load(path)
    for shape in (
        (1, channels, 96, 64),
        (2, channels, 128, 160),
    ):  # neither the traced nor the checked ones
        x = torch.rand(shape)
        with torch.no_grad():
            expected = model.eval()(x)
            found = run(x)
        assert found.shape == (shape[0], model.config["classes"], *shape[2:])
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=float(expected.abs().max()) * 1e-5
        )
    assert [p.name for p in tmp_path.iterdir()] == [case]


def test_metadata_says_how_to_use_the_file(tmp_path):
    for format in ("onnx", "torch"):
        export.export(nn.Conv2d(3, 2, 1), tmp_path / format, format, size=96, name="mine")
    session = onnxruntime.InferenceSession(tmp_path / "onnx", providers=["CPUExecutionProvider"])
    extra = {export.META: ""}
    torch.export.load(tmp_path / "torch", extra_files=extra)
    for text in (session.get_modelmeta().custom_metadata_map[export.META], extra[export.META]):
        meta = json.loads(text)
        assert meta["name"] == "mine" and meta["size"] == [96, 96] and meta["classes"] == 2
        assert tuple(meta["free"]) == FREE
        np.testing.assert_allclose(meta["mean"], (0.485, 0.456, 0.406))
    assert session.get_inputs()[0].shape[1] == 3


class Fixed(nn.Module):
    """Takes its sides as numbers, as some transformers do."""

    def __init__(self, side):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 1, side, side))

    def forward(self, x):
        return x.mean(1, keepdim=True) + self.table


def test_model_of_one_size_gets_a_free_batch_alone(tmp_path):
    done = export.export(Fixed(48), tmp_path / "m.pt2", "torch", size=48)
    assert done.free == ("batch",)
    assert load(done.path)(torch.rand(5, 3, 48, 48)).shape == (5, 1, 48, 48)


class Bessel(nn.Module):
    """ONNX has no such function; the program of torch.export has."""

    def forward(self, x):
        return torch.special.bessel_j0(x[:, :1])


class Decides(nn.Module):
    def forward(self, x):
        return x[:, :1] if x.sum() > 0 else -x[:, :1]


@pytest.mark.parametrize(
    "model, format, size, words",
    [
        (Bessel, "onnx", 64, "Bessel cannot be exported to onnx: .*bessel"),
        (Decides, "torch", 64, "Decides cannot be exported to torch: "),
        (
            lambda: Fixed(64),
            "onnx",
            96,
            "Fixed fails on an image of 3 x 96 x 96: The size of tensor",
        ),
        (
            lambda: networks.create_model("thin+copy", "tu-test_resnet"),
            "onnx",
            100,
            "ThinUnet fails on an image of 3 x 100 x 100: .*128",
        ),
        (lambda: nn.Conv2d(3, 1, 1), "onxx", 64, "unknown format 'onxx'; did you mean 'onnx'"),
    ],
)
def test_what_cannot_be_exported_is_one_error_and_no_file(model, format, size, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        export.export(model(), tmp_path / "m.onnx", format, size=size)
    assert len(str(caught.value).splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    class Noise(nn.Module):
        def forward(self, x):
            return x[:, :1] + torch.rand_like(x[:, :1])

    with pytest.raises(
        ValueError, match=r"Noise cannot be exported to torch: its output differs .* by \d"
    ):
        export.export(Noise(), tmp_path / "m.pt2", "torch", size=64)
    assert not list(tmp_path.iterdir())


def test_command_reports_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* holds no trained run"):
        export.main([str(tmp_path), "--output", str(tmp_path / "m.onnx")])


@pytest.fixture
def run_dir(monkeypatch, tmp_path):
    """A run "r" in the working directory, of a model that is exported in no time."""
    (tmp_path / "r").mkdir()
    monkeypatch.chdir(tmp_path)
    params = RunParams(image_size=64)
    monkeypatch.setattr(export.load, "load_run", lambda run: (nn.Conv2d(3, 1, 1), params))
    return tmp_path / "r"


@pytest.mark.parametrize("args, name, format", [
    ("--output m.pt2", "m.pt2", "torch"), ("--output m.ONNX", "m.ONNX", "onnx"),
    ("", "r/model.onnx", "onnx"),
    ("--format torch", "r/model.pt2", "torch"), ("--format torch --output m", "m", "torch"),
])  # fmt: skip
def test_the_ending_names_the_format(args, name, format, run_dir):
    export.main(["r", *args.split()])
    content = (run_dir.parent / name).read_bytes()
    assert content.startswith(b"PK") == (format == "torch") and (
        format == "torch" or b"logits" in content
    )


@pytest.mark.parametrize("args, words", [
    ("--format torch --output m.onnx", "m.onnx and --format do not agree"),
    ("--output m.zip", "in .onnx for onnx"),
    ("--format torch --output r", "r is a folder: name a file"),
])  # fmt: skip
def test_output_that_cannot_be_is_an_error_before_the_work(args, words, run_dir, monkeypatch):
    monkeypatch.setattr(export, "_capture", lambda *args: pytest.fail("work was done"))
    with pytest.raises(SystemExit, match=f"^error: .*{words}"):
        export.main(["r", *args.split()])
    assert list(run_dir.parent.rglob("*")) == [run_dir]


def test_interrupted_export_is_one_line_and_no_file(run_dir, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_onnx", interrupted)
    with pytest.raises(SystemExit, match=r"^interrupted; no file was written$"):
        export.main(["r"])
    assert not list(run_dir.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("UNETV2_SWEEP"), reason="20 minutes of CPU: set UNETV2_SWEEP=1"
)
def test_every_model_of_the_registry(tmp_path):
    free = {}
    for name in networks.list_models():
        for format in export.FORMATS:
            model = networks.create_model(
                name, "tu-pvt_v2_b0" if "stride2" in name else "tu-test_resnet", width=8
            )
            free[name, format] = export.export(
                model, tmp_path / "file", format, size=128, name=name
            ).free
    fixed = {case for case, names in free.items() if names != FREE}  # these get a free batch alone
    atrous = {
        (f"smp-{arch}{sdi}", "torch") for arch in ("deeplabv3plus", "pan") for sdi in ("", "+sdi")
    }
    assert fixed == atrous | {("smp-upernet", "onnx"), ("smp-upernet+sdi", "onnx")}
