"""Metrics: cases by hand, a disc, and the independent code of MONAI and PySODMetrics."""

import time

import numpy as np
import pytest
import torch

from unetv2.evaluation import metrics


def disc(size, centre, radius):
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def test_counts_dice_iou_by_hand():
    pred, truth = np.array([[1, 1, 0], [0, 1, 0]], bool), np.array([[1, 0, 0], [0, 1, 1]], bool)
    tp, fp, fn = metrics.counts(pred, truth)
    assert (tp, fp, fn) == (2, 1, 1)
    assert metrics.dice_iou(tp, fp, fn) == (pytest.approx(2 / 3), pytest.approx(0.5))
    assert metrics.dice_iou(0, 0, 0) == (1.0, 1.0) == (metrics.EMPTY, metrics.EMPTY)
    assert metrics.dice_iou(0, 0, 5) == (0.0, 0.0)
    assert np.isnan(metrics.dice_iou(0, 0, 0, empty=float("nan"))).all()
    with pytest.raises(ValueError, match="differ in size"):
        metrics.counts(pred, truth.T)


def test_per_image_agrees_with_monai():
    from monai.metrics import DiceMetric, MeanIoU

    rng = np.random.default_rng(0)
    preds, truths = rng.random((6, 20, 30)) > 0.6, rng.random((6, 20, 30)) > 0.7
    preds[0] = truths[0] = False  # empty for empty
    preds[1] = False  # empty for something
    ours = np.array(
        [metrics.dice_iou(*metrics.counts(p, t)) for p, t in zip(preds, truths, strict=True)]
    )
    pair = [torch.from_numpy(x[:, None].astype(np.float32)) for x in (preds, truths)]
    for column, metric in enumerate((DiceMetric(ignore_empty=False), MeanIoU(ignore_empty=False))):
        np.testing.assert_allclose(ours[:, column], metric(*pair).numpy().ravel(), rtol=1e-6)


def test_global_is_not_the_mean_and_obeys_the_identity():
    truths = [disc(64, (32, 32), 20), disc(64, (20, 20), 4)]
    preds = [disc(64, (32, 32), 19), disc(64, (26, 20), 4)]
    each = [metrics.counts(p, t) for p, t in zip(preds, truths, strict=True)]
    dice, iou = metrics.dice_iou(*np.sum(each, axis=0))
    mean_dice, mean_iou = np.mean([metrics.dice_iou(*c) for c in each], axis=0)
    assert dice == pytest.approx(2 * iou / (1 + iou))
    assert mean_dice != pytest.approx(2 * mean_iou / (1 + mean_iou), abs=1e-3)
    assert dice > mean_dice + 0.2  # the large object outweighs the missed small one
    assert 2 * 0.8217 / 1.8217 == pytest.approx(
        0.9021, abs=1e-4
    )  # the paper's ISIC 2017 row is of this protocol


@pytest.mark.parametrize(
    ("radius", "width", "dice_half", "dice_256", "mae_soft"),
    [(40, 4, 0.942, 0.850, 0.0120), (40, 1, 0.942, 0.931, 0.0053), (40, 0.3, 0.942, 0.939, 0.0047),
     (12, 4, 0.806, 0.592, None), (12, 1, 0.806, 0.779, None), (12, 0.3, 0.806, 0.803, None)],
)  # fmt: skip
def test_the_size_of_the_protocol_effect(radius, width, dice_half, dice_256, mae_soft):
    """The same disc, 3 px off (and 2 across) in a 352 image, scored at 0.5 and 256 thresholds."""
    y, x = np.mgrid[:352, :352]
    truth = disc(352, (176, 176), radius)
    p = 1 / (1 + np.exp(np.clip((np.hypot(y - 178, x - 179) - radius) / width, -50, 50)))
    assert metrics.dice_iou(*metrics.counts(p >= 0.5, truth))[0] == pytest.approx(
        dice_half, abs=0.002
    )
    map8 = metrics.eight_bit(p)
    assert metrics.threshold_scores(map8, truth)[0].mean() == pytest.approx(dice_256, abs=0.005)
    if mae_soft:
        assert np.abs(map8 / 255 - truth).mean() == pytest.approx(mae_soft, abs=1e-4)
        assert (truth != (p >= 0.5)).mean() == pytest.approx(0.0047, abs=1e-4)


def test_thresholds_equal_the_definition():
    rng = np.random.default_rng(2)
    map8, truth = rng.integers(0, 256, (23, 31), dtype=np.uint8), rng.random((23, 31)) > 0.8
    dice, iou = metrics.threshold_scores(map8, truth)
    for k, t in enumerate(range(255, -1, -1)):
        tp, fp, fn = metrics.counts(map8 >= t, truth)
        assert (dice[k], iou[k]) == pytest.approx(metrics.dice_iou(tp, fp, fn) if tp else (0, 0))


def test_pranet_protocol_agrees_with_pysodmetrics():
    from py_sod_metrics import MAE, FmeasureV2
    from py_sod_metrics.fmeasurev2 import DICEHandler, IOUHandler

    handlers = {"dice": DICEHandler(with_dynamic=True, with_adaptive=False),
                "iou": IOUHandler(with_dynamic=True, with_adaptive=False)}  # fmt: skip
    theirs, mae, ours = FmeasureV2(handlers), MAE(), []
    rng = np.random.default_rng(3)
    for n in range(5):
        truth = disc(80, (40, 30 + 4 * n), 6 + 3 * n)
        logit = (
            8.0
            - np.hypot(*(np.mgrid[:80, :80] - np.array([[[38]], [[34]]])))
            + rng.normal(size=(80, 80))
        )
        map8 = metrics.eight_bit(1 / (1 + np.exp(-logit)))
        # their floor(255 (k / 255)) may be k - 1 in floating point: lift each value by one unit in
        # the last place
        soft = np.minimum(np.nextafter(map8 / 255, 2), 1)
        theirs.step(soft, truth, normalize=False)
        mae.step(map8, truth.astype(np.uint8) * 255)
        ours.append(
            [
                *(s.mean() for s in metrics.threshold_scores(map8, truth)),
                np.abs(map8 / 255 - truth).mean(),
            ]
        )
    results = theirs.get_results()
    dice, iou, error = np.mean(ours, axis=0)
    assert dice == pytest.approx(results["dice"]["dynamic"].mean(), abs=1e-9)
    assert iou == pytest.approx(results["iou"]["dynamic"].mean(), abs=1e-9)
    assert error == pytest.approx(mae.get_results()["mae"], abs=1e-9)


def test_eight_bit_and_empty_masks():
    assert metrics.eight_bit(np.array([[0.25, 0.375, 0.75]])).tolist() == [
        [0, 64, 255]
    ]  # 63.75 is rounded
    assert not metrics.eight_bit(np.full((3, 3), 0.9)).any()
    full = np.full((4, 4), 255, np.uint8)
    assert metrics.threshold_scores(full, np.zeros((4, 4), bool))[0].max() == 0
    assert metrics.threshold_scores(full, np.ones((4, 4), bool))[1].min() == 1


def test_boundary_f():
    truth = disc(128, (64, 64), 30)
    assert metrics.boundary_f(truth, truth) == 1
    assert metrics.boundary_f(np.zeros_like(truth), np.zeros_like(truth)) == 1
    assert metrics.boundary_f(np.zeros_like(truth), truth) == 0
    # the tolerance is ceil(0.008 * 181) = 2 px: a rim within it is right, one beyond it is wrong,
    # wherever the area is
    assert metrics.boundary_f(disc(128, (64, 64), 31), truth) == 1
    assert metrics.boundary_f(disc(128, (64, 64), 35), truth) == 0
    # a square with one side moved 5 px: by hand, the moved side and the ends of the two it
    # stretches are wrong
    a, b = np.zeros((128, 128), bool), np.zeros((128, 128), bool)
    a[40:80, 40:80], b[40:80, 40:85] = True, True
    outline_a, outline_b = 4 * 39, 2 * 44 + 2 * 39
    right_of_a = (
        outline_a - 36
    )  # the old side less its two ends of 2 px, which the stretched sides pass nearby
    right_of_b = outline_b - (
        40 + 2 * 2
    )  # the new side, and the stretch of 2 px on either side beyond the tolerance
    f = (
        2
        * (right_of_b / outline_b)
        * (right_of_a / outline_a)
        / (right_of_b / outline_b + right_of_a / outline_a)
    )
    assert metrics.boundary_f(b, a) == pytest.approx(f, abs=0.01)


@pytest.mark.parametrize("place", ["inside", "corner", "whole", "apart", "empty"])
def test_boundary_f_of_the_window_is_that_of_the_whole_image(place):
    """By the definition, on all pixels of the image, with scipy's distances and erosion."""
    from scipy import ndimage

    truth, pred = np.zeros((70, 90), bool), np.zeros((70, 90), bool)
    at = {"inside": (20, 30), "corner": (0, 0), "whole": (0, 0), "apart": (2, 3), "empty": (0, 0)}
    y, x = at[place]
    side = {"whole": 90, "empty": 0}.get(place, 15)
    truth[y : y + side, x : x + side] = True
    pred[y + 1 : y + side, x : x + side - 1] = True
    if place == "apart":
        pred[60:, 80:] = True

    def outline(mask):
        return mask & ~ndimage.binary_erosion(mask, border_value=1)

    a, b = outline(pred), outline(truth)
    if a.any() and b.any():
        reach = np.ceil(0.008 * np.hypot(70, 90))
        precision = (ndimage.distance_transform_edt(~b)[a] <= reach).mean()
        recall = (ndimage.distance_transform_edt(~a)[b] <= reach).mean()
        expected = 2 * precision * recall / (precision + recall)
    else:
        expected = float(a.any() == b.any())
    assert metrics.boundary_f(pred, truth) == pytest.approx(expected, abs=1e-12)


def test_boundary_f_of_many_megapixels_is_quick():
    """24 megapixels, as ISIC has them, and an object of 300 x 300: the empty part costs nothing."""
    truth = np.zeros((4000, 6000), bool)
    truth[2000:2300, 3000:3300] = True
    start = time.process_time()
    assert metrics.boundary_f(np.roll(truth, 9, 0), truth) == 1
    assert time.process_time() - start < 0.5
