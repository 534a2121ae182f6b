"""What `./run_all.sh` does once the environment is there.

It reads the options, checks the config, plans what is to be done, and calls Snakemake for that.
"""

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import step
import yaml
from plan import ROOT, Config, Run, Step, fingerprint, runs_of, steps_of

from unetv2.common import env, files
from unetv2.common.errors import unknown
from unetv2.common.params import RunParams, slug
from unetv2.evaluation.identity import own_skip

CONFIGS = ROOT / "workflow" / "configs"
NOTEBOOKS = Path(os.environ.get("NOTEBOOKS_DIR", ROOT / "notebooks"))
# names that exist, as a test shows: they are not looked up, which takes smp's and timm's seconds
KNOWN = {
    "dataset": {"synthetic"},
    "model": {
        *("thin+copy", "thin+nested", "thin+sdi", "tmi-unet-l4", "tmi-unet-l1", "tmi-unet-l2"),
        *("tmi-unet-wide", "tmi-unet++-nods", "tmi-unet++"),
    },
    "encoder": {"resnet18", "mobilenet_v2", "tu-pvt_v2_b2"},
}
ELSEWHERE = ("-e", "--executor", "--profile", "--workflow-profile")  # Snakemake's: not this machine
EXAMPLES = """
examples:
  ./run_all.sh                                   synthetic data, any CPU, minutes: start here
  ./run_all.sh --dry-run                         list the steps that would run, and why
  ./run_all.sh --config paper-isic2017 --data DIR --weights DIR
                                                 the paper's protocol on real data; wants a GPU
  ./run_all.sh --config isic2017-cpu --data DIR --weights DIR --datasets kvasir --seeds 0 \\
               --models thin+copy thin+my_module:MySkip --epochs 20 --output outputs/mine
  ./run_all.sh --datasets folder:PATH            your own images and masks
  ./run_all.sh --only 40                         one notebook (and what it needs)
  ./run_all.sh lab                               the notebooks in JupyterLab
  ./run_all.sh publish DIR                       what the Kaggle client pushes
  ./run_all.sh site                              static pages of all this, in outputs/site
  ./run_all.sh test -k losses                    the tests; what follows goes to pytest
  ./run_all.sh -- --rerun-triggers mtime         what follows -- goes to snakemake

A second call runs what is not done yet, and what changed. A training is done when its parameters,
its images and a reader's own skip are the same, whatever else was edited; one that is superseded is
moved aside, with its date. A training whose record is committed in outputs/results counts as done;
--train trains it too, for its weights.
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
    add = parser.add_argument
    add("--config", default="quick", metavar="NAME|FILE", help=f"{_configs()}, or a file")
    add("--data", metavar="DIR", help="folder of the datasets (default: DATA_DIR, else data/)")
    add("--weights", metavar="DIR", help="folder of <encoder>.safetensors (default: WEIGHTS_DIR)")
    override = parser.add_argument_group("in place of what the config says")
    add = override.add_argument
    add("--datasets", nargs="+", metavar="NAME", help="registered, or folder:PATH; no lessons")
    add("--models", nargs="+", metavar="NAME", help="also thin+my_module:MySkip, a skip of yours")
    add("--seeds", nargs="+", type=int, metavar="N")
    add("--encoder", metavar="NAME", help="any smp or timm (tu-...) encoder")
    add("--encoder-weights", choices=["imagenet", "none"])
    add("--image-size", type=int, metavar="PIXELS")
    add("--epochs", type=int, metavar="N")
    add("--limit", type=int, metavar="N", help="at most so many images in each part of a dataset")
    add("--jobs", type=int, metavar="N", help="notebooks at a time")
    add = parser.add_argument
    add("--output", metavar="DIR", help="results go to DIR/<config> (default: outputs)")
    add("--only", nargs="+", metavar="NN", help="only these notebooks, and what they need")
    add("--train", action="store_true", help="train also what a committed record answers already")
    add("--dry-run", action="store_true", help="list what would run, and run nothing")
    given, more = parser.parse_known_args(argv)
    if more:
        raise unknown("option", more[0], parser._option_string_actions)
    return given


def _configs() -> str:
    return ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def configure(given: argparse.Namespace) -> Config:
    """The config file with the overrides in `given`, checked.

    Raises:
        ValueError, FileNotFoundError: say what is wrong.
    """
    named = {path.stem: path for path in CONFIGS.glob("*.yaml")}
    path = named.get(given.config, Path(given.config))
    if not path.is_file():
        missing = FileNotFoundError(f"no file {path}")
        raise missing if path.suffix == ".yaml" else unknown("config", given.config, named)
    values = Config.read(path)
    for name in ("datasets", "models", "seeds", "jobs"):
        if getattr(given, name) is not None:
            values[name] = getattr(given, name)
    if given.datasets:  # the lessons draw their own images: they would say what they said before
        values["lessons"] = False
    names = ("encoder", "encoder_weights", "image_size", "epochs", "limit")
    run = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    run = {name: None if value == "none" else value for name, value in run.items()}
    config = Config.make(values)
    own = {
        _absolute(dataset): {k: v for k, v in fields.items() if k not in run}
        for dataset, fields in config.per_dataset.items()
    }
    datasets = [*dict.fromkeys(_absolute(name) for name in config.datasets)]
    if len({slug(name) for name in datasets}) < len(datasets):
        both = "results are named after the last folder of a path, and two have the same"
        raise ValueError(f"datasets {', '.join(datasets)}: {both}; rename one")
    family = {name: value for name, value in config.family_run.items() if name not in run}
    if "encoder_weights" in run:  # nobody has pretrained the family
        family["encoder_weights"] = None
    update = {"run": config.run | run, "per_dataset": own, "family_run": family}
    update["datasets"] = datasets
    return config.model_copy(update=update)


def _absolute(dataset: str) -> str:
    kind, _, path = dataset.partition(":")
    return f"folder:{Path(path).expanduser().resolve()}" if kind == "folder" else dataset


def names_in(config: Config) -> dict[str, list[str]]:
    """The datasets, models and encoders that `config` names."""
    datasets = sorted({*config.datasets, *config.per_dataset})
    first = config.models[0], config.seeds[0]
    encoders = {config.run_params(name, *first).encoder for name in datasets}
    return {"dataset": datasets, "model": config.every, "encoder": sorted(encoders)}


def check(names: dict[str, list[str]], known: dict[str, set[str]] = KNOWN) -> None:
    """ValueError for the first of `names` that does not exist; `known` ones do."""
    asked = {
        kind: [name for name in names[kind] if name not in known.get(kind, ())] for kind in names
    }
    for name in asked["dataset"]:
        from unetv2.data import readers

        valid = [*readers.names(), "folder"]
        if name.partition(":")[0] not in valid:
            raise unknown("dataset", name, [*readers.names(), "folder:PATH"])
    for name in asked["model"]:
        from unetv2 import networks, skips

        networks.check_model(name)
        if own := own_skip(name):
            skips.source(own)
    for name in asked["encoder"]:
        from unetv2.networks import encoders

        encoders.check_name(name)


def networks_in(config: Config) -> dict[tuple, RunParams]:
    """A run of each network that `config` trains, by what decides whether it can be built."""
    every = [
        config.run_params(d, m, config.seeds[0]) for d in config.datasets for m in config.every
    ]
    return {(run.model, run.encoder, run.encoder_weights): run for run in every}


def check_networks(runs: Iterable[RunParams]) -> None:
    """ValueError for a published model that cannot be built as asked, as far as names tell.

    Pretrained weights of an encoder that nobody has pretrained; an encoder without the levels that
    the model reads. Whether a dataset has more classes than it takes, the data say.
    """
    for run in runs:
        usual = run.encoder in KNOWN["encoder"]
        if run.model.startswith(("thin+", "smp-")) or (usual and run.encoder_weights is None):
            continue
        from unetv2 import networks

        if run.encoder_weights is not None:
            networks.check_pretrained(run.model)
        if not usual and not networks.has_own_encoder(run.model):
            import torch

            with torch.device("meta"):  # shapes alone
                networks.create_model(run.model, run.encoder)


def check_weights(runs: list[Run]) -> None:
    """Look at the pretrained weights of each encoder that `runs` train, once.

    Without a folder they are fetched from the hub now, rather than by every training.

    Raises:
        ValueError, OSError: they are not there, damaged, or not this encoder's.
    """
    asked = [run.params for run in runs if run.params.encoder_weights is not None]
    if not asked:
        return
    from unetv2 import networks
    from unetv2.networks import encoders

    own = [p for p in asked if not networks.has_own_encoder(p.model)]
    for encoder, folder in {(p.encoder, env.weights_dir(p.weights_dir)) for p in own}:
        networks.check_weights(encoder, folder)
        if folder is None:
            encoders.encoder(encoder, weights="imagenet")


def choose(steps: list[Step], config: Config, only: list[str] | None) -> list[Step]:
    """Those of `steps` that are asked for, the parameters of all of them checked."""
    every = {one.number: one for one in steps}
    for number in [*(only or []), *config.notebooks]:
        if number not in every:
            raise unknown("notebook", number, every)
    for one in steps:
        if one.role != "run":
            one.values(config.datasets[0] if one.role in ("dataset", "dataset-after") else None)
    return [one for one in steps if not only or one.number in only]


class Plan:
    """What is to be done for `config`: the steps that are asked for and the runs that they need.

    Raises:
        FileNotFoundError: data that are needed and absent, unless `dry`.
    """

    def __init__(self, config: Config, base: Path, given: argparse.Namespace):
        self.config, self.dry = config, given.dry_run
        steps = steps_of(config, base, NOTEBOOKS)
        self.chosen = choose(steps, config, given.only)
        self.training = next((one for one in steps if one.role == "run"), None)
        needing = [one for one in self.chosen if one.role in ("run", "after", "dataset-after")]
        asked = {model for one in needing for model in one.models if self.training}
        self.runs = [run for run in runs_of(config, base) if run.model in asked]
        open_runs = [run for run in self.runs if not run.finished]
        self.answered = [run for run in open_runs if run.record and not given.train]
        self.todo = [run for run in open_runs if run not in self.answered]
        for one in self.todo:
            self._need(one)
        self.jobs = self._trainings()  # of runs, finished ones too whose notebook is due

    def _need(self, run: Run) -> None:
        if not self.dry:
            fingerprint(run.params)  # where the data are absent it says where it looked

    def _trainings(self) -> dict[Run, tuple[str, dict[str, Any]]]:
        jobs = {}
        for run in self.runs:
            if run in self.todo or (run.finished and _notebook_is_due(run, self.training)):
                header = self.training.run_header(run)
                job = {"parameters": header + _yaml(run.params.model_dump()), "needs": []}
                jobs[run] = self.training.done.format(**run.wildcards), job
        return jobs

    def _instances(self, one: Step) -> dict[str, dict[str, Any]]:
        """The jobs of a step that is no training."""
        found = {}
        for dataset in self.config.datasets if "dataset" in one.role else [None]:
            runs = [r for r in self.runs if r.model in one.models and dataset in (None, r.dataset)]
            runs = runs if "after" in one.role else []
            if one.role == "dataset-after" and self.training:
                runs = _with_weights(runs, self.jobs)
                if not runs:
                    print(f"{one.name} {dataset}: no weights to draw from; --train makes them")
                    continue
            if dataset:
                self._need(Run(self.config, dataset, one.models[0], self.config.seeds[0], one.base))
            parameters = one.header(runs) + _yaml(one.values(dataset, runs))
            needs = [self.jobs[run][0] for run in runs if run in self.jobs]
            target = one.done.format(dataset=slug(dataset or ""))
            found[target] = {"parameters": parameters, "needs": needs}
        return found

    def steps(self) -> list[dict[str, Any]]:
        """The steps as Snakefile reads them."""
        if self.answered:
            print(f"{len(self.answered)} trainings have a committed record; --train trains them")
        of = {one.name: self._instances(one) for one in self.chosen if one.role != "run"}
        every = {self.training: dict(self.jobs.values())} if self.jobs else {}
        every |= {one: of[one.name] for one in self.chosen if of.get(one.name)}
        about = ("name", "label", "role", "folder", "done")
        return [{k: getattr(one, k) for k in about} | {"jobs": jobs} for one, jobs in every.items()]

    def tidy(self) -> None:
        """Put away what would be taken for a result of these runs."""
        for run in self.todo:
            (run.path / ".done").unlink(missing_ok=True)
        for run in self.answered:
            if run.superseded:
                step.lock(run.path)
                step.move_aside(run.path)


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False)


def _notebook_is_due(run: Run, training: Step) -> bool:
    """Whether the notebook of a finished run is to be executed over it: it trains nothing then.

    Due is one that was not executed to its end, or whose code changed; not that of a run that was
    trained by a command.
    """
    file = run.path / "params.yaml"
    if not file.is_file():
        return False
    code = step.header(file.read_text(encoding="utf-8")).get("code")
    return code != training.code or not (run.path / ".done").is_file()


def _with_weights(runs: list[Run], jobs: Iterable[Run]) -> list[Run]:
    """The runs whose weights are there, or will be: the models that have them at the first seed."""
    there = [
        r for r in runs if r in jobs or (r.finished and (r.path / "model.safetensors").exists())
    ]
    first = [run.model for run in there if run.seed == there[0].seed]
    seeds = {s: {r.model for r in there if r.seed == s} for s in {run.seed for run in there}}
    whole = {seed for seed, models in seeds.items() if models >= set(first)}
    return [run for run in there if run.model in first and run.seed in whole]


def gpus() -> list[str]:
    """The GPUs of this machine that the notebooks may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number, _ in enumerate(lines)]


def point_to(variable: str, folder: str | None) -> None:
    """Make `folder`, or what the environment holds, an absolute path in `variable`, for all."""
    if name := folder or os.environ.get(variable):
        os.environ[variable] = str(Path(name).expanduser().resolve())


def run(given: argparse.Namespace, more: list[str]) -> int:
    """Check everything, then let Snakemake run what is not done; its exit status."""
    point_to("DATA_DIR", given.data)
    point_to("WEIGHTS_DIR", given.weights)
    env.data_dir(), env.weights_dir()  # an error now rather than in every notebook
    config = configure(given)
    kaggle = "/kaggle/working/outputs" if env.on_kaggle() else ROOT / "outputs"
    base = Path(given.output or kaggle).expanduser().resolve() / Path(given.config).stem
    checked, names, nets = base / ".checked", names_in(config), networks_in(config)
    known = repr((names, sorted(map(str, nets))))
    if not checked.is_file() or checked.read_text(encoding="utf-8") != known:
        check(names)
        check_networks(nets.values())
    plan = Plan(config, base, given)
    if not given.dry_run:
        check_weights(plan.todo)

    elsewhere = any(word.split("=")[0] in ELSEWHERE for word in more)
    cores = env.cores()
    jobs = config.jobs or min(cores, 4)
    threads = max(1, cores // jobs)
    todo = {"notebooks": str(NOTEBOOKS), "gpus": [], "threads": 0, "steps": plan.steps()}
    if not elsewhere:  # on a cluster its scheduler decides both
        todo |= {"gpus": gpus(), "threads": threads}
    every = [job for one in todo["steps"] for job in one["jobs"].values()]
    for number, job in enumerate(every):
        job["gpu"] = number % max(1, len(todo["gpus"]))

    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        place = Path(temporary) if given.dry_run else base
        place.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((place / ".lock").open("w"))
        try:  # ours replaces Snakemake's lock, which a kill would leave behind
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cure = "wait for it or give another --output"
            raise ValueError(f"another run_all.sh is at work in {base}; {cure}") from None
        files.write_text(place / "config.yaml", _yaml(config.model_dump()))
        files.write_json(place / "plan.json", todo)
        files.write_text(place / ".checked", known)
        if not given.dry_run:
            plan.tidy()
        command = ["-s", str(ROOT / "workflow" / "Snakefile")]
        command += ["--configfile", str(place / "plan.json"), "--directory", str(base)]
        command += ["--cores", str(jobs * threads), "--keep-going", "--nolock"]
        command += ["--logger", "door", "--rerun-incomplete", "--keep-incomplete"]
        command += ["--rerun-triggers", "params"]
        if each := [f"gpu{number}=1" for number, _ in enumerate(todo["gpus"])]:
            command += ["--resources", *each]
        return snakemake([*command, *["--dry-run"] * given.dry_run, *more])


def snakemake(command: list[str]) -> int:
    """Call Snakemake; its exit status."""
    from snakemake.cli import main as call

    try:
        call(command)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def main(argv: list[str]) -> int:
    """Run what `argv` asks for; exit status 0: all is done, 1: a step failed, 2: none began."""
    cut = argv.index("--") if "--" in argv else len(argv)
    try:
        return run(options(argv[:cut]), argv[cut + 1 :])
    except (ValueError, OSError, SyntaxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
