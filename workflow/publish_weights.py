"""publish_weights.py RUN ...: a trained network, small enough to be committed, and its card.

To `outputs/results/weights/DATASET-MODEL` go model.safetensors, in half precision but for the
statistics of normalisation, with what it is in its metadata; and README.md, the model card, which
is computed from the record. The record of RUN is committed beside the others. Without a RUN the
cards of all published weights are written anew.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from publish import publish_record
from safetensors.torch import load_file, save

from unetv2 import data, networks
from unetv2.common import env, files
from unetv2.common.params import PLACES, RunParams, file_name, slug
from unetv2.evaluation import record
from unetv2.evaluation.weights import record_of
from unetv2.inference.infer import labels, predict
from unetv2.inference.load import WEIGHTS, load_run, metadata, published

LARGEST = 6_000_000  # bytes of a file
FLOAT32 = ("running_mean", "running_var")  # of batch normalisation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", nargs="*", help="folder of a finished training")
    args = parser.parse_args()
    for name in [publish(Path(run)) for run in args.runs] or published():
        folder = env.path(WEIGHTS) / name
        files.write_text(folder / "README.md", card(name))
        print(f"{WEIGHTS}/{name}: {weights_of(name).stat().st_size / 1e6:.1f} MB")


def publish(run: Path) -> str:
    """Write the weights of a run folder and commit its record's file; returns their name.

    Raises:
        ValueError: pictures of the dataset may not be shown, or there are no samples of it; the
            folder's record is of another run; the file is too large, or half precision too small.
    """
    model, params = load_run(run)
    found = record.load(run / record.FILE)
    identity = json.loads((run / "identity.json").read_text(encoding="utf-8"))["identity"]
    if found["identity"] != identity:
        raise ValueError(f"{run} holds the record of another run ({found['identity']})")
    if not data.may_publish(params.dataset):
        raise ValueError(f"the terms of {params.dataset} do not allow to publish what it trained")
    half = rounded(load_file(run / "model.safetensors"))
    about = {"classes": metadata(run / "model.safetensors")["classes"]}
    about |= {key: found[key] for key in ("identity", "fingerprint")}
    about["params"] = params.model_dump_json(exclude=set(PLACES))
    about["rounding"] = json.dumps(rounding(model, half, params))
    if len(content := save(half, metadata=about)) > LARGEST:
        raise ValueError(f"{run}: {len(content)} bytes are more than {LARGEST}")
    publish_record(run)
    name = f"{slug(params.dataset)}-{file_name(params.model)}"
    with files.atomic(weights_of(name)) as temporary:
        temporary.write_bytes(content)
    return name


def weights_of(name: str) -> Path:
    return env.path(WEIGHTS) / name / "model.safetensors"


def rounded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state in half precision; statistics of normalisation and whole numbers stay.

    Raises:
        ValueError: a number is beyond the range of half precision.
    """
    small = {
        name: value.half() if value.is_floating_point() and not name.endswith(FLOAT32) else value
        for name, value in state.items()
    }
    lost = [name for name, value in small.items() if not value.float().isfinite().all()]
    if lost:
        raise ValueError(f"beyond the range of half precision: {', '.join(lost)}")
    return small


def rounding(model: torch.nn.Module, half: dict[str, torch.Tensor], params: RunParams) -> dict:
    """How many pixels of the samples' masks the rounding changes, and of how many."""
    tests, _ = data.load_tests(f"samples-{params.dataset}", image_size=params.image_size)
    (split,) = tests.values()
    before = np.stack([labels(z) for z in predict(model, split)])
    model.load_state_dict(half)
    after = np.stack([labels(z) for z in predict(model, split)])
    return {"pixels": int((before != after).sum()), "of": before.size}


# The card ------------------------------------------------------------------------------------

PROTOCOL = {  # of a record's summary: what it says
    "per_image": "per image, at the network's size (mean over images)",
    "global": "global (one confusion matrix over all pixels)",
    "own": "per image, at the image's own size",
    "pranet": "256 thresholds, at the image's own size (PraNet's)",
}
CARD = """\
---
license: mit
pipeline_tag: image-segmentation
library_name: unetv2
tags: [medical-imaging, semantic-segmentation, {tag}]
---

# {name}

{label}, trained on {title}. The file has {size} MB: half precision, with the statistics of
batch normalisation in float32.

```bash
unetv2 predict {name} PHOTOS --output masks --overlay
```

```python
model = unetv2.from_pretrained("{name}")
```

## Scores

In points, on the {images} test images of this project's split, from the committed
[record]({record}) of this training: seed {seed}, epoch {best} of {epochs}. Validation chose
the epoch; the test part chose nothing.

| protocol | Dice | IoU | boundary F |
|---|---|---|---|
{scores}

One training is no comparison: what the skips are worth, over seeds and with intervals, is in
[outputs/results](../../README.md). The split is this project's own, so these numbers stand beside
no other paper's. Rounding to half precision changes {pixels} of the {of} pixels of the masks of
the [samples](../../../../data/samples/README.md).

## How it was made

- Network: `{model}`{encoder}, {parameters} parameters.
- Data: {train}. Licence of the data: {licence}.
- Training: recipe `{recipe}`, {size_px} x {size_px} pixels, batches of {batch}, augmentation
  `{augment}`, {epochs} epochs, {device}, torch {torch}, commit `{commit}`.
- Identity of the run: `{identity}`; fingerprint of the data: `{fingerprint}`.

```bash
{command}
```

## What it is for, and what not

For lessons, for figures, for tests of code, and as a starting point of research on skip
connections. **It is no medical device**: no diagnosis, no measurement of a patient.

{limits}

## Licence

MIT, as the code. Of the data: {licence}. {start}
"""
DATA = {
    "isic2017": "ISIC 2017 part 1, 1350 images to train on, 150 to choose the epoch, 650 to test",
    "dsb2018": "Data Science Bowl 2018 stage 1, 482 images to train on, 54 to choose the epoch, "
    "134 to test",
}
LIMITS = {
    "isic2017": """\
It was trained on dermoscopic images of one lesion each, squashed to a square. Photographs of
another kind (a phone's, several lesions, none at all) were not tried, and how well each skin tone
is represented was not looked at. Outlines follow the annotators of ISIC 2017. Fine borders are lost
at this size.""",
    "dsb2018": """\
It was trained on 96 x 96 copies of microscopy images, most of them fluorescence. It says which
pixels belong to nuclei, not which nucleus: touching ones grow together. Other
magnifications and stains were not tried.""",
}


def card(name: str) -> str:
    """The model card of published weights, from their file and their record alone."""
    found, about = record_of(name), metadata(weights_of(name))
    params, rounds = RunParams.make(json.loads(about["params"])), json.loads(about["rounding"])
    ((test, block),) = found["tests"].items()
    entry, home = data.registry()[params.dataset], record.home(params)
    place = f"{home.parent.name}/{home.name}/s{params.seed}-{found['identity']}.json.gz"
    pretrained = params.encoder_weights is not None
    family = networks.is_family(params.model)
    start = f"The encoder `{params.encoder}` started from ImageNet weights, whose terms are theirs."
    return CARD.format(
        name=name,
        tag=params.dataset,
        label=networks.label(params.model),
        title=DATA[test].partition(",")[0],
        size=f"{weights_of(name).stat().st_size / 1e6:.1f}",
        images=len(block["ids"]),
        record=f"../../records/{place}",
        seed=params.seed,
        best=found["best_epoch"],
        epochs=params.epochs,
        scores="\n".join(_row(*each) for each in block["summary"].items()),
        pixels=rounds["pixels"],
        of=f"{rounds['of']:,}".replace(",", " "),
        model=params.model,
        encoder="" if family else f" on `{params.encoder}`{', pretrained' * pretrained}",
        parameters=f"{found['parameters'] / 1e6:.2f} M",
        train=DATA[test],
        licence=entry["licence"],
        recipe=params.recipe,
        size_px=params.image_size,
        batch=params.batch_size,
        augment=params.augment,
        device=found["environment"]["device"],
        torch=found["environment"]["torch"],
        commit=found["environment"]["commit"],
        identity=found["identity"],
        fingerprint=found["fingerprint"],
        command=_command(params),
        limits=LIMITS[test],
        start=start if pretrained else "It started from random weights.",
    )


def _row(protocol: str, scores: dict) -> str:
    edge = f"{100 * scores['boundary_f']:.2f}" if "boundary_f" in scores else ""
    dice, iou = (f"{100 * scores[key]:.2f}" for key in ("dice", "iou"))
    return f"| {PROTOCOL[protocol]} | {dice} | {iou} | {edge} |"


def _command(params: RunParams) -> str:
    """The training as a command line."""
    given = params.model_dump(exclude_defaults=True, exclude=set(PLACES))
    always = ("dataset", "model", "recipe", "epochs", "batch_size", "augment", "seed")
    words = {name: getattr(params, name) for name in always} | given
    options = [f"--{name.replace('_', '-')} {value}" for name, value in words.items()]
    places = ["--data DIR", *["--weights DIR"] * (params.encoder_weights is not None)]
    return " ".join(["unetv2 train", *options, *places])


if __name__ == "__main__":
    main()
