"""publish.py CONFIG: copy what is small of a finished `outputs/CONFIG` to `outputs/results/CONFIG`, to be committed.

Kept are: the scores of every run (runs.csv) and its set-up (runs.json), tables and charts of 40_compare and of
43_unetpp_study, the saved figures of 50_figures, and reading copies of the executed notebooks, one of each kind. What
shows images of a dataset that may not be shown to others (`may_publish` in data/registry.yaml) stays behind.
"""

import argparse
import json
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import yaml

from unetv2 import data, env, files

TABLES = ("*.csv", "*.md", "*.png", "*.txt")
FOLDERS = ("compare", "unetpp_study", "figures/*")


def runs_of(source: Path) -> tuple[pd.DataFrame, dict]:
    """A row per run, test split and protocol; and what made them: command, environment and common parameters."""
    rows, folders = [], sorted(p.parent for p in source.glob("runs/*/*/s*/metrics.json"))
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        run = {key: metrics[key] for key in ("dataset", "model", "seed", "params", "best_epoch", "val_dice")}
        run["minutes"] = pd.read_csv(folder / "log.csv").seconds.sum() / 60
        for test, protocols in metrics["tests"].items():
            rows += [run | {"test": test, "protocol": name} | scores for name, scores in protocols.items()]
    own, groups = ("model", "seed", "output_dir", "data_dir", "weights_dir"), {}
    for folder in folders:  # runs that differ in nothing but model and seed are one entry
        params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
        common = {k: v for k, v in params.items() if k not in own}
        groups.setdefault(json.dumps(common), {"models": {}, **common})["models"][params["model"]] = True
    return pd.DataFrame(rows), {
        "environment": json.loads((folders[0] / "env.json").read_text(encoding="utf-8")),
        "protocol": metrics["protocol"],
        "parameters": [{**group, "models": list(group["models"])} for group in groups.values()],
    }


def reading_copy(notebook: Path) -> str:
    """The executed notebook without what papermill and widgets noted in it: times, paths of the machine."""
    nb = nbformat.read(notebook, as_version=4)
    for holder in (nb, *nb.cells):
        for key in ("papermill", "execution", "widgets"):
            holder.metadata.pop(key, None)
    return nbformat.writes(nb) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="name of a finished config: a folder in --output")
    parser.add_argument("--output", default="outputs", help="as given to run_all.sh")
    args = parser.parse_args()
    source, target = env.path(args.output) / args.config, env.root() / "outputs" / "results" / args.config
    if not list(source.glob("runs/*/*/s*/metrics.json")):
        raise SystemExit(f"{source} holds no finished run: ./run_all.sh --config {args.config} first")

    shutil.rmtree(target, ignore_errors=True)
    table, made = runs_of(source)
    files.write_text(target / "runs.csv", table.round(5).to_csv(index=False))
    files.write_json(target / "runs.json", {"command": f"./run_all.sh --config {args.config}", **made})
    for path in (p for kind in TABLES for folder in FOLDERS for p in source.glob(f"{folder}/{kind}")):
        with files.atomic(target / path.relative_to(source)) as temporary:
            shutil.copyfile(path, temporary)
    seen = set()
    for notebook in sorted(source.rglob("*.ipynb"), reverse=True):  # the last model's run, the one worth reading
        values = yaml.safe_load((notebook.parent / "params.yaml").read_text(encoding="utf-8"))
        shown = [values["dataset"]] if "dataset" in values else values.get("datasets", [])
        if notebook.stem not in seen and all(data.may_publish(d) for d in shown):
            seen.add(notebook.stem)
            text = reading_copy(notebook)
            if str(env.root()) in text or str(Path.home()) in text:
                raise SystemExit(
                    f"{notebook} names a folder of this machine in its output: mend the cell that prints it"
                )
            files.write_text(target / notebook.name, text)
    print(
        f"{target.relative_to(env.root())}: {len(table)} scores, reading copies of {', '.join(sorted(seen)) or 'none'}"
    )


if __name__ == "__main__":
    main()
