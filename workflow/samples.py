"""samples.py --data DIR: make data/samples from downloads of ISIC 2017 and DSB 2018 (both CC0).

A rule chooses the images, and no model has a say in it: of the test part in the order of its ids,
`COUNT` at even steps, without near copies of training and validation images. A file whose sides
are at most `LONGEST` pixels is copied as it is, so that a score on it is that of the test part; a
larger one is reduced first.
"""

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from unetv2 import data
from unetv2.common import env, files
from unetv2.data.images import read_image, read_mask
from unetv2.data.pairs import Pair

SETS = ("isic2017", "dsb2018")
COUNT = 24
LONGEST = 256


def chosen(seg: data.SegData, count: int = COUNT) -> list[Pair]:
    """The pairs of the test part that become samples."""
    (test,) = seg.tests.values()
    seen = {*seg.train.groups, *seg.val.groups}
    pairs = sorted(pair for pair in test.pairs if pair.group not in seen)
    steps = np.linspace(0, len(pairs) - 1, count).round().astype(int)
    return [pairs[i] for i in steps]


def write(pair: Pair, folder: Path) -> None:
    """The image and the mask of `pair` below `folder`, at most `LONGEST` pixels wide and high."""
    image, mask = read_image(pair.image), read_mask(pair.mask)
    scale = LONGEST / max(mask.shape)
    size = [round(scale * side) for side in reversed(mask.shape)]
    for sub, source, pixels in (("images", pair.image, image), ("masks", pair.mask, 255 * mask)):
        ending = ".png" if sub == "masks" else source.suffix
        with files.atomic(folder / sub / f"{pair.id}{ending}") as temporary:
            if scale >= 1 and source.suffix == ending:
                shutil.copyfile(source, temporary)
                continue
            how = cv2.INTER_NEAREST_EXACT if sub == "masks" else cv2.INTER_AREA
            small = pixels if scale >= 1 else cv2.resize(pixels, size, interpolation=how)
            kind = "PNG" if ending == ".png" else "JPEG"
            Image.fromarray(small).save(temporary, kind, quality=92, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of the datasets (default: DATA_DIR)")
    args = parser.parse_args()
    for name in SETS:
        folder = env.root() / "data" / "samples" / name
        pairs = chosen(data.load(name, args.data, 128))
        shutil.rmtree(folder, ignore_errors=True)
        for pair in pairs:
            write(pair, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*.*"))
        print(f"{folder.relative_to(env.root())}: {len(pairs)} images, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
