"""Frames per second of the three models of the U-Net v2 paper's Table 4.

    python benchmarks/frames.py [--device cuda] [--encoder tu-pvt_v2_b2] [--size 256]
        [--passes 100] [--out FILE]

Each model twice: every pass waited for, and as the script behind the table took it. On a GPU that
clock reads how long it takes to give the GPU its work.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from unetv2.common import env, files
from unetv2.costs import spread, turns
from unetv2.networks import create_model

MODELS = {
    "U-Net (PVT)": "smp-unet-stride2",
    "UNet++ (PVT)": "smp-unetplusplus-stride2",
    "U-Net v2": "thin+sdi-shared",
}
SERIES = 6  # the released script's comment lists six results; the table prints the highest
PROTOCOL = (
    "Batch 1, 3 x {size} x {size}, float32, evaluation mode, random weights, encoder {encoder}. "
    "waited_for: models in turns, {passes} turns, without gradients, synchronised before and after "
    "each pass; frames per second, [median, p10, p90]. as_the_paper: {passes} passes with "
    f"gradients, no warm-up, the clock stopped when the call returns, 1 / mean; {SERIES} series, "
    "the first of which begins cold; highest: what the table prints"
)


def as_the_paper(model: nn.Module, size: int, passes: int, device: torch.device) -> float:
    """Frames per second as the released script takes them."""
    seconds = []
    for _ in range(passes):
        x = torch.randn(1, 3, size, size).to(device)
        start = time.perf_counter()
        model(x)
        seconds.append(time.perf_counter() - start)
    return float(1 / np.mean(seconds))


def measure(encoder: str, size: int, passes: int, device: torch.device) -> dict[str, dict]:
    """{row of Table 4: its frames per second}."""
    built = {row: create_model(name, encoder).to(device).eval() for row, name in MODELS.items()}
    # before anything has warmed up
    series = {
        row: [as_the_paper(model, size, passes, device) for _ in range(SERIES)]
        for row, model in built.items()
    }
    x = torch.randn(1, 3, size, size, device=device)
    with torch.no_grad():
        seconds = turns([partial(model, x) for model in built.values()], passes, device)
    return {
        row: {
            "model": MODELS[row],
            "waited_for": spread(1 / times),
            "as_the_paper": series[row],
            "highest": max(series[row]),
        }
        for row, times in zip(built, seconds, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cuda")
    add("--encoder", default="tu-pvt_v2_b2")
    add("--size", type=int, default=256)
    add("--passes", type=int, default=100)
    add("--out", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()
    try:
        rows = measure(args.encoder, args.size, args.passes, env.device(args.device))
    except (ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    for row, found in rows.items():
        median, low, high = found["waited_for"]
        waited = f"waited for {median:.1f} [{low:.1f}, {high:.1f}]"
        print(f"{row:13} {waited}, as the paper {found['highest']:.1f} frames/s")
    if args.out:
        options = {name: getattr(args, name) for name in ("device", "encoder", "size", "passes")}
        words = " ".join(f"--{name} {value}" for name, value in options.items())
        command = f"python benchmarks/frames.py {words} --out FILE"
        protocol = PROTOCOL.format(**options)
        files.write_result(args.out, command=command, protocol=protocol, rows=rows)


if __name__ == "__main__":
    main()
