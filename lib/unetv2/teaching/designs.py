"""Skip designs as graphs, read off the network itself: what is drawn is what is computed.

A row is a level, 0 the finest. `of` takes any network of the collection, `inside` looks into a skip
for one level, `additions` marks what UNet++ adds to U-Net. `diagrams.draw` draws them.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from segmentation_models_pytorch import UnetPlusPlus
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from ..networks.any_smp import SkipEncoder
from ..networks.family import NestedUNet
from ..networks.names import PYRAMID, parts
from ..networks.thin import ThinUnet
from ..networks.unetpp_smp import NestedUnetPlusPlus
from ..skips import SDI, Copy, MatchedCopy, NestedSkip
from ..skips.graph import Graph, graph, needed
from .plots import COLOURS, OTHERS, palette

__all__ = ["ADDITIONS", "Design", "Link", "Mark", "Node", "additions", "inside", "of"]

ADDITIONS = {  # of UNet++ to U-Net, in the hues of the usual picture, none a model's colour
    "redesigned pathways": "#66A61E",
    "dense skips": "#4053D3",
    "deep supervision": "#B51D14",
}
OLD = "#777777"  # what U-Net has already
SIGNS = {"product": "×", "sum": "+", "concat": "c"}  # of Eq. 4 in SDI
Node = tuple[str, int, int]  # ("f" encoder | "x" skip | "y" decoder | a step, level, column)


@dataclass(frozen=True)
class Mark:
    """A node of a drawing.

    Attributes:
        x, row: its place; rows count downwards.
        kind: "encoder", "skip", "decoder", "step" (an operation inside a module), "gap" (a level
            without channels) or "whole" (a decoder that is not taken apart).
        colour: None: the design's, where the kind has one.
    """

    x: float
    row: float
    label: str
    kind: str
    colour: str | None = None
    pale: bool = False


@dataclass(frozen=True)
class Link:
    """From node to node; `kind` is "down" (pooling), "up" (upsampling) or "skip".

    A skip has the design's colour, the other two are grey, where `colour` is None.
    """

    source: Node
    target: Node
    kind: str
    colour: str | None = None
    pale: bool = False


@dataclass
class Design:
    """What `diagrams.draw` draws: nodes, links, and which nodes carry a head.

    Attributes:
        heads: node -> colour of its head.
        notes: (x, row, text) of words without a node.
    """

    title: str
    colour: str
    nodes: dict[Node, Mark] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    heads: dict[Node, str] = field(default_factory=dict)
    notes: list[tuple[float, float, str]] = field(default_factory=list)

    def paths(self, source: Node, target: Node) -> int:
        """The number of ways along the links from `source` to `target`.

        As many terms has the gradient between them.
        """
        before = (link.source for link in self.links if link.target == target)
        return source == target or sum(self.paths(source, node) for node in before)


def of(net: nn.Module, title: str, keep: Iterable[int] | None = None) -> Design:
    """The design of a network of the collection, of a plain one of smp, or of a reader's own skip.

    The UNet++ family and UNet++ in smp are drawn node by node. Of any other skip there is a node
    for each level, linked to the levels that its result depends on; a level that depends on itself
    alone is handed across without one, as in U-Net's copy.

    Args:
        keep: the j of the heads in use, for a member of the family; what these do not need is pale.

    Raises:
        TypeError: a module that is none of these.
    """
    if isinstance(net, NestedUNet):
        return _family(net, title, keep)
    if isinstance(net, ThinUnet):
        return _thin(net, title)
    if isinstance(net, SegmentationModel):
        plain = not isinstance(net.encoder, SkipEncoder)
        grid = plain and isinstance(net, UnetPlusPlus | NestedUnetPlusPlus)
        return _grid(net, title) if grid else _seam(net, title)
    raise TypeError(f"{type(net).__name__} has no encoder, skip and decoder that could be drawn")


def _family(net: NestedUNet, title: str, keep: Iterable[int] | None) -> Design:
    """X^{i,j} as in the papers; the outer diagonal is the decoder, what lies before it the skip."""
    member, last = net.config["member"], net.config["depth"]
    name = {"unet": "tmi-unet-l4"}.get(member, f"tmi-{member}")
    design = Design(title, palette([name])[name])
    kept = {node for node, _ in needed(net.graph, net.columns if keep is None else keep)}
    for (i, j), inputs in net.graph:
        node, pale = _node(i, j), (i, j) not in kept
        kind = "encoder" if not j else "decoder" if i + j == last else "skip"
        design.nodes[node] = Mark(i + 2 * j, i, f"$X^{{{i},{j}}}$", kind, pale=pale)
        for source, link in inputs:
            own = design.colour if kind == "skip" else None  # what feeds a skip's node is its own
            design.links.append(Link(_node(*source), node, link, own, pale))
    heads = net.columns if keep is None else keep
    design.heads = {_node(0, j): "black" for j in heads}
    return design


def additions(depth: int, title: str = "") -> Design:
    """UNet++ with its three additions to U-Net in the colours of `ADDITIONS`, the rest in grey."""
    paths, dense, supervised = ADDITIONS.values()
    with torch.device("meta"):
        design = _family(NestedUNet("unet++", depth, deep_supervision=True), title, None)
    for node, mark in design.nodes.items():
        design.nodes[node] = replace(mark, colour=paths if mark.kind == "skip" else None)
    for k, link in enumerate(design.links):
        start, end = link.source[2], link.target[2]
        between = design.nodes[link.target].kind == "skip"
        colour = paths if between and link.kind == "up" else None
        if link.kind == "skip" and (start or between):  # the rest is U-Net's own
            colour = paths if end - start == 1 else dense
        design.links[k] = replace(link, colour=colour or OLD)
    design.heads = {node: supervised if node[2] < depth else "black" for node in design.heads}
    return design


def _thin(net: ThinUnet, title: str) -> Design:
    skip, levels = net.decoder.skip, net.decoder.levels
    name = net.config.get("skip")  # a UnetV2 has none, for its skip is SDI
    name = name or ("sdi-released" if net.config["released"] else "sdi")
    design = Design(title, COLOURS.get(name, OTHERS[0]))
    dense, finest = isinstance(skip, NestedSkip), levels - len(skip.out_channels)
    step, right = (1, 2 * levels) if dense else (0.45, 5.2)
    for i in range(levels):
        design.nodes["f", i, 0] = Mark(i * step, i, f"$f_{i}$", "encoder")
        design.nodes["y", i, 0] = Mark(right - i * step, i, f"$y_{i}$", "decoder")
    if dense:
        ends = _nodes_of_unetpp(design, skip.graph, len(skip.out_channels), finest)
    else:
        widths = _widths(net.encoder)[-levels:][finest:]
        ends = _nodes_of_levels(design, skip, widths, range(finest, levels))
    for i in range(levels):
        if i in ends:
            design.links.append(Link(ends[i], ("y", i, 0), "skip"))
        if i < levels - 1:
            design.links.append(Link(("f", i, 0), ("f", i + 1, 0), "down"))
            design.links.append(Link(("y", i + 1, 0), ("y", i, 0), "up"))
    for i in range(1 + len(net.supervision_heads)):
        design.heads["y", i, 0] = "black"
    return design


def _nodes_of_unetpp(design: Design, nodes: Graph, count: int, finest: int) -> dict[int, Node]:
    """Draw UNet++'s nodes; the last node of each level, which the decoder takes."""
    ends = {i + finest: _node(i + finest, 0) for i in range(count)}
    for (i, j), inputs in sorted(nodes):
        level = i + finest
        label = f"$X^{{{level},{j}}}$"
        design.nodes[_node(level, j)] = Mark(level + 2 * j, level, label, "skip")
        for (a, b), kind in inputs:
            link = Link(_node(a + finest, b), _node(level, j), kind, design.colour)
            design.links.append(link)
        ends[level] = _node(level, j)
    return ends


def _nodes_of_levels(
    design: Design, skip: nn.Module, widths: Sequence[int], levels: Sequence[int], x: float = 2.6
) -> dict[int, Node]:
    """Draw a node for each level that others reach; the node of each that the decoder takes.

    `levels`: those of the encoder that the skip takes, of these `widths`.
    """
    ends, sign = {}, SIGNS.get(getattr(skip, "combine", None), "s")
    for i, found in zip(levels, _reach(skip, widths), strict=True):
        sources = [levels[j] for j in found]
        ends[i] = ("f", i, 0)
        if sources != [i]:
            ends[i] = ("x", i, 1)
            design.nodes[ends[i]] = Mark(x, i, sign, "skip")
            design.links += [Link(("f", j, 0), ends[i], "skip") for j in sources]
    return ends


def _seam(net: SegmentationModel, title: str) -> Design:
    """A network of smp: its encoder's levels, the skip if it has one, its decoder as a whole."""
    wrapped = isinstance(net.encoder, SkipEncoder)
    inner = net.encoder.encoder if wrapped else net.encoder
    widths, levels = inner.out_channels[1:], len(inner.out_channels) - 1
    found = wrapped and parts("thin+" + net.config["encoder_name"].partition("@")[0])
    whole = type(net).__name__.removeprefix("Supervised").removeprefix("Upsampled")
    plain = palette([f"smp-{whole.lower()}"]).popitem()[1]
    design = Design(title, COLOURS.get(found.skip, OTHERS[0]) if found else plain)
    for i, n in enumerate(widths):
        label = f"{n}" if n else "0"
        design.nodes["f", i, 0] = Mark(0.3 * i, i, label, "encoder" if n else "gap")
        design.notes.append((-1.35, i, f"stride {2 ** (i + 1)}"))
        if i:
            design.links.append(Link(("f", i - 1, 0), ("f", i, 0), "down"))
    ends = {i: ("f", i, 0) for i in range(levels)}
    if wrapped:
        taken = net.encoder.taken
        ends |= _nodes_of_levels(design, net.encoder.skip, [widths[i] for i in taken], taken, 3)
    label = PYRAMID.get(whole.lower(), whole)
    design.nodes["y", 0, 0] = Mark(5, (levels - 1) / 2, label, "whole")
    for i in _read_by(net):
        design.links.append(Link(ends[i], ("y", 0, 0), "skip"))
    return design


def _grid(net: SegmentationModel, title: str) -> Design:
    """UNet++ of smp, or UNet+: X^{i,j}, level 0 at stride 2, its channels; empty nodes are gaps."""
    widths = net.encoder.out_channels[1:]
    last, blocks = len(widths) - 1, net.decoder.blocks
    design = Design(title, COLOURS["nested"])
    for (i, j), inputs in graph(getattr(net.decoder, "member", "unet++"), last):
        n = widths[i]
        if j:
            n = 0 if blocks[f"x_{last - i - j}_{last - 1 - i}"].is_empty else n
        if i + j == last and j:
            n = blocks[f"x_0_{last - 1 - i}"].conv2[0].out_channels
        kind = "encoder" if not j else "decoder" if i + j == last else "skip"
        design.nodes[_node(i, j)] = Mark(i + 2 * j, i, f"{n}", kind if n else "gap")
        for source, link in inputs:
            own = design.colour if kind == "skip" else None
            empty = not n or design.nodes[_node(*source)].kind == "gap"
            design.links.append(Link(_node(*source), _node(i, j), link, own, pale=empty))
    heads = getattr(net, "columns", [last])
    design.heads = {_node(0, j): "black" for j in heads}
    return design


def inside(skip: SDI | Copy, level: int, title: str) -> Design:
    """How `skip` makes the map of one level, step by step: Fig. 1(b) of the U-Net v2 paper.

    Level 2 of four is the figure's l = 3, which the paper counts from 1.

    Raises:
        TypeError: a skip without these steps.
        ValueError: a level that the skip has not.
    """
    if not isinstance(skip, SDI | Copy) or isinstance(skip, MatchedCopy):
        raise TypeError(f"{type(skip).__name__} is not made of the steps of SDI or of the copy")
    count = len(skip.out_channels)
    if not 0 <= level < count:
        raise ValueError(f"level {level} is not one of the skip's {count}: 0 to {count - 1}")
    product = isinstance(skip, SDI)
    colour = COLOURS["sdi" if product else "copy"]
    design = Design(title, colour)
    heads = {"attention": "attend\nEq. 1", "reduce": "reduce\nto c"}
    heads |= {"resize": "resize\nEq. 2", "theta": "smooth\nEq. 3"}
    steps = [s for s in heads if s != "attention" or len(skip.attention[0])]
    steps = [s for s in steps if s != "resize" or product]
    for j in range(count) if product else [level]:
        chain = [("f", j, 0)]
        design.nodes[chain[0]] = Mark(0, j, f"$f_{j}^0$", "encoder")
        for x, step in enumerate(steps, start=1):
            chain.append((step, j, x))
            design.nodes[chain[-1]] = Mark(1.55 * x, j, _words(step, level, j), "step")
        design.links += [Link(a, b, "skip") for a, b in pairwise(chain)]
        if product:
            design.links.append(Link(chain[-1], ("x", level, 0), "skip"))
    right = 1.55 * len(steps) + 1.5
    if product:
        combine = {"product": "multiply", "sum": "add", "concat": "join"}[skip.combine]
        design.nodes["x", level, 0] = Mark(right, level, SIGNS[skip.combine], "skip")
        design.notes.append((right, -0.8, f"{combine}\nEq. 4"))
    end = ("x", level, 0) if product else chain[-1]
    design.nodes["y", level, 0] = Mark(right + 1.3, level, f"$f_{level}^5$", "decoder")
    design.links.append(Link(end, ("y", level, 0), "skip"))
    top = -0.8 if product else level - 0.8
    design.notes += [(1.55 * x, top, heads[step]) for x, step in enumerate(steps, start=1)]
    return design


def _words(step: str, level: int, j: int) -> str:
    """What stands in the box of a step, for source level j."""
    if step == "resize":
        factor = 2 ** abs(level - j)
        return f"D: 1/{factor}" if j < level else f"U: ×{factor}" if j > level else "I"
    words = {"attention": r"$\phi^c\phi^s$", "reduce": "1×1", "theta": rf"$\theta_{{{level}{j}}}$"}
    return words[step]


def _node(i: int, j: int) -> Node:
    return "x" if j else "f", i, j


def _widths(encoder: nn.Module) -> list[int]:
    return [n for n in encoder.out_channels[1:] if n > 0]


def _reach(skip: nn.Module, widths: Sequence[int]) -> list[list[int]]:
    """For each level of the skip the levels that its result depends on, found by gradients."""
    count, device = len(widths), next(skip.parameters()).device
    maps = [torch.rand(1, n, 2 ** (count - i), 2 ** (count - i)) for i, n in enumerate(widths)]
    maps = [m.to(device).requires_grad_() for m in maps]
    return [_dependence(result, maps) for result in _still(skip)(maps)]


def _read_by(net: SegmentationModel) -> list[int]:
    """The levels that a decoder of smp reads, found by gradients; level 0 has stride 2."""
    image = torch.rand(2, net.encoder.out_channels[0], 128, 128)
    maps = _still(net.encoder)(image.to(next(net.parameters()).device))
    maps = [f.detach().requires_grad_() for f in maps]
    found = _dependence(_still(net.decoder)(maps), maps)
    return [i - 1 for i in found if i and maps[i].shape[1]]


def _still(module: nn.Module) -> Callable[[list[Tensor]], Tensor | list[Tensor]]:
    """A copy in eval mode, so that nothing of the module changes."""
    return copy.deepcopy(module).eval()


def _dependence(result: Tensor, maps: list[Tensor]) -> list[int]:
    gradients = torch.autograd.grad(result.sum(), maps, allow_unused=True, retain_graph=True)
    return [k for k, gradient in enumerate(gradients) if gradient is not None]
