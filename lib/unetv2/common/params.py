"""Parameters of runs and notebooks, checked strictly.

papermill accepts a misspelt name, a cell that lost its `parameters` tag and a string where a number
belongs without a word. Each notebook therefore hands its parameters to one of the classes below,
which accept nothing but what they name.
"""

import ast
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import unknown

__all__ = ["PLACES", "Params", "RunParams", "file_name", "slug"]

PLACES = frozenset(
    {"output_dir", "data_dir", "weights_dir", "device", "workers"}
)  # where, not what
Positive = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=32, description="side of the square input, pixels")]
Seed = Annotated[int, Field(ge=0)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Seeds = Annotated[list[Seed], Field(min_length=1)]


def slug(dataset: str) -> str:
    """The folder name of a dataset in `outputs/`: `folder:/my/images` becomes `folder-images`."""
    kind, _, path = dataset.partition(":")
    return (
        kind
        if not path
        else f"{kind}-{re.sub(r'[^A-Za-z0-9]+', '-', path.rstrip('/').split('/')[-1])}"
    )


def file_name(model: str) -> str:
    """A model's name for folders and files, `module:Class` as `module.Class`: Windows has no
    colon.
    """
    return model.replace(":", ".")


class Params(BaseModel):
    """Base of all parameter classes: no unknown names, no converted types, no changes
    afterwards.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def make(cls, values: dict[str, Any]) -> "Params":
        """Check `values` and return the parameters.

        Raises:
            ValueError: unknown names, wrong types and impossible values, in one message, with the
                valid ones.
        """
        for name in values:
            if name not in cls.model_fields:
                raise unknown("parameter", name, cls.model_fields)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}{_hint(e)}"
                for e in error.errors()
            ]
            raise ValueError("wrong parameters:\n  " + "\n  ".join(lines)) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> "Params":
        """The strict check of a notebook: call it with `globals()` in the cell after the
        `parameters` cell.

        Every field that the notebook has a variable for is read from it. What papermill injected
        must be the name of a field and must still hold: a value that was overwritten means that the
            notebook's own cell lost its tag.

        Raises:
            ValueError: as `make`, and for an injected value that the notebook has overwritten.
        """
        for name, value in _injected(namespace.get("In", [])).items():
            if name not in cls.model_fields:
                raise unknown("parameter", name, cls.model_fields)
            if namespace.get(name) != value:
                found = f"was given as {value!r} but is {namespace.get(name)!r}"
                raise ValueError(
                    f"parameter {name!r} {found}: the parameters cell has lost its 'parameters' "
                    "tag, so papermill's values were overwritten; put the tag back"
                )
        return cls.make({name: namespace[name] for name in cls.model_fields if name in namespace})


def _hint(error: Any) -> str:
    """What YAML and shells do to numbers and to `no`, where that explains pydantic's `error`."""
    value = error["input"]
    if isinstance(value, bool) and "literal" in error["type"]:
        return "; YAML reads no, yes, on and off as true and false: quote them"
    if (
        isinstance(value, str)
        and error["type"].startswith(("float", "int"))
        and re.fullmatch(r"[-+.\deE]+", value)
    ):
        advice = "write numbers without quotes, and 1.0e-4, because YAML reads 1e-4 as text"
        return f"; this is text: {advice}"
    return ""


def _injected(cells: list[str]) -> dict[str, Any]:
    """What papermill's injected cell (it starts with `# Parameters`) assigned, from IPython's
    history `In`.
    """
    for source in cells:
        if source.startswith("# Parameters\n"):
            found = {}
            for statement in ast.parse(source).body:
                if isinstance(statement, ast.Assign):
                    # float("nan") and the like are calls, not literals: evaluate them as papermill
                    # wrote them
                    value = eval(
                        compile(ast.Expression(statement.value), "<injected>", "eval"),
                        {"float": float},
                    )
                    found[statement.targets[0].id] = value
            return found
    return {}


class RunParams(Params):
    """One run: one model on one dataset with one seed."""

    dataset: str = Field(
        "synthetic", description="name in data/registry.yaml, 'synthetic' or 'folder:PATH'"
    )
    model: str = Field("thin+sdi", description="name of a model, see unetv2.list_models()")
    encoder: str = Field(
        "resnet18", description="any smp or timm ('tu-...') encoder; the paper's is tu-pvt_v2_b2"
    )
    encoder_weights: Literal["imagenet"] | None = Field(
        None, description="pretrained weights, or None: random"
    )
    weights_dir: str | None = Field(
        None, description="folder of <encoder>.safetensors, read in place of a download"
    )
    width: Positive = Field(32, description="of the tmi- models: filters of the finest level")
    batchnorm: bool = Field(
        False, description="of the tmi- models: batch normalisation in place of dropout"
    )
    data_dir: str | None = Field(None, description="folder that holds the downloaded datasets")
    output_dir: str = Field("outputs/runs/last", description="run folder")
    seed: Seed = 0
    image_size: Size = 64
    epochs: int = Field(6, ge=1)
    steps_per_epoch: Positive | None = Field(
        None, description="batches of an epoch; None: one pass over the training part"
    )
    batch_size: Positive = 16
    recipe: Literal[
        "paper",
        "released",
        "released-as-written",
        "released-isic",
        "unetpp",
        "unetpp-tmi",
        "unetpp-dlmia",
        "pranet",
        "polyp-pvt",
        "sanet",
        "transfuse",
        "ege",
    ] = Field("paper", description="optimiser, schedule and loss, see unetv2.training.recipes")
    lr: float | None = Field(None, gt=0, description="peak learning rate; None: the recipe's")
    augment: Literal["none", "light", "strong"] = "light"
    limit: Positive | None = Field(None, description="at most so many images per split; None: all")
    train_share: float = Field(
        1.0, gt=0, le=1, description="share of the training part; smaller ones lie in larger ones"
    )
    drop_duplicates: bool = Field(
        False, description="leave out training images that are in the test part too"
    )
    audit: bool = Field(
        False, description="also log the test Dice of each epoch; nothing is chosen by it"
    )
    studies: bool = Field(
        True, description="measure at the end what later needs the weights: heads, skips, flips"
    )
    also_test: list[str] = Field(
        default_factory=list, description="other datasets that the trained model is scored on"
    )
    precision: Literal["no", "fp16", "bf16"] = Field(
        "no", description="mixed precision; 'no' is float32 (see unetv2.common.env.check_precision)"
    )
    channels_last: bool = Field(
        False, description="weights channels last: faster for PVT v2 and MobileNet on a CPU"
    )
    compile: bool = Field(
        False, description="torch.compile in training; left out where it does not work"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(0, ge=0, description="data loader processes")

    @property
    def network(self) -> dict[str, Any]:
        """The options of `networks.create_model` that decide what network this run trains."""
        own = {"name": self.model, "encoder": self.encoder}
        return own | {"width": self.width, "batchnorm": self.batchnorm}

    @property
    def part(self) -> dict[str, Any]:
        """The options of `data.load` that decide what of the dataset is used."""
        own = {"limit": self.limit, "share": self.train_share}
        return own | {"drop_duplicates": self.drop_duplicates}

    @field_validator("dataset", "model", "encoder")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty")
        return value
