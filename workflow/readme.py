"""python workflow/readme.py: write the tables of the READMEs anew, from committed files alone.

A table stands between `<!-- NAME -->` and `<!-- end -->`; what is between them is replaced. A test
holds the pages to what this computes.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from unetv2 import networks
from unetv2.common import files
from unetv2.common.words import difference, many, spread
from unetv2.evaluation import record, stats
from unetv2.teaching import ablation, cells, contrasts, other_rules, tables, worlds
from unetv2.teaching.params import AblationParams

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "outputs" / "results"
LEADERS = list(cells.LEADERS)
BESIDE = ["thin+copy-matched", *LEADERS[1:]]  # the copy with a ReLU and as many parameters as SDI
POLYPS = [LEADERS[0], *BESIDE]
ATTENTION = ["thin+copy", "thin+sdi", "thin+sdi-noattention"]
ARMS = cells.arms(cells.ARMS, epochs=24)
MEMBERS = [name for name in networks.list_models() if networks.is_family(name)]
SKIPS = {"encoder": "mobilenet_v2", "image_size": 128, "recipe": "paper", "train_share": 1.0}
FAMILY = {"width": 16, "batchnorm": True, "image_size": 96, "recipe": "unetpp", "lr": 1e-3}
SHOWN = {  # title: protocol, score
    "Dice per image": ("per_image", "dice"),
    "Dice global": ("global", "dice"),
    "boundary F": ("own", "boundary_f"),
}


def records(dataset: str, models: list[str], epochs: int, protocol=SKIPS) -> list[dict]:
    """The committed records of these models with this protocol, for the seeds that all have.

    Raises:
        ValueError: there is no such seed.
    """
    there = record.collect(dataset, models, epochs=epochs, **protocol)
    found = {(one["params"]["model"], one["params"]["seed"]): one for one in there}
    seeds = {seed for _, seed in found}
    common = sorted(s for s in seeds if all((model, s) in found for model in models))
    if not common:
        raise ValueError(f"{dataset}, {epochs} epochs: no seed has a record of each of {models}")
    return [found[model, seed] for model in models for seed in common]


def compared(dataset: str, models: list[str], epochs: int) -> str:
    """Scores in points, mean ± deviation over seeds, and differences to the first model.

    The claims are of boundary F, the first metric of an ablation; Dice may object. A dataset of
    several tests has rows for each.
    """
    chosen = records(dataset, models, epochs=epochs)
    scores = record.summary(chosen).set_index(["test", "model", "protocol"]).sort_index()
    dice, edge = differences(chosen, models)
    rows, places = [], edge.index.unique("test")
    for test, model in product(places, models):
        row = {"test": test, "skip": networks.label(model)}
        for title, (protocol, score) in SHOWN.items():
            cell = 100 * scores.loc[(test, model, protocol), score]
            row[title] = spread(cell.mean(), cell.std())
        for title, table in (("difference in Dice", dice), ("in boundary F", edge)):
            row[title] = _gain(table.loc[test, model]) if model != models[0] else ""
        rows.append(row)
    table = pd.DataFrame(rows).set_index(["test", "skip"])
    table = table if len(places) > 1 else table.droplevel("test")
    images = [str(int(edge.loc[test].images.iloc[0])) for test in places]
    head = f"{' and '.join(images)} test images, {_seeds(chosen)}, {epochs} epochs."
    said = []
    for (test, model), text in edge.text.items():
        where = f"{test}, " * (len(places) > 1)
        said.append(f"- {where}{networks.label(model)}, boundary F: {text}.")
    return "\n".join([head, "", *tables.markdown(table), "", *said])


def lengths(dataset: str, models: list[str], epochs: list[int]) -> str:
    """`gains`, a column for each length of training."""
    columns = {}
    for length in epochs:
        chosen = records(dataset, models, epochs=length)
        columns[f"{length} epochs, {_seeds(chosen)}"] = differences(chosen, models)
    return gains(columns)


def tests(dataset: str, models: list[str], epochs: int) -> str:
    """`gains`, a column for each test set."""
    both = differences(records(dataset, models, epochs=epochs), models)
    return gains({test: [of.loc[[test]] for of in both] for test in both[0].index.unique("test")})


def gains(columns: Mapping[str, Sequence[pd.DataFrame]]) -> str:
    """What each model gains on the first in boundary F and in Dice, from `differences` of one
    test set in each column.
    """
    found = {}
    for title, (dice, edge) in columns.items():
        claims = edge.apply(lambda row: _gain(row) + f", {row.verdict}" * bool(row.verdict), axis=1)
        parts = {"boundary F": claims, "Dice": dice.apply(_gain, axis=1)}
        found[title] = pd.concat(parts).droplevel("test")
    table = pd.DataFrame(found)
    table.index = [f"{networks.label(model)}, {score}" for score, model in table.index]
    return "\n".join(tables.markdown(table.rename_axis("gain on the copy")))


def choice(dataset: str, models: list[str], epochs: list[int]) -> str:
    """The gains in Dice at the epoch that validation chose, and at the last one."""
    parts = {f"{e} epochs": records(dataset, models, epochs=e) for e in epochs}
    table = other_rules.by_epoch(other_rules.choices(parts), models[0])
    return "\n".join(tables.markdown(table.rename_axis(["training", "gain on the copy in Dice"])))


def asked(dataset: str, epochs: int, questions: Mapping[Any, contrasts.Weights]) -> str:
    """The answers of 41_ablation to `questions`, corrected for all of them, landed or not."""
    found = ablation.landed(AblationParams(dataset=dataset, epochs=epochs))
    table = contrasts.compare(found, questions)
    number, table = len(table), table[table.seeds > 0]
    shown = pd.DataFrame(
        {
            "seeds": table.seeds,
            "in boundary F": table.apply(_gain, axis=1),
            "in Dice, not corrected": worlds.second(table).apply(_gain, axis=1),
            "verdict": table.verdict.replace("", "none"),
        }
    )
    head = f"Corrected for {number} comparisons in boundary F, {epochs} epochs."
    shown.index = shown.index.str.removesuffix(f" ({epochs} epochs)")
    return "\n".join([head, "", *tables.markdown(shown.rename_axis("difference"))])


def family(dataset: str, models: list[str], epochs: int) -> str:
    """Sizes and scores of UNet++'s family, mean ± deviation over seeds; its article has IoU."""
    chosen = records(dataset, models, epochs, FAMILY)
    scores = tables.readable(tables.results(chosen)).droplevel("test")
    table = tables.facts(chosen)[["M parameters", "best epoch"]].join(scores).droplevel("dataset")
    shown = table[["M parameters", "IoU", "IoU, global", "boundary F", "best epoch"]]
    return "\n".join([f"{_seeds(chosen)}.", "", *tables.markdown(shown.rename_axis("network"))])


def differences(chosen: list[dict], models: list[str]) -> list[pd.DataFrame]:
    """`stats.compare` to the first model, in Dice and in boundary F, by test and model."""
    frame, scores = record.frame(chosen), ["dice", "boundary_f"]
    both = [stats.compare(frame, models[0], models[1:], *of) for of in (scores, scores[::-1])]
    return [table.set_index(["test", "model"]) for table in both]


def _gain(row: pd.Series) -> str:
    return difference(row.mean_difference, row.ci_low, row.ci_high)


def _seeds(chosen: list[dict]) -> str:
    return many(len({record.params_of(one).seed for one in chosen}), "seed")


def speed() -> str:
    """Time over that of the released code, an entry for each processor that measured it."""
    lines = [
        "| processor | inference | training | the same, glibc's own defaults |",
        "|---|---|---|---|",
    ]
    for entry in json.loads((RESULTS / "speed_cpu.json").read_text(encoding="utf-8")):
        held, plain = entry["sides"]["ours, held memory"], entry["sides"]["ours"]
        ratios = [_ratio(held["inference_ratio"]), _ratio(held["training_ratio"])]
        ratios.append(f"{plain['inference_ratio'][0]:.2f}, {plain['training_ratio'][0]:.2f}")
        lines.append(f"| {entry['processor']} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def _ratio(of: list[float]) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*of)


def equality() -> str:
    """How far our numbers are from the released code's, with its weights."""
    found = json.loads((RESULTS / "against_released.json").read_text(encoding="utf-8"))
    lines = ["| | largest difference | relative | allowed |", "|---|---|---|---|"]
    for name, of in found["differences"].items():
        allowed = found["limits"][name]
        lines.append(f"| {name} | {of['largest']:.1e} | {of['relative']:.1e} | {allowed:.0e} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "equality": equality,
    "isic2017, 6 epochs": lambda: compared("isic2017", LEADERS, epochs=6),
    "isic2017, 12 epochs": lambda: compared("isic2017", LEADERS, epochs=12),
    "isic2017, 24 epochs": lambda: compared("isic2017", LEADERS, epochs=24),
    "isic2017, lengths": lambda: lengths("isic2017", LEADERS, [6, 12, 24]),
    "isic2017, choice of epoch": lambda: choice("isic2017", LEADERS, [6, 12, 24]),
    "isic2017, choice of epoch, attention": lambda: choice("isic2017", ATTENTION, [24]),
    "isic2017, arms": lambda: asked("isic2017", 24, contrasts.against(ARMS, ARMS[0])),
    "isic2017, parts": lambda: asked("isic2017", 24, contrasts.pairs(cells.PARTS, 24)),
    "pranet, 24 epochs": lambda: compared("pranet", POLYPS, epochs=24),
    "pranet, beside the copy with ReLU": lambda: compared("pranet", BESIDE, epochs=24),
    "dsb2018, 15 epochs": lambda: family("dsb2018", MEMBERS, epochs=15),
    "pranet, tests": lambda: tests("pranet", POLYPS, epochs=24),
}
PAGES = [ROOT / "README.md", RESULTS / "README.md"]


def renewed(text: str) -> str:
    """`text` with its tables computed anew; KeyError for a table that nobody knows."""
    marked = re.compile(r"<!-- table: (.+?) -->\n.*?<!-- end -->", re.S)
    return marked.sub(lambda m: f"<!-- table: {m[1]} -->\n\n{TABLES[m[1]]()}\n\n<!-- end -->", text)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for page in PAGES:
        files.write_text(page, renewed(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
