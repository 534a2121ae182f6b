"""publish.py CONFIG: copy what is small of a finished `outputs/CONFIG`, to be committed.

To `outputs/results/CONFIG` go the scores of every run that has no committed record (runs.csv),
their set-up (runs.json), tables and charts of 00_start_here, 40_compare and 43_unetpp_study, the
saved figures of 50_figures, and reading copies of the executed notebooks, one of each kind. What
shows images of a dataset that may not be shown to others (`may_publish` in data/registry.yaml)
stays behind.

publish.py CONFIG --records: copy the records of the finished runs to `outputs/results/records`
instead. A run whose record is committed counts as done wherever the repository is cloned.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import yaml

from unetv2 import data
from unetv2.common import env, files
from unetv2.evaluation import record

TABLES = ("*.csv", "*.md", "*.png", "*.txt")
FOLDERS = ("start_here", "compare", "ablation", "unetpp_study", "figures/*")


def finished(source: Path) -> list[Path]:
    """The folders of all finished runs; none that was moved aside."""
    found = sorted(path.parent for path in source.glob("runs/*/*/s*/metrics.json"))
    return [folder for folder in found if re.fullmatch(r"s\d+", folder.name)]


def copy(path: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with files.atomic(target) as temporary:
        shutil.copyfile(path, temporary)


def publish_records(source: Path) -> int:
    """Copy the record of every finished run to its place; returns how many there are."""
    folders = finished(source)
    for folder in folders:
        publish_record(folder)
    return len(folders)


def publish_record(folder: Path) -> None:
    """Copy the record of the run in `folder` to its place."""
    found = record.load(folder / record.FILE)
    params = record.params_of(found)
    name = f"s{params.seed}-{found['identity']}.json.gz"
    copy(folder / record.FILE, record.home(params) / name)


def recorded(folder: Path) -> bool:
    """Whether the record of the run in `folder` is committed: it holds more than a table does."""
    found = record.load(folder / record.FILE)
    return record.committed(record.params_of(found), found["fingerprint"]) is not None


def runs_of(folders: list[Path]) -> tuple[pd.DataFrame, dict]:
    """A row per run, test split and protocol; and what made them: environment and parameters."""
    rows = []
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        keys = ("dataset", "model", "seed", "params", "best_epoch", "val_dice")
        run = {key: metrics[key] for key in keys}
        run["minutes"] = pd.read_csv(folder / "log.csv").seconds.sum() / 60
        for test, protocols in metrics["tests"].items():
            for name, scores in protocols.items():
                rows.append(run | {"test": test, "protocol": name} | scores)
    own, groups = ("model", "seed", "output_dir", "data_dir", "weights_dir"), {}
    for folder in folders:  # runs that differ in nothing but model and seed are one entry
        params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
        common = {k: v for k, v in params.items() if k not in own}
        groups.setdefault(json.dumps(common), {"models": {}, **common})["models"][
            params["model"]
        ] = True
    return pd.DataFrame(rows), {
        "environment": json.loads((folders[0] / "env.json").read_text(encoding="utf-8")),
        "protocol": metrics["protocol"],
        "parameters": [{**group, "models": list(group["models"])} for group in groups.values()],
    }


def reading_copy(notebook: Path) -> str:
    """The executed notebook without what papermill and widgets noted in it: times, paths."""
    nb = nbformat.read(notebook, as_version=4)
    for holder in (nb, *nb.cells):
        for key in ("papermill", "execution", "widgets"):
            holder.metadata.pop(key, None)
    return nbformat.writes(nb) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="name of a finished config: a folder in --output")
    parser.add_argument("--output", default="outputs", help="as given to run_all.sh")
    parser.add_argument("--records", action="store_true", help="copy the records, nothing else")
    args = parser.parse_args()
    source = env.path(args.output) / args.config
    target = env.root() / "outputs" / "results" / args.config
    if not finished(source):
        how = f"./run_all.sh --config {args.config} first"
        raise SystemExit(f"{source} holds no finished run: {how}")
    if args.records:
        print(f"{publish_records(source)} records are in {record.FOLDER}")
        return

    shutil.rmtree(target, ignore_errors=True)
    if folders := [folder for folder in finished(source) if not recorded(folder)]:
        table, made = runs_of(folders)
        command = {"command": f"./run_all.sh --config {args.config}"}
        files.write_text(target / "runs.csv", table.round(5).to_csv(index=False))
        files.write_json(target / "runs.json", command | made)
    for path in (
        p for kind in TABLES for folder in FOLDERS for p in source.glob(f"{folder}/{kind}")
    ):
        copy(path, target / path.relative_to(source))
    seen = reading_copies(source, target)
    where = target.relative_to(env.root())
    print(f"{where}: scores of {len(folders)} runs, reading copies of {seen}")


def reading_copies(source: Path, target: Path) -> str:
    """Write a reading copy of each notebook that may be shown; returns their names."""
    seen = set()
    runs = [path / "30_train.ipynb" for path in finished(source)]
    others = [
        path for path in source.rglob("*.ipynb") if path.relative_to(source).parts[0] != "runs"
    ]

    def last(path: Path) -> tuple[bool, Path]:
        """Of one name the last is read: of 30 that of SDI, for the family's runs belong to 43."""
        return "/tmi-" not in path.as_posix(), path

    for notebook in sorted([*runs, *others], key=last, reverse=True):
        if not notebook.is_file() or notebook.stem in seen:
            continue
        values = yaml.safe_load((notebook.parent / "params.yaml").read_text(encoding="utf-8"))
        shown = [values["dataset"]] if "dataset" in values else values.get("datasets", [])
        if not all(data.may_publish(name) for name in shown):
            continue
        seen.add(notebook.stem)
        text = reading_copy(notebook)
        if str(env.root()) in text or str(Path.home()) in text:
            what = "names a folder of this machine in its output"
            raise SystemExit(f"{notebook} {what}: mend the cell that prints it")
        files.write_text(target / notebook.name, text)
    return ", ".join(sorted(seen)) or "none"


if __name__ == "__main__":
    main()
