"""`unetv2 costs`: what models cost, side by side."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["main"]

MODELS = ["thin+copy", "thin+nested", "thin+sdi", "smp-unet"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it where --out says, with the command and the protocol."""
    a = _parser().parse_args(arguments)

    from ..common import files
    from .compare import PROTOCOL, build, readable, table

    options = {name: getattr(a, name) for name in ("batch", "device", "precision", "repeats")}
    try:
        if a.out and (a.out.is_dir() or any(folder.is_file() for folder in a.out.parents)):
            raise ValueError(f"--out {a.out} is a folder, or in a file: name a file to write")
        own = {spec: _module(spec) for spec in a.module}
        rows = table(build(a.models, a.encoder) | own, a.sizes, **options)
        print(readable(rows).to_string())
        if a.out:
            protocol = PROTOCOL.format(**options)
            command = _command(a, options)
            files.write_result(
                a.out, command=command, protocol=protocol, encoder=a.encoder, rows=rows
            )
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing was written") from None
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("unetv2 costs", description="What models cost, side by side.")
    add = parser.add_argument
    add("--models", nargs="+", default=MODELS, metavar="NAME", help="the first is the reference")
    own = "modules of your own, by a function without arguments that makes one"
    add("--module", nargs="+", default=[], metavar="PACKAGE:FACTORY", help=own)
    add("--encoder", default="tu-pvt_v2_b2")
    add("--sizes", nargs="+", type=int, default=[256, 352])
    add("--batch", type=int, default=8, help="of the throughput")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--precision", choices=["no", "fp16", "bf16"], default="no")
    add("--repeats", type=int, default=20, help="timed turns; 0: count only")
    add("--out", type=Path, help="also write the result to this JSON file")
    return parser


def _command(a: argparse.Namespace, options: dict) -> str:
    """The command that measures this again."""
    given = {"models": a.models, "module": a.module, "encoder": [a.encoder], "sizes": a.sizes}
    given |= {name: [value] for name, value in options.items()}
    words = [f"--{name} {' '.join(map(str, values))}" for name, values in given.items() if values]
    return " ".join(["unetv2 costs", *words, "--out FILE"])


def _module(spec: str) -> "nn.Module":
    """The module that "package:factory" makes."""
    from torch import nn

    package, _, factory = spec.partition(":")
    try:
        made = getattr(importlib.import_module(package), factory)()
    except Exception as error:  # whatever a user's own code raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        needs = "give package:factory, a function without arguments"
        raise ValueError(f"--module {spec!r}: {reason}; {needs}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"--module {spec!r} gives a {type(made).__name__}, not an nn.Module")
    return made
