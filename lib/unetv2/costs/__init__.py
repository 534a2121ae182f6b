"""What a model costs: parameters, multiply-adds, memory and time, for every model by one rule.

`table` is the fair comparison, and `unetv2 costs --help` its command. `counters` shows a model as
each of the counters behind Table 4 of the U-Net v2 paper (arXiv:2311.17791) sees it, `as_released`
in the form that they met there. `groups` says where in a model arithmetic, traffic and time are.
"""

from ..common.lazy import lazily

_HOMES = {  # loaded at first use: a command's --help needs none of it
    "as_released": "table4",
    "counters": "table4",
    "unfused": "table4",
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
