"""What the lessons 20 to 24 share: a short training, pictures of feature maps, and their charts.

A chart builds its figure and returns it, as in `plots`, and a model has one colour in all of them.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..common.words import many
from ..data import Split, TorchSplit
from .plots import COLOURS, OTHERS, STYLE, blank, label, palette

__all__ = ["KINDS", "arriving", "dices", "heads", "links", "numbers", "showed", "steps"]
__all__ += ["strength", "tails", "tensors", "train"]

KINDS = {"upsampling": "#777777", "short skip": OTHERS[0], "long skip": OTHERS[1]}


def showed(*sentences: str) -> None:
    """Print what a run showed: sentences whose numbers were computed."""
    print("What this run showed:")
    for sentence in sentences:
        print(f"- {sentence}")


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images (N, 3, S, S), normalised, and masks (N, 1, S, S), bool, of a split."""
    items = [TorchSplit(split)[i] for i in range(len(split))]
    images, masks = (torch.stack([item[key] for item in items]) for key in ("image", "mask"))
    return images, masks > 0


def dices(logits: Tensor, truth: Tensor) -> np.ndarray:
    """Dice of each image, p >= 0.5. Shapes: (N, 1, S, S) both -> (N,)."""
    from ..evaluation import metrics

    pairs = zip((logits >= 0).numpy(), truth.numpy(), strict=True)
    return np.array([metrics.dice_iou(*metrics.counts(a, b))[0] for a, b in pairs])


def strength(f: Tensor) -> np.ndarray:
    """Root mean square over channels of one image's map (C, H, W), 0 to 1 over its own range."""
    r = f.pow(2).mean(0).sqrt()
    low, high = r.min(), r.quantile(0.99)
    return ((r - low) / (high - low).clamp(min=1e-9)).clamp(0, 1).numpy()


def train(
    net: nn.Module,
    split: Split,
    loss: Callable,
    epochs: int,
    lr: float = 1e-3,
    seed: int = 0,
    cycle: bool = False,
    watch: Callable[[nn.Module], float] | None = None,
    after: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Train `net` in place with Adam, batches of 8; a row per step: `loss`, and what `watch` says.

    Args:
        cycle: let the rate rise to `lr` and fall again (one cycle); else it is constant.
        watch: called after backward, before the step.
        after: called after each epoch with its number, from 1.
    """
    images, rows = TorchSplit(split, "light", seed), []
    order = torch.Generator().manual_seed(seed)
    batches = DataLoader(images, 8, shuffle=True, drop_last=True, generator=order)
    optimiser = torch.optim.Adam(net.parameters(), lr)
    rates = torch.optim.lr_scheduler
    rate = rates.OneCycleLR(optimiser, lr, epochs * len(batches)) if cycle else None
    for epoch in range(epochs):
        images.set_epoch(epoch)
        net.train()
        for batch in batches:
            error = loss(net(batch["image"]), batch["mask"])
            optimiser.zero_grad()
            error.backward()
            rows.append({"loss": error.item()} | ({"watched": watch(net)} if watch else {}))
            optimiser.step()
            if rate:
                rate.step()
        if after:
            after(epoch + 1)
    net.eval()
    return pd.DataFrame(rows)


@mpl.rc_context(STYLE)
def numbers(
    tables: Mapping[str, np.ndarray],
    colours: Mapping[str, str] | str = "#0072B2",
    form: str = "{:.2f}",
    limit: float | None = None,
    xlabel: str = "",
    ylabel: str = "",
    rows: Sequence[str] = (),
    height: float = 2.6,
) -> Figure:
    """Tables as pictures, side by side, a number in each cell; NaN leaves it empty, 0 reads "0".

    Args:
        colours: of the largest value, one for all or one for each title.
        limit: the value of the full colour, for all; None: each table's own largest.
    """
    fig, axes = blank(height, 1, len(tables))
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        table = np.asarray(table)
        ink = colours if isinstance(colours, str) else colours[title]
        shades = mpl.colors.LinearSegmentedColormap.from_list(title, ["white", ink])
        top = limit or 1.6 * np.nanmax(table)
        ax.imshow(table, shades, vmin=0, vmax=top, aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            text = "" if np.isnan(value) else form.format(value) if value else "0"
            ax.text(j, i, text, ha="center", va="center", fontsize=8.5)
        ax.set(xticks=range(table.shape[1]), yticks=range(table.shape[0]))
        if rows:
            ax.set_yticklabels(rows)
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return fig


@mpl.rc_context(STYLE)
def arriving(table: pd.DataFrame, ylabel: str, xlabel: str = "level") -> Figure:
    """A line for each column (a model's name) over the index, on a logarithmic axis."""
    fig, [[ax]] = blank(3.2)
    colours = palette(table.columns)
    for name, mark in zip(table, "osD^vP*X", strict=False):
        ax.semilogy(table.index, table[name], marker=mark, color=colours[name], label=label(name))
    ax.set(xlabel=xlabel, ylabel=ylabel, xticks=table.index)
    fig.legend(loc="outside lower center", ncols=2)
    return fig


@mpl.rc_context(STYLE)
def steps(
    panels: Mapping[str, Mapping[str, pd.Series]],
    xlabel: str | Sequence[str] = "step",
    logarithmic: Sequence[str] = (),
    smooth: int = 1,
) -> Figure:
    """Lines over steps: panels by title, two in a row, in each a line for each model, by its name.

    Args:
        xlabel: one for all panels, which then share it, or one for each.
        logarithmic: titles of panels with a logarithmic axis.
        smooth: mean of so many steps.
    """
    rows = -(-len(panels) // 2)
    same = isinstance(xlabel, str)
    fig, axes = blank(2.5 * rows + 0.6, rows, 2, sharex=same)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colours = palette(names)
    for ax, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for name, values in lines.items():
            values = values.rolling(smooth, min_periods=1).mean()
            ends = {"marker": "o"} if len(values) == 1 else {}  # a point is no line
            ax.plot(values.index, values, color=colours[name], **ends)
        ax.set_title(title)
        if title in logarithmic:
            ax.set_yscale("log")
        else:
            ax.set_ylim(0, None)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, text in zip(axes[-1], [xlabel] * 2 if same else xlabel, strict=True):
        ax.set_xlabel(text)
    lines = [mpl.lines.Line2D([], [], color=colours[n], linewidth=2, label=label(n)) for n in names]
    fig.legend(handles=lines, loc="outside lower center", ncols=2 if len(names) == 4 else 3)
    return fig


@mpl.rc_context(STYLE)
def tails(samples: Mapping[int, Tensor]) -> Figure:
    """Histograms of products of M factors, each over its own deviation, beside a bell curve.

    Args:
        samples: M -> values.
    """
    fig, [[ax]] = blank(3.2)
    edges = np.linspace(-12, 12, 121)
    middle = (edges[1:] + edges[:-1]) / 2
    bell = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    ax.plot(middle, bell, color="black", linestyle=":", label="bell curve")
    shades = mpl.colors.LinearSegmentedColormap.from_list(
        "", ["#A6D8C8", COLOURS["sdi"], "#00352A"]
    )
    for m, colour in zip(samples, shades(np.linspace(0, 1, len(samples))), strict=True):
        z = samples[m].flatten().double()
        counts, _ = np.histogram((z / z.std()).numpy(), edges)
        density = counts / len(z) / np.diff(edges)
        factors = many(m, "factor")
        ax.plot(middle, np.where(counts > 0, density, np.nan), color=colour, label=factors)
    ax.set(yscale="log", ylim=(1e-6, 10), xlabel="value / deviation", ylabel="density")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


@mpl.rc_context(STYLE)
def heads(history: pd.DataFrame, ylabel: str) -> Figure:
    """A line for each head of a UNet++ over the epochs, the last column ("averaged") in black."""
    fig, [[ax]] = blank(2.8, width=6)
    shades = mpl.colors.LinearSegmentedColormap.from_list(
        "", ["#F6D9A0", COLOURS["nested"], "#7A4B00"]
    )
    inks = [*shades(np.linspace(0, 1, history.shape[1] - 1)), "black"]
    for name, colour, mark in zip(history, inks, "osD^*", strict=False):
        ax.plot(history[name], marker=mark, color=colour, label=name, linewidth=1.5)
    ax.set(xlabel="epoch", ylabel=ylabel, ylim=(0, 1), xticks=history.index)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


@mpl.rc_context(STYLE)
def links(changes: pd.DataFrame, groups: pd.DataFrame, ylabel: str) -> Figure:
    """What a network loses without a link, a bar each; beside it whole kinds of links.

    Args:
        changes: a row per link: `source`, `target` (i, j), `kind` of `KINDS`, `change`.
        groups: a row per kind, two columns: the changes summed, and all links at once.
    """
    below = {"ha": "center", "va": "top", "rotation": 90, "fontsize": 7.5}
    fig, [(ax, right)] = blank(3, 1, 2, width_ratios=(4, 1.1))
    place, low = 0, {"transform": ax.get_xaxis_transform()}
    for (i, j), group in changes.groupby("target"):
        at = np.arange(place, place + len(group))
        ax.bar(at, group["change"], color=group["kind"].map(KINDS))
        ax.text(at.mean(), 1.01, f"$X^{{{i},{j}}}$", ha="center", **low)
        for spot, (a, b) in zip(at, group["source"], strict=True):
            ax.text(spot, -0.03, f"{a},{b}", **below, **low)
        place += len(group) + 1
    for n, (name, row) in enumerate(groups.iterrows()):
        look = {"color": ["white", KINDS[name]], "edgecolor": KINDS[name]}
        right.bar([n - 0.2, n + 0.2], row, width=0.38, **look)
    ax.set(xticks=[], ylabel=ylabel, xlim=(-1, place - 1))
    ax.set_xlabel("link from", labelpad=24)
    right.set(xticks=[], xlabel="hollow: summed\nfull: all at once", title="whole kinds")
    for axis in (ax, right):
        axis.axhline(0, color="black", linewidth=0.8)
    kinds = [plt.Rectangle((0, 0), 1, 1, color=ink, label=name) for name, ink in KINDS.items()]
    fig.legend(handles=kinds, loc="outside lower center", ncols=3)
    return fig
