"""One front for all commands: `unetv2 NAME OPTIONS`, or `python -m unetv2 NAME OPTIONS`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from .common.errors import unknown

__all__ = ["COMMANDS", "main"]

COMMANDS = {  # name: (module with a main(arguments), what it does)
    "train": ("training.run", "train and score one model on one dataset with one seed"),
    "evaluate": ("evaluation.command", "score a trained run again, or on another dataset"),
    "predict": ("inference.predict", "masks for a folder of photos"),
    "export": ("inference.export", "a trained run as ONNX or torch.export file"),
    "costs": ("costs.command", "what models cost: parameters, arithmetic, memory, time"),
    "check": ("data.check", "everything that is wrong with a dataset, by file"),
    "download": ("data.download", "fetch a dataset"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first of `arguments` names (default: of the command line)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
        print("usage: unetv2 NAME OPTIONS; unetv2 NAME --help says more\n\n" + "\n".join(lines))
        return
    if name not in COMMANDS:
        sys.exit(f"error: {unknown('command', name, COMMANDS)}")
    sys.exit(import_module(f".{COMMANDS[name][0]}", __package__).main(rest))
