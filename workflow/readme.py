"""python workflow/readme.py: write the tables of the READMEs anew, from committed files alone.

A table stands between `<!-- NAME -->` and `<!-- end -->`; what is between them is replaced. A test
holds the pages to what this computes.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

from unetv2 import networks
from unetv2.common import files
from unetv2.common.words import interval, many, spread
from unetv2.evaluation import record, stats

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "outputs" / "results"
ARMS = ["thin+copy", "thin+nested", "thin+sdi"]
ISIC = {"encoder": "mobilenet_v2", "image_size": 128, "recipe": "paper", "train_share": 1.0}


def records(dataset: str, models: list[str], **settings) -> list[dict]:
    """The committed records of these models with these settings, for the seeds that all have."""
    there = record.collect(dataset, models, **settings)
    found = {(one["params"]["model"], one["params"]["seed"]): one for one in there}
    seeds = {seed for _, seed in found}
    common = sorted(s for s in seeds if all((model, s) in found for model in models))
    return [found[model, seed] for model in models for seed in common]


def compared(dataset: str, models: list[str], **settings) -> str:
    """Scores in points, mean ± deviation over seeds, and differences to the first model.

    The claims are of boundary F, the first metric of an ablation; Dice may object.
    """
    chosen = records(dataset, models, **settings)
    if not chosen:
        return "No records yet."
    scores = record.summary(chosen).set_index(["model", "seed", "protocol"])
    frame = record.frame(chosen)
    pairs = {
        "dice": stats.compare(frame, models[0], models[1:]).set_index("model"),
        "boundary_f": stats.compare(frame, models[0], models[1:], "boundary_f", "dice").set_index(
            "model"
        ),
    }
    own = pairs["boundary_f"]
    seeds = len({record.params_of(one).seed for one in chosen})
    images = int(own["images"].iloc[0])
    lines = [
        f"{images} test images, {many(seeds, 'seed')}, {settings['epochs']} epochs.",
        "",
        "| skip | Dice per image | Dice global | boundary F | difference in Dice | in boundary F |",
        "|---|---|---|---|---|---|",
    ]
    for model in models:
        cells = [
            100 * scores.xs((model, protocol), level=("model", "protocol"))[name]
            for protocol, name in (("per_image", "dice"), ("global", "dice"), ("own", "boundary_f"))
        ]
        cells = [spread(cell.mean(), cell.std()) for cell in cells]
        if model in own.index:
            for pair in pairs.values():
                row = pair.loc[model]
                cells.append(f"{row.mean_difference:+z.2f} {interval(row.ci_low, row.ci_high)}")
        else:
            cells += ["", ""]
        lines.append(" | ".join([f"| {networks.label(model)}", *cells]) + " |")
    said = own["text"].items()
    lines += ["", *(f"- {networks.label(model)}, boundary F: {text}." for model, text in said)]
    return "\n".join(lines)


def speed() -> str:
    """Time over that of the released code, an entry for each processor that measured it."""
    lines = [
        "| processor | inference | training | the same, glibc's own defaults |",
        "|---|---|---|---|",
    ]
    for entry in json.loads((RESULTS / "speed_cpu.json").read_text(encoding="utf-8")):
        held, plain = entry["sides"]["ours, held memory"], entry["sides"]["ours"]
        cells = [_ratio(held["inference_ratio"]), _ratio(held["training_ratio"])]
        cells.append(f"{plain['inference_ratio'][0]:.2f}, {plain['training_ratio'][0]:.2f}")
        lines.append(f"| {entry['processor']} | {' | '.join(cells)} |")
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
    "isic2017, 6 epochs": lambda: compared("isic2017", ARMS, epochs=6, **ISIC),
    "isic2017, 12 epochs": lambda: compared("isic2017", ARMS, epochs=12, **ISIC),
    "isic2017, 24 epochs": lambda: compared("isic2017", ARMS, epochs=24, **ISIC),
}
PAGES = [ROOT / "README.md", RESULTS / "README.md"]


def renewed(text: str) -> str:
    """`text` with its tables computed anew; KeyError for a table that nobody knows."""
    tables = re.compile(r"<!-- table: (.+?) -->\n.*?<!-- end -->", re.S)
    return tables.sub(lambda m: f"<!-- table: {m[1]} -->\n\n{TABLES[m[1]]()}\n\n<!-- end -->", text)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for page in PAGES:
        files.write_text(page, renewed(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
