"""Opening image and mask files, of any size and format, as uint8 arrays.

Pillow decodes, since OpenCV returns a half grey picture for a truncated JPEG without an error.
Orientation tags (EXIF) are ignored beside a mask, because it has none.
"""

import re
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from .pairs import Values
from .rle import RunLengths

__all__ = ["read_image", "read_mask", "read_raw_mask", "resize", "to_classes"]


# Pillow warns of what it reads all the same: very large images, odd tags, transparency; what it
# cannot read is an error
warnings.filterwarnings("ignore", module=r"PIL\.")


def _open(path: Path, upright: bool = False) -> Image.Image:
    """The decoded image; its `info["raw"]` says how the file holds the pixels."""
    try:
        image = Image.open(path)
        raw = str(image.tile)  # load() empties it
        image.load()
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise ValueError("it holds values that are not numbers (NaN or infinite)")
        image = ImageOps.exif_transpose(image) if upright else image
        image.info["raw"] = raw
    except Image.DecompressionBombError:
        raise ValueError(
            f"cannot read {path}: it has more than 179 megapixels; shrink it"
        ) from None
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:  # all come of broken files
        empty = path.is_file() and not path.stat().st_size
        reason = "the file is empty" if empty else getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path}: {reason}; replace or remove it") from None
    return image


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """uint8 (h, w, 3) RGB; grey of more than 8 bits, and RGB of 16, are stretched to the file's own
    range.

    With `upright` turned as the file's orientation tag says, as viewers show it.

    Raises:
        ValueError: the file is broken, truncated, empty, not an image, holds NaN or infinite
            values, or has more pixels than Pillow takes (179 million).
    """
    image = _open(path, upright)
    if re.search(r"(RGB|LA)\w?;16", image.info["raw"]):  # of these Pillow keeps the upper 8 bits
        how = (
            cv2.IMREAD_COLOR
            | cv2.IMREAD_ANYDEPTH
            | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
        )
        values = cv2.imread(str(path), how)
        if values is None:
            raise ValueError(f"cannot read the 16 bits of {path}; save it as a plain PNG")
        values = values[..., ::-1]
    elif image.mode[0] in "IF":
        values = np.asarray(image)[..., None]
    else:
        return np.asarray(image.convert("RGB"))
    values = values.astype(np.float32)
    values = ((values - values.min()) * (255 / max(np.ptp(values), 1e-9))).astype(np.uint8)
    return np.repeat(values, 3 // values.shape[2], axis=2)


def read_raw_mask(mask: Path | RunLengths, colours: bool = False) -> np.ndarray:
    """(h, w) mask values as they are in the file; a colour palette's indices stay indices.

    Colours become grey, or with `colours` whole numbers 0xrrggbb. A folder of masks, one per
    object, becomes their maximum; rows of a table become 1.

    Raises:
        ValueError: as `read_image`.
    """
    if isinstance(mask, RunLengths):
        return mask.read()
    if mask.is_dir():
        return np.maximum.reduce(
            [read_raw_mask(file, colours) for file in sorted(mask.glob("*.png"))]
        )
    image = _open(mask)
    if colours:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int32), 2, 0)
        return red << 16 | green << 8 | blue
    if image.mode == "P":
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return np.asarray(image.convert("L") if (palette == palette[:, :1]).all() else image)
    return np.asarray(image if image.mode == "L" or image.mode[0] in "IF" else image.convert("L"))


def in_colours(values: Values) -> bool:
    """Whether classes are told by colours."""
    return isinstance(values, tuple) and isinstance(values[0], str)


def numbers(values: tuple) -> list[int]:
    """The raw value of each class: `values`, with colours as 0xrrggbb."""
    return [int(value[1:], 16) if isinstance(value, str) else value for value in values]


def to_classes(raw: np.ndarray, values: Values) -> np.ndarray:
    """uint8 class ids from raw mask values: k + 1 where `raw` has the value of class k.

    Instances: 1 for every value but 0. Binary (None): above 127, as the field reads Kvasir's JPEG
    masks with their grey borders; above 0 where no value exceeds 1.
    """
    if values == "instances":
        return (raw != 0).astype(np.uint8)
    if values is None:
        return (raw > (127 if raw.max() > 1 else 0)).astype(np.uint8)
    ids = np.zeros(raw.shape, np.uint8)
    for k, value in enumerate(numbers(values)):
        ids[raw == value] = k + 1
    return ids


def read_mask(mask: Path | RunLengths, values: Values = None) -> np.ndarray:
    """uint8 (h, w) class ids 0..K at the file's own size."""
    return to_classes(read_raw_mask(mask, in_colours(values)), values)


def resize(image: np.ndarray, size: int, mask: bool = False) -> np.ndarray:
    """To (size, size): images by area when shrinking and bilinear when growing, masks by the
    nearest pixel centre.
    """
    shrinks = min(image.shape[:2]) > size
    how = cv2.INTER_NEAREST_EXACT if mask else cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return (
        image
        if image.shape[:2] == (size, size)
        else cv2.resize(image, (size, size), interpolation=how)
    )
