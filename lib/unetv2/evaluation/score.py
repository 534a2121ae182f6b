"""Scores of a trained model on every test split, per image and in the protocols of `metrics`."""

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..inference.infer import enlarge, foreground, labels, predict
from . import metrics

if TYPE_CHECKING:
    import pandas as pd

    from ..data import SegData, Split

__all__ = [
    "confusion",
    "count_columns",
    "outside",
    "print_summary",
    "score",
    "score_tests",
    "test_dice",
]


def confusion(logits: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(TP, FP, FN) of each foreground class 1..`classes` of one image: int64 (classes, 3).

    Args:
        logits: (C, h, w), C = 1 for one class, else `classes` + 1.
        truth: class ids (h, w).

    Raises:
        ValueError: the model's channels do not fit the classes.
    """
    if len(logits) != (1 if classes == 1 else classes + 1):
        raise ValueError(
            f"a model with {len(logits)} logit channels cannot be scored on "
            f"{classes} foreground classes"
        )
    return metrics.class_counts(labels(logits), np.asarray(truth), classes)


def count_columns(classes: int, size: str = "net") -> list[str]:
    """The names of the count columns of `score`, class by class.

    `tp`, `fp`, `fn`, with `own_` before them for the counts at the mask's own size, and with the
    class's number behind them where there are several classes.
    """
    before = "own_" if size == "own" else ""
    behind = [""] if classes == 1 else [str(k) for k in range(1, classes + 1)]
    return [f"{before}{name}{k}" for k in behind for name in ("tp", "fp", "fn")]


def score(model: nn.Module, seg: "SegData", batch_size: int = 16) -> tuple["pd.DataFrame", dict]:
    """Score `model` on all test splits of `seg`, where the model is.

    Returns:
        per_image: a row per image: `test`, `id`, `group`; `dice`, `iou`, `mae` (share of wrong
            pixels), protocol `per_image`; `own_dice`, `own_iou`, `boundary_f` (`own`);
            `dice_256`, `iou_256`, `mae_soft` (`pranet`); `size`, the objects' share of the image;
            the counts of pixels, see `count_columns`.
        summary: `{test: {protocol: {"dice", "iou", "mae", ...}}}`, fractions; `own` also
            `boundary_f`, `pranet` also `dice_max`, `iou_max`.

    Raises:
        ValueError: the model has another number of classes than `seg`.
    """
    return score_tests(model, seg.tests, len(seg.classes), batch_size)


def score_tests(
    model: nn.Module, tests: dict[str, "Split"], classes: int, batch_size: int = 16
) -> tuple["pd.DataFrame", dict]:
    """`score` on these splits of so many foreground classes."""
    import pandas as pd

    tables, summary = [], {}
    for test, split in tests.items():
        table, summary[test] = _score_split(model, split, classes, batch_size)
        table.insert(0, "test", test)
        tables.append(table)
    return pd.concat(tables, ignore_index=True), summary


def _score_split(
    model: nn.Module, split: "Split", classes: int, batch_size: int
) -> tuple["pd.DataFrame", dict]:
    """The part of `score` that is one split's: a table without `test`, and `{protocol: ...}`."""
    import pandas as pd

    rows, pooled, curves = [], np.zeros((classes, 3), np.int64), np.zeros((2, 256))
    for i, logits in enumerate(predict(model, split, batch_size)):
        truth, own_truth = np.asarray(split.masks[i]), split.native_mask(i)
        counts = confusion(logits, truth, classes)
        large = enlarge(logits, own_truth.shape)
        own, edge = _own(labels(large), own_truth, classes)
        soft, curve = _pranet(foreground(large), own_truth)
        pooled, curves = pooled + counts, curves + curve / len(split)
        dice, iou = metrics.mean_dice_iou(counts)
        own_dice, own_iou = metrics.mean_dice_iou(own)
        row = {"id": split.ids[i], "group": split.groups[i], "dice": dice, "iou": iou}
        row["mae"] = counts[:, 1:].sum() / (classes * truth.size)
        row |= {"own_dice": own_dice, "own_iou": own_iou, "boundary_f": edge}
        row["own_mae"] = own[:, 1:].sum() / (classes * own_truth.size)
        row |= {"dice_256": curve[0].mean(), "iou_256": curve[1].mean(), "mae_soft": soft}
        row["size"] = np.count_nonzero(truth) / truth.size
        row |= dict(zip(count_columns(classes), counts.ravel().tolist(), strict=True))
        row |= dict(zip(count_columns(classes, "own"), own.ravel().tolist(), strict=True))
        rows.append(row)
    table = pd.DataFrame(rows)
    mean = table.mean(numeric_only=True).to_dict()
    (dice, iou), best = metrics.mean_dice_iou(pooled), curves.max(1).tolist()
    soft = {"dice": mean["dice_256"], "iou": mean["iou_256"], "mae": mean["mae_soft"]}
    own = {name: mean[f"own_{name}"] for name in ("dice", "iou", "mae")}
    return table, {
        "per_image": {name: mean[name] for name in ("dice", "iou", "mae")},
        "global": {"dice": dice, "iou": iou, "mae": mean["mae"]},
        "pranet": {**soft, "dice_max": best[0], "iou_max": best[1]},
        "own": {**own, "boundary_f": mean["boundary_f"]},
    }


def outside(
    name: str, data_dir: str | None, image_size: int, classes: int, seg: "SegData | None" = None
) -> tuple[dict[str, "Split"], int]:
    """The tests of another dataset, whole, and how many of its images were left out.

    Args:
        classes: of the run, foreground.
        seg: the data of the run's training; images of its training and validation parts are left
            out. None: none are.

    Raises:
        ValueError: another number of classes, or nothing is left; as `data.load_tests`.
        FileNotFoundError: the dataset is not there.
    """
    from ..data.dataset import load_tests
    from ..data.readers import SYNTHETIC, find

    synthetic = name.partition(":")[0] in SYNTHETIC
    found = 1 if synthetic else len(find(name, data_dir, tests_only=True).classes)
    if found != classes:
        raise ValueError(f"{name} has {found} foreground classes, and the run has {classes}")
    splits, excluded = load_tests(name, data_dir, image_size, exclude=seg)
    splits = {test: split for test, split in splits.items() if len(split)}
    if not splits:
        reason = f"all {excluded} images are in the training or validation part of this run"
        raise ValueError(f"nothing of {name} is left to score: {reason}")
    return splits, excluded


def _own(pred: np.ndarray, truth: np.ndarray, classes: int) -> tuple[np.ndarray, float]:
    """Counts (classes, 3) and boundary F of class ids at the mask's own size."""
    edges = [metrics.boundary_f(pred == k, truth == k) for k in range(1, classes + 1)]
    return metrics.class_counts(pred, truth, classes), float(np.mean(edges))


def _pranet(maps: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean absolute error, and Dice and IoU (2, 256), of probabilities (K, h, w)."""
    pairs = [(metrics.eight_bit(p), truth == k) for k, p in enumerate(maps, 1)]
    curve = np.mean([metrics.threshold_scores(map8, mask) for map8, mask in pairs], axis=0)
    return float(np.mean([np.abs(map8 / 255 - mask).mean() for map8, mask in pairs])), curve


def test_dice(model: nn.Module, seg: "SegData", batch_size: int = 16) -> float:
    """For audit: Dice (protocol per_image) on the test splits, the mean over splits.

    It goes into the log of a run that asks for it and is never used to choose anything.
    """
    means = []
    for split in seg.tests.values():
        pairs = zip(predict(model, split, batch_size), split.masks, strict=True)
        means.append(
            np.mean([metrics.mean_dice_iou(confusion(z, m, len(seg.classes)))[0] for z, m in pairs])
        )
    return float(np.mean(means))


def print_summary(summary: dict) -> None:
    """A line per test split and protocol, the protocol named; MAE as a fraction."""
    for test, protocols in summary.items():
        for protocol, s in protocols.items():
            edge = f"  boundary F {s['boundary_f']:.2%}" if "boundary_f" in s else ""
            scores = f"Dice {s['dice']:7.2%}  IoU {s['iou']:7.2%}  MAE {s['mae']:.4f}"
            print(f"{test:12s} {protocol:10s} {scores}{edge}")
