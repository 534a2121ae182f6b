"""What models cost: the paper's Table 4 to its printed digits, and counts done by hand."""

import json
import weakref

import pytest
import torch
from torch import nn

from unetv2 import costs, networks
from unetv2.costs.command import main
from unetv2.skips import SDI
from unetv2.teaching import table4

SMALL = "tu-test_resnet"
X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(name: str, encoder: str) -> nn.Module:
    """As it is trained."""
    return networks.create_model(name, encoder, deep_supervision=networks.supervised(name))


def tiny() -> nn.Module:
    first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 1, 1, bias=False))


def printed(seen: dict, *parts: str) -> float:
    """torchinfo's estimate, as a reader adds up the rounded lines that it prints."""
    return sum(round(seen[f"info_{part}_bytes"] / 1e6, 2) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, params, operations, megabytes",
    [
        ("smp-unet-stride2", 28_149_009, 8.433, 478.82),
        ("smp-unetplusplus-stride2", 29_864_977, 19.121, 607.31),
    ],
)
def test_table_4_baselines(name, params, operations, megabytes):
    """U-Net v2 paper, Table 4: fvcore in train mode; torchinfo without the input."""
    model = build(name, "tu-pvt_v2_b2")
    seen = table4.counters(model, torch.rand(1, 3, 256, 256))
    assert sum(p.numel() for p in model.parameters()) == params
    assert round(seen["fvcore_train"] / 1e9, 3) == operations
    assert printed(seen, "params", "outputs") == pytest.approx(megabytes, abs=1e-9)


@pytest.mark.slow
def test_table_4_unetv2():
    """25.02 M and 5.399 G by thop on shared convolutions; 411.42 MB by torchinfo, two classes."""
    x = torch.rand(1, 3, 256, 256)
    one = table4.counters(table4.as_released(build("thin+sdi-shared", "tu-pvt_v2_b2")), x)
    assert one["thop_params"] == 25_017_676
    pools = sum(
        n * (side**2 + 1) for n, side in zip((64, 128, 320, 512), (64, 32, 16, 8), strict=True)
    )
    assert one["thop"] + pools == 5_399_307_904, "the released code's count, measured on it"
    assert round(one["thop"] / 1e9, 3) == 5.399
    # the second class adds its own heads' weights and outputs alone
    maps = sum(2 * 4 * side**2 for side in (64, 32, 16, 8))
    head = {"params": 4 * 4 * 33, "outputs": maps, "input": 0}
    two = {f"info_{part}_bytes": one[f"info_{part}_bytes"] + extra for part, extra in head.items()}
    assert printed(two, "params", "outputs", "input") == pytest.approx(411.42, abs=1e-9)


def test_as_released_and_unfused_compute_the_same():
    model = build("unetv2", SMALL).train()
    model(torch.rand(4, 3, 64, 64))  # statistics of its own
    model.eval()
    steps = table4.as_released(model).eval()
    assert len(steps(X)) == 4, "all heads"
    torch.testing.assert_close(steps(X)[0], model(X), rtol=1e-4, atol=1e-6)
    assert not model.training and torch.is_tensor(model(X)), "the model itself is left alone"

    attention = build("thin+copy", "tu-pvt_v2_b0").eval()
    fused = attention(X)
    with table4.unfused(attention):
        assert not any(getattr(m, "fused_attn", False) for m in attention.modules())
        torch.testing.assert_close(attention(X), fused, rtol=1e-4, atol=1e-6)
    assert any(getattr(m, "fused_attn", False) for m in attention.modules())


def test_counts_by_hand():
    model, x = tiny(), torch.rand(1, 3, 8, 8)
    assert costs.macs(model, x) == 64 * (3 * 8 * 9 + 8 * 1)
    # the first convolution keeps its input, ReLU its output, which is the second one's input
    assert costs.kept(model, x) == 4 * 64 * (3 + 8)


class Scaled(nn.Module):
    """Maps whose sizes are plain: the image twice, its product with the weights, a ReLU of that."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x):
        return nn.functional.relu(torch.cat([x, x], 1) * self.weight)


def test_what_was_kept_is_freed():
    outputs = []

    def forward():
        y = torch.ones(4, requires_grad=True).exp()  # keeps its own result
        outputs.append(weakref.ref(y))
        return y

    assert costs.saved(forward, []) == 16
    assert outputs[0]() is None


def test_peaks_by_hand():
    row = costs.measure(Scaled(), 8, device="cpu", batch=4, repeats=0)
    weights, one = 4 * 6, 4 * 4 * 6 * 8 * 8
    assert row["peak_inference_bytes"] == weights + 2 * one, "an operation's input and its result"
    # backward needs the doubled image and the last map, the gradients of the last map and of the
    # product, and one of each after the other; the weights' own gradient is as small as they are
    assert weights + 4 * one <= row["peak_training_bytes"] <= 3 * weights + 5 * one
    fixed = costs.measure(Scaled().requires_grad_(False), 8, device="cpu", batch=4, repeats=0)
    assert fixed["peak_training_bytes"] == fixed["peak_inference_bytes"], (
        "nothing to train, nothing kept"
    )


def test_groups_add_up_and_traffic_by_hand():
    found = costs.groups(tiny(), torch.rand(1, 3, 8, 8), ["0"], repeats=1)
    assert found.macs.to_dict() == {"0": 64 * 3 * 8 * 9, "other": 64 * 8}
    assert found.bytes["0"] == 4 * (64 * 3 + 3 * 8 * 9 + 64 * 8), "image, weights, result"
    assert found.bytes["other"] == 4 * (2 * 64 * 8 + 64 * 8 + 8 + 64), (
        "ReLU, then image, weights, result"
    )
    assert found.intensity["0"] == pytest.approx(2 * found.macs["0"] / found.bytes["0"])
    model = build("unetv2", SMALL)
    found = costs.groups(model, X, ["encoder", "decoder", "decoder.skip"], repeats=1)
    assert found.macs.sum() == costs.macs(model, X)
    assert (
        set(found.index) == {"encoder", "decoder", "decoder.skip", "other"}
        and (found.seconds > 0).all()
    )
    with pytest.raises(
        ValueError, match=r"unknown group of layers 'decoder.skips'.*'decoder.skip'"
    ):
        costs.groups(model, X, ["decoder.skips"])


def test_table_of_names_and_of_a_module_of_ones_own():
    rows = costs.table(
        ["thin+copy", "thin+nested"], [64, 96], encoder=SMALL, batch=2, device="cpu", repeats=2
    )
    assert [(r["model"], r["image_size"]) for r in rows] == [
        (m, s) for s in (64, 96) for m in ("thin+copy", "thin+nested")
    ]
    assert rows[2]["macs"] == pytest.approx(rows[0]["macs"] * 2.25, rel=0.01), (
        "convolutions grow with the area"
    )
    assert rows[0]["latency_ratio"] == [1, 1, 1] and rows[1]["throughput_ratio"][0] > 0
    assert not {"latency_ms", "images_per_s"} & set(rows[0]), "no absolute times on a CPU"
    assert "MACs = FLOPs/2, G" in costs.readable(rows)

    own = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    own[1].eval()
    before = {key: value.clone() for key, value in own.state_dict().items()}
    row = costs.measure(own, 32, device="cpu", batch=1, repeats=1)
    assert (row["model"], row["params"], row["macs"]) == ("Sequential", 24, 32 * 32 * 12)
    assert own.training and not own[1].training
    torch.testing.assert_close(own.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in own.parameters())
    own[0].weight.grad = torch.ones_like(own[0].weight)
    costs.measure(own, 32, device="cpu", repeats=0)
    assert (own[0].weight.grad == 1).all(), "the user's gradients"


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("precision, bytes_each", [("no", 4), ("bf16", 2)])
def test_kept_is_per_image_whatever_the_batch_and_without_weights(batch, precision, bytes_each):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 1, 1, bias=False))
    row = costs.measure(net, 16, device="cpu", batch=batch, precision=precision, repeats=0)
    assert row["kept_bytes"] == bytes_each * 16 * 16 * (3 + 8), "the input of each convolution"


def test_half_precision_pays_for_its_weights_in_every_pass():
    """A training enters autocast with each pass, which casts the weights anew."""
    net = nn.Sequential(*(nn.Conv2d(3 if k == 0 else 256, 256, 3, padding=1) for k in range(4)))
    row = costs.measure(net, 16, device="cpu", batch=2, precision="bf16", repeats=0)
    weights = 2 * sum(p.numel() for p in net.parameters())
    assert row["peak_inference_bytes"] > weights


def test_training_is_of_what_is_trained():
    two = costs.table(["thin+sdi", "thin+sdi-nods"], 64, encoder=SMALL, device="cpu", repeats=0)
    assert two[0]["params"] - two[1]["params"] == 3 * 33, "three heads more"
    assert two[0]["macs"] == two[1]["macs"], "in eval mode one head runs"
    assert two[0]["peak_training_bytes"] > two[1]["peak_training_bytes"] + 4 * 99


SIDES = [128, 256, 352, 512, 1024, 2048, (500, 1200), (96, 4096)]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("c", [8, 32, 64])
def test_sdi_never_costs_more_than_its_equations(side, c):
    """Eqs. 2-4: a 3x3 convolution of c to c channels for each pair, at the target's size."""
    height, width = (side, side) if isinstance(side, int) else side
    sdi = SDI((c,) * 4, c, attention=None).to("meta")
    sdi.reduce = nn.ModuleList(nn.Identity() for _ in range(4))
    steps = nn.Module()
    steps.forward = sdi.equations
    maps = [torch.empty(1, c, height // s, width // s, device="meta") for s in (4, 8, 16, 32)]
    plain, short = costs.macs(steps, maps), costs.macs(sdi, maps)
    assert plain == 4 * 9 * c * c * sum(m[0, 0].numel() for m in maps)
    assert short <= plain
    if side == 256 and c == 32:
        assert short / plain == pytest.approx(0.673, abs=1e-3)


def test_models_take_turns():
    calls = []
    seconds = costs.turns(
        [lambda: calls.append("a"), lambda: calls.append("b")], 2, torch.device("cpu")
    )
    assert seconds.shape == (2, 2) and (seconds > 0).all()
    assert "".join(calls) == "abbaabbaab", (
        "three turns of warm-up and two that count, each reversed"
    )


class Picky(nn.Module):
    def forward(self, x):
        raise IndexError


@pytest.mark.parametrize(
    "chosen, options, message",
    [
        (["unetv3"], {}, "unknown model 'unetv3'; did you mean 'unetv2'"),
        (
            ["thin+copy"],
            {"image_sizes": [50]},
            r"thin\+copy fails on an input of \(8, 3, 50, 50\): .*50.*multiple of 32",
        ),
        ({"mine": Picky()}, {}, "mine fails on an input of .*IndexError"),
        ([Picky()], {}, "need a name each"),
        (["thin+copy"], {"batch": 0}, "batch=0 .* at least 1"),
        (["thin+copy"], {"repeats": -1}, "repeats=-1 at least 0"),
        (["thin+copy"], {"image_sizes": [64, -32]}, r"image_sizes=\[64, -32\] must be at least 1"),
        (
            ["thin+copy"],
            {"image_sizes": 10**6},
            r"an input of \(8, 3, 1000000, 1000000\) does not fit into memory",
        ),
        (["thin+copy"], {"precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_errors(chosen, options, message):
    with pytest.raises(ValueError, match=message):
        costs.table(
            chosen,
            **{"image_sizes": [64], "encoder": SMALL, "device": "cpu", "repeats": 0} | options,
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_error():
    with pytest.raises(RuntimeError, match="'cuda' was asked for: no GPU"):
        costs.table(["thin+copy"], [64], encoder=SMALL, device="cuda")


def test_fp16_on_a_cpu_is_one_error():
    with pytest.raises(RuntimeError, match="'fp16' is for a GPU"):
        costs.table(["thin+copy"], [64], encoder=SMALL, device="cpu", precision="fp16")


def test_command(tmp_path, monkeypatch, capsys):
    net = "from torch import nn\ndef net():\n    return nn.Conv2d(3, 1, 1)\n"
    (tmp_path / "mine.py").write_text(net + "number = int\nbroken = {}.popitem\n")
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "r.json"
    options = [
        "--encoder",
        SMALL,
        "--sizes",
        "64",
        "--repeats",
        "1",
        "--batch",
        "1",
        "--device",
        "cpu",
    ]
    main(["--models", "thin+copy", "--module", "mine:net", *options, "--out", str(out)])
    result = json.loads(out.read_text())
    assert [r["model"] for r in result["rows"]] == ["thin+copy", "mine:net"] and result["rows"][1][
        "params"
    ] == 4
    assert "FLOPs/2" in capsys.readouterr().out and {"command", "protocol", "environment"} <= set(
        result
    )
    again = result["command"].removeprefix("unetv2 costs ").replace("FILE", str(out)).split()
    main(again)  # the recorded command is one that runs
    for spec in ("mine", "mine:nett", "nowhere:net", "mine:number", "mine:broken"):
        with pytest.raises(SystemExit, match=f"error: --module '{spec}'"):
            main(["--module", spec, *options])
    for place in (tmp_path, out / "below.json"):
        with pytest.raises(SystemExit, match="name a file to write"):
            main([*options, "--out", str(place)])


@pytest.mark.gpu
def test_gpu_gives_times_and_peaks():
    row = costs.measure("unetv2", 64, encoder=SMALL, device="cuda", repeats=3, precision="fp16")
    assert row["peak_training_bytes"] > row["peak_inference_bytes"] > 4 * row["params"]
    assert row["latency_ms"][1] <= row["latency_ms"][0] <= row["latency_ms"][2]
