"""Masks of images that have none: `unetv2 predict RUN_DIR IMAGES --output FOLDER`.

An image is brought to the run's image size and normalised as in training; the logits are brought
back to the image's own size before they are cut, so that edges are smooth. Orientation tags (EXIF)
are followed: mask and overlay lie as a viewer shows the image. Of animations and stacks the first
picture counts.

Memory: the model, one batch at the run's image size, and one image at its own size at a time,
however many there are: 24 megapixels of one class took 0.2 GB, with overlay and probability 0.4 GB,
beside the 1 GB of the libraries (measured, on a CPU). An image that is to be drawn on is read twice
rather than kept.
"""

import argparse
import json
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..common import env, files
from ..data.images import read_image, resize
from ..data.rle import encode, write_table
from .infer import enlarge, foreground, infer, labels
from .load import find_run, load_run

__all__ = ["Predicted", "load", "outline", "predict"]

# Okabe and Ito's colours, the ones that are seen on skin and mucosa first
COLOURS = (
    (240, 228, 66),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
    (213, 94, 0),
)


class Predicted(NamedTuple):
    """What `predict` did: the masks that were written; the files left out, with the reason."""

    masks: list[Path]
    failed: dict[Path, str]


class _OnnxModel(nn.Module):
    """An exported file as a module: the run's model as far as `infer` can tell."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        from .export import META

        super().__init__()
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            meta = json.loads(self.session.get_modelmeta().custom_metadata_map[META])
            self.size, free = meta["size"][0], meta["free"]
            self.normalisation = meta["mean"], meta["std"]
            (image,), logits = self.session.get_inputs(), self.session.get_outputs()[0]
            if (image.name, logits.name) != ("image", "logits"):
                raise ValueError
        except Exception:  # onnxruntime's errors have no common class
            how = "name the run folder, or export that (unetv2 export RUN_DIR --format onnx)"
            raise ValueError(f"{path} is no ONNX file that unetv2 export wrote; {how}") from None
        if len(image.shape) != 4 or image.shape[1] != 3 or "batch" not in free:
            raise ValueError(f"{path} takes {image.shape}, not any number of colour images")

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(["logits"], {"image": x.numpy()})[0])


def load(run: str | Path) -> tuple[nn.Module, int]:
    """The model of `find_run`'s folder or of an ONNX file of `unetv2 export`, and its image size.

    Raises:
        FileNotFoundError, ValueError: as `load_run`; the file is damaged or not of
            `unetv2 export`.
    """
    run = find_run(run)
    if run.is_file():
        model = _OnnxModel(run)
        return model, model.size
    model, params = load_run(run)
    return model, params.image_size


def predict(
    run: str | Path | tuple[nn.Module, int],
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    batch_size: int = 16,
    device: str = "auto",
    threshold: float | None = None,
    overlay: bool = False,
    probability: bool = False,
    rle: str | Path | None = None,
    overwrite: bool = False,
) -> Predicted:
    """Write a mask for each image: `output`/<folders>/<name>_mask.png.

    0 and 255, or class ids for several classes.

    Args:
        run: a run folder, the name of published weights, an ONNX file of `unetv2 export`, or a
            model with the side of its square input.
        images: files and folders; folders with all that is in them, hidden files left out.
            <folders> are those below what all of them have in common; <name> keeps the file's
            ending where two would get the same one.
        threshold: of the probability, for one class; default 0.5. Of several classes the most
            probable one counts.
        overlay: also <name>_overlay.png, the image with the mask's outline, a colour for each
            class.
        probability: also <name>_probability.png, 0 to 255; of several classes one file for each,
            _probability1.png, ...
        rle: also this file, Kaggle's table of one class: a row `ImageId,EncodedPixels` for each
            image, ImageId being <folders>/<name>, the mask as run lengths, nothing where it is
            empty.
        overwrite: replace files that are there; by default that is an error before anything is
            written.

    Files that cannot be read as images are left out and reported; `Predicted.failed` holds the
    reason.

    Raises:
        FileNotFoundError: no such run or image, or a folder without files.
        ValueError: a damaged run or one of another model; an output among the inputs, or there
            already; an option out of range, or an unknown device.
        OSError: the output cannot be written.
        RuntimeError: the device is not there.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must lie between 0 and 1")
    model, size = run if isinstance(run, tuple) else load(run)
    place = _place(model, device)
    top = Path(output).expanduser().absolute()
    stems = _stems([images] if isinstance(images, str | Path) else images, top)
    table, rows = None if rle is None else _table(Path(rle).expanduser(), stems), {}
    # of several classes the first one's probability stands for all: how many there are, is known
    # by the first logits
    kinds = ["mask", *["overlay"] * overlay, *["probability", "probability1"] * probability]
    paths = [_path(stem, kind) for stem in stems.values() for kind in kinds]
    _none_there([*paths, *([table] if table else [])], overwrite)
    done, waiting = Predicted([], {}), deque()

    def opened() -> Iterator[np.ndarray]:
        for path in tqdm(stems, unit="image", disable=bool(os.environ.get("TQDM_DISABLE"))):
            try:
                image = read_image(path, upright=True)
            except ValueError as error:
                done.failed[path] = str(error)
                continue
            waiting.append((path, image.shape[:2]))
            yield resize(image, size)

    for small in infer(model, opened(), batch_size, place):
        path, shape = waiting.popleft()
        _one_class(len(small), threshold, rle)
        logits, stem = enlarge(small, shape), stems[path]
        ids = labels(logits, threshold or 0.5)
        if overlay:
            _write(_path(stem, "overlay"), outline(read_image(path, upright=True), ids))
        if probability:
            maps = foreground(logits)
            for k, p in enumerate(maps, 1):
                kind = f"probability{k if len(maps) > 1 else ''}"
                _write(_path(stem, kind), (255 * p).round().astype(np.uint8))
        done.masks.append(_path(stem, "mask"))
        _write(done.masks[-1], ids if len(logits) > 1 else 255 * ids)
        if table:
            rows[stem.relative_to(top).as_posix()] = encode(ids)
    if table:
        write_table(table, rows)
    return done


def _place(model: nn.Module, device: str):
    """The device that `model` runs on."""
    onnx = isinstance(model, _OnnxModel)
    if onnx and device == "cuda":
        how = "use device 'auto' or 'cpu', or the run folder"
        raise ValueError(f"an ONNX file runs on the CPU here: {how}")
    return env.device("cpu" if onnx and device == "auto" else device)


def _none_there(paths: Sequence[Path], overwrite: bool) -> None:
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        first = f"{len(there)} of the files to be written are there already, as {there[0]}"
        how = "replace them with --overwrite, or choose another output folder"
        raise ValueError(f"{first}; {how}")


def _one_class(channels: int, threshold: float | None, rle: str | Path | None) -> None:
    if channels == 1:
        return
    if threshold is not None:
        reason = f"of {channels} the most probable counts"
        raise ValueError(f"threshold={threshold} is for one class; {reason}")
    if rle is not None:
        raise ValueError(f"rle={rle} is for one class, this model has {channels}: leave it out")


def _table(path: Path, images: Sequence[Path]) -> Path:
    """`path`, if Kaggle's table can be written there."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it, as {path / 'masks.csv'}")
    if path.absolute() in images:
        raise ValueError(f"{path} is among the images; name another file for the table")
    return path


def outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of `image` (h, w, 3) uint8 with the outline of each class of `mask` (h, w).

    Coloured, on black.
    """
    picture, width = image.copy(), max(1, round(max(image.shape) / 250))
    for k in np.unique(mask[mask > 0]).tolist():
        edges, _ = cv2.findContours(
            (mask == k).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        for colour, thickness in (
            ((0, 0, 0), 2 * width + 1),
            (COLOURS[(k - 1) % len(COLOURS)], width),
        ):
            cv2.drawContours(picture, edges, -1, colour, thickness)
    return picture


def _path(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}_{kind}.png")


def _write(path: Path, picture: np.ndarray) -> None:
    with files.atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", compress_level=1)


def _absolute(path: str | Path) -> Path:
    """As the user sees it; what lies before a `..` with links followed, as the system does."""
    parts = Path(path).expanduser().absolute().parts
    n = max((i for i, part in enumerate(parts, 1) if part == ".."), default=0)
    return Path(*parts[:n]).resolve().joinpath(*parts[n:])


def _stems(images: Sequence[str | Path], output: Path) -> dict[Path, Path]:
    """Each file to be read -> the path of its outputs, without their ending."""
    found, tops, real = {}, [], output.resolve()
    for path in map(_absolute, images):
        if not path.exists():
            raise FileNotFoundError(f"no such image or folder: {path}")
        tops.append(path if path.is_dir() else path.parent)
        new = _inside(path) if path.is_dir() else [path]
        if not new:
            raise FileNotFoundError(f"no files in {path}: name a folder of images")
        if real == tops[-1].resolve() or path.resolve() in real.parents:
            reason = f"the output folder {output} is among the images"
            raise ValueError(f"{reason}; choose another, outside of {tops[-1]}")
        found |= dict.fromkeys(new)
    if output.exists() and not output.is_dir():
        raise ValueError(f"the output {output} is a file: name a folder")
    top = os.path.commonpath(tops)
    names = {path: output / path.relative_to(top) for path in found}
    taken = Counter(
        [*names.values(), *(name.with_suffix("") for name in names.values())]
    )  # a.jpg may be a stem, too
    return {
        path: stem if taken[stem := name.with_suffix("")] == 1 else name
        for path, name in names.items()
    }


def _inside(folder: Path) -> list[Path]:
    """The files below `folder`, dead links too, but what is hidden; each linked folder once."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and os.path.realpath(Path(place, name)) not in seen
        ]
        found += [Path(place, name) for name in names if name[0] != "."]
    return sorted(found)


def main(argv: Sequence[str] | None = None) -> None:
    """The command `unetv2 predict`: status 1 if a file was left out."""
    parser = argparse.ArgumentParser(
        prog="unetv2 predict",
        description="Masks of images by a trained run: FOLDER/<name>_mask.png, "
        "0 and 255, or class ids.",
        epilog="example: unetv2 predict isic2017-thin+sdi photos --output masks --overlay",
    )
    parser.add_argument(
        "run", help="folder that unetv2 train wrote, published weights, or an ONNX file of export"
    )
    parser.add_argument(
        "images", nargs="+", help="images, or folders of them (with all sub-folders)"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="where the masks go, in the same sub-folders",
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--threshold", type=float, help="of the probability, for one class (default: 0.5)"
    )
    parser.add_argument(
        "--overlay", action="store_true", help="also the image with the outline of its mask"
    )
    parser.add_argument("--probability", action="store_true", help="also the probability, 0 to 255")
    parser.add_argument("--rle", metavar="FILE", help="also Kaggle's table, ImageId,EncodedPixels")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace masks that are there (default: stop)"
    )
    args = vars(parser.parse_args(argv))
    try:
        done = predict(args.pop("run"), args.pop("images"), args.pop("output"), **args)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the masks that are there are whole") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise SystemExit(
            f"error: out of memory; lower --batch-size (now {args['batch_size']})"
        ) from None
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{len(done.masks)} masks written")
    if done.failed:
        lines = [f"  {reason}" for reason in done.failed.values()]
        raise SystemExit(f"left out: {len(lines)}\n" + "\n".join(lines))
