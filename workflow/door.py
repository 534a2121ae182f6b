"""What `./run_all.sh` does once the environment is there: read the options, check the config, call Snakemake."""

import argparse
import fcntl
import os
import sys
import tempfile
from pathlib import Path

import yaml
from plan import ROOT, Config, Step, steps

from unetv2 import env, files
from unetv2.errors import unknown

CONFIGS = ROOT / "workflow" / "configs"
NOTEBOOKS = Path(os.environ.get("NOTEBOOKS_DIR", ROOT / "notebooks"))
EXAMPLES = """
examples:
  ./run_all.sh                                   synthetic data, any CPU, minutes: start here
  ./run_all.sh --dry-run                         list the steps that would run, and why
  ./run_all.sh --config paper --data DIR         the papers' protocol on real data; wants a GPU
  ./run_all.sh --config paper --data DIR --datasets kvasir --models unet unetv2 --seeds 0 --encoder resnet18 \\
               --encoder-weights imagenet --image-size 256 --epochs 60 --output outputs/mine
  ./run_all.sh --datasets folder:PATH            your own images and masks
  ./run_all.sh --only 40                         one notebook (and what it needs)
  ./run_all.sh lab                               the notebooks in JupyterLab; what follows goes to it
  ./run_all.sh test -k losses                    the tests; what follows goes to pytest
  ./run_all.sh -- --rerun-triggers mtime         what follows -- goes to snakemake

A second call runs what is not done yet, and what changed: its parameters, its notebook, or the library's code. Such a
step starts again in an empty folder; give another --output to keep the earlier result.
"""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str):
        raise ValueError(f"{message}; ./run_all.sh --help lists the options")


def options(argv: list[str]) -> argparse.Namespace:
    """The options in `argv`; those that override a config are None where they are not given."""
    parser = Parser(
        prog="./run_all.sh",
        description="Run the notebooks of the collection, each once for what its config names.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="quick", metavar="quick|paper|FILE", help="what to run (default: quick)")
    parser.add_argument("--data", metavar="DIR", help="folder of the datasets (default: DATA_DIR, else data/)")
    parser.add_argument("--weights", metavar="DIR", help="folder of <encoder>.safetensors (default: WEIGHTS_DIR)")
    override = parser.add_argument_group("in place of what the config says")
    override.add_argument("--datasets", nargs="+", metavar="NAME", help="names in data/registry.yaml, or folder:PATH")
    override.add_argument("--models", nargs="+", metavar="NAME")
    override.add_argument("--seeds", nargs="+", type=int, metavar="N")
    override.add_argument("--encoder", metavar="NAME", help="any smp or timm (tu-...) encoder")
    override.add_argument("--encoder-weights", choices=["imagenet", "none"])
    override.add_argument("--image-size", type=int, metavar="PIXELS")
    override.add_argument("--epochs", type=int, metavar="N")
    override.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time")
    parser.add_argument("--output", metavar="DIR", help="results go to DIR/<config> (default: outputs)")
    parser.add_argument("--only", nargs="+", metavar="NN", help="only these notebooks, and what they need")
    parser.add_argument("--dry-run", action="store_true", help="list what would run, and run nothing")
    given, more = parser.parse_known_args(argv)
    if more:
        raise unknown("option", more[0], parser._option_string_actions)
    return given


def configure(given: argparse.Namespace) -> Config:
    """The config file with the overrides in `given`, checked; ValueError or FileNotFoundError says what is wrong."""
    named = {path.stem: path for path in CONFIGS.glob("*.yaml")}
    path = named.get(given.config, Path(given.config))
    if not path.is_file():
        raise unknown("config", given.config, named) if path.suffix != ".yaml" else FileNotFoundError(f"no file {path}")
    values = Config.read(path)
    for name in ("datasets", "models", "seeds", "jobs"):
        if getattr(given, name) is not None:
            values[name] = getattr(given, name)
    run = {name: getattr(given, name) for name in ("encoder", "encoder_weights", "image_size", "epochs")}
    run = {name: None if value == "none" else value for name, value in run.items() if value is not None}
    config = Config.make(values)
    own = {_absolute(d): {k: v for k, v in f.items() if k not in run} for d, f in config.per_dataset.items()}
    datasets = [_absolute(name) for name in config.datasets]
    return config.model_copy(update={"run": config.run | run, "per_dataset": own, "datasets": datasets})


def _absolute(dataset: str) -> str:
    kind, _, path = dataset.partition(":")
    return f"folder:{Path(path).expanduser().resolve()}" if kind == "folder" else dataset


def names_in(config: Config) -> dict[str, list[str]]:
    """The datasets, models and encoders that `config` names."""
    datasets = sorted({*config.datasets, *config.per_dataset})
    encoders = {config.run_params(name, config.models[0], config.seeds[0]).encoder for name in datasets}
    return {"dataset": datasets, "model": [*config.models, *config.family], "encoder": sorted(encoders)}


def check(names: dict[str, list[str]]) -> None:
    """ValueError for the first of `names` that does not exist. Loads torch and smp, which takes seconds."""
    import segmentation_models_pytorch as smp
    import timm

    from unetv2 import data, models

    encoders = [*smp.encoders.encoders, *(f"tu-{name}" for name in timm.list_models())]
    valid = {"dataset": [*data.names(), "folder:PATH"], "model": models.names(), "encoder": encoders}
    for kind, given in names.items():
        for name in given:
            if name not in valid[kind] and not (kind == "dataset" and name.split(":")[0] in [*data.names(), "folder"]):
                raise unknown(kind, name, valid[kind])


def check_files(datasets: list[str]) -> None:
    """FileNotFoundError for the first of `datasets` that is not on disk; it says how to get it."""
    from unetv2.data import readers

    for name in datasets:
        if name.split(":")[0] not in readers.SYNTHETIC:
            readers.find(name)


def choose(config: Config, output: str, only: list[str] | None) -> list[Step]:
    """The steps to run, all their parameters checked."""
    every = {step.number: step for step in steps(config, output, NOTEBOOKS)}
    for number in [*(only or []), *config.notebooks]:
        if number not in every:
            raise unknown("notebook", number, every)
    for step in every.values():
        for wildcards in step.instances():
            step.values(wildcards)
    return [step for step in every.values() if not only or step.number in only]


def point_to(variable: str, folder: str | None) -> None:
    """Make `folder`, or what the environment holds already, an absolute path in `variable`, for all notebooks."""
    if name := folder or os.environ.get(variable):
        os.environ[variable] = str(Path(name).expanduser().resolve())


def run(given: argparse.Namespace, more: list[str]) -> int:
    """Check everything, then let Snakemake run what is not done; its exit status."""
    point_to("DATA_DIR", given.data)
    point_to("WEIGHTS_DIR", given.weights)
    env.data_dir(), env.weights_dir()  # an error now rather than in every notebook
    config = configure(given)
    top = Path(given.output or ("/kaggle/working/outputs" if env.on_kaggle() else ROOT / "outputs"))
    base = top.expanduser().resolve() / Path(given.config).stem
    text = yaml.safe_dump(config.model_dump(), sort_keys=False)
    checked, names = base / ".checked", names_in(config)
    if not checked.is_file() or checked.read_text(encoding="utf-8") != repr(names):
        check(names)
        if not given.dry_run:
            check_files(config.datasets)
    targets = [target for step in choose(config, str(base), given.only) for target in step.targets()]
    cores = os.cpu_count() or 1
    jobs = config.jobs or min(cores, 4)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if given.dry_run else base
        files.write_text(place / "config.yaml", text)
        files.write_text(place / ".checked", repr(names))
        with (place / ".lock").open("w") as lock:
            try:  # ours replaces Snakemake's lock, which a kill would leave behind
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another run_all.sh is at work in {base}; wait for it or give another --output"
                ) from None
            command = ["-s", str(ROOT / "workflow" / "Snakefile"), "--configfile", str(place / "config.yaml")]
            command += ["--directory", str(base), "--cores", str(jobs), "--keep-going", "--logger", "door", "--nolock"]
            command += ["--rerun-incomplete", "--keep-incomplete", "--rerun-triggers", "params", "input", "mtime"]
            command += ["--dry-run"] * given.dry_run + more + ["--", *targets]
            from snakemake.cli import main as snakemake

            try:
                snakemake(command)
            except SystemExit as end:
                return int(end.code or 0)
    return 0


def main(argv: list[str]) -> int:
    """Run what `argv` asks for; exit status 0: all is done, 1: a step failed, 2: nothing was started."""
    cut = argv.index("--") if "--" in argv else len(argv)
    try:
        return run(options(argv[:cut]), argv[cut + 1 :])
    except (ValueError, OSError, SyntaxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
