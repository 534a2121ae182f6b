"""What images suffer outside a benchmark, in five steps: four of the corruptions of ImageNet-C,
with its levels.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019. Deviations: the noise of an image is always the same, drawn from its
pixels; the blur is in pixels of a side of 224, as there, and grows with the side.
"""

import zlib

import cv2
import numpy as np

from ..common.errors import unknown

__all__ = ["CORRUPTIONS", "STEPS", "corrupt"]

STEPS = (1, 2, 3, 4, 5)


def _noise(image, step):
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[step - 1]
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(image).data))
    return image + 255 * sigma * rng.standard_normal(image.shape, np.float32)


def _blur(image, step):
    sigma = (1, 2, 3, 4, 6)[step - 1] * image.shape[0] / 224
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _contrast(image, step):
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[step - 1]
    mean = image.mean((0, 1), keepdims=True)
    return mean + kept * (image - mean)


def _jpeg(image, step):
    quality = (25, 18, 15, 10, 7)[step - 1]
    code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1]


_HOW = {"noise": _noise, "blur": _blur, "contrast": _contrast, "jpeg": _jpeg}
CORRUPTIONS = tuple(_HOW)


def corrupt(image: np.ndarray, kind: str, step: int) -> np.ndarray:
    """An RGB image, uint8 (h, w, 3), after the corruption `kind`, from step 1 (mild) to 5 (severe).

    Raises:
        ValueError: unknown kind, or a step that is not 1 to 5.
    """
    if kind not in CORRUPTIONS:
        raise unknown("corruption", kind, CORRUPTIONS)
    if step not in STEPS:
        raise ValueError(f"step {step!r} of corruption {kind!r}: choose 1 (mild) to 5 (severe)")
    return np.clip(_HOW[kind](image, step), 0, 255).astype(np.uint8)
