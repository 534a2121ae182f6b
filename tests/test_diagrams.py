"""The drawings show what the networks compute."""

import matplotlib as mpl
import pytest

from unetv2 import diagrams, models, nested


def build(name):
    return diagrams.of(models.build(name, "tu-test_resnet"), name)


@pytest.mark.parametrize(
    ("name", "sources"),
    [("unet", {1}), ("unetpp", {1, 2, 3, 4}), ("unetv2", {1, 2, 3, 4}), ("unetv2-sum", {1, 2, 3, 4})],
)
def test_levels_that_reach_the_finest_skip(name, sources):
    design = build(name)
    (finest,) = [a for a, b, skip in design.links if b == ("y", 1, 0) and skip]
    across = [(a, b, skip) for a, b, skip in design.links if skip]  # without the encoder's own way down
    design.links = across
    assert {j for j in range(1, 5) if design.paths(("f", j, 0), finest)} == sources


def test_gradient_paths_by_hand():
    # Copy: f_j goes on to f_j..f_4, and from each there is one way across and up.
    assert [build("unet").paths(("f", j, 0), ("y", 1, 0)) for j in range(1, 5)] == [4, 3, 2, 1]
    # SDI: each of f_j..f_4 enters four products, and from each product there is one way up.
    assert [build("unetv2").paths(("f", j, 0), ("y", 1, 0)) for j in range(1, 5)] == [16, 12, 8, 4]


def test_family_has_the_links_of_its_graph():
    for member in nested.MEMBERS:
        design = diagrams.family(member, 4, member)
        inputs = [kind for _, links in nested.graph(member, 4) for _, kind in links]
        assert len(design.links) == len(inputs)
        assert sum(skip for *_, skip in design.links) == inputs.count("skip")
    # Dense: every second Fibonacci number of ways from X^{0,0} to X^{0,L}.
    ways = [diagrams.family("unet++", d, "").paths(("f", 1, 0), ("x", 1, d)) for d in range(1, 6)]
    assert ways == [2, 5, 13, 34, 89]


def test_every_link_is_drawn():
    designs = [build("unetpp"), build("unetv2")]
    figure = diagrams.draw(designs, columns=2, focus=1)
    for ax, design in zip(figure.axes, designs, strict=True):
        assert len(ax.patches) == len(design.links)


def test_nested_drawing_shows_every_link_and_greys_what_a_head_does_not_need():
    model = nested.NestedUNet(filters=(1, 1, 1, 1))
    whole, one = diagrams.nested({"all heads": model, "head 1": model}, keep=[[3, 2, 1], [1]]).axes[:2]
    links = [kind for _, inputs in model.graph for _, kind in inputs]
    pale = mpl.colors.to_rgba(diagrams.PALE)
    assert len(whole.patches) == len(one.patches) == len(links)
    assert not any(arrow.get_edgecolor() == pale for arrow in whole.patches)
    # head 1 needs X^{0,0}, X^{1,0} and X^{0,1}: one pooling, one upsampling, one skip
    assert sum(arrow.get_edgecolor() != pale for arrow in one.patches) == 3
    assert [text.get_text() for text in one.texts if text.get_color() != diagrams.PALE] == [
        "$X^{0,0}$", "$X^{1,0}$", "$X^{0,1}$",
    ]  # fmt: skip
