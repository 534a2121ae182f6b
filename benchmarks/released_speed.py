"""`against_released.py --speed`: each side has its process and does its turn when it is told."""

import itertools
import os
import re
import resource
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import released
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unetv2 import data
from unetv2.common import env
from unetv2.costs import kept, spread, turns
from unetv2.costs.clock import WARM_UP
from unetv2.data import synthetic
from unetv2.networks import UnetV2
from unetv2.training import losses

PROTOCOL = (
    "Each side in a process of its own, in turns, each turn in the reverse order of the last, "
    f"{WARM_UP} turns of warm-up; ratios are to the released side in the same turn: median, p10, "
    "p90. The same synthetic images as files of 576 x 576 (JPEG, masks PNG; epochs of 1450 where "
    "loaders have workers, else shorter). Released: its own loader (decodes and resizes in every "
    "epoch, no augmentation, its default), float32, its loss and AdamW. Ours and smp's: decoded "
    "once to cached uint8, no augmentation, losses.make('released'), fused AdamW, the options "
    "named here. drop_path 0.1, gradient values clipped at 0.5, one scale of the released three. "
    "Training: data included, validation not. Inference: batch 1, eval mode, no gradients, input "
    "on the device. Kept: bytes that autograd keeps for backward, float32, per image. Peak: the "
    "most memory in training, per image of the batch, weights, gradients and optimizer included; "
    "on a GPU what PyTorch allocates, on a CPU what the process holds beyond what it held without"
    " a model. 'held memory': glibc keeps freed memory for the next step, as run_all.sh sets it; "
    "other sides have its defaults"
)
HELD = ", held memory"  # ends the name of a side that runs with the allocator as run_all.sh sets it
ALLOCATOR = re.search(
    r"GLIBC_TUNABLES:-([^}]+)", (env.root() / "run_all.sh").read_text(encoding="utf-8")
)[1]


def names(device: str) -> list[str]:
    """The sides, the reference first. CUDA manages its own memory, so that a GPU has one side of
    each.
    """
    plain = ["released", "ours", "smp.Unet", "smp.UnetPlusPlus"]
    return plain if device == "cuda" else ["released", "ours", *(name + HELD for name in plain)]


class Side:
    """One model, its data and its way to train. The first side leaves its weights in `folder` for
    ours.
    """

    def __init__(self, name: str, args: Namespace, folder: Path) -> None:
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        self.args, self.folder, self.fast = args, folder, not name.startswith("released")
        self.x = torch.randn(1, 3, args.size, args.size)
        self.held_before = _resident()
        options = {"encoder_name": "tu-pvt_v2_b2", "encoder_weights": None, "drop_path_rate": 0.1}
        match name.removesuffix(HELD):
            case "released":
                self.model = released.model(args.repo, drop_path=True)
                torch.save(self.model.state_dict(), folder / "released.pt")
            case "ours":
                self.model = UnetV2(released=True, deep_supervision=True, **options)
                weights = torch.load(folder / "released.pt", weights_only=True)
                self.model.load_state_dict(released.in_our_names(weights, self.model))
            case other:
                self.model = getattr(smp, other.removeprefix("smp."))(**options)
        layout = torch.channels_last if self.fast and args.channels_last else torch.preserve_format
        self.model.to(args.device, memory_format=layout)
        self.x = self.x.to(args.device)
        self.compiles, self.cuda = self.fast and args.compile, args.device == "cuda"
        self.precision = args.precision if self.fast else "no"
        self.predict = self.step = None

    def kept(self) -> float:
        return kept(self.model, self.x.expand(2, -1, -1, -1)) / 2

    def logits(self, precision: str) -> np.ndarray:
        self.model.eval()
        with torch.inference_mode(), self._autocast(precision):
            logits = self.model(self.x)
        return (logits[0] if isinstance(logits, list) else logits).float().cpu().numpy()

    def infer(self, steps: int) -> None:
        """`steps` times the logits of `x`, each waited for."""
        if self.predict is None:
            self.model.eval()
            # one graph replayed: at batch 1 a GPU waits for its kernels to be launched
            mode = "reduce-overhead" if self.cuda else "default"
            self.predict = (
                torch.compile(self.model, dynamic=False, mode=mode) if self.compiles else self.model
            )
        for _ in range(steps):
            with torch.inference_mode(), self._autocast(self.precision):
                self.predict(self.x)
            if self.cuda:
                torch.cuda.synchronize()

    def train(self, steps: int) -> None:
        if self.step is None:
            self.model.train()
            self.step = self._trainer()
        for _ in range(steps):
            self.step()
        if self.cuda:
            torch.cuda.synchronize()

    def peak(self) -> float:
        """Bytes per image of the batch; after training."""
        most = torch.cuda.max_memory_allocated() if self.cuda else _resident() - self.held_before
        return most / self.args.batch

    def _autocast(self, precision: str) -> torch.autocast:
        return torch.autocast(self.args.device, torch.bfloat16, precision == "bf16")

    def _trainer(self) -> Callable[[], None]:
        model, fast, stream = self.model, self.fast, self._batches()
        criterion = losses.make("released", 1) if fast else released.loss
        optimizer = torch.optim.AdamW(
            model.parameters(), 1e-4, weight_decay=1e-4, fused=True if fast else None
        )
        net = torch.compile(model, dynamic=False) if self.compiles else model

        def step() -> None:
            image, mask = (x.to(self.args.device, non_blocking=fast) for x in next(stream))
            optimizer.zero_grad()
            with self._autocast(self.precision):
                maps = net(image)
            criterion(maps, mask).backward()
            torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)
            optimizer.step()

        return step

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless whole batches of the same files, by the loader of this side."""
        args, options = self.args, {"pin_memory": self.cuda}
        if self.fast:
            seg = data.load(
                f"folder:{self.folder}",
                image_size=args.size,
                cache_dir=self.folder / "cache",
                check=False,
            )
            split, options["num_workers"] = data.TorchSplit(seg.train), args.workers
            loader = DataLoader(split, args.batch, shuffle=True, drop_last=True, **options)
        else:
            loader = released.loader(
                args.repo, self.folder, args.batch, args.size, args.workers, **options
            )
        if args.workers:
            # a spawned process would spawn them, too; the released dataset cannot be sent to such
            loader.multiprocessing_context = "fork"
        for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
            image, mask = (batch["image"], batch["mask"]) if self.fast else batch
            if len(image) == args.batch:
                yield image, mask


def _resident() -> int:
    """The most bytes that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _serve(connection: Connection, name: str, args: Namespace, folder: Path) -> None:
    """The process of a side: (method, arguments) in, its result out."""
    side = Side(name, args, folder)
    connection.send("ready")
    with suppress(EOFError):
        while request := connection.recv():
            connection.send(getattr(side, request[0])(*request[1:]))


@contextmanager
def _process(name: str, args: Namespace, folder: Path) -> Iterator[Callable]:
    """A function that calls a method of the side `name` in its process."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(there, name, args, folder))
    os.environ["GLIBC_TUNABLES"] = ALLOCATOR if name.endswith(HELD) else ""
    process.start()
    there.close()

    def call(*request):
        try:
            if request:
                here.send(request)
            return here.recv()
        except (EOFError, OSError):
            raise SystemExit(f"the side {name!r} failed, see above") from None

    call()  # "ready"
    try:
        yield call
    finally:
        here.close()
        process.terminate()
        process.join()


def compare(args: Namespace) -> tuple[dict[str, dict], dict[str, float]]:
    """{side: measured}, and the `released.difference` of ours and of the released model, in the
    precision asked for, from the released model in float32."""
    chosen = names(args.device)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        images, masks = synthetic.make("polyp", 32, 576, seed=0)
        for kind in ("images", "masks"):
            (folder / kind).mkdir()
        # loaders start their processes anew in every epoch: epochs as long as those of the papers'
        # 1450 images then
        for i in range(1450 if args.workers else max(32, 4 * args.batch)):
            cv2.imwrite(str(folder / "images" / f"{i:04d}.jpg"), images[i % 32, ..., ::-1])
            cv2.imwrite(str(folder / "masks" / f"{i:04d}.png"), 255 * masks[i % 32])
        sides = {name: stack.enter_context(_process(name, args, folder)) for name in chosen}
        kept_bytes = {name: call("kept") for name, call in sides.items()}
        expected = torch.from_numpy(sides["released"]("logits", "no"))
        differences = {
            name: released.difference(
                torch.from_numpy(sides[name]("logits", args.precision)), expected
            )
            for name in ("ours", "released")
        }
        works = {
            "inference": ("infer", 1 if args.device == "cpu" else 20),
            "training": ("train", args.steps),
        }
        seconds = {
            work: turns(
                [partial(call, *task) for call in sides.values()], args.repeats, torch.device("cpu")
            )
            / task[1]
            for work, task in works.items()
        }
        peaks = {name: call("peak") for name, call in sides.items()}
    rows = {}
    for k, name in enumerate(chosen):
        rows[name] = {
            "kept_mb_per_image": kept_bytes[name] / 1e6,
            "kept_ratio": kept_bytes[name] / kept_bytes["released"],
        }
        rows[name] |= {
            "peak_mb_per_image": peaks[name] / 1e6,
            "peak_ratio": peaks[name] / peaks["released"],
        }
        rows[name] |= {f"{work}_ratio": spread(t[k] / t[0]) for work, t in seconds.items()}
        if args.device == "cuda":
            rows[name] |= {
                "inference_ms": spread(1e3 * seconds["inference"][k]),
                "images_per_s": spread(args.batch / seconds["training"][k]),
            }
    return rows, differences
