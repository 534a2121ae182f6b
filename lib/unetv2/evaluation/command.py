"""The command `unetv2 evaluate`: a run is scored again, or on a dataset it was not trained on."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common import env

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate", "main"]


def evaluate(
    run: str | Path, dataset: str | None = None, data_dir: str | None = None, device: str = "auto"
) -> tuple["pd.DataFrame", dict, dict]:
    """Scores of a trained run on its own tests, or on another dataset.

    The other dataset is scored whole: every image of a test-only set or of an outside folder, less
    those that are also in the run's own training or validation part. Samples of the run's own
    dataset are of its test part, so that none is.

    Args:
        run: run folder or published weights, see `find_run`.
        dataset: default: the run's own.
        data_dir: folder of datasets; default: the run's, else DATA_DIR.
        device: "auto", "cpu" or "cuda".

    Returns:
        per_image and summary, see `score`; and what was done: `dataset`, `excluded` (how many
        images were left out; None where the run's own data is not here, so that none could be).

    Raises:
        FileNotFoundError: no such run, or the dataset is not there.
        ValueError: a damaged run; its own dataset has changed; an unknown dataset, or one of other
            classes; nothing is left.
        RuntimeError: the device is not there.
    """
    from .. import data
    from ..inference.load import find_run, load_run, logit_channels, trained_on
    from .score import outside, score_tests

    model, params = load_run(run)
    channels = logit_channels(find_run(run) / "model.safetensors")
    classes = 1 if channels == 1 else channels - 1
    place, name, size = data_dir or params.data_dir, dataset or params.dataset, params.image_size
    where = env.device(device)
    samples = data.registry().get(name, {}).get("samples_of") == params.dataset
    try:
        own = None if samples else data.load(params.dataset, place, size, **params.part)
    except FileNotFoundError:
        if name == params.dataset:
            raise
        own = None
    if name == params.dataset:
        if trained_on(run) not in (None, own.fingerprint):
            changed = f"{name} has other images, masks or parts than when {run} was trained"
            raise ValueError(f"{changed}: restore them, or train again")
        tests, excluded = own.tests, 0
    else:
        tests, excluded = outside(name, place, size, classes, own)
    per_image, summary = score_tests(model.to(where), tests, classes, params.batch_size)
    return per_image, summary, {"dataset": name, "excluded": excluded if own or samples else None}


def main(argv: Sequence[str] | None = None) -> None:
    """The command `unetv2 evaluate`."""
    parser = argparse.ArgumentParser(
        prog="unetv2 evaluate",
        description="Score a trained run again, or on a dataset that it was not trained on.",
        epilog="example: unetv2 evaluate isic2017-thin+sdi --dataset samples-isic2017",
    )
    parser.add_argument("run_dir", help="folder that unetv2 train wrote, or published weights")
    parser.add_argument(
        "--dataset", help="score on this one: a name, or folder:PATH (default: the run's own)"
    )
    parser.add_argument(
        "--data", type=env.here, help="folder of datasets (default: the run's, else DATA_DIR)"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--output", help="folder for per_image.csv and metrics.json (default: print only)"
    )
    args = parser.parse_args(argv)

    from ..common import files
    from .metrics import PROTOCOLS
    from .score import print_summary

    try:
        per_image, summary, done = evaluate(args.run_dir, args.dataset, args.data, args.device)
        if args.output:
            folder = Path(args.output)
            files.write_text(folder / "per_image.csv", per_image.to_csv(index=False))
            files.write_json(folder / "metrics.json", {**done, "tests": summary})
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    if done["excluded"]:
        print(f"left out: {done['excluded']} images of the run's own training or validation part")
    if done["excluded"] is None:
        print("the run's own data is not here: images of its training part may be among these")
    print("\n".join(f"{protocol}: {text}" for protocol, text in PROTOCOLS.items()))
    print_summary(summary)
