"""The drawings show what the networks compute."""

import matplotlib as mpl
import pytest
import torch
from torch import nn

from unetv2 import networks
from unetv2.networks import NestedUNet
from unetv2.skips import SDI, Copy, NestedSkip
from unetv2.skips.graph import MEMBERS, graph
from unetv2.teaching import diagrams, plots


def of(name, encoder="tu-test_resnet"):
    return diagrams.of(networks.create_model(name, encoder), name)


def member(name, depth=4, **options):
    with torch.device("meta"):
        return diagrams.of(NestedUNet(name, depth, **options), name)


def kinds(design):
    return [mark.kind for mark in design.nodes.values()]


class Down(nn.Module):
    """A reader's own skip: each level and the next coarser one, which the last has not."""

    def __init__(self, in_channels, c=32):
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(n, c, 1) for n in in_channels)
        self.out_channels = (c,) * len(in_channels)

    def forward(self, features):
        maps = [reduce(f) for reduce, f in zip(self.reduce, features, strict=True)]
        above = [m.mean((2, 3), keepdim=True) for m in maps[1:]]
        return [m + coarser for m, coarser in zip(maps, above, strict=False)] + maps[-1:]


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("thin+copy", {0}),
        ("thin+copy-matched", {0}),
        ("thin+nested", {0, 1, 2, 3}),
        ("thin+sdi", {0, 1, 2, 3}),
        ("unetv2", {0, 1, 2, 3}),
        ("thin+sum", {0, 1, 2, 3}),
        (f"thin+{__name__}:Down", {0, 1}),
    ],
)
def test_levels_that_reach_the_finest_skip(name, sources):
    design = of(name)
    (finest,) = [k.source for k in design.links if k.target == ("y", 0, 0) and k.kind == "skip"]
    design.links = [link for link in design.links if link.kind != "down"]
    assert {j for j in range(4) if design.paths(("f", j, 0), finest)} == sources


def test_gradient_paths_by_hand():
    def paths(name):
        design = of(name)
        return [design.paths(("f", j, 0), ("y", 0, 0)) for j in range(4)]

    # Copy: f_j goes on to f_j..f_3, and from each there is one way across and up.
    assert paths("thin+copy") == [4, 3, 2, 1]
    # SDI: each of f_j..f_3 enters four products, and from each product there is one way up.
    assert paths("thin+sdi") == [16, 12, 8, 4]
    # SDI on the two coarsest levels: f_0 and f_1 are on the way down to both of f_2 and f_3.
    assert paths("thin+sdi-l2") == [4, 4, 4, 2]


def test_a_design_has_the_colour_that_its_model_has_everywhere():
    names = ["thin+copy", "thin+copy-attention", "thin+nested", "unetv2", "thin+concat"]
    colours = plots.palette(names)
    for name in names:
        assert of(name).colour == colours[name]
    assert of("smp-fpn+sdi").colour == colours["unetv2"]
    assert of("smp-fpn").colour == plots.palette(["smp-fpn"])["smp-fpn"]
    assert member("unet").colour == colours["thin+copy"]
    assert member("unet++").colour == colours["thin+nested"]
    assert member("unet+").colour == plots.palette(["tmi-unet+"])["tmi-unet+"]
    assert not {*diagrams.ADDITIONS.values()} & {*plots.COLOURS.values()}


def test_family_has_the_links_of_its_graph():
    for name in MEMBERS:
        design = member(name, deep_supervision=name == "unet-e")
        inputs = [kind for _, links in graph(name, 4) for _, kind in links]
        assert sorted(link.kind for link in design.links) == sorted(inputs)
        assert kinds(design).count("encoder") == 5 and kinds(design).count("decoder") == 4
        assert kinds(design).count("skip") == (0 if name == "unet" else 6)
    # Dense: every second Fibonacci number of ways from X^{0,0} to X^{0,L}.
    ways = [member("unet++", d).paths(("f", 0, 0), ("x", 0, d)) for d in range(1, 5)]
    assert ways == [2, 5, 13, 34]


def test_a_head_needs_what_lies_to_its_left_and_below():
    with torch.device("meta"):
        net = NestedUNet(deep_supervision=True)
    whole, one = diagrams.of(net, "all"), diagrams.of(net, "head 1", keep=[1])
    assert set(whole.heads) == {("x", 0, j) for j in (1, 2, 3, 4)}
    assert not any(link.pale for link in whole.links)
    assert {node for node, mark in one.nodes.items() if not mark.pale} == {
        ("f", 0, 0), ("f", 1, 0), ("x", 0, 1),
    }  # fmt: skip
    # one pooling, one upsampling, one skip
    assert sorted(link.kind for link in one.links if not link.pale) == ["down", "skip", "up"]


def test_additions_are_all_that_a_unet_has_not():
    design, old = diagrams.additions(4), member("unet")
    added = [link for link in design.links if link.colour in diagrams.ADDITIONS.values()]
    assert len(design.links) - len(added) == len(old.links)
    paths, dense, supervised = diagrams.ADDITIONS.values()
    assert sum(mark.colour == paths for mark in design.nodes.values()) == 6
    # jumps over a node: X^{i,k} -> X^{i,j} with j - k > 1, but for U-Net's own four
    assert sum(link.colour == dense for link in added) == 10 - 3
    assert sorted(design.heads.values()) == sorted([*[supervised] * 3, "black"])


def test_a_level_without_channels_is_a_gap():
    design = of("smp-unet+sdi", "tu-pvt_v2_b0")
    assert design.nodes["f", 0, 0].kind == "gap"
    assert not any(link.kind == "skip" and link.source == ("f", 0, 0) for link in design.links)
    grid = of("smp-unetplusplus", "tu-pvt_v2_b0")
    gaps = {node for node, mark in grid.nodes.items() if mark.kind == "gap"}
    assert gaps == {("f", 0, 0), ("x", 0, 1), ("x", 0, 2), ("x", 0, 3)}
    assert "gap" not in kinds(of("smp-unetplusplus-stride2", "tu-pvt_v2_b0"))


@pytest.mark.parametrize(("arch", "read"), [("unet", 5), ("fpn", 4), ("segformer", 5)])
def test_decoder_is_linked_to_the_levels_that_it_reads(arch, read):
    design = of(f"smp-{arch}+sdi")
    assert sum(link.target == ("y", 0, 0) for link in design.links) == read
    assert sum(link.target[0] == "x" for link in design.links) == 25


def test_inside_of_sdi_is_figure_1b():
    design = diagrams.inside(SDI([8, 8, 8, 8]), 2, "")
    words = [mark.label for node, mark in design.nodes.items() if node[0] == "resize"]
    assert words == ["D: 1/4", "D: 1/2", "I", "U: ×2"]  # the paper's l = 3
    assert [design.paths(("f", j, 0), ("y", 2, 0)) for j in range(4)] == [1, 1, 1, 1]
    assert kinds(design).count("step") == 16
    assert kinds(diagrams.inside(Copy([8, 8]), 1, "")) == ["encoder", "step", "step", "decoder"]
    plain = diagrams.inside(SDI([8, 8], attention=None, combine="sum"), 0, "")
    assert kinds(plain).count("step") == 6 and plain.nodes["x", 0, 0].label == "+"
    with pytest.raises(TypeError, match="NestedSkip"):
        diagrams.inside(NestedSkip([8, 8]), 0, "")
    with pytest.raises(ValueError, match="0 to 1"):
        diagrams.inside(Copy([8, 8]), 2, "")


def test_every_link_is_drawn_and_what_is_not_in_use_is_pale():
    designs = [of("thin+nested"), of("thin+sdi"), member("unet++")]
    figure = diagrams.draw(designs, columns=3, legend=True)
    for ax, design in zip(figure.axes, designs, strict=True):
        assert len(ax.patches) == len(design.links)
    with torch.device("meta"):
        cut = diagrams.of(NestedUNet(deep_supervision=True), "", keep=[1])
    (ax,) = diagrams.draw([cut], columns=1).axes
    pale = mpl.colors.to_rgba(diagrams.PALE)
    assert sum(arrow.get_edgecolor() != pale for arrow in ax.patches) == 3


def test_what_is_no_network_of_this_kind_is_refused():
    with pytest.raises(TypeError, match="Linear"):
        diagrams.of(nn.Linear(1, 1), "")


def test_every_architecture_that_takes_a_skip_can_be_drawn():
    read = {}
    for arch in ("deeplabv3plus", "pan", "manet"):
        design = of(f"smp-{arch}+sdi", "resnet18")
        ends = [link.source[1] for link in design.links if link.target == ("y", 0, 0)]
        read[arch] = sorted(ends)
    assert read == {"deeplabv3plus": [1, 4], "pan": [1, 2, 3, 4], "manet": [0, 1, 2, 3, 4]}
