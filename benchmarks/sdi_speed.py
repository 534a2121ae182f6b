"""SDI, the short form beside the released arrangement: multiply-adds, time and memory.

    python benchmarks/sdi_speed.py [--repeat 30] [--device cpu] [--out FILE]

All compute Eqs. 2-4 with the same weights. Multiply-adds: the short form over the plain one, for
images of 128 to 2048 pixels, on maps without data. Time and memory: forward and backward on the
same four maps, (8, 32, 64..8, 64..8), in turns in one process; a ratio is that of two times in the
same turn. The released arrangement is written from its description: for each target level start
from ones, resize each level to it, smooth, multiply. "Kept" is the bytes that autograd saves, each
storage once, without parameters. FILE holds a list with a result for each processor.
"""

import argparse
from functools import partial
from pathlib import Path

import per_processor
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetv2.costs import macs, saved, spread, turns
from unetv2.skips import SDI

SIZES = (128, 256, 352, 512, 1024, 2048)  # pixels of the image
STRIDES = (4, 8, 16, 32)


def released(sdi: SDI, maps: list[Tensor]) -> list[Tensor]:
    infused = []
    for thetas, target in zip(sdi.theta, maps, strict=True):
        size, result = target.shape[-2:], torch.ones_like(target)
        for theta, f in zip(thetas, maps, strict=True):
            if f.shape[-1] > size[-1]:
                f = F.adaptive_avg_pool2d(f, size)
            elif f.shape[-1] < size[-1]:
                f = F.interpolate(f, size, mode="bilinear", align_corners=True)
            result = result * theta(f)
        infused.append(result)
    return infused


def equations_alone(device: str) -> SDI:
    """SDI without attention and reduction: Eqs. 2-4, in which the forms differ."""
    sdi = SDI((32,) * 4, attention=None).to(device)
    sdi.reduce = nn.ModuleList(nn.Identity() for _ in range(4))
    return sdi


def short_over_plain(size: int) -> float:
    """Multiply-adds of SDI as it runs over those of its equations, for an image of `size`."""
    sdi, plain = equations_alone("meta"), nn.Module()
    plain.forward = sdi.equations
    maps = [torch.empty(1, 32, size // s, size // s, device="meta") for s in STRIDES]
    return macs(sdi, maps) / macs(plain, maps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()

    ratios = {size: short_over_plain(size) for size in SIZES}
    text = ", ".join(f"{ratio:.2f} at {size} px" for size, ratio in ratios.items())
    print(f"multiply-adds, short form over plain: {text}")

    torch.manual_seed(0)
    sdi = equations_alone(args.device)
    sides = (64, 32, 16, 8)
    maps = [torch.randn(8, 32, s, s, device=args.device, requires_grad=True) for s in sides]
    gradients = [torch.randn_like(m) for m in maps]
    forms = {"released": partial(released, sdi), "equations": sdi.equations, "efficient": sdi}
    expected = forms["released"](maps)
    torch.testing.assert_close(expected, forms["efficient"](maps), rtol=1e-4, atol=1e-5)

    kept = {name: saved(partial(form, maps), sdi.parameters()) for name, form in forms.items()}
    steps = [
        lambda form=form: torch.autograd.backward(form(maps), gradients) for form in forms.values()
    ]
    seconds = turns(steps, args.repeat, torch.device(args.device))
    speedup = {name: spread(seconds[0] / t) for name, t in zip(forms, seconds, strict=True)}
    memory = {name: k / kept["released"] for name, k in kept.items()}
    for name in forms:
        speed = "{:.2f} [{:.2f}, {:.2f}] of the released speed".format(*speedup[name])
        print(f"{name:10s} {speed}, keeps {memory[name]:.2f}, {kept[name] / 1e6:.1f} MB")
    if args.out:
        options = f"--repeat {args.repeat} --device {args.device}"
        per_processor.write(
            args.out,
            device=args.device,
            command=f"python benchmarks/sdi_speed.py {options} --out FILE",
            protocol="Eqs. 2-4. Multiply-adds: torch.utils.flop_counter / 2, forward. Time: "
            "forward and backward, (8, 32, 64..8, 64..8), float32; in turns in one run; ratio of "
            f"times in the same turn, median, p10, p90; {torch.get_num_threads()} threads",
            macs_short_over_plain=ratios,
            speed_over_released=speedup,
            kept_over_released=memory,
            kept_bytes=kept,
        )


if __name__ == "__main__":
    main()
