"""UNet++ as a graph: which node X^{i,j} reads which (Zhou et al., IEEE TMI 2020, Fig. 1).

Level i (0 is the finest), column j (0 is the encoder). A member of the family is a choice of links:

    U-Net   X^{i,L-i} reads up(X^{i+1,L-i-1}), X^{i,0}                   one diagonal
    U-Net^e X^{i,j}   reads up(X^{i+1,j-1}), X^{i,0}                     U-Nets of depth 1..L
    UNet+   X^{i,j}   reads up(X^{i+1,j-1}), X^{i,j-1}                   short skips
    UNet++  X^{i,j}   reads up(X^{i+1,j-1}), X^{i,0}, ..., X^{i,j-1}     short and long: dense skips
"""

from collections.abc import Iterable

from ..common.errors import unknown

__all__ = ["MEMBERS", "Graph", "Node", "graph", "needed"]

Node = tuple[int, int]
Graph = list[tuple[Node, list[tuple[Node, str]]]]

MEMBERS = {  # member -> the columns k of the skips X^{i,k} that X^{i,j} reads
    "unet": lambda j: [0],
    "unet-e": lambda j: [0],
    "unet+": lambda j: [j - 1],
    "unet++": lambda j: list(range(j)),
}


def graph(member: str, depth: int) -> Graph:
    """The nodes of a member and their links, in an order in which they can be computed.

    Returns:
        A list of ((i, j), inputs); inputs is a list of ((i', j'), kind), kind "down", "up" or
        "skip", in the order of concatenation. (0, 0) has no inputs: it sees the image.

    Raises:
        ValueError: an unknown member.
    """
    if member not in MEMBERS:
        raise unknown("member of the UNet++ family", member, MEMBERS)
    nodes: Graph = []
    for diagonal in range(depth + 1):  # diagonal d holds what depth d adds to depth d - 1
        nodes.append(((diagonal, 0), [((diagonal - 1, 0), "down")] if diagonal else []))
        if member == "unet" and diagonal < depth:
            continue
        for j in range(1, diagonal + 1):
            i = diagonal - j
            skips = [((i, k), "skip") for k in MEMBERS[member](j)]
            nodes.append(((i, j), [((i + 1, j - 1), "up"), *skips]))
    return nodes


def needed(nodes: Graph, columns: Iterable[int]) -> Graph:
    """The part of a graph that the top nodes X^{0,j}, j in `columns`, depend on."""
    wanted = {(0, j) for j in columns}
    for node, inputs in reversed(nodes):
        if node in wanted:
            wanted.update(source for source, _ in inputs)
    return [(node, inputs) for node, inputs in nodes if node in wanted]
