"""What U-Net, UNet+ and UNet++ cost over the backbones of the UNet++ article.

    python benchmarks/backbones.py [--size 256] [--out FILE]

Nothing is computed: shapes alone are passed on, on torch's "meta" device. The article has VGG-19,
ResNet-152 and DenseNet-201; these are smp's, without weights, with smp's decoder widths. UNet+ and
UNet++ have a head on every top node, as they are trained with deep supervision.
"""

import argparse
from pathlib import Path

import torch

from unetv2.common.files import write_result
from unetv2.costs import macs
from unetv2.networks import create_model, supervised

BACKBONES = {"vgg19": "VGG-19", "resnet152": "ResNet-152", "densenet201": "DenseNet-201"}
MODELS = ("smp-unet", "smp-unetplus-ds", "smp-unetplusplus-ds")


def counted(name: str, encoder: str, size: int) -> dict[str, int]:
    """Parameters and multiply-adds of one network, and what of them is the encoder's."""
    with torch.device("meta"):
        model = create_model(name, encoder, deep_supervision=supervised(name))
        image = torch.zeros(1, 3, size, size)
    inner = getattr(model.encoder, "encoder", model.encoder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters, encoder": sum(p.numel() for p in inner.parameters()),
        "multiply-adds": macs(model, image),
        "multiply-adds, encoder": macs(inner, image),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="side of the image (default: 256)")
    parser.add_argument("--out", type=Path, help="also write the counts to this JSON file")
    args = parser.parse_args()
    found = {
        title: {name: counted(name, encoder, args.size) for name in MODELS}
        for encoder, title in BACKBONES.items()
    }
    for title, rows in found.items():
        for name, row in rows.items():
            parameters, work = row["parameters"] / 1e6, row["multiply-adds"] / 1e9
            print(f"{title:12s} {name:20s} {parameters:7.2f} M parameters, {work:7.2f} G")
    if args.out:
        write_result(
            args.out,
            command=f"python benchmarks/backbones.py --size {args.size} --out {args.out.name}",
            protocol=f"one image of 3 x {args.size} x {args.size}; multiply-adds: "
            "torch.utils.flop_counter / 2 in evaluation mode, where all heads of deep supervision "
            "run and are averaged; shapes alone, on the meta device",
            backbones=found,
        )


if __name__ == "__main__":
    main()
