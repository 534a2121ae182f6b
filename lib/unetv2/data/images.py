"""Opening image and mask files, of any size and format, as uint8 arrays.

Pillow decodes, since OpenCV returns a half grey picture for a truncated JPEG without an error. Orientation tags (EXIF)
are ignored beside a mask, because it has none.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

__all__ = ["read_image", "read_mask", "read_raw_mask", "resize", "to_classes"]


def _open(path: Path, upright: bool = False) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        image = ImageOps.exif_transpose(image) if upright else image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all may come of broken files
        raise ValueError(f"cannot read {path}: {error}; replace the file or take it out of the dataset") from None
    return image


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """uint8 (h, w, 3) RGB; more than 8 bits per channel are stretched to the file's own range.

    With `upright` turned as the file's orientation tag says, as viewers show it.

    Raises:
        ValueError: the file is broken, truncated, not an image, or has more pixels than Pillow takes (179 million).
    """
    image = _open(path, upright)
    if image.mode[0] in "IF":
        values = np.asarray(image, np.float32)
        values = (values - values.min()) * (255 / max(np.ptp(values), 1e-9))
        return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def read_raw_mask(path: Path) -> np.ndarray:
    """(h, w) mask values as they are in the file; colours become grey, a colour palette's indices stay indices.

    `path` may be a folder of masks, one per object: their maximum.
    """
    if path.is_dir():
        return np.maximum.reduce([read_raw_mask(file) for file in sorted(path.glob("*.png"))])
    image = _open(path)
    if image.mode == "P":
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return np.asarray(image.convert("L") if (palette == palette[:, :1]).all() else image)
    return np.asarray(image if image.mode == "L" or image.mode[0] in "IF" else image.convert("L"))


def to_classes(raw: np.ndarray, values: tuple[int, ...] | None) -> np.ndarray:
    """uint8 class ids from mask values: k + 1 where `raw == values[k]`; binary if None.

    Binary: above 127, as the field reads Kvasir's JPEG masks with their grey borders; above 0 where no value exceeds 1.
    """
    if values is None:
        return (raw > (127 if raw.max() > 1 else 0)).astype(np.uint8)
    return sum(np.uint8(k + 1) * (raw == value).astype(np.uint8) for k, value in enumerate(values))


def read_mask(path: Path, values: tuple[int, ...] | None = None) -> np.ndarray:
    """uint8 (h, w) class ids 0..K at the file's own size."""
    return to_classes(read_raw_mask(path), values)


def resize(image: np.ndarray, size: int, mask: bool = False) -> np.ndarray:
    """To (size, size): images by area when shrinking and bilinear when growing, masks by the nearest pixel centre."""
    how = cv2.INTER_NEAREST_EXACT if mask else cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return image if image.shape[:2] == (size, size) else cv2.resize(image, (size, size), interpolation=how)
