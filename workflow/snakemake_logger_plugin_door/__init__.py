"""What a person sees while Snakemake runs: a line for each step, each failure, a summary."""

import json
import os
import re
import sys
import time
from ast import literal_eval
from logging import ERROR, LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

KILLED = "the kernel was killed, most likely for memory: lower batch_size or image_size, or --jobs"


class LogHandler(LogHandlerBase):
    """Snakemake looks for this name; its own messages go to its log file."""

    writes_to_stream, writes_to_file, has_filter, has_formatter, needs_rulegraph = (
        True,
        False,
        True,
        True,
        False,
    )

    def __post_init__(self) -> None:
        self.total, self.done, self.failed, self.told = 0, 0, 0, False
        self.running: dict[int, tuple[str, float]] = {}  # job id: label, start
        self.planned: list[str] = []
        self.errors: list[str] = []  # Snakemake's own; shown only where no step explains them
        self.begin = time.monotonic()

    def emit(self, record: LogRecord) -> None:
        """Show what `record` says, if it is about a step or an error."""
        facts, event = record.__dict__, getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.total = facts["stats"]["total"] - facts["stats"].get("all", 0)
        elif event == LogEvent.JOB_INFO and facts["rule_name"] != "all":
            self.running[facts["jobid"]] = (facts["rule_msg"], time.monotonic())
            self.planned.append(f"{facts['rule_msg']}  ({why(facts['reason'])})")
            self.say()
        elif event == LogEvent.JOB_FINISHED and facts["job_id"] in self.running:
            self.done += 1
            self.say(self.line(facts["job_id"]))
        elif event == LogEvent.JOB_ERROR and facts["jobid"] in self.running:
            self.failed += 1
            log = Path(facts["log"][0].split(" (")[0])
            self.say(
                self.line(facts["jobid"], "FAILED after ")
                + "\n"
                + failure(log.parent / f"{facts['rule_name']}.ipynb", log)
            )
        elif event in (None, LogEvent.ERROR) and record.levelno >= ERROR:
            self.errors.append(record.getMessage())

    def line(self, job: int, word: str = "") -> str:
        """The line of a step that has ended, with its place in the whole."""
        label, start = self.running.pop(job)
        place = f"{self.done + self.failed:{len(str(self.total))}}/{self.total}"
        return f"[{place}] {label} ... {word}{duration(time.monotonic() - start)}"

    def say(self, text: str = "") -> None:
        """Print `text`; a terminal also shows what runs now, until the next line replaces it."""
        if text:
            print(("\r\033[K" if sys.stdout.isatty() else "") + text, flush=True)
        if sys.stdout.isatty() and not self.common_settings.dryrun:
            now = ", ".join(label for label, _ in self.running.values())[
                : os.get_terminal_size().columns - 12
            ]
            print(f"\r\033[K  running: {now}" if now else "", end="", flush=True)

    def close(self) -> None:
        """Print the summary; Snakemake calls this when all has ended."""
        rest = self.total - self.done - self.failed
        if self.told:  # called twice
            return
        self.told = True
        if self.errors and not self.failed:
            self.say("\n".join(self.errors))
        elif not self.total:
            self.say("nothing to do: all steps are done")
        elif self.common_settings.dryrun:
            lines = [
                f"[{i:{len(str(self.total))}}/{self.total}] {text}"
                for i, text in enumerate(sorted(self.planned), 1)
            ]
            self.say("\n".join([*lines, f"{self.total} steps would run"]))
        else:
            more = f", {self.failed} failed" * bool(self.failed) + f", {rest} not run" * bool(rest)
            again = "; the same command goes on from here" * bool(more)
            time_taken = duration(time.monotonic() - self.begin)
            self.say(f"{self.done} of {self.total} steps done{more}, {time_taken}{again}")
        super().close()


def duration(seconds: float) -> str:
    """`41 s`, `12 min 5 s` or `3 h 20 min`."""
    s = round(seconds)
    return (
        f"{s} s"
        if s < 100
        else f"{s // 60} min {s % 60} s"
        if s < 6000
        else f"{s // 3600} h {s % 3600 // 60} min"
    )


def why(reason: str) -> str:
    """Snakemake's reason to run a step, in a few words; of parameters, the names that changed."""
    changed = re.search(r"Params have changed.*before: ('.*'|\".*\") now: ('.*'|\".*\")", reason)
    if not changed:
        words = {
            "Missing output files": "not done yet",
            "Input files updated by another job": "after what it reads",
        }
        return words.get(reason.split(":")[0], reason.split(":")[0].lower())
    before, now = (set(literal_eval(text).splitlines()) for text in changed.groups())
    names = {re.split(r"[: ]", line.lstrip("# "))[0] for line in before ^ now}
    return "changed: " + ", ".join(
        sorted(names - {"identity"})
    )  # it changes with one of the others


def failure(executed: Path, log: Path) -> str:
    """Where and why a notebook failed, from its executed copy and its log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    killed, where = (
        any("DeadKernelError" in line for line in lines),
        f"before {executed.name} started",
    )
    cells = [
        (n, cell, cell["metadata"].get("papermill", {}))
        for n, cell in enumerate(code_cells(executed), 1)
    ]
    stopped = [
        c for c in cells if c[2].get("exception") or c[2].get("status") in ("running", "failed")
    ]
    begun = [
        c for c in cells if c[2].get("status") == "completed"
    ]  # papermill says so of a cell that killed its kernel
    for number, cell, _ in stopped[:1] or begun[-1:]:
        first = next((line for line in cell["source"] if line.strip()), "").strip()
        where = f"{executed.name}, code cell [{number}]: {first}"
        lines = [
            line for o in cell["outputs"] for line in "\n".join(o.get("traceback", [])).splitlines()
        ] or lines
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]
    text = [where, *([KILLED] if killed else [line for line in plain if line][-5:])]
    place = os.environ.get("PWD", ".")
    text += [f"log:  {os.path.relpath(log, place)}", f"copy: {os.path.relpath(executed, place)}"]
    return "\n".join(f"      {line[:300]}" for line in text)


def code_cells(executed: Path) -> list[dict]:
    """The code cells of an executed copy, `source` as lines; none where there is no notebook."""
    if not executed.is_file():
        return []
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    return [
        c | {"source": "".join(c["source"]).splitlines()} for c in cells if c["cell_type"] == "code"
    ]
