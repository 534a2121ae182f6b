"""Drawings of skip designs, in one grammar for networks and for the inside of a module.

Grey squares: the encoder, going down. White squares: the decoder, going up. Circles: the skip, in
the colour that its model has everywhere (`plots.COLOURS`), and so is every link that belongs to it.
White boxes with a coloured rim: single operations. Dashed arrows pool, thin ones upsample. A
triangle is a head. A dashed square is a level without channels. What is not in use is pale.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle

from .designs import ADDITIONS, Design, Link, Mark, additions, inside, of
from .plots import STYLE, blank

__all__ = ["ADDITIONS", "PALE", "Design", "additions", "draw", "inside", "of"]

GREY, FADED, PALE = "#777777", 0.22, "#D5D5D5"
ROW = 1.15  # a level, in units of a column
LEGEND = {  # of a member of UNet++'s family
    "encoder": {"marker": "s", "markerfacecolor": "#DDDDDD", "markeredgecolor": GREY},
    "skip's node": {"marker": "o", "markerfacecolor": "#BBBBBB", "markeredgecolor": "#BBBBBB"},
    "decoder": {"marker": "s", "markerfacecolor": "white", "markeredgecolor": GREY},
    "head": {"marker": "v", "markerfacecolor": "black", "markeredgecolor": "black"},
    "pooling": {"linestyle": "--", "color": GREY},
    "upsampling": {"linestyle": "-", "color": GREY},
}


@mpl.rc_context(STYLE)
def draw(
    designs: Iterable[Design],
    columns: int = 3,
    focus: int | None = None,
    height: float = 2.4,
    legend: bool | Mapping[str, str] = False,
) -> Figure:
    """The designs side by side.

    Args:
        focus: a level; the skip's links that enter others are pale.
        height: of a row of drawings, inches.
        legend: name the marks, or (a mapping of name to colour) those colours.
    """
    designs = list(designs)
    rows = -(-len(designs) // columns)
    fig, axes = blank(height * rows + 0.3 * bool(legend), rows, columns)
    for ax in axes.flat:
        ax.axis("off")
    for ax, design in zip(axes.flat, designs, strict=False):
        _draw(design, ax, focus)
        ax.set_title(textwrap.fill(design.title, 78 // columns))
    if legend:
        fig.legend(handles=_legend(legend), loc="outside lower center", ncols=6, handletextpad=0.4)
    return fig


def _legend(wanted: bool | Mapping[str, str]) -> list[Line2D]:
    if isinstance(wanted, Mapping):
        return [Line2D([], [], color=c, linewidth=3, label=name) for name, c in wanted.items()]
    looks = ({"linestyle": "", "markersize": 8} | look for look in LEGEND.values())
    return [Line2D([], [], label=name, **look) for name, look in zip(LEGEND, looks, strict=True)]


def _draw(design: Design, ax: Axes, focus: int | None) -> None:
    place = {node: (mark.x, -ROW * mark.row) for node, mark in design.nodes.items()}
    notes = [(x, -ROW * row) for x, row, _ in design.notes]
    xs, ys = zip(*place.values(), *notes, strict=True)
    above = 1 if design.heads else 0.5
    ax.set(xlim=(min(xs) - 0.7, max(xs) + 0.7), ylim=(min(ys) - 0.6, max(ys) + above))
    for link in design.links:
        _link(ax, design, link, place, faded=focus is not None)
    if focus is not None:
        for link in design.links:
            if link.kind == "skip" and link.target[1] == focus:
                _link(ax, design, link, place)
    for node, mark in design.nodes.items():
        _node(ax, design, mark, place[node])
    for node, colour in design.heads.items():
        x, y = place[node]
        ax.plot(x, y + 0.58, "v", color=colour, markersize=5, zorder=4)
    for (x, y), (*_, text) in zip(notes, design.notes, strict=True):
        ax.text(x, y, text, size=7.5, ha="center", va="center", color=GREY)


def _link(ax: Axes, design: Design, link: Link, place: dict, faded: bool = False) -> None:
    (x0, y0), (x1, y1) = place[link.source], place[link.target]
    passed = sum(y == y0 == y1 and x0 < x < x1 for x, y in place.values())
    bend = -(0.6 + 0.25 * passed) / (x1 - x0) / _stretch(ax) if passed else 0  # over those between
    ours = link.kind == "skip" or link.colour is not None
    colour = PALE if link.pale else link.colour or (design.colour if ours else GREY)
    style = {"color": colour, "linewidth": 1.4 if link.kind == "skip" else 1.0}
    style["linestyle"] = "--" if link.kind == "down" else "-"
    if ours and faded:
        style["alpha"] = FADED
    source, target = design.nodes[link.source], design.nodes[link.target]
    style |= {"shrinkA": _half(source), "shrinkB": 1 + _half(target)}
    if target.kind == "whole":
        (x1, y1), style["shrinkB"] = (x1 - 0.4, y0), 0  # straight into the tall box
    style |= {"mutation_scale": 7, "connectionstyle": f"arc3,rad={bend}"}
    ax.add_patch(FancyArrowPatch((x0, y0), (x1, y1), arrowstyle="-|>", **style))


def _stretch(ax: Axes) -> float:
    """A unit of x over a unit of y, on paper."""
    width, height = (abs(b - a) for a, b in (ax.get_xlim(), ax.get_ylim()))
    box, size = ax.get_position(), ax.figure.get_size_inches()
    return (box.width * size[0] / width) / (box.height * size[1] / height)


def _half(mark: Mark) -> float:
    """About half the width of a node, points."""
    letters = re.sub(r"[${}^_]", "", re.sub(r"\\[a-z]+", "x", mark.label))
    return 3.5 + 2.2 * max(len(letters), 2 if mark.kind == "skip" else 1)


def _node(ax: Axes, design: Design, mark: Mark, place: tuple[float, float]) -> None:
    colour = mark.colour or design.colour
    looks = {  # face, edge, ink, shape
        "encoder": ("#DDDDDD", GREY, "black", "square,pad=0.32"),
        "skip": (colour, colour, "white", "circle,pad=0.2"),
        "decoder": ("white", GREY, "black", "square,pad=0.32"),
        "step": ("white", colour, "black", "round,pad=0.3"),
        "gap": ("white", GREY, GREY, "square,pad=0.32"),
        "whole": ("white", "none", "black", "square,pad=0"),
    }
    face, edge, ink, shape = looks[mark.kind]
    if mark.pale:
        face, edge, ink = "white", PALE, PALE
    box = {"boxstyle": shape, "facecolor": face, "edgecolor": edge}
    box["linestyle"] = "--" if mark.kind == "gap" else "-"
    if mark.kind == "whole":  # as tall as the drawing
        (x, y), reach = place, ROW * (mark.row + 0.4)
        ax.add_patch(
            Rectangle((x - 0.4, y - reach), 0.8, 2 * reach, facecolor=face, edgecolor=GREY)
        )
    turn = 90 if mark.kind == "whole" else 0
    text = {"size": 8, "ha": "center", "va": "center", "color": ink, "rotation": turn}
    ax.text(*place, mark.label, bbox=box, **text)
