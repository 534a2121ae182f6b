"""`against_released.py --speed`: each side has its process and does its turn when it is told."""

import importlib.util
import os
import re
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import released
import torch
from speed_sides import HELD, RESNET, Side

from unetv2.common import env
from unetv2.costs import spread, turns
from unetv2.costs.clock import WARM_UP
from unetv2.data import synthetic

PROTOCOL = (
    "Each side in a process of its own, in turns, each turn in the reverse order of the last, "
    f"{WARM_UP} turns of warm-up; ratios are to the first side in the same turn: median, p10, "
    "p90. The same synthetic images as files of 576 x 576 (JPEG, masks PNG; epochs of 1450 where "
    "loaders have workers, else shorter). Released: its own loader (decodes and resizes in every "
    "epoch, no augmentation, its default), float32 (with the option equal: the precision of the "
    "others), its loss and AdamW. Ours, smp's and MONAI's: decoded once to cached uint8, no "
    "augmentation, losses.make('released'), fused AdamW, the options named here. PVT's drop_path "
    "0.1, gradient values clipped at 0.5, one scale of the released three. Training: data "
    "included, validation not. Step: the same with one batch that stays on the device. Inference: "
    "batch 1, eval mode, no gradients, input on the device. Kept: bytes that autograd keeps for "
    "backward, float32, per image. Peak: the most memory in training, per image of the batch, "
    "weights, gradients and optimizer included; on a GPU what PyTorch allocates, on a CPU what the "
    "process holds beyond what it held without a model. 'held memory': glibc keeps freed memory "
    "for the next step, as run_all.sh sets it; other sides have its defaults"
)
ALLOCATOR = re.search(
    r"GLIBC_TUNABLES:-([^}]+)", (env.root() / "run_all.sh").read_text(encoding="utf-8")
)[1]
GOALS = {"training_ratio": 1 / 3, "peak_ratio": 0.5, "inference_ratio": 0.25}  # ours, on a GPU


def names(args: Namespace) -> list[str]:
    """The sides, the reference first: the released code where a clone of it is given.

    CUDA manages its own memory, so that a GPU has one side of each, and those with a ResNet-50.
    """
    if args.sides:
        return args.sides
    first = ["released"] * bool(args.repo) + ["ours"]
    plain = [*first, "smp.Unet", "smp.UnetPlusPlus"]
    if args.device == "cpu":
        return [*first, *(name + HELD for name in plain)]
    monai = ["monai.FlexibleUNet"] * bool(importlib.util.find_spec("monai"))
    return [*plain, *(name + RESNET for name in ("ours", "smp.Unet", *monai))]


def _serve(connection: Connection, name: str, args: Namespace, folder: Path) -> None:
    """The process of a side: (method, arguments) in, its result out."""
    side = Side(name, args, folder)
    connection.send("ready")
    with suppress(EOFError):
        while request := connection.recv():
            connection.send(getattr(side, request[0])(*request[1:]))


class _Caller:
    """Calls methods of a side in its process."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name, self.connection = name, connection

    def __call__(self, *request):
        self.send(*request)
        return self.receive()

    def send(self, *request) -> None:
        with suppress(OSError):  # receive() says what there is to say
            self.connection.send(request)

    def receive(self):
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            raise SystemExit(f"the side {self.name!r} failed, see above") from None


@contextmanager
def _process(name: str, args: Namespace, folder: Path) -> Iterator[_Caller]:
    """The caller of the side `name`, whose process it starts and ends."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(there, name, args, folder))
    os.environ["GLIBC_TUNABLES"] = ALLOCATOR if name.endswith(HELD) else ""
    process.start()
    there.close()
    caller = _Caller(name, here)
    caller.receive()  # "ready"
    try:
        yield caller
    finally:
        here.close()
        process.terminate()
        process.join()


def compare(args: Namespace) -> tuple[dict[str, dict], dict[str, float]]:
    """{side: measured}, and the `released.difference` of ours and of the released model, in the
    precision asked for, from the released model in float32; {} without the released side."""
    chosen = names(args)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        _write_images(folder, args)
        sides = {name: stack.enter_context(_process(name, args, folder)) for name in chosen}
        counts = {name: call("parameters") for name, call in sides.items()}
        kept_bytes = {name: call("kept") for name, call in sides.items()}
        differences = _differences(sides, args.precision)
        if args.compile:  # all at the same time: it takes minutes
            for task in (("infer", 1), ("train", 1)):
                for call in sides.values():
                    call.send(*task)
                for call in sides.values():
                    call.receive()
        works = {
            "inference": ("infer", 1 if args.device == "cpu" else 20),
            "training": ("train", args.steps),
            "step": ("train", args.steps, False),
        }
        seconds = {
            work: turns(
                [partial(call, *task) for call in sides.values()], args.repeats, torch.device("cpu")
            )
            / task[1]
            for work, task in works.items()
        }
        peaks = {name: call("peak") for name, call in sides.items()}
    rows, first = {}, chosen[0]
    for k, name in enumerate(chosen):
        rows[name] = {
            "parameters": counts[name],
            "kept_mb_per_image": kept_bytes[name] / 1e6,
            "kept_ratio": kept_bytes[name] / kept_bytes[first],
        }
        rows[name] |= {
            "peak_mb_per_image": peaks[name] / 1e6,
            "peak_ratio": peaks[name] / peaks[first],
        }
        rows[name] |= {f"{work}_ratio": spread(t[k] / t[0]) for work, t in seconds.items()}
        if args.device == "cuda":
            rows[name] |= {
                "inference_ms": spread(1e3 * seconds["inference"][k]),
                "images_per_s": spread(args.batch / seconds["training"][k]),
                "images_per_s_without_loading": spread(args.batch / seconds["step"][k]),
            }
    return rows, differences


def _write_images(folder: Path, args: Namespace) -> None:
    images, masks = synthetic.make("polyp", 32, 576, seed=0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    # loaders start their processes anew in every epoch: epochs as long as those of the papers'
    # 1450 images then
    for i in range(1450 if args.workers else max(32, 4 * args.batch)):
        cv2.imwrite(str(folder / "images" / f"{i:04d}.jpg"), images[i % 32, ..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{i:04d}.png"), 255 * masks[i % 32])


def _differences(sides: dict[str, _Caller], precision: str) -> dict[str, float]:
    if not {"released", "ours"} <= set(sides):
        return {}
    expected = torch.from_numpy(sides["released"]("logits", "no"))
    found = {
        name: torch.from_numpy(sides[name]("logits", precision)) for name in ("ours", "released")
    }
    return {name: released.difference(logits, expected) for name, logits in found.items()}


def goals(rows: dict[str, dict]) -> dict[str, dict]:
    """What was to be reached on a GPU beside the released side, and what ours reached."""
    if "released" not in rows:
        return {}
    found = {name: rows["ours"][name] for name in GOALS}
    found = {name: value[0] if isinstance(value, list) else value for name, value in found.items()}
    return {
        name: {"at_most": most, "found": found[name], "reached": found[name] <= most}
        for name, most in GOALS.items()
    }
