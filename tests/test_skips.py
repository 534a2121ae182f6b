"""Skips: SDI's equations, its two forms and its options; what every skip keeps; a reader's own."""

import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from unetv2 import skips
from unetv2.skips import SDI, SKIPS, create_skip, label
from unetv2.skips.attention import ChannelAttention, SpatialAttention
from unetv2.skips.sdi import resize

PVT = (64, 128, 320, 512)


def pyramid(channels, size, batch=2, dtype=torch.float32, step=2):
    torch.manual_seed(0)
    height, width = size
    maps = []
    for n in channels:
        maps.append(torch.randn(batch, n, height, width, dtype=dtype))
        height, width = -(-height // step), -(-width // step)
    return maps


def test_equations_by_hand():
    """Two levels, one pixel each, one channel: every number of Eqs. 1-4 can be followed with a
    pencil.
    """
    sdi = SDI((1, 1), c=1, attention=None).eval()
    with torch.no_grad():
        for reduce, factor in zip(sdi.reduce, (2.0, 3.0), strict=True):
            reduce[0].weight.fill_(factor)
            reduce[1].eps = 0.0
        for i, row in enumerate(sdi.theta):
            for j, theta in enumerate(row):
                theta.weight.zero_()
                theta.weight[0, 0, 1, 1] = 1.0 + i
                theta.bias.fill_(0.5 * j)
        first, second = sdi([torch.full((1, 1, 1, 1), 5.0), torch.full((1, 1, 1, 1), 7.0)])
    assert first.item() == (1 * 10) * (1 * 21 + 0.5)
    assert second.item() == (2 * 10) * (2 * 21 + 0.5)


@pytest.mark.parametrize("attention", ["spatial-channel", "channel-spatial", None])
@pytest.mark.parametrize("combine", ["product", "sum", "concat"])
@pytest.mark.parametrize("size", [(32, 32), (33, 20), (8, 8)])
def test_the_efficient_form_equals_the_reading_form(attention, combine, size):
    sdi = SDI((8, 16, 24, 32), c=4, attention=attention, combine=combine).double()
    inputs = pyramid((8, 16, 24, 32), size, dtype=torch.float64)
    results = []
    for form in (sdi.equations, sdi):
        sdi.zero_grad()
        features = [f.clone().requires_grad_() for f in inputs]
        outputs = form(features)
        sum((o * torch.cos(torch.arange(o.numel()).view_as(o))).sum() for o in outputs).backward()
        gradients = [f.grad for f in features] + [p.grad.clone() for p in sdi.parameters()]
        results.append((outputs, gradients))
    for reading, efficient in zip(*results, strict=True):
        for a, b in zip(reading, efficient, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_attention_order_is_the_papers():
    """Eq. 1: f^1 = phi^c(phi^s(f^0)); the released code's order gives something else."""
    torch.manual_seed(0)
    f = torch.randn(2, 32, 8, 8)
    space, channel = SpatialAttention(), ChannelAttention(32)
    sdi = SDI((32,), attention="spatial-channel")
    sdi.attention[0][0].load_state_dict(space.state_dict())
    sdi.attention[0][1].load_state_dict(channel.state_dict())
    torch.testing.assert_close(sdi.attention[0](f), channel(space(f)))
    assert not torch.allclose(channel(space(f)), space(channel(f)), atol=1e-3)


def test_attention_scales_and_never_adds():
    f = torch.randn(2, 32, 8, 8)
    for phi in (SpatialAttention(), ChannelAttention(32)):
        ratio = phi(f) / f
        assert ((ratio > 0) & (ratio < 1)).all()


def test_resize_is_adaptive_pooling_identity_or_bilinear():
    f = torch.randn(1, 3, 12, 8)
    assert resize(f, (12, 8)) is f
    torch.testing.assert_close(resize(f, (6, 4)), F.avg_pool2d(f, 2))
    up = resize(f, (24, 16))
    torch.testing.assert_close(
        up[..., ::23, ::15], f[..., ::11, ::7]
    )  # align_corners: corners meet corners


def test_parameters_on_pvt_channels():
    """Counted from the released code: 229,512, of which 16 smoothing convolutions of 9,248; shared,
    4 of them.
    """
    count = {
        shared: sum(p.numel() for p in SDI(PVT, shared=shared).parameters())
        for shared in (False, True)
    }
    assert count == {False: 229_512, True: 229_512 - 12 * 9_248}


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 6])
def test_any_number_of_levels(levels):
    features = pyramid((16,) * levels, (40, 56))
    outputs = SDI((16,) * levels, c=8)(features)
    assert [o.shape for o in outputs] == [(2, 8, *f.shape[-2:]) for f in features]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_forward_and_backward(dtype):
    sdi = SDI((16, 32, 48), c=8).to(dtype)
    features = [f.requires_grad_() for f in pyramid((16, 32, 48), (16, 16), dtype=dtype)]
    outputs = sdi(features)
    sum(o.float().sum() for o in outputs).backward()
    assert all(o.isfinite().all() for o in outputs)
    assert all(f.grad.isfinite().all() for f in features)


def test_the_product_shrinks_the_signal_and_unit_bias_keeps_it():
    """FACTS A2: outputs of std 0.032, 0.023, 0.0089, 0.0014 on inputs of std 1, fine to coarse."""
    stds = {}
    for unit_bias in (False, True):
        runs = []
        for seed in range(5):
            torch.manual_seed(seed)
            sdi = SDI((32,) * 4, attention=None, unit_bias=unit_bias)
            with torch.no_grad():
                runs.append([o.std().item() for o in sdi(pyramid((32,) * 4, (64, 64), batch=4))])
        stds[unit_bias] = torch.tensor(runs).mean(0)
    published = torch.tensor([0.032, 0.023, 0.0089, 0.0014])
    assert ((stds[False] / published).log2().abs() < 1).all(), stds[
        False
    ]  # within a factor of 2, another random draw
    assert (stds[True] > 0.3).all() and (stds[True] < 1.5).all(), stds[True]


def test_unit_bias_changes_the_start_alone():
    torch.manual_seed(0)
    faithful = SDI((8, 8))
    torch.manual_seed(0)
    scaled = SDI((8, 8), unit_bias=True)
    assert faithful.state_dict().keys() == scaled.state_dict().keys()
    changed = {k for k, v in faithful.state_dict().items() if not v.equal(scaled.state_dict()[k])}
    assert changed == {"theta.0.1.bias", "theta.1.0.bias"}


def test_channels_last_gives_the_same():
    """Sizes apart by more than two: the efficient form sees maps, weights and gradients in the
    other layout.
    """
    torch.manual_seed(0)
    sdi = SDI([8, 16, 32], c=4)
    maps = [torch.randn(2, n, s, s) for n, s in ((8, 32), (16, 16), (32, 8))]
    expected = sdi(maps)
    sdi.to(memory_format=torch.channels_last)
    found = sdi([m.contiguous(memory_format=torch.channels_last) for m in maps])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_compile_gives_the_same():
    sdi, features = SDI((8, 16, 24), c=4).eval(), pyramid((8, 16, 24), (16, 16))
    compiled = torch.compile(sdi, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(features), sdi(features), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_compiled_backward_gives_the_same():
    sdi, inputs = SDI((8, 16), c=4, attention=None), pyramid((8, 16), (8, 8))
    gradients = []
    for form in (sdi, torch.compile(sdi, backend="aot_eager")):
        features = [f.clone().requires_grad_() for f in inputs]
        sum(o.square().sum() for o in form(features)).backward()
        gradients.append([f.grad for f in features])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_onnx_export_computes_the_same(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    sdi, features = SDI((8, 16, 24), c=4).eval(), pyramid((8, 16, 24), (16, 16), batch=1)
    torch.onnx.export(sdi, (features,), tmp_path / "sdi.onnx", dynamo=True, verbose=False)
    session = ort.InferenceSession(tmp_path / "sdi.onnx", providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    outputs = session.run(None, {n: f.numpy() for n, f in zip(names, features, strict=True)})
    for a, b in zip(outputs, sdi(features), strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"in_channels": (8, 8), "attention": "both"}, "attention must be"),
        ({"in_channels": (8, 8), "combine": "times"}, "combine must be"),
        ({"in_channels": (8, 8), "combine": "copy"}, "combine must be"),
        ({"in_channels": (8, 0)}, "levels of 1 channel or more"),
        ({"in_channels": ()}, "levels of 1 channel or more"),
        ({"in_channels": (8, 8), "c": 0}, "c >= 1"),
        ({"in_channels": (8, 8), "unit_bias": True, "shared": True}, "unit_bias"),
    ],
)
def test_wrong_options_say_what_is_valid(kwargs, words):
    with pytest.raises(ValueError, match=words):
        SDI(**kwargs)


def test_wrong_number_of_levels():
    with pytest.raises(ValueError, match="built for 2 levels, got 3"):
        SDI((8, 8))(pyramid((8, 8, 8), (8, 8)))


def test_the_product_in_fp16_is_taken_in_float32():
    """Four factors of 20 are 160,000; fp16 ends at 65,504."""
    sdi = SDI((8,) * 4, c=4, attention=None).half()
    with torch.no_grad():
        for theta in sdi.theta.parameters():
            theta.zero_()
        for row in sdi.theta:
            for theta in row:
                theta.bias.fill_(20)
        outputs = sdi([torch.ones(2, 8, 4, 4, dtype=torch.float16)] * 4)
    assert all((o == 160_000).all() for o in outputs)


@pytest.mark.parametrize("side", [16, 64, 256, 512])
def test_the_efficient_form_never_takes_more_multiply_adds(side):
    with torch.device("meta"):
        sdi, features = SDI(PVT, attention=None), pyramid(PVT, (side, side), batch=1)
    counts = []
    for form in (sdi.equations, sdi):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            form(features)
        counts.append(counter.get_total_flops())
    assert counts[1] <= counts[0]
    assert (
        counts[1] < 0.8 * counts[0] or side > 64
    )  # at the sizes of trainings it takes clearly less


@pytest.mark.parametrize("name", SKIPS)
def test_every_skip_keeps_sizes_and_gives_its_width_to_each_level(name):
    skip, features = create_skip(name, (8, 16, 24), c=4), pyramid((8, 16, 24), (17, 12))
    before = [f.clone() for f in features]
    outputs = skip(features)
    assert list(skip.out_channels) == [4, 4, 4]
    assert [o.shape for o in outputs] == [(2, 4, *f.shape[-2:]) for f in features]
    sum(o.square().sum() for o in outputs).backward()
    assert all(p.grad is not None for p in skip.parameters())
    assert all(f.equal(b) for f, b in zip(features, before, strict=True)), "inputs are left alone"


@pytest.mark.parametrize("name", SKIPS)
def test_a_copy_is_a_skip_in_which_no_level_sees_another(name):
    torch.manual_seed(0)
    skip, features = create_skip(name, (8, 8, 8), c=4).eval(), pyramid((8,) * 3, (16, 16))
    changed = [features[0], features[1] + 1, features[2]]
    with torch.no_grad():
        pairs = list(zip(skip(features), skip(changed), strict=True))
    alone = pairs[0][0].equal(pairs[0][1]) and pairs[2][0].equal(pairs[2][1])
    assert alone == name.startswith("copy")
    assert not pairs[1][0].equal(pairs[1][1])


@pytest.mark.parametrize("channels", [PVT, (24, 32, 96, 320), (64, 64, 128, 256, 512)])
@pytest.mark.parametrize("c", [8, 16, 32, 64])
def test_the_matched_copy_has_sdis_parameters_to_one_percent(channels, c):
    sdi, copy = (
        sum(p.numel() for p in create_skip(name, channels, c).parameters())
        for name in ("sdi", "copy-matched")
    )
    assert copy == pytest.approx(sdi, rel=0.01)


def test_nested_skip_by_hand():
    """Two levels: the finer one hands on X^{0,1} = H([U(X^{1,0}), X^{0,0}]), the coarser
    X^{1,0}.
    """
    skip, (fine, coarse) = create_skip("nested", (8, 16), c=4).eval(), pyramid((8, 16), (8, 8))
    x00, x10 = skip.reduce[0](fine), skip.reduce[1](coarse)
    up = F.interpolate(x10, (8, 8), mode="bilinear", align_corners=True)
    outputs = skip([fine, coarse])
    torch.testing.assert_close(outputs[0], skip.nodes["0_1"](torch.cat([up, x00], 1)))
    torch.testing.assert_close(outputs[1], x10)


OWN = """
from torch import nn

class Mine(nn.ModuleList):
    def __init__(self, in_channels, c):
        super().__init__(nn.Conv2d(n, c, 1) for n in in_channels)
        self.out_channels = (c,) * len(in_channels)

    def forward(self, features):
        return [conv(f) for conv, f in zip(self, features)]

class NoSkip(nn.Module):
    def __init__(self, in_channels, c):
        super().__init__()
"""


def test_a_skip_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_skips.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert [o.shape[1] for o in create_skip("my_skips:Mine", (8, 16), 4)(pyramid((8, 16), (8, 8)))]
    assert skips.label("my_skips:Mine") == "my_skips.Mine", "two modules may have a Mine each"
    assert skips.source("my_skips:Mine") == OWN and skips.source("sdi") is None
    with pytest.raises(
        ValueError, match=r"my_skips:NoSkip made no skip for 2 levels.*out_channels"
    ):
        create_skip("my_skips:NoSkip", (8, 16))
    with pytest.raises(ValueError, match=r"no attribute 'Other'.*PYTHONPATH"):
        create_skip("my_skips:Other", (8, 16))
    with pytest.raises(ValueError, match="unknown skip 'sdl'; did you mean 'sdi'"):
        create_skip("sdl", (8, 16))
    sys.modules.pop("my_skips")


def test_mdu_style_skip_by_hand():
    """Two levels: e_1 = H[r_1, R e_0], d_1 = H[e_1, R e_0], d_0 = H[e_0, R e_1, R d_1]."""
    skip, (fine, coarse) = create_skip("mdu-style", (8, 16), c=4).eval(), pyramid((8, 16), (8, 8))
    pool = partial(F.adaptive_avg_pool2d, output_size=4)
    up = partial(F.interpolate, size=(8, 8), mode="bilinear", align_corners=True)
    e0, r1 = skip.reduce[0](fine), skip.reduce[1](coarse)
    e1 = skip.down[0](torch.cat([r1, pool(e0)], 1))
    d1 = skip.up[1](torch.cat([e1, pool(e0)], 1))
    d0 = skip.up[0](torch.cat([e0, up(e1), up(d1)], 1))
    outputs = skip([fine, coarse])
    assert torch.equal(outputs[0], d0) and torch.equal(outputs[1], d1)


def test_mdu_style_links_neighbours_across_and_all_coarser_ones_on_the_way_up():
    skip = create_skip("mdu-style", (8,) * 4, c=2)
    assert [unit[0].in_channels for unit in skip.down] == [4, 6, 8]
    assert [unit[0].in_channels for unit in skip.up] == [10, 10, 8, 4]  # 2 + 3, 3 + 2, 3 + 1, 2 + 0
    assert "widths not public" in label("mdu-style")
