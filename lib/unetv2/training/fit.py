"""Training one model on one dataset with one seed, from a notebook or as `python -m unetv2.train`.

`fit` trains and leaves `log.csv` and `model.safetensors` (the epoch with the best validation Dice) in the run folder;
`run` also loads, builds and evaluates, and writes `metrics.json` last: with it the run is done and is never repeated.
Everything random in epoch e (order, augmentation, dropout) depends on (seed, e) alone, so a run that was killed goes on
from its last whole epoch to the same weights, bit for bit on a CPU, as one that was not.

Over Accelerate: `torchrun --nproc-per-node 2 -m unetv2.train ...` shares each batch between the processes (`batch_size`
is that of the whole step, so the recipe does not change with the hardware); only the first one writes.
"""

import argparse
import ast
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import TorchDynamoPlugin, broadcast, set_seed
from safetensors.torch import save
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from . import data, env, evaluate, files, losses, metrics, models
from .params import RunParams

__all__ = ["RECIPES", "Recipe", "fit", "main", "run"]

LOOK = 16  # steps between two looks at the loss: each waits until a GPU has done all that it was given
PLACES = {"output_dir", "data_dir", "weights_dir", "device", "workers"}  # where, not what: may change on resume


@dataclass(frozen=True)
class Recipe:
    """How to train: optimiser, schedule, clipping, scales; the loss is `losses.make` of the recipe's name."""

    optimizer: type[torch.optim.Optimizer]  # betas .9/.999
    lr: float
    weight_decay: float
    poly: float  # learning rate = lr (1 - progress) ** poly; 0: constant
    clip_norm: float | None  # largest norm of the whole gradient
    clip_value: float | None  # largest absolute value of each element of the gradient
    scales: tuple[float, ...]  # one optimiser step per batch and scale, sizes rounded to a multiple of 32


RECIPES = {
    # The paper's text: Adam 1e-3, betas .9/.999, poly 0.9. It says nothing of clipping: 12 is its ISIC trainer's. The
    # rate falls at every step (the trainer's: at every epoch), which matters only in runs of few epochs.
    "paper": Recipe(torch.optim.Adam, 1e-3, 0.0, 0.9, 12.0, None, (1.0,)),
    # The released polyp code as it runs: its decay (x 0.1 every 200 epochs) is never reached in 99. Deviations: the
    # best epoch is chosen on validation (there: on the test sets); images are augmented unless augment="none".
    "released": Recipe(torch.optim.AdamW, 1e-4, 1e-4, 0.0, None, 0.5, (0.75, 1.0, 1.25)),
    # UNet++ (TMI): Adam 3e-4, constant; the hybrid loss, 1 per head. Its code has 1e-3 and an L2 penalty instead, and
    # both stop early on validation: here the best epoch is kept, and the epochs are given.
    "unetpp": Recipe(torch.optim.Adam, 3e-4, 0.0, 0.0, None, None, (1.0,)),
}


def fit(model: nn.Module, seg: data.SegData, params: RunParams, run_dir: str | Path | None = None) -> dict:
    """Train `model` on `seg.train`, or go on where a killed run stopped; it ends up holding its best weights.

    Args:
        model: in train mode one tensor of logits or a list of them, finest first (deep supervision).
        run_dir: run folder; default `params.output_dir`.

    Returns:
        dict: `best_epoch` (from 1), `val_dice` (protocol per_image), `history` (the rows of log.csv).

    Raises:
        ValueError: the model refuses the image size, a batch cannot be shared, another run or a corrupt file is there.
        OSError: the run folder cannot be written to or its disk is too full; both before training starts.
        RuntimeError: the device or precision asked for is not there.
        FloatingPointError: the loss or the validation logits are not finite; the best weights so far stay.
        MemoryError: the batch does not fit.
    """
    run_dir, recipe, accelerator = env.path(run_dir or params.output_dir), RECIPES[params.recipe], _accelerator(params)
    _same_run(run_dir, params)
    _try_size(model, params)
    if accelerator.is_main_process:
        files.write_json(run_dir / "params.json", params.model_dump())
        need = 32 * sum(p.numel() for p in model.parameters())  # best weights and resume state (x 3), each old and new
        if (free := shutil.disk_usage(run_dir).free) < need:
            raise OSError(f"{run_dir} has {free >> 20} MiB free and the run needs {need >> 20}; make room there")
    if not len(seg.val) or len(seg.train) < accelerator.num_processes:
        raise ValueError(f"{seg.name}: {len(seg.train)} training and {len(seg.val)} validation images are not enough")
    criterion = losses.make(params.recipe, seg.logit_channels)
    lr = params.lr or recipe.lr
    if params.channels_last:
        model.to(memory_format=torch.channels_last)
    if params.compile and accelerator.is_main_process and (problem := env.compile_problem(accelerator.device.type)):
        print(f"compile is left out: {problem}", flush=True)
    options = {"lr": lr, "betas": (0.9, 0.999), "weight_decay": recipe.weight_decay, "fused": True}
    optimizer = recipe.optimizer(model.parameters(), **options)
    net, optimizer = accelerator.prepare(model, optimizer)
    history = _resume(run_dir, model, optimizer, accelerator)
    train = data.TorchSplit(seg.train, params.augment, params.seed, binary=seg.logit_channels == 1)
    steps = max(1, len(train) // params.batch_size) * len(recipe.scales)
    quiet = not accelerator.is_main_process or bool(os.environ.get("TQDM_DISABLE"))  # tqdm's notebook bar ignores it
    bar = tqdm(total=steps * params.epochs, initial=steps * len(history), unit="step", desc=params.model, disable=quiet)
    with bar, _explained(params, history, run_dir):
        for epoch in range(len(history), params.epochs):
            start, dice = time.perf_counter(), history[-1]["val_dice"] if history else 0.0
            values, unread = [], []  # of the loss: numbers, and tensors that may still be computed
            loader = _loader(train, epoch, params, accelerator)
            net.train()
            for step, (image, mask) in enumerate(_scaled(loader, recipe.scales, accelerator.device)):
                rate = lr * (1 - (epoch + step / steps) / params.epochs) ** recipe.poly
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad()
                loss = criterion(net(image), mask)
                unread.append(loss.detach())
                accelerator.backward(loss)
                if recipe.clip_norm:
                    accelerator.clip_grad_norm_(net.parameters(), recipe.clip_norm)
                if recipe.clip_value:
                    accelerator.clip_grad_value_(net.parameters(), recipe.clip_value)
                optimizer.step()
                if len(unread) == LOOK or step + 1 == steps:
                    values += torch.stack(unread).tolist()
                    unread.clear()
                    if not np.isfinite(values).all():
                        bad = int(np.argmin(np.isfinite(values)))
                        raise FloatingPointError(f"the loss is {values[bad]} in epoch {epoch + 1}, step {bad + 1}")
                    bar.set_postfix_str(f"loss {values[-1]:.3f}, Dice {dice:.3f}", refresh=False)
                bar.update()
            for buffer in model.buffers():  # running means differ between processes; the first one's are saved
                broadcast(buffer)
            dice, iou = _validate(accelerator, model, seg, params)
            if not np.isfinite(dice):
                raise FloatingPointError(f"the validation logits are not finite after epoch {epoch + 1}")
            mean = accelerator.reduce(torch.tensor(np.mean(values), device=accelerator.device).float(), "mean").item()
            row = {"epoch": epoch + 1, "loss": mean, "val_dice": dice, "val_iou": iou, "lr": rate}
            history.append({**row, "seconds": time.perf_counter() - start})
            if accelerator.is_main_process:
                _save(run_dir, accelerator, model, optimizer, history, params.epochs, seg.logit_channels)
                if bar.disable:
                    text = f"epoch {epoch + 1}/{params.epochs}  loss {mean:.4f}  Dice {dice:.4f} (val, per_image)"
                    print(text, flush=True)
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(net, keep_fp32_wrapper=False, keep_torch_compile=False)
    evaluate.load_weights(model, run_dir / "model.safetensors")
    best = max(history, key=lambda row: row["val_dice"])
    return {"best_epoch": best["epoch"], "val_dice": best["val_dice"], "history": history}


def run(params: RunParams) -> dict:
    """One run from parameters to `metrics.json`; returns what is in that file, at once if the run was done before.

    Raises:
        As `fit`, `data.load` and `models.build`.
    """
    run_dir = env.path(params.output_dir)
    _same_run(run_dir, params)
    if (run_dir / "metrics.json").is_file():
        return json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    writes = _accelerator(params).is_main_process
    seg = data.load(params.dataset, params.data_dir, params.image_size, limit=params.limit)
    set_seed(params.seed)
    pretrained = {"encoder_weights": params.encoder_weights, "weights_dir": env.weights_dir(params.weights_dir)}
    model = models.build(**params.network, **pretrained, classes=seg.logit_channels)
    fitted = fit(model, seg, params)
    result = {key: getattr(params, key) for key in ("dataset", "model", "seed")}
    result |= {"best_epoch": fitted["best_epoch"], "val_dice": fitted["val_dice"]}
    result |= {"params": sum(p.numel() for p in model.parameters()), "protocol": metrics.PROTOCOLS}
    if writes:
        with _explained(params, fitted["history"], run_dir):
            per_image, result["tests"] = evaluate.score(model, seg, params.batch_size)
        files.write_text(run_dir / "per_image.csv", per_image.to_csv(index=False))
        files.write_json(run_dir / "env.json", env.describe())
        files.write_json(run_dir / "metrics.json", result)
        (run_dir / "resume.pt").unlink()
    return result


def _accelerator(params: RunParams) -> Accelerator:
    """An Accelerator for the precision, device and processes asked for; an error where they are not to be had."""
    device = env.device(params.device)
    env.check_precision(device, params.precision)
    cpu = device.type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)  # a notebook may train several times, each in its own way
    # a layer of an encoder that nothing uses would stop plain DDP; finding such at every step costs time and a warning
    kwargs = [DistributedDataParallelKwargs(static_graph=True)]
    compiles = params.compile and not env.compile_problem("cpu" if cpu else "cuda")
    plugin = TorchDynamoPlugin("inductor", dynamic=False) if compiles else None  # a graph for each of the scales
    accelerator = Accelerator(cpu=cpu, mixed_precision=params.precision, kwargs_handlers=kwargs, dynamo_plugin=plugin)
    if params.batch_size % accelerator.num_processes:
        raise ValueError(f"batch_size={params.batch_size} is no multiple of the {accelerator.num_processes} processes")
    return accelerator


def _same_run(run_dir: Path, params: RunParams) -> None:
    """ValueError if the folder holds a finished epoch of a run with other parameters."""
    path, new = run_dir / "params.json", params.model_dump()
    if not path.is_file() or not any((run_dir / name).is_file() for name in ("resume.pt", "metrics.json")):
        return
    old = RunParams().model_dump() | json.loads(path.read_text(encoding="utf-8"))  # what is newer than the run: default
    differ = [f"{k}: {old.get(k)!r} there, {new[k]!r} asked" for k in new if k not in PLACES and old.get(k) != new[k]]
    if differ:
        raise ValueError(f"{run_dir} holds another run ({'; '.join(differ)}); choose another output_dir or delete it")


def _try_size(model: nn.Module, params: RunParams) -> None:
    """One forward pass, so that an encoder that cannot take the image size says so before training."""
    s = params.image_size
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, s, s, device=next(model.parameters()).device))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = f"({str(error).strip().splitlines()[0][:200]}); try {s // 32 * 32} or {s // 32 * 32 + 32}"
        name = params.model if params.model.startswith("tmi-") else f"{params.model} on {params.encoder}"
        raise ValueError(f"image_size={s} cannot be used with {name} {reason}") from error


def _loader(train: data.TorchSplit, epoch: int, params: RunParams, accelerator: Accelerator) -> DataLoader:
    """This process's share of each batch of epoch `epoch`; images beyond the last whole batch wait for the next one."""
    rank, world = accelerator.process_index, accelerator.num_processes
    size = min(params.batch_size, len(train) // world * world)
    train.set_epoch(epoch)
    order = np.random.default_rng([params.seed, epoch]).permutation(len(train)).tolist()
    batches = [order[i + rank : i + size : world] for i in range(0, len(order) - size + 1, size)]
    torch.manual_seed(int(np.random.SeedSequence([params.seed, epoch, rank]).generate_state(1)[0]))  # dropout
    cuda = accelerator.device.type == "cuda"
    return DataLoader(train, batch_sampler=batches, num_workers=params.workers, pin_memory=cuda)


def _scaled(loader: DataLoader, scales: Sequence[float], device: torch.device):
    """Each batch on `device` at each scale; resized masks are soft, as in the released code."""
    for batch in loader:
        image, mask = (batch[key].to(device, non_blocking=True) for key in ("image", "mask"))
        for scale in scales:
            size = (max(32, round(image.shape[-1] * scale / 32) * 32),) * 2
            pair = (image, mask)
            if scale != 1:
                pair = (F.interpolate(x, size, mode="bilinear", align_corners=True) for x in pair)
            yield tuple(pair)


@contextmanager
def _explained(params: RunParams, history: list[dict], run_dir: Path):
    """Say what a training that ran out of memory, or left the finite numbers, can do about it and what it has kept."""
    try:
        yield
    except FloatingPointError as error:
        best = max(history, key=lambda row: row["val_dice"], default=None)
        kept = f"the weights of epoch {best['epoch']} are intact in {run_dir}" if best else "no epoch was finished"
        raise FloatingPointError(f"{error}: training stopped; {kept}. Try a lower lr, or precision 'no'") from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        sizes = f"batch_size (now {params.batch_size}) or image_size (now {params.image_size})"
        raise MemoryError(f"out of memory: lower {sizes}, or on a GPU set precision to 'bf16' or 'fp16'") from error


def _validate(accelerator: Accelerator, model: nn.Module, seg: data.SegData, params: RunParams) -> list[float]:
    """Mean Dice and IoU per image of the validation split, shared by the processes; NaN where logits are not finite."""
    mine = range(accelerator.process_index, len(seg.val), accelerator.num_processes)
    sums = np.zeros(2)
    for i, logits in zip(mine, evaluate.predict(model, seg.val, params.batch_size, indices=mine), strict=True):
        counts = evaluate.confusion(logits, seg.val.masks[i], len(seg.classes))
        sums += np.mean([metrics.dice_iou(*c) for c in counts], axis=0) if np.isfinite(logits).all() else np.nan
    total = accelerator.reduce(torch.tensor(sums, device=accelerator.device), "sum")
    return (total / len(seg.val)).tolist()


def _save(run_dir, accelerator, model, optimizer, history, epochs, classes) -> None:
    """The best weights, the resume checkpoint, log.csv: each whole or not at all, in an order that a kill may cut."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if history[-1] is max(history, key=lambda row: row["val_dice"]):
        with files.atomic(run_dir / "model.safetensors") as temporary:
            temporary.write_bytes(save(weights, metadata={"classes": str(classes)}))
    state = {"history": history}
    if len(history) < epochs:
        scaler = accelerator.scaler.state_dict() if accelerator.scaler else {}
        state |= {"model": weights, "optimizer": optimizer.state_dict(), "scaler": scaler}
    with files.atomic(run_dir / "resume.pt") as temporary:
        torch.save(state, temporary)
    files.write_text(run_dir / "log.csv", pd.DataFrame(history).to_csv(index=False))


def _resume(run_dir: Path, model: nn.Module, optimizer, accelerator: Accelerator) -> list[dict]:
    """Load the checkpoint of a killed run, if there is one, and return the rows of its epochs."""
    path = run_dir / "resume.pt"
    if not path.is_file():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if "model" in state:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            if accelerator.scaler:
                accelerator.scaler.load_state_dict(state["scaler"])
        return state["history"]
    except Exception as error:  # on noise the reader may stumble in any way
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"the resume checkpoint {path} is corrupt ({reason}); delete it to train again") from None


def _parser() -> argparse.ArgumentParser:
    """Command line options from the fields of RunParams: names, types, choices, defaults and help."""
    parser = argparse.ArgumentParser(
        prog="python -m unetv2.train",
        description="Train and evaluate one model on one dataset with one seed. The same command resumes a killed run.",
        epilog="example: python -m unetv2.train --dataset kvasir --data DIR --model unetv2 --encoder-weights imagenet "
        "--image-size 352 --epochs 100; on two GPUs: torchrun --nproc-per-node 2 -m unetv2.train ...",
    )
    for name, field in RunParams.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        choices = [c for kind in kinds if get_origin(kind) is Literal for c in get_args(kind)]
        flags = {"data_dir": ["--data"], "weights_dir": ["--weights"]}.get(name, []) + [f"--{name.replace('_', '-')}"]
        text = f"{field.description or ' | '.join(choices)} (default: {field.default})"
        kind = str if str in kinds else _literal
        parser.add_argument(*flags, dest=name, type=kind, default=argparse.SUPPRESS, help=text)
    return parser


def _literal(text: str):
    """A number or None as such, anything else as the text that it is: RunParams says what is wrong with it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(argv: Sequence[str] | None = None) -> None:
    """The command `python -m unetv2.train`."""
    given = vars(_parser().parse_args(argv))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so that no temporary file is left
    try:
        params = RunParams.make(given)
        result = run(params)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on from the last whole epoch") from None
    except (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from None
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"run folder: {params.output_dir}  best epoch {result['best_epoch']}")
        evaluate.print_summary(result["tests"])


if __name__ == "__main__":
    main()
