"""Does our U-Net v2, with the released arrangement selected, compute what the released code computes?

    python benchmarks/against_released.py --repo CLONE

CLONE is a clone of github.com/yaoppeng/U-Net_v2 that you made yourself: it has no licence, so none of it is kept here.
The released model's random weights are loaded into ours, key by key; both see the same images in training mode (batch
statistics; stochastic depth off, being random) and in evaluation mode. Printed are the largest absolute differences of
all logits and of all gradients, and the parameter counts.
"""

import argparse
import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))
from unetv2 import models
from unetv2.files import write_result

TOLERANCE = 1e-5


def our_key(key: str) -> str | None:
    """Our name of a released parameter; None for the layer that the released forward never uses."""
    if key.startswith("deconv5"):
        return None
    rules = [
        # PVT v2-B2: the released module list to timm's stages
        (r"encoder\.backbone\.patch_embed1\.(.+)", r"encoder.model.patch_embed.\1"),
        (r"encoder\.backbone\.patch_embed(\d)\.(.+)", r"encoder.model.stages_{0}.downsample.\2"),
        (r"encoder\.backbone\.block(\d)\.(.+)", r"encoder.model.stages_{0}.blocks.\2"),
        (r"encoder\.backbone\.norm(\d)\.(.+)", r"encoder.model.stages_{0}.norm.\2"),
        # Eq. 1 in the released order: channel, then spatial; the 1x1 reduction; Eq. 3
        (r"ca_(\d)\.fc1\.(.+)", r"decoder.skip.attention.{0}.0.squeeze.\2"),
        (r"ca_(\d)\.fc2\.(.+)", r"decoder.skip.attention.{0}.0.excite.\2"),
        (r"sa_(\d)\.conv1\.(.+)", r"decoder.skip.attention.{0}.1.conv.\2"),
        (r"Translayer_(\d)\.conv\.(.+)", r"decoder.skip.reduce.{0}.0.\2"),
        (r"Translayer_(\d)\.bn\.(.+)", r"decoder.skip.reduce.{0}.1.\2"),
        (r"sdi_(\d)\.convs\.(.+)", r"decoder.skip.theta.{0}.\2"),
        # decoder and heads; the released list of heads begins at the coarsest level
        (r"deconv(\d)\.(.+)", r"decoder.up.{1}.\2"),
        (r"seg_outs\.3\.(.+)", r"segmentation_head.\1"),
        (r"seg_outs\.(\d)\.(.+)", r"supervision_heads.{2}.\2"),
    ]
    for pattern, target in rules:
        found = re.fullmatch(pattern, key)
        if found:
            digit = int(found[1]) if found[1].isdigit() else 0
            return found.expand(target).format(digit - 1, digit - 2, 2 - digit).replace("dwconv.dwconv", "dwconv")
    raise KeyError(f"no rule for the released parameter {key}")


def load_released(repo: Path) -> torch.nn.Module:
    if not (repo / "unet_v2" / "UNet_v2.py").is_file():
        raise SystemExit(f"{repo} holds no unet_v2/UNet_v2.py: name a clone of github.com/yaoppeng/U-Net_v2")
    sys.path.insert(0, str(repo))
    from unet_v2.UNet_v2 import UNetV2

    model = UNetV2(n_classes=1, deep_supervision=True, pretrained_path=None)
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True, help="your clone of the released code")
    parser.add_argument("--size", type=int, default=256, help="side of the test images")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()

    torch.manual_seed(0)
    # ours first: importing the released encoder overwrites timm's pvt_v2_b2
    ours = models.build("unetv2-released", "tu-pvt_v2_b2")
    released = load_released(args.repo)
    mapped = {our_key(k): v for k, v in released.state_dict().items() if our_key(k)}
    own = ours.state_dict()
    ours.load_state_dict({k: mapped[k].reshape(v.shape) for k, v in own.items()})
    unused = sum(p.numel() for k, p in released.named_parameters() if our_key(k) is None)
    counts = [sum(p.numel() for p in m.parameters()) for m in (released, ours)]
    print(f"parameters: released {counts[0]:,}, of which {unused:,} unused; ours {counts[1]:,}")

    x = torch.randn(2, 3, args.size, args.size)
    with torch.no_grad():
        theirs, mine = released.eval()(x)[0], ours.eval()(x)
    logits, spread = (theirs - mine).abs().max().item(), theirs.std().item()
    print(f"logits, evaluation mode: largest difference {logits:.2e}, deviation {spread:.2e}")

    outputs = released.train()(x), ours.train()(x)
    for maps in outputs:
        sum(m.square().mean() for m in maps).backward()
    maps = max((a - b).abs().max().item() for a, b in zip(*outputs, strict=True))
    spread = outputs[0][0].std().item()
    print(f"four maps, training mode: largest difference {maps:.2e}, deviation {spread:.2e}")
    gradients = {k: p.grad for k, p in ours.named_parameters()}
    pairs = [(p.grad, gradients[our_key(k)]) for k, p in released.named_parameters() if our_key(k)]
    absolute = max((a.reshape(b.shape) - b).abs().max().item() for a, b in pairs)
    # relative per tensor: an absolute bound alone says little where a gradient is small; theirs of norm 0 are skipped
    relative = max(((a.reshape(b.shape) - b).norm() / a.norm()).item() for a, b in pairs if a.norm() > 1e-12)
    print(f"gradients: largest difference {absolute:.2e}; relative, of one tensor, {relative:.2e}")
    equal = max(logits, maps, absolute) <= TOLERANCE and relative <= 1e-2 and counts[0] - unused == counts[1]
    print(f"{'EQUAL' if equal else 'DIFFERENT'} at a tolerance of {TOLERANCE:g}")
    if args.out:
        write_result(
            args.out,
            command="python benchmarks/against_released.py --repo CLONE --out FILE",
            protocol=f"released random weights in our model, 2 random images of {args.size} px, float32",
            parameters={"released": counts[0], "released, unused": unused, "ours": counts[1]},
            largest_difference={"logits": logits, "maps": maps, "gradients": absolute, "gradients, relative": relative},
            equal=equal,
        )
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
