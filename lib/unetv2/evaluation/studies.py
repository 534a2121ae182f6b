"""What is measured at the end of a training, because it needs the weights.

All of it at the network's size. The record of a run keeps it, so that the comparing notebooks need
neither weights nor a training. To keep the cost low, skips, flips and corruptions are measured on
at most `AT_MOST` images of a test split, evenly spaced in its order.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..inference.infer import foreground, infer, labels, predict
from . import metrics
from .score import confusion

if TYPE_CHECKING:
    from ..data import SegData, Split

__all__ = ["AT_MOST", "corruptions", "flips", "heads", "measure", "skip_of", "skips", "some"]
__all__ += ["thresholds", "zero"]

AT_MOST = 130
THRESHOLDS = tuple(k / 10 for k in range(1, 10))
FLIPS = ((), (0,), (1,), (0, 1))  # the axes of (h, w) that are turned over


def measure(model: nn.Module, seg: "SegData", batch_size: int = 16) -> dict[str, Any]:
    """All studies that `model` and `seg` allow: `{study: what its function returns}`."""
    found = {
        "heads": heads(model, seg, batch_size),
        "skips": skips(model, seg, batch_size),
        "flips": flips(model, seg, batch_size),
        "thresholds": thresholds(model, seg, batch_size),
        "corruptions": corruptions(model, seg, batch_size),
    }
    return {name: study for name, study in found.items() if study}


def some(n: int) -> list[int]:
    """At most `AT_MOST` of `n` indices, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, AT_MOST)).round().astype(int)).tolist()


class _Sums:
    """Dice per image and the pooled counts of a pass over images."""

    def __init__(self, classes: int) -> None:
        self.ids = range(1, classes + 1)
        self.dice, self.pooled = [], np.zeros((classes, 3), np.int64)

    def add(self, pred: np.ndarray, truth: np.ndarray) -> None:
        counts = metrics.class_counts(pred, truth, len(self.ids))
        self.dice.append(metrics.mean_dice_iou(counts)[0])
        self.pooled += counts

    def boundary_f(self, pred: np.ndarray, truth: np.ndarray) -> float:
        return np.mean([metrics.boundary_f(pred == k, truth == k) for k in self.ids])


def _rows(passes: Iterable[_Sums]) -> dict[str, list]:
    """`dice`, the mean over images (protocol per_image), and `global`, pooled TP, FP, FN a class.

    A row for each pass.
    """
    passes = list(passes)
    return {
        "dice": [round(float(np.mean(each.dice)), 5) for each in passes],
        "global": [each.pooled.tolist() for each in passes],
    }


def _sums(logits: Iterable[np.ndarray], split: "Split", indices, classes: int) -> _Sums:
    sums = _Sums(classes)
    for i, z in zip(indices, logits, strict=True):
        sums.add(labels(z), np.asarray(split.masks[i]))
    return sums


def heads(model: nn.Module, seg: "SegData", batch_size: int = 16) -> dict[str, Any]:
    """Each head of UNet++ alone, which to the bit is what the pruned model gives.

    For a model with `columns` and `output` (several heads, see networks.family.Heads).

    Returns:
        `columns`, the heads deepest first; `parameters` of the model pruned to each; `val`, see
        `_rows`, a row for each head; `tests`, {test: TP and FP of each head, class and image}:
        lists (heads, classes, 2, images). FN is that of TP + FN, which all heads share.
    """
    columns = getattr(model, "columns", ())
    if len(columns) < 2:
        return {}
    classes, before = len(seg.classes), model.output
    val, tests = [], {test: [] for test in seg.tests}
    try:
        for model.output in columns:
            logits = predict(model, seg.val, batch_size)
            val.append(_sums(logits, seg.val, range(len(seg.val)), classes))
            for test, split in seg.tests.items():
                pairs = zip(predict(model, split, batch_size), split.masks, strict=True)
                counts = np.array([confusion(z, m, classes)[:, :2] for z, m in pairs])
                tests[test].append(counts.transpose(1, 2, 0).tolist())
    finally:
        model.output = before
    pruned = [sum(p.numel() for p in model.prune(j).parameters()) for j in columns]
    return {"columns": list(columns), "parameters": pruned, "val": _rows(val), "tests": tests}


def skips(model: nn.Module, seg: "SegData", batch_size: int = 16) -> dict[str, Any]:
    """Each map that the skip hands on set to zero, one at a time, finest first.

    For a model with a submodule called `skip` that returns a list of maps.

    Returns:
        {test: `images`, how many; `levels`, None (nothing is zero) and the indices of the maps in
        the skip's list; `dice`, `global`, see `_rows`; `boundary_f`, the mean at the network's
        size}, a row for each of `levels`.
    """
    skip = skip_of(model)
    if skip is None:
        return {}
    classes, found = len(seg.classes), {}
    for test, split in seg.tests.items():
        use = some(len(split))
        levels, passes, edges = [None, *_maps(model, skip, split)], [], []
        for level in levels:
            sums, each = _Sums(classes), []
            with zero(skip, [] if level is None else [level]):
                for i, z in zip(use, predict(model, split, batch_size, use), strict=True):
                    pred, truth = labels(z), np.asarray(split.masks[i])
                    sums.add(pred, truth)
                    each.append(sums.boundary_f(pred, truth))
            passes.append(sums)
            edges.append(round(float(np.mean(each)), 5))
        found[test] = {"images": len(use), "levels": levels, **_rows(passes), "boundary_f": edges}
    return found


def skip_of(model: nn.Module) -> nn.Module | None:
    """The submodule of `model` called `skip`; None where it has none."""
    named = model.named_modules()
    return next((m for name, m in named if name.rpartition(".")[2] == "skip"), None)


def _maps(model: nn.Module, skip: nn.Module, split: "Split") -> list[int]:
    """The indices of the maps in the list that `skip` returns, without those of no channels."""
    found: list[int] = []

    def look(module, inputs, output):
        found.extend(i for i, map in enumerate(output) if map.shape[1])

    handle = skip.register_forward_hook(look)
    try:
        next(predict(model, split, 1, [0]))
    finally:
        handle.remove()
    return found


@contextmanager
def zero(skip: nn.Module, levels: Collection[int], before: bool = False) -> Iterator[None]:
    """Within the block, maps `levels` of the list that `skip` returns are zero.

    Args:
        before: of the list that it receives, in place of the one that it returns.
    """

    def cut(maps):
        return [torch.zeros_like(x) if i in levels else x for i, x in enumerate(maps)]

    def received(module, inputs):
        return (cut(inputs[0]),)

    def returned(module, inputs, output):
        return cut(output)

    if before:
        handle = skip.register_forward_pre_hook(received)
    else:
        handle = skip.register_forward_hook(returned)
    try:
        yield
    finally:
        handle.remove()


def flips(model: nn.Module, seg: "SegData", batch_size: int = 16) -> dict[str, Any]:
    """The mean probability over the image and its three flips, turned back.

    Returns:
        {test: `images`, how many; `passes`, 1 and 4; `dice`, `global`, see `_rows`}, a row for
        each of `passes`.
    """
    classes, found = len(seg.classes), {}
    for test, split in seg.tests.items():
        use, plain, mean = some(len(split)), _Sums(classes), _Sums(classes)
        runs = (_flipped(model, split, use, batch_size, axes) for axes in FLIPS)
        for i, maps in zip(use, zip(*runs, strict=True), strict=True):
            truth = np.asarray(split.masks[i])
            plain.add(_most_probable(maps[0]), truth)
            mean.add(_most_probable(np.mean(maps, axis=0)), truth)
        found[test] = {"images": len(use), "passes": [1, len(FLIPS)], **_rows((plain, mean))}
    return found


def _flipped(model, split, indices, batch_size, axes) -> Iterator[np.ndarray]:
    """Foreground probabilities (K, h, w) of images turned over along `axes`, turned back."""
    images = (np.flip(split.images[i], axes) for i in indices)
    for z in infer(model, images, batch_size):
        yield np.flip(foreground(z), [axis + 1 for axis in axes])


def _most_probable(maps: np.ndarray) -> np.ndarray:
    """Class ids of foreground probabilities (K, h, w): `labels`, from probabilities."""
    if len(maps) == 1:
        return (maps[0] >= 0.5).astype(np.uint8)
    return np.concatenate([1 - maps.sum(0, keepdims=True), maps]).argmax(0).astype(np.uint8)


def thresholds(model: nn.Module, seg: "SegData", batch_size: int = 16) -> dict[str, Any]:
    """Nine thresholds of the probability on the validation part and every test split; one class.

    Returns:
        {"val" or test: `thresholds`, `dice`, `global`, see `_rows`}, a row for each threshold.
    """
    if len(seg.classes) > 1:
        return {}
    found = {}
    for part, split in {"val": seg.val, **seg.tests}.items():
        passes = [_Sums(1) for _ in THRESHOLDS]
        for z, mask in zip(predict(model, split, batch_size), split.masks, strict=True):
            for threshold, sums in zip(THRESHOLDS, passes, strict=True):
                sums.add(labels(z, threshold), np.asarray(mask))
        found[part] = {"thresholds": list(THRESHOLDS), **_rows(passes)}
    return found


def corruptions(model: nn.Module, seg: "SegData", batch_size: int = 16) -> dict[str, Any]:
    """Images spoilt in five steps, in each of the ways of `data.CORRUPTIONS`.

    Returns:
        {test: `images`, how many; `steps`; `kinds`, {kind: `dice`, `global`, see `_rows`}}, a row
        for each step; step 0 is the image as it is, and the same for all kinds.
    """
    from ..data.corrupt import CORRUPTIONS, STEPS, corrupt

    classes, found = len(seg.classes), {}
    for test, split in seg.tests.items():
        use = some(len(split))
        plain = _sums(predict(model, split, batch_size, use), split, use, classes)
        kinds = {}
        for kind in CORRUPTIONS:
            passes = [plain]
            for step in STEPS:
                images = (corrupt(np.asarray(split.images[i]), kind, step) for i in use)
                passes.append(_sums(infer(model, images, batch_size), split, use, classes))
            kinds[kind] = _rows(passes)
        found[test] = {"images": len(use), "steps": [0, *STEPS], "kinds": kinds}
    return found
