"""step.py FOLDER LOG PARAMETERS COMMAND...: make the folder of a step ready, then become COMMAND.

A folder that was begun with the same parameters and code is kept, so that a killed step goes on;
any other is emptied. A run's folder is never emptied: one of another identity is moved aside, with
its date. The folder is locked as long as the command lives, so that one that outlived the kill of
its parent is waited for. What the command prints goes to LOG.
"""

import fcntl
import json
import os
import shutil
import sys
from datetime import date
from pathlib import Path

RUN = ("identity.json", "log.csv", "metrics.json")  # a folder that holds one of them is a run's


def lock(folder: Path) -> None:
    """Lock `folder` until this process, and what it becomes, has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)


def header(parameters: str) -> dict[str, str]:
    """What the lines `# name value` of a parameters file say."""
    lines = (line[2:].split() for line in parameters.splitlines() if line.startswith("# "))
    return {words[0]: words[1] for words in lines}


def identity_of(folder: Path) -> str | None:
    """The identity of the run in `folder`, finished or not; None where there is none."""
    for name, read in (("identity.json", json.loads), ("params.yaml", header)):
        if (folder / name).is_file():
            return read((folder / name).read_text(encoding="utf-8")).get("identity")
    return None


def of_another(folder: Path, identity: str) -> bool:
    """Whether `folder` holds a run, begun or finished, of another identity."""
    there = any((folder / name).is_file() for name in RUN)
    return there and identity_of(folder) != identity


def move_aside(folder: Path) -> None:
    """Rename `folder`, s0, to s0.2026-11-21-1, the first number that is free."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{date.today()}-{number}")).exists():
        number += 1
    folder.rename(aside)


def prepare(folder: Path, parameters: str) -> None:
    """Lock `folder`, put away what is not of these parameters, and write them to params.yaml."""
    lock(folder)
    file, wanted = folder / "params.yaml", header(parameters).get("identity")
    if wanted:
        if of_another(folder, wanted):
            move_aside(folder)
            lock(folder)
    elif file.is_file() and file.read_text(encoding="utf-8") != parameters:
        for path in folder.iterdir():
            if path.name != ".lock":
                whole = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if whole else path.unlink()
    file.write_text(parameters, encoding="utf-8")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), sys.argv[3])
    out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(out, 1), os.dup2(out, 2)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[4:]])
