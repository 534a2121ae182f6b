"""`fit` trains a model and leaves `log.csv` and `model.safetensors` in the run folder.

The weights are those of the epoch with the best validation Dice. Everything random in epoch e
(order, augmentation, dropout) depends on (seed, e) alone, so a run that was killed goes on from its
last whole epoch to the same weights, bit for bit on a CPU, as one that was not.

Several processes, over Accelerate: `torchrun --nproc-per-node 2 -m unetv2 train ...` shares each
batch between them (`batch_size` is that of the whole step). Order and augmentation, batch
normalisation and the sums of the losses are those of the whole batch, so the weights are those of
one process. What differs: the draws of dropout and drop path, which each process makes for its own
images, and the rounding of sums. Only the first process writes.
"""

import errno
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import TorchDynamoPlugin
from safetensors.torch import save
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader
from tqdm.auto import tqdm

from .. import data, networks
from ..common import env, files
from ..common.params import RunParams
from ..evaluation import metrics
from ..evaluation.identity import TRAINING_VERSION, deciding, identity
from ..inference.infer import labels, normalisation, predict
from ..inference.load import load_weights
from . import losses
from .processes import whole_batch_norm
from .recipes import RECIPES, Recipe

__all__ = ["accelerator_for", "explained", "fit", "same_run"]

NO_MEMORY = (  # in the message of a RuntimeError
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MemoryError in DataLoader worker",  # NumPy's own: it cannot be raised anew as what it was
    "killed by signal: Killed",  # a loader's worker, by the system
    "killed by signal: Bus error",  # shared memory is full
)
LOOK = 16  # steps between two looks at the loss: each waits until a GPU has done all it was given


def fit(
    model: nn.Module, seg: data.SegData, params: RunParams, run_dir: str | Path | None = None
) -> dict:
    """Train `model` on `seg.train`, or go on where a killed run stopped; it ends as its best self.

    An epoch is one pass over the training part, or `params.steps_per_epoch` batches, which go
    through it again and again in a new order. With `params.audit` the test Dice of each epoch is
    logged; no decision uses it, and readers' own folders are never audited.

    Args:
        model: in train mode one tensor of logits or a list of them, the evaluated one first.
        run_dir: run folder; default `params.output_dir`.

    Returns:
        dict: `best_epoch` (from 1), `val_dice` (protocol per_image), `history` (rows of log.csv).

    Raises:
        ValueError: the model refuses the image size, a batch cannot be shared, another run or a
            corrupt file is there.
        OSError: the run folder cannot be written to or its disk is too full; both before training.
        RuntimeError: the device or precision asked for is not there.
        FloatingPointError: the loss or the validation logits are not finite; the best weights stay.
        MemoryError: the batch does not fit.
    """
    run_dir, recipe = env.path(run_dir or params.output_dir), RECIPES[params.recipe]
    accelerator = accelerator_for(params)
    same_run(run_dir, params, seg.fingerprint)
    with explained(params, [], run_dir):
        _try_size(model, params)
    if accelerator.is_main_process:
        _begin(run_dir, model, seg, params)
    if not len(seg.val) or len(seg.train) < accelerator.num_processes:
        sizes = f"{len(seg.train)} training and {len(seg.val)} validation images"
        raise ValueError(f"{seg.name}: {sizes} are not enough")
    criterion = losses.make(params.recipe, seg.logit_channels)
    lr = params.lr or recipe.lr
    history: list[dict] = []
    with explained(params, history, run_dir):
        if params.channels_last:
            model.to(memory_format=torch.channels_last)
        net, optimizer = accelerator.prepare(model, _optimizer(recipe, model, lr))
        history += _resume(run_dir, accelerator, model, optimizer, seg.logit_channels)
    size, batches, train = _training_part(model, seg, params, accelerator.num_processes)
    steps = recipe.steps(batches)
    bar = tqdm(
        total=steps * params.epochs,
        initial=steps * len(history),
        unit="step",
        desc=params.model,
        # tqdm's notebook bar ignores the variable
        disable=not accelerator.is_main_process or bool(os.environ.get("TQDM_DISABLE")),
    )
    with bar, whole_batch_norm(), explained(params, history, run_dir):
        for epoch in range(len(history), params.epochs):
            start, dice = time.perf_counter(), history[-1]["val_dice"] if history else 0.0
            values, unread = [], []  # of the loss: numbers, and tensors that may still be computed
            loader = _loader(train, epoch, size, batches, params, accelerator)
            net.train()
            for step, (image, mask) in enumerate(
                _scaled(loader, recipe, accelerator.device, (params.seed, epoch))
            ):
                rate = lr * recipe.share((epoch + step / steps) / params.epochs)
                factors = (1.0, recipe.encoder_rate)
                for group, factor in zip(optimizer.param_groups, factors, strict=False):
                    group["lr"] = rate * factor
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
                    _check_finite(values, epoch)
                    bar.set_postfix_str(f"loss {values[-1]:.3f}, Dice {dice:.3f}", refresh=False)
                bar.update()
            dice, iou = _validate(accelerator, model, seg, params)
            if not np.isfinite(dice):
                raise FloatingPointError(
                    f"the validation logits are not finite after epoch {epoch + 1}"
                )
            mean = torch.tensor(np.mean(values), device=accelerator.device).float()
            mean = accelerator.reduce(mean, "mean").item()
            row = {"epoch": epoch + 1, "loss": mean, "val_dice": dice, "val_iou": iou, "lr": rate}
            if params.audit and not params.dataset.startswith("folder:"):
                row["test_dice"] = _audit(accelerator, model, seg, params)
            history.append({**row, "seconds": time.perf_counter() - start})
            if accelerator.is_main_process:
                _save(run_dir, accelerator, model, optimizer, history, seg.logit_channels)
                if bar.disable:
                    text = f"loss {mean:.4f}  Dice {dice:.4f} (val, per_image)"
                    print(f"epoch {epoch + 1}/{params.epochs}  {text}", flush=True)
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(net, keep_fp32_wrapper=False, keep_torch_compile=False)
    load_weights(model, run_dir / "model.safetensors")
    best = max(history, key=lambda row: row["val_dice"])
    return {"best_epoch": best["epoch"], "val_dice": best["val_dice"], "history": history}


def accelerator_for(params: RunParams) -> Accelerator:
    """An Accelerator for the precision, device and processes asked for.

    Raises:
        RuntimeError: the device is not there or does not compute in this precision.
        ValueError: the batch cannot be shared by the processes.
    """
    if params.device != "cpu" and torch.cuda.is_available():
        # "cuda" is this process's own GPU from here on: the checks below try no other
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    device = env.device(params.device)
    env.check_precision(device, params.precision)
    # a notebook may train several times, each in its own way
    AcceleratorState._reset_state(reset_partial_state=True)
    # heads and layers that nothing uses would stop plain DDP; finding them at every step costs time
    kwargs = [DistributedDataParallelKwargs(static_graph=True)]
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    plugin = None
    if params.compile:
        problem = env.compile_problem(device.type)
        if several:
            problem = "several processes share their batch normalisation, which it cannot see"
        if not problem:  # a graph for each of the scales
            plugin = TorchDynamoPlugin("inductor", dynamic=False)
        elif int(os.environ.get("RANK", 0)) == 0:
            print(f"compile is left out: {problem}", flush=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=params.precision,
        kwargs_handlers=kwargs,
        dynamo_plugin=plugin,
    )
    if params.batch_size % accelerator.num_processes:
        count = f"the {accelerator.num_processes} processes"
        raise ValueError(f"batch_size={params.batch_size} is no multiple of {count}")
    return accelerator


def same_run(run_dir: Path, params: RunParams, fingerprint: str) -> None:
    """ValueError if the folder holds a finished epoch of a run of another identity; it says why."""
    finished = any((run_dir / name).is_file() for name in ("resume.pt", "metrics.json"))
    if not finished:
        return
    if not (run_dir / "params.json").is_file():
        cure = "restore it, choose another output_dir or delete the folder"
        raise ValueError(f"{run_dir} holds a run without params.json, whose is unknown; {cure}")
    old = _read(run_dir / "identity.json")
    if old.get("identity") == identity(params, fingerprint):
        return
    defaults, asked = RunParams().model_dump(), deciding(params)
    there = {**defaults, **_read(run_dir / "params.json")}
    # of `there` what decides: the fields that this version knows, folders by their name
    known = {key: value for key, value in there.items() if key in defaults}
    there = deciding(RunParams.model_construct(**known))
    differ = [
        f"{key}: {there.get(key, defaults[key])!r} there, {asked.get(key, defaults[key])!r} asked"
        for key in sorted(there | asked)
        if there.get(key) != asked.get(key)
    ]
    if old.get("fingerprint") != fingerprint:
        differ.append("other images, masks or split")
    if old.get("training_version") != TRAINING_VERSION:
        differ.append("another version of the training code")
    why = "; ".join(differ) or "another source of the skip"
    raise ValueError(f"{run_dir} holds another run ({why}); choose another output_dir or delete it")


def _read(path: Path) -> dict:
    return files.read_json(path) if path.is_file() else {}


def _begin(run_dir: Path, model: nn.Module, seg: data.SegData, params: RunParams) -> None:
    """Write what the run is; OSError if the folder cannot be written to or has no room for it."""
    who = {"identity": identity(params, seg.fingerprint), "fingerprint": seg.fingerprint}
    files.write_json(run_dir / "params.json", params.model_dump())
    files.write_json(run_dir / "identity.json", {**who, "training_version": TRAINING_VERSION})
    # best weights and resume state (x 3), each old and new
    need = 32 * sum(p.numel() for p in model.parameters())
    if (free := shutil.disk_usage(run_dir).free) < need:
        room = f"{free >> 20} MiB free and the run needs {need >> 20}"
        raise OSError(f"{run_dir} has {room}; make room there")


def _try_size(model: nn.Module, params: RunParams) -> None:
    """One forward pass, so that an encoder that cannot take the image size says so at once."""
    s = params.image_size
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, s, s, device=next(model.parameters()).device))
    except (RuntimeError, ValueError, AssertionError) as error:
        if _out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        own = networks.has_own_encoder(params.model)
        name = params.model if own else f"{params.model} on {params.encoder}"
        hint = f"try {s // 32 * 32} or {s // 32 * 32 + 32}"
        raise ValueError(f"image_size={s} cannot be used with {name} ({reason}); {hint}") from error


def _optimizer(recipe: Recipe, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters of the model.

    One group, or the encoder's apart, second, where the recipe gives it a rate of its own.
    """
    options = {"lr": lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.momentum is None:
        options["betas"] = recipe.betas
    else:
        options |= {"momentum": recipe.momentum, "nesterov": True}
    groups, encoder = [list(model.parameters())], getattr(model, "encoder", None)
    if recipe.encoder_rate != 1 and encoder is not None:
        inside = set(encoder.parameters())
        groups = [[p for p in groups[0] if p not in inside], list(encoder.parameters())]
    groups = [{"params": group} for group in groups]
    return getattr(torch.optim, recipe.optimizer)(groups, **options)


def _training_part(model: nn.Module, seg: data.SegData, params: RunParams, processes: int):
    """Images of a step, over all processes; batches of an epoch; a dataset per pass in an epoch."""
    size = min(params.batch_size, len(seg.train) // processes * processes)
    batches = params.steps_per_epoch or len(seg.train) // size
    mean, std = normalisation(model)
    passes = -(-batches * size // len(seg.train))
    options = {"binary": seg.logit_channels == 1, "mean": mean, "std": std}
    options["colour_exchange"] = RECIPES[params.recipe].colour_exchange
    part = partial(data.TorchSplit, seg.train, params.augment, params.seed, **options)
    return size, batches, [part() for _ in range(passes)]


def _loader(
    train: Sequence[data.TorchSplit],
    epoch: int,
    size: int,
    batches: int,
    params: RunParams,
    accelerator: Accelerator,
) -> DataLoader:
    """This process's share of each batch of epoch `epoch`.

    Each pass over the training part has its own order and augmentation; images beyond the last
    batch of an epoch wait for the next one.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    rng, n = np.random.default_rng([params.seed, epoch]), len(train[0])
    for k, one in enumerate(train):
        one.set_epoch(epoch * len(train) + k)
    order = np.concatenate([k * n + rng.permutation(n) for k in range(len(train))])
    steps = [order[i * size + rank : (i + 1) * size : world].tolist() for i in range(batches)]
    seed = np.random.SeedSequence([params.seed, epoch, rank]).generate_state(1)
    torch.manual_seed(int(seed[0]))  # dropout
    return DataLoader(
        ConcatDataset(train),
        batch_sampler=steps,
        num_workers=params.workers,
        pin_memory=accelerator.device.type == "cuda",
    )


def _scaled(loader: DataLoader, recipe: Recipe, device: torch.device, seed: Sequence[int]):
    """Each batch on `device` at each of the recipe's scales, or at one that is drawn.

    Resized masks are soft, as in U-Net v2's released code; where a scale is drawn they are hard, as
    in SANet's.
    """
    rng = np.random.default_rng([*seed, 1])  # the same draws in every process
    for batch in loader:
        image, mask = (batch[key].to(device, non_blocking=True) for key in ("image", "mask"))
        drawn = recipe.chances and [rng.choice(recipe.scales, p=recipe.chances)]
        for scale in drawn or recipe.scales:
            size = (max(32, round(image.shape[-1] * scale / 32) * 32),) * 2
            pair = (image, mask)
            if scale != 1 and drawn:
                pair = (F.interpolate(image, size, mode="bilinear"), _nearest(mask, size))
            elif scale != 1:
                pair = (F.interpolate(x, size, mode="bilinear", align_corners=True) for x in pair)
            yield tuple(pair)


def _nearest(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A mask (N, 1, H, W) of floats or (N, H, W) of class ids at `size`."""
    if mask.ndim == 4:
        return F.interpolate(mask, size)
    return F.interpolate(mask[:, None].float(), size)[:, 0].long()


def _check_finite(values: list[float], epoch: int) -> None:
    """FloatingPointError at the first loss of the epoch that is not a finite number."""
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values)))
        raise FloatingPointError(f"the loss is {values[bad]} in epoch {epoch + 1}, step {bad + 1}")


@contextmanager
def explained(params: RunParams, history: list[dict], run_dir: Path):
    """Say what a training that ran out of memory or of finite numbers can do, and what it kept."""
    try:
        yield
    except FloatingPointError as error:
        best = max(history, key=lambda row: row["val_dice"], default=None)
        kept = "no epoch was finished"
        if best:
            kept = f"the weights of epoch {best['epoch']} are intact in {run_dir}"
        cure = "Try a lower lr, or precision 'no'"
        raise FloatingPointError(f"{error}: training stopped; {kept}. {cure}") from None
    except (MemoryError, RuntimeError, OSError) as error:
        if not _out_of_memory(error):
            raise
        sizes = f"batch_size (now {params.batch_size}) or image_size (now {params.image_size})"
        cure = f"lower {sizes}, or on a GPU set precision to 'bf16' or 'fp16'"
        if params.workers:
            cure += f"; each of the {params.workers} workers needs memory, too"
        raise MemoryError(f"out of memory: {cure}") from error


def _out_of_memory(error: Exception) -> bool:
    """Whether the memory of a GPU or of the machine did not suffice."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    known |= isinstance(error, OSError) and error.errno == errno.ENOMEM
    text = f"{error} {error.__cause__}"  # how a worker ended is in the cause
    return known or any(sign in text for sign in NO_MEMORY)


def _validate(
    accelerator: Accelerator, model: nn.Module, seg: data.SegData, params: RunParams
) -> list[float]:
    """Mean Dice and IoU per image of the validation split, shared by the processes.

    NaN where logits are not finite.
    """
    mine = range(accelerator.process_index, len(seg.val), accelerator.num_processes)
    sums = np.zeros(2)
    logits = predict(model, seg.val, params.batch_size, indices=mine)
    for i, z in zip(mine, logits, strict=True):
        counts = metrics.class_counts(labels(z), np.asarray(seg.val.masks[i]), len(seg.classes))
        sums += metrics.mean_dice_iou(counts) if np.isfinite(z).all() else np.nan
    total = accelerator.reduce(torch.tensor(sums, device=accelerator.device), "sum")
    return (total / len(seg.val)).tolist()


def _audit(
    accelerator: Accelerator, model: nn.Module, seg: data.SegData, params: RunParams
) -> float | None:
    """The test Dice, for the log alone; None in processes that write none."""
    from ..evaluation.score import test_dice

    return test_dice(model, seg, params.batch_size) if accelerator.is_main_process else None


def _save(run_dir, accelerator, model, optimizer, history, classes) -> None:
    """Resume checkpoint, then what follows from it: what a kill leaves out, `_resume` writes."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    scaler = accelerator.scaler.state_dict() if accelerator.scaler else {}
    state = {"history": history, "model": weights, "scaler": scaler}
    state["optimizer"] = optimizer.state_dict()
    with files.atomic(run_dir / "resume.pt") as temporary:
        torch.save(state, temporary)
    _write_best(run_dir, weights, history, classes)


def _write_best(run_dir: Path, weights: dict, history: list[dict], classes: int) -> None:
    """`model.safetensors`, if `weights`, of the last epoch, are the best so far; `log.csv`."""
    if history[-1] is max(history, key=lambda row: row["val_dice"]):
        with files.atomic(run_dir / "model.safetensors") as temporary:
            temporary.write_bytes(save(weights, metadata={"classes": str(classes)}))
    files.write_text(run_dir / "log.csv", pd.DataFrame(history).to_csv(index=False))


def _resume(run_dir, accelerator, model, optimizer, classes) -> list[dict]:
    """Load the checkpoint of a killed run, if there is one, and return the rows of its epochs."""
    path = run_dir / "resume.pt"
    if not path.is_file():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        history = state["history"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(state["scaler"])
    except Exception as error:  # on noise the reader may stumble in any way
        if _out_of_memory(error) or "CUDA error" in str(error):  # the checkpoint is good
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        cure = "delete it to train again"
        raise ValueError(f"the resume checkpoint {path} is corrupt ({reason}); {cure}") from None
    if accelerator.is_main_process:
        _write_best(run_dir, state["model"], history, classes)
    return history
