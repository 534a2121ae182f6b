"""41_ablation: its records, what its arms cost, and their scores.

What is compared stands in `cells`, which records there are in `landed`, how they are compared in
`contrasts`, what may be said of it in `verdicts`. The figures are in `ablation_plots`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import costs, networks
from ..common import env
from ..common.params import RunParams, file_name, slug
from ..common.words import spread
from ..evaluation import record
from ..networks.names import parts
from .cells import Cell, models
from .landed import Landed, gather, numbers
from .params import AblationParams, Protocol
from .plots import label

__all__ = ["PROTOCOL", "command", "counted", "datasets", "landed", "prices", "results"]

PROTOCOL = tuple(Protocol.model_fields)
FREE = ("dataset", "model", "seed", "epochs", "train_share", "width", "batchnorm")


def landed(params: AblationParams) -> Landed:
    """What there is of the protocol that `params` names, committed and in its folders.

    Raises:
        ValueError: a damaged record; a wrong parameter; `own` is not thin+module:Class.
    """
    RunParams.make(_protocol(params))
    if params.own is not None:
        _check_own(params.own)

    def wanted(run: RunParams) -> RunParams:
        steps = None if run.train_share == 1 else params.steps_per_epoch
        own = {name: getattr(run, name) for name in FREE}
        return RunParams.make(own | _protocol(params) | {"steps_per_epoch": steps})

    names = models(params.own)
    return gather(params, record.collect(params.dataset, names, params.folders), wanted)


def datasets(params: AblationParams) -> list[str]:
    """The folders of datasets that have records, committed or in the folders of `params`."""
    tops = [env.path(record.FOLDER), *map(env.path, params.folders)]
    return sorted({path.name for top in tops for path in top.glob("*/")})


def _check_own(own: str) -> None:
    found = parts(own) if ":" in own else None
    if found is None or own != f"thin+{found.skip}":
        raise ValueError(f"own={own!r} must be 'thin+module:Class', as 'thin+my_skip:MySkip'")


def _protocol(params: AblationParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in PROTOCOL}


def counted(found: Landed) -> pd.DataFrame:
    """How many seeds each model has, a column for each length and share."""
    rows: dict[str, dict[str, str]] = {}
    for cell in sorted(found.scores, key=lambda cell: (-cell.share, cell.epochs)):
        of = f"{cell.epochs} epochs" + f", {cell.share:.0%}" * (cell.share < 1)
        rows.setdefault(cell.model, {})[of] = numbers(found.seeds(cell))
    order = [model for model in models(found.params.own) if model in rows]
    table = pd.DataFrame([rows[model] for model in order], [label(model) for model in order])
    return table.fillna("").rename_axis("seeds of")


def prices(params: AblationParams, models: Iterable[str]) -> pd.DataFrame:
    """What each model costs, by name: `parameters` and `macs`, multiply-adds of one image.

    Counted on networks without weights (torch's meta device), with the heads that they are trained
    with. A reader's own skip whose module cannot be imported has no numbers.
    """
    found = {}
    for model in dict.fromkeys(models):
        options = {"deep_supervision": networks.supervised(model)}
        found[model] = {"parameters": np.nan, "macs": np.nan}
        try:
            with torch.device("meta"):
                net = networks.create_model(model, params.encoder, **options)
                image = torch.zeros(1, 3, params.image_size, params.image_size)
        except ValueError:
            if ":" not in model:
                raise
            continue
        size = sum(p.numel() for p in net.parameters())
        found[model] = {"parameters": size, "macs": costs.macs(net, image)}
    return pd.DataFrame(found).T


def results(found: Landed, cells: Sequence[Cell], price: pd.DataFrame | None = None):
    """A row for each cell: its seeds, its scores, mean ± deviation over seeds, and its cost.

    Dice global pools the pixels of all images of a seed.
    """
    rows, costly = {}, price is not None
    for cell in cells:
        seeds = found.seeds(cell)
        row = {"seeds": len(seeds), "boundary F": "", "Dice": "", "Dice, global": ""}
        if seeds:
            by_seed = found.scores[cell].groupby("seed")
            pooled = by_seed[["tp", "fp", "fn"]].sum()
            whole = 2 * pooled.tp / (2 * pooled.tp + pooled.fp + pooled.fn)
            row["boundary F"] = _spread(by_seed.boundary_f.mean())
            row |= {"Dice": _spread(by_seed.dice.mean()), "Dice, global": _spread(whole)}
        if costly:
            cost, base = price.loc[cell.model], price.iloc[0]
            row["k parameters"] = _beyond(cost.parameters, base.parameters, 1e3)
            row["M multiply-adds"] = _beyond(cost.macs, base.macs, 1e6)
        rows[label(cell.model)] = row
    return pd.DataFrame(rows).T.rename_axis("model")


def _spread(values: pd.Series) -> str:
    return spread(100 * values.mean(), 100 * values.std())


def _beyond(value: float, base: float, unit: float) -> str:
    """A cost, and how much more it is than that of the first row."""
    if np.isnan(value):
        return "–"
    more = f" ({(value - base) / unit:+,.0f})" if value != base else ""
    return f"{value / unit:,.0f}{more}"


def command(found: Landed, model: str, epochs: int, top: str, share: float = 1.0) -> str:
    """What trains `model` by the protocol, once for each seed in `$s`, into the folder `top`.

    `top` then belongs into the notebook's `folders`.
    """
    params = found.params
    given = {"dataset": params.dataset, "model": model, **_protocol(params), "epochs": epochs}
    if share < 1:
        given |= {"train_share": share, "steps_per_epoch": params.steps_per_epoch}
    folder = f"{top}/{slug(params.dataset)}/{file_name(model)}/s$s"
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(["unetv2 train", *flags, "--audit", "--seed $s", f"--output-dir {folder}"])
