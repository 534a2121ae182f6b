"""46_the_company: the methods that the papers compare with, in one frame.

What has landed, what each method costs, what others printed, and which to choose. A cell, and what
is compared how, are those of `ablation`; the figures are in `company_figures`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pandas as pd

from .. import costs, networks
from ..common import env
from ..common.params import RunParams
from ..evaluation import record, stats
from ..networks.names import BINARY, PUBLISHED_ENCODER, RANDOM
from . import ablation, contrasts, published, reading
from .cells import Cell, arms
from .landed import Landed, gather
from .params import CompanyParams
from .plots import label

__all__ = ["METHODS", "NEEDS", "backbones", "cells", "choose", "equality", "landed", "light"]
__all__ += ["methods", "priced", "printed", "reference", "results"]

PROTOCOL = (*ablation.PROTOCOL, "epochs")
MEGA, GIGA = 1e6, 1e9
METHODS = {  # year, strides that the decoder reads, how levels meet, heads in training
    "smp-unet": (2015, "2 to 32", "concatenation", 1),
    "smp-unetplusplus": (2018, "2 to 32", "concatenation, nested", 1),
    "pranet": (2020, "8, 16, 32", "products, then reverse attention", 4),
    "transfuse-s": (2021, "4, 8, 16", "a gated product of CNN and transformer", 3),
    "sanet": (2021, "8, 16, 32", "products, concatenated", 1),
    "polyp-pvt": (2021, "4 to 32", "PraNet's products, then a graph of 16 anchors", 2),
    "malunet": (2022, "all, from 1", "sums, gated skips", 1),
    "ege-unet": (2023, "all, from 1", "sums, masks passed along", 6),
    "thin+sdi": (2023, "4 to 32", "products at every level, then sums", 4),
}
SOURCES = {  # of the printed rows: which tables, and as whom they name the methods
    "unetv2-paper": ("Table 1", "Table 2"),
    "pranet-v2-readme": ("scores",),
}


# The methods --------------------------------------------------------------------------------------


def methods() -> pd.DataFrame:
    """A row for each method: year, its encoder as published, what is read and how it meets."""
    own = {"malunet": "six stages, random", "ege-unet": "six stages, random"}
    own |= {"transfuse-s": "ResNet-34 and DeiT-S", "thin+sdi": "PVT v2-B2"}
    names = {"tu-res2net50d": "Res2Net-50 v1b", "tu-pvt_v2_b2": "PVT v2-B2"}
    own |= {model: names[encoder] for model, encoder in PUBLISHED_ENCODER.items()}
    columns = ["year", "strides", "levels meet by", "heads"]
    table = pd.DataFrame(METHODS, columns).T
    table.insert(1, "published encoder", [own.get(model, "its own") for model in METHODS])
    return table.rename(index=label).rename_axis("method")


def equality() -> pd.DataFrame:
    """Ours against the released code, from `peers_released.json`; a row for each method.

    The largest relative difference of the logits in evaluation mode, of all maps in training mode
    and of the gradients, the parameters of both, and the commit of the released code.
    """
    rows = {}
    for name, one in _result("peers_released.json")["models"].items():
        unused = one["parameters"]["released, unused"]
        row = {"released parameters": f"{one['parameters']['released']:,}"}
        row["of them never used"] = f"{unused:,}" if unused else "none"
        row["ours"] = f"{one['parameters']['ours']:,}"
        for what, found in one["differences"].items():
            row[what] = f"{found['relative']:.0e}"
        row["equal"] = "yes" if one["equal"] else "NO"
        row["code"] = f"{one['released']['repository']} @{one['released']['commit'][:7]}"
        rows[label(name)] = row
    return pd.DataFrame(rows).T.fillna("–").rename_axis("method")


def _result(name: str) -> dict[str, Any]:
    path = env.path(f"outputs/results/{name}")
    return json.loads(path.read_text(encoding="utf-8"))


# What has landed ----------------------------------------------------------------------------------


def cells(params: CompanyParams) -> list[Cell]:
    """Each model at the notebook's length, on all training images."""
    return arms(params.models, params.epochs)


def landed(params: CompanyParams) -> Landed:
    """The records of the frame that `params` names, committed and in its folders.

    A record of another length is of another frame and is not asked for; one that differs in
    anything else that decides a training is left out, and named. Trainings on a part of the images
    are kept as cells of their own.

    Raises:
        ValueError: a damaged record; a wrong parameter; a model that is not in the registry.
    """
    for model in params.models:
        networks.check_model(model)
        RunParams.make(_frame(params, model))
    given = params.dataset, params.models, params.folders
    records = record.collect(*given, epochs=params.epochs)

    def wanted(run: RunParams) -> RunParams:
        own = {name: getattr(run, name) for name in ("dataset", "seed", "train_share")}
        if run.train_share < 1:  # as many steps as all images have: a number of its own
            own["steps_per_epoch"] = run.steps_per_epoch
        return RunParams.make(_frame(params, run.model) | own)

    return gather(params, records, wanted)


def _frame(params: CompanyParams, model: str) -> dict[str, Any]:
    """The fields of RunParams that a run of `model` has in this frame."""
    own = {name: getattr(params, name) for name in PROTOCOL} | {"model": model}
    return own | ({"encoder_weights": None} if model in RANDOM else {})


def reference(found: Landed) -> Cell:
    """What the others are compared with: the first cell, or the first of those with most seeds.

    Five seeds are as good as more, so the first cell is the reference as soon as it has them.
    """
    planned = cells(found.params)
    seeds = [min(len(found.seeds(cell)), stats.SEEDS_FOR_A_VERDICT) for cell in planned]
    return planned[seeds.index(max(seeds))]


# Costs --------------------------------------------------------------------------------------------


def priced(params: CompanyParams, repeats: int = 5) -> pd.DataFrame:
    """What each model costs at the frame's size and encoder, with random weights.

    A row for each model: parameters, macs, kept (bytes that one more training image keeps for
    backward), `latency` [median, 10th, 90th percentile] of one image, as a ratio to the first
    model on this machine, and `several`, whether it takes several classes. See `costs.table`.
    """
    options = {"encoder": params.encoder, "batch": 2, "device": "cpu", "repeats": repeats}
    rows = costs.table(params.models, params.image_size, **options)
    names = {"params": "parameters", "macs": "macs", "kept_bytes": "kept"}
    names |= {"latency_ratio": "latency"}
    found = {row["model"]: {new: row[old] for old, new in names.items()} for row in rows}
    table = pd.DataFrame(found).T
    return table.assign(several=[model not in BINARY for model in table.index])


def results(found: Landed, price: pd.DataFrame) -> pd.DataFrame:
    """A row for each model: seeds, scores (mean ± deviation over seeds) and costs."""
    base = price[["parameters", "macs"]].astype(float)
    table = ablation.results(found, cells(found.params))
    table["M parameters"] = [f"{n / MEGA:.2f}" for n in base.parameters]
    table["M multiply-adds"] = [f"{n / MEGA:,.0f}" for n in base.macs]
    table["MB kept"] = [f"{n / MEGA:.1f}" for n in price.kept]
    table["time, ratio"] = [f"{ratio[0]:.2f}" for ratio in price.latency]
    return table.replace("", "–")


def light() -> pd.DataFrame:
    """The light networks recounted, from a committed count: raw and by thop.

    The last column is what is printed about them, a list of sentences.
    """
    rows = {}
    for name, one in _result("light_networks.json")["models"].items():
        raw, thop = one["parameters"], one["parameters, thop"]
        row = {"parameters": f"{raw:,}", "by thop": f"{thop:,}"}
        row["thop misses"] = f"{1 - thop / raw:.1%}"
        row["G multiply-adds"] = f"{one['multiply-adds'] / GIGA:.4f}"
        row["G by thop"] = f"{one['multiply-adds, thop'] / GIGA:.4f}"
        rows[label(name)] = row | {"printed": one["printed"]}
    return pd.DataFrame(rows).T.rename_axis("method")


def backbones() -> pd.DataFrame:
    """U-Net, UNet+ and UNet++ over the backbones of the UNet++ article, from a committed count.

    M parameters and G multiply-adds of each, in all and beyond the backbone's own.
    """
    rows = {}
    for title, of in _result("backbones.json")["backbones"].items():
        for name, one in of.items():
            row = {}
            for key, unit in (("parameters", MEGA), ("multiply-adds", GIGA)):
                letter = "M" if unit == MEGA else "G"
                whole, inner = one[key], one[f"{key}, encoder"]
                row[f"{letter} {key}"] = round(whole / unit, 2)
                row[f"{letter} of the decoder"] = round((whole - inner) / unit, 2)
            rows[title, label(name)] = row
    return pd.DataFrame(rows).T.rename_axis(["backbone", "decoder"])


# What others printed ------------------------------------------------------------------------------


def printed() -> dict[str, pd.DataFrame]:
    """The printed rows of the company: {what holds for all of a table: its rows with remarks}."""
    found, names = {}, published.sources()
    for source, wanted in SOURCES.items():
        rules = {(row["table"], row["about"]): row["protocol"] for row in published.rows(source)}
        for (table, about), block in reading.ledger(source).items():
            if table in wanted:
                head = f"{table}, {names[source]}. Protocol: {rules[table, about]}"
                found[f"{head}; {about}"] = block
    return found


# Which should I choose? ---------------------------------------------------------------------------

NEEDS = ("little data", "little memory in training", "a small file", "sharp boundaries")
NEEDS += ("the best Dice", "speed", "several classes")


def choose(found: Landed, price: pd.DataFrame) -> pd.DataFrame:
    """A row for each need: what to choose, and what was measured; "not known" where nothing was.

    A score decides where at least two models have five seeds: the highest mean, and with it all
    that it is not shown to be above. Shown is an interval of its own metric alone without 0,
    corrected for all pairs. Costs are counts or ratios.
    """
    kept, size = (price[name].astype(float) for name in ("kept", "parameters"))
    answers = {
        "little data": _of_little_data(found),
        "little memory in training": _least(kept, lambda n: f"{n / MEGA:.1f} MB kept an image"),
        "a small file": _least(size, lambda n: f"{n / MEGA:.2f} M parameters"),
        "sharp boundaries": _best(found, cells(found.params), "boundary_f"),
        "the best Dice": _best(found, cells(found.params), "dice"),
        "speed": _fastest(price.latency, label(price.index[0])),
        "several classes": _several(price),
    }
    table = pd.DataFrame({need: answers[need] for need in NEEDS}, ["choose", "because"]).T
    return table.rename_axis("need")


def _least(values: pd.Series, spelled) -> tuple[str, str]:
    first, second = values.sort_values().index[:2]
    text = f"{spelled(values[first])}; next {label(second)}, {spelled(values[second])}"
    return label(first), text


def _fastest(latency: pd.Series, reference: str) -> tuple[str, str]:
    """The least median, and all whose 10th percentile lies below its 90th."""
    order = sorted(latency.index, key=lambda model: latency[model][0])
    alike = [model for model in order if latency[model][1] <= latency[order[0]][2]]
    first, last = (latency[model][0] for model in (alike[0], alike[-1]))
    why = f"{first:.2f} of {reference}'s time, on this machine"
    if len(alike) > 1:
        why = f"{first:.2f} to {last:.2f} of {reference}'s time, on this machine"
        why += "; their spreads overlap, so none of them is shown to be the fastest"
    return " or ".join(map(label, alike)), why


def _several(price: pd.DataFrame) -> tuple[str, str]:
    able = [label(model) for model in price.index[price.several]]
    unable = [label(model) for model in price.index[~price.several]]
    why = f"{' and '.join(unable)} are defined for one foreground" if unable else "all take them"
    return ", ".join(able), why + "; no score with several classes is measured here"


def _of_little_data(found: Landed) -> tuple[str, str]:
    """The smallest share of the training images of which two models have five seeds."""
    shares = sorted({cell.share for cell in found.scores if cell.share < 1})
    for share in shares:
        of = arms(found.params.models, found.params.epochs, share)
        if sum(len(found.seeds(cell)) >= stats.SEEDS_FOR_A_VERDICT for cell in of) > 1:
            chosen, why = _best(found, of, "dice")
            return chosen, f"on {share:.0%} of the images: {why}"
    return "not known", "no two models have five trainings on a part of the images"


def _best(found: Landed, of: Sequence[Cell], metric: str) -> tuple[str, str]:
    name, many = stats.NAMES[metric], stats.SEEDS_FOR_A_VERDICT
    there = [cell for cell in of if found.seeds(cell)]
    if not there:
        return "not known", "no model has a record yet"
    mean = {cell: 100 * found.wide(cell, metric).mean(axis=None) for cell in there}
    full = [cell for cell in there if len(found.seeds(cell)) >= many]
    best = max(full if len(full) > 1 else there, key=mean.get)
    if len(full) < 2:
        seeds = f"{len(found.seeds(best))} of {many} seeds"
        leads = f"highest so far {label(best.model)}, {name} {mean[best]:.2f} ({seeds})"
        return "not known", f"{leads}; a verdict takes {many} seeds of two models or more"
    asked = replace(found, params=found.params.model_copy(update={"metric": metric}))
    others = [cell for cell in full if cell != best]
    questions = {cell: {best: 1.0, cell: -1.0} for cell in others}
    compared = contrasts.compare(asked, questions, len(list(combinations(full, 2))))
    shown = compared.ci_low.gt(0).to_numpy()
    equal = [label(c.model) for c, worse in zip(others, shown, strict=True) if not worse]
    worse = [label(c.model) for c, worse in zip(others, shown, strict=True) if worse]
    text = f"{name} {mean[best]:.2f}; "
    text += f"shown above {', '.join(worse)}" if worse else "shown above none"
    text += f"; not above {', '.join(equal)}" if equal else ""
    waiting = len(of) - len(full)
    text += f"; {waiting} of {len(of)} have fewer than {many} seeds" if waiting else ""
    return " or ".join([label(best.model), *equal]), text
