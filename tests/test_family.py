"""The UNet++ family against the papers' counts, a computation by hand, and its own pruned parts."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from unetv2.networks.family import WIDE, NestedUNet, average
from unetv2.skips.graph import MEMBERS, graph, needed
from unetv2.training.losses import hybrid

PLAIN = {"deep_supervision": False}
DRISHTI = {
    "in_channels": 3,
    "filters": (64, 128, 256, 512, 1024),
    "norm": True,
    "up": "linear",
    "dropout": 0.0,
}
NST = {**DRISHTI, "filters": (32, 64, 128, 256, 512)}


def meta(**options):
    with torch.device("meta"):
        return NestedUNet(**{"deep_supervision": True, **options})


def count(model):
    return sum(p.numel() for p in model.parameters())


def tiny(member="unet++", depth=3, deep_supervision=True, **options):
    torch.manual_seed(0)
    filters = (2, 3, 4, 5, 6)[: depth + 1]
    return NestedUNet(member, depth, filters=filters, deep_supervision=deep_supervision, **options)


def macs(model, size=96):
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 1, *[size] * model.config["dims"]))
    return counter.get_total_flops() / 2


# TMI, Table I, and the totals behind it
COUNTS = [
    (100_961, {"member": "unet", "depth": 1}),
    (465_953, {"member": "unet", "depth": 2}),
    (1_925_025, {"member": "unet", "depth": 3}),
    (7_759_521, {"member": "unet"}),
    (8_728_356, {"member": "unet-e"}),
    (8_728_257, {"member": "unet+", **PLAIN}),
    (8_728_356, {"member": "unet+"}),
    (9_041_601, PLAIN),
    (9_041_700, {}),
    (9_282_246, {"member": "unet", "filters": WIDE}),
    (511_105, {"depth": 2, **PLAIN}),
    (2_204_961, {"depth": 3, **PLAIN}),
    (22_575_329, {"member": "unet", "dims": 3}),
    (27_006_176, {"member": "unet", "dims": 3, "filters": WIDE}),
    (25_258_241, {"member": "unet+", "dims": 3, **PLAIN}),
    (26_198_273, {"dims": 3, **PLAIN}),
    (36_629_633, {**DRISHTI, **PLAIN}),
    (36_629_633 + 2 * 65, {**DRISHTI, **PLAIN, "classes": 3}),
    (7_852_545, {"member": "unet", **NST}),
    (9_163_329, {**NST, **PLAIN}),
    (9_163_329 + 99, NST),
]


@pytest.mark.parametrize(("expected", "options"), COUNTS, ids=lambda value: str(value))
def test_parameter_counts(expected, options):
    assert count(meta(**options)) == expected


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (gmacs, {"member": "unet", "depth": d})
        for d, gmacs in enumerate((0.489, 0.890, 1.291, 1.692), 1)
    ]
    + [(gmacs, {"output": d}) for d, gmacs in enumerate((0.489, 1.249, 2.452, 4.184), 1)]
    + [(3.335, {"member": "unet-e"}), (3.334, {"member": "unet+", **PLAIN})]
    + [(2.024, {"member": "unet", "filters": WIDE})],
    ids=str,
)
def test_macs_at_96(expected, options):
    assert macs(meta(**options).eval()) / 1e9 == pytest.approx(expected, abs=6e-4)


def test_one_head_costs_what_the_pruned_model_costs():
    full = meta().eval()
    for d in (1, 2, 3):
        full.output = d
        assert macs(full) == macs(full.prune(d))
    assert 1 - macs(full.prune(3)) / macs(full.prune(4)) == pytest.approx(0.414, abs=5e-4)
    assert 1 - count(full.prune(3)) / count(full.prune(4)) == pytest.approx(
        0.756, abs=5e-4
    )  # "75.6 % smaller"


def test_graph_of_depth_2():
    encoder = [((0, 0), []), ((1, 0), [((0, 0), "down")]), ((2, 0), [((1, 0), "down")])]
    x01 = ((0, 1), [((1, 0), "up"), ((0, 0), "skip")])
    x11 = ((1, 1), [((2, 0), "up"), ((1, 0), "skip")])
    up = ((1, 1), "up")
    x02 = {
        "unet": ((0, 2), [up, ((0, 0), "skip")]),
        "unet-e": ((0, 2), [up, ((0, 0), "skip")]),
        "unet+": ((0, 2), [up, ((0, 1), "skip")]),
        "unet++": ((0, 2), [up, ((0, 0), "skip"), ((0, 1), "skip")]),
    }
    for member in MEMBERS:
        expected = [*encoder, x11, x02[member]] + ([] if member == "unet" else [x01])
        assert sorted(graph(member, 2)) == sorted(expected)
    assert [node for node, _ in needed(graph("unet-e", 2), [1])] == [(0, 0), (1, 0), (0, 1)]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("depth", [1, 4])
def test_graph_can_be_computed_in_its_order(member, depth):
    done = set()
    for node, inputs in tiny(member, depth).graph:
        assert all(source in done for source, _ in inputs)
        done.add(node)
    assert len(done) == (2 * depth + 1 if member == "unet" else (depth + 1) * (depth + 2) // 2)


@pytest.mark.parametrize("member", MEMBERS)
def test_forward_by_hand(member):
    """Depth 2, written out: what is pooled, upsampled and concatenated, in the paper's order."""
    net = tiny(member, 2, dropout=0.5).eval()
    x = torch.rand(2, 1, 8, 12)

    def unit(node, *inputs):
        first, second = (m for m in net.nodes[node].unit if isinstance(m, torch.nn.Conv2d))
        z = F.relu(F.conv2d(torch.cat(inputs, 1), first.weight, first.bias, padding=1))
        return F.relu(F.conv2d(z, second.weight, second.bias, padding=1))

    def up(node, z):
        return F.conv_transpose2d(z, net.nodes[node].up.weight, net.nodes[node].up.bias, stride=2)

    x00 = unit("x_0_0", x)
    x10 = unit("x_1_0", F.max_pool2d(x00, 2))
    x20 = unit("x_2_0", F.max_pool2d(x10, 2))
    x11 = unit("x_1_1", up("x_1_1", x20), x10)
    if member != "unet":
        x01 = unit("x_0_1", up("x_0_1", x10), x00)
    skips = {
        "unet": lambda: [x00],
        "unet-e": lambda: [x00],
        "unet+": lambda: [x01],
        "unet++": lambda: [x00, x01],
    }
    x02 = unit("x_0_2", up("x_0_2", x11), *skips[member]())
    net.output = 2
    torch.testing.assert_close(net(x), F.conv2d(x02, net.heads["2"].weight, net.heads["2"].bias))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("up", ["deconv", "linear"])
def test_train_mode_gives_all_heads_deepest_first(dims, up):
    net = tiny(depth=2, dims=dims, classes=3, in_channels=2, up=up, dropout=0)
    x = torch.rand(2, 2, *(8, 4, 12)[:dims])
    outputs = net(x)
    assert [tuple(z.shape) for z in outputs] == [(2, 3, *x.shape[2:])] * 2
    hybrid(outputs, torch.randint(3, (2, *x.shape[2:]))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.heads.parameters())
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    for z, j in zip(outputs, (2, 1), strict=True):
        net.output = j
        assert torch.equal(net(x), z)


def test_plain_models_return_one_tensor():
    x = torch.rand(1, 1, 8, 8)
    for net in (tiny("unet"), tiny("unet++", deep_supervision=False), tiny("unet-e", depth=1)):
        assert net(x).shape == x.shape == net.eval()(x).shape


@pytest.mark.parametrize("classes", [1, 4])
def test_averaged_output_is_the_mean_of_the_heads_probabilities(classes):
    net = tiny(classes=classes, dropout=0).double()
    x = torch.rand(2, 1, 16, 8, dtype=torch.float64)
    p = torch.sigmoid if classes == 1 else lambda z: torch.softmax(z, 1)
    mean = torch.stack([p(z) for z in net(x)]).mean(0)
    torch.testing.assert_close(p(net.eval()(x)), mean)
    # heads that are sure and agree: no infinities on the way
    assert average([torch.full((1, 1, 1, 1), -200.0)] * 2).item() == pytest.approx(-200)


@pytest.mark.parametrize("member", ["unet-e", "unet+", "unet++"])
@pytest.mark.parametrize("options", [{}, {"norm": True, "up": "linear"}, {"dims": 3}], ids=str)
def test_pruned_model_equals_the_head_to_the_bit(member, options):
    net = tiny(member, **options)
    x = torch.rand(2, 1, *(16, 8, 8)[: net.config["dims"]])
    net(x)  # running statistics
    net.eval()
    for d in (1, 2, 3):
        net.output = d
        small = net.prune(d)
        assert torch.equal(small(x), net(x))
        fresh = NestedUNet(**small.config)
        assert count(small) == count(fresh)
        assert small.config["member"] == ("unet" if member == "unet-e" else member)
        small.train()(x).sum().backward()
        assert all(
            p.grad is not None for p in small.parameters()
        )  # nothing left that is not needed
        with torch.no_grad():
            next(small.parameters()).zero_()
        assert next(net.parameters()).any()  # a copy: the full model is as it was
    assert list(net.heads) == ["3", "2", "1"]


def test_pruned_model_saves_loads_and_exports(tmp_path):
    net = tiny().eval()
    small = net.prune(2)
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    again = NestedUNet(**small.config).eval()
    again.load_state_dict(load_file(tmp_path / "small.safetensors"))
    x = torch.rand(1, 1, 8, 12)
    assert torch.equal(again(x), small(x))

    program = torch.export.export(small, (x,))
    torch.testing.assert_close(program.module()(x), small(x))
    torch.onnx.export(program, (x,), tmp_path / "small.onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, small(x).detach().numpy(), atol=1e-5)


def test_checkpoint_of_another_member_names_both():
    shapes = [
        {k: v.shape for k, v in tiny(m).state_dict().items() if k != "_extra_state"}
        for m in ("unet-e", "unet+")
    ]
    assert shapes[0] == shapes[1]  # so that nothing but the mark tells them apart
    net = tiny("unet+")
    before = net.nodes["x_0_0"].unit[0].weight.clone()
    with pytest.raises(ValueError, match=r"'unet-e'.*'unet\+'"):
        net.load_state_dict(tiny("unet-e").double().state_dict())
    assert torch.equal(net.nodes["x_0_0"].unit[0].weight, before)
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict(tiny("unet+", depth=2).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"member": "unet+++"}, "unknown member.*'unet\\+\\+'"),
        ({"depth": 0}, "depth=0 .*1 to 4"),
        ({"depth": 5}, "depth=5 .*1 to 4"),
        ({"classes": 0}, "classes=0"),
        ({"dims": 4}, "dims=4"),
        ({"up": "nearest"}, "unknown upsampling.*linear"),
        ({"output": 5}, "no head 5.*1, 2, 3, 4"),
        ({"output": "mean"}, "no head 'mean'"),
        ({"output": 2, **PLAIN}, r"no head 2.*\[4\]"),
        ({"member": "unet-e", **PLAIN}, "member='unet'"),
    ],
    ids=str,
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        meta(**options)


def test_bad_pruning():
    with pytest.raises(ValueError, match="no head 5"):
        tiny().prune(5)
    with pytest.raises(ValueError, match="no head 0"):
        tiny().prune(0)
    for net in (tiny(deep_supervision=False), tiny("unet")):
        with pytest.raises(
            ValueError, match=r"no shallower node has been trained.*deep_supervision=True"
        ):
            net.prune(2)


def test_bad_sizes():
    with pytest.raises(ValueError, match=r"\(96, 100\).*2\^3 = 8.*\(96, 104\)"):
        tiny()(torch.rand(1, 1, 96, 100))
    with pytest.raises(ValueError, match=r"\(8, 9, 16\).*\(8, 16, 16\)"):
        tiny(dims=3)(torch.rand(1, 1, 8, 9, 16))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\).*\(1, 16, 16\)"):
        tiny()(torch.rand(1, 16, 16))


def test_supervised_training_teaches_every_head():
    """A bright disc on noise: after 60 steps the mean and each head, pruned, find it."""
    torch.manual_seed(0)
    grid = torch.linspace(-1, 1, 16)
    y = ((grid[:, None] ** 2 + grid[None] ** 2) < 0.3).float().expand(4, 1, 16, 16)
    x = y + 0.5 * torch.randn(4, 1, 16, 16)
    net = NestedUNet(filters=(8, 16, 32), dropout=0.1, deep_supervision=True)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        hybrid(net(x), y).backward()
        optimiser.step()
    net.eval()
    for model in (net, net.prune(1), net.prune(2)):
        mask = model(x) > 0
        assert 2 * (mask * y).sum() / (mask.sum() + y.sum()) > 0.9
