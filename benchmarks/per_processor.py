"""Results of speed: a file holds a list with an entry for each processor that measured."""

import json
import platform
from pathlib import Path

from unetv2.common import env, files

__all__ = ["processor", "write"]


def processor(device: str = "cpu") -> str:
    """The name of the GPU, or the processor's as Linux knows it; clouds hide all but its family."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    pairs = [[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]
    known = dict(reversed(pairs))  # of the first core
    if "model name" not in known:
        return platform.processor() or platform.machine()
    return f"{known['model name']}, family {known['cpu family']}, model {known['model']}"


def write(path: Path, *, device: str, command: str, protocol: str, **values) -> None:
    """Put the result into `path` in place of this processor's last one; the others stay.

    A file with a single result of old becomes the first entry.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else "[]"
    found = json.loads(text)
    entries = [{"processor": "not recorded", **found}] if isinstance(found, dict) else found
    entry = {"processor": processor(device), "command": command, "protocol": protocol}
    entry |= {"environment": env.describe(), **values}
    places = {old["processor"]: k for k, old in enumerate(entries)}
    if entry["processor"] in places:
        entries[places[entry["processor"]]] = entry
    else:
        entries.append(entry)
    files.write_json(path, entries)
