"""The record of a run: all that comparing notebooks ask of it, in a small file that is committed.

A record holds parameters, data fingerprint, versions, log, and for every test image TP, FP, FN and
boundary F, beside what later would need the weights (see `studies`). A committed record of the same
identity counts as a finished run: it is not trained again.

A record is a dict of plain values, the same in memory and in the file (`FILE`: JSON, gzip, nothing
in it depends on the time). Its keys:

* `identity`, `fingerprint`, `training_version`: see unetv2.evaluation.identity.
* `params`: the parameters without places and without defaults; `environment`: see env.describe.
* `log`: a column per name, a value per epoch; `best_epoch`; `parameters`, how many the model has.
* `tests`: {test: a block of scores}. A block has `ids` and `groups` (None: each image its own);
  `net` and `own`, the counts at the network's and at the mask's own size as lists (classes, 3,
  images) of TP, FP and FN; `boundary_f` in 1/10000 at the own size; `summary` of all protocols.
* `studies`: see `studies.measure`, the heads' counts as differences from `net`; and `others`,
  {dataset: `excluded`, how many images were left out as the run's own, and `tests`, blocks}.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import networks
from ..common import env, files
from ..common.errors import unknown
from ..common.params import PLACES, RunParams, file_name, slug
from . import metrics

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ..data import SegData, Split

__all__ = [
    "FILE",
    "FOLDER",
    "build",
    "collect",
    "committed",
    "counts",
    "frame",
    "gather",
    "heads",
    "home",
    "load",
    "log",
    "others",
    "params_of",
    "setting",
    "summary",
    "whose",
    "write",
]

FILE = "record.json.gz"  # in a run folder
FOLDER = "outputs/results/records"  # of the committed ones
LOGGED = ("epoch", "loss", "val_dice", "val_iou", "lr", "test_dice")


# Writing ------------------------------------------------------------------------------------------


def others(params: RunParams, seg: "SegData") -> dict[str, tuple[dict[str, "Split"], int]]:
    """The other datasets that the run is scored on at its end: {name: (splits, excluded)}.

    Call it before a training too, so that a dataset that is not there is an error at once.

    Raises:
        FileNotFoundError, ValueError: as `score.outside`.
    """
    from .score import outside

    place = params.data_dir, params.image_size
    classes = len(seg.classes)
    return {name: outside(name, *place, classes, seg) for name in params.also_test}


def build(
    model: "nn.Module",
    seg: "SegData",
    params: RunParams,
    history: Sequence[Mapping[str, Any]],
    per_image: "pd.DataFrame",
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of the run that trained `model`, which holds its best weights.

    With `params.studies` and `params.also_test` this measures what they ask for.

    Args:
        history: the rows of log.csv.
        per_image, summary: as `score` returned them for `model` and `seg`.

    Raises:
        As `others`.
    """
    from .identity import TRAINING_VERSION, deciding, identity

    best = max(history, key=lambda row: row["val_dice"])
    shown = params.model_dump(exclude=set(PLACES), exclude_defaults=True)
    tests = _tests(per_image, summary, len(seg.classes))
    return {
        "identity": identity(params, seg.fingerprint),
        "fingerprint": seg.fingerprint,
        "training_version": TRAINING_VERSION,
        "params": shown | deciding(params),
        "environment": env.describe(params.device),
        "log": _columns(history),
        "best_epoch": best["epoch"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "tests": tests,
        "studies": _studies(model, seg, params, tests),
    }


def _columns(history: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """The log without times, six digits of each number; what only some epochs have is left out."""
    names = [name for name in LOGGED if all(name in row for row in history)]
    return {name: [_digits(row[name]) for row in history] for name in names}


def _digits(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _tests(per_image: "pd.DataFrame", summary: Mapping[str, Any], classes: int) -> dict[str, Any]:
    tables = per_image.groupby("test", sort=False)
    return {test: _block(table, summary[test], classes) for test, table in tables}


def _block(table: "pd.DataFrame", summary: Mapping[str, Any], classes: int) -> dict[str, Any]:
    from .score import count_columns

    ids, groups = table["id"].tolist(), table["group"].tolist()
    found = {
        size: table[count_columns(classes, size)].to_numpy().T.reshape(classes, 3, -1).tolist()
        for size in ("net", "own")
    }
    return {
        "ids": ids,
        "groups": None if groups == ids else groups,
        **found,
        "boundary_f": (table["boundary_f"] * 10_000).round().astype(int).tolist(),
        "summary": {
            protocol: {name: round(float(value), 6) for name, value in scores.items()}
            for protocol, scores in summary.items()
        },
    }


def _studies(model, seg, params: RunParams, tests: Mapping[str, Any]) -> dict[str, Any]:
    from . import studies
    from .score import score_tests

    size, classes = params.batch_size, len(seg.classes)
    found = studies.measure(model, seg, size) if params.studies else {}
    for test, of in found.get("heads", {}).get("tests", {}).items():
        whole = np.array(tests[test]["net"])[:, :2]  # differences are small numbers: half the bytes
        found["heads"]["tests"][test] = (np.array(of) - whole).tolist()
    for name, (splits, excluded) in others(params, seg).items():
        blocks = _tests(*score_tests(model, splits, classes, size), classes)
        found.setdefault("others", {})[name] = {"excluded": excluded, "tests": blocks}
    return found


def write(path: str | Path, record: Mapping[str, Any]) -> int:
    """Write `record` to `path`, the same bytes for the same record; returns their number.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    content = gzip.compress(text.encode(), 9, mtime=0)
    with files.atomic(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


# Reading ------------------------------------------------------------------------------------------


def load(path: str | Path) -> dict[str, Any]:
    """The record at `path`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or is no record.
    """
    try:
        record = json.loads(gzip.decompress(Path(path).read_bytes()))
        RunParams.make(record["params"])
        record["identity"], record["fingerprint"], record["log"]["val_dice"]
        for block in record["tests"].values():
            _check_block(block)
    except FileNotFoundError:
        raise FileNotFoundError(f"no record at {path}: train the run (unetv2 train)") from None
    except KeyError as error:
        raise ValueError(_damaged(path, f"it has no {error}")) from None
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        raise ValueError(_damaged(path, " ".join(str(error).split()))) from None
    return record


def _check_block(block: Mapping[str, Any]) -> None:
    n = len(block["ids"])
    for size in ("net", "own"):
        shape = np.shape(block[size])
        if len(shape) != 3 or shape[1:] != (3, n):
            raise ValueError(f"{n} images and counts of the shape {shape}")
    if len(block["boundary_f"]) != n or len(block["groups"] or block["ids"]) != n:
        raise ValueError("columns of different lengths")


def _damaged(path: str | Path, reason: str) -> str:
    cure = "restore it (git checkout), or delete it and train the run again"
    return f"the record {path} is damaged ({reason}); {cure}"


def params_of(record: Mapping[str, Any]) -> RunParams:
    """The parameters of its run, with the defaults that the record leaves out."""
    return RunParams.make(record["params"])


def whose(record: Mapping[str, Any]) -> dict[str, Any]:
    """Its `dataset`, `model` and `seed`."""
    params = params_of(record)
    return {name: getattr(params, name) for name in ("dataset", "model", "seed")}


def setting(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a training, but for model and seed: runs that are compared agree in it.

    What its model does not have is left out, and differs from nothing: a width outside UNet++'s
    family, an encoder of smp or timm in a model that brings its own, and pretrained weights where
    there are none.
    """
    from .identity import UNDECIDING, deciding

    params = params_of(record)
    without = UNDECIDING | {"model", "seed"}
    if not networks.is_family(params.model):
        without |= {"width", "batchnorm"}
    if networks.has_own_encoder(params.model):
        without |= {"encoder"}
    if networks.is_random(params.model):
        without |= {"encoder_weights"}
    values = params.model_dump() | deciding(params)  # of folder:PATH that has the name alone
    kept = {name: value for name, value in values.items() if name not in without}
    return kept | {"files": record["fingerprint"], "training version": record["training_version"]}


def home(params: RunParams) -> Path:
    """The folder of the committed records of a dataset and model, whatever their parameters."""
    return _folder(env.path(FOLDER), params.dataset, params.model)


def committed(params: RunParams, fingerprint: str | None = None) -> Path | None:
    """The committed record of the run of `params`, or None.

    Args:
        fingerprint: of the data; None where the data is absent. Then the record's own stands.

    Raises:
        ValueError: a record is damaged; without a fingerprint, records of different data fit.
    """
    from .identity import identity

    if fingerprint is not None:
        path = home(params) / f"s{params.seed}-{identity(params, fingerprint)}.json.gz"
        return path if path.is_file() and load(path) else None
    found = []
    for path in _records(params.dataset, params.model, params.seed):
        record = load(path)
        if record["identity"] == identity(params, record["fingerprint"]):
            found.append(path)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{home(params)} holds records of different data ({names}); keep one")
    return found[0] if found else None


def _records(dataset: str, model: str, seed: int) -> list[Path]:
    return sorted(_folder(env.path(FOLDER), dataset, model).glob(f"s{seed}-*.json.gz"))


def gather(
    runs_dir: str | Path,
    datasets: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    **settings: Any,
) -> list[dict[str, Any]]:
    """The records of `datasets` x `models` x `seeds`, in that order.

    That of a finished run in `runs_dir`, else the committed one.

    Args:
        runs_dir: holds <dataset>/<model>/s<seed>/record.json.gz.
        settings: fields of RunParams that a committed record must have, as epochs=24; for where
            there are several of a dataset, model and seed.

    Raises:
        FileNotFoundError: runs that are neither finished nor committed, all of them named.
        ValueError: a damaged record; several committed ones that fit; runs of a dataset that
            differ in more than model and seed.
    """
    runs_dir = env.path(runs_dir)
    found, missing = {}, []
    for dataset in datasets:
        for model in models:
            for seed in seeds:
                record = _finished(runs_dir, dataset, model, seed)
                record = record or _only(dataset, model, seed, settings)
                if record:  # of a folder it keeps no path: it gets the name that was asked for
                    named = {**record["params"], "dataset": dataset}
                    found[dataset, model, seed] = {**record, "params": named}
                else:
                    missing.append(f"{slug(dataset)}/{model}/s{seed}")
    if missing:
        names = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if missing[6:] else "")
        raise FileNotFoundError(
            f"{len(missing)} runs are neither finished in {runs_dir} nor committed in {FOLDER}: "
            f"{names}; train them first (./run_all.sh, or unetv2 train)"
        )
    for dataset in datasets:
        _check_alike([record for (d, *_), record in found.items() if d == dataset])
    return list(found.values())


def collect(
    dataset: str,
    models: Sequence[str] | None = None,
    folders: Sequence[str | Path] = (),
    **settings: Any,
) -> list[dict[str, Any]]:
    """What there is: every committed record of `dataset` with these settings, by model and seed.

    For notebooks that show what has landed and wait for nothing; `gather` is for those that need
    every run. A run on other files of the same dataset has another `fingerprint`.

    Args:
        models: in this order; None: all that have a record.
        folders: of runs, as `gather` reads them; their finished runs with these settings join.
        settings: fields of RunParams that a record must have, as epochs=24.

    Raises:
        ValueError: a damaged record; a setting that RunParams does not have; a folder that is not
            there.
    """
    for field in settings:
        if field not in RunParams.model_fields:
            raise unknown("field of RunParams", field, RunParams.model_fields)
    tops = [env.path(FOLDER), *map(env.path, folders)]
    for top in tops[1:]:
        if not top.is_dir():
            raise ValueError(f"no folder {top}: name one that holds <dataset>/<model>/s<seed>")
    there = {path.name for top in tops for path in (top / slug(dataset)).glob("*/")}
    names = sorted(there) if models is None else [file_name(model) for model in models]
    found = {}
    for name in names:
        patterns = [f"{name}/s*.json.gz"] + [f"{name}/s*/{FILE}"] * bool(folders)
        paths = [p for top in tops for g in patterns for p in (top / slug(dataset)).glob(g)]
        # s0.2026-11-21-1 was moved aside
        paths = [p for p in paths if p.name != FILE or p.parent.name[1:].isdigit()]
        for record in sorted(map(load, paths), key=lambda one: params_of(one).seed):
            params = params_of(record)
            if all(getattr(params, field) == value for field, value in settings.items()):
                named = {"dataset": dataset, "model": params.model, "seed": params.seed}
                found[record["identity"]] = {**record, "params": record["params"] | named}
    return list(found.values())


def _folder(top: Path, dataset: str, model: str) -> Path:
    return top / slug(dataset) / file_name(model)


def _finished(runs_dir: Path, dataset: str, model: str, seed: int) -> dict[str, Any] | None:
    path = _folder(runs_dir, dataset, model) / f"s{seed}" / FILE
    if not path.is_file():
        return None
    record = load(path)
    params = params_of(record)
    if (slug(params.dataset), params.model, params.seed) != (slug(dataset), model, seed):
        there = f"{params.dataset}, {params.model}, seed {params.seed}"
        raise ValueError(f"{path} is the record of another run ({there}); delete that folder")
    return record


def _only(dataset: str, model: str, seed: int, settings: Mapping[str, Any]) -> dict | None:
    """The committed record with these settings."""
    fit = {}
    for path in _records(dataset, model, seed):
        record = load(path)
        params = params_of(record)
        if all(getattr(params, name) == value for name, value in settings.items()):
            fit[path] = record
    if len(fit) > 1:
        names = ", ".join(path.name for path in fit)
        differ = _differences(list(fit.values()))
        raise ValueError(
            f"{path.parent} holds several runs of seed {seed} ({names}), which differ in {differ}; "
            "say which one"
        )
    return next(iter(fit.values()), None)


def _check_alike(records: Sequence[Mapping[str, Any]]) -> None:
    """ValueError if runs that are to be compared differ in more than model and seed."""
    differ = _differences(records)
    if differ:
        raise ValueError(
            f"the runs on {params_of(records[0]).dataset} cannot be compared: "
            f"they differ in {differ}; train those that are out of date again"
        )


def _differences(records: Sequence[Mapping[str, Any]]) -> str:
    """In what the `setting` of `records` differs."""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in setting(record).items():
            values.setdefault(name, set()).add(str(value))
    wrong = [f"{k} ({', '.join(sorted(v))})" for k, v in sorted(values.items()) if len(v) > 1]
    return "; ".join(wrong)


# Tables -------------------------------------------------------------------------------------------


def counts(block: Mapping[str, Any], size: str = "net") -> np.ndarray:
    """TP, FP, FN of a block of scores: int64 (images, classes, 3), at the "net" or "own" size."""
    return np.array(block[size], np.int64).transpose(2, 0, 1)


def heads(record: Mapping[str, Any], test: str) -> dict[int, np.ndarray]:
    """{j: TP, FP, FN of head j}, each int64 (images, classes, 3), at the network's size.

    {} for a model of one head.
    """
    study = record["studies"].get("heads")
    if not study:
        return {}
    whole = counts(record["tests"][test])
    marked = whole[..., 0] + whole[..., 2]
    found = {}
    for j, of in zip(study["columns"], study["tests"][test], strict=True):
        tp, fp = whole[..., :2].transpose(2, 0, 1) + np.array(of).transpose(1, 2, 0)
        found[j] = np.stack([tp, fp, marked - tp], -1)
    return found


def frame(records: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """A row per image of every record.

    Columns: `dataset`, `model`, `seed`, `test`, `id`, `group`; `dice`, `iou` (protocol per_image);
    `own_dice`, `own_iou`, `boundary_f` (protocol own); `tp`, `fp`, `fn` at the network's size, the
    classes together.
    """
    import pandas as pd

    tables = []
    for record in records:
        for test, block in record["tests"].items():
            table = _table(block)
            for name, value in {**whose(record), "test": test}.items():
                table[name] = value
            tables.append(table)
    first = ["dataset", "model", "seed", "test"]
    whole = pd.concat(tables, ignore_index=True)
    return whole[[*first, *(name for name in whole if name not in first)]]


def _table(block: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    net, own = (_dice_iou(counts(block, size)) for size in ("net", "own"))
    tp, fp, fn = counts(block).sum(1).T
    return pd.DataFrame(
        {
            "id": block["ids"],
            "group": block["groups"] or block["ids"],
            "dice": net[:, 0],
            "iou": net[:, 1],
            "own_dice": own[:, 0],
            "own_iou": own[:, 1],
            "boundary_f": np.array(block["boundary_f"]) / 10_000,
            "tp": tp,
            "fp": fp,
            "fn": fn,
        }
    )


def _dice_iou(counts: np.ndarray) -> np.ndarray:
    """Dice and IoU (images, 2), the mean over the classes, of counts (images, classes, 3)."""
    return np.array([metrics.mean_dice_iou(image) for image in counts])


def summary(records: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """A row per record, test and protocol: `dataset`, `model`, `seed`, `test`, `protocol`, scores.

    Scores that a protocol does not have (as `boundary_f`) are NaN.
    """
    import pandas as pd

    return pd.DataFrame(
        [
            {**whose(record), "test": test, "protocol": protocol, **scores}
            for record in records
            for test, block in record["tests"].items()
            for protocol, scores in block["summary"].items()
        ]
    )


def log(records: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """A row per record and epoch: `dataset`, `model`, `seed` and the columns of the log."""
    import pandas as pd

    tables = [pd.DataFrame({**whose(record), **record["log"]}) for record in records]
    return pd.concat(tables, ignore_index=True)
