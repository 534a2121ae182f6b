"""The trained model of a run folder, from its params.json and model.safetensors."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from .. import networks
from ..common import env
from ..common.params import RunParams

__all__ = ["find_run", "load_run", "load_weights", "logit_channels"]


def find_run(run: str | Path) -> Path:
    """The absolute path of `run`: from the working directory, else from the repository."""
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
        raise FileNotFoundError(f"no weights at {path}: train the run first (unetv2 train)")
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(_damaged(path, error)) from None
    except RuntimeError:  # it lists every tensor
        wanted = name or type(model).__name__
        reason = f"{path} holds the weights of another model than {wanted}"
        raise ValueError(f"{reason}; train that one again") from None
    return model


def load_run(run_dir: str | Path) -> tuple[nn.Module, RunParams]:
    """The model of a run folder (see `find_run`), in eval mode on the CPU, and its parameters.

    Raises:
        FileNotFoundError: no such folder, or no trained run in it.
        ValueError: params.json is damaged or names no model of this library; as `load_weights`.
    """
    folder = find_run(run_dir)
    source, path = folder / "params.json", folder / "model.safetensors"
    if not source.is_file() or not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no trained run (params.json and model.safetensors)"
        )
    classes = logit_channels(path)
    try:
        params = RunParams.make(json.loads(source.read_text(encoding="utf-8")))
        model = networks.for_run(params, classes=classes)
    except (ValueError, TypeError) as error:
        reason = f"{source} describes no run ({' '.join(str(error).split())})"
        raise ValueError(f"{reason}; restore it, or delete the folder and train") from None
    if params.channels_last:
        model.to(memory_format=torch.channels_last)
    name = ", ".join(f"{key} {value}" for key, value in params.network.items())
    return load_weights(model, path, f"that of params.json ({name})").eval(), params


def logit_channels(path: Path) -> int:
    """How many logit channels the model of a weights file has; ValueError: it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return int(file.metadata()["classes"])
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(_damaged(path, error)) from None


def _damaged(path: str | Path, error: Exception) -> str:
    return f"{path} is damaged ({error}); delete its run folder and train again"
