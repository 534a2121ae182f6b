"""Scores of a trained model on every test split, per image and in the three protocols of `unetv2.metrics`.

`python -m unetv2.evaluate RUN_DIR` scores a run again, `--dataset` scores it on another dataset (a model trained on
the polyps of one hospital, tested on another's).
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from . import data, env, files, metrics, models
from .params import RunParams

__all__ = [
    "confusion", "enlarge", "find_run", "foreground", "infer", "labels", "load_run", "load_weights", "predict",
    "print_summary", "score",
]  # fmt: skip


def infer(model: nn.Module, images: Iterable[np.ndarray], batch_size: int = 16, device=None) -> Iterator[np.ndarray]:
    """Logits, float32 (C, S, S), of each of `images`, uint8 (S, S, 3) RGB, in their order.

    Takes from `images` as it goes, a batch ahead, so that they may be a generator over more than memory holds. Runs in
    eval mode on `device` (default: where the model is) and leaves the model in the mode it had.
    """
    device, images = device or next(model.parameters()).device, iter(images)
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (data.MEAN, data.STD))
    training = model.training
    model.to(device).eval()
    try:
        while batch := list(islice(images, batch_size)):
            x = torch.from_numpy(np.stack(batch)).to(device).movedim(-1, 1).float() / 255
            with torch.inference_mode():
                logits = model((x - mean) / std)
            yield from logits.float().cpu().numpy()
    finally:
        model.train(training)


def predict(
    model: nn.Module, split: data.Split, batch_size: int = 16, device=None, indices: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """`infer` on the images of `split`, in its order or that of `indices`."""
    indices = range(len(split)) if indices is None else indices
    return infer(model, (split.images[i] for i in indices), batch_size, device)


def labels(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Class ids uint8 (h, w) of logits (C, h, w): p >= `threshold` for one channel, the largest for several."""
    cut = np.float32(np.log(threshold / (1 - threshold)))
    return (logits[0] >= cut if len(logits) == 1 else logits.argmax(0)).astype(np.uint8)


def enlarge(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Logits (C, h, w) at `size` = (height, width), bilinear."""
    if logits.shape[1:] == tuple(size):
        return logits
    return np.stack([cv2.resize(z, size[::-1], interpolation=cv2.INTER_LINEAR) for z in logits])


def foreground(logits: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Probabilities (K, h, w) of the foreground classes; logits brought to `size` = (h, w) first."""
    logits = enlarge(logits, size) if size else logits
    if len(logits) == 1:
        return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    e = np.exp(logits - logits.max(0))
    return e[1:] / e.sum(0)


def confusion(logits: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(TP, FP, FN) of each foreground class 1..`classes` of one image: int64 (classes, 3)."""
    if len(logits) != (1 if classes == 1 else classes + 1):
        raise ValueError(f"a model with {len(logits)} logit channels cannot be scored on {classes} foreground classes")
    pred, truth = labels(logits), np.asarray(truth)
    return np.array([metrics.counts(pred == k, truth == k) for k in range(1, classes + 1)])


def score(model: nn.Module, seg: data.SegData, batch_size: int = 16, device=None) -> tuple[pd.DataFrame, dict]:
    """Score `model` on all test splits of `seg`; `device` as in `predict`.

    Returns:
        per_image: a row per image: `test`, `id`; `dice`, `iou`, `mae` (share of wrong pixels), `boundary_f` (protocol
            `per_image`); `dice_256`, `iou_256`, `mae_soft` (`pranet`); `size`, the objects' share of the image.
        summary: `{test: {protocol: {"dice", "iou", "mae", ...}}}`, fractions; `pranet` also `dice_max`, `iou_max`.
    """
    rows, summary, classes = [], {}, range(1, len(seg.classes) + 1)
    for test, split in seg.tests.items():
        pooled, curves, new = np.zeros((len(classes), 3), np.int64), np.zeros((2, 256)), []
        for i, logits in enumerate(predict(model, split, batch_size, device)):
            truth, native = np.asarray(split.masks[i]), split.native_mask(i)
            counts = confusion(logits, truth, len(classes))
            maps = [metrics.eight_bit(p) for p in foreground(logits, native.shape)]
            curve = np.mean([metrics.threshold_scores(m, native == k) for k, m in enumerate(maps, 1)], axis=0)
            pooled, curves = pooled + counts, curves + curve / len(split)
            dice, iou = np.mean([metrics.dice_iou(*c) for c in counts], axis=0)
            pred = labels(logits)
            new.append({
                "test": test, "id": split.ids[i], "dice": dice, "iou": iou,
                "mae": counts[:, 1:].sum() / (len(counts) * truth.size),
                "boundary_f": np.mean([metrics.boundary_f(pred == k, truth == k) for k in classes]),
                "dice_256": curve[0].mean(), "iou_256": curve[1].mean(),
                "mae_soft": np.mean([np.abs(m / 255 - (native == k)).mean() for k, m in enumerate(maps, 1)]),
                "size": np.count_nonzero(truth) / truth.size,
            })  # fmt: skip
        mean = pd.DataFrame(new).mean(numeric_only=True)
        dice, iou = np.mean([metrics.dice_iou(*c) for c in pooled], axis=0)
        soft = {"dice": mean.dice_256, "iou": mean.iou_256, "mae": mean.mae_soft}
        summary[test] = {
            "per_image": mean[["dice", "iou", "mae", "boundary_f"]].to_dict(),
            "global": {"dice": float(dice), "iou": float(iou), "mae": mean.mae},
            "pranet": soft | {"dice_max": float(curves[0].max()), "iou_max": float(curves[1].max())},
        }
        rows += new
    return pd.DataFrame(rows), summary


def find_run(run: str | Path) -> Path:
    """The absolute path of `run`: as the working directory has it, else, where that has none, as the repository has."""
    return Path(run).absolute() if Path(run).exists() else env.path(run)


def load_weights(model: nn.Module, path: str | Path, name: str | None = None) -> nn.Module:
    """Read a run's safetensors file into `model`; nothing in it is ever executed.

    Args:
        name: what the error calls `model`; default: its class.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or its weights are of another model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}: train the run first (python -m unetv2.train)")
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete its run folder and train again") from None
    except RuntimeError:  # it lists every tensor
        wanted = name or type(model).__name__
        raise ValueError(f"{path} holds the weights of another model than {wanted}; train that one again") from None
    return model


def load_run(run_dir: str | Path) -> tuple[nn.Module, RunParams]:
    """The trained model of a run folder (see `find_run`), in eval mode on the CPU, and the run's parameters.

    Raises:
        FileNotFoundError: no such folder, or no trained run in it.
        ValueError: params.json is damaged or names no model of this library; and as `load_weights`.
    """
    folder = find_run(run_dir)
    source, path = folder / "params.json", folder / "model.safetensors"
    if not source.is_file() or not path.is_file():
        raise FileNotFoundError(f"{folder} holds no trained run (params.json and model.safetensors)")
    try:
        with safe_open(path, "pt") as file:
            classes = int(file.metadata()["classes"])
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete its run folder and train again") from None
    try:
        params = RunParams.make(json.loads(source.read_text(encoding="utf-8")))
        model = models.build(**params.network, classes=classes)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} describes no run ({reason}); restore it, or delete the folder and train") from None
    if params.channels_last:
        model.to(memory_format=torch.channels_last)
    name = ", ".join(f"{key} {value}" for key, value in params.network.items())
    return load_weights(model, path, f"that of params.json ({name})").eval(), params


def print_summary(summary: dict) -> None:
    """A line per test split and protocol, the protocol named; MAE as a fraction."""
    for test, protocols in summary.items():
        for protocol, s in protocols.items():
            edge = f"  boundary F {s['boundary_f']:.2%}" if "boundary_f" in s else ""
            print(f"{test:12s} {protocol:10s} Dice {s['dice']:7.2%}  IoU {s['iou']:7.2%}  MAE {s['mae']:.4f}{edge}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m unetv2.evaluate`."""
    parser = argparse.ArgumentParser(prog="python -m unetv2.evaluate", description="Score a trained run again.")
    parser.add_argument("run_dir", help="folder that unetv2.train wrote")
    parser.add_argument("--dataset", help="score on this dataset (default: the run's own)")
    parser.add_argument("--data", help="folder of datasets (default: the run's, else DATA_DIR)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--output", help="folder for per_image.csv and metrics.json (default: print only)")
    args = parser.parse_args(argv)
    try:
        model, params = load_run(args.run_dir)
        name = args.dataset or params.dataset
        seg = data.load(name, args.data or params.data_dir, params.image_size, limit=params.limit)
        per_image, summary = score(model, seg, params.batch_size, env.device(args.device))
        if args.output:
            files.write_text(Path(args.output) / "per_image.csv", per_image.to_csv(index=False))
            files.write_json(Path(args.output) / "metrics.json", {"dataset": name, "tests": summary})
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    print("\n".join(f"{protocol}: {text}" for protocol, text in metrics.PROTOCOLS.items()))
    print_summary(summary)


if __name__ == "__main__":
    main()
