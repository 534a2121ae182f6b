"""Parameters of runs and notebooks, checked strictly.

papermill accepts a misspelt name, a cell that lost its `parameters` tag and a string where a number belongs without a
word. Each notebook therefore hands its parameters to one of the classes below, which accept nothing but what they name.
"""

import ast
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import unknown

__all__ = [
    "CompareParams",
    "DataParams",
    "EfficiencyParams",
    "FigureParams",
    "LessonParams",
    "Params",
    "RunParams",
    "StartParams",
    "StudyParams",
    "slug",
]

Positive = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=32, description="side of the square input, pixels")]
Seed = Annotated[int, Field(ge=0)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Seeds = Annotated[list[Seed], Field(min_length=1)]


def slug(dataset: str) -> str:
    """The folder name of a dataset in `outputs/`: `folder:/my/images` becomes `folder-images`."""
    kind, _, path = dataset.partition(":")
    return kind if not path else f"{kind}-{re.sub(r'[^A-Za-z0-9]+', '-', path.rstrip('/').split('/')[-1])}"


class Params(BaseModel):
    """Base of all parameter classes: no unknown names, no converted types, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def make(cls, values: dict[str, Any]) -> "Params":
        """Check `values` and return the parameters.

        Raises:
            ValueError: unknown names, wrong types and impossible values, in one message, with the valid ones.
        """
        for name in values:
            if name not in cls.model_fields:
                raise unknown("parameter", name, cls.model_fields)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}{_hint(e)}" for e in error.errors()]
            raise ValueError("wrong parameters:\n  " + "\n  ".join(lines)) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> "Params":
        """The strict check of a notebook: call it with `globals()` in the cell after the `parameters` cell.

        Every field that the notebook has a variable for is read from it. What papermill injected must be the name
        of a field and must still hold: a value that was overwritten means that the notebook's own cell lost its tag.

        Raises:
            ValueError: as `make`, and for an injected value that the notebook has overwritten.
        """
        for name, value in _injected(namespace.get("In", [])).items():
            if name not in cls.model_fields:
                raise unknown("parameter", name, cls.model_fields)
            if namespace.get(name) != value:
                raise ValueError(
                    f"parameter {name!r} was given as {value!r} but is {namespace.get(name)!r}: the parameters cell "
                    "has lost its 'parameters' tag, so papermill's values were overwritten; put the tag back"
                )
        return cls.make({name: namespace[name] for name in cls.model_fields if name in namespace})


def _hint(error: Any) -> str:
    """What YAML and shells do to numbers and to `no`, where that explains pydantic's `error`."""
    value = error["input"]
    if isinstance(value, bool) and "literal" in error["type"]:
        return "; YAML reads no, yes, on and off as true and false: quote them"
    if isinstance(value, str) and error["type"].startswith(("float", "int")) and re.fullmatch(r"[-+.\deE]+", value):
        return "; this is text: write numbers without quotes, and 1.0e-4, because YAML reads 1e-4 as text"
    return ""


def _injected(cells: list[str]) -> dict[str, Any]:
    """What papermill's injected cell (it starts with `# Parameters`) assigned, from IPython's history `In`."""
    for source in cells:
        if source.startswith("# Parameters\n"):
            found = {}
            for statement in ast.parse(source).body:
                if isinstance(statement, ast.Assign):
                    # float("nan") and the like are calls, not literals: evaluate them as papermill wrote them
                    value = eval(compile(ast.Expression(statement.value), "<injected>", "eval"), {"float": float})
                    found[statement.targets[0].id] = value
            return found
    return {}


class RunParams(Params):
    """One run: one model on one dataset with one seed."""

    dataset: str = Field("synthetic", description="name in data/registry.yaml, 'synthetic' or 'folder:PATH'")
    model: str = Field("unetv2", description="name in unetv2.models")
    encoder: str = Field("resnet18", description="any smp or timm ('tu-...') encoder; the paper's is tu-pvt_v2_b2")
    encoder_weights: Literal["imagenet"] | None = Field(None, description="pretrained weights, or None: random")
    weights_dir: str | None = Field(None, description="folder of <encoder>.safetensors, read in place of a download")
    width: Positive = Field(32, description="filters of the finest level of the tmi- models; others have an encoder")
    batchnorm: bool = Field(False, description="of the tmi- models: batch normalisation in place of dropout")
    data_dir: str | None = Field(None, description="folder that holds the downloaded datasets")
    output_dir: str = Field("outputs/runs/last", description="run folder")
    seed: Seed = 0
    image_size: Size = 64
    epochs: int = Field(6, ge=1)
    batch_size: Positive = 16
    recipe: Literal["paper", "released", "unetpp"] = "paper"
    lr: float | None = Field(None, gt=0, description="peak learning rate; None: the recipe's")
    augment: Literal["none", "light", "strong"] = "light"
    limit: Positive | None = Field(None, description="at most so many images per split; None: all")
    precision: Literal["no", "fp16", "bf16"] = Field("no", description="mixed precision; 'no' is float32")
    channels_last: bool = Field(False, description="weights channels last: faster for PVT v2 and MobileNet on a CPU")
    compile: bool = Field(False, description="torch.compile in training; left out, with a word, where it does not work")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(0, ge=0, description="data loader processes")

    @property
    def network(self) -> dict[str, Any]:
        """The options of `models.build` that decide what network this run trains."""
        return {"name": self.model, "encoder": self.encoder, "width": self.width, "batchnorm": self.batchnorm}

    @field_validator("dataset", "model", "encoder")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value


class StartParams(Params):
    """00_start_here: the idea in five minutes."""

    seed: Seed = 0
    image_size: Size = 64
    encoder: str = Field("tu-test_resnet", description="any smp or timm ('tu-...') encoder; this one is very small")
    epochs: Positive = 6
    limit: Positive = Field(96, description="training images")
    output_dir: str = "outputs/start_here"


class DataParams(Params):
    """10_data: what a dataset holds, how hard it is, and whether it can be trusted."""

    dataset: str = "synthetic"
    data_dir: str | None = Field(None, description="folder that holds the downloaded datasets")
    image_size: Size = 128
    limit: Positive | None = Field(None, description="at most so many images per split; None: all")
    seed: Seed = 0
    output_dir: str = "outputs/data"


class LessonParams(Params):
    """20 to 29, the lessons on designs: small tensors, short trainings on synthetic images."""

    seed: Seed = 0
    image_size: Size = 64
    encoder: str = Field("tu-test_resnet", description="any smp or timm ('tu-...') encoder; this one is very small")
    epochs: Positive = Field(5, description="of the short trainings")
    output_dir: str = "outputs/lesson"


class CompareParams(Params):
    """40 to 49: what the runs of `models` x `datasets` x `seeds` below `runs_dir` say."""

    datasets: Names = ["synthetic"]
    models: Names = Field(["unet", "unetpp", "unetv2"], description="the first is the reference")
    seeds: Seeds = [0]
    runs_dir: str = Field("outputs/quick/runs", description="holds <dataset>/<model>/s<seed>/metrics.json")
    data_dir: str | None = Field(None, description="folder that holds the downloaded datasets")
    output_dir: str = "outputs/compare"


class StudyParams(CompareParams):
    """43_unetpp_study: what UNet++'s own studies say on these runs of its family."""

    models: Names = Field(["tmi-unet-l4", "tmi-unet++"], description="of the family; the first is the reference")


class EfficiencyParams(Params):
    """42_efficiency: what each model costs, counted and timed."""

    seed: Seed = 0
    models: Names = Field(["unet", "unetpp", "unetv2", "smp-unet"], description="the first is the reference")
    encoder: str = Field("tu-test_resnet", description="of the live part; any smp or timm ('tu-...') encoder")
    image_sizes: Annotated[list[Size], Field(min_length=2)] = [64, 96, 128]
    batch_sizes: Annotated[list[Positive], Field(min_length=2)] = [1, 4, 8]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["no", "fp16", "bf16"] = Field("no", description="mixed precision; 'no' is float32")
    repeats: Positive = Field(9, description="timed turns")
    table4_encoder: str = Field("tu-pvt_v2_b2", description="of the audit of Table 4; the paper's")
    table4_size: Size = Field(256, description="of the audit of Table 4; the paper's")
    output_dir: str = "outputs/efficiency"


class FigureParams(Params):
    """50 to 59: pictures of what trained models do to one dataset."""

    dataset: str = "synthetic"
    models: Names = ["unet", "unetpp", "unetv2"]
    seeds: Seeds = [0]
    runs_dir: str = Field("outputs/quick/runs", description="holds <dataset>/<model>/s<seed>/model.safetensors")
    data_dir: str | None = Field(None, description="folder that holds the downloaded datasets")
    image_size: Size = 64
    count: Positive = Field(2, description="images of a figure; twice as many in the cross-section")
    output_dir: str = "outputs/figures"
