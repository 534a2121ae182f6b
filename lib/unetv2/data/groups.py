"""Groups of images: what belongs together stays in one part, and counts once in the statistics.

A group is a patient, a video or a slide where that is known, near copies of each other else, at the
least the image.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

__all__ = ["connect", "draw", "prefix"]

Item = TypeVar("Item")


def connect(n: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The connected components of `n` nodes: for each node the smallest member of its component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts, ends = np.array([*edges], int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(starts)), (starts, ends)), (n, n))
    _, labels = connected_components(graph, directed=False)
    return np.unique(labels, return_index=True)[1][labels].tolist()


def draw(
    items: list[Item], group: Callable[[Item], str], share: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """(rest, drawn): whole groups, in random order, as many as fit in the share; both in the order
    of `items`.

    At least one group is drawn, the smallest where none fits. Items that are all of one group are
    drawn one by one. Where every item is a group, these are the first of a permutation of the
    items.
    """
    groups = _members(items, group)
    if len(groups) == 1:
        groups = [[i] for i in range(len(items))]
    groups = [groups[k] for k in np.random.default_rng(seed).permutation(len(groups))]
    wanted, drawn = max(1, round(share * len(items))), set()
    for members in groups:
        if len(drawn) + len(members) <= wanted:
            drawn.update(members)
    drawn = drawn or set(min(groups, key=len, default=[]))
    return _parted(items, drawn)


def prefix(items: list[Item], group: Callable[[Item], str], share: float, seed: int) -> list[Item]:
    """The first groups of an order that `seed` fixes, until the share is reached: a smaller share
    is a subset.
    """
    groups, wanted, taken = _members(items, group), max(1, round(share * len(items))), set()
    for k in np.random.default_rng(seed).permutation(len(groups)):
        if len(taken) >= wanted:
            break
        taken.update(groups[k])
    return _parted(items, taken)[1]


def _members(items, group) -> list[list[int]]:
    members = {}
    for i, item in enumerate(items):
        members.setdefault(group(item), []).append(i)
    return list(members.values())


def _parted(items, chosen) -> tuple[list, list]:
    rest = [item for i, item in enumerate(items) if i not in chosen]
    return rest, [item for i, item in enumerate(items) if i in chosen]
