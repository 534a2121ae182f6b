"""90_explore: what a slider changes, as functions of its value; the sliders call only these.

As in `plots`: a function builds its figure and returns it, and a model has one colour in all.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..common.errors import unknown
from ..common.words import many
from ..data.images import read_image
from ..evaluation import metrics
from ..evaluation.studies import skip_of, zero
from ..inference.infer import enlarge, foreground, infer, normalisation
from ..skips.sdi import SDI, resize
from . import plots
from .plots import COLOURS, STYLE, WIDTH, blank, label, palette

if TYPE_CHECKING:
    from ..data import Split

__all__ = ["LEVELS", "Case", "answering", "answers", "cases", "curves", "dice", "factors"]
__all__ += ["features", "fresh", "kept", "masks", "means", "named", "play", "scores", "spread"]

LEVELS = ("1/4", "1/8", "1/16", "1/32")  # a map's share of the image's side, by level
THRESHOLDS = np.linspace(0.02, 0.98, 49)
FP16 = (-4.2, 4.8)  # decimal exponents of its smallest normal number and of its largest
NARROW = 5.2  # inches: captions can still be read on a phone


@dataclass(frozen=True, eq=False)
class Case:
    """A sample: what the network sees, and photo and truth at the size of their files.

    Shapes: small (S, S, 3) uint8; photo (H, W, 3) uint8; truth (H, W) bool.
    """

    id: str
    small: np.ndarray
    photo: np.ndarray
    truth: np.ndarray


def cases(split: "Split") -> list[Case]:
    """The images of a split of one class, in its order."""
    return [
        Case(id, split.images[i], read_image(split.pairs[i].image), split.native_mask(i) > 0)
        for i, id in enumerate(split.ids)
    ]


def named(cases: Sequence[Case], start: str) -> Case:
    """The case whose id begins with `start`; ValueError where that is none, or several."""
    found = [case for case in cases if case.id.startswith(start)]
    if len(found) != 1:
        raise unknown("sample", start, [case.id for case in cases])
    return found[0]


def answers(
    net: nn.Module, cases: Sequence[Case], zeros: Collection[int] = (), before: bool = False
) -> list[np.ndarray]:
    """Probabilities of "object", (H, W), at the size of each case's photo.

    Args:
        zeros: levels whose map is zero when it leaves the skip; 0 is the finest.
        before: when it enters the skip, in place of when it leaves it.

    Raises:
        ValueError: `zeros` for a network without a skip.
    """
    small, skip = [case.small for case in cases], skip_of(net)
    if not zeros:
        logits = list(infer(net, small))
    elif skip is None:
        raise ValueError(f"{type(net).__name__} has no submodule called skip: no level to remove")
    else:
        with zero(skip, zeros, before):
            logits = list(infer(net, small))
    pairs = zip(logits, cases, strict=True)
    return [foreground(enlarge(z, case.truth.shape))[0] for z, case in pairs]


def dice(p: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> float:
    """Dice of the mask p >= `threshold`, from 0 to 1."""
    return metrics.dice_iou(*metrics.counts(p >= threshold, truth))[0]


def scores(p: np.ndarray, truth: np.ndarray, threshold: float = 0.5) -> dict[str, float]:
    """Dice, boundary F, precision and recall of the mask p >= `threshold`; all from 0 to 1.

    Precision is 1 where nothing is marked, recall 1 where nothing is to be found.
    """
    mask = p >= threshold
    tp, fp, fn = metrics.counts(mask, truth)
    return {
        "Dice": metrics.dice_iou(tp, fp, fn)[0],
        "boundary F": metrics.boundary_f(mask, truth),
        "precision": float(tp / (tp + fp)) if tp + fp else 1.0,
        "recall": float(tp / (tp + fn)) if tp + fn else 1.0,
    }


def means(
    nets: Mapping[str, nn.Module],
    cases: Sequence[Case],
    settings: Mapping[str, Collection[int]],
    before: bool = False,
) -> pd.DataFrame:
    """Mean Dice over `cases`: a row for each network, a column for each setting of `zeros`."""
    found = {}
    for title, zeros in settings.items():
        for name, net in nets.items():
            pairs = zip(answers(net, cases, zeros, before), cases, strict=True)
            mean = np.mean([dice(p, case.truth) for p, case in pairs])
            found.setdefault(title, {})[name] = float(mean)
    return pd.DataFrame(found)


@mpl.rc_context(STYLE)
def masks(
    case: Case,
    rows: Mapping[str, Mapping[str, np.ndarray]],
    threshold: float | Sequence[float] = 0.5,
    photo: bool = False,
) -> Figure:
    """Masks of one image, a row for each position of a slider: the image in grey with what is
    found (green), invented (orange) and missed (blue); below each its Dice and boundary F.

    Args:
        rows: title of the row -> title of the column -> probabilities (H, W).
        threshold: of all rows, or of each.
        photo: begin with the image in colour and the outline of the truth.
    """
    cuts = np.broadcast_to(threshold, len(rows))
    pictures, captions = [], []
    for cut, maps in zip(cuts, rows.values(), strict=True):
        first = [case.photo] if photo else []
        drawn = [plots.overlay(case.photo, case.truth, p >= cut) for p in maps.values()]
        found = [scores(p, case.truth, cut) for p in maps.values()]
        texts = [f"Dice {s['Dice']:.2f}, F {s['boundary F']:.2f}" for s in found]
        pictures.append([*first, *drawn])
        captions.append(["image and truth"] * photo + texts)
    width = min(WIDTH, NARROW * len(pictures[0]) / 3)
    titles = [""] * photo + list(next(iter(rows.values())))
    fig = plots.grid(pictures, titles, list(rows), captions, legend=True, width=width)
    side = (width - 0.3 * any(rows)) / len(pictures[0])  # room for the titles of rows
    fig.set_figheight(len(rows) * (side + 0.27) + 0.65)
    if photo and case.truth.any():
        for row in range(len(rows)):
            ax = fig.axes[row * len(pictures[0])]
            ax.contour(case.truth, [0.5], colors="black", linewidths=2.2)
            ax.contour(case.truth, [0.5], colors="white", linewidths=1.2, linestyles="dashed")
    return fig


@mpl.rc_context(STYLE)
def kept(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean Dice over the number of levels that are kept, a line for each network.

    Args:
        panels: title -> a row for each network, a column for each number of levels.
    """
    fig, [axes] = blank(3, 1, len(panels), sharey=True)
    colours = palette(next(iter(panels.values())).index)
    for ax, (title, table) in zip(axes, panels.items(), strict=True):
        for (name, values), mark in zip(table.iterrows(), "osD^vP*X", strict=False):
            ax.plot(table.columns, values, marker=mark, color=colours[name], label=label(name))
        ax.set(title=title, xlabel="levels kept", xticks=table.columns, ylim=(0, 1.02))
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("Dice, mean of the samples")
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=3)
    return fig


@torch.inference_mode()
def features(net: nn.Module, cases: Sequence[Case]) -> list[Tensor]:
    """What the encoder of a thin network hands to its skip, finest first: (N, C_i, H_i, W_i)."""
    mean, std = (torch.tensor(v)[:, None, None] for v in normalisation(net))
    x = torch.from_numpy(np.stack([case.small for case in cases])).movedim(-1, 1).float() / 255
    maps = net.eval().encoder((x - mean.float()) / std.float())
    return maps[-len(skip_of(net).out_channels) :]


@torch.inference_mode()
def factors(skip: SDI, maps: Sequence[Tensor]) -> Tensor:
    """The factors f_0j of SDI's finest map, Eq. 3: (M, N, c, H_0, W_0)."""
    levels = zip(skip.attention, skip.reduce, maps, strict=True)
    f2 = [reduce(attend(f)) for attend, reduce, f in levels]
    size = f2[0].shape[-2:]
    pairs = zip(skip.theta[0], f2, strict=True)
    return torch.stack([theta(resize(f, size)) for theta, f in pairs])


def fresh(maps: Sequence[Tensor], scale: float = 1, unit_bias: bool = False, seed: int = 0) -> SDI:
    """An SDI for `maps` as it is before training, in training mode.

    Args:
        scale: of the weights of all theta, 1 is PyTorch's.
    """
    torch.manual_seed(seed)
    skip = SDI([f.shape[1] for f in maps], unit_bias=unit_bias).train()
    with torch.no_grad():
        for theta in (theta for row in skip.theta for theta in row):
            theta.weight *= scale
    return skip


@mpl.rc_context(STYLE)
def spread(panels: Mapping[str, Tensor], trained: Tensor) -> Figure:
    """How large the values of SDI's finest map are, for a product of one to M factors: a histogram
    of their magnitude; dotted the trained network's; grey is what fp16 cannot hold.

    Args:
        panels: title -> factors (M, ...), see `factors`.
        trained: the trained network's product, any shape.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = blank(2.3 * rows + 0.9, rows, columns, sharex=True, sharey=True)
    most = max(len(f) for f in panels.values())
    shades = mpl.colors.LinearSegmentedColormap.from_list("", ["#A6D8C8", COLOURS["sdi"], "black"])
    inks = shades(np.linspace(0, 0.85, most))
    for ax, (title, found) in zip(axes.flat, panels.items(), strict=False):
        for m, product in enumerate(found.double().cumprod(0), 1):
            name = many(m, "factor")
            ax.plot(*_magnitudes(product), color=inks[m - 1], label=name)
        ax.plot(*_magnitudes(trained), color="black", linestyle=":", label="trained, 4 factors")
        for edges in ((-9, FP16[0]), (FP16[1], 9)):
            ax.axvspan(*edges, color="#EEEEEE", zorder=0)
        ax.set(title=title, xlim=(-9, 9), yticks=[])
        ax.set_xticks(range(-8, 9, 4), [f"$10^{{{k}}}$" for k in range(-8, 9, 4)])
    for ax in axes[-1]:
        ax.set_xlabel("magnitude of a value")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of the values")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def _magnitudes(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Decimal exponents, and the share of `values` at each."""
    exponents = values.double().abs().clamp(min=1e-30).log10().flatten().numpy()
    shares, edges = np.histogram(exponents, np.linspace(-9, 9, 91))
    return (edges[1:] + edges[:-1]) / 2, shares / len(exponents)


@mpl.rc_context(STYLE)
def curves(maps: Mapping[str, np.ndarray], truth: np.ndarray, at: float = 0.5) -> Figure:
    """Dice over the threshold, and precision over recall as the threshold moves: a line for each
    network, a dot for one threshold.

    Args:
        maps: model -> probabilities (H, W).
        truth: (H, W) bool.
        at: the threshold of the dots.
    """
    fig, [(left, right)] = blank(3.3, 1, 2)
    for model, colour in palette(maps).items():
        found = pd.DataFrame([scores(maps[model], truth, t) for t in THRESHOLDS])
        here = scores(maps[model], truth, at)
        left.plot(THRESHOLDS, found["Dice"], color=colour, label=label(model))
        right.plot(found["recall"], found["precision"], color=colour)
        look = {"marker": "o", "color": colour, "markeredgecolor": "black", "zorder": 3}
        left.plot(at, here["Dice"], **look)
        right.plot(here["recall"], here["precision"], **look)
    left.axvline(at, color="black", linewidth=0.8, linestyle=":")
    left.set(xlabel="threshold", ylabel="Dice of this image", xlim=(0, 1))
    right.set(xlabel="recall: how much of the object is found")
    right.set(ylabel="precision: how much of it is right")
    for ax in (left, right):
        ax.set_ylim(top=1.02)
        ax.grid(alpha=0.3)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def answering() -> bool:
    """Whether somebody can move a slider here.

    A front end such as JupyterLab says with each cell that it could ask its user for input;
    papermill, which has no user, says that it could not. Outside a kernel nobody says anything.
    """
    if find_spec("IPython") is None or find_spec("ipywidgets") is None:
        return False
    import IPython

    parent = getattr(IPython.get_ipython(), "get_parent", dict)()
    return bool(parent.get("content", {}).get("allow_stdin"))


def play(draw: Callable, live: bool | None = None, **controls: Any) -> None:
    """Show what `draw` returns under a control for each of its arguments.

    A truth value becomes a box to tick, up to ten positions (a list, or a mapping from their
    titles) a slider, more of them a menu. Each starts at the default of its argument, else at the
    first position. Where nobody can move them, a line says so.

    Args:
        live: None: where somebody is `answering`.
    """
    if not (answering() if live is None else live):
        print("No sliders in this copy: open the notebook in Jupyter, on Kaggle or on Colab.")
        return
    import ipywidgets

    made = {}
    for name, positions in controls.items():
        if isinstance(positions, bool):
            made[name] = ipywidgets.Checkbox(positions, description=name)
            continue
        titled = isinstance(positions, Mapping)
        values = list(positions.values() if titled else positions)
        start = inspect.signature(draw).parameters[name].default
        index = values.index(start) if start in values else 0
        about = {"options": list(positions.items()) if titled else values}
        about |= {"index": index, "description": name}
        if len(values) <= 10:  # it computes when the handle is let go
            made[name] = ipywidgets.SelectionSlider(**about, continuous_update=False)
        else:
            made[name] = ipywidgets.Dropdown(**about)
    ipywidgets.interact(draw, **made)
