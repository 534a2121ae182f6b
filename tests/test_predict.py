"""Predict: masks of the image's own size and place; what cannot be read is reported."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from unetv2 import data, networks
from unetv2.common.params import RunParams
from unetv2.inference import export, predict


class Bright(nn.Module):
    """p > 0.5 where a pixel is brighter than half.

    Of several classes the brightest channel, 0 where all are dark.
    """

    def __init__(self, classes=1):
        super().__init__()
        self.classes, self.sizes = classes, Counter()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        self.sizes[tuple(x.shape)] += 1
        mean, std = (torch.tensor(v)[:, None, None] for v in (data.MEAN, data.STD))
        z = (x * std + mean)[:, : self.classes] - 0.5
        return self.scale * (
            z if self.classes == 1 else torch.cat([torch.zeros_like(z[:, :1]), z], 1)
        )


def picture(h=48, w=80, at=(slice(0, 24), slice(0, 30))):
    """Dark, with a bright corner: h, w and the place tell whether a mask was turned or squashed."""
    image = np.full((h, w, 3), 30, np.uint8)
    image[at] = 220
    return image


def read(path):
    return np.asarray(Image.open(path))


def save(path, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if array is None else array).save(path, **options)
    return path


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


TRUTH = picture()[..., 0] > 127


def test_mask_has_the_images_size_whatever_the_format(tmp_path):
    source, exif = tmp_path / "in", Image.Exif()
    exif[0x0112] = 6  # shown by viewers after a quarter turn clockwise
    image = Image.fromarray(picture())
    save(source / "rgb.png")
    image.rotate(90, expand=True).save(source / "turned.jpg", exif=exif, quality=95)
    modes = {
        "L": "grey.png",
        "RGBA": "rgba.png",
        "P": "palette.gif",
        "CMYK": "cmyk.jpg",
        "1": "bits.png",
    }
    for mode, name in modes.items():
        image.convert(mode, dither=Image.Dither.NONE).save(source / name)
    save(source / "sixteen.png", picture()[..., 0].astype(np.uint16) * 200)
    save(source / "float.tif", picture()[..., 0].astype(np.float32) / 7)
    done = predict.predict((Bright(), 64), source, tmp_path / "out", batch_size=4)
    assert len(done.masks) == 9 and not done.failed
    for path in done.masks:
        mask = read(path)
        assert (
            mask.dtype == np.uint8
            and set(np.unique(mask)) == {0, 255}
            and mask.shape == TRUTH.shape
        ), path
        assert iou(mask > 0, TRUTH) > 0.95, path


def test_batches_folders_and_names(tmp_path):
    source, out, model = tmp_path / "in", tmp_path / "out", Bright()
    for name in ("a/x.png", "b/x.png", "b/x.bmp", "b/c.d.png", ".hidden/x.png"):
        save(source / name)
    (source / ".DS_Store").write_bytes(b"0")
    done = predict.predict((model, 32), source, out, batch_size=3)
    names = {"a/x_mask.png", "b/x.png_mask.png", "b/x.bmp_mask.png", "b/c.d_mask.png"}
    assert {path.relative_to(out).as_posix() for path in done.masks} == names
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == names
    assert model.sizes == {(3, 3, 32, 32): 1, (1, 3, 32, 32): 1}
    files = [source / "a/x.png", source / "b/x.png", source / "a/x.png"]
    done = predict.predict((model, 32), files, tmp_path / "two")
    assert [path.relative_to(tmp_path / "two").as_posix() for path in done.masks] == [
        "a/x_mask.png",
        "b/x_mask.png",
    ]


def test_linked_folders_are_walked_once_and_long_names_fit(tmp_path):
    source, long = tmp_path / "in", 240 * "x"
    save(source / f"{long}.png")
    save(tmp_path / "elsewhere" / "linked.png")
    (source / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(source)
    done = predict.predict((Bright(), 32), source, tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in done.masks}
    assert names == {f"{long}_mask.png", "link/linked_mask.png"} and not done.failed


@pytest.mark.parametrize("names, masks", [
    ("a.jpg a.png", "a.jpg a.png"),
    ("a.jpg a.png a.jpg.png", "a.jpg a.png a.jpg.png"),
    ("a.jpg a.jpg.png", "a a.jpg.png"),
    ("a.png a.b.png", "a a.b"),
    ("a.bmp a.png a.png.gif a.png.gif.png", "a.bmp a.png a.png.gif a.png.gif.png"),
])  # fmt: skip
def test_every_image_has_a_mask_of_its_own(names, masks, tmp_path):
    for name in names.split():
        save(tmp_path / "in" / name)
    done = predict.predict((Bright(), 32), tmp_path / "in", tmp_path / "out").masks
    assert sorted(p.name for p in done) == sorted(f"{m}_mask.png" for m in masks.split())
    assert sorted(done) == sorted((tmp_path / "out").iterdir())


def test_results_stay_in_the_output_folder_under_the_names_the_user_gave(tmp_path, monkeypatch):
    here = tmp_path / "w/deep"
    save(here / "other/y.png"), save(tmp_path / "w/photos/x.png"), save(tmp_path / "store/z.png")
    (here / "album").symlink_to(tmp_path / "store")  # album/.. is tmp_path, as the system sees it
    (tmp_path / "w/photos/named.png").symlink_to(tmp_path / "store/z.png")
    monkeypatch.chdir(here)
    for given, names in (
        (["../photos", "other"], {"photos/x", "photos/named", "deep/other/y"}),
        (["../photos/named.png"], {"named"}),
        (["album", "other"], {"album/z", "other/y"}),
        (["album/../store", "other"], {"store/z", "w/deep/other/y"}),
    ):
        before = set(tmp_path.rglob("*"))
        done = predict.predict((Bright(), 32), given, tmp_path / "out")
        assert {p.relative_to(tmp_path / "out").as_posix() for p in done.masks} == {
            f"{n}_mask.png" for n in names
        }
        assert all(tmp_path / "out" in (p, *p.parents) for p in set(tmp_path.rglob("*")) - before)
        shutil.rmtree(tmp_path / "out")


def test_pillow_warns_the_user_of_nothing(tmp_path):
    """In a process of its own: pytest has filters of its own."""
    palette = Image.fromarray(picture()).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=bytes(4))
    save(tmp_path / "large.png")
    code = """if True:
        import sys, warnings
        from pathlib import Path
        from PIL import Image
        from unetv2.data.images import read_image
        Image.MAX_IMAGE_PIXELS = 3000
        for path in sys.argv[1:]:
            assert read_image(Path(path)).shape == (48, 80, 3)
    """
    files = [tmp_path / "palette.png", tmp_path / "large.png"]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, *files], capture_output=True, text=True
    )
    assert (
        done.returncode == 0 and "BombWarning" not in done.stderr and "Palette" not in done.stderr
    ), done.stderr


def test_logits_not_labels_are_enlarged(tmp_path):
    disc = np.hypot(*(np.mgrid[:512, :512] - 256)) < 150
    source = save(tmp_path / "disc.png", np.repeat(disc[..., None] * np.uint8(255), 3, 2))
    (path,) = predict.predict((Bright(), 32), source, tmp_path / "out").masks
    steps = np.diff(
        np.count_nonzero(read(path)[256 - 140 : 256], axis=1)
    )  # rows of the upper half grow smoothly
    assert (
        steps.max() < 40
    )  # labels enlarged 16 x would grow by 32 at once, on both sides, and stand still between
    assert (steps != 0).mean() > 0.5
    assert iou(read(path) > 0, disc) > 0.98


def test_overlay_probability_and_threshold(tmp_path):
    image = picture()
    image[:24, :30] = 140  # p = sigmoid(20 (140 / 255 - 0.5)) = 0.73
    source = save(tmp_path / "x.png", image)
    out = tmp_path / "out"
    predict.predict((Bright(), 64), source, out, overlay=True, probability=True)
    probability, overlay = read(out / "x_probability.png"), read(out / "x_overlay.png")
    assert (
        probability[10, 10] == round(255 / (1 + np.exp(-20 * (140 / 255 - 0.5))))
        and probability[40, 70] == 0
    )
    changed = (overlay != image).any(-1)
    assert (
        overlay.shape == image.shape
        and changed[23, 10]
        and not changed[12, 15]
        and not changed[40, 70]
    )
    (path,) = predict.predict((Bright(), 64), source, tmp_path / "strict", threshold=0.8).masks
    assert not read(path).any() and read(out / "x_mask.png").any()


def test_several_classes(tmp_path):
    image = np.full((40, 60, 3), 20, np.uint8)
    image[:, :20, 0], image[:, 40:, 1] = 250, 250
    source = save(tmp_path / "x.png", image)
    model = Bright(2), 64
    (path,) = predict.predict(model, source, tmp_path / "out", probability=True, overlay=True).masks
    ids = read(path)
    assert (ids[:, :18] == 1).all() and (ids[:, 42:] == 2).all() and not ids[:, 22:38].any()
    assert (
        read(tmp_path / "out/x_probability1.png")[5, 5]
        > 250
        > 5
        > read(tmp_path / "out/x_probability2.png")[5, 5]
    )
    with pytest.raises(ValueError, match=r"threshold=0\.3 is for one class"):
        predict.predict(model, source, tmp_path / "two", threshold=0.3)


def test_what_is_no_image_is_reported_and_the_rest_done(tmp_path, capsys):
    source = tmp_path / "in"
    save(source / "a.jpg"), save(source / "one.png", np.zeros((1, 1, 3), np.uint8))
    (source / "notes.txt").write_text("hello")
    (source / "empty.jpg").touch()
    (source / "half.jpg").write_bytes((source / "a.jpg").read_bytes()[:-200])
    (source / "dead.png").symlink_to("gone")
    save(source / "nan.tif", np.full((8, 8), np.nan, np.float32))
    save(source / "torn.avif")
    torn = bytearray((source / "torn.avif").read_bytes())
    torn[-60:] = bytes(60)
    (source / "torn.avif").write_bytes(torn)
    with pytest.raises(SystemExit) as stop:
        predict.main(
            [
                str(run_of("thin+copy", tmp_path / "run")),
                str(source),
                "--output",
                str(tmp_path / "out"),
            ]
        )
    assert capsys.readouterr().out == "2 masks written\n"
    lines = str(stop.value.code).splitlines()  # a text as code: printed, and status 1
    assert lines[0] == "left out: 6" and len(lines) == 7
    names = ("dead.png", "empty.jpg", "half.jpg", "nan.tif", "notes.txt", "torn.avif")
    assert all(
        f"cannot read {source / name}: " in line
        for name, line in zip(names, lines[1:], strict=True)
    )
    assert "dataset" not in str(lines)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_mask.png", "one_mask.png"]
    assert read(tmp_path / "out" / "one_mask.png").shape == (1, 1)


def run_of(name, folder, config=None):
    """A run folder as unetv2 train leaves it, with random weights.

    `config`: the model that params.json names.
    """
    folder.mkdir()
    params = RunParams(model=config or name, encoder="tu-test_resnet", image_size=64)
    (folder / "params.json").write_text(json.dumps(params.model_dump()))
    torch.manual_seed(0)
    state = networks.for_run(params.model_copy(update={"model": name})).state_dict()
    save_file(
        {k: v.contiguous() for k, v in state.items()},
        folder / "model.safetensors",
        metadata={"classes": "1"},
    )
    return folder


def test_onnx_file_gives_the_runs_masks(tmp_path):
    run, file = run_of("thin+copy", tmp_path / "run"), tmp_path / "model.onnx"
    export.main([str(run), "--output", str(file)])
    noise = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    source = save(tmp_path / "x.png", noise)
    for model, out in ((run, "a"), (file, "b")):
        assert predict.predict(model, source, tmp_path / out, probability=True).masks
    a, b = (read(tmp_path / out / "x_probability.png").astype(int) for out in "ab")
    assert np.abs(a - b).max() <= 1 and np.ptp(a) > 1
    with pytest.raises(ValueError, match="an ONNX file runs on the CPU"):
        predict.predict(file, source, tmp_path / "c", device="cuda")
    proto = onnx.load(file)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "x"
    onnx.save(proto, tmp_path / "renamed.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    (tmp_path / "half.onnx").write_bytes(file.read_bytes()[:1000])
    (tmp_path / "model.pt2").write_bytes(b"PK")
    for name in ("renamed.onnx", "foreign.onnx", "half.onnx", "model.pt2"):
        with pytest.raises(
            ValueError, match=rf"{name} is no ONNX file that unetv2 export wrote; name"
        ) as caught:
            predict.load(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1 and "ONNXRuntimeError" not in str(
            caught.value
        )


@pytest.mark.parametrize(
    "images, output, options, error, words",
    [
        ("gone", "out", {}, FileNotFoundError, "no such image or folder: .*gone"),
        ("void", "out", {}, FileNotFoundError, "no files in .*void"),
        ("in", "in", {}, ValueError, "output folder .*in is among the images"),
        ("in", "in/masks", {}, ValueError, "is among the images"),
        ("in/a.png", "in", {}, ValueError, "is among the images"),
        ("in", "a.file", {}, ValueError, r"a\.file is a file"),
        ("in", "a.file/out", {}, OSError, "cannot write .*a_mask"),
        (
            "in",
            "old",
            {},
            ValueError,
            "1 of the files .* are there already, as .*a_mask.*--overwrite",
        ),
        ("in", "drawn", {"overlay": True}, ValueError, "there already, as .*a_overlay"),
        ("in", "drawn", {"probability": True}, ValueError, "there already, as .*a_probability"),
        ("in", "in/../in", {}, ValueError, "is among the images"),
        ("in/../in", "in/masks", {}, ValueError, "is among the images"),
        ("in", "link/masks", {}, ValueError, "is among the images"),
        ("link", "in", {}, ValueError, "is among the images"),
        ("link/a.png", "in", {}, ValueError, "is among the images"),
        ("in", "out", {"device": "gpu"}, ValueError, "unknown device 'gpu'"),
        ("in", "out", {"batch_size": 0}, ValueError, "batch_size=0"),
        ("in", "out", {"threshold": 1.0}, ValueError, r"threshold=1\.0 must lie between"),
    ],
)
def test_one_clear_error(images, output, options, error, words, tmp_path):
    save(tmp_path / "in/a.png"), save(tmp_path / "old/a_mask.png", np.zeros((2, 2), np.uint8))
    save(tmp_path / "drawn/a_overlay.png"), save(tmp_path / "drawn/a_probability.png")
    (tmp_path / "void").mkdir(), (tmp_path / "a.file").touch(), (tmp_path / "link").symlink_to("in")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words) as caught:
        predict.predict((Bright(), 32), tmp_path / images, tmp_path / output, **options)
    assert len(str(caught.value).splitlines()) == 1 and sorted(tmp_path.rglob("*")) == before


def test_overwrite(tmp_path):
    old = save(tmp_path / "old/a_mask.png", np.zeros((2, 2), np.uint8))
    predict.predict((Bright(), 32), save(tmp_path / "in/a.png"), old.parent, overwrite=True)
    assert read(old).shape == (48, 80)


def test_missing_run_and_checkpoint_of_another_model(tmp_path):
    source = save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="holds no trained run"):
        predict.predict(tmp_path / "gone", source, tmp_path / "out")
    with pytest.raises(ValueError, match="holds the weights of another model"):
        predict.predict(
            run_of("thin+copy", tmp_path / "run", config="thin+sdi"), source, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_rle_is_kaggles_table(tmp_path):
    """Run lengths by hand: pixels are counted down the columns, from 1."""
    for name, at in (("a/x", (slice(0, 2), slice(0, 1))), ("b", (slice(9, 9), slice(9, 9)))):
        save(tmp_path / f"in/{name}.png", picture(32, 32, at))
    done = predict.predict((Bright(), 32), tmp_path / "in", tmp_path / "o", rle=tmp_path / "s.csv")
    assert len(done.masks) == 2
    assert (tmp_path / "s.csv").read_text() == "ImageId,EncodedPixels\na/x,1 2\nb,\n"
    for path, words in (
        ("s.csv", "there already.*--overwrite"),
        ("in", "is a folder: name a file"),
    ):
        with pytest.raises(ValueError, match=words):
            predict.predict((Bright(), 32), tmp_path / "in", tmp_path / "o2", rle=tmp_path / path)
    with pytest.raises(ValueError, match=r"rle=.*is for one class, this model has 3"):
        predict.predict((Bright(2), 32), tmp_path / "in", tmp_path / "o3", rle=tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_a_models_own_normalisation_is_used(tmp_path):
    """Mean and deviation chosen so that the channels come to the model as 0 and 1."""

    class Plain(nn.Module):
        normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

        def __init__(self):
            super().__init__()
            self.cut = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            assert 0 <= x.min() and x.max() <= 1
            return x[:, :1] - self.cut

    source = save(tmp_path / "x.png")
    (path,) = predict.predict((Plain(), 64), source, tmp_path / "out").masks
    assert iou(read(path) > 0, TRUTH) > 0.95


@pytest.mark.realdata
def test_real_photos_keep_size_and_place(data_dir, tmp_path):
    photos = sorted((data_dir / "ISIC-2017/ISIC-2017_Validation_Data").glob("*.jpg"))[:3]
    if not photos:
        pytest.skip("ISIC 2017 is not in DATA_DIR")
    for path, photo in zip(
        predict.predict((Bright(), 256), photos, tmp_path / "out").masks, photos, strict=True
    ):
        assert iou(read(path) > 127, read(photo)[..., 0] > 127) > 0.9
