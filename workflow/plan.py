"""What a config means: its notebooks, their parameters, the folders they write to and what each has to wait for.

The first digit of a notebook's number says how it takes part:

    0, 2  a lesson, once                  4  once, after all of 3 (42: at once, it needs no run)
    1     once for each dataset           5  once for each dataset, after its runs of 3
    3     once for each dataset, model and seed; `metrics.json` in the run folder marks the end

40 and 50 compare the config's `models`, 43 its `family` (UNet++'s own); a config without a family has no 43.

What repeats an instance that is done: other parameters, other code in its notebook, or other code in the library, where
comments, docstrings and layout do not count. For 3, which may have taken days on a GPU, prose in the notebook and parts
of the library that cannot change what a training computes do not count either.
"""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from unetv2 import params
from unetv2.params import Params, RunParams, slug

__all__ = ["ROOT", "Config", "Step", "steps"]

ROOT = Path(__file__).resolve().parents[1]
KINDS = {  # number, or its first digit: class of the parameters, folder of an instance below the step's own
    "0": (params.StartParams, ""),
    "1": (params.DataParams, "/{dataset}"),
    "2": (params.LessonParams, ""),
    "3": (params.RunParams, "/{dataset}/{model}/s{seed}"),
    "4": (params.CompareParams, ""),
    "42": (params.EfficiencyParams, ""),
    "43": (params.StudyParams, ""),
    "5": (params.FigureParams, "/{dataset}"),
}
# modules that change no training
NOT_TRAINING = {"diagrams", "efficiency", "env", "errors", "export", "files", "params", "plots", "predict", "stats"}
Text = Annotated[str, Field(min_length=1)]


class Config(Params):
    """A file of workflow/configs."""

    datasets: list[Text] = Field(min_length=1)
    models: list[Text] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    jobs: Annotated[int, Field(ge=1)] | None = Field(None, description="notebooks at a time; null: one per CPU core")
    run: dict[str, Any] = Field(default_factory=dict, description="fields of RunParams, for all runs")
    family: list[Text] = Field(default_factory=list, description="models of the UNet++ study, trained for 43")
    family_run: dict[str, Any] = Field(default_factory=dict, description="fields of RunParams, for the family's runs")
    per_dataset: dict[str, dict[str, Any]] = Field(default_factory=dict, description="the same, for one dataset")
    notebooks: dict[str, dict[str, Any]] = Field(default_factory=dict, description="fields by notebook number, '20'")

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The mapping in the YAML file `path`, not yet checked; ValueError where it holds none."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold lines 'name: value'")
        return values

    def run_params(self, dataset: str, model: str, seed: int) -> RunParams:
        """The parameters of one run; ValueError where the config gives what RunParams does not have."""
        own = {"dataset": dataset, "model": model, "seed": seed}
        family = self.family_run if model in self.family else {}
        return RunParams.make(self.run | self.per_dataset.get(dataset, {}) | family | own)


class Step:
    """The notebook at `source` in a config, whose results lie below `output`."""

    def __init__(self, source: Path, config: Config, output: str):
        self.source, self.name, self.config, self.output = source, source.stem, config, output
        self.number, title = self.name.split("_", 1)
        self.kind = self.number[0] if self.number != "42" else "2"
        self.params, instance = KINDS.get(self.number, KINDS[self.kind])
        every = [*dict.fromkeys([*config.models, *config.family])]
        self.models = config.family if self.number == "43" else every if self.kind == "3" else config.models
        self.folder = ("runs" if self.kind == "3" else title) + instance  # with Snakemake's wildcards
        self.label = f"{self.name} {instance[1:]}".strip()
        self.done = f"{self.folder}/" + ("metrics.json" if self.kind == "3" else f"{self.name}.ipynb")
        self.code = self._code()  # now: what is edited while a run is under way counts for the next one

    def instances(self) -> list[dict[str, Any]]:
        """The wildcards of all instances of this step; a lesson's are empty in effect."""
        c = self.config
        return [{"dataset": slug(d), "model": m, "seed": s} for d in c.datasets for m in self.models for s in c.seeds]

    def targets(self, dataset: str | None = None, models: list[str] | None = None) -> list[str]:
        """The files that mark the end of all instances, or of those of one dataset (by its folder name), or models."""
        models = models or self.models
        chosen = (w for w in self.instances() if dataset in (None, w["dataset"]) and w["model"] in models)
        return list(dict.fromkeys(self.done.format(**w) for w in chosen))

    def values(self, wildcards: Any) -> dict[str, Any]:
        """The parameters of one instance, checked.

        Data and weights folders are not among them: they reach the notebooks as DATA_DIR and WEIGHTS_DIR, so that
        moving a folder repeats nothing and no path of a machine is recorded.
        """
        c, w = self.config, dict(wildcards)
        values = {"output_dir": f"{self.output}/{self.folder.format(**w)}"}
        name = next((d for d in c.datasets if slug(d) == w.get("dataset")), None)
        if self.kind == "3":
            return c.run_params(name, w["model"], int(w["seed"])).model_dump() | values
        if self.kind in "15":
            values |= {"dataset": name, "image_size": c.run_params(name, c.models[0], c.seeds[0]).image_size}
        if self.kind in "45":
            values |= {"models": self.models, "seeds": c.seeds, "runs_dir": f"{self.output}/runs"}
        if self.kind == "4":
            values |= {"datasets": c.datasets}
        values |= c.notebooks.get(self.number, {})
        self.params.make(values)
        return values

    def parameters(self, wildcards: Any) -> str:
        """The parameters file of one instance: YAML, headed by the hash of the code it runs."""
        return f"# code {self.code}\n" + yaml.safe_dump(self.values(wildcards), sort_keys=False)

    def _code(self) -> str:
        """A hash of the code that decides what an instance computes."""
        cells = json.loads(self.source.read_text(encoding="utf-8"))["cells"]
        text = ["".join(cell["source"]) for cell in cells if self.kind != "3" or cell["cell_type"] == "code"]
        modules = sorted((ROOT / "lib" / "unetv2").rglob("*.py"))
        text += [_bare(path) for path in modules if self.kind != "3" or path.stem not in NOT_TRAINING]
        return hashlib.sha256("\0".join(text).encode()).hexdigest()[:16]


@cache
def _bare(path: Path) -> str:
    """The Python source at `path` without comments, docstrings and layout."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def steps(config: Config, output: str, notebooks: Path = ROOT / "notebooks") -> list[Step]:
    """The steps of `config`, in reading order: one for each `NN_name.ipynb` in `notebooks` that it has work for."""
    every = (Step(path, config, output) for path in sorted(notebooks.glob("[0-5][0-9]_*.ipynb")))
    return [step for step in every if step.models]
