"""What a config means: its notebooks, their parameters, the folders they write to, and the order.

A notebook says in its metadata how it takes part, `"unetv2": {"role", "params", "models"}`:

    role    lesson          once
    records         once, from the committed records and what else its parameters name
            dataset         once for each dataset
            run             once for each dataset, model and seed: a training
            after           once, after the runs of its models
            dataset-after   once for each dataset, after its runs; needs their weights
    params  the class of its parameters: RunParams, or one of unetv2.teaching.params
    models  of the config it is about: "models", or "family" (a config without one leaves it out)

A **run** is done when its folder holds metrics.json and its identity (unetv2.evaluation.identity),
whatever was edited since, or when a committed record has that identity. Its notebook is executed
again when the notebook's code changed, and trains nothing. The others are repeated when their
parameters changed, the runs they read, their notebook's text, or the library's code, where
comments, docstrings and layout do not count.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import step
import yaml
from pydantic import Field

from unetv2.common import env
from unetv2.common.errors import unknown
from unetv2.common.params import Params, RunParams, file_name, slug
from unetv2.evaluation.identity import TRAINING_VERSION, identity
from unetv2.training.run import fingerprint as of_run

__all__ = ["ROLES", "ROOT", "Config", "Run", "Step", "params_of", "runs_of", "steps_of"]

ROOT = Path(__file__).resolve().parents[1]
ROLES = {  # role: the folder of an instance, below the step's own
    "lesson": "",
    "records": "",
    "dataset": "/{dataset}",
    "run": "/{dataset}/{model}/s{seed}",
    "after": "",
    "dataset-after": "/{dataset}",
}
RECORDS = "outputs/results/records"  # the committed ones, on Kaggle in a dataset of their own
Text = Annotated[str, Field(min_length=1)]


class Config(Params):
    """A file of workflow/configs."""

    datasets: list[Text] = Field(min_length=1)
    models: list[Text] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    jobs: Annotated[int, Field(ge=1)] | None = Field(None, description="notebooks at a time")
    run: dict[str, Any] = Field(default_factory=dict, description="fields of RunParams")
    family: list[Text] = Field(default_factory=list, description="models of the UNet++ study")
    family_run: dict[str, Any] = Field(default_factory=dict, description="RunParams, the family's")
    per_dataset: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="one dataset's"
    )
    per_model: dict[str, dict[str, Any]] = Field(default_factory=dict, description="one model's")
    notebooks: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by number, '20'"
    )
    lessons: bool = Field(
        True,
        description="false: without those that need no dataset, but for what `notebooks` names",
    )

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The mapping in the YAML file `path`, not yet checked.

        `base: NAME` takes what the file does not say from NAME.yaml beside it; of `run` each field.

        Raises:
            ValueError: no mapping; a base that is not there, or that has a base of its own.
        """
        values = cls._mapping(path)
        name = values.pop("base", None)
        if name is None:
            return values
        file = path.with_name(f"{name}.yaml")
        if not file.is_file():
            raise unknown(
                f"base of {path.name}", str(name), [p.stem for p in path.parent.glob("*.yaml")]
            )
        base = cls._mapping(file)
        if "base" in base:
            raise ValueError(f"{path}: its base {name} has itself a base: name {base['base']}")
        return base | values | {"run": (base.get("run") or {}) | (values.get("run") or {})}

    @staticmethod
    def _mapping(path: Path) -> dict[str, Any]:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold lines 'name: value'")
        return values

    @property
    def every(self) -> list[str]:
        """All models that are trained, the family's last."""
        return [*dict.fromkeys([*self.models, *self.family])]

    def run_params(self, dataset: str, model: str, seed: int, **place: str) -> RunParams:
        """The parameters of one run; ValueError where the config gives what RunParams has not."""
        values = self.run | self.per_dataset.get(dataset, {})
        values |= self.family_run if model in self.family else {}
        values |= self.per_model.get(model, {})
        return RunParams.make(values | {"dataset": dataset, "model": model, "seed": seed} | place)


def shown(path: Path) -> str:
    """`path` as parameters name it: from the repository's root, where it lies in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


class Run:
    """One run of a config, whose results lie below `base`: what it is, and whether it is done."""

    def __init__(self, config: Config, dataset: str, model: str, seed: int, base: Path):
        self.dataset, self.model, self.seed = dataset, model, seed
        self.wildcards = {"dataset": slug(dataset), "model": file_name(model), "seed": seed}
        self.folder = "runs" + ROLES["run"].format(**self.wildcards)
        self.path = base / self.folder
        self.params = config.run_params(dataset, model, seed, output_dir=shown(self.path))

    @cached_property
    def fingerprint(self) -> str | None:
        """Of the data; where they are absent that of the finished run in the folder, or None."""
        try:
            return of_run(self.params, self.path, fingerprint)
        except FileNotFoundError:
            return None

    @cached_property
    def record(self) -> Path | None:
        """The committed record that answers this run, if there is one."""
        if not (env.path(RECORDS) / self.wildcards["dataset"] / self.wildcards["model"]).is_dir():
            return None
        from unetv2.evaluation import record

        return record.committed(self.params, self.fingerprint)

    @cached_property
    def identity(self) -> str | None:
        """Where the data are absent the committed record's; None where that is absent too."""
        if self.fingerprint:
            return identity(self.params, self.fingerprint)
        return self.record and self.record.name.removesuffix(".json.gz").rpartition("-")[2]

    @property
    def finished(self) -> bool:
        """Whether its own folder holds this run from beginning to end."""
        there = (self.path / "metrics.json").is_file() and step.identity_of(self.path)
        return bool(there) and there == self.identity

    @property
    def superseded(self) -> bool:
        """Whether its folder holds a run of another identity."""
        return self.identity is not None and step.of_another(self.path, self.identity)


def fingerprint(params: RunParams) -> str:
    """That of the data of a run; FileNotFoundError where they are absent."""
    return _fingerprint(params.dataset, params.data_dir, params.image_size, **params.part)


@cache
def _fingerprint(name, data_dir, image_size, **part) -> str:
    from unetv2 import data

    return data.fingerprint(name, data_dir, image_size, **part)


class Step:
    """The notebook at `source` in a config, whose results lie below `base`."""

    def __init__(self, source: Path, about: dict[str, str], config: Config, base: Path):
        self.source, self.name, self.config, self.base = source, source.stem, config, base
        self.number, title = self.name.split("_", 1)
        self.role, self.params = about["role"], params_of(about)
        chosen = config.family if about.get("models") == "family" else config.models
        self.models = config.every if self.role == "run" else chosen
        instance = ROLES[self.role]
        self.folder = ("runs" if self.role == "run" else title) + instance  # with wildcards
        self.label = f"{self.name} {instance[1:]}".strip()
        # a run's notebook stays while its run is moved aside, so another file marks its end
        self.done = f"{self.folder}/" + (".done" if self.role == "run" else f"{self.name}.ipynb")
        self.code = self._code()  # now: what is edited meanwhile counts for the next call

    def values(self, dataset: str | None, runs: Iterable[Run] = ()) -> dict[str, Any]:
        """The parameters of an instance, checked.

        Data and weights folders are not among them: they reach the notebooks as DATA_DIR and
        WEIGHTS_DIR, so that moving a folder repeats nothing and no path of a machine is recorded.

        Args:
            dataset: None for a notebook that is about all of them.
            runs: those that the notebook reads; none: all of its models and seeds.
        """
        c, folder = self.config, self.folder.format(dataset=slug(dataset or ""))
        values = {"output_dir": shown(self.base / folder)}
        if dataset:
            size = c.run_params(dataset, c.models[0], c.seeds[0]).image_size
            values |= {"dataset": dataset, "image_size": size}
        if self.role in ("after", "dataset-after"):
            models, seeds = {run.model for run in runs}, {run.seed for run in runs}
            values["models"] = [name for name in self.models if name in models or not models]
            values["seeds"] = [seed for seed in c.seeds if seed in seeds or not seeds]
            values["runs_dir"] = shown(self.base / "runs")
        if self.role == "after":
            values["datasets"] = c.datasets
            lengths = {c.run_params(d, self.models[0], c.seeds[0]).epochs for d in c.datasets}
            values |= {"epochs": lengths.pop()} if len(lengths) == 1 else {}
        values |= c.notebooks.get(self.number, {})
        self.params.make(values)
        return values

    def header(self, runs: Iterable[Run] = ()) -> str:
        """What repeats an instance beside its parameters, as lines of its parameters file."""
        lines = f"# code {self.code}\n"
        if known := sorted(run.identity or "" for run in runs):
            lines += f"# runs {_hash(known)}\n"
        if self.role == "records":
            names = sorted(path.name for path in env.path(RECORDS).rglob("*.json.gz"))
            lines += f"# records {_hash(names)}\n"
        return lines

    def run_header(self, run: Run) -> str:
        """The same of a run; step.py reads the identity there."""
        lines = f"# identity {run.identity}\n# data {run.fingerprint}\n"
        return lines + f"# version {TRAINING_VERSION}\n# code {self.code}\n"

    def _code(self) -> str:
        """A hash of the code that decides what an instance computes."""
        cells, run = (
            json.loads(self.source.read_text(encoding="utf-8"))["cells"],
            self.role == "run",
        )
        text = ["".join(c["source"]) for c in cells if not run or c["cell_type"] == "code"]
        if not run and any("unetv2" in cell for cell in text):
            text += [_bare(path) for path in sorted((ROOT / "lib" / "unetv2").rglob("*.py"))]
        return _hash(text)


def _hash(text: list[str]) -> str:
    return hashlib.sha256("\0".join(text).encode()).hexdigest()[:16]


@cache
def _bare(path: Path) -> str:
    """The Python source at `path` without comments, docstrings and layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def params_of(about: dict[str, str]) -> type[Params]:
    """The class of a notebook's parameters, from its metadata `about`."""
    from unetv2.teaching import params

    if about["params"] == "RunParams":
        return RunParams
    valid = [name for name in vars(params) if name.endswith("Params")]
    if about["params"] not in valid:
        raise unknown("class of parameters", about["params"], valid)
    return getattr(params, about["params"])


def runs_of(config: Config, base: Path) -> list[Run]:
    """All runs of `config`, dataset by dataset, seed by seed, so that what is done is balanced."""
    return [
        Run(config, dataset, model, seed, base)
        for dataset in config.datasets
        for seed in config.seeds
        for model in config.every
    ]


def steps_of(config: Config, base: Path, notebooks: Path) -> list[Step]:
    """The steps of `config`, in reading order: one for each notebook that it has work for."""
    steps = []
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        about = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("unetv2")
        if about is None:  # a reader's own, of no part in this
            continue
        if about["role"] not in ROLES:
            raise unknown(f"role of {path.name}", about["role"], ROLES)
        alone = about["role"] in ("lesson", "records")  # needs nothing of the config
        if config.lessons or not alone or path.stem.split("_")[0] in config.notebooks:
            steps.append(Step(path, about, config, base))
    return [one for one in steps if one.models]
