"""step.py FOLDER PARAMETERS COMMAND...: make the folder of a step ready, then become the papermill COMMAND.

A folder that was begun with the same parameters and code is kept, so that a killed training goes on; any other is
emptied. The folder is locked as long as the command lives: a run that outlived the kill of its parent is waited for. On
a machine with several GPUs the command gets one that no other step uses.
"""

import fcntl
import os
import shutil
import sys
import tempfile
from pathlib import Path


def lock(path: Path, wait: bool) -> bool:
    """Lock `path` until this process and what it becomes have ended; False where it is locked and `wait` is not set."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return False
    os.set_inheritable(handle, True)
    return True


def prepare(folder: Path, parameters: str) -> None:
    """Lock `folder`, empty it unless it is of the same parameters, and write them to params.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder / ".lock", wait=True)
    file = folder / "params.yaml"
    if file.is_file() and file.read_text(encoding="utf-8") != parameters:
        print("other parameters or code than before: starting in an empty folder", flush=True)
        for path in folder.iterdir():
            if path.name not in (".lock", "run.log"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    file.write_text(parameters, encoding="utf-8")


def choose_gpu() -> None:
    """Set CUDA_VISIBLE_DEVICES to a GPU that no other step uses, where there is a choice."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = (
        given.split(",")
        if given is not None
        else [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    )
    free = (
        gpu for gpu in found if lock(Path(tempfile.gettempdir()) / f"unetv2-gpu-{os.getuid()}-{gpu}.lock", wait=False)
    )
    if len(found) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = next(free, found[os.getpid() % len(found)])


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), sys.argv[2])
    choose_gpu()
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[3:]])
