"""The trainings that wait for a GPU: a stage for each dataset and seed, all models of it together.

A training is a run of a config, done where its record is committed or among the results. Records
are kept in OUT/records as they lie in outputs/results/records: to commit them, copy that folder.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import Stage, python

from unetv2.common import env, files

if TYPE_CHECKING:
    from plan import Config, Run

__all__ = ["config_of", "kept", "recorded", "runs_of", "trainings"]

PVT = "tu-pvt_v2_b2.safetensors"
RESNET = ("--encoder", "resnet50", "--image-size")
CHOSEN = {  # name: config and its overrides, as ./run_all.sh takes them; minutes of a seed
    "isic2017": (("--config", "ablation-isic2017-e24", *RESNET, "256"), 4),
    "pranet": (("--config", "ablation-polyps", *RESNET, "352"), 6),
}
PAPER = {
    "isic2017": (("--config", "paper-isic2017"), 600),
    "pranet": (("--config", "paper-polyps"), 240),
}
TINY = ("--datasets", "synthetic", "--encoder", "tu-test_resnet", "--encoder-weights", "none")
TINY += ("--image-size", "32", "--epochs", "1", "--limit", "8")
PROTOCOL = "The config's runs of one seed, {jobs} at a time on one GPU; each with its own record"


def trainings(out: Path, weights: Path | None, jobs: int, rehearse: bool) -> list[Stage]:
    """The stages in their order: seed by seed over the datasets, then the other arms.

    With the weights of PVT v2-B2 in the folder `weights` they are the papers' own experiments.
    """
    paper = weights is not None and (weights / PVT).is_file() and not rehearse
    chosen, stages = PAPER if paper else CHOSEN, []
    configs = {}
    for name, (options, minutes) in chosen.items():
        options = (*options[:2], *TINY) if rehearse else options
        configs[name] = options, config_of(options), minutes
    some = None if paper else 1 if rehearse else 3  # models: copy, nested and SDI before the rest
    arms = slice(1, 2) if rehearse else slice(3, None)
    seeds = [0] if rehearse else configs["isic2017"][1].seeds
    for seed in seeds:
        for name, (options, config, minutes) in configs.items():
            models = config.models[:some]
            stages.append(_stage(name, options, config, models, seed, minutes, out, jobs))
    if not paper:
        options, config, minutes = configs["isic2017"]
        models = config.models[arms]
        minutes *= len(models) / 3
        stages += [_stage("arms", options, config, models, s, minutes, out, jobs) for s in seeds]
    return stages


def config_of(options: Sequence[str]) -> "Config":
    import door

    return door.configure(door.options(list(options)))


def _stage(
    name: str,
    options: Sequence[str],
    config: "Config",
    models: Sequence[str],
    seed: int,
    minutes: float,
    out: Path,
    jobs: int,
) -> Stage:
    runs = runs_of(options, config, models, seed, out)
    words = [*options, "--models", *models, "--seeds", str(seed), "--only", "30"]
    return Stage(
        name=f"{name}-s{seed}",
        minutes=minutes,
        command=" ".join(["./run_all.sh", *words, "--data DIR --weights DIR"]),
        protocol=PROTOCOL.format(jobs=jobs),
        commands=lambda: [_train(run, jobs) for run in runs if not recorded(run, out)],
        result=lambda: {"runs": [kept(run, out) for run in runs]},
        resumes=True,
    )


def runs_of(
    options: Sequence[str], config: "Config", models: Sequence[str], seed: int, out: Path
) -> list["Run"]:
    """The runs of these models and this seed; their folders lie in `out`."""
    import plan

    base = out / "work" / Path(options[1]).stem
    return [plan.Run(config, config.datasets[0], model, seed, base) for model in models]


def _train(run: "Run", jobs: int) -> list[str]:
    """`unetv2 train` with the parameters of `run`; the same again goes on from its checkpoint."""
    workers = max(0, env.cores() // jobs - 1)
    place = {"output_dir": str(run.path), "workers": workers}
    words = []
    for name, value in (run.params.model_dump(exclude_defaults=True) | place).items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *values]
    return python("-m", "unetv2", "train", *words)


def _folder(run: "Run", out: Path) -> Path:
    from unetv2.evaluation import record

    return out / "records" / record.home(run.params).relative_to(env.path(record.FOLDER))


def recorded(run: "Run", out: Path) -> Path | None:
    """The record of `run` that is committed, or kept in `out` by an earlier call."""
    from unetv2.evaluation import record
    from unetv2.evaluation.identity import identity

    for path in _folder(run, out).glob(f"s{run.seed}-*.json.gz"):
        found = record.load(path)
        if found["identity"] == identity(run.params, found["fingerprint"]):
            return path
    return run.record


def kept(run: "Run", out: Path) -> dict[str, Any]:
    """What the stage's result says of `run`, whose record is kept."""
    from unetv2.evaluation import record

    path = recorded(run, out)
    if path is None:
        found = record.load(run.path / record.FILE)
        path = _folder(run, out) / f"s{run.seed}-{found['identity']}.json.gz"
        with files.atomic(path) as temporary:
            shutil.copyfile(run.path / record.FILE, temporary)
    found = record.load(path)
    scores = {test: block["summary"] for test, block in found["tests"].items()}
    return {"model": run.model, "seed": run.seed, "record": path.name, "tests": scores}
