"""Opening image and mask files, of any size and format, as uint8 arrays.

Pillow decodes, since OpenCV returns a half grey picture for a truncated JPEG without an error. Orientation tags (EXIF)
are ignored, because a mask has none.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

__all__ = ["read_image", "read_mask", "read_raw_mask", "resize", "to_classes"]


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three for broken files
        raise ValueError(f"cannot read {path}: {error}; replace the file or take it out of the dataset") from None
    return image


def read_image(path: Path) -> np.ndarray:
    """uint8 (h, w, 3) RGB; more than 8 bits per channel are stretched to the file's own range.

    Raises:
        ValueError: the file is broken, truncated or not an image.
    """
    image = _open(path)
    if image.mode[0] in "IF":
        values = np.asarray(image, np.float32)
        low, high = values.min(), values.max()
        grey = ((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def read_raw_mask(path: Path) -> np.ndarray:
    """The mask values as they are in the file, (h, w); colours become grey, a palette's indices stay indices.

    `path` may be a folder of masks (one object each): their maximum.
    """
    if path.is_dir():
        return np.maximum.reduce([read_raw_mask(p) for p in sorted(path.iterdir()) if p.suffix == ".png"])
    image = _open(path)
    if image.mode == "P":
        palette = np.array(image.getpalette()).reshape(-1, 3)
        grey = (palette == palette[:, :1]).all()
        return np.asarray(image.convert("L") if grey else image)
    return np.asarray(image if image.mode[0] in "LIF" and image.mode != "LA" else image.convert("L"))


def to_classes(raw: np.ndarray, values: tuple[int, ...] | None) -> np.ndarray:
    """uint8 class ids from mask values: k + 1 where `raw == values[k]`; binary if None.

    Binary: above 127, as the field reads Kvasir's JPEG masks with their grey borders; in a mask without a value
    above 1, above 0.
    """
    if values is None:
        return (raw > (127 if raw.max(initial=0) > 1 else 0)).astype(np.uint8)
    ids = np.zeros(raw.shape, np.uint8)
    for k, value in enumerate(values):
        ids[raw == value] = k + 1
    return ids


def read_mask(path: Path, values: tuple[int, ...] | None = None) -> np.ndarray:
    """uint8 (h, w) class ids 0..K at the file's own size."""
    return to_classes(read_raw_mask(path), values)


def resize(image: np.ndarray, size: int, mask: bool = False) -> np.ndarray:
    """To (size, size): images by area when shrinking and bilinear when growing, masks by the nearest pixel centre."""
    if image.shape[:2] == (size, size):
        return image
    shrink = min(image.shape[:2]) > size
    how = cv2.INTER_NEAREST_EXACT if mask else cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)
