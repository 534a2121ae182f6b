"""The data room: what a user's files turn into, and what bad files are answered with."""

import itertools
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from unetv2 import data
from unetv2.data import alike, check, content, images, readers, rle, synthetic


def break_jpeg(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def errors_of(folder):
    problems = check.check(readers.find(f"folder:{folder}"))
    return [f"{p.file}: {p.text}" for p in problems if p.severity == "error"]


# --- own folder -----------------------------------------------------------------------------------


def test_folder_of_mixed_files_is_read_paired_and_split(fake_dataset):
    root = fake_dataset("images/{id}.jpg", "masks/{id}_Segmentation.png", range(20), (50, 70))
    root = fake_dataset("images/{id}.tif", "masks/{id}.bmp", range(20, 25), (33, 21))
    d = data.load(f"folder:{root}", image_size=32)
    assert d.classes == ("object",) and d.logit_channels == 1
    assert (len(d.train), len(d.val), len(d.tests["test"])) == (18, 2, 5)
    ids = [*d.train.ids, *d.val.ids, *d.tests["test"].ids]
    assert sorted(ids, key=int) == [str(i) for i in range(25)]
    for split in (d.train, d.val, d.tests["test"]):
        assert split.images.shape == (len(split), 32, 32, 3) and split.images.dtype == np.uint8
        assert split.masks.shape == (len(split), 32, 32) and set(np.unique(split.masks)) == {0, 1}
        for i, id in enumerate(
            split.ids
        ):  # the bright disc lies where the mask is, and belongs to this id
            assert (
                split.images[i][split.masks[i] == 1].mean()
                > split.images[i][split.masks[i] == 0].mean() + 80
            )
            assert split.native_mask(i).shape == ((33, 21) if int(id) >= 20 else (50, 70))


def test_folder_with_its_own_parts_keeps_them(fake_dataset):
    fake_dataset("train/images/{id}.png", "train/masks/{id}_mask.png", range(6))
    fake_dataset("val/images/{id}.png", "val/masks/{id}_mask.png", [f"v{i}" for i in range(3)])
    root = fake_dataset("test/images/{id}.png", "test/masks/{id}_mask.png", ["t0"], (44, 44))
    d = data.load(f"folder:{root}", image_size=32, check=False)
    assert (d.train.ids, d.val.ids, d.tests["test"].ids) == (
        list("012345"),
        ["v0", "v1", "v2"],
        ["t0"],
    )


def test_folder_of_several_classes_by_mask_value(fake_dataset):
    root = fake_dataset(values=(60, 200), ids=range(12))
    (root / "dataset.yaml").write_text("classes: {vessel: 200, nerve: 60}")
    d = data.load(f"folder:{root}", image_size=40)
    assert d.classes == ("vessel", "nerve") and d.logit_channels == 3
    raw = cv2.imread(str(root / "masks" / f"{d.train.ids[0]}.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(d.train.native_mask(0), np.select([raw == 200, raw == 60], [1, 2]))
    item = data.TorchSplit(d.train, "strong", binary=False)[0]
    assert (
        item["mask"].dtype == torch.int64
        and item["mask"].shape == (40, 40)
        and item["mask"].max() <= 2
    )
    cv2.imwrite(str(root / "masks" / "3.png"), np.full((40, 48), 7, np.uint8))
    assert any("3.png: values that dataset.yaml does not name: [7]" in e for e in errors_of(root))


@pytest.mark.parametrize(
    "text", ["classes: [a, b]", "classes: {a: 0}", "classes: {a: 5, b: 5}", "classes: {}", "- 1"]
)
def test_a_wrong_mapping_of_classes_is_explained(fake_dataset, text):
    root = fake_dataset()
    (root / "dataset.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"dataset.yaml: expected `classes: \{name: mask value\}`"):
        data.load(f"folder:{root}")


# --- what is wrong with a dataset -----------------------------------------------------------------


def test_check_lists_everything_at_once_by_file(fake_dataset):
    root = fake_dataset("images/{id}.jpg", "masks/{id}.png")
    break_jpeg(root / "images" / "1.jpg")
    (root / "masks" / "2.png").unlink()
    (root / "images" / "3.jpg").unlink()
    cv2.imwrite(str(root / "masks" / "4.png"), np.zeros((20, 48), np.uint8))
    gradient = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (40, 1))
    cv2.imwrite(str(root / "masks" / "5.png"), gradient)
    cv2.imwrite(str(root / "images" / "6.jpg"), np.zeros((40, 48, 3), np.uint8))
    (root / "masks" / "7.png").write_text("not a picture")
    found = errors_of(root)
    expected = ["1.jpg: cannot read", "2.jpg: image without a mask", "3.png: mask without an image",
                "4.png: image and mask differ in size: 48 x 40 and 48 x 20", "5.png: not binary",
                "6.jpg: black image", "7.png: cannot read"]  # fmt: skip
    assert len(found) == len(expected)
    for line in expected:
        assert any(line in error for error in found), line
    with pytest.raises(ValueError, match="has 7 errors") as error:
        data.load(f"folder:{root}", image_size=32)
    assert "truncated" in str(error.value) and "replace or remove it" in str(error.value)


def test_a_dataset_of_black_images_or_masks_stops(fake_dataset):
    root = fake_dataset()
    for path in (root / "images").iterdir():
        cv2.imwrite(str(path), np.zeros((40, 48, 3), np.uint8))
    assert any("all images are black" in e for e in errors_of(root))
    root = fake_dataset()
    for path in (root / "masks").iterdir():
        cv2.imwrite(str(path), np.zeros((40, 48), np.uint8))
    assert any("all masks are empty" in e for e in errors_of(root))


def test_one_empty_mask_and_grey_borders_are_notes_only(fake_dataset):
    root = fake_dataset(masks="masks/{id}.jpg")  # JPEG leaves grey borders, as in Kvasir-SEG
    cv2.imwrite(str(root / "masks" / "0.jpg"), np.zeros((40, 48), np.uint8))
    problems = check.check(readers.find(f"folder:{root}"))
    assert {p.severity for p in problems} == {"note"}
    assert any("0.jpg" in p.file and p.text == "empty mask" for p in problems)
    assert sum("grey borders" in p.text for p in problems) == 1
    assert len(data.load(f"folder:{root}", image_size=32).train) == 7


def test_the_same_image_in_train_and_test_stops_and_a_similar_one_is_noted(fake_dataset):
    fake_dataset("train/images/{id}.png", "train/masks/{id}.png", range(6))
    root = fake_dataset(
        "test/images/{id}.png", "test/masks/{id}.png", ["a"]
    )  # the same picture as train/0
    problems = check.check(readers.find(f"folder:{root}"))
    assert [p.text for p in problems if p.severity == "error"] == [
        f"the same image is in the training part: {root / 'train/images/0.png'}"
    ]
    path = root / "test/images/a.png"
    brighter = np.clip(cv2.imread(str(path)).astype(float) * 1.1 + 4, 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), brighter)
    problems = check.check(readers.find(f"folder:{root}"))
    assert [(p.severity, p.file) for p in problems] == [("note", str(path))]


def test_near_copies_are_found_among_unrelated_pictures():
    pictures, _ = synthetic.make("polyp", 115, 64)
    again = [
        cv2.imdecode(cv2.imencode(".jpg", p[..., ::-1])[1], cv2.IMREAD_COLOR)[..., ::-1]
        for p in pictures[:5]
    ]
    found = alike.alike([alike.sight(p) for p in [*pictures, *again]])
    assert {(i, j) for i, j, _ in found} == {(k, 115 + k) for k in range(5)}


def test_phash_is_imagehashs():
    imagehash = pytest.importorskip("imagehash")
    for kind, size in (("polyp", 64), ("lesion", 31)):
        for picture in synthetic.make(kind, 20, size)[0]:
            assert alike.phash(picture) == int(str(imagehash.phash(Image.fromarray(picture))), 16)


def test_the_check_is_cached_until_a_file_changes(fake_dataset, tmp_path, monkeypatch):
    root = fake_dataset()
    find = lambda: readers.find(f"folder:{root}")  # noqa: E731
    first = check.look(find(), tmp_path / "cache")
    assert [len(first.source.train), len(first.source.tests["test"])] == [8, 2]
    monkeypatch.setattr(check, "_facts", lambda source: pytest.fail("checked again"))
    assert check.look(find(), tmp_path / "cache") == first
    cv2.imwrite(str(root / "masks" / "4.png"), np.zeros((20, 48), np.uint8))
    with pytest.raises(pytest.fail.Exception, match="checked again"):
        check.look(find(), tmp_path / "cache")


def test_check_command_exits_1_on_errors(fake_dataset, capsys):
    root = fake_dataset()
    assert check.main([f"folder:{root}"]) == 0
    (root / "masks" / "2.png").unlink()
    assert check.main([f"folder:{root}"]) == 1
    assert f"image without a mask: {root}/images/2.png; name each mask" in capsys.readouterr().out


def test_problems_of_one_kind_are_one_line_and_a_file_has_them_all(fake_dataset, tmp_path, capsys):
    root = fake_dataset(ids=range(30))
    for k in range(12):
        (root / f"masks/{k}.png").unlink()
    (root / "images/20.png").unlink()
    assert check.main([f"folder:{root}"]) == 1
    out = capsys.readouterr().out.splitlines()
    (line,) = [line for line in out if "image without a mask" in line and "12 x" in line]
    assert line.startswith("error") and "/0.png, " in line and " and 9 more; name each mask" in line
    assert "13 errors" in out[-1]
    (where,) = [Path(line.removeprefix("every one of them: ")) for line in out if ".txt" in line]
    assert where.read_text().count("image without a mask") == 12
    with pytest.raises(ValueError, match="has 13 errors") as error:
        data.load(f"folder:{root}", image_size=32)
    assert str(where) in str(error.value) and len(str(error.value).splitlines()) == 4


def test_a_reader_that_has_seen_enough_is_no_error(fake_dataset):
    code = "import sys; from unetv2.data import check; sys.exit(check.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, f"folder:{fake_dataset()}"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()  # as `head` does
    assert (running.stderr.read(), running.wait()) == (b"", 0)
    running.stderr.close()


# --- folders as they are --------------------------------------------------------------------------


def test_masks_are_found_by_their_common_ending(fake_dataset):
    root = fake_dataset("images/IMD{id}.bmp", "masks/IMD{id}_lesion.bmp", range(100, 110))
    seg = data.load(f"folder:{root}", image_size=32)
    assert len(seg.train) + len(seg.val) + len(seg.tests["test"]) == 10
    (root / "masks/IMD103_lesion.bmp").unlink()
    assert [e for e in errors_of(root)] == [f"{root}/images/IMD103.bmp: image without a mask"]


def test_masks_are_found_by_the_name_that_dataset_yaml_gives(fake_dataset):
    root = fake_dataset("images/{id}.png", "masks/m-{id}-v2.png")
    (root / "dataset.yaml").write_text('mask_name: "m-{id}-v2"')
    assert not errors_of(root)
    (root / "dataset.yaml").write_text("mask_name: m-*")
    with pytest.raises(ValueError, match=r"dataset.yaml: write mask_name as"):
        data.load(f"folder:{root}")


def labelled(root, count, dtype=np.uint8):
    """Masks of `count(k)` instances in image k, written over those of a fake dataset."""
    whole = {}
    for k, path in enumerate(sorted((root / "masks").iterdir())):
        mask = np.zeros((40, 48), dtype)
        for label in range(1, count(k) + 1):
            mask[label % 40, 2 * (label // 40) : 2 * (label // 40) + 2] = label
        cv2.imwrite(str(path), mask)
        whole[path.stem] = mask > 0
    return whole


@pytest.mark.parametrize(("most", "dtype"), [(40, np.uint8), (300, np.uint16)])
def test_every_object_of_an_instance_mask_counts(fake_dataset, most, dtype):
    root = fake_dataset()
    whole = labelled(root, lambda k: most - k, dtype)
    problems = check.check(readers.find(f"folder:{root}"))
    assert [(p.severity, p.text.partition(":")[0]) for p in problems] == [
        ("note", "masks hold instances 0, 1, 2 to n")
    ]
    seg = data.load(f"folder:{root}", image_size=32)
    assert all(
        np.array_equal(seg.train.native_mask(i), whole[id]) for i, id in enumerate(seg.train.ids)
    )
    assert seg.classes == ("object",) and seg.fingerprint == data.fingerprint(f"folder:{root}")


def test_labels_that_may_be_classes_are_asked_about(fake_dataset):
    root = fake_dataset()
    whole = labelled(root, lambda k: 3)
    assert any("classes or objects: every mask has the values 1 to 3" in e for e in errors_of(root))
    (root / "dataset.yaml").write_text("masks: instances")
    seg = data.load(f"folder:{root}", image_size=32)
    assert np.array_equal(seg.train.native_mask(0), whole[seg.train.ids[0]])
    (root / "dataset.yaml").write_text("classes: {a: 1, b: 2, c: 3}")
    assert data.load(f"folder:{root}", image_size=32).train.native_mask(0).max() == 3
    (root / "dataset.yaml").write_text("{masks: instances, classes: {a: 1}}")
    with pytest.raises(ValueError, match="has no `classes` beside it"):
        data.load(f"folder:{root}")


def test_masks_as_colours_per_class(fake_dataset):
    root = fake_dataset(values=(60, 200), ids=range(12))
    colours = {60: (255, 0, 0), 200: (0, 128, 255)}
    truth = {}
    for path in (root / "masks").iterdir():
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        picture = np.zeros((*grey.shape, 3), np.uint8)
        for value, colour in colours.items():
            picture[grey == value] = colour
        Image.fromarray(picture).save(path)
        truth[path.stem] = np.select([grey == 60, grey == 200], [1, 2])
    (root / "dataset.yaml").write_text('classes: {vessel: "#FF0000", nerve: [0, 128, 255]}')
    seg = data.load(f"folder:{root}", image_size=32)
    assert seg.classes == ("vessel", "nerve") and seg.logit_channels == 3
    assert np.array_equal(seg.train.native_mask(0), truth[seg.train.ids[0]])
    (root / "dataset.yaml").write_text('classes: {vessel: "#ff0000"}')
    assert any("values that dataset.yaml does not name: ['#0080ff']" in e for e in errors_of(root))


@pytest.mark.parametrize("table", [True, False])
def test_groups_of_a_pattern_or_a_table_are_respected(fake_dataset, table):
    ids = [f"patient{k % 6}_{k}" for k in range(30)]
    root = fake_dataset(ids=ids)
    if table:
        lines = [f"{id}.png,{id.partition('_')[0]}" for id in ids]
        (root / "who.csv").write_text("\n".join(["id,group", *lines]))
    (root / "dataset.yaml").write_text("groups: who.csv" if table else r"groups: '^(patient\d+)_'")
    seg = data.load(f"folder:{root}", image_size=32)
    groups = [set(split.groups) for split in parts_of(seg).values()]
    assert [len(group) for group in groups] == [4, 1, 1] and len(set.union(*groups)) == 6
    for split in parts_of(seg).values():
        assert split.groups == [id.partition("_")[0] for id in split.ids]


@pytest.mark.parametrize(
    ("groups", "message"),
    [("(a)(b)", "one pair of round brackets"), ("(", "is no pattern"),
     ("no.csv", "there is no table"),
     ("[1]", "a pattern or the name of a table"), ("'q(.)'", "image without a group")],
)  # fmt: skip
def test_groups_that_cannot_be_are_explained(fake_dataset, groups, message):
    root = fake_dataset()
    (root / "dataset.yaml").write_text(f"groups: {groups}")
    with pytest.raises(ValueError, match=message):
        data.load(f"folder:{root}", image_size=32)


def test_an_unknown_setting_of_dataset_yaml_lists_the_valid_ones(fake_dataset):
    root = fake_dataset()
    (root / "dataset.yaml").write_text("class: {a: 1}")
    with pytest.raises(ValueError, match=r"unknown setting 'class'; did you mean 'classes'"):
        data.load(f"folder:{root}")


def test_run_lengths_are_kaggles():
    mask = np.array([[0, 1, 0], [1, 1, 0]])  # counted from 1, down the columns: 2, 3, 4
    assert rle.encode(mask) == "2 3" and np.array_equal(rle.decode("2 3", (2, 3)), mask)
    assert rle.encode(np.ones((2, 2))) == "1 4" and rle.encode(np.zeros((2, 2))) == ""
    assert not rle.decode("", (2, 2)).any() and not rle.decode("-1", (2, 2)).any()
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 30), (31, 5)):
        mask = rng.integers(0, 2, shape)
        assert np.array_equal(rle.decode(rle.encode(mask), shape), mask)
    for text in ("1 2 3", "a b", "0 2", "3 0", "20 9"):
        with pytest.raises(ValueError, match=r"run lengths are pairs|leaves the image"):
            rle.decode(text, (5, 5))


def test_a_table_of_run_lengths_stands_for_masks(fake_dataset):
    root = fake_dataset()
    truth = {
        p.stem: cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) > 0 for p in (root / "masks").iterdir()
    }
    rows = [f"elsewhere.png,{rle.encode(truth['0'])}"]
    for id, mask in truth.items():  # two objects, each in its row
        left = np.arange(mask.shape[1]) < 24
        rows += [f"{id}.png,{rle.encode(mask & left)}", f"{id}.png,{rle.encode(mask & ~left)}"]
    table = root / "train.csv"
    table.write_text("\n".join(["ImageId,EncodedPixels", *rows]))
    for path in (root / "masks").iterdir():
        path.unlink()
    (root / "masks").rmdir()
    seg = data.load(f"folder:{root}", image_size=32)
    assert len(seg.train) + len(seg.val) + len(seg.tests["test"]) == 10
    assert all(
        np.array_equal(seg.train.native_mask(i), truth[id]) for i, id in enumerate(seg.train.ids)
    )
    table.write_text(table.read_text() + "\n3.png,1 5")
    assert data.load(f"folder:{root}", image_size=32).fingerprint != seg.fingerprint
    table.write_text(table.read_text() + "\n4.png,1 99999")
    assert any("train.csv (4.png): cannot read: a run leaves" in e for e in errors_of(root))
    rle.write_table(root / "out.csv", {id: rle.encode(mask) for id, mask in truth.items()})
    back = rle.read_table(root / "out.csv")
    assert {id: rle.decode(*runs, (40, 48)).tolist() for id, runs in back.items()} == {
        id: mask.astype(int).tolist() for id, mask in truth.items()
    }


# --- names and places -----------------------------------------------------------------------------


def test_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match="unknown dataset 'kvazir'; did you mean 'kvasir'"):
        data.load("kvazir")


def test_absent_dataset_says_where_it_looked_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        data.load("kvasir", tmp_path)
    assert str(tmp_path / "Kvasir-SEG/images") in str(error.value)
    assert f"unetv2 download kvasir --data {tmp_path}" in str(error.value)
    with pytest.raises(FileNotFoundError, match="unpack it so that DIR/CVC-ClinicDB holds"):
        data.load("clinicdb", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match=r"no image and mask pairs. Expected"):
        data.load(f"folder:{tmp_path}")


def test_half_a_dataset_stops(fake_dataset, tmp_path):
    root = fake_dataset("Kvasir-SEG/images/{id}.jpg", "Kvasir-SEG/masks/{id}.jpg")
    with pytest.raises(ValueError, match=r"incomplete: .*10 of 1000 image and mask pairs"):
        data.load("kvasir", root)
    for path in (root / "Kvasir-SEG/masks").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="image without a mask"):
        data.load("kvasir", root)


@pytest.mark.parametrize("name", ["colondb", "etis", "cvc300"])
def test_a_test_set_cannot_be_trained_on(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name!r} is a test set .* train on 'pranet'"):
        data.load(name, tmp_path)


def test_registry_is_complete():
    sets = "isic2017 isic2018 kvasir clinicdb colondb etis cvc300 dsb2018 isbi2012 pranet"
    sets += " synthetic synthetic-polyp samples-isic2017 samples-dsb2018"
    assert set(sets.split()) == set(data.names())
    for name, entry in data.registry().items():
        needed = {"title", "source", "urls", "licence", "citation", "checked", "classes", "split"}
        assert needed <= set(entry), name
        assert entry["urls"] or entry["manual"], name
        assert all(set(url) >= {"url", "sha256"} for url in entry["urls"]), name


def test_pranet_test_lists_have_the_papers_sizes():
    folder = readers.HERE / "splits"
    kvasir = (folder / "pranet_test_kvasir.txt").read_text().split()
    clinicdb = (folder / "pranet_test_clinicdb.txt").read_text().split()
    assert len(set(kvasir)) == len(kvasir) == 100 and len(set(clinicdb)) == len(clinicdb) == 62
    assert {int(i) for i in clinicdb} <= set(range(1, 613))


@pytest.mark.parametrize(("name", "n", "train", "test"), [
    ("isic2017", 2150, 1500, 650), ("isic2018", 2694, 1886, 808),
                                                          ("dsb2018", 670, 536, 134)])  # fmt: skip
def test_random_splits_have_the_papers_sizes_and_never_change(name, n, train, test):
    pairs = [readers.Pair(f"{i:05d}", None, None) for i in range(n)]
    a, b = readers._split(pairs, data.registry()[name]["split"])
    assert (len(a), len(b)) == (train, test) and not set(a) & set(b)
    expected = set(
        np.random.default_rng(0).permutation(n)[:test].tolist()
    )  # the rule that the registry states
    assert {int(p.id) for p in b} == expected


def test_pranet_bundle_gives_joint_training_and_every_test_set_there_is(fake_dataset, monkeypatch):
    kvasir = (readers.HERE / "splits/pranet_test_kvasir.txt").read_text().split()
    bundle = "PraNet/{part}/images/{{id}}.png", "PraNet/{part}/masks/{{id}}.png"

    def write(part, ids):
        return fake_dataset(*(pattern.format(part=part) for pattern in bundle), ids)

    write("TrainDataset", ["cju0a", "cju0b", "ck0c", "1", "2", "3", "4"])
    write("TestDataset/Kvasir", kvasir[:2])
    write("TestDataset/CVC-ClinicDB", ["14"])
    root = write("TestDataset/ETIS-LaribPolypDB", ["1", "2", "14"])
    d = data.load("pranet", root, image_size=32, check=False)
    assert sorted([*d.train.ids, *d.val.ids]) == ["1", "2", "3", "4", "cju0a", "cju0b", "ck0c"]
    assert {key: len(split) for key, split in d.tests.items()} == {
        "kvasir": 2,
        "clinicdb": 1,
        "etis": 3,
    }
    assert sorted(
        data.load("clinicdb", root, image_size=32, check=False).tests["clinicdb"].ids
    ) == ["14"]


def test_dsb2018_official_layout_unites_the_masks_of_the_nuclei(tmp_path):
    for id in "ab":
        for sub in ("images", "masks"):
            (tmp_path / "stage1_train" / id / sub).mkdir(parents=True)
        Image.fromarray(np.zeros((20, 30, 4), np.uint8)).save(
            tmp_path / f"stage1_train/{id}/images/{id}.png"
        )
        for k in range(3):
            mask = np.zeros((20, 30), np.uint8)
            mask[5 * k : 5 * k + 3] = 255
            Image.fromarray(mask).save(tmp_path / f"stage1_train/{id}/masks/{k}.png")
    source = readers.find("dsb2018", tmp_path)
    assert sorted(p.id for p in source.pairs) == ["a", "b"]
    assert images.read_mask(source.pairs[0].mask).sum() == 3 * 3 * 30


# --- files, cache, tensors ------------------------------------------------------------------------


def test_isbi_is_cut_into_tiles_that_cover_the_image_and_keep_its_pixels(tmp_path):
    rng, whole = np.random.default_rng(0), {}
    for sub in ("image", "label"):
        (tmp_path / "isbi2012/train" / sub).mkdir(parents=True)
        for i in range(10):
            whole[sub, i] = rng.choice([0, 255], (80, 100)).astype(np.uint8)
            Image.fromarray(whole[sub, i]).save(tmp_path / f"isbi2012/train/{sub}/{i}.png")
    seg = data.load("isbi2012", tmp_path, image_size=32, check=False)
    test, seen = seg.tests["isbi2012"], {}
    for i, tile in enumerate(test.ids):
        image, x, y = (int(v) for v in tile.replace("@", ",").split(","))
        assert (test.images[i] == whole["image", image][y : y + 32, x : x + 32, None]).all()
        assert (test.native_mask(i) == (whole["label", image][y : y + 32, x : x + 32] > 0)).all()
        seen.setdefault(image, np.zeros((80, 100), bool))[y : y + 32, x : x + 32] = True
    assert len(test) == 12 * len(seen) and all(cover.all() for cover in seen.values()), (
        "3 rows of 4 tiles"
    )
    of = [{tile.split("@")[0] for tile in part.ids} for part in (seg.train, seg.val, test)]
    assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2], (
        "tiles of an image stay in one part"
    )
    with pytest.raises(ValueError, match="100 x 80 pixels cannot be cut into tiles of 128"):
        data.load("isbi2012", tmp_path, image_size=128, check=False)


def test_masks_of_every_kind_read_alike(tmp_path):
    truth = np.zeros((16, 16), np.uint8)
    truth[4:10, 5:12] = 1
    palette = Image.fromarray(truth, "L").convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])  # as in Pascal VOC
    kinds = {"zero_one.png": Image.fromarray(truth), "grey.png": Image.fromarray(truth * 255),
             "bit.png": Image.fromarray(truth * 255).convert("1"),
             "rgb.png": Image.fromarray(truth * 255).convert("RGB"),
             "rgba.png": Image.fromarray(truth * 255).convert("RGBA"), "voc.png": palette,
             "x.gif": Image.fromarray(truth * 255), "x.jpg": Image.fromarray(truth * 255),
             "deep.tif": Image.fromarray(truth.astype(np.uint16) * 65535)}  # fmt: skip
    for name, image in kinds.items():
        image.save(tmp_path / name)
        assert np.array_equal(images.read_mask(tmp_path / name), truth), name


def test_sixteen_bit_colour_is_stretched_to_the_files_own_range(tmp_path):
    """12 bits in 16, as microscopes write them: the upper 8 alone would leave 16 steps."""
    values = np.linspace(1000, 5000, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint16)
    expected = (values.astype(float) - 1000) * 255 / 4000
    rgb = {
        "rgb.png": values,
        "rgb.tif": values,
        "rgba.png": np.dstack([values, np.full((40, 60), 65535, np.uint16)]),
    }
    for name, array in rgb.items():
        assert cv2.imwrite(str(tmp_path / name), array[..., [2, 1, 0, 3][: array.shape[2]]])
        found = images.read_image(tmp_path / name)
        assert found.dtype == np.uint8 and np.abs(found - expected).max() <= 1, name
    chunk = b"eXIfMM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
    png = (tmp_path / "rgb.png").read_bytes()
    tag = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "turned.png").write_bytes(png[:33] + tag + png[33:])  # after the header chunk
    for upright, truth in ((False, expected), (True, np.rot90(expected, -1))):
        found = images.read_image(tmp_path / "turned.png", upright)
        assert found.shape == truth.shape and np.abs(found - truth).max() <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_numbers_are_an_error(bad, tmp_path):
    values = np.ones((8, 8), np.float32)
    values[2, 3] = bad
    Image.fromarray(values).save(tmp_path / "x.tif")
    for read in (images.read_image, images.read_mask):
        with pytest.raises(ValueError, match=r"x\.tif: it holds values that are not numbers"):
            read(tmp_path / "x.tif")


def test_an_empty_and_a_vast_file_say_so(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    with pytest.raises(
        ValueError, match=r"cannot read .*a\.png: the file is empty; replace or remove it"
    ):
        images.read_image(tmp_path / "a.png")
    Image.new("L", (30, 30)).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(ValueError, match=r"b\.png: it has more than 179 megapixels; shrink it"):
        images.read_image(tmp_path / "b.png")


def test_resizing_keeps_mask_and_image_aligned():
    mask = np.zeros((300, 200), np.uint8)
    mask[90:210, 60:140] = 1
    image = np.repeat(mask[..., None] * 255, 3, 2)
    for size in (64, 100, 256):
        small, where = images.resize(image, size), images.resize(mask, size, mask=True)
        assert np.mean((small[..., 0] > 127) == where) > 0.985
        assert abs(where.mean() - 120 * 80 / 60000) < 0.015


def test_second_load_decodes_nothing_and_a_changed_file_is_seen(
    fake_dataset, tmp_path, monkeypatch
):
    root = fake_dataset()
    options = {"image_size": 32, "cache_dir": tmp_path / "cache", "check": False}
    first = data.load(f"folder:{root}", **options)
    with monkeypatch.context() as patch:
        patch.setattr(data.dataset, "read_image", lambda path: pytest.fail("decoded again"))
        again = data.load(f"folder:{root}", **options)
    assert np.array_equal(first.train.images, again.train.images) and isinstance(
        again.train.images, np.memmap
    )
    path = root / "images" / f"{first.train.ids[0]}.png"
    cv2.imwrite(str(path), np.full((40, 48, 3), 99, np.uint8))
    assert (data.load(f"folder:{root}", **options).train.images[0] == 99).all()
    assert not list((tmp_path / "cache").glob(".*"))  # no temporary file is left


def test_a_cache_that_cannot_be_written_is_one_clear_error_and_leaves_nothing(
    fake_dataset, tmp_path, monkeypatch
):
    root = fake_dataset()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*file.*choose another") as caught:
        data.load(f"folder:{root}", cache_dir=tmp_path / "file" / "cache")
    assert "free space" not in str(caught.value)

    def full(image, size, mask=False):
        raise OSError(28, "No space left on device")

    data.load(f"folder:{root}", cache_dir=tmp_path / "cache", image_size=48)
    before = sorted((tmp_path / "cache").iterdir())
    monkeypatch.setattr(data.dataset, "resize", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left.*free space"):
        data.load(f"folder:{root}", cache_dir=tmp_path / "cache", check=False)
    assert sorted((tmp_path / "cache").iterdir()) == before


# --- groups, shares, fingerprints -----------------------------------------------------------------


def video(root, count, part=".", start=0):
    """Near copies: `count` frames of each of ten scenes, called SCENE_FRAME, below root/part."""
    pictures, masks = synthetic.make("polyp", 10, 64)
    rng = np.random.default_rng(0)
    for scene, frame in itertools.product(range(10), range(start, start + count)):
        noisy = np.clip(pictures[scene] + rng.normal(0, 2, pictures[scene].shape), 0, 255)
        for sub, picture in (("images", noisy), ("masks", masks[scene] * 255)):
            (root / part / sub).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / part / sub / f"{scene}_{frame}.png"), picture.astype(np.uint8))


def parts_of(seg):
    return {"train": seg.train, "val": seg.val, **seg.tests}


def test_near_copies_are_a_group_and_stay_in_one_part(tmp_path):
    video(tmp_path, 4)
    seg = data.load(f"folder:{tmp_path}", image_size=32)
    assert {key: len(split) for key, split in parts_of(seg).items()} == {
        "train": 28,
        "val": 4,
        "test": 8,
    }
    for split in parts_of(seg).values():
        assert {id.split("_")[0] for id in split.ids} == {
            group.split("_")[0] for group in split.groups
        }
        assert len(set(split.groups)) == len(split) / 4, (
            "the four frames of a scene lie in one part"
        )


def test_shares_are_nested_in_whole_groups_and_leave_validation_and_test_alone(tmp_path):
    video(tmp_path, 4)
    some = [
        data.load(f"folder:{tmp_path}", image_size=32, share=share) for share in (0.1, 0.3, 0.5, 1)
    ]
    assert [len(seg.train) for seg in some] == [4, 8, 16, 28]
    for small, large in itertools.pairwise(some):
        assert set(small.train.ids) < set(large.train.ids)
        assert small.val.ids == large.val.ids and small.tests["test"].ids == large.tests["test"].ids
        assert small.fingerprint != large.fingerprint
    drawn = [data.load("synthetic", image_size=32, share=share).train for share in (0.25, 0.5)]
    assert [len(split) for split in drawn] == [40, 80] and set(drawn[0].ids) < set(drawn[1].ids)
    whole = data.load("synthetic", image_size=32).train
    assert np.array_equal(whole.images[whole.ids.index(drawn[0].ids[7])], drawn[0].images[7])


def test_a_fingerprint_is_of_content_not_of_places_or_times(fake_dataset, tmp_path):
    root = fake_dataset()
    name, cache = f"folder:{root}", tmp_path / "cache"
    options = {"image_size": 32, "cache_dir": cache}
    first = data.fingerprint(name, **options)
    assert data.load(name, **options).fingerprint == first and len(first) == 16
    copy = tmp_path / "elsewhere"
    for sub in ("images", "masks"):
        (copy / sub).mkdir(parents=True)
        for path in (root / sub).iterdir():
            (copy / sub / path.name).write_bytes(path.read_bytes())
    assert data.fingerprint(f"folder:{copy}", **options) == first
    assert data.fingerprint(name, **options, limit=3) != first
    cv2.imwrite(str(root / "masks" / "4.png"), np.full((40, 48), 255, np.uint8))
    second = data.fingerprint(name, **options)
    for sub in ("images", "masks"):
        (root / sub / "new.png").write_bytes((root / sub / "3.png").read_bytes() + b" ")
    third = data.fingerprint(name, **options)
    (root / "dataset.yaml").write_text("classes: {thing: 255}")
    assert len({first, second, third, data.fingerprint(name, **options)}) == 4
    with pytest.raises(FileNotFoundError):
        data.fingerprint("kvasir", tmp_path)


def test_a_second_fingerprint_opens_no_picture(fake_dataset, tmp_path, monkeypatch):
    name, options = f"folder:{fake_dataset()}", {"cache_dir": tmp_path / "cache"}
    first = data.fingerprint(name, **options)
    monkeypatch.setattr(content, "_hash", lambda path: pytest.fail("read again"))
    monkeypatch.setattr(check, "read_image", lambda path: pytest.fail("decoded again"))
    assert data.fingerprint(name, **options) == first


def test_a_synthetic_fingerprint_knows_its_knobs():
    names = ("synthetic", "synthetic:hair=0", "synthetic-polyp")
    prints = [data.fingerprint(name) for name in names]
    assert len(set(prints)) == 3 and data.load("synthetic", image_size=32).fingerprint == prints[0]


def test_copies_of_test_images_stop_a_run_or_are_left_out(fake_dataset):
    fake_dataset("train/images/{id}.png", "train/masks/{id}.png", range(12))
    fake_dataset(
        "val/images/{id}.png", "val/masks/{id}.png", range(2)
    )  # the pictures of train/0 and train/1
    root = fake_dataset("test/images/{id}.png", "test/masks/{id}.png", [f"t{k}" for k in range(3)])
    with pytest.raises(ValueError, match="the same image is in the training part") as error:
        data.load(f"folder:{root}", image_size=32)
    assert "drop_duplicates" in str(error.value)
    (root / "test/images/t0.png").write_bytes((root / "val/images/1.png").read_bytes())
    seg = data.load(f"folder:{root}", image_size=32, drop_duplicates=True)
    assert sorted(seg.train.ids, key=int) == [str(k) for k in range(3, 12)]
    assert seg.val.ids == ["0"] and len(seg.tests["test"]) == 3
    notes = [p.text for p in check.check(readers.find(f"folder:{root}")) if p.severity == "note"]
    assert any(text.startswith("the same image is in the training part") for text in notes), (
        "train against val"
    )


def test_an_outside_folder_is_scored_whole_without_what_was_trained_on(fake_dataset, tmp_path):
    root = fake_dataset(ids=range(20))
    seg = data.load(f"folder:{root}", image_size=32)
    tests, excluded = data.load_tests(f"folder:{root}", image_size=32)
    assert excluded == 0 and tests["test"].ids == sorted(map(str, range(20)))
    tests, excluded = data.load_tests(f"folder:{root}", image_size=32, exclude=seg)
    assert excluded == 16 and tests["test"].ids == seg.tests["test"].ids
    assert np.array_equal(tests["test"].images, seg.tests["test"].images)
    assert np.array_equal(tests["test"].native_mask(1), seg.tests["test"].native_mask(1))
    with pytest.raises(ValueError, match="images of 32 pixels cannot be told from ones of 48"):
        data.load_tests(f"folder:{root}", image_size=48, exclude=seg)


def test_a_test_only_set_is_loaded_as_tests(fake_dataset, tmp_path):
    pattern = "PraNet/TestDataset/CVC-300/{}/{{id}}.png"
    root = fake_dataset(pattern.format("images"), pattern.format("masks"), range(3))
    tests, excluded = data.load_tests("cvc300", root, 32, check=False)
    assert (list(tests), len(tests["cvc300"]), excluded) == (["cvc300"], 3, 0)
    with pytest.raises(ValueError, match=r"incomplete: .*3 of 60"):
        data.load_tests("cvc300", root, 32)


def test_other_processes_open_the_arrays_in_place_of_being_sent_them(fake_dataset):
    split = data.load(f"folder:{fake_dataset()}", image_size=64).train
    sent = pickle.dumps(split)
    assert len(sent) < 4096 < split.images.nbytes
    assert np.array_equal(pickle.loads(sent).images, split.images)
    assert np.array_equal(pickle.loads(sent).masks, split.masks)
    in_memory = data.Split(["a"], np.ones((1, 8, 8, 3), np.uint8), np.ones((1, 8, 8), np.uint8))
    assert pickle.loads(pickle.dumps(in_memory)).images.sum() == 192 and in_memory.groups == ["a"]


# --- limits, tensors, corruptions -----------------------------------------------------------------


def test_limit_draws_the_same_images_again():
    a, b = (data.load("synthetic", image_size=32, limit=7) for _ in range(2))
    assert (len(a.train), len(a.val), len(a.tests["test"])) == (7, 7, 7)
    assert np.array_equal(a.train.images, b.train.images)


def test_limit_and_validation_share_of_a_folder(fake_dataset):
    root = fake_dataset(ids=range(30))
    load = lambda **more: data.load(f"folder:{root}", image_size=32, check=False, **more)  # noqa: E731
    assert (len(load().train), len(load().val)) == (22, 2) and load().val.ids == load().val.ids
    small = load(limit=5)
    assert len(small.train) == 5 and set(small.train.ids) <= set(load().train.ids)
    assert small.tests["test"].ids == load(limit=5).tests["test"].ids


def test_tensors_are_normalised_and_come_back():
    d = data.load("synthetic", image_size=32, limit=4)
    item = data.TorchSplit(d.train)[2]
    assert (
        item["image"].shape == (3, 32, 32)
        and item["image"].dtype == torch.float32
        and item["index"] == 2
    )
    red = (d.train.images[2, 0, 0, 0] / 255 - 0.485) / 0.229
    assert item["image"][0, 0, 0].item() == pytest.approx(red, abs=1e-5)
    assert item["mask"].shape == (1, 32, 32) and item["mask"].dtype == torch.float32
    assert np.array_equal(item["mask"][0].numpy(), d.train.masks[2])
    assert np.array_equal(data.denormalise(item["image"]), d.train.images[2])


@pytest.mark.parametrize("augment", ["light", "strong"])
def test_augmentation_depends_on_seed_epoch_and_index_alone(augment):
    d = data.load("synthetic", image_size=32, limit=8)

    def loader(split, workers):
        return torch.utils.data.DataLoader(
            split, batch_size=4, num_workers=workers, persistent_workers=workers > 0
        )

    split = data.TorchSplit(d.train, augment, seed=3)
    with_workers = loader(split, 2)
    for epoch in (0, 1):
        split.set_epoch(epoch)  # must reach the workers that live on
        a = torch.cat([batch["image"] for batch in with_workers])
        fresh = data.TorchSplit(d.train, augment, seed=3)
        fresh.set_epoch(epoch)
        assert torch.equal(a, torch.stack([fresh[i]["image"] for i in reversed(range(8))]).flip(0))
    other = data.TorchSplit(d.train, augment, seed=4)
    other.set_epoch(1)
    assert not torch.equal(a, torch.stack([other[i]["image"] for i in range(8)]))
    split.set_epoch(0)
    assert not torch.equal(a, torch.stack([split[i]["image"] for i in range(8)]))


def test_augmentation_moves_mask_and_image_together():
    images_, masks = synthetic.make(
        "lesion", 12, 64, contrast=0, hair=0, glare=0, distractors=0, small=0, blur=0
    )
    split = data.TorchSplit(data.Split([str(i) for i in range(12)], images_, masks), "strong")
    for epoch in range(3):
        split.set_epoch(epoch)
        for i in range(12):
            item = split[i]
            inside = item["mask"][0] > 0
            grey = item["image"].mean(0)
            if inside.any():
                assert grey[inside].mean() < grey[~inside].median()


def test_an_encoders_own_mean_and_deviation_are_used():
    split = data.load("synthetic", image_size=32, limit=2).train
    item = data.TorchSplit(split, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))[1]
    expected = torch.from_numpy(split.images[1].astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(item["image"], expected, atol=1e-6)
    assert np.array_equal(data.denormalise(item["image"], (0.5,) * 3, (0.5,) * 3), split.images[1])


@pytest.mark.parametrize("kind", data.CORRUPTIONS)
def test_corruptions_grow_with_their_step_and_come_out_alike(kind):
    image = synthetic.make("lesion", 1, 96)[0][0]
    steps = [data.corrupt(image, kind, step) for step in range(1, 6)]
    assert all(x.dtype == np.uint8 and x.shape == image.shape for x in steps)
    change = [np.abs(x.astype(float) - image).mean() for x in steps]
    assert change[0] > 0.5 and all(a < b for a, b in itertools.pairwise(change))
    assert np.array_equal(steps[2], data.corrupt(image.copy(), kind, 3))
    with pytest.raises(ValueError, match="unknown corruption"):
        data.corrupt(image, f"{kind}s", 1)
    with pytest.raises(ValueError, match=r"step 6 .* choose 1"):
        data.corrupt(image, kind, 6)


def test_importing_the_data_room_is_quick():
    heavy = ("torch", "albumentations", "scipy", "pandas", "imagehash")
    code = f"import sys, unetv2.data; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "[]\n"
    )


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="unknown augmentation 'strnog'; did you mean 'strong'"):
        data.TorchSplit(data.load("synthetic", image_size=32, limit=2).train, "strnog")


# --- synthetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lesion", "polyp"])
def test_synthetic_is_deterministic_and_a_stream(kind):
    a, b = synthetic.make(kind, 4, 48, seed=5), synthetic.make(kind, 2, 48, seed=5, start=2)
    assert np.array_equal(a[0][2:], b[0]) and np.array_equal(a[1][2:], b[1])
    assert not np.array_equal(a[0], synthetic.make(kind, 4, 48, seed=6)[0])
    fine = synthetic.make(kind, 4, 144, seed=5)[1]  # the same scene at another size
    for coarse, mask in zip(a[1], fine, strict=True):
        assert abs(coarse.mean() - mask.mean()) < 0.02
    assert a[0].dtype == a[1].dtype == np.uint8 and set(np.unique(a[1])) == {0, 1}


@pytest.mark.parametrize("kind", ["lesion", "polyp"])
def test_synthetic_knobs_do_what_they_say(kind):
    base = {"contrast": 0, "blur": 0, "hair": 0, "glare": 0, "small": 0, "distractors": 0}

    def pictures(**knobs):
        x, y = synthetic.make(kind, 24, 96, **{**base, **knobs})
        return x.astype(float), y.astype(bool)

    def contrast(x, y):  # between the object and its surroundings
        rings = [cv2.dilate(m.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~m for m in y]
        return np.mean(
            [
                np.abs(i[m].mean(0) - i[r].mean(0)).mean()
                for i, m, r in zip(x, y, rings, strict=True)
            ]
        )

    def edge(x, y):  # steepest change at the boundary
        grad = [np.hypot(*np.gradient(i.mean(-1))) for i in x]
        rim = [
            cv2.morphologyEx(m.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))).astype(bool)
            for m in y
        ]
        return np.mean([g[r].mean() for g, r in zip(grad, rim, strict=True)])

    easy = pictures()
    assert contrast(*pictures(contrast=1)) < 0.7 * contrast(*easy)
    assert edge(*pictures(blur=1)) < 0.7 * edge(*easy)
    assert pictures(small=1)[1].mean() < 0.35 * easy[1].mean()
    assert (pictures(glare=1)[0].min(-1) > 190).mean() > (easy[0].min(-1) > 190).mean() + 5e-4
    for knob in ("hair", "distractors"):
        assert np.abs(pictures(**{knob: 1})[0] - easy[0]).mean() > 1, knob


def test_synthetic_is_learnable_but_not_by_a_threshold():
    x, y = synthetic.make("lesion", 40, 64)
    grey = x.mean(-1)
    dice = []
    for g, m in zip(grey, y.astype(bool), strict=True):
        _, p = cv2.threshold(g.astype(np.uint8), 0, 1, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
        dice.append(2 * (p.astype(bool) & m).sum() / (p.sum() + m.sum()))
    assert 0.2 < np.mean(dice) < 0.75  # Otsu's threshold finds something dark, often not the lesion


def test_synthetic_dataset_sizes_and_knobs_by_name():
    d = data.load("synthetic-polyp", image_size=32)
    assert (len(d.train), len(d.val), len(d.tests["test"])) == (160, 40, 60) and d.classes == (
        "polyp",
    )
    assert d.tests["test"].native_mask(3).shape == (32, 32)
    assert len({m.tobytes() for s in (d.train, d.val, d.tests["test"]) for m in s.images}) == 260
    hard = data.load("synthetic-polyp:contrast=1,small=1", image_size=32)
    assert hard.train.masks.mean() < d.train.masks.mean()
    with pytest.raises(ValueError, match="unknown synthetic knob 'hairs'; did you mean 'hair'"):
        data.load("synthetic:hairs=1", image_size=32)
    with pytest.raises(ValueError, match=r"hair=3.0 must lie between 0 \(easy\) and 1"):
        data.load("synthetic:hair=3", image_size=32)
    with pytest.raises(ValueError, match="write the knobs as"):
        data.load("synthetic:hair", image_size=32)


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "train", "tests"), [
    ("kvasir", 900, {"kvasir": 100}), ("clinicdb", 550, {"clinicdb": 62}),
    ("isic2017", 1500, {"isic2017": 650}),
    ("dsb2018", 536, {"dsb2018": 134}), ("isbi2012", 24, {"isbi2012": 6}),
    ("pranet", 1450, {"kvasir": 100, "clinicdb": 62}),
])  # fmt: skip
def test_real_datasets_have_the_papers_counts(data_dir, name, train, tests):
    try:
        source = readers.find(name, data_dir)
    except FileNotFoundError:
        pytest.skip(f"{name} is not in DATA_DIR")
    assert len(source.train) == train and not source.problems
    counts = {key: len(pairs) for key, pairs in source.tests.items()}
    assert tests.items() <= counts.items()


def test_registry_is_packaged():
    for name in ("registry.yaml", "splits/pranet_test_kvasir.txt"):
        assert os.path.exists(readers.HERE / name), name
    assert yaml.safe_load((readers.HERE / "registry.yaml").read_text())


def test_all_eight_orientations_are_drawn_alike():
    """Flips and quarter turns are independent: each of eight symmetries has one chance in eight."""
    seg = data.load("synthetic", image_size=32, limit=12)
    plain, drawn = (data.TorchSplit(seg.train, name) for name in ("none", "light"))
    counts = dict.fromkeys(itertools.product((False, True), range(4)), 0)
    for epoch in range(40):
        drawn.set_epoch(epoch)
        for i in range(len(seg.train)):
            image, turned = plain[i]["image"], drawn[i]["image"]
            for flip, turns in counts:
                if torch.equal(
                    torch.rot90(image.flip(2) if flip else image, turns, (1, 2)), turned
                ):
                    counts[flip, turns] += 1
    n = 40 * len(seg.train)
    assert sum(counts.values()) == n
    assert all(abs(k - n / 8) < 4 * (n * 7 / 64) ** 0.5 for k in counts.values()), counts
