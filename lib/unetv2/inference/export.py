"""A model as one file that runs without this library: ONNX, or PyTorch's own program (.pt2).

`unetv2 export RUN_DIR --output model.onnx` exports a trained run. Before the file gets its name it
is loaded again (ONNX by onnxruntime) and compared with the PyTorch model on images of two sizes.
"""

import argparse
import copy
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..common import env, files
from ..common.errors import unknown
from . import load
from .infer import normalisation

__all__ = ["META", "Exported", "export"]

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
META = "unetv2"  # the name of the metadata in either file
AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}


class Exported(NamedTuple):
    """What `export` wrote."""

    path: Path
    free: tuple[str, ...]  # the axes of the image that may change: batch, (depth,) height, width
    difference: float  # the largest to PyTorch's output, relative to its largest absolute value


def export(
    model: nn.Module,
    path: str | Path,
    format: Literal["onnx", "torch"] = "onnx",
    size: int | Sequence[int] = 256,
    in_channels: int | None = None,
    name: str | None = None,
    tolerance: float = 1e-4,
) -> Exported:
    """Write `model` to `path`, in eval mode and float32; a file that is there is replaced.

    The model itself is left as it is. The input "image" is (N, in_channels, H, W), normalised as in
    training; the output "logits" (N, classes, H, W), with an auxiliary head also "labels". H and W
    may be any multiple of 32 (of 16, 8, ... if `size` is none of 32) from 64 on, or from 128 where
    a model needs that. A model that needs its sides as numbers, as some transformers do, gives a
    file for `size` alone, one that needs its batch as a number a file for two images. The metadata
    "unetv2" of the file, in JSON, holds `name`, `size`, `classes`, `free` (see `Exported`), and
    `mean` and `std` of the normalisation.

    Args:
        model: any of `networks.create_model`, pruned or not, in 2-D and 3-D, or one's own.
        size: side or sides of the image that the file is checked at; the second ones are larger
            where they may be.
        in_channels: default: what the model's `config` says, else 3.
        name: of the model, for messages and the metadata; default: its class.
        tolerance: the largest `Exported.difference` that is no error.

    Raises:
        ValueError: unknown format; `path` is a folder; a model that cannot take `size`, that the
            format cannot express, or that computes something else when exported. Names model,
            format and reason. No file is left.
        OSError: the file cannot be written.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    config, name = getattr(model, "config", {}), name or type(model).__name__
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder: name a file in it, as {path / name}{FORMATS[format]}"
        )
    channels, size = (
        in_channels or config.get("in_channels", 3),
        _sides(size, config.get("dims", 2)),
    )
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    try:
        classes = _tensors(model(torch.zeros(1, channels, *size)))[0].shape[1]
    except (RuntimeError, ValueError, AssertionError) as error:
        image = f"{channels} x {_by(size)}"
        raise ValueError(f"{name} fails on an image of {image}: {_reason(error)}") from error
    mean, std = normalisation(model)
    meta = {"name": name, "size": size, "classes": classes, "mean": mean, "std": std}
    axes = AXES[len(size)]
    with files.atomic(path) as temporary, _quiet():
        for free, least in (
            (("batch", *axes), 64),
            (("batch", *axes), 128),
            (("batch",), 0),
            ((), 0),
        ):
            try:
                program = _capture(model, channels, size, free, least)
                write = {"onnx": _onnx, "torch": _torch}[format]
                run = write(program, temporary, json.dumps(meta | {"free": free}))
                difference = max(_differences(model, run, channels, size, free))
                if not difference <= tolerance:
                    text = f"its output differs from PyTorch's by {difference:.1e}, relative"
                    raise ValueError(text)
                break
            except OSError:
                raise
            except Exception as error:  # an exporter may stumble in any way
                if not free:
                    text = f"{name} cannot be exported to {format}: {_reason(error)}"
                    raise ValueError(text) from error
    return Exported(path, free, difference)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log of the exporters: after an attempt that fails comes another, or an error."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)


def _sides(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (size,) * dims if isinstance(size, int) else tuple(size)


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _tensors(output: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of a model as a tuple: its logits, and the labels of an auxiliary head."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _capture(
    model: nn.Module, channels: int, size: tuple[int, ...], free: tuple[str, ...], least: int
) -> ExportedProgram:
    """torch.export's program with the axes of `free` as symbols, sides of at least `least`."""
    step = math.gcd(32, *size)
    dynamic = {0: Dim("batch")} if free else {}
    dynamic |= {i: step * Dim(axis, min=least // step) for i, axis in enumerate(free[1:], 2)}
    sides = (
        [least + 32 * i for i, _ in enumerate(size)] if free[1:] else size
    )  # none may stand for another
    return torch.export.export(
        model, (torch.zeros(2, channels, *sides),), dynamic_shapes=(dynamic,)
    )


def _onnx(program: ExportedProgram, path: Path, meta: str) -> Callable[[Tensor], list[Tensor]]:
    """Write ONNX; returns a function that runs the file."""
    import onnxruntime

    (image,) = program.example_inputs[0]
    outputs = ["logits", "labels"][: len(program.graph_signature.user_outputs)]
    onnx = torch.onnx.export(
        program, (image,), input_names=["image"], output_names=outputs, dynamo=True, verbose=False
    )
    onnx.model.metadata_props[META] = meta
    onnx.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {"image": x.numpy()})]


def _torch(program: ExportedProgram, path: Path, meta: str) -> Callable[[Tensor], Sequence[Tensor]]:
    """Write .pt2; returns a function that runs the file."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={META: meta})
    path.write_bytes(buffer.getvalue())
    loaded = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return lambda x: _tensors(loaded(x))


def _differences(
    model: nn.Module, run: Callable, channels: int, size: tuple[int, ...], free: tuple[str, ...]
):
    """The difference of each output, for an image of `size` and for three larger ones if may be."""
    generator = torch.Generator().manual_seed(0)
    larger = [side + 32 * i for i, side in enumerate(size, 1)] if free[1:] else size
    for n, sides in ((1, size), (3, larger)) if free else ((2, size),):
        image = torch.randn(n, channels, *sides, generator=generator)
        for ours, theirs in zip(run(image), _tensors(model(image)), strict=True):
            yield ((ours - theirs).abs().max() / theirs.abs().max()).item()


def main(argv: Sequence[str] | None = None) -> None:
    """The command `unetv2 export`."""
    parser = argparse.ArgumentParser(
        prog="unetv2 export", description="Export a trained run to one file."
    )
    parser.add_argument("run_dir", help="folder that unetv2 train wrote, or published weights")
    parser.add_argument(
        "--format", choices=list(FORMATS), help="default: by the ending of --output, else onnx"
    )
    parser.add_argument(
        "--output",
        help="file, replaced if it is there (default: model.onnx or model.pt2 in RUN_DIR; of "
        "published weights NAME.onnx or NAME.pt2 here)",
    )
    args = parser.parse_args(argv)
    try:
        path = Path(args.output or _beside(load.find_run(args.run_dir), args.format or "onnx"))
        format = {ending: format for format, ending in FORMATS.items()}.get(
            path.suffix.lower(), args.format
        )
        if not format or args.format not in (None, format):
            raise ValueError(
                f"{path} and --format do not agree: it ends in .onnx for onnx, in .pt2 for torch"
            )
        model, params = load.load_run(args.run_dir)
        done = export(
            model, path, format, params.image_size, name=f"{params.model} on {params.encoder}"
        )
    except KeyboardInterrupt:
        raise SystemExit("interrupted; no file was written") from None
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    free = ", ".join(done.free) or "nothing"
    print(
        f"{done.path}: equal to PyTorch within {done.difference:.1e} (relative); may change: {free}"
    )


def _beside(run: Path, format: str) -> Path:
    """The file that is written where none is named: published weights stay as they are."""
    if run.name in load.published() and run.parent == env.path(load.WEIGHTS):
        return Path(f"{run.name}{FORMATS[format]}")
    return run / f"model{FORMATS[format]}"
