"""Does our U-Net v2, with the released arrangement selected, compute what the released code computes?

    python benchmarks/against_released.py --repo CLONE

CLONE is a clone of github.com/yaoppeng/U-Net_v2 that you made yourself: it has no licence, so none of it is kept here.
The released model's random weights are loaded into ours, key by key; both see the same images in training mode (batch
statistics; stochastic depth off, being random) and in evaluation mode. Printed are the largest absolute differences of
all logits and of all gradients, and the parameter counts.

    python benchmarks/against_released.py --repo CLONE --speed [--device cuda] [--precision bf16] [--compile]
        [--threads 2] [--size 352] [--batch 16] [--repeats 9] [--steps 30] [--workers 4] [--out FILE]

How fast: training (its own data path, forward, loss, backward, clipping, optimiser step) and inference at batch 1, of
the released code as it is (float32), of ours with the fast options, and of smp's U-Net and UNet++ with the encoder,
loop and options of ours. All take turns in one process; SPEED below says what a turn is.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import re
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))
from unetv2 import data, env, losses, models
from unetv2.efficiency import kept
from unetv2.files import write_result

TOLERANCE = 1e-5
SPEED = (
    "the same synthetic images as files of 576 x 576 (JPEG, masks PNG). Released: its own loader (decodes and resizes"
    " in every epoch, no augmentation, its default), float32, its loss and AdamW. Ours and smp's: decoded once to "
    "cached uint8, no augmentation, losses.make('released'), fused AdamW, the options named here. drop_path 0.1, "
    "gradient values clipped at 0.5, one scale of the released three. Training: images per second, data included, "
    "validation not. Inference: batch 1, eval mode, no gradients, input on the device. Sides take turns; ratios are "
    "to the released side in the same turn, as median, p10, p90; 'processor' counts the processor time of all threads"
    " in place of the clock's, which other programs disturb less. Kept: bytes that autograd keeps for backward, "
    "float32, per image"
)


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


def load_released(repo: Path, drop_path: bool = False) -> torch.nn.Module:
    if not (repo / "unet_v2" / "UNet_v2.py").is_file():
        raise SystemExit(f"{repo} holds no unet_v2/UNet_v2.py: name a clone of github.com/yaoppeng/U-Net_v2")
    sys.path.insert(0, str(repo))
    from unet_v2.UNet_v2 import UNetV2

    model = UNetV2(n_classes=1, deep_supervision=True, pretrained_path=None)
    for module in model.modules():
        if hasattr(module, "drop_prob") and not drop_path:
            module.drop_prob = 0.0
    return model


def copy_released(released: torch.nn.Module, ours: torch.nn.Module) -> None:
    mapped = {our_key(k): v for k, v in released.state_dict().items() if our_key(k)}
    ours.load_state_dict({k: mapped[k].reshape(v.shape) for k, v in ours.state_dict().items()})


def released_loss(maps: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """The loss of the released polyp training, from its description: see `losses.structure_loss`."""
    total = 0
    for z in maps[:2]:
        if z.shape[-1] != mask.shape[-1]:
            z = F.interpolate(z, mask.shape[-2:], mode="bilinear", align_corners=False)
        w = 1 + 5 * (F.avg_pool2d(mask, 31, stride=1, padding=15) - mask).abs()
        bce = (w * F.binary_cross_entropy_with_logits(z, mask)).sum((2, 3)) / w.sum((2, 3))
        p = z.sigmoid()
        inter, union = (p * mask * w).sum((2, 3)), ((p + mask) * w).sum((2, 3))
        total = total + (bce + 1 - (inter + 1) / (union - inter + 1)).mean()
    return total


def batches(args: argparse.Namespace, folder: Path):
    """Two functions that give endless batches (image, mask), the released code's and ours, from the same new files."""
    images, masks = data.synthetic.make("polyp", max(32, 4 * args.batch), 576, seed=0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        cv2.imwrite(str(folder / "images" / f"{i:03d}.jpg"), image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{i:03d}.png"), 255 * mask)
    source = args.repo / "PolypSeg" / "utils" / "dataloader.py"
    if not source.is_file():
        raise SystemExit(f"{args.repo} holds no PolypSeg/utils/dataloader.py: name a whole clone")
    spec = importlib.util.spec_from_file_location("released_dataloader", source)
    released = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(released)
    cuda = args.device == "cuda"
    with contextlib.redirect_stdout(io.StringIO()):
        folders = (f"{folder / name}/" for name in ("images", "masks"))
        theirs = released.get_loader(*folders, args.batch, args.size, num_workers=args.workers, pin_memory=cuda)
    seg = data.load(f"folder:{folder}", image_size=args.size, cache_dir=folder / "cache", check=False)
    split = data.TorchSplit(seg.train)
    ours = DataLoader(split, args.batch, shuffle=True, drop_last=True, num_workers=args.workers, pin_memory=cuda)
    forever = itertools.chain.from_iterable
    return (
        lambda: (pair for pair in forever(itertools.repeat(theirs)) if len(pair[0]) == args.batch),
        lambda: ((batch["image"], batch["mask"]) for batch in forever(itertools.repeat(ours))),
    )


def trainer(model, loader, args: argparse.Namespace, fast: bool):
    """A function that makes one training step, with the fast options or as the released loop."""
    model.to(args.device).train()
    if fast and args.channels_last:
        model.to(memory_format=torch.channels_last)
    criterion = losses.make("released", 1) if fast else released_loss
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=1e-4, fused=True if fast else None)
    net = torch.compile(model, dynamic=False) if fast and args.compile else model
    stream = loader()

    def step() -> None:
        image, mask = (x.to(args.device, non_blocking=fast) for x in next(stream))
        optimizer.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=fast and args.precision == "bf16"):
            maps = net(image)
        criterion(maps, mask).backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()

    return step


def predictor(model, x: torch.Tensor, args: argparse.Namespace, fast: bool):
    """A function that gives the logits of `x` as training leaves the model, or the released code's."""
    model.eval()
    # one graph replayed: at batch 1 a GPU waits for its kernels to be launched
    mode = "reduce-overhead" if args.device == "cuda" else "default"
    net = torch.compile(model, dynamic=False, mode=mode) if fast and args.compile else model

    def predict() -> torch.Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(args.device, torch.bfloat16, enabled=fast and args.precision == "bf16"),
        ):
            logits = net(x)
        return logits[0] if isinstance(logits, list) else logits

    return predict


def turns(work: dict, args: argparse.Namespace, steps: int) -> dict:
    """{side: (turns, 2) seconds per step, of the clock and of the processor}, after one turn each that is dropped."""
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    times = {name: [] for name in work}
    for _ in range(args.repeats + 1):
        for name, step in work.items():
            wait()
            start = time.perf_counter(), time.process_time()
            for _ in range(steps):
                step()
            wait()
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: np.array(t[1:]) / steps for name, t in times.items()}


def peak(step, model, args: argparse.Namespace) -> float | None:
    """Bytes per image: the highest that a training step allocates, and this model's weights and optimiser state (twice
    the weights). GPU only."""
    if args.device != "cuda":
        return None
    step()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    # the gradients of the step before are still held: they are in `before`
    return (torch.cuda.max_memory_allocated() - before + 4 * held) / args.batch


def quantiles(values: np.ndarray) -> list[float]:
    return [float(f"{v:.4g}") for v in np.quantile(values, (0.5, 0.1, 0.9))]


def speed(args: argparse.Namespace) -> int:
    env.device(args.device)  # for its error where there is no GPU
    torch.set_num_threads(args.threads)
    problem = args.compile and env.compile_problem(args.device)
    if problem:
        print(f"--compile is left out: {problem}")
        args.compile = False
    options = dict(encoder_name="tu-pvt_v2_b2", encoder_weights=None, drop_path_rate=0.1)
    sides = {  # ours and smp's first: importing the released encoder overwrites timm's pvt_v2_b2
        "ours": models.UnetV2(attention="channel-spatial", **options),
        "smp.Unet": smp.Unet(**options),
        "smp.UnetPlusPlus": smp.UnetPlusPlus(**options),
    }
    sides = {"released": load_released(args.repo, drop_path=True), **sides}
    copy_released(sides["released"], sides["ours"])
    x = torch.randn(1, 3, args.size, args.size)
    kept_per_image = {name: kept(model, x.repeat(2, 1, 1, 1)) / 2 for name, model in sides.items()}
    result = {name: {"kept_mb_per_image": round(k / 1e6, 1)} for name, k in kept_per_image.items()}
    for name in sides:
        result[name]["kept_ratio"] = round(kept_per_image[name] / kept_per_image["released"], 3)
        if args.channels_last and name != "released":
            sides[name].to(memory_format=torch.channels_last)
    x = x.to(args.device)
    infer = {name: predictor(m.to(args.device), x, args, name != "released") for name, m in sides.items()}
    theirs, ours = (infer[name]().float() for name in ("released", "ours"))
    difference = ((theirs - ours).abs().max() / theirs.abs().max()).item()
    times = {"inference": turns(infer, args, 1 if args.device == "cpu" else 20)}
    with tempfile.TemporaryDirectory() as folder:
        loaders = batches(args, Path(folder))
        train = {name: trainer(m, loaders[name != "released"], args, name != "released") for name, m in sides.items()}
        for name, step in train.items():
            step()
            if args.device == "cuda":
                result[name]["peak_mb_per_image"] = round(peak(step, sides[name], args) / 1e6, 1)
        times["training"] = turns(train, args, args.steps)
    for work, found in times.items():
        for name, t in found.items():
            row = {"ratio": quantiles(t[:, 0] / found["released"][:, 0])}
            row["processor_ratio"] = quantiles(t[:, 1] / found["released"][:, 1])
            row["ms" if work == "inference" else "images_per_s"] = quantiles(
                t[:, 0] * 1e3 if work == "inference" else args.batch / t[:, 0]
            )
            result[name][work] = row
    limit = 1e-3 if args.precision == "bf16" else TOLERANCE
    print(f"logits: largest difference over largest logit {difference:.1e}, {limit:g} allowed")
    for name, row in result.items():
        a, b = row["inference"], row["training"]
        print(
            f"{name:17s} inference {a['ms'][0]:8.1f} ms = {a['ratio'][0]:.2f} x released (processor "
            f"{a['processor_ratio'][0]:.2f}); training {b['images_per_s'][0]:7.2f} images/s, time {b['ratio'][0]:.2f} "
            f"x (processor {b['processor_ratio'][0]:.2f}); keeps {row['kept_mb_per_image']:.0f} MB per image"
            + (f", peak {row['peak_mb_per_image']:.0f} MB" if "peak_mb_per_image" in row else "")
        )
    if args.out:
        names = (
            "device",
            "precision",
            "channels_last",
            "compile",
            "threads",
            "size",
            "batch",
            "repeats",
            "steps",
            "workers",
        )
        write_result(
            args.out,
            command=" ".join(
                [
                    "python benchmarks/against_released.py",
                    *("CLONE" if Path(a) == args.repo else a for a in sys.argv[1:]),
                ]
            ),
            protocol=SPEED,
            options={name: getattr(args, name) for name in names},
            relative_difference=difference,
            sides=result,
        )
    return 0 if difference <= limit else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True, help="your clone of the released code")
    parser.add_argument("--size", type=int, default=256, help="side of the images")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    parser.add_argument("--speed", action="store_true", help="time both in place of comparing their results")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no", help="of ours and smp's")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="ours and smp's")
    parser.add_argument("--compile", action="store_true", help="ours and smp's; CUDA graphs for inference on a GPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=2, help="of training")
    parser.add_argument("--repeats", type=int, default=9, help="turns that count")
    parser.add_argument(
        "--steps", type=int, default=1, help="training steps of a turn; many where loaders have workers"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes of each data loader")
    args = parser.parse_args()

    torch.manual_seed(0)
    if args.speed:
        return speed(args)
    # ours first: importing the released encoder overwrites timm's pvt_v2_b2
    ours = models.build("unetv2-released", "tu-pvt_v2_b2")
    released = load_released(args.repo)
    copy_released(released, ours)
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
