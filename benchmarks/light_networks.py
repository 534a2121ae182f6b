"""How large are the light networks? Parameters and multiply-adds, raw, by thop, and as printed.

    python benchmarks/light_networks.py [--out FILE]

The raw count is of every parameter; multiply-adds are torch's (matrix products, convolutions and
attention). thop knows some kinds of layers alone: parameters that a module owns itself (learned
maps, embeddings) and layers of the authors' own are not there for it. Counted is ours, which has
the released parameters name by name (`peers_released.json`).
"""

import argparse
import copy
from pathlib import Path

import torch

from unetv2.common.files import write_result
from unetv2.costs.count import macs
from unetv2.networks import create_model, supervised

SIZE = 256
MODELS = ("malunet", "ege-unet", "transfuse-s")
PRINTED = {  # what authors print, and where it was read
    "malunet": [
        "a 44x and 166x reduction of parameters and computational complexity against UNet "
        "(abstract, arXiv:2211.01784)",
    ],
    "ege-unet": [
        "0.072 G operations (paper)",
        "a parameter count limited to just 50KB; 494x and 160x less parameters and computation "
        "than TransFuse (abstract, arXiv:2307.08473)",
        "0.053 M parameters in the paper; readers' tools count 0.0458 M and 0.048 M "
        "(github.com/JCruan519/EGE-UNet/issues/21)",
    ],
    "transfuse-s": [],
}


def counted(name: str) -> dict:
    """The counts of one model for a batch of one image."""
    import thop

    model = create_model(name, deep_supervision=supervised(name)).eval()
    x = torch.zeros(1, 3, SIZE, SIZE)
    thop_macs, thop_parameters = thop.profile(copy.deepcopy(model), (x,), verbose=False)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters, thop": int(thop_parameters),
        "multiply-adds": macs(model, x),
        "multiply-adds, thop": int(thop_macs),
        "printed": PRINTED[name],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="also write the counts to this JSON file")
    args = parser.parse_args()
    found = {name: counted(name) for name in MODELS}
    for name, row in found.items():
        raw, thop = (row[key] for key in ("parameters", "parameters, thop"))
        ours, theirs = (row[f"multiply-adds{key}"] / 1e9 for key in ("", ", thop"))
        print(f"{name:12s} parameters {raw:,}, thop {thop:,}; ", end="")
        print(f"multiply-adds {ours:.4f} G, thop {theirs:.4f} G")
    if args.out:
        write_result(
            args.out,
            command=f"python benchmarks/light_networks.py --out {args.out.as_posix()}",
            protocol=f"one image of 3 x {SIZE} x {SIZE}, evaluation mode, with the heads of deep "
            "supervision; thop.profile as it is, without rules for further layers",
            models=found,
        )


if __name__ == "__main__":
    main()
