"""One run, from its parameters to `metrics.json`; the command `unetv2 train`."""

import argparse
import ast
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from ..common import env, files
from ..common.params import RunParams

__all__ = ["fingerprint", "main", "run"]


def run(params: RunParams) -> dict:
    """Train, score and record; returns what is in `metrics.json`, at once if the run is done.

    The run is done when its folder holds `metrics.json` of the same identity. Where the data is
    absent the folder's own fingerprint stands.

    Raises:
        ValueError: the folder holds another run, or this one finished without a set of `also_test`.
        As `fit`, `data.load` and `networks.create_model`.
    """
    from .fit import accelerator_for, explained, fit, same_run

    run_dir = env.path(params.output_dir)
    accelerator = accelerator_for(params)
    with accelerator.local_main_process_first():  # it opens the images, the others read the cache
        same_run(run_dir, params, fingerprint(params, run_dir))
    if (run_dir / "metrics.json").is_file():
        _tested_on_all(run_dir, params)
        return files.read_json(run_dir / "metrics.json")

    from accelerate.utils import set_seed

    from .. import data, networks
    from ..evaluation import metrics, record, score
    from .recipes import RECIPES

    pretrained = {
        "encoder_weights": params.encoder_weights,
        "weights_dir": env.weights_dir(params.weights_dir),
    }
    if params.encoder_weights:
        networks.check_pretrained(params.model)
        if not networks.has_own_encoder(params.model):
            networks.check_weights(params.encoder, pretrained["weights_dir"])
    with accelerator.local_main_process_first():
        seg = data.load(params.dataset, params.data_dir, params.image_size, **params.part)
        record.others(params, seg)  # a dataset that is not there is an error now, not at the end
    set_seed(params.seed)
    options = {"classes": seg.logit_channels, "drop_path": RECIPES[params.recipe].drop_path}
    model = networks.for_run(params, **pretrained, **options)
    fitted = fit(model, seg, params)
    result = {
        **{key: getattr(params, key) for key in ("dataset", "model", "seed")},
        **{key: fitted[key] for key in ("best_epoch", "val_dice")},
        "params": sum(p.numel() for p in model.parameters()),
        "protocol": metrics.PROTOCOLS,
    }
    if accelerator.is_main_process:
        with explained(params, fitted["history"], run_dir):
            per_image, result["tests"] = score.score(model, seg, params.batch_size)
            found = record.build(model, seg, params, fitted["history"], per_image, result["tests"])
        files.write_text(run_dir / "per_image.csv", per_image.to_csv(index=False))
        files.write_json(run_dir / "env.json", env.describe(params.device))
        record.write(run_dir / record.FILE, found)
        files.write_json(run_dir / "metrics.json", result)
        (run_dir / "resume.pt").unlink()
    return result


def _tested_on_all(run_dir: Path, params: RunParams) -> None:
    """ValueError if a set of `params.also_test` is not among those of the finished run."""
    there = files.read_json(run_dir / "params.json").get("also_test", [])
    if absent := [name for name in params.also_test if name not in there]:
        cure = f"score it with `unetv2 evaluate {run_dir} --dataset {absent[0]}`"
        ended = f"{run_dir} is finished and was not tested on {', '.join(absent)}"
        raise ValueError(f"{ended}; {cure}, or delete the folder to train it again")


def fingerprint(
    params: RunParams, run_dir: Path, of_data: Callable[[RunParams], str] | None = None
) -> str:
    """That of the run's data; where they are absent, that of the finished run in its folder.

    Args:
        of_data: computes it, as where many runs share their data; default `data.fingerprint`.

    Raises:
        FileNotFoundError: neither is there.
        As `data.fingerprint`.
    """
    try:
        return (of_data or _of_data)(params)
    except FileNotFoundError:
        path = run_dir / "identity.json"
        if not (run_dir / "metrics.json").is_file() or not path.is_file():
            raise
        return files.read_json(path)["fingerprint"]


def _of_data(params: RunParams) -> str:
    from .. import data

    return data.fingerprint(params.dataset, params.data_dir, params.image_size, **params.part)


def _parser() -> argparse.ArgumentParser:
    """Command line options from the fields of RunParams: names, types, choices, defaults, help."""
    parser = argparse.ArgumentParser(
        prog="unetv2 train",
        description="Train and evaluate one model on one dataset with one seed. "
        "The same command resumes a killed run.",
        epilog="example: unetv2 train --dataset kvasir --data DIR --model unetv2 "
        "--encoder-weights imagenet --image-size 352 --epochs 100; on two GPUs: "
        "torchrun --nproc-per-node 2 -m unetv2 train ...; on a CPU with bf16 instructions "
        "(AVX-512 BF16 or AMX) --precision bf16 trains PVT v2 in 0.6 of the time and a "
        "ResNet in 0.85, and gains nothing for MobileNet; elsewhere it is slower.",
    )
    for name, field in RunParams.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        choices = [c for kind in kinds if get_origin(kind) is Literal for c in get_args(kind)]
        short = {"data_dir": ["--data"], "weights_dir": ["--weights"]}.get(name, [])
        flags = [*short, f"--{name.replace('_', '-')}"]
        text = f"{field.description or ' | '.join(choices)} (default: {field.default})"
        options = {"dest": name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if get_origin(field.annotation) is list:
            parser.add_argument(*flags, nargs="+", **options)
        elif field.annotation is bool:
            parser.add_argument(*flags, nargs="?", const=True, type=_literal, **options)
        else:
            read = env.here if name.endswith("_dir") else str if str in kinds else _literal
            parser.add_argument(*flags, type=read, **options)
    return parser


def _literal(text: str):
    """A number, a truth value or None as such, else the text: RunParams says what is wrong."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(argv: Sequence[str] | None = None) -> None:
    """The command `unetv2 train`."""
    given = vars(_parser().parse_args(argv))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind: no temporary file is left
    try:
        params = RunParams.make(given)
        result = run(params)
    except KeyboardInterrupt:
        again = "the same command goes on from the last whole epoch"
        raise SystemExit(f"interrupted; {again}") from None
    except (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from None
    if int(os.environ.get("RANK", 0)) == 0:
        from ..evaluation.score import print_summary

        print(f"run folder: {params.output_dir}  best epoch {result['best_epoch']}")
        print_summary(result["tests"])
