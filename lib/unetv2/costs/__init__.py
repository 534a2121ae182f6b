"""What a model costs: parameters, multiply-adds, memory and time, for every model by one rule.

`table` is the fair comparison, and `unetv2 costs --help` its command. `groups` says where in a
model arithmetic, traffic and time are.
"""

from ..common.lazy import lazily

_HOMES = {  # loaded at first use: a command's --help needs none of it
    "groups": "places",
    "roof": "places",
    "kept": "memory",
    "saved": "memory",
    "macs": "count",
    "measure": "compare",
    "readable": "compare",
    "table": "compare",
    "spread": "clock",
    "turns": "clock",
}

__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
