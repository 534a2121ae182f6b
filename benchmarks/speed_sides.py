"""The sides of a comparison of speed: a network, its data and its way to train."""

import itertools
import resource
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import released
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unetv2 import data
from unetv2.costs import kept
from unetv2.training import losses

__all__ = ["HELD", "RESNET", "Side"]

HELD = ", held memory"  # ends the name of a side that runs with the allocator as run_all.sh sets it
RESNET = ", ResNet-50"  # ends the name of a side with that encoder, which MONAI has too


def network(name: str, encoder: str) -> nn.Module:
    """The network of a side that is not the released one, with random weights."""
    if RESNET in name:
        options = {"encoder_name": "resnet50", "encoder_weights": None}
    else:
        options = {"encoder_name": encoder, "encoder_weights": None, "drop_path_rate": 0.1}
    package, _, kind = name.partition(",")[0].partition(".")
    if package == "monai":
        from monai.networks.nets import FlexibleUNet

        return FlexibleUNet(3, 1, options["encoder_name"])
    if package == "smp":
        import segmentation_models_pytorch as smp

        return getattr(smp, kind)(**options)
    from unetv2.networks import UnetV2

    return UnetV2(released=True, deep_supervision=True, **options)


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
        if name.startswith("released"):
            self.model = released.model(args.repo, drop_path=True)
            torch.save(self.model.state_dict(), folder / "released.pt")
        else:
            self.model = network(name, args.encoder)
            if name in ("ours", "ours" + HELD) and args.repo:
                weights = torch.load(folder / "released.pt", weights_only=True)
                self.model.load_state_dict(released.in_our_names(weights, self.model))
        layout = torch.channels_last if self.fast and args.channels_last else torch.preserve_format
        self.model.to(args.device, memory_format=layout)
        self.x = self.x.to(args.device)
        self.compiles, self.cuda = self.fast and args.compile, args.device == "cuda"
        self.precision = args.precision if self.fast or args.equal else "no"
        self.predict = self.step = self.loaded = self.still = None

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def kept(self) -> float:
        return kept(self.model, self.x.expand(2, -1, -1, -1)) / 2

    def logits(self, precision: str) -> np.ndarray:
        self.model.eval()
        exact = torch.backends.cudnn.flags(allow_tf32=False)
        with torch.inference_mode(), exact, self._autocast(precision):
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

    def train(self, steps: int, loading: bool = True) -> None:
        """`steps` training steps, on new batches or on one that stays on the device."""
        if self.step is None:
            self.model.train()
            self.step, self.loaded = self._trainer(), self._batches()
            self.still = self._on_device(next(self.loaded))
        for _ in range(steps):
            self.step(*(self._on_device(next(self.loaded)) if loading else self.still))
        if self.cuda:
            torch.cuda.synchronize()

    def peak(self) -> float:
        """Bytes per image of the batch; after training."""
        most = torch.cuda.max_memory_allocated() if self.cuda else _resident() - self.held_before
        return most / self.args.batch

    def _autocast(self, precision: str) -> torch.autocast:
        return torch.autocast(self.args.device, torch.bfloat16, precision == "bf16")

    def _on_device(self, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
        return [x.to(self.args.device, non_blocking=self.fast) for x in batch]

    def _trainer(self) -> Callable[[Tensor, Tensor], None]:
        model, fast = self.model, self.fast
        criterion = losses.make("released", 1) if fast else released.loss
        optimizer = torch.optim.AdamW(
            model.parameters(), 1e-4, weight_decay=1e-4, fused=True if fast else None
        )
        net = torch.compile(model, dynamic=False) if self.compiles else model

        def step(image: Tensor, mask: Tensor) -> None:
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
