"""SDI, the efficient form beside the released arrangement: time of forward and backward, and what is kept for backward.

    python benchmarks/sdi_speed.py [--repeat 30] [--device cpu] [--out FILE]

Both compute Eqs. 2-4 on the same four maps, (8, 32, 64..8, 64..8), with the same weights, in turns in one process; a
ratio is that of two times in the same turn. The released arrangement is written from its description: for each target
level start from ones, resize each level to it, smooth, multiply. "Kept" is the bytes that autograd saves, each storage
once, without parameters.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetv2.efficiency import saved, spread, turns
from unetv2.files import write_result
from unetv2.sdi import SDI


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()

    torch.manual_seed(0)
    sdi = SDI((32,) * 4, attention=None).to(args.device)
    sdi.reduce = nn.ModuleList(nn.Identity() for _ in range(4))  # Eqs. 2-4 alone: what the two arrangements differ in
    maps = [torch.randn(8, 32, s, s, device=args.device, requires_grad=True) for s in (64, 32, 16, 8)]
    gradients = [torch.randn_like(m) for m in maps]
    forms = {"released": lambda x: released(sdi, x), "equations": sdi.equations, "efficient": sdi}
    torch.testing.assert_close(forms["released"](maps), forms["efficient"](maps), rtol=1e-4, atol=1e-5)

    kept = {name: saved(partial(form, maps), sdi.parameters()) for name, form in forms.items()}
    steps = [lambda form=form: torch.autograd.backward(form(maps), gradients) for form in forms.values()]
    seconds = turns(steps, args.repeat, torch.device(args.device))
    speedup = {name: spread(seconds[0] / t) for name, t in zip(forms, seconds, strict=True)}
    memory = {name: k / kept["released"] for name, k in kept.items()}
    for name in forms:
        speed = "{:.2f} [{:.2f}, {:.2f}]".format(*speedup[name])
        print(f"{name:10s} {speed} of the released speed, keeps {memory[name]:.2f}, {kept[name] / 1e6:.1f} MB")
    if args.out:
        write_result(
            args.out,
            command=f"python benchmarks/sdi_speed.py --repeat {args.repeat} --device {args.device} --out FILE",
            protocol="Eqs. 2-4, forward and backward, (8, 32, 64..8, 64..8), float32; in turns in one run; ratio of "
            f"times in the same turn, median, p10, p90; {torch.get_num_threads()} threads",
            speed_over_released=speedup,
            kept_over_released=memory,
            kept_bytes=kept,
        )


if __name__ == "__main__":
    main()
