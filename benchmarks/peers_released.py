"""Do our peers compute what their authors released? A side for each, and one comparison for all.

`against_released.py --model NAME --repo CLONE` runs it. CLONE is a clone that you made yourself:
none of that code is kept here.

To add a model, write a `Side` and put it into `SIDES`.
"""

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import released
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetv2.common import env, files
from unetv2.networks import create_model, supervised
from unetv2.networks.names import PUBLISHED_ENCODER

__all__ = ["SIDES", "Side", "equality"]

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Side:
    """How the released code of a model is read.

    Attributes:
        source: its repository at GitHub, owner/name.
        load: the clone -> the released network with random weights, nothing pretrained.
        key: a released parameter's or buffer's name -> ours; None: the released forward never uses
            it. KeyError for a name that no rule knows.
        maps: what the released forward returns -> a list of logits at the size of the image, in the
            order of ours in training.
        evaluated: that list -> what is evaluated.
        size: of the image, (H, W).
        options: further ones of `create_model`.
        adapt: our name and a released tensor -> as ours has it; reshaped it is in any case.
    """

    source: str
    load: Callable[[Path], nn.Module]
    key: Callable[[str], str | None]
    maps: Callable[[Tensor | Sequence[Tensor]], list[Tensor]]
    evaluated: Callable[[list[Tensor]], Tensor] = lambda maps: maps[0]
    size: tuple[int, int] = (256, 256)
    options: dict = field(default_factory=dict)
    adapt: Callable[[str, Tensor], Tensor] = lambda key, value: value


def equality(name: str, repo: Path, out: Path | None = None) -> int:
    """0 if ours is equal to the released network: its counts, logits and gradients."""
    side = SIDES[name]
    encoder = {"encoder": PUBLISHED_ENCODER[name]} if name in PUBLISHED_ENCODER else {}
    ours = create_model(name, deep_supervision=supervised(name), **encoder, **side.options)
    theirs = side.load(repo)
    for model in (ours.double(), theirs.double()):
        _without_chance(model)
    _with_statistics(theirs, side.size)
    named = {k: side.key(k) for k, _ in theirs.named_parameters()}
    unused = sum(p.numel() for k, p in theirs.named_parameters() if named[k] is None)
    counts = [sum(p.numel() for p in model.parameters()) for model in (theirs, ours)]
    print(f"parameters: released {counts[0]:,}, of which {unused:,} unused; ours {counts[1]:,}")
    ours.load_state_dict(_in_our_names(side, theirs, ours))

    x = torch.randn(2, 3, *side.size, dtype=torch.float64)
    with torch.no_grad():
        expected = side.evaluated(side.maps(theirs.eval()(x)))
        pairs = {"logits, evaluation mode": [(ours.eval()(x), expected)]}
    found, expected = ours.train()(x), side.maps(theirs.train()(x))
    found = found if isinstance(found, list) else [found]
    for maps in (found, expected):
        sum(m.square().mean() for m in maps).backward()
    pairs["all maps, training mode"] = [
        (f.detach(), e.detach()) for f, e in zip(found, expected, strict=True)
    ]
    gradients = {k: p.grad for k, p in ours.named_parameters()}
    pairs["gradients"] = [
        (gradients[named[k]].flatten(), side.adapt(named[k], p.grad).flatten())
        for k, p in theirs.named_parameters()
        if named[k] and p.grad is not None
    ]
    differences = {what: _worst(tensors) for what, tensors in pairs.items()}
    for what, d in differences.items():
        print(f"{what}: largest difference {d['largest']:.1e}; relative {d['relative']:.1e}")
    equal = counts[0] - unused == counts[1]
    equal &= all(d["relative"] <= TOLERANCE for d in differences.values())
    verdict = "EQUAL" if equal else "DIFFERENT"
    print(f"{verdict}: relative differences of at most {TOLERANCE:g} are allowed")
    if out:
        own = {
            "command": f"python benchmarks/against_released.py --model {name} --repo CLONE "
            f"--out {out.name}",
            "released": {"repository": side.source, "commit": _commit(repo)},
            "image": [2, 3, *side.size],
            "parameters": {"released": counts[0], "released, unused": unused, "ours": counts[1]},
            "maps": len(found),
            "differences": differences,
            "equal": equal,
            "environment": env.describe(),
        }
        _write(out, name, own)
    return 0 if equal else 1


def _worst(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The largest difference of any element, and the relative one of the worst tensor.

    Relative: `released.difference`. A tensor that is 0 but for rounding has none (the gradient of a
    bias before batch normalisation).
    """
    largest = max((f - e).abs().max().item() for f, e in pairs)
    floor = 1e-9 * max(e.norm() for _, e in pairs)
    relative = [released.difference(f, e) for f, e in pairs if e.norm() > floor]
    return {"largest": largest, "relative": max(relative), "tensors": len(relative)}


def _without_chance(model: nn.Module) -> None:
    """No dropout of units or of paths, so that nothing random stands between the two."""
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def _with_statistics(model: nn.Module, size: tuple[int, int]) -> None:
    """Batch normalisation as after a training: with the statistics of some images."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean of what it sees
    with torch.no_grad():
        model.train()(torch.randn(4, 3, *size, dtype=torch.float64))
    for norm in norms:
        norm.momentum = 0.1


def _in_our_names(side: Side, theirs: nn.Module, ours: nn.Module) -> dict[str, Tensor]:
    mapped = {side.key(k): v for k, v in theirs.state_dict().items()}
    mapped.pop(None, None)
    own = ours.state_dict()
    if strange := own.keys() ^ mapped.keys():
        raise SystemExit(f"{len(strange)} names have no partner, as {min(strange)}")
    return {k: side.adapt(k, mapped[k]).reshape(v.shape) for k, v in own.items()}


def _commit(repo: Path) -> str:
    command = ["git", "-C", str(repo), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _write(path: Path, name: str, entry: dict) -> None:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    protocol = (
        "the released network's random weights in ours, in float64, so that what differs is the "
        "code and not the rounding; two random images; batch normalisation with the statistics of "
        "four more; dropout and stochastic depth off. Relative: the norm of the difference "
        "over the norm of the released tensor less its mean, the worst tensor; gradients that are "
        "0 but for rounding have none. Parameters that the released forward never uses are counted "
        f"apart. At most {TOLERANCE:g} is equal"
    )
    models = found.get("models", {}) | {name: entry}
    kept = {"protocol": protocol, "models": {k: models[k] for k in SIDES if k in models}}
    files.write_json(path, kept)


# What sides share ---------------------------------------------------------------------------------


def module_of(repo: Path, file: str, folder: str = ".") -> ModuleType:
    """The module `file` of the clone; what it imports begins at `folder` of the clone."""
    if not (repo / folder / file).is_file():
        raise SystemExit(f"there is no {repo / folder / file}: name a whole clone as --repo")
    sys.path.insert(0, str(repo / folder))
    with warnings.catch_warnings(action="ignore"):  # old names of timm's modules
        return importlib.import_module(file.removesuffix(".py").replace("/", "."))


def by_prefix(table: Mapping[str, str | None]) -> Callable[[str], str | None]:
    """A `key` from pairs (start of a released name, start of ours); the first that fits counts.

    In the rest of the name a "conv" and a "bn" of a released pair are members 0 and 1 of ours.
    """

    def key(name: str) -> str | None:
        for theirs, ours in table.items():
            if name.startswith(theirs):
                rest = re.sub(r"\bconv\.(?=weight$)", "0.", name.removeprefix(theirs))
                return None if ours is None else ours + re.sub(r"\bbn\.", "1.", rest)
        raise KeyError(f"no rule for the released parameter {name}")

    return key


# SANet, PraNet, Polyp-PVT -------------------------------------------------------------------------


def _sanet(repo: Path) -> nn.Module:
    module = module_of(repo, "model.py", "src")
    # its initialize() reads pretrained weights; its weight_init() prints
    nothing = mock.patch("res2net.Res2Net.initialize", lambda net: None)
    with nothing, contextlib.redirect_stdout(io.StringIO()):
        return module.Model(SimpleNamespace(snapshot=None))


def _sanet_maps(logit: Tensor) -> list[Tensor]:
    """The released training and test enlarge it so, outside of the network."""
    return [F.interpolate(logit, scale_factor=8, mode="bilinear", align_corners=True)]


def _pranet(repo: Path) -> nn.Module:
    module = module_of(repo, "lib/PraNet_Res2Net.py")
    build = module.res2net50_v1b_26w_4s
    with mock.patch.object(module, build.__name__, lambda pretrained: build(pretrained=False)):
        return module.PraNet()


def _polyp_pvt(repo: Path) -> nn.Module:
    module = module_of(repo, "lib/pvt.py")
    with mock.patch("torch.load", lambda path: {}):  # of a file of pretrained weights
        return module.PolypPVT()


def _partial_decoder(theirs: str) -> dict[str, str]:
    names = ("gate4", "gate3_by5", "gate3_by4", "climb5", "climb4")
    table = {f"conv_upsample{k}.": f"{name}." for k, name in enumerate(names, 1)}
    table |= {"conv_concat2.": "merge4.", "conv_concat3.": "merge3.", "conv4.": "last."}
    return {f"{theirs}.{start}": f"decoder.{ours}" for start, ours in table.items()}


SANET = {
    "bkbone.": "encoder.model.",
    **{f"linear{k}.": f"decoder.{k - 3}." for k in (3, 4, 5)},
    "predict.": "segmentation_head.",
}
PRANET = {"resnet.fc.": None, "resnet.": "encoder.model."}
for k in (2, 3, 4):
    field_ = f"fields.{k - 2}."
    PRANET |= {f"rfb{k}_1.branch": field_ + "branches.", f"rfb{k}_1.conv_cat.": field_ + "merge."}
    PRANET |= {f"rfb{k}_1.conv_res.": field_ + "shortcut."}
    last = 5 if k == 4 else 4  # of its convolutions; those between it and the first have a ReLU
    for n in range(1, last + 1):
        place = f"{n - 1}.0." if 1 < n < last else f"{n - 1}."
        PRANET[f"ra{k}_conv{n}."] = f"reverse.{4 - k}.refine.{place}"
PRANET |= _partial_decoder("agg1") | {"agg1.conv5.": "segmentation_head."}
POLYP_PVT = {
    **{f"Translayer{k}_{n}.": f"reduce.{k - 2 + n}." for k, n in ((2, 0), (2, 1), (3, 1), (4, 1))},
    **_partial_decoder("CFM"),
    "ca.fc1.": "identify.0.squeeze.",
    "ca.fc2.": "identify.0.excite.",
    "sa.conv1.": "identify.1.conv.",
    "SAM.conv_state.": "aggregate.state.",
    "SAM.conv_proj.": "aggregate.project.",
    "SAM.gcn.conv1.": "aggregate.between_anchors.",
    "SAM.gcn.conv2.": "aggregate.between_channels.",
    "SAM.conv_extend.": "aggregate.extend.",
    "out_SAM.": "segmentation_head.",
    "out_CFM.": "supervision_head.",
}


def _polyp_pvt_key(name: str) -> str | None:
    if name.startswith("backbone."):  # U-Net v2 has the same
        return released.our_key("encoder." + name)
    return by_prefix(POLYP_PVT)(name)


# TransFuse, MALUNet, EGE-UNet ---------------------------------------------------------------------


def _built(repo: Path, file: str, name: str, **options: float) -> nn.Module:
    """The network `name` of the file; each of its weights is moved off its start.

    Maps of ones and embeddings of zeros would hide an axis that is mistaken for another.
    """
    registry = SimpleNamespace(register_model=lambda build: build)  # timm keeps its own networks
    helpers = SimpleNamespace(load_pretrained=None)
    absent = {"einops": SimpleNamespace(rearrange=None)}  # imported there and never used
    absent |= {"timm.models.registry": registry, "timm.models.helpers": helpers}
    with mock.patch.dict(sys.modules, absent), contextlib.redirect_stdout(io.StringIO()):
        net = getattr(module_of(repo, file), name)(**options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net


def by_rules(*rules: tuple[str, str]) -> Callable[[str], str]:
    """A `key` that substitutes each (pattern, replacement) in turn; <k> in the result is k - 1."""

    def key(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return re.sub(r"<(\d)>", lambda found: str(int(found[1]) - 1), name)

    return key


STAGES = [  # of MALUNet and EGE-UNet
    (r"^(encoder[123]|decoder[45])\.0", r"\1"),
    (r"^(encoder|decoder)(\d)", r"\1.<\2>"),
    (r"^ebn(\d)", r"encoder_norms.<\1>"),
    (r"^dbn(\d)", r"decoder_norms.<\1>"),
    (r"^final\.", "head."),
]
MALUNET = by_rules(
    *STAGES,
    (r"gau\.w1\.0", "gate"),
    (r"gau\.w2\.0", "value"),
    (r"gau\.wo\.0", "out"),
    (r"gau\.cw", "shortcut"),
    (r"(gate|value|out)\.conv1", r"\1.0"),
    (r"(gate|value|out)\.norm_layer", r"\1.1"),
    (r"(gate|value|out)\.conv2", r"\1.2"),
    (r"mda(\d)", r"dilated.\1"),
    (r"norm_layer", "norm"),
    (r"\.conv1\.", ".before."),
    (r"\.conv2\.", ".after."),
    (r"\.conv\.", ".mix."),
    (r"linear_0", "keys"),
    (r"linear_1", "values"),
    (r"scab\.catt\.get_all_att", "bridge.smooth"),
    (r"scab\.catt\.att(\d)", r"bridge.channel.<\1>"),
    (r"scab\.satt\.shared_conv2d\.0", "bridge.spatial"),
)
EGE_UNET = by_rules(
    (r"^(encoder|decoder)(\d)\.0\.", r"\1\2."),
    *STAGES,
    (r"params_xy", "plane"),
    (r"params_zx", "rows"),
    (r"params_zy", "columns"),
    (r"conv_xy", "smooth_plane"),
    (r"conv_zx", "smooth_rows"),
    (r"conv_zy", "smooth_columns"),
    (r"\.dw\.", ".local."),
    (r"norm1", "before"),
    (r"norm2", "after"),
    (r"ldw", "out"),
    *((f"GAB{k}", f"bridges.{5 - k}") for k in range(1, 6)),
    (r"pre_project", "project"),
    (r"\.g(\d)\.", r".groups.\1."),
    (r"tail_conv", "mix"),
    (r"gt_conv(\d)\.0", r"mask_heads.<\1>"),
)
TRANSFUSE = by_rules(
    (r"^resnet\.", "cnn."),
    (r"^transformer\.(?!pos_embed)", "transformer.vit."),
    (r"^transformer\.pos_embed", "transformer.position"),
    (r"^up([12])\.conv", r"up.<\1>"),
    (r"^up_c_([12])_2\.conv", r"climb.<\1>.convs"),
    (r"^up_c_([12])_2\.attn_block", r"climb.<\1>"),
    (r"^up_c_([12])_1\.", r"fuse.\1."),
    (r"^up_c\.", "fuse.0."),
    (r"double_conv", "convs"),
    (r"\.identity\.", ".shortcut."),
    (r"^(climb\..*)\.W_g", r"\1.of_coarse"),
    (r"^(climb\..*)\.W_x", r"\1.of_fine"),
    (r"^(climb\..*)\.psi", r"\1.gate"),
    (r"^(fuse\.\d)\.fc1", r"\1.what.0"),
    (r"^(fuse\.\d)\.fc2", r"\1.what.2"),
    (r"^(fuse\.\d)\.spatial", r"\1.where"),
    (r"^(fuse\.\d)\.W_g", r"\1.of_g"),
    (r"^(fuse\.\d)\.W_x", r"\1.of_t"),
    (r"^(fuse\.\d)\.W\.", r"\1.interact."),
    *((rf"residual\.bn{k}", f"mix.{3 * k - 3}") for k in (1, 2, 3)),
    *((rf"residual\.conv{k}\.conv", f"mix.{3 * k - 1}") for k in (1, 2, 3)),
    (r"residual\.skip_layer\.conv", "shortcut"),
    (r"\.(where|of_g|of_t|interact)\.conv", r".\1.0"),
    (r"\.(where|of_g|of_t|interact)\.bn", r".\1.1"),
    (r"^final_2", "segmentation_head"),
    (r"^final_1", "supervision_heads.0"),
    (r"^final_x", "supervision_heads.1"),
    *((rf"(_heads?(?:\.\d)?)\.{k}\.conv", rf"\1.{3 * k}") for k in (2, 1, 0)),
    *((rf"(_heads?(?:\.\d)?)\.{k}\.bn", rf"\1.{3 * k + 1}") for k in (1, 0)),
)


def _transfuse(size: str) -> Side:
    return Side(
        "Rayicer/TransFuse",
        lambda repo: _built(repo, "lib/TransFuse.py", f"TransFuse_{size.upper()}", drop_rate=0.0),
        lambda name: None if name == "transformer.cls_token" else TRANSFUSE(name),
        maps=lambda outputs: list(reversed(outputs)),
        size=(192, 256),  # the only one that it takes
        adapt=lambda key, value: value.mT if key == "transformer.position" else value,
    )


SIDES = {
    "sanet": Side("weijun88/SANet", _sanet, by_prefix(SANET), _sanet_maps),
    "pranet": Side(
        "DengPingFan/PraNet",
        _pranet,
        by_prefix(PRANET),
        maps=lambda outputs: list(reversed(outputs)),
    ),
    "polyp-pvt": Side(
        "DengPingFan/Polyp-PVT",
        _polyp_pvt,
        _polyp_pvt_key,
        maps=lambda outputs: list(reversed(outputs)),
        evaluated=sum,
    ),
    "transfuse-s": _transfuse("s"),
    "transfuse-l": _transfuse("l"),
    "malunet": Side(
        "JCruan519/MALUNet",
        lambda repo: _built(repo, "models/malunet.py", "MALUNet"),
        MALUNET,
        maps=lambda probability: [probability.logit()],
    ),
    "ege-unet": Side(
        "JCruan519/EGE-UNet",
        lambda repo: _built(repo, "models/egeunet.py", "EGEUNet"),
        EGE_UNET,
        maps=lambda outputs: [outputs[1].logit(), *(m.logit() for m in reversed(outputs[0]))],
    ),
}
