"""Stages of work within a time budget, each of stated length, each with one small result file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unetv2.common import files

__all__ = ["Stage", "go", "python"]

BEGIN = 2.0  # minutes with which a stage is begun that later goes on where it was stopped
GRACE = 15.0  # seconds that a command has to end when the time is over


@dataclass(frozen=True)
class Stage:
    """A part of a programme; it is done when its result, OUT/NAME.json, is there.

    Attributes:
        minutes: how long it takes; with fewer left it is not begun.
        command: what repeats it, for the result.
        protocol: what was measured and how, for the result.
        commands: () -> the command lines that are still to be run.
        result: () -> what else the result holds; None: a command writes the whole file itself.
        resumes: its commands go on where they were stopped, so that `BEGIN` minutes are enough.
    """

    name: str
    minutes: float
    command: str
    protocol: str
    commands: Callable[[], list[list[str]]]
    result: Callable[[], dict[str, Any]] | None = None
    resumes: bool = False


class _Failed(Exception):
    pass


class _TimeIsOver(Exception):
    pass


def go(stages: Sequence[Stage], out: Path, minutes: float, jobs: int = 1) -> int:
    """Carry out what is not done of `stages`, in order; print a line for each.

    A stage that fails is reported and the next one goes on.

    Args:
        out: folder of the results; what the commands print goes to out/logs.
        minutes: no command runs longer; one that does is ended.
        jobs: commands of one stage that run at a time.

    Returns:
        0, or 1 where a stage failed or did not end in its stated time.
    """
    end, failed = time.monotonic() + 60 * minutes - GRACE, False
    for stage in stages:
        file, left = out / f"{stage.name}.json", (end - time.monotonic()) / 60
        need = min(stage.minutes, BEGIN) if stage.resumes else stage.minutes
        if file.is_file():
            _say(stage, "done before")
            continue
        if left < need:
            _say(stage, f"not begun: it needs {need:g} minutes, {max(left, 0):.1f} are left")
            continue
        start = time.monotonic()
        try:
            _carry_out(stage, out, end, jobs)
            seconds = round(time.monotonic() - start, 1)
            _write(stage, file, seconds)
            _say(stage, f"done in {seconds:.0f} s")
        except _TimeIsOver:
            failed |= not stage.resumes
            again = "the next call goes on" if stage.resumes else "give it more minutes"
            _say(stage, f"stopped, the time is over: {again}")
        except (_Failed, ValueError, OSError, RuntimeError) as error:
            failed = True
            _say(stage, f"FAILED: {error}")
    return int(failed)


def _say(stage: Stage, text: str) -> None:
    print(f"{stage.name:14} {text}", flush=True)


def _write(stage: Stage, file: Path, seconds: float) -> None:
    if stage.result is not None:
        values = {"seconds": seconds, **stage.result()}
        files.write_result(file, command=stage.command, protocol=stage.protocol, **values)
    elif not file.is_file():
        raise _Failed(f"its command ended well and wrote no {file.name}")


def _carry_out(stage: Stage, out: Path, end: float, jobs: int) -> None:
    """Run the commands of a stage, at most `jobs` at a time.

    Raises:
        _Failed: at least one failed; the others were run to their end.
        _TimeIsOver: what still ran was ended.
    """
    waiting, running, failures = list(enumerate(stage.commands(), 1)), {}, []
    (out / "logs").mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, command = waiting.pop(0)
                log = out / "logs" / f"{stage.name}-{number}.log"
                running[_start(command, log)] = log
            if time.monotonic() > end:
                raise _TimeIsOver
            for process in [one for one in running if one.poll() is not None]:
                log = running.pop(process)
                if process.returncode:
                    failures.append(f"{_last_line(log)} (see {log})")
            time.sleep(0.05)
    finally:
        _stop(list(running))
    if failures:
        raise _Failed("; ".join(failures))


def _start(command: list[str], log: Path) -> subprocess.Popen:
    with log.open("w", encoding="utf-8") as file:
        # a group of its own, so that its children end with it
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, process_group=0)


def _stop(running: list[subprocess.Popen]) -> None:
    """Ask the processes and their children to end; after `GRACE` seconds make them."""
    for process in running:
        _signal(process, signal.SIGTERM)
    limit = time.monotonic() + GRACE
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, limit - time.monotonic()))
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def python(*words: object) -> list[str]:
    """The command line of this Python with these words."""
    return [sys.executable, *map(str, words)]
