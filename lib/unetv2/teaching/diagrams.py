"""Skip designs as drawings, read off the network itself: what is drawn is what is computed.

A row is a level, the finest on top. Grey squares: the encoder, going down; white squares: the
decoder, going up. Between them, in the design's colour of `plots.COLOURS`, all that the skip
computes and every link that belongs to it. `nested` draws the UNet++ family as its papers do: nodes
X^{i,j}, three kinds of links, heads, and what pruning removes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from ..networks.registry import NestedSkip, UnetV2
from ..networks.family import NestedUNet, graph, needed
from .plots import COLOURS, STYLE, WIDTH

__all__ = ["LINKS", "Design", "draw", "family", "nested", "of"]

GREY, FADED, PALE = "#777777", 0.22, "#D5D5D5"
LINKS = {
    "down": ("#0072B2", "--"),
    "up": ("#D55E00", "-"),
    "skip": ("black", ":"),
}  # told apart without colour, too
Node = tuple[str, int, int]  # ("f" encoder | "x" skip | "y" decoder, level from 1, column)


@dataclass
class Design:
    """Nodes with their place (x, in units of a column) and label; links (from, to, part of the
    skip?) in `colour`.
    """

    title: str
    colour: str
    nodes: dict[Node, tuple[float, str]] = field(default_factory=dict)
    links: list[tuple[Node, Node, bool]] = field(default_factory=list)

    def paths(self, source: Node, target: Node) -> int:
        """The number of ways along the links from `source` to `target`: as many terms has the
        gradient between them.
        """
        return source == target or sum(
            self.paths(source, a) for a, b, _ in self.links if b == target
        )


def of(net: UnetV2, title: str) -> Design:
    """The design of a `UnetV2` with any skip: U-Net's copy, UNet++'s nested nodes, SDI."""
    skip, levels = net.decoder.skip, range(1, net.decoder.levels + 1)
    nested, last = isinstance(skip, NestedSkip), len(levels)
    copies = not nested and skip.combine == "copy"
    design = Design(title, COLOURS["unetpp" if nested else "unet" if copies else "unetv2"])
    right = 2 * last if nested else 5.2
    design.nodes = {("f", i, 0): ((i - 1) * (1 if nested else 0.45), f"$f_{i}$") for i in levels}
    ends = {i: ("f", i, 0) for i in levels}  # the node of each level that the decoder takes
    if nested:
        for i, j in sorted(tuple(map(int, name.split("_"))) for name in skip.nodes):
            node = ("x", i + 1, j)
            design.nodes[node] = (i + 2 * j, f"$x_{{{i + 1}{j}}}$")
            row = [("f" if k == 0 else "x", i + 1, k) for k in range(j)]
            design.links += [
                (source, node, True) for source in (*row, ("f" if j == 1 else "x", i + 2, j - 1))
            ]
            ends[i + 1] = max(ends[i + 1], node, key=lambda n: n[2])
    elif not copies:
        sign = {"product": "×", "sum": "+", "concat": "c"}[skip.combine]
        for i in levels:
            design.nodes["x", i, 1] = (right / 2, sign)
            design.links += [(("f", j, 0), ("x", i, 1), True) for j in levels]
            ends[i] = ("x", i, 1)
    for i in levels:
        design.nodes["y", i, 0] = (right - (i - 1) * (1 if nested else 0.45), f"$y_{i}$")
        design.links.append((ends[i], ("y", i, 0), True))
        if i < last:
            design.links += [
                ((side, a, 0), (side, b, 0), False)
                for side, a, b in (("f", i, i + 1), ("y", i + 1, i))
            ]
    return design


def family(member: str, depth: int, title: str) -> Design:
    """A member of the UNet++ family with its own decoder, from `nested.graph`; its X^{i,j} keep the
    paper's indices.
    """
    design = Design(
        title, COLOURS["unet" if member.startswith("unet") and "+" not in member else "unetpp"]
    )
    for (i, j), inputs in graph(member, depth):
        node = ("x" if j else "f", i + 1, j)
        design.nodes[node] = (i + 2 * j, f"{i},{j}")
        design.links += [
            (("x" if b else "f", a + 1, b), node, kind == "skip") for (a, b), kind in inputs
        ]
    return design


def _draw(design: Design, ax: Axes, focus: int | None) -> None:
    place = {node: (x, -1.15 * node[1]) for node, (x, _) in design.nodes.items()}
    for source, target, skip in design.links:
        (x0, y0), (x1, y1) = place[source], place[target]
        strong = not skip or focus in (None, target[1])
        between = sum(
            y == y0 == y1 and x0 < x < x1 for x, y in place.values()
        )  # nodes that the arrow passes over
        bend = -(0.7 + 0.3 * between) / (x1 - x0) if between else 0
        colour, alpha = (design.colour if skip else GREY), (1 if strong else FADED)
        style = dict(
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=1.4 if skip else 1.1,
            shrinkA=7.5,
            shrinkB=8,
        )
        arrow = FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            connectionstyle=f"arc3,rad={bend}",
            color=colour,
            alpha=alpha,
            **style,
        )
        ax.add_patch(arrow)
    for node, (_, label) in design.nodes.items():
        face, edge = {
            "f": ("#DDDDDD", GREY),
            "x": (design.colour, design.colour),
            "y": ("white", GREY),
        }[node[0]]
        box = {
            "boxstyle": "circle,pad=0.25" if node[0] == "x" else "square,pad=0.32",
            "facecolor": face,
        }
        ink = "white" if node[0] == "x" else "black"
        ax.text(
            *place[node],
            label,
            size=8,
            ha="center",
            va="center",
            color=ink,
            bbox=box | {"edgecolor": edge},
        )
    xs, ys = zip(*place.values(), strict=True)
    ax.set(
        xlim=(min(xs) - 0.7, max(xs) + 0.7), ylim=(min(ys) - 0.6, max(ys) + 1), title=design.title
    )
    ax.axis("off")


@mpl.rc_context(STYLE)
def draw(
    designs: Sequence[Design], columns: int = 3, focus: int | None = None, height: float = 2.4
) -> Figure:
    """The designs side by side; with `focus` the links that enter other levels are pale."""
    rows = -(-len(designs) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False)
    plt.close(fig)
    for ax in axes.flat[len(designs) :]:
        ax.axis("off")
    for design, ax in zip(designs, axes.flat, strict=False):
        _draw(design, ax, focus)
    return fig


def _nested(model: NestedUNet, ax: Axes, keep: Sequence[int]) -> None:
    kept = {node for node, _ in needed(model.graph, keep)}
    for (i, j), inputs in model.graph:
        for (a, b), kind in inputs:
            colour, line = LINKS[kind] if (i, j) in kept else (PALE, LINKS[kind][1])
            bend = (
                -0.4 / (j - b) - 0.1 if kind == "skip" and j - b > 1 else 0
            )  # over the nodes between
            style = dict(
                arrowstyle="-|>",
                mutation_scale=7,
                shrinkA=10,
                shrinkB=10,
                connectionstyle=f"arc3,rad={bend}",
            )
            ax.add_patch(
                FancyArrowPatch(
                    (a + 2 * b, -a), (i + 2 * j, -i), color=colour, linestyle=line, **style
                )
            )
        face, ink = (
            ("black", "white") if i == 0 and j in keep else ("white" if j else "#DDDDDD", "black")
        )
        face, ink, edge = (face, ink, "black") if (i, j) in kept else ("white", PALE, PALE)
        box = {"boxstyle": "circle,pad=0.1", "facecolor": face, "edgecolor": edge}
        ax.text(
            i + 2 * j,
            -i,
            f"$X^{{{i},{j}}}$",
            size=7.5,
            ha="center",
            va="center",
            color=ink,
            bbox=box,
        )
    last = model.config["depth"]
    ax.set(xlim=(-0.6, 2 * last + 0.6), ylim=(-last - 0.45, 0.45 + 0.2 * last))
    ax.axis("off")


@mpl.rc_context(STYLE)
def nested(
    models: Mapping[str, NestedUNet],
    keep: Sequence[Sequence[int]] | None = None,
    columns: int = 2,
    height: float = 2.7,
) -> Figure:
    """Members of the UNet++ family, by title, from each one's `graph`; black nodes carry a head.

    `keep`: for each model the j of the heads in use; what these do not need is pale. None: all
        heads.
    """
    rows = -(-len(models) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows + 0.3), squeeze=False)
    plt.close(fig)
    for ax in axes.flat[len(models) :]:
        ax.axis("off")
    keep = keep or [model.columns for model in models.values()]
    for ax, (title, model), heads in zip(axes.flat, models.items(), keep, strict=False):
        _nested(model, ax, heads)
        ax.set_title(title)
    names = {"down": "pooling", "up": "upsampling", "skip": "skip"}
    marks = [
        Line2D([], [], color=LINKS[k][0], linestyle=LINKS[k][1], label=name)
        for k, name in names.items()
    ]
    faces = {"#DDDDDD": "encoder", "white": "decoder", "black": "with a head"}
    dot = dict(marker="o", linestyle="", markersize=9, markeredgecolor="black")
    marks += [
        Line2D([], [], markerfacecolor=face, label=name, **dot) for face, name in faces.items()
    ]
    fig.legend(
        handles=marks, loc="outside lower center", ncols=6, handletextpad=0.4, columnspacing=1.4
    )
    return fig
