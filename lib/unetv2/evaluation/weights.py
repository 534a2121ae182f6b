"""Published weights and the record of the training that made them."""

from pathlib import Path
from typing import Any

from ..common import env
from ..inference.load import find_run, metadata
from . import record

__all__ = ["record_of"]


def record_of(weights: str | Path) -> dict[str, Any]:
    """The committed record of published weights, found by the identity in their file.

    Args:
        weights: a name of `unetv2.inference.load.published`, or their folder.

    Raises:
        FileNotFoundError: no such weights, or no record of that identity.
        ValueError: the file or the record is damaged, or the file names no identity.
    """
    path = find_run(weights) / "model.safetensors"
    identity = metadata(path).get("identity")
    if identity is None:
        raise ValueError(f"{path} names no identity: publish it with workflow/publish_weights.py")
    found = sorted(env.path(record.FOLDER).glob(f"*/*/s*-{identity}.json.gz"))
    if not found:
        raise FileNotFoundError(f"no record of identity {identity} in {record.FOLDER}: restore it")
    return record.load(found[0])
