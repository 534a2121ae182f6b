"""What a model costs: parameters, multiply-adds (MACs), memory and time, for every model by the same rule.

`table` is the fair comparison, and `python -m unetv2.efficiency --help` its command. `counters` shows a model as each
of the counters behind Table 4 of the U-Net v2 paper (arXiv:2311.17791) sees it, `as_released` in the form that they met
there, `groups` where in a model arithmetic, traffic and time are.
"""

import argparse
import copy
import importlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.module_tracker import ModuleTracker

from ..common import env, files
from ..networks import registry as models
from ..common.errors import unknown
from ..skips.sdi import SDI

__all__ = [
    "as_released", "counters", "groups", "kept", "macs", "measure", "peaks", "readable", "saved", "spread", "table",
    "turns", "unfused",
]  # fmt: skip

Precision = Literal["no", "fp16", "bf16"]
WARM_UP = 3  # turns before the clock counts
PROTOCOL = (
    "One process, models in turns, each turn in the reverse order of the last, {warm_up} turns of warm-up, then "
    "{repeats}; synchronised; median with 10th and 90th percentile. MACs: torch.utils.flop_counter / 2, one image, "
    "eval mode (matrix products, convolutions, attention; nothing elementwise). Kept: bytes that autograd holds for "
    "backward in train mode for one image more (three less two), each storage once. Peak: the most bytes that are "
    "allocated at one time, weights, activations and in training gradients, no optimizer, at batch {batch} (at least "
    "2). Ratios are to the first model in the same turn. Absolute times on a GPU alone. Latency: batch 1; throughput: "
    "batch {batch}; input 3 x size x size, random weights, precision {precision}"
)


def macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of one forward pass in eval mode: what torch's flop counter counts, halved. Keeps the mode."""
    with _mode(model, train=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def kept(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass in train mode keeps for backward, each storage once, without the parameters."""
    with _mode(model, train=True):
        return saved(lambda: model(x), model.parameters())


def saved(forward: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd saves in `forward()`, each storage once, without those of `parameters`."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    storages = {}

    def note(t: Tensor) -> None:  # not `t`: an output that its own graph holds is never freed
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()  # held, so that no address is used twice

    with torch.autograd.graph.saved_tensors_hooks(note, lambda _: None):
        result = forward()
    del result
    return sum(s.nbytes() for address, s in storages.items() if address not in own)


def measure(model: str | nn.Module, image_size: int = 256, **options: Any) -> dict[str, Any]:
    """The row of one model, by name or a module: `table` with one model and one size; `options` are its own."""
    named = model if isinstance(model, str) else {type(model).__name__: model}
    return table(named, image_size, **options)[0]


def table(
    chosen: str | Sequence[str] | Mapping[str, nn.Module],
    image_sizes: int | Sequence[int] = 256,
    *,
    encoder: str = "resnet18",
    batch: int = 8,
    device: str = "auto",
    precision: Precision = "no",
    repeats: int = 20,
) -> list[dict[str, Any]]:
    """A row for each size and model; the first model is the reference of all ratios. `PROTOCOL` says how it measures.

    Args:
        chosen: names of `models.names()`, built with `encoder` and random weights, or modules of your own by name. A
            module takes (N, 3, H, W) in [0, 1) and is left on `device`; mode, weights and gradients as they were.
        batch: of the throughput.
        precision: "no" is float32; "fp16", "bf16" run in autocast, as training does.
        repeats: turns that are timed; 0: count only.

    Returns:
        keys model, image_size, params, macs, kept_bytes, peak_inference_bytes, peak_training_bytes; latency_ratio,
        throughput_ratio, and on a GPU latency_ms, images_per_s. Times are [median, p10, p90].

    Raises:
        ValueError: an unknown name; a model that fails at a size; an input too large for memory; a number below 1
            (`repeats`: 0).
        RuntimeError: "cuda" without a working GPU; a precision that the device does not have.
    """
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    sizes = [image_sizes] if isinstance(image_sizes, int) else list(image_sizes)
    if min(batch, *sizes) < 1 or repeats < 0:
        raise ValueError(f"batch={batch} and image_sizes={sizes} must be at least 1, repeats={repeats} at least 0")
    place = env.device(device)
    env.check_precision(place, precision)
    if not isinstance(chosen, Mapping):
        chosen = [chosen] if isinstance(chosen, str) else chosen
        if not all(isinstance(name, str) for name in chosen):
            raise ValueError("models that are not of the registry need a name each: {'mine': module}")
        chosen = {name: models.build(name, encoder) for name in chosen}
    rows = []
    for size in sizes:
        shape = (max(batch, 2), 3, size, size)  # batch normalisation trains on two
        try:
            x = torch.rand(shape, device=place)
        except RuntimeError as error:
            raise ValueError(f"an input of {shape} does not fit into memory; lower the image size or batch") from error
        with torch.autocast(place.type, {"fp16": torch.float16}.get(precision, torch.bfloat16), precision != "no"):
            block = [_count(name, model, x) for name, model in chosen.items()]
            if repeats:
                _time(block, chosen, x[:batch], repeats)
        rows += block
    return rows


def _count(name: str, model: nn.Module, x: Tensor) -> dict[str, Any]:
    """What needs no clock; the first pass, so a model that does not fit the input fails here."""
    row = {"model": name, "image_size": x.shape[-1], "params": sum(p.numel() for p in model.parameters())}
    two, three = (torch.rand(n, *x.shape[1:], device=x.device) for n in (2, 3))
    try:
        model.to(x.device)
        per_image = kept(model, three) - kept(model, two)  # what does not grow is no image's: autocast's weights
        return row | {"macs": macs(model, x[:1]), "kept_bytes": per_image} | _peaks_of(model, x)
    except Exception as error:  # whatever a user's own module raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{name} fails on an input of {tuple(x.shape)}: {reason}. It has to take (N, 3, H, W) in float32; many "
            "models want an image size that is a multiple of 32, and memory a small batch"
        ) from error


def _peaks_of(model: nn.Module, x: Tensor) -> dict[str, int]:
    """The most bytes held at one time: the weights, and what a pass over `x` allocates, whatever else lies there."""
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))

    def infer() -> None:
        with torch.no_grad():
            model(x)

    def train() -> None:
        if means := [t.float().mean() for t in _tensors(model(x)) if t.requires_grad]:
            sum(means).backward()

    found = {}
    for phase, work in (("inference", infer), ("training", train)):
        with _mode(model, train=work is train):
            found[f"peak_{phase}_bytes"] = weights + _allocated(work, x.device)
    return found


def _allocated(work: Callable[[], None], device: torch.device) -> int:
    """The most bytes that PyTorch holds at one time during `work()`, without what it held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's own messages: none
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with tempfile.TemporaryDirectory() as folder:
        recorded.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    held = sorted(
        (e["ts"], e["args"]["Total Allocated"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"
    )
    return max(total for _, total, _ in held) - (held[0][1] - held[0][2])


def _time(rows: list[dict[str, Any]], built: Mapping[str, nn.Module], x: Tensor, repeats: int) -> None:
    """Add the times of all models at one size to their rows."""
    with ExitStack() as stack, torch.no_grad():
        for model in built.values():
            stack.enter_context(_mode(model, train=False))
        one, many = (turns([partial(model, b) for model in built.values()], repeats, x.device) for b in (x[:1], x))
    for row, t_one, t_many in zip(rows, one, many, strict=True):
        row |= {"latency_ratio": spread(t_one / one[0]), "throughput_ratio": spread(many[0] / t_many)}
        if x.is_cuda:
            row |= {"latency_ms": spread(1e3 * t_one), "images_per_s": spread(len(x) / t_many)}


def turns(calls: Sequence[Callable[[], Any]], repeats: int, device: torch.device) -> np.ndarray:
    """Seconds of each call in each turn, (calls, repeats): interleaved, so that a busy moment hits all alike.

    Each turn goes in the reverse order of the last; some turns of warm-up, not counted, come first. Waits for a GPU.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = np.zeros((len(calls), WARM_UP + repeats))
    for turn in range(WARM_UP + repeats):
        for k in sorted(range(len(calls)), reverse=turn % 2 == 1):
            wait()
            start = time.perf_counter()
            calls[k]()
            wait()
            seconds[k, turn] = time.perf_counter() - start
    return seconds[:, WARM_UP:]


def spread(values: np.ndarray) -> list[float]:
    """[median, 10th, 90th percentile], as all times are given."""
    return [float(np.percentile(values, q)) for q in (50, 10, 90)]


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a model returns: a tensor, or any nest of lists, tuples and dicts."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple, dict)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


@contextmanager
def _mode(model: nn.Module, train: bool) -> Iterator[None]:
    """Train or eval mode inside, without gradients; afterwards modes, gradients and running statistics as they were."""
    modes = {m: m.training for m in model.modules()}
    gradients = {p: p.grad for p in model.parameters()}
    buffers = {b: b.clone() for b in model.buffers()} if train else {}
    model.train(train).zero_grad()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, gradient in gradients.items():
            p.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def readable(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`rows` of `table` for the eye: M, G, MB (1e6 bytes), and medians with [p10, p90]. Empty columns are left out."""
    scales = {"params": ("parameters, M", 1e6), "macs": ("MACs = FLOPs/2, G", 1e9), "kept_bytes": ("kept, MB", 1e6)}
    scales |= {f"peak_{p}_bytes": (f"peak {p}, MB", 1e6) for p in ("inference", "training")}
    times = {"latency_ratio": "latency, ratio", "throughput_ratio": "throughput, ratio"}
    times |= {"latency_ms": "latency, ms", "images_per_s": "images/s"}
    lines = {}
    for row in rows:
        line = {title: f"{row[key] / unit:.2f}" for key, (title, unit) in scales.items() if key in row}
        timed = {title: "{:.2f} [{:.2f}, {:.2f}]".format(*row[key]) for key, title in times.items() if key in row}
        lines[row["image_size"], row["model"]] = line | timed
    return pd.DataFrame(lines).T.rename_axis(["size", "model"])


# What the counters of Table 4 see


class _AsReleased(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for sdi in (m for m in self.model.modules() if isinstance(m, SDI)):
            sdi.forward = sdi.equations

    def forward(self, x: Tensor) -> Any:
        self.model.training = True  # of this one module: all heads run, every layer keeps its mode
        return self.model(x)


def as_released(model: models.UnetV2) -> nn.Module:
    """A copy of a U-Net v2 that computes the same in the released code's steps, because counters react to those.

    Eqs. 2-4 with a resize and a convolution module for every pair of levels (`SDI.equations`), and all heads in eval
    mode too.
    """
    return _AsReleased(model)


@contextmanager
def unfused(model: nn.Module) -> Iterator[nn.Module]:
    """`model` with timm's attention as two matrix products and a softmax, inside the `with`; the same result."""
    flags = {m: m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")}
    try:
        for module in flags:
            module.fused_attn = False
        yield model
    finally:
        for module, flag in flags.items():
            module.fused_attn = flag


def counters(model: nn.Module, x: Tensor) -> dict[str, float]:
    """`model` on `x` as four counters see it. Operations are "FLOPs" as each prints them; torch's are FLOPs / 2.

    torch, fvcore_eval, fvcore_train, thop: operations; thop_params: the parameters that it counts. fvcore gets unfused
        attention, since it skips the fused one; thop its own rule of nn.LayerNorm for timm's subclass, which it skips.
    info_params_bytes, info_outputs_bytes, info_input_bytes: the three terms of torchinfo's memory estimate.

    Raises:
        ModuleNotFoundError: fvcore, thop or torchinfo is not installed (requirements.txt has them).
    """
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # fvcore scripts functions at its import
        import thop
        import torchinfo
        from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    found: dict[str, float] = {"torch": macs(model, x)}
    with unfused(model):
        for mode in ("eval", "train"):
            with _mode(model, mode == "train"), torch.no_grad():
                found[f"fvcore_{mode}"] = FlopCountAnalysis(model, x).tracer_warnings("none").total()
    rules = thop.profile.__globals__["register_hooks"]
    norms = {type(m): rules[nn.LayerNorm] for m in model.modules() if isinstance(m, nn.LayerNorm)}
    found["thop"], found["thop_params"] = thop.profile(copy.deepcopy(model), (x,), norms, verbose=False)
    info = torchinfo.summary(model, input_data=x, mode="eval", verbose=0)
    return found | {
        "info_params_bytes": info.total_param_bytes,
        "info_outputs_bytes": info.total_output_bytes,
        "info_input_bytes": info.total_input,
    }


# Where it goes


class _Traffic(TorchDispatchMode):
    """FLOPs, bytes read and written, and seconds of every operation, added up by the innermost group it runs in."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        super().__init__()
        self.names = sorted(names, key=len, reverse=True)
        self.wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.tracker, self.sums = ModuleTracker(), defaultdict(lambda: np.zeros(3))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.wait()
        start = time.perf_counter()
        result = func(*args, **kwargs)
        self.wait()
        elapsed = time.perf_counter() - start
        running = [f"{parent.partition('.')[2]}." for parent in self.tracker.parents]
        name = next((n for n in self.names if any(r.startswith(f"{n}.") for r in running)), "other")
        count = flop_registry.get(func._overloadpacket, lambda *_, **__: 0)
        moved = 0 if func.is_view else sum(t.numel() * t.element_size() for t in _tensors([args, kwargs, result]))
        self.sums[name] += count(*args, **kwargs, out_val=result), moved, elapsed
        return result


def groups(model: nn.Module, x: Tensor, names: Sequence[str], repeats: int = 5) -> pd.DataFrame:
    """A forward pass in eval mode by groups of layers: macs, bytes, intensity (FLOPs per byte), median seconds.

    `names`: submodules, as "encoder"; an operation counts for the innermost of them that it runs in, else for "other".
    Bytes: what each operation reads and writes, as if nothing stayed in a cache between two of them.

    Raises:
        ValueError: a name that the model does not have, no repeats.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    known, names = dict(model.named_modules()), [names] if isinstance(names, str) else names
    for name in names:
        if name not in known:
            raise unknown("group of layers", name, (n for n in known if n.count(".") < 2 and n))
    runs = []
    with _mode(model, train=False), torch.no_grad():
        for _ in range(1 + repeats):
            with (traffic := _Traffic(names, x.device)), traffic.tracker:
                model(x)
            runs.append(traffic.sums)
    rows = {}
    for name in [n for n in [*names, "other"] if n in traffic.sums]:
        flops, moved, seconds = np.median([run[name] for run in runs[1:]], axis=0)
        rows[name] = {"macs": flops / 2, "bytes": moved, "intensity": flops / max(moved, 1), "seconds": seconds}
    return pd.DataFrame(rows).T


def peaks(device: torch.device, size: int = 1024, megabytes: int = 128, repeats: int = 10) -> tuple[float, float]:
    """The roof of `device` in float32, measured: FLOP/s of a (size, size) matrix product, bytes/s of a large copy."""
    a, source = torch.rand(size, size, device=device), torch.rand(megabytes * 250_000, device=device)
    target = torch.empty_like(source)
    product, moved = turns([lambda: a @ a, lambda: target.copy_(source)], repeats, device)
    return 2 * size**3 / float(np.median(product)), 2 * 4 * source.numel() / float(np.median(moved))


def _module(spec: str) -> nn.Module:
    """The module that "package:factory" makes."""
    package, _, factory = spec.partition(":")
    try:
        made = getattr(importlib.import_module(package), factory)()
    except Exception as error:  # whatever a user's own code raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"--module {spec!r}: {reason}; give package:factory, a function without arguments") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"--module {spec!r} gives a {type(made).__name__}, not an nn.Module")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m unetv2.efficiency", description="What models cost, side by side.")
    parser.add_argument("--models", nargs="+", default=["unet", "unetpp", "unetv2", "smp-unet"], metavar="NAME")
    parser.add_argument("--module", nargs="+", default=[], metavar="PACKAGE:FACTORY", help="models of your own")
    parser.add_argument("--encoder", default="tu-pvt_v2_b2")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 352])
    parser.add_argument("--batch", type=int, default=8, help="of the throughput")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--repeats", type=int, default=20, help="timed turns; 0: count only")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    a = parser.parse_args(arguments)
    options = {"batch": a.batch, "device": a.device, "precision": a.precision, "repeats": a.repeats}
    try:
        if a.out and (a.out.is_dir() or any(folder.is_file() for folder in a.out.parents)):
            raise ValueError(f"--out {a.out} is a folder, or in a file: name a file to write")
        chosen = {name: models.build(name, a.encoder) for name in a.models} | {s: _module(s) for s in a.module}
        rows = table(chosen, a.sizes, **options)
        print(readable(rows).to_string())
        if a.out:
            own = f" --module {' '.join(a.module)}" if a.module else ""
            command = f"python -m unetv2.efficiency --models {' '.join(a.models)}{own} --encoder {a.encoder}"
            command += f" --sizes {' '.join(map(str, a.sizes))} --batch {a.batch} --device {a.device}"
            command += f" --precision {a.precision} --repeats {a.repeats} --out FILE"
            protocol = PROTOCOL.format(warm_up=WARM_UP, **options)
            files.write_result(a.out, command=command, protocol=protocol, encoder=a.encoder, rows=rows)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing was written") from None
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
