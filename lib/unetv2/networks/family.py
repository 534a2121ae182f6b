"""The UNet++ family as one graph.

The links of each member are in `skips.graph`. Every node X^{i,j} is the same unit of two
convolutions; X^{i,0} = unit(pool(X^{i-1,0})) is the encoder, in every member.

A 1x1 head on each top node X^{0,1..L} trains every depth at once (deep supervision). The heads'
mean is the papers' accurate mode; the part of the graph that one head needs is the fast one, and
`prune` cuts it out.

Papers: Zhou et al., "UNet++: Redesigning skip connections to exploit multiscale features in image
segmentation", IEEE TMI 2020 (TMI); "UNet++: a nested U-Net architecture for medical image
segmentation", DLMIA 2018 (DLMIA). Written from the papers; the authors' code is for non-commercial
use and no part of this. The parameter counts equal TMI's Tables I and IV, except for the wide U-Net
(Table IV: 9.1 M, DLMIA: 9.13 M): 9,282,246, as in the authors' code.
"""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import unknown
from ..skips.graph import Node, graph, needed

__all__ = ["WIDE", "Heads", "NestedUNet", "average"]

WIDE = (35, 70, 140, 280, 560)  # filters of the wide U-Net


class _Node(nn.Module):
    """X^{i,j}: pool the "down" input or upsample the "up" input, concatenate the skips, apply the
    unit.
    """

    def __init__(
        self, cin: int, k: int, skips: int, dims: int, norm: bool, up: str, dropout: float
    ):
        super().__init__()
        if skips and up == "deconv":
            self.up = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 2](cin, k, 2, stride=2)
            cin = k
        elif skips:
            self.up = nn.Upsample(
                scale_factor=2, mode=("bilinear", "trilinear")[dims - 2], align_corners=True
            )
        layers: list[nn.Module] = []
        for channels in (cin + skips * k, k):
            layers.append((nn.Conv2d, nn.Conv3d)[dims - 2](channels, k, 3, padding=1))
            layers += [(nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](k)] if norm else []
            layers += (
                [nn.ReLU(inplace=True), nn.Dropout(dropout)] if dropout else [nn.ReLU(inplace=True)]
            )
        self.unit = nn.Sequential(*layers)

    def forward(self, first: Tensor, skips: list[Tensor]) -> Tensor:
        if skips:
            first = torch.cat([self.up(first), *skips], dim=1)
        return self.unit(first)


class Heads:
    """Mixin for a model with heads on the top nodes X^{0,j}: which of them are used."""

    columns: list[int]  # the heads' j, deepest first
    training: bool

    @property
    def output(self) -> int | str:
        """What eval mode returns: "averaged" (the mean of the heads) or the j of one head."""
        return self._output

    @output.setter
    def output(self, value: int | str) -> None:
        if value != "averaged":
            self.check_head(value)
        self._output = value

    @property
    def active(self) -> list[int]:
        """The heads that the next forward pass computes."""
        return self.columns if self.training or self.output == "averaged" else [self.output]

    def check_head(self, j: int, prune: bool = False) -> None:
        """A ValueError if there is no head j, or if there is one head only and the model is to be
        pruned.
        """
        if prune and len(self.columns) == 1:
            reason = "no shallower node has been trained to give a mask"
            raise ValueError(
                f"cannot prune a model with one head: {reason}; train it with deep_supervision=True"
            )
        if j not in self.columns:
            raise ValueError(f"no head {j!r}: this model has {sorted(self.columns)}")


class NestedUNet(Heads, nn.Module):
    """Any member of the UNet++ family, in 2-D or 3-D.

    Args:
        member: "unet", "unet-e" (U-Net^e), "unet+" or "unet++".
        depth: L, the number of poolings: 1 to len(filters) - 1. None: all.
        in_channels: channels of the image.
        classes: 1 for a binary mask (sigmoid), else the number of classes with the background
            (softmax).
        filters: k_i, the width of level i; Table I has 32 * 2^i, the wide U-Net `WIDE`.
        dims: 2 or 3. The papers' "V-Net" is the 3-D U-Net of this graph.
        deep_supervision: a head on every top node, else on the deepest alone. U-Net^e cannot do
            without, and a U-Net has but one top node.
        output: what the model returns in eval mode, "averaged" or the j of one head. May be set at
            any time; nodes that it does not need are not computed.
        norm: batch normalisation after each convolution. Table I's networks have none; the
            Drishti-GS form has.
        up: "deconv", a 2x2 transposed convolution of stride 2 to k_i channels (Table I), or
            "linear", bilinear or trilinear with aligned corners, which keeps the channels. The
            wider form of the Drishti-GS article is NestedUNet(in_channels=3, filters=(64, 128, 256,
            512, 1024), norm=True, up="linear", dropout=0).
        dropout: after each ReLU; 0.5 in the authors' code, which also has an L2 penalty of 1e-4 on
            the kernels: give that to the optimiser.

    Shape:
        (N, in_channels, H, W) or (N, in_channels, D, H, W), sides multiples of 2^L -> logits (N,
        classes, same sides). In train mode with several heads: the list of their logits, deepest
        first: X^{0,L}, ..., X^{0,1}.

    Attributes:
        graph: nodes and links as data, see `graph()`.
        columns: the j of the top nodes with a head, deepest first.

    Raises:
        ValueError: unknown member or up; depth, head or dims out of range; no classes; sides that
            do not divide; on loading, a checkpoint of another member.
    """

    def __init__(
        self,
        member: str = "unet++",
        depth: int | None = None,
        in_channels: int = 1,
        classes: int = 1,
        filters: Sequence[int] = (32, 64, 128, 256, 512),
        dims: int = 2,
        deep_supervision: bool = False,
        output: int | Literal["averaged"] = "averaged",
        norm: bool = False,
        up: Literal["deconv", "linear"] = "deconv",
        dropout: float = 0.5,
    ):
        super().__init__()
        depth = len(filters) - 1 if depth is None else depth
        if not 1 <= depth < len(filters):
            allowed = f"the {len(filters)} filters allow 1 to {len(filters) - 1}"
            raise ValueError(f"depth={depth} is out of range: {allowed}")
        if min(classes, in_channels) < 1:
            given = f"classes={classes}, in_channels={in_channels}"
            raise ValueError(f"{given}: at least 1; a binary mask is 1 class")
        if dims not in (2, 3):
            raise ValueError(f"dims={dims}: the family is built for 2 or 3 dimensions")
        if up not in ("deconv", "linear"):
            raise unknown("upsampling", up, ("deconv", "linear"))
        if member == "unet-e" and depth > 1 and not deep_supervision:
            reason = "U-Net^e without deep supervision trains one of its U-Nets only"
            raise ValueError(f"{reason}: build member='unet'")
        self.graph = graph(member, depth)
        top = [j for (i, j), _ in reversed(self.graph) if i == 0 and j]
        self.columns = top if deep_supervision else [depth]
        k = tuple(filters[: depth + 1])
        self.config = {
            "member": member,
            "depth": depth,
            "in_channels": in_channels,
            "classes": classes,
            "filters": k,
            "dims": dims,
            "deep_supervision": len(self.columns) > 1,
            "norm": norm,
            "up": up,
            "dropout": dropout,
        }
        self.nodes = nn.ModuleDict()
        for (i, j), inputs in self.graph:
            cin = k[i + 1] if j else k[i - 1] if i else in_channels
            self.nodes[f"x_{i}_{j}"] = _Node(
                cin, k[i], max(len(inputs) - 1, 0), dims, norm, up, dropout
            )
        head = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.heads = nn.ModuleDict({str(j): head(k[0], classes, 1) for j in self.columns})
        self.output = output
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        self._check(x)
        features: dict[Node, Tensor] = {}
        for (i, j), inputs in needed(self.graph, self.active):
            first = features[inputs[0][0]] if inputs else x
            if i and not j:
                first = F.max_pool2d(first, 2) if x.ndim == 4 else F.max_pool3d(first, 2)
            features[i, j] = self.nodes[f"x_{i}_{j}"](
                first, [features[source] for source, _ in inputs[1:]]
            )
        logits = [self.heads[str(j)](features[0, j]) for j in self.active]
        return logits if self.training and len(logits) > 1 else average(logits)

    def prune(self, d: int) -> "NestedUNet":
        """The model of depth `d` inside this one: a copy of the same weights, without what head d
        does not need.

        Its logits equal, to the bit, this model's with `output = d`. U-Net^e leaves a U-Net.

        Raises:
            ValueError: a head out of range, or a model that has only one: it was trained without
                supervision.
        """
        self.check_head(d, prune=True)
        member = self.config["member"].replace("unet-e", "unet")
        with torch.device("meta"):  # the structure; the parts are copied
            small = NestedUNet(
                **self.config | {"member": member, "depth": d, "deep_supervision": False}
            )
        small.nodes = nn.ModuleDict({name: copy.deepcopy(self.nodes[name]) for name in small.nodes})
        small.heads = nn.ModuleDict({str(d): copy.deepcopy(self.heads[str(d)])})
        return small.train(self.training)

    def _check(self, x: Tensor) -> None:
        depth, dims = self.config["depth"], self.config["dims"]
        if x.ndim != dims + 2:
            raise ValueError(
                f"expected a batch (N, C, {'D, ' * (dims - 2)}H, W), got the shape {tuple(x.shape)}"
            )
        sides, step = tuple(x.shape[2:]), 2**depth
        if any(side % step for side in sides):
            larger = tuple(-(-side // step) * step for side in sides)
            raise ValueError(
                f"sides {sides} must be multiples of 2^{depth} = {step}: pad or resize to {larger}"
            )

    # The weights of U-Net^e and UNet+ have the same names and shapes, so a checkpoint has to say
    # whose it is: in its `_extra_state`, as a tensor, because safetensors holds nothing else.
    def get_extra_state(self) -> Tensor:
        name = self.config["member"].encode()
        return torch.tensor(list(name), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        found, own = bytes(state.tolist()).decode(), self.config["member"]
        if found != own:
            raise ValueError(
                f"the checkpoint is of {found!r}, the model is {own!r}: build that one"
            )


def _initialise(module: nn.Module) -> None:
    """He's normal initialisation for convolutions, Glorot's for transposed ones (no ReLU follows),
    biases 0.
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.xavier_uniform_(module.weight)
    else:
        return
    nn.init.zeros_(module.bias)


def average(logits: Sequence[Tensor]) -> Tensor:
    """The logits of the mean probability of several heads, each (N, classes, ...): the papers'
    accurate mode.

    Sigmoid (1 class) or softmax of the result is the mean of the heads' sigmoids or softmaxes, so
    that what follows need not know of the average. Computed in the log domain; a single head comes
    back as it is.
    """
    if len(logits) == 1:
        return logits[0]
    z = torch.stack(tuple(logits))
    if z.shape[2] == 1:
        return F.logsigmoid(z).logsumexp(0) - F.logsigmoid(-z).logsumexp(0)
    return F.log_softmax(z, dim=2).logsumexp(0)  # softmax ignores the constant -log(heads)
