"""Where this runs: root folder, data and weights folders, versions, device; and whether the GPU
really works.

Kaggle mounts what is attached read-only, at depths that change: what is read is looked for there,
and what is written goes to the working folder.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .errors import unknown

__all__ = [
    "check_precision",
    "compile_problem",
    "cores",
    "data_dir",
    "describe",
    "device",
    "here",
    "home",
    "on_colab",
    "on_kaggle",
    "path",
    "ready",
    "report",
    "root",
    "weights_dir",
]

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "accelerate",
    "numpy",
)
MARKERS = (
    "Kvasir-SEG",
    "CVC-ClinicDB",
    "ISIC-2017",
    "ISIC-2018",
    "dsb2018_96",
    "isbi2012",
    "TestDataset",
)
OURS = ("outputs", "data/samples", "wheels")  # a part of this collection holds one of them
KAGGLE_INPUT = Path("/kaggle/input")
KAGGLE_WORKING = Path("/kaggle/working")


def on_kaggle() -> bool:
    """Whether this is a Kaggle kernel."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def on_colab() -> bool:
    """Whether this is a Colab runtime."""
    return "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules


def root() -> Path:
    """The repository: the folder that holds `lib/unetv2`; the current folder where the library is
    installed alone.
    """
    found = Path(__file__).resolve().parents[3]
    return found if (found / "lib" / "unetv2").is_dir() else Path.cwd()


def home() -> Path:
    """The folder in which outputs are written: the repository; where that cannot be written
    Kaggle's working folder, elsewhere the current one.
    """
    if os.access(root(), os.W_OK) and not root().is_relative_to(KAGGLE_INPUT):
        return root()
    return KAGGLE_WORKING if on_kaggle() else Path.cwd()


def path(setting: str | Path) -> Path:
    """`setting` as an absolute path; a relative one starts at the repository, whatever the working
    directory.

    Where the repository cannot be written, a relative one is what lies in `home()`, in the
    repository or in an attached part of the collection; what lies nowhere yet starts at `home()`.
    """
    asked, top = Path(setting).expanduser(), home()
    if asked.is_absolute() or top == root():
        return root() / asked
    for place in (top, root()):
        if (place / asked).exists():
            return place / asked
    return next((part / asked for part in _attached() if (part / asked).exists()), top / asked)


def here(typed: str) -> str:
    """A path that somebody typed in a shell, absolute: a relative one starts where they are."""
    return os.path.abspath(os.path.expanduser(typed))


@cache
def _attached() -> tuple[Path, ...]:
    """The folders that Kaggle mounts parts of this collection at: records, weights, samples."""
    return tuple(f for f in _below(KAGGLE_INPUT) if any((f / part).is_dir() for part in OURS))


def data_dir(setting: str | None = None) -> Path:
    """The folder of datasets: `setting`, else DATA_DIR, else on Kaggle where a known dataset lies,
    else `data/`.
    """
    return _asked_for("data", setting) or (on_kaggle() and _find(KAGGLE_INPUT)) or home() / "data"


def weights_dir(setting: str | None = None) -> Path | None:
    """The folder of `<encoder>.safetensors`: `setting`, else WEIGHTS_DIR, else None (weights come
    from the hub).
    """
    return _asked_for("weights", setting)


def _asked_for(kind: str, setting: str | None) -> Path | None:
    """The folder that `setting` or the environment names; FileNotFoundError where there is none of
    that name.
    """
    variable = f"{kind.upper()}_DIR"
    name = setting or os.environ.get(variable)
    if name and not path(name).is_dir():
        source = f"{kind}_dir" if setting else variable
        raise FileNotFoundError(
            f"{kind} folder not found: {name} (from {source}); name one that exists with --{kind}"
        )
    return path(name) if name else None


def _find(top: Path) -> Path | None:
    """The shallowest folder below `top` that holds a known dataset."""
    return next((folder.parent for folder in _below(top) if folder.name in MARKERS), None)


def _below(top: Path) -> Iterator[Path]:
    """The folders below `top`, the shallowest first (Kaggle mounts at changing depths)."""
    return (f for depth in range(1, 7) for f in sorted(top.glob("*/" * depth)))


@cache
def gpu_problem() -> str | None:
    """None if the GPU computes, else why not (Kaggle's P100 counts as available and fails at its
    first operation).
    """
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    try:
        x = torch.ones(1, 2, 8, 8, device="cuda")
        torch.nn.functional.conv2d(x, torch.ones(1, 2, 3, 3, device="cuda")).sum().item()
    except RuntimeError as error:  # its first line says which kernels are missing
        hint = "; on Kaggle choose the accelerator 'GPU T4 x2'" if on_kaggle() else ""
        reason = str(error).splitlines()[0]
        return f"{torch.cuda.get_device_name()} fails at a first operation ({reason}){hint}"
    return None


@cache
def compile_problem(device: str) -> str | None:
    """None if torch.compile works on `device` ("cpu", "cuda"), else why not (no C++ compiler, no
    Triton, old GPU).
    """
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(64, device=device))
    except Exception as error:  # the compilers of the platforms fail in ways of their own
        return f"torch.compile fails on this {device} ({str(error).strip().splitlines()[0][:200]})"
    return None


def device(setting: str = "auto"):
    """The torch device for `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: another setting.
        RuntimeError: `cuda` was asked for and does not work.
    """
    import torch

    if setting not in (settings := ("auto", "cpu", "cuda")):
        raise unknown("device", setting, settings)
    if setting == "cuda" and gpu_problem():
        raise RuntimeError(
            f"device 'cuda' was asked for: {gpu_problem()}; use device 'auto' or 'cpu'"
        )
    return torch.device("cuda" if setting != "cpu" and not gpu_problem() else "cpu")


def cores() -> int:
    """The processor cores that this process may use: a scheduler may lend fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_precision(place, precision: str) -> None:
    """RuntimeError if the device `place` does not compute in "fp16" or "bf16"; every device does in
    "no": float32, in whose convolutions an NVIDIA GPU from Ampere on rounds the factors to TF32,
    PyTorch's default.
    """
    import torch

    if precision == "fp16" and place.type == "cpu":
        raise RuntimeError("precision 'fp16' is for a GPU; use 'no' or 'bf16' on a CPU")
    if (
        precision == "bf16"
        and place.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise RuntimeError(
            f"{torch.cuda.get_device_name()} computes 'bf16' in emulation alone; use 'fp16' or 'no'"
        )


def describe(device: str = "auto") -> dict[str, str | int | None]:
    """Versions, device, commit and platform, as recorded beside each run; no path, host or user
    name.

    Args:
        device: what was computed on, as in RunParams.
    """
    import torch

    on_cpu = device == "cpu" or gpu_problem()

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in PACKAGES},
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the repository, with `+` where tracked files differ from it; None outside
    git.
    """
    command = [
        "git",
        "-C",
        str(root()),
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty=+",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def ready() -> None:
    """Install what Kaggle's or Colab's Python lacks, then report: the first cell of a notebook.

    Raises:
        RuntimeError: it cannot be installed; says what to attach.
    """
    if on_kaggle() or on_colab():
        from .packages import install

        install(root() / "requirements.txt", path("wheels"))
    report()


def report() -> None:
    """Print where this runs, in few lines, after trying the GPU with a real operation."""
    facts = describe()
    place = "Kaggle" if on_kaggle() else "Colab" if on_colab() else facts["platform"]
    smp = facts["segmentation-models-pytorch"]
    print(f"Python {facts['python']}, torch {facts['torch']}, smp {smp}, on {place}")
    print(f"device: {facts['device']}" + f" ({gpu_problem()})" * bool(gpu_problem()))
