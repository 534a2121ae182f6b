"""Skip designs as drawings, read off the network itself: what is drawn is what is computed.

A row is a level, the finest on top. Grey squares: the encoder, going down; white squares: the
decoder, going up. Between them, in the skip's colour of `plots.COLOURS`, all that the skip computes
and every link that belongs to it. `nested` draws the UNet++ family as its papers do: nodes X^{i,j},
three kinds of links, heads, and what pruning removes.
"""

import copy
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from ..networks.family import NestedUNet
from ..networks.thin import ThinUnet
from ..skips import NestedSkip
from ..skips.graph import graph, needed
from .plots import COLOURS, OTHERS, STYLE, WIDTH

__all__ = ["LINKS", "Design", "draw", "family", "nested", "of"]

GREY, FADED, PALE = "#777777", 0.22, "#D5D5D5"
LINKS = {  # told apart without colour, too
    "down": ("#0072B2", "--"),
    "up": ("#D55E00", "-"),
    "skip": ("black", ":"),
}
SIGNS = {"product": "×", "sum": "+", "concat": "c"}  # of Eq. 4 in SDI
Node = tuple[str, int, int]  # ("f" encoder | "x" skip | "y" decoder, level from 1, column)


@dataclass
class Design:
    """A drawing of nodes and links, in the colour of a skip.

    Attributes:
        nodes: place (x, in units of a column) and label of each node.
        links: (from, to, whether it is part of the skip).
    """

    title: str
    colour: str
    nodes: dict[Node, tuple[float, str]] = field(default_factory=dict)
    links: list[tuple[Node, Node, bool]] = field(default_factory=list)

    def paths(self, source: Node, target: Node) -> int:
        """The number of ways along the links from `source` to `target`.

        As many terms has the gradient between them.
        """
        before = (a for a, b, _ in self.links if b == target)
        return source == target or sum(self.paths(source, a) for a in before)


def of(net: ThinUnet, title: str) -> Design:
    """The design of a network with the thin decoder, whatever its skip, a reader's own too.

    UNet++'s nodes are drawn as they are linked. Of any other skip there is a node for each level,
    linked to the levels that its result depends on; a level that depends on itself alone is handed
    across without one, as in U-Net's copy.
    """
    skip, last = net.decoder.skip, net.decoder.levels
    design, dense = Design(title, _colour(net)), isinstance(skip, NestedSkip)
    finest = last - len(skip.out_channels) + 1  # the finest level that has a skip
    step, right = (1, 2 * last) if dense else (0.45, 5.2)
    for i in range(1, last + 1):
        design.nodes["f", i, 0] = ((i - 1) * step, f"$f_{i}$")
    if dense:
        ends = _nodes_of_unetpp(design, skip, finest)
    else:
        ends = _nodes_of_levels(design, net, finest, right / 2)
    for i in range(1, last + 1):
        design.nodes["y", i, 0] = (right - (i - 1) * step, f"$y_{i}$")
        if i in ends:
            design.links.append((ends[i], ("y", i, 0), True))
        if i < last:
            design.links.append((("f", i, 0), ("f", i + 1, 0), False))
            design.links.append((("y", i + 1, 0), ("y", i, 0), False))
    return design


def _nodes_of_unetpp(design: Design, skip: NestedSkip, finest: int) -> dict[int, Node]:
    """Draw UNet++'s nodes; the last node of each level, which the decoder takes."""

    def node(i: int, j: int) -> Node:
        return ("x" if j else "f", i + finest, j)

    ends = {i + finest: node(i, 0) for i in range(len(skip.out_channels))}
    for (i, j), inputs in sorted(skip.graph):
        level = i + finest
        design.nodes[node(i, j)] = (level - 1 + 2 * j, f"$x_{{{level}{j}}}$")
        design.links += [(node(*source), node(i, j), True) for source, _ in inputs]
        ends[level] = node(i, j)
    return ends


def _nodes_of_levels(design: Design, net: ThinUnet, finest: int, x: float) -> dict[int, Node]:
    """Draw a node for each level that others reach; the node that the decoder takes."""
    ends = {}
    sign = SIGNS.get(getattr(net.decoder.skip, "combine", None), "s")
    for i, sources in enumerate(_reach(net), start=finest):
        ends[i] = ("f", i, 0)
        if sources != [i - finest]:
            ends[i] = ("x", i, 1)
            design.nodes[ends[i]] = (x, sign)
            design.links += [(("f", j + finest, 0), ends[i], True) for j in sources]
    return ends


def _reach(net: ThinUnet) -> list[list[int]]:
    """For each level of the skip the levels that its result depends on, found by gradients."""
    skip = copy.deepcopy(net.decoder.skip).eval()
    count = len(skip.out_channels)
    widths = [n for n in net.encoder.out_channels[1:] if n > 0][-count:]
    maps = [torch.rand(1, n, 2 ** (count - i), 2 ** (count - i)) for i, n in enumerate(widths)]
    maps = [m.requires_grad_() for m in maps]
    found = []
    for result in skip(maps):
        gradients = torch.autograd.grad(result.sum(), maps, allow_unused=True, retain_graph=True)
        found.append([j for j, gradient in enumerate(gradients) if gradient is not None])
    return found


def _colour(net: ThinUnet) -> str:
    name = net.config.get("skip")  # a UnetV2 has none, for its skip is SDI
    return COLOURS.get(name or ("sdi-released" if net.config["released"] else "sdi"), OTHERS[0])


def family(member: str, depth: int, title: str) -> Design:
    """A member of the UNet++ family with its own decoder, from `skips.graph`.

    Its X^{i,j} keep the paper's indices.
    """
    design = Design(title, COLOURS["copy" if member in ("unet", "unet-e") else "nested"])
    for (i, j), inputs in graph(member, depth):
        node = ("x" if j else "f", i + 1, j)
        design.nodes[node] = (i + 2 * j, f"{i},{j}")
        for (a, b), kind in inputs:
            design.links.append((("x" if b else "f", a + 1, b), node, kind == "skip"))
    return design


@mpl.rc_context(STYLE)
def draw(
    designs: Iterable[Design], columns: int = 3, focus: int | None = None, height: float = 2.4
) -> Figure:
    """The designs side by side; with `focus` the links that enter other levels are pale."""
    designs = list(designs)
    fig, axes = _panels(len(designs), columns, height)
    for ax, design in zip(axes, designs, strict=False):
        _draw(design, ax, focus)
        ax.set_title(textwrap.fill(design.title, 78 // columns))
    return fig


@mpl.rc_context(STYLE)
def nested(
    models: Mapping[str, NestedUNet],
    keep: Sequence[Sequence[int]] | None = None,
    columns: int = 2,
    height: float = 2.7,
) -> Figure:
    """Members of the UNet++ family, by title, from each one's `graph`; black nodes carry a head.

    Args:
        keep: for each model the j of the heads in use; what these do not need is pale. None: all.
    """
    fig, axes = _panels(len(models), columns, height, more=0.3)
    keep = keep or [model.columns for model in models.values()]
    for ax, (title, model), heads in zip(axes, models.items(), keep, strict=False):
        _draw_nested(model, ax, heads)
        ax.set_title(title)
    marks = []
    for kind, name in {"down": "pooling", "up": "upsampling", "skip": "skip"}.items():
        colour, line = LINKS[kind]
        marks.append(Line2D([], [], color=colour, linestyle=line, label=name))
    dot = {"marker": "o", "linestyle": "", "markersize": 9, "markeredgecolor": "black"}
    for face, name in {"#DDDDDD": "encoder", "white": "decoder", "black": "with a head"}.items():
        marks.append(Line2D([], [], markerfacecolor=face, label=name, **dot))
    place = {"loc": "outside lower center", "ncols": 6}
    fig.legend(handles=marks, handletextpad=0.4, columnspacing=1.4, **place)
    return fig


def _panels(count: int, columns: int, height: float, more: float = 0) -> tuple[Figure, list[Axes]]:
    """A figure with room for `count` drawings, which pyplot forgets."""
    rows = -(-count // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows + more), squeeze=False)
    plt.close(fig)
    for ax in axes.flat:
        ax.axis("off")
    return fig, list(axes.flat)


def _draw(design: Design, ax: Axes, focus: int | None) -> None:
    place = {node: (x, -1.15 * node[1]) for node, (x, _) in design.nodes.items()}
    for source, target, skip in design.links:
        (x0, y0), (x1, y1) = place[source], place[target]
        passed = sum(y == y0 == y1 and x0 < x < x1 for x, y in place.values())
        bend = -(0.7 + 0.3 * passed) / (x1 - x0) if passed else 0  # over the nodes between
        style = {"linewidth": 1.4, "color": design.colour}
        if not skip:
            style = {"linewidth": 1.1, "color": GREY}
        elif focus not in (None, target[1]):
            style["alpha"] = FADED
        _arrow(ax, (x0, y0), (x1, y1), bend, shrinkA=7.5, shrinkB=8, **style)
    looks = {  # face, edge, ink, shape
        "f": ("#DDDDDD", GREY, "black", "square,pad=0.32"),
        "x": (design.colour, design.colour, "white", "circle,pad=0.25"),
        "y": ("white", GREY, "black", "square,pad=0.32"),
    }
    for node, (_, label) in design.nodes.items():
        _node(ax, place[node], label, *looks[node[0]], size=8)
    xs, ys = zip(*place.values(), strict=True)
    ax.set(xlim=(min(xs) - 0.7, max(xs) + 0.7), ylim=(min(ys) - 0.6, max(ys) + 1))


def _draw_nested(model: NestedUNet, ax: Axes, keep: Sequence[int]) -> None:
    kept = {node for node, _ in needed(model.graph, keep)}
    for (i, j), inputs in model.graph:
        there = (i, j) in kept
        for (a, b), kind in inputs:
            colour, line = LINKS[kind]
            long = kind == "skip" and j - b > 1
            bend = -0.4 / (j - b) - 0.1 if long else 0  # over the nodes between
            style = {"color": colour if there else PALE, "linestyle": line}
            _arrow(ax, (a + 2 * b, -a), (i + 2 * j, -i), bend, shrinkA=10, shrinkB=10, **style)
        face, ink = ("white" if j else "#DDDDDD", "black")
        if i == 0 and j in keep:
            face, ink = "black", "white"
        look = (face, "black", ink) if there else ("white", PALE, PALE)
        _node(ax, (i + 2 * j, -i), f"$X^{{{i},{j}}}$", *look, "circle,pad=0.1", size=7.5)
    last = model.config["depth"]
    ax.set(xlim=(-0.6, 2 * last + 0.6), ylim=(-last - 0.45, 0.45 + 0.2 * last))


def _arrow(ax: Axes, start: tuple, end: tuple, bend: float, **style) -> None:
    style |= {"arrowstyle": "-|>", "mutation_scale": 7, "connectionstyle": f"arc3,rad={bend}"}
    ax.add_patch(FancyArrowPatch(start, end, **style))


def _node(
    ax: Axes, place: tuple, label: str, face: str, edge: str, ink: str, shape: str, size: float
) -> None:
    box = {"boxstyle": shape, "facecolor": face, "edgecolor": edge}
    ax.text(*place, label, size=size, ha="center", va="center", color=ink, bbox=box)
