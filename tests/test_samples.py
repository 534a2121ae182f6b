"""The sample images in the repository: found everywhere, small, and of no training."""

import re

import numpy as np
import pytest
import samples

from unetv2 import data
from unetv2.common import env

SAMPLES = env.root() / "data" / "samples"


@pytest.mark.parametrize(("name", "size"), [("isic2017", 256), ("dsb2018", 96)])
def test_they_are_found_whatever_the_data_folder_is(name, size, tmp_path):
    tests, excluded = data.load_tests(f"samples-{name}", tmp_path, 64)
    (split,) = tests.values()
    assert len(split) == samples.COUNT == len(set(split.groups)) and excluded == 0
    shares = [split.native_mask(i).mean() for i in range(len(split))]
    assert {split.native_mask(i).shape for i in range(len(split))} == {(size, size)}
    assert 0.005 < min(shares) and max(shares) < 0.9
    assert data.may_publish(f"samples-{name}")


def test_they_cannot_be_trained_on():
    with pytest.raises(ValueError, match="train on 'isic2017', and score that run on it"):
        data.load("samples-isic2017")


def test_they_are_small():
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*.*")) < 2e6


@pytest.mark.realdata
@pytest.mark.parametrize("name", samples.SETS)
def test_they_are_those_of_the_rule_and_of_the_test_part(name, data_dir):
    seg = data.load(name, data_dir, 128)
    pairs = samples.chosen(seg)
    there = sorted(path.stem for path in (SAMPLES / name / "images").iterdir())
    assert there == sorted(pair.id for pair in pairs)
    assert not {pair.id for pair in pairs} & {*seg.train.ids, *seg.val.ids}
    mine = {path.stem: path.read_bytes() for path in (SAMPLES / name / "images").iterdir()}
    assert all(pair.image.read_bytes() == mine[pair.id] for pair in pairs)


def test_large_images_are_reduced_and_small_ones_copied(fake_dataset, tmp_path):
    for size, ids in ((40, 48), ["small"]), ((600, 500), ["large"]):
        root = fake_dataset(ids=ids, size=size)
        pair = samples.Pair(ids[0], *(root / f"{sub}/{ids[0]}.png" for sub in ("images", "masks")))
        samples.write(pair, tmp_path / "out")
    copy = (tmp_path / "out/images/small.png").read_bytes()
    assert copy == (root / "images/small.png").read_bytes()
    image = samples.read_image(tmp_path / "out/images/large.png")
    mask = samples.read_mask(tmp_path / "out/masks/large.png")
    assert image.shape == (256, 213, 3) and mask.shape == (256, 213)
    whole = samples.read_mask(root / "masks/large.png").mean()
    assert mask.mean() == pytest.approx(whole, rel=0.1) and set(np.unique(mask)) == {0, 1}


def test_the_page_says_how_many():
    text = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"\| {samples.COUNT} ", text)) == len(samples.SETS)
