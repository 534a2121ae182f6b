"""Do our U-Net v2, as released, and its peers compute what the released code computes?

    python benchmarks/against_released.py --repo CLONE

CLONE is a clone of github.com/yaoppeng/U-Net_v2 that you made yourself: it has no licence, so none
of it is kept here. The released model's random weights are loaded into ours, key by key; both see
the same images in training mode (batch statistics; stochastic depth off, being random) and in
evaluation mode. Printed are the parameter counts, and the differences of logits, maps and
gradients: the largest, and relative ones (`released.difference`).

    python benchmarks/against_released.py --model pranet --repo CLONE [--out FILE]

The same for a method that the papers compare with, in float64: CLONE is one of its authors' code
(`peers_released.SIDES` says where that is). FILE holds an entry for each of them.

    python benchmarks/against_released.py [--repo CLONE] --speed [--device cuda] [--precision bf16]
        [--equal] [--compile] [--threads 2] [--size 352] [--batch 16] [--repeats 9] [--steps 30]
        [--workers 4] [--out FILE]

How fast: training (its own data path, forward, loss, backward, clipping, optimiser step), the same
without loading, and inference at batch 1, of the released code as it is (float32), of ours with the
fast options, and of smp's U-Net and UNet++ with the encoder, loop and options of ours; on a GPU
also of MONAI's FlexibleUNet, smp's U-Net and ours with a ResNet-50. Without a clone ours is the
reference. `released_speed.py` has the sides and says what a turn is. FILE holds a list with a
result for each processor.
"""

import argparse
import shlex
import sys
from pathlib import Path

import peers_released
import per_processor
import released
import released_speed
import torch

from unetv2.common import env
from unetv2.common.files import write_result
from unetv2.networks import create_model

TOLERANCE = 1e-5


def speed(args: argparse.Namespace) -> int:
    problem = args.compile and env.compile_problem(args.device)
    if problem:
        print(f"--compile is left out: {problem}")
        args.compile = False
    rows, differences = released_speed.compare(args)
    near = _near(differences, args)
    first = next(iter(rows))
    for name, row in rows.items():
        form = "{} {:.2f} [{:.2f}, {:.2f}]"
        works = ("inference", "training", "step")
        times = "; ".join(form.format(work, *row[f"{work}_ratio"]) for work in works)
        memory = f"kept {row['kept_ratio']:.2f}; peak {row['peak_ratio']:.2f}"
        print(f"{name:29s} {times}; {memory} of {first}")
        if "images_per_s" in row:
            milliseconds, images = row["inference_ms"][0], row["images_per_s"][0]
            print(f"{'':29s} {milliseconds:.1f} ms, {images:.1f} images/s")
    if args.out:
        shown = {str(args.repo): "CLONE"}
        if args.out.is_absolute():
            shown[str(args.out)] = args.out.name
        given = (shown.get(a, a) for a in sys.argv[1:])
        options = ("device", "precision", "equal", "channels_last", "compile", "threads", "size")
        options += ("batch", "repeats", "steps", "workers", "encoder")
        reached = {"goals": released_speed.goals(rows)} if args.device == "cuda" else {}
        per_processor.write(
            args.out,
            device=args.device,
            command=shlex.join(["python", "benchmarks/against_released.py", *given]),
            protocol=released_speed.PROTOCOL,
            options={name: getattr(args, name) for name in options},
            allocator=released_speed.ALLOCATOR,
            relative_difference=differences,
            sides=rows,
            **reached,
        )
    return 0 if near else 1


def _near(differences: dict[str, float], args: argparse.Namespace) -> bool:
    """Whether ours computes what the released model does, in this precision; printed, too."""
    if not differences:
        return True
    own, ours = differences["released"], differences["ours"]
    # a GPU's convolutions add in another order for channels that lie last
    limit = 10 * TOLERANCE if args.device == "cuda" else TOLERANCE
    if args.precision == "bf16":
        limit = 2 * own
    print("logits, relative difference from the released ones in float32:")
    print(f"ours {ours:.1e}, {limit:.1e} allowed;")
    print(f"the released model in precision {args.precision!r} {own:.1e}")
    return ours <= limit


def equality(args: argparse.Namespace) -> int:
    ours = create_model("unetv2-released", "tu-pvt_v2_b2", deep_supervision=True)
    theirs = released.model(args.repo)
    ours.load_state_dict(released.in_our_names(theirs.state_dict(), ours))
    unused = sum(p.numel() for k, p in theirs.named_parameters() if released.our_key(k) is None)
    counts = [sum(p.numel() for p in m.parameters()) for m in (theirs, ours)]
    print(f"parameters: released {counts[0]:,}, of which {unused:,} unused; ours {counts[1]:,}")

    x = torch.randn(2, 3, args.size, args.size)
    with torch.no_grad():
        pairs = {"logits, evaluation mode": [(ours.eval()(x), theirs.eval()(x)[0])]}
    outputs = ours.train()(x), theirs.train()(x)
    for maps in outputs:
        sum(m.square().mean() for m in maps).backward()
    maps = [(m.detach(), n.detach()) for m, n in zip(*outputs, strict=True)]
    pairs["four maps, training mode"] = maps
    gradients = {k: p.grad for k, p in ours.named_parameters()}
    named = {released.our_key(k): p.grad for k, p in theirs.named_parameters()}
    pairs["gradients"] = [(gradients[k].flatten(), g.flatten()) for k, g in named.items() if k]
    differences = {
        what: {
            "largest": max((f - e).abs().max().item() for f, e in found),
            "relative": max(released.difference(f, e) for f, e in found),
        }
        for what, found in pairs.items()
    }
    for what, d in differences.items():
        worst = f"relative, of the worst tensor, {d['relative']:.1e}"
        print(f"{what}: largest difference {d['largest']:.1e}; {worst}")
    # what differs in the forward pass grows in the backward pass of a deep encoder
    limits = {what: 10 * TOLERANCE if what == "gradients" else TOLERANCE for what in pairs}
    near = all(d["relative"] <= limits[what] for what, d in differences.items())
    equal = near and counts[0] - unused == counts[1]
    verdict = "EQUAL" if equal else "DIFFERENT"
    print(f"{verdict}: relative differences of at most {limits} are allowed")
    if args.out:
        write_result(
            args.out,
            command="python benchmarks/against_released.py --repo CLONE --out FILE",
            protocol="released random weights in our model, 2 random images of "
            f"{args.size} px, float32; relative: norm of the difference over the norm of the "
            "released tensor less its mean, the worst tensor",
            parameters={"released": counts[0], "released, unused": unused, "ours": counts[1]},
            differences=differences,
            limits=limits,
            equal=equal,
        )
    return 0 if equal else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    models = ["unetv2", *peers_released.SIDES]
    add("--model", choices=models, default="unetv2", help="whose code")
    add("--repo", type=Path, help="your clone of the released code; needed but with --speed")
    add("--size", type=int, default=256, help="side of the images")
    add("--out", type=Path, help="also write the result to this JSON file")
    add("--speed", action="store_true", help="time both in place of comparing their results")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--precision", choices=["no", "bf16"], default="no", help="of ours and smp's")
    add("--equal", action="store_true", help="the released side in that precision, too")
    add("--encoder", default="tu-pvt_v2_b2", help="of ours and smp's, without --repo")
    add("--sides", nargs="+", metavar="NAME", help="these alone, the first is the reference")
    add("--channels-last", action=switch, default=True, help="ours and smp's")
    graphs = "ours and smp's; CUDA graphs for inference on a GPU"
    add("--compile", action="store_true", help=graphs)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--batch", type=int, default=2, help="of training")
    add("--repeats", type=int, default=9, help="turns that count")
    many = "training steps of a turn; many where loaders have workers"
    add("--steps", type=int, default=1, help=many)
    add("--workers", type=int, default=0, help="processes of each data loader")
    args = parser.parse_args()
    if args.repo is None and not args.speed:
        parser.error("--repo is needed: your clone of the released code")

    torch.manual_seed(0)
    if args.model != "unetv2":
        if args.speed:
            parser.error("--speed is for U-Net v2: leave --model out")
        return peers_released.equality(args.model, args.repo, args.out)
    if args.speed:
        try:
            env.check_precision(env.device(args.device), args.precision)
        except RuntimeError as error:
            parser.error(str(error))
        return speed(args)
    return equality(args)


if __name__ == "__main__":
    raise SystemExit(main())
