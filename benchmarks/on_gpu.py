"""All that waits for a GPU, in stages, most valuable first, within the minutes that there are.

    PYTHONPATH=lib:workflow python benchmarks/on_gpu.py --minutes N --data DIR --weights DIR
        --out DIR [--released CLONE] [--stages NAME ...] [--jobs 3] [--rehearse]

    tests           the tests that need a GPU: fp16, bf16, compile, scales, resume
    quick           the quick config end to end, every notebook by papermill
    speed-best      training and inference beside the released code, smp and MONAI, with and
                    without loading, each at its best; the goals are this stage's
    speed-fp32      the same at equal precision, float32
    speed-bf16      the same at equal precision, bfloat16
    costs           parameters, arithmetic, memory and time of the skips
    frames          frames per second of Table 4's models, waited for and as the paper took them
    isic2017-sN     ISIC 2017 at 256 px, ResNet-50: copy, nested and SDI of seed N
    pranet-sN       polyps at 352 px, the same
    arms-sN         the other arms of ablation-isic2017-e24, as isic2017-sN

A stage leaves OUT/NAME.json and is not repeated while that is there. One that does not fit into
the remaining minutes is not begun. Trainings are begun all the same: they are stopped when the
time is over, and the next call goes on from their checkpoints in OUT/work. Their records lie in
OUT/records as they are committed in outputs/results/records. With tu-pvt_v2_b2.safetensors among
the weights, paper-isic2017 and paper-polyps take the place of the last three: days of one GPU.

The minutes of each stage are reckoned for an H200, not measured. NOTES.md says how the programme
travels to a lent machine without a network. --rehearse goes through all stages on a CPU at tiny
settings; what it measures says nothing.
"""

import argparse
import os
import signal
import sys
from functools import partial
from pathlib import Path

from gpu_trainings import trainings
from stages import Stage, go, python

from unetv2.common import env
from unetv2.common.errors import unknown

ROOT = env.root()
SKIPS = ["thin+copy", "thin+nested", "thin+sdi", "smp-unet-stride2", "smp-unetplusplus-stride2"]
BEST = ["--precision", "bf16", "--compile"]
EQUAL = ["--precision", "bf16", "--equal"]


def stages(args: argparse.Namespace) -> list[Stage]:
    """All stages, in their order."""
    rehearse = args.rehearse
    weights = Path(os.environ["WEIGHTS_DIR"]) if "WEIGHTS_DIR" in os.environ else None
    return [
        _tests(args.out, rehearse),
        _quick(args.out, rehearse),
        _speed("speed-best", 6, BEST[:2] if rehearse else BEST, args),
        _speed("speed-fp32", 3, [], args),
        _speed("speed-bf16", 3, EQUAL, args),
        _costs(args.out, rehearse),
        _frames(args.out, rehearse),
        *trainings(args.out, weights, args.jobs, rehearse),
    ]


def _tests(out: Path, rehearse: bool) -> Stage:
    files = sorted((ROOT / "tests").glob("test_*.py"))
    marked = [f"tests/{file.name}" for file in files if "mark.gpu" in file.read_text("utf-8")]
    command = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += ["tests/test_costs.py"] if rehearse else marked
    wants = "skipped" if rehearse else "passed"
    return _telling("tests", 2, command, out, "The tests with the marker gpu", wants)


def _quick(out: Path, rehearse: bool) -> Stage:
    command = ["workflow/door.py", "--config", "quick", "--output", out / "work"]
    # test_notebooks executes them all: rehearsed is that the plan can be made
    command += ["--dry-run"] * rehearse
    return _telling("quick", 5, command, out, "./run_all.sh in the environment that is there")


def _telling(
    name: str, minutes: float, words: list, out: Path, protocol: str, wants: str = ""
) -> Stage:
    """A stage of one command, whose result is the last line that it prints; it holds `wants`."""

    def last() -> dict[str, str]:
        lines = (out / "logs" / f"{name}-1.log").read_text(encoding="utf-8").splitlines()
        line = next((line for line in reversed(lines) if line.strip()), "")
        if wants not in line:
            raise RuntimeError(f"nothing {wants}: {line}")
        return {"printed": line}

    shown = " ".join(["python", *map(str, words)]).replace(str(out), "OUT")
    protocol += "; printed: the last line of its output"
    return Stage(name, minutes, shown, protocol, lambda: [python(*words)], last)


def _writing(name: str, minutes: float, words: list, out: Path) -> Stage:
    """A stage of one command that writes the result itself."""
    command = python(*words, "--out", out / f"{name}.json")
    return Stage(name, minutes, "", "", lambda: [command])


def _speed(name: str, minutes: float, options: list[str], args: argparse.Namespace) -> Stage:
    words = ["benchmarks/against_released.py", "--speed", *options]
    if args.rehearse:
        words += ["--size", 32, "--repeats", 1, "--encoder", "tu-test_resnet", "--sides", "ours"]
    else:
        words += ["--device", "cuda", "--size", 352, "--batch", 16, "--steps", 30, "--workers", 4]
        words += ["--repo", args.released] if args.released else []
    return _writing(name, minutes, words, args.out)


def _costs(out: Path, rehearse: bool) -> Stage:
    words = ["-m", "unetv2", "costs", "--device", "cuda", "--sizes", 256, 352, "--models", *SKIPS]
    tiny = ["--models", "thin+sdi", "--encoder", "tu-test_resnet", "--sizes", 32, "--repeats", 1]
    words = [*words[:3], *tiny, "--batch", 2] if rehearse else words
    return _writing("costs", 2, words, out)


def _frames(out: Path, rehearse: bool) -> Stage:
    tiny = ["--device", "cpu", "--encoder", "tu-pvt_v2_b0", "--size", 32, "--passes", 1]
    return _writing("frames", 1, ["benchmarks/frames.py", *(tiny if rehearse else [])], out)


def chosen(every: list[Stage], names: list[str] | None) -> list[Stage]:
    """Those of `every` that are named, as "speed-best" or all of "speed"; ValueError: unknown."""
    known = {name for stage in every for name in (stage.name, stage.name.partition("-")[0])}
    for name in names or []:
        if name not in known:
            raise unknown("stage", name, [stage.name for stage in every])
    return [
        stage
        for stage in every
        if names is None or {stage.name, stage.name.partition("-")[0]} & set(names)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = partial(parser.add_argument, type=Path, metavar="DIR")
    parser.add_argument("--minutes", type=float, required=True, help="what there is")
    folder("--data", help="folder of the datasets (default: DATA_DIR)")
    folder("--weights", help="folder of <encoder>.safetensors (default: WEIGHTS_DIR)")
    folder("--out", required=True, help="results, logs, records and checkpoints")
    folder("--released", help="your clone of the released U-Net v2 (none: it is left out)")
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="these alone; speed: all three")
    parser.add_argument("--jobs", type=int, default=3, help="trainings at a time (default: 3)")
    parser.add_argument("--rehearse", action="store_true", help="all stages, tiny, on a CPU")
    return parser


def main(argv: list[str] | None = None) -> int:
    """0: what was begun is done; 1: a stage failed; 2: nothing was begun."""
    parser = _parser()
    args = parser.parse_args(argv)
    for name in ("data", "weights", "out", "released"):
        if getattr(args, name):
            setattr(args, name, getattr(args, name).expanduser().resolve())
    if args.jobs < 1 or args.minutes <= 0:
        parser.error(f"--jobs {args.jobs} must be at least 1, --minutes {args.minutes:g} above 0")
    places = {"DATA_DIR": args.data, "WEIGHTS_DIR": args.weights}
    os.environ.update({name: str(path) for name, path in places.items() if path})
    os.environ.update({"UNETV2_CACHE": str(args.out / "work" / "cache"), "TQDM_DISABLE": "1"})
    given = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "workflow"), *given])
    os.chdir(ROOT)  # where the commands of the stages begin
    try:
        env.data_dir(), env.weights_dir()
        todo = chosen(stages(args), args.stages)
        if not args.rehearse and (problem := env.gpu_problem()):
            raise ValueError(f"{problem}; --rehearse goes through the stages on a CPU")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind: no command outlives it
    return go(todo, args.out, args.minutes, args.jobs)


if __name__ == "__main__":
    sys.exit(main())
