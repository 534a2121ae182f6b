"""Time of our UNet++ against smp's and MONAI's at equal widths, forward and backward.

    python benchmarks/nested_speed.py [--size 96] [--batch 4] [--repeats 15] [--device cpu]

Theirs are smp.UnetPlusPlus and BasicUNetPlusPlus. Each pair does the same work: the same encoder,
widths, heads, normalisation, dropout and input; a training step without the optimiser (forward, sum
of the mean squared logits, backward) and a forward pass in eval mode. The two models take turns,
the first of them changing each time; the ratio is the median over the turns of theirs / ours: above
1, ours is faster. MONAI's upsampling to the finest level keeps the 64 channels from below where the
paper has 32, so at equal node widths it has more to compute: the table gives parameters and
multiply-adds of both, to judge the ratio by.
"""

import argparse
from functools import partial
from pathlib import Path

import per_processor
import segmentation_models_pytorch as smp
import torch
from monai.networks.nets import BasicUNetPlusPlus

from unetv2.costs import macs, spread, turns
from unetv2.networks import NestedUNet, NestedUnetPlusPlus


def monai(dropout: float) -> BasicUNetPlusPlus:
    # MONAI's norm cannot be none, and batch normalisation is the nearest that ours has; heads on
    # all top nodes, as ours
    return BasicUNetPlusPlus(
        2,
        3,
        1,
        features=(32, 64, 128, 256, 512, 32),
        deep_supervision=True,
        act="relu",
        norm="batch",
        dropout=dropout,
    )


def pairs(encoder: str):
    for dropout in (0.0, 0.5):
        ours = NestedUNet(in_channels=3, deep_supervision=True, norm=True, dropout=dropout)
        yield f"NestedUNet / BasicUNetPlusPlus, dropout {dropout}", ours, monai(dropout)
    ours = NestedUnetPlusPlus(encoder, encoder_weights=None, deep_supervision=False)
    yield (
        f"NestedUnetPlusPlus / smp.UnetPlusPlus, {encoder}",
        ours,
        smp.UnetPlusPlus(encoder, encoder_weights=None),
    )


def cost(model: torch.nn.Module, x: torch.Tensor) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return f"{parameters / 1e6:.2f} M, {macs(model, x[:1]) / 1e9:.2f} G"


def step(model: torch.nn.Module, x: torch.Tensor, train: bool) -> None:
    model.train(train)
    with torch.set_grad_enabled(train):
        outputs = model(x)
        if train:
            outputs = outputs if isinstance(outputs, list) else [outputs]
            sum(output.square().mean() for output in outputs).backward()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=96, help="side of the square input, pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    x = torch.rand(arguments.batch, 3, arguments.size, arguments.size, device=arguments.device)
    place = f"{arguments.device}, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {place}, input {tuple(x.shape)}")
    time = "time, theirs / ours: median [p10, p90]"
    print(f"| ours / theirs | pass | parameters, MACs per image | {time} |")
    print("|---|---|---|---|")
    rows = []
    for name, *models in pairs(arguments.encoder):
        models = [model.to(arguments.device) for model in models]
        costs = "; ".join(cost(model, x) for model in models)
        for label, train in (("forward + backward", True), ("forward, eval", False)):
            steps = [partial(step, model, x, train) for model in models]
            ours, theirs = turns(steps, arguments.repeats, x.device)
            ratio = spread(theirs / ours)
            row = {"pair": name, "pass": label, "parameters, MACs": costs}
            rows.append(row | {"theirs_over_ours": ratio})
            shown = "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)
            print(f"| {name} | {label} | {costs} | {shown} |")
    if arguments.out:
        given = " ".join(f"--{k} {v}" for k, v in vars(arguments).items() if k != "out")
        per_processor.write(
            arguments.out,
            device=arguments.device,
            command=f"python benchmarks/nested_speed.py {given} --out FILE",
            protocol="in turns in one process, the first three left out; ratio of times in the "
            f"same turn, median, p10, p90; float32, {torch.get_num_threads()} threads",
            rows=rows,
        )


if __name__ == "__main__":
    main()
