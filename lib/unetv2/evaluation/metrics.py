"""Scores of one prediction, under the protocols of the field.

The same masks score differently in each protocol, so every number that is printed or saved names
its protocol:

* `per_image`: foreground where p >= 0.5, at the training size; Dice and IoU of each image, then the
  mean over images.
* `global`: the same maps, one confusion matrix over all pixels of all images (EGE-UNet's and
  MALUNet's ISIC line). There, and only there, Dice = 2 IoU / (1 + IoU) holds for the reported
  figures.
* `pranet`: logit enlarged (bilinear) to the mask's own size, sigmoid, min-max per image, 8 bits,
  256 thresholds; mean over images and thresholds (PraNet's MATLAB evaluator, the polyp line).
  `_max`: the best threshold for all images.
* `own`: logit enlarged as in `pranet`, then p >= 0.5; mean over images. The boundary F is of this
  one: at the training size its tolerance would be a pixel or two.

Empty masks: `per_image` and `own` score a class that is neither in the mask nor predicted as
`EMPTY` = 1.0; `pranet` scores 0 whenever no foreground pixel is hit, so an empty mask is always 0
there, as in the MATLAB code.
Several classes: mean over the foreground classes, each against the rest.
"""

import math

import cv2
import numpy as np

__all__ = [
    "EMPTY",
    "PROTOCOLS",
    "boundary_f",
    "class_counts",
    "counts",
    "dice_iou",
    "eight_bit",
    "mean_dice_iou",
    "threshold_scores",
]

EMPTY = 1.0  # Dice and IoU of an empty prediction for an empty mask
PROTOCOLS = {
    "per_image": "p >= 0.5 at the training size, mean over images (empty for empty = 1)",
    "global": "p >= 0.5 at the training size, one confusion matrix over all pixels",
    "pranet": "min-max, 8-bit map at the mask's own size, mean over images and 256 thresholds",
    "own": "p >= 0.5 at the mask's own size, mean over images (empty for empty = 1)",
}


def counts(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(TP, FP, FN) as int64 of two boolean arrays of one shape; their sums give `global`."""
    if pred.shape != truth.shape:
        raise ValueError(f"prediction {pred.shape} and mask {truth.shape} differ in size")
    tp = np.count_nonzero(pred & truth)
    return np.array([tp, np.count_nonzero(pred) - tp, np.count_nonzero(truth) - tp], dtype=np.int64)


def class_counts(pred: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """`counts` of each foreground class 1..`classes` of class ids (h, w): int64 (classes, 3)."""
    return np.array([counts(pred == k, truth == k) for k in range(1, classes + 1)])


def dice_iou(tp: float, fp: float, fn: float, empty: float = EMPTY) -> tuple[float, float]:
    """Dice = 2 TP / (2 TP + FP + FN), IoU = TP / (TP + FP + FN); `empty` where all are 0."""
    if tp + fp + fn == 0:
        return empty, empty
    return 2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn)


def mean_dice_iou(counts: np.ndarray) -> tuple[float, float]:
    """Dice and IoU, the mean over the classes of `counts` (classes, 3)."""
    dice, iou = np.mean([dice_iou(*c) for c in counts], axis=0).tolist()
    return dice, iou


def eight_bit(soft: np.ndarray) -> np.ndarray:
    """A soft map (h, w) as PraNet saves it: min-max, rounded to 0..255; a constant map is 0."""
    low, high = float(soft.min()), float(soft.max())
    if high == low:
        return np.zeros(soft.shape, np.uint8)
    return np.rint((soft - low) * (255 / (high - low))).astype(np.uint8)


def threshold_scores(map8: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU (256 each) of `map8 >= t` for t = 255, 254, ..., 0; both 0 where TP = 0.

    One histogram per region replaces the 256 comparisons: its cumulative sum from above counts the
    pixels >= t.
    """
    inside = np.cumsum(np.bincount(map8[truth], minlength=256)[::-1])  # TP
    marked = np.cumsum(np.bincount(map8.ravel(), minlength=256)[::-1])  # TP + FP
    real = np.count_nonzero(truth)
    with np.errstate(invalid="ignore"):  # 0 / 0 only where TP = 0
        dice, iou = 2 * inside / (marked + real), inside / (marked + real - inside)
    return np.where(inside, dice, 0.0), np.where(inside, iou, 0.0)


def boundary_f(pred: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> float:
    """Boundary F (Perazzi et al., DAVIS, CVPR 2016) of two boolean masks of one shape.

    The F1 of the outline pixels that lie near the other mask's outline. "Near" is within
    `tolerance` x the image diagonal, rounded up to whole pixels (DAVIS: 0.008; 3 px at 256 x 256).
    1 if neither mask has an outline, 0 if one has none.

    Deviations: the outline is the mask less its 3 x 3 cross erosion (DAVIS: pixels that differ
    from their right or lower neighbour); distance is exact, not a disc dilation.
    """
    reach = math.ceil(tolerance * math.hypot(*truth.shape))
    window = _window(pred, truth)
    a, b = (_outline(np.ascontiguousarray(mask[window], np.uint8)) for mask in (pred, truth))
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision = (_distance(b)[a] <= reach).mean()
    recall = (_distance(a)[b] <= reach).mean()
    if not precision + recall:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def _window(*masks: np.ndarray) -> tuple[slice, slice]:
    """The box around all that is marked, and a pixel more, which the erosion looks at.

    Outlines, and the distances between them, are the same in it as in the whole image.
    """
    marked = np.logical_or.reduce(masks)
    rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0), slice(0)
    return tuple(slice(max(at[0] - 1, 0), at[-1] + 2) for at in (rows, columns))


def _outline(mask: np.ndarray) -> np.ndarray:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return (mask > cv2.erode(mask, cross)) if mask.size else mask.astype(bool)


def _distance(outline: np.ndarray) -> np.ndarray:
    """The distance of each pixel to the nearest one of `outline`."""
    return cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
