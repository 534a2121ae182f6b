"""The identity of a run: which runs are the same, whatever was edited and wherever files lie.

Two runs are the same when all of this is: the parameters that decide what is trained, the content
of the images and masks and their split (the data's fingerprint), the source of a reader's own
skip, and `TRAINING_VERSION`.
"""

import hashlib
import json
import re
from typing import Any

from .. import networks
from ..common.params import PLACES, RunParams

__all__ = ["TRAINING_VERSION", "UNDECIDING", "deciding", "identity", "own_skip"]

# Raise it by hand when a change of the library changes what a training computes: the test of three
# steps against committed losses shows when. Raising it supersedes every run and every record.
TRAINING_VERSION = 1

AFTERWARDS = {"audit", "also_test", "studies"}  # measured on the weights, changes none of them
HOW = {"channels_last", "compile"}  # the order of sums and the time, as the device does
UNDECIDING = {*PLACES, *AFTERWARDS, *HOW}


def deciding(params: RunParams) -> dict[str, Any]:
    """The parameters that decide what is trained, without those that have their default.

    A default is left out so that a parameter added later supersedes nothing; so is the encoder of
    smp or timm where the model brings its own. `channels_last` and `compile` decide the order of
    sums and no more. Of `folder:PATH` the folder's name stays: its content is in the fingerprint,
    and where it lies is not asked.
    """
    without = UNDECIDING | ({"encoder"} if networks.has_own_encoder(params.model) else set())
    values = params.model_dump(exclude_defaults=True, exclude=without)
    kind, _, path = params.dataset.partition(":")
    if kind == "folder":
        values["dataset"] = "folder:" + path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return values


def own_skip(model: str) -> str | None:
    """A reader's own skip in the name of a model: `my:Skip` in `thin+my:Skip-c8`, else None."""
    found = re.search(r"[A-Za-z_][\w.]*:\w+", model)
    return found and found[0]


def identity(params: RunParams, fingerprint: str) -> str:
    """The identity of the run of `params` on data of this `fingerprint`: 12 hex digits.

    Args:
        params: the run's parameters.
        fingerprint: of the data, from unetv2.data.fingerprint.

    Raises:
        ValueError: the model names a reader's own skip whose module cannot be found.
    """
    parts = {"params": deciding(params), "data": fingerprint, "version": TRAINING_VERSION}
    if own := own_skip(params.model):
        from ..skips import source  # loads torch, so only for who has a skip of their own

        parts["skip"] = source(own)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
