"""The fair comparison: every model by the same rule, in turns in one process."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from .. import networks
from ..common import env
from ..common.errors import unknown
from .clock import WARM_UP, spread, turns
from .count import macs, mode
from .memory import kept, peaks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PROTOCOL", "build", "measure", "readable", "table"]

Precision = Literal["no", "fp16", "bf16"]
PROTOCOL = (
    f"One process, models in turns, each turn in the reverse order of the last, {WARM_UP} turns of "
    "warm-up, then {repeats}; synchronised; median with 10th and 90th percentile. MACs: "
    "torch.utils.flop_counter / 2, one image, eval mode (matrix products, convolutions, attention; "
    "nothing elementwise). Each model has the heads that it is trained with. Kept: bytes that "
    "autograd holds for backward in train mode for one image more (three less two), each storage "
    "once. Peak: the most bytes that are allocated at one time, weights, activations and in "
    "training gradients, no optimizer, at batch {batch} (at least 2). Ratios are to the first "
    "model in the same turn. Absolute times on a GPU alone. Latency: batch 1; throughput: batch "
    "{batch}; input 3 x size x size, random weights, precision {precision}"
)


def measure(model: str | nn.Module, image_size: int = 256, **options: Any) -> dict[str, Any]:
    """The row of one model, by name or a module: `table` with one model and one size.

    `options` are those of `table`.
    """
    named = model if isinstance(model, str) else {type(model).__name__: model}
    return table(named, image_size, **options)[0]


def build(names: Iterable[str], encoder: str) -> dict[str, nn.Module]:
    """The networks of these names as they are trained, with random weights."""
    return {
        name: networks.create_model(name, encoder, deep_supervision=networks.supervised(name))
        for name in names
    }


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
    """A row for each size and model; the first model is the reference of all ratios.

    `PROTOCOL` says how it measures.

    Args:
        chosen: names of `networks.list_models()`, built with `encoder`, random weights and the
            heads that the name is trained with, or modules of your own by name. A module takes
            (N, 3, H, W) in [0, 1) and is left on `device`; its mode, weights and gradients stay.
        batch: of the throughput.
        precision: "no" is float32; "fp16", "bf16" run in autocast, as training does.
        repeats: turns that are timed; 0: count only.

    Returns:
        keys model, image_size, params, macs, kept_bytes, peak_inference_bytes, peak_training_bytes;
        latency_ratio, throughput_ratio, and on a GPU latency_ms, images_per_s. Times are
        [median, p10, p90].

    Raises:
        ValueError: an unknown name; a model that fails at a size; an input too large for memory; a
            number below 1 (`repeats`: 0).
        RuntimeError: "cuda" without a working GPU; a precision that the device does not have.
    """
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    sizes = [image_sizes] if isinstance(image_sizes, int) else list(image_sizes)
    if min(batch, *sizes) < 1 or repeats < 0:
        given = f"batch={batch} and image_sizes={sizes}"
        raise ValueError(f"{given} must be at least 1, repeats={repeats} at least 0")
    place = env.device(device)
    env.check_precision(place, precision)
    if not isinstance(chosen, Mapping):
        chosen = [chosen] if isinstance(chosen, str) else chosen
        if not all(isinstance(name, str) for name in chosen):
            raise ValueError(
                "models that are not of the registry need a name each: {'mine': module}"
            )
        chosen = build(chosen, encoder)
    if precision != "no":
        half = torch.float16 if precision == "fp16" else torch.bfloat16
        chosen = {name: _Lowered(model, half) for name, model in chosen.items()}
    rows = []
    for size in sizes:
        x = _input((max(batch, 2), 3, size, size), place)  # batch normalisation trains on two
        block = [_count(name, model, x) for name, model in chosen.items()]
        if repeats:
            _time(block, chosen, x[:batch], repeats)
        rows += block
    return rows


class _Lowered(nn.Module):
    """`model` in autocast to `half`, entered anew with each pass, as a training enters it.

    One autocast around several passes would keep the lowered weights from the first on: later
    passes would not pay for them.
    """

    def __init__(self, model: nn.Module, half: torch.dtype) -> None:
        super().__init__()
        self.model, self.half = model, half

    def forward(self, x: Tensor) -> Any:
        with torch.autocast(x.device.type, self.half):
            return self.model(x)


def _input(shape: tuple[int, ...], place: torch.device) -> Tensor:
    try:
        return torch.rand(shape, device=place)
    except RuntimeError as error:
        cure = "lower the image size or batch"
        raise ValueError(f"an input of {shape} does not fit into memory; {cure}") from error


def _count(name: str, model: nn.Module, x: Tensor) -> dict[str, Any]:
    """What needs no clock; the first pass, so a model that does not fit the input fails here."""
    params = sum(p.numel() for p in model.parameters())
    row = {"model": name, "image_size": x.shape[-1], "params": params}
    two, three = (torch.rand(n, *x.shape[1:], device=x.device) for n in (2, 3))
    try:
        model.to(x.device)
        # what does not grow is no image's: autocast's weights
        per_image = kept(model, three) - kept(model, two)
        return row | {"macs": macs(model, x[:1]), "kept_bytes": per_image} | peaks(model, x)
    except Exception as error:  # whatever a user's own module raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        needs = "It has to take (N, 3, H, W) in float32; many models want an image size that is a "
        needs += "multiple of 32, and memory a small batch"
        where = f"{name} fails on an input of {tuple(x.shape)}"
        raise ValueError(f"{where}: {reason}. {needs}") from error


def _time(rows: list[dict], built: Mapping[str, nn.Module], x: Tensor, repeats: int) -> None:
    """Add the times of all models at one size to their rows."""
    with ExitStack() as stack, torch.no_grad():
        for model in built.values():
            stack.enter_context(mode(model, train=False))
        one, many = (
            turns([partial(model, batch) for model in built.values()], repeats, x.device)
            for batch in (x[:1], x)
        )
    for row, t_one, t_many in zip(rows, one, many, strict=True):
        row["latency_ratio"] = spread(t_one / one[0])
        row["throughput_ratio"] = spread(many[0] / t_many)
        if x.is_cuda:
            row["latency_ms"] = spread(1e3 * t_one)
            row["images_per_s"] = spread(len(x) / t_many)


COLUMNS = {  # key: (title, unit)
    "params": ("parameters, M", 1e6),
    "macs": ("MACs = FLOPs/2, G", 1e9),
    "kept_bytes": ("kept, MB", 1e6),
    "peak_inference_bytes": ("peak inference, MB", 1e6),
    "peak_training_bytes": ("peak training, MB", 1e6),
    "latency_ratio": ("latency, ratio", 1),
    "throughput_ratio": ("throughput, ratio", 1),
    "latency_ms": ("latency, ms", 1),
    "images_per_s": ("images/s", 1),
}


def readable(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """`rows` of `table` for the eye: M, G, MB (1e6 bytes), and medians with [p10, p90].

    Empty columns are left out. Models have the names that readers see, `networks.label`; modules of
    one's own keep theirs.
    """
    import pandas as pd

    lines = {}
    for row in rows:
        there = {key: column for key, column in COLUMNS.items() if key in row}
        line = {title: _text(row[key], unit) for key, (title, unit) in there.items()}
        lines[row["image_size"], _label(row["model"])] = line
    return pd.DataFrame(lines).T.rename_axis(["size", "model"])


def _text(value: float | Sequence[float], unit: float) -> str:
    if isinstance(value, Sequence):
        return "{:.2f} [{:.2f}, {:.2f}]".format(*value)
    return f"{value / unit:.2f}"


def _label(name: str) -> str:
    try:
        return networks.label(name)
    except ValueError:  # a reader's own
        return name
