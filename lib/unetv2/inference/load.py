"""Trained models: of a run folder, or published weights by their name.

A run folder holds params.json and model.safetensors. Published weights are one file that says what
it is: its metadata hold the parameters, the identity of the run and the fingerprint of its data.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from .. import networks
from ..common import env, files
from ..common.errors import unknown
from ..common.params import RunParams

__all__ = ["WEIGHTS", "find_run", "from_pretrained", "load_run", "load_weights", "logit_channels"]
__all__ += ["metadata", "published", "trained_on"]

WEIGHTS = "outputs/results/weights"  # of the published models, a folder of that name each


def published() -> list[str]:
    """The names of the published weights that are here."""
    return sorted(path.parent.name for path in env.path(WEIGHTS).glob("*/model.safetensors"))


def find_run(run: str | Path) -> Path:
    """The absolute path of `run`: from the working directory, else from the repository, else the
    published weights of that name.

    Raises:
        FileNotFoundError: nothing there; says which published weights there are.
    """
    for path in (Path(run).absolute(), env.path(run), env.path(WEIGHTS) / run):
        if path.exists():
            return path
    if names := published():
        known = unknown("published model", str(run), names)
    else:
        known = f"published weights are in {WEIGHTS} of the repository, which is not here"
    raise FileNotFoundError(f"{env.path(run)} holds no trained run; {known}")


def from_pretrained(run: str | Path) -> nn.Module:
    """A trained model, in eval mode on the CPU.

    Its `normalisation` says what it expects of an image; `unetv2.inference.predict` does all that.

    Args:
        run: published weights ("isic2017-thin+sdi", see `published`), a run folder, or a folder
            that `save_pretrained` wrote.

    Raises:
        FileNotFoundError, ValueError: as `load_run`.
    """
    folder = find_run(run)
    if (folder / "config.json").is_file():
        return networks.load_saved(folder).eval()
    return load_run(folder)[0]


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


def load_run(run: str | Path) -> tuple[nn.Module, RunParams]:
    """The model of a run folder or of published weights, in eval mode on the CPU; its parameters.

    Args:
        run: see `find_run`.

    Raises:
        FileNotFoundError: no such folder, or no trained run in it.
        ValueError: the parameters are damaged or name no model of this library; as `load_weights`.
    """
    folder = find_run(run)
    path = folder / "model.safetensors"
    source, text = _params(folder)
    classes = logit_channels(path)
    try:
        params = RunParams.make(json.loads(text))
        model = networks.for_run(params, classes=classes)
    except (ValueError, TypeError) as error:
        reason = f"{source} describes no run ({' '.join(str(error).split())})"
        raise ValueError(f"{reason}; restore it, or delete the folder and train") from None
    if params.channels_last:
        model.to(memory_format=torch.channels_last)
    name = ", ".join(f"{key} {value}" for key, value in params.network.items())
    return load_weights(model, path, f"that of its parameters ({name})").eval(), params


def _params(folder: Path) -> tuple[Path, str]:
    """The parameters of a run as JSON, and the file that holds them."""
    source, path = folder / "params.json", folder / "model.safetensors"
    if path.is_file() and source.is_file():
        return source, source.read_text(encoding="utf-8", errors="replace")
    if path.is_file() and "params" in (there := metadata(path)):
        return path, there["params"]
    raise FileNotFoundError(f"{folder} holds no trained run (params.json and model.safetensors)")


def trained_on(run: str | Path) -> str | None:
    """The fingerprint of the data that `run` (see `find_run`) was trained on; None: it says none.

    Raises:
        FileNotFoundError: no such run.
    """
    folder = find_run(run)
    if (file := folder / "identity.json").is_file():
        return files.read_json(file).get("fingerprint")
    return metadata(folder / "model.safetensors").get("fingerprint")


def metadata(path: Path) -> dict[str, str]:
    """What a weights file says of itself; ValueError: it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(_damaged(path, error)) from None


def logit_channels(path: Path) -> int:
    """How many logit channels the model of a weights file has; ValueError: it is damaged."""
    try:
        return int(metadata(path)["classes"])
    except KeyError as error:
        raise ValueError(_damaged(path, error)) from None


def _damaged(path: str | Path, error: Exception) -> str:
    return f"{path} is damaged ({error}); restore it, or delete its run folder and train again"
