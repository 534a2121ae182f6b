"""The drawings show what the networks compute."""

import matplotlib as mpl
import pytest
from torch import nn

from unetv2 import networks
from unetv2.networks import NestedUNet
from unetv2.skips.graph import MEMBERS, graph
from unetv2.teaching import diagrams, plots


def draw(name):
    return diagrams.of(networks.create_model(name, "tu-test_resnet"), name)


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
        ("thin+copy", {1}),
        ("thin+copy-matched", {1}),
        ("thin+nested", {1, 2, 3, 4}),
        ("thin+sdi", {1, 2, 3, 4}),
        ("unetv2", {1, 2, 3, 4}),
        ("thin+sum", {1, 2, 3, 4}),
        (f"thin+{__name__}:Down", {1, 2}),
    ],
)
def test_levels_that_reach_the_finest_skip(name, sources):
    design = draw(name)
    (finest,) = [a for a, b, skip in design.links if b == ("y", 1, 0) and skip]
    design.links = [link for link in design.links if link[2]]  # without the encoder's way down
    assert {j for j in range(1, 5) if design.paths(("f", j, 0), finest)} == sources


def test_gradient_paths_by_hand():
    def paths(name):
        design = draw(name)
        return [design.paths(("f", j, 0), ("y", 1, 0)) for j in range(1, 5)]

    # Copy: f_j goes on to f_j..f_4, and from each there is one way across and up.
    assert paths("thin+copy") == [4, 3, 2, 1]
    # SDI: each of f_j..f_4 enters four products, and from each product there is one way up.
    assert paths("thin+sdi") == [16, 12, 8, 4]
    # SDI on the two coarsest levels: f_1 and f_2 are on the way down to both of f_3 and f_4.
    assert paths("thin+sdi-l2") == [4, 4, 4, 2]


def test_a_design_has_the_colour_of_its_skip():
    names = ["thin+copy", "thin+copy-attention", "thin+nested", "unetv2", "thin+concat"]
    colours = plots.palette(names)
    for name in names:
        assert draw(name).colour == colours[name]
    assert diagrams.family("unet-e", 2, "").colour == colours["thin+copy"]
    assert diagrams.family("unet+", 2, "").colour == colours["thin+nested"]


def test_family_has_the_links_of_its_graph():
    for member in MEMBERS:
        design = diagrams.family(member, 4, member)
        inputs = [kind for _, links in graph(member, 4) for _, kind in links]
        assert len(design.links) == len(inputs)
        assert sum(skip for *_, skip in design.links) == inputs.count("skip")
    # Dense: every second Fibonacci number of ways from X^{0,0} to X^{0,L}.
    ways = [diagrams.family("unet++", d, "").paths(("f", 1, 0), ("x", 1, d)) for d in range(1, 6)]
    assert ways == [2, 5, 13, 34, 89]


def test_every_link_is_drawn():
    designs = [draw("thin+nested"), draw("thin+sdi")]
    figure = diagrams.draw(designs, columns=2, focus=1)
    for ax, design in zip(figure.axes, designs, strict=True):
        assert len(ax.patches) == len(design.links)


def test_nested_drawing_shows_every_link_and_greys_what_a_head_does_not_need():
    model = NestedUNet(filters=(1, 1, 1, 1))
    models = {"all heads": model, "head 1": model}
    whole, one = diagrams.nested(models, keep=[[3, 2, 1], [1]]).axes[:2]
    links = [kind for _, inputs in model.graph for _, kind in inputs]
    pale = mpl.colors.to_rgba(diagrams.PALE)
    assert len(whole.patches) == len(one.patches) == len(links)
    assert not any(arrow.get_edgecolor() == pale for arrow in whole.patches)
    # head 1 needs X^{0,0}, X^{1,0} and X^{0,1}: one pooling, one upsampling, one skip
    assert sum(arrow.get_edgecolor() != pale for arrow in one.patches) == 3
    shown = [text.get_text() for text in one.texts if text.get_color() != diagrams.PALE]
    assert shown == ["$X^{0,0}$", "$X^{1,0}$", "$X^{0,1}$"]
