"""Which images are copies of each other: exact ones by their pixels, near ones by what is seen."""

import hashlib

import cv2
import numpy as np
from PIL import Image

__all__ = ["CORRELATION", "HASH_BITS", "alike", "exact_copies", "phash", "sight"]

# images are alike if both agree: pHash alone takes any two centred moles for one
HASH_BITS, CORRELATION = 8, 0.95


def sight(image: np.ndarray) -> dict:
    """What tells images apart: a hash of the pixels, a perceptual hash of 64 bits, a thumb of
    length 1.
    """
    thumb = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA
    )
    thumb = thumb.ravel() - thumb.mean(dtype=np.float32)
    thumb /= max(float(np.linalg.norm(thumb)), 1e-6)
    pixels = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).data).digest()
    return {"phash": phash(image), "thumb": thumb, "pixels": pixels}


_COSINES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))


def phash(image: np.ndarray) -> int:
    """The perceptual hash of an RGB image, 64 bits: which of its 8 x 8 lowest cosines exceed their
    median.

    The same as imagehash.phash (Buchner), which would need scipy for these few lines.
    """
    grey = np.asarray(
        Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    )
    low = _COSINES @ grey @ _COSINES.T
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def alike(facts: list[dict]) -> list[tuple[int, int, float]]:
    """(i, j, correlation) for each two images i < j that look alike."""
    if not facts:
        return []
    thumbs = np.stack([fact["thumb"] for fact in facts])
    hashes, found = np.array([fact["phash"] for fact in facts], np.uint64), []
    for start in range(0, len(facts), 1024):  # in blocks, so that 20 000 images fit in memory
        correlations = thumbs[start : start + 1024] @ thumbs[start:].T
        i, j = np.nonzero(np.triu(correlations > CORRELATION, 1))
        differ = (hashes[i + start] ^ hashes[j + start]).view(np.uint8).reshape(-1, 8)
        close = np.unpackbits(differ, axis=1).sum(1) <= HASH_BITS
        i, j = i[close], j[close]
        found += zip(
            (i + start).tolist(), (j + start).tolist(), correlations[i, j].tolist(), strict=True
        )
    return found


def exact_copies(facts: list[dict]) -> list[tuple[int, int]]:
    """(first, other) for each image that is an exact copy of an earlier one; black images are not
    compared.
    """
    first = {}
    pairs = [(first.setdefault(f["pixels"], i), i) for i, f in enumerate(facts) if not f["dark"]]
    return [(i, j) for i, j in pairs if i != j]
