"""The figures of 46_the_company: the family tree of the products, reverse attention, the frame."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation.stats import NAMES
from . import diagrams
from .cells import ARMS
from .designs import Design, Link, Mark
from .landed import Landed
from .plots import STYLE, WIDTH, blank, contact_sheet, label, palette

__all__ = ["drawn_tree", "frame", "heat", "reversed_maps", "tree"]

LEVELS = (3, 4, 5)  # strides 8, 16, 32: row 0 is the finest
TREE = {  # title: whose colour
    "2020: PraNet's decoder": "pranet",
    "2021: SANet's gate": "sanet",
    "2023: SDI, at level 3": "thin+sdi",
}


# The family tree ----------------------------------------------------------------------------------


def tree() -> list[Design]:
    """One idea in three places, oldest first: a product of a level with resized coarser ones.

    Drawn by hand from the equations in `networks.peers` and `skips.sdi`, at the three levels that
    all three methods read. Each box is a convolution, x the product, [ ] a concatenation; maps are
    resized where a link changes its row.
    """
    colours = palette([*ARMS, *TREE.values()])  # as in all figures of the notebook
    makers = (_partial_decoder, _shallow_attention, _sdi)
    found = []
    for (title, model), make in zip(TREE.items(), makers, strict=True):
        design = Design(title, colours[model])
        for row, level in enumerate(LEVELS):
            design.nodes["f", row, 0] = Mark(0, row, f"$f_{level}$", "encoder")
        make(design)
        found.append(design)
    return found


def _links(design: Design, *pairs: tuple) -> None:
    design.links += [Link(source, target, "skip") for source, target in pairs]


def _partial_decoder(design: Design) -> None:
    f3, f4, f5 = (("f", row, 0) for row in range(3))
    places = {(1.5, 2): "$T$", (1.5, 1.45): "$T$", (1.5, 0.6): "$T$"}
    t45, t35, t34 = (("t", k, 1) for k in range(3))
    for node, ((x, row), text) in zip((t45, t35, t34), places.items(), strict=True):
        design.nodes[node] = Mark(x, row, text, "step")
    p4, p3, q4, q3 = ("x", 1, 1), ("x", 0, 1), ("y", 1, 1), ("y", 0, 1)
    design.nodes |= {p4: Mark(3, 1, "×", "skip"), p3: Mark(3, 0, "×", "skip")}
    design.nodes |= {q4: Mark(4.4, 1, "[ ]", "decoder"), q3: Mark(4.4, 0, "[ ]", "decoder")}
    _links(design, (f5, t45), (f5, t35), (f4, t34), (t45, p4), (f4, p4))
    _links(design, (t35, p3), (t34, p3), (f3, p3), (p4, q4), (p3, q3))
    design.links += [Link(f5, q4, "up"), Link(q4, q3, "up")]
    design.heads[q3] = "black"


def _shallow_attention(design: Design) -> None:
    f3, f4, f5 = (("f", row, 0) for row in range(3))
    deep, all_three, joined = ("x", 1, 1), ("x", 0, 1), ("y", 0, 1)
    design.nodes |= {deep: Mark(1.6, 1, "×", "skip"), all_three: Mark(3, 0, "×", "skip")}
    design.nodes[joined] = Mark(4.4, 0, "[ ]", "decoder")
    _links(design, (f5, deep), (f4, deep), (deep, all_three), (f3, all_three))
    _links(design, (all_three, joined))
    design.links += [Link(deep, joined, "up"), Link(f5, joined, "up")]
    design.heads[joined] = "black"


def _sdi(design: Design) -> None:
    product, decoded = ("x", 0, 1), ("y", 0, 1)
    for row in (2, 1, 0):  # each level has a product; that of level 3 is drawn in full
        own, y = ("x", row, 1), ("y", row, 1)
        design.nodes[own] = Mark(3, row, "×", "skip", pale=row > 0)
        design.nodes[y] = Mark(4.4, row, "+" if row < 2 else "  ", "decoder", pale=row > 0)
        design.links.append(Link(own, y, "skip", pale=row > 0))
        if row < 2:
            design.links.append(Link(("y", row + 1, 1), y, "up"))
    for row, level in enumerate(LEVELS):
        theta = ("t", row, 1)
        design.nodes[theta] = Mark(1.5, row, rf"$\theta_{{3{level}}}$", "step")
        _links(design, (("f", row, 0), theta), (theta, product))
    design.heads[decoded] = "black"


def drawn_tree() -> Figure:
    """`tree` side by side, in each method's colour."""
    return diagrams.draw(tree(), columns=3, height=2.0)


# Reverse attention --------------------------------------------------------------------------------


def heat(values: np.ndarray) -> np.ndarray:
    """A map of fractions (H, W) as a picture, dark for 0 and bright for 1."""
    return (255 * mpl.colormaps["viridis"](np.clip(values, 0, 1))[..., :3]).astype(np.uint8)


def reversed_maps(image: np.ndarray, truth: np.ndarray, maps: Mapping[str, np.ndarray]) -> Figure:
    """The image with the outline of the truth, and maps of fractions, in reading order.

    Shapes:
        image (H, W, 3) uint8, truth (H, W), maps (H, W) in [0, 1].
    """
    pictures, names = [image, *map(heat, maps.values())], ["image and truth", *maps]
    return contact_sheet(pictures, [truth], names, columns=3, width=0.8 * WIDTH)


# The frame ----------------------------------------------------------------------------------------


@mpl.rc_context(STYLE)
def frame(found: Landed, price: pd.DataFrame, metric: str = "dice") -> Figure:
    """Score against parameters and against multiply-adds: small dots seeds, large ones means.

    Models without a record stand at the foot, hollow: what they cost is known.
    """
    fig, [axes] = blank(3.6, 1, 2, sharey=True)
    first, *others = price.index
    every = palette([*ARMS, *others, first])  # as `ablation_plots.gains` has them
    colours = {model: every[model] for model in price.index}
    scores = {cell.model: 100 * found.wide(cell, metric).mean(axis=1) for cell in found.scores
              if cell.share == 1}  # fmt: skip
    low = min((values.min() for values in scores.values()), default=0.0)
    for ax, cost in zip(axes, ("parameters", "macs"), strict=True):
        for model, row in price.iterrows():
            x, values = row[cost] / 1e6, scores.get(model)
            if values is None:
                hollow = {"markerfacecolor": "white", "markeredgecolor": colours[model]}
                ax.plot(x, low - 1, "o", markersize=6, **hollow)
                continue
            ax.plot([x] * len(values), values, "o", color=colours[model], markersize=3, alpha=0.5)
            ax.plot(x, values.mean(), "o", color=colours[model], markersize=8)
        ax.set(xscale="log")
        ax.grid(alpha=0.3)
    axes[0].set(xlabel="M parameters", ylabel=f"{NAMES[metric]}, points")
    axes[1].set(xlabel="M multiply-adds of an image")
    if not scores:  # then height means nothing at all
        axes[0].set(yticks=[])
    marks = [
        mpl.lines.Line2D([], [], marker="o", linestyle="", color=c, label=label(m))
        for m, c in colours.items()
    ]
    fig.legend(handles=marks, loc="outside lower center", ncols=3)
    if set(price.index) - set(scores):
        text = "hollow, at the foot: no record yet, so only the cost is known"
        fig.suptitle(text, x=0.01, ha="left", fontsize=9)
    return fig
