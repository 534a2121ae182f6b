"""46_the_company from made-up records: what is put in comes out, and what is missing is said."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch

from unetv2.common.params import RunParams, file_name
from unetv2.evaluation import record
from unetv2.evaluation.identity import TRAINING_VERSION, deciding
from unetv2.networks.peers.pranet import PartialDecoder
from unetv2.teaching import company, company_figures, contrasts
from unetv2.teaching.landed import Landed, state
from unetv2.teaching.params import CompanyParams

DATASET = "synthetic"  # without committed records
MODELS = CompanyParams().models
PLANTED = {  # points of Dice and boundary F over the reference
    "smp-unet": (0, 0),
    "smp-unetplusplus": (0.1, 0),
    "thin+copy": (-2, -3),
    "thin+sdi": (2, 8),
    "sanet": (1, 2),
    "pranet": (4, 3),
    "polyp-pvt": (1, 2),
    "malunet": (-9, -12),
    "ege-unet": (-10, -13),
}


def made_up(model: str, seed: int, share: float = 1.0, images: int = 60, **changes) -> dict:
    """The record of a run that was never trained."""
    params = CompanyParams()
    own = {name: getattr(params, name) for name in company.PROTOCOL}
    own |= {"dataset": DATASET, "model": model, "seed": seed, "train_share": share}
    own |= {"encoder_weights": None} if model in ("malunet", "ege-unet") else {}
    run_params = RunParams.make(own | changes.pop("params", {}))
    rng = np.random.default_rng([seed, *map(ord, model)])
    hard = np.random.default_rng(0).normal(0, 5, images)  # the same images for all
    noise = rng.normal(0, 0.1) + rng.normal(0, 0.3, images)
    dice, boundary = (start + gain for start, gain in zip((80, 60), PLANTED[model], strict=True))
    dice = dice + hard + noise - 20 * (1 - share)
    area = 10_000
    missed = (area * (1 - dice / 100)).round().astype(int)
    counts = [[[area - n for n in missed.tolist()], missed.tolist(), missed.tolist()]]
    block = {
        "ids": [f"i{i}" for i in range(images)],
        "groups": [f"g{i % 40}" for i in range(images)],
        "net": counts,
        "own": counts,
        "boundary_f": (100 * (boundary + hard + noise)).round().astype(int).tolist(),
        "summary": {},
    }
    found = {
        "fingerprint": f"{share}".ljust(16, "0"),
        "training_version": TRAINING_VERSION,
        "params": deciding(run_params) | {"dataset": DATASET, "model": model, "seed": seed},
        "environment": {},
        "log": {"epoch": [1], "loss": [1.0], "val_dice": [0.8]},
        "best_epoch": 1,
        "parameters": 1000,
        "tests": {"test": block},
        "studies": {},
        **changes,
    }
    text = json.dumps([found["params"], found["fingerprint"], found["training_version"]])
    return {"identity": hashlib.sha256(text.encode()).hexdigest()[:12]} | found


def save(top, found: dict) -> None:
    params = RunParams.make(found["params"])
    name = f"s{params.seed}-{found['identity']}.json.gz"
    record.write(top / params.dataset / file_name(params.model) / name, found)


def fill(top, whole: bool = True) -> None:
    """All five seeds of all; or some of some, and runs of other frames among them."""
    for model in MODELS:
        for seed in range(5):
            if whole or (seed < 2 and model not in ("polyp-pvt", "malunet")):
                save(top, made_up(model, seed))
    if not whole:
        save(top, made_up("sanet", 2, params={"image_size": 64}))
        save(top, made_up("pranet", 2, params={"epochs": 6}))
        save(top, made_up("ege-unet", 2, params={"encoder": "resnet18"}))
        save(top, made_up("thin+sdi", 3, fingerprint="b" * 16))


def look(top, **given) -> Landed:
    return company.landed(CompanyParams(dataset=DATASET, folders=[str(top)], **given))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    top = tmp_path_factory.mktemp("whole")
    fill(top)
    return look(top)


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    top = tmp_path_factory.mktemp("part")
    fill(top, whole=False)
    return look(top)


def prices() -> pd.DataFrame:
    """Made-up costs: the second model is the cheapest in all."""
    numbers = {"parameters": 5e6, "macs": 1e9, "kept": 3e7}
    rows = {m: numbers | {"latency": [1.0, 0.9, 1.1], "several": m != "pranet"} for m in MODELS}
    rows[MODELS[1]] = {"parameters": 1e6, "macs": 1e8, "kept": 1e7} | {
        "latency": [0.5, 0.4, 0.6],
        "several": True,
    }
    return pd.DataFrame(rows).T.astype({"several": bool})


# What has landed


def test_whole_frame_and_its_gains(whole):
    planned = company.cells(whole.params)
    assert [whole.seeds(cell) for cell in planned] == [[0, 1, 2, 3, 4]] * 9
    table = contrasts.compare(whole, contrasts.against(planned, planned[0])).set_index("model")
    for model, (gain, _) in list(PLANTED.items())[1:]:
        assert table.mean_difference[model] == pytest.approx(gain, abs=0.4)
    assert table.verdict["pranet"] == "better" and table.verdict["malunet"] == "worse"
    assert table.verdict["smp-unetplusplus"] == ""


def test_the_reference_is_the_first_model_as_soon_as_no_other_has_more_seeds(whole, tmp_path):
    assert company.reference(whole).model == company.reference(look(tmp_path)).model == MODELS[0]
    for model, seeds in {"smp-unet": 1, "sanet": 2, "pranet": 2}.items():
        for seed in range(seeds):
            save(tmp_path, made_up(model, seed))
    assert company.reference(look(tmp_path)).model == "sanet"


def test_the_encoder_is_no_part_of_a_model_that_brings_its_own(partly):
    (cell,) = (cell for cell in partly.scores if cell.model == "ege-unet")
    assert partly.seeds(cell) == [0, 1, 2]


def test_another_frame_is_left_out_and_named(partly):
    assert partly.left_out == ["SANet (24 epochs), seed 2, is left out: image_size 64, not 128"]
    assert [one["fingerprint"] for one in partly.beside] == ["b" * 16]
    said = state(partly, company.cells(partly.params), "methods")
    assert said.startswith("7 of 9 methods have records") and "Polyp-PVT; MALUNet" in said


def test_wrong_parameters_are_errors(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'sanett'"):
        look(tmp_path, peers=["sanett"])
    with pytest.raises(ValueError, match="recipe"):
        look(tmp_path, recipe="own")


# Which should I choose?


def test_choice_takes_five_seeds(whole, partly, tmp_path):
    choice = company.choose(whole, prices())
    assert list(choice.index) == list(company.NEEDS)
    assert choice.choose["the best Dice"] == "PraNet"
    assert choice.choose["sharp boundaries"] == "SDI (U-Net v2's skip)"
    assert "PraNet" in choice.because["sharp boundaries"], "shown above it"
    assert choice.choose["little data"] == "not known"
    assert "PraNet" not in choice.choose["several classes"].split(", ")
    for need in ("little memory in training", "a small file", "speed"):
        assert choice.choose[need] == "UNet++ (smp)"
    few = company.choose(partly, prices())
    assert few.choose["the best Dice"] == few.choose["sharp boundaries"] == "not known"
    assert "2 of 5 seeds" in few.because["the best Dice"]
    none = company.choose(look(tmp_path), prices())
    assert none.because["the best Dice"] == "no model has a record yet"


def test_those_that_are_not_shown_worse_are_named_beside_the_best(whole):
    asked = whole.params.model_copy(
        update={"peers": ["sanet", "polyp-pvt"], "designs": ["smp-unet"]}
    )
    found = Landed(asked, whole.records, [], [])
    chosen = company.choose(found, prices()).choose["the best Dice"]
    assert set(chosen.split(" or ")) == {"SANet", "Polyp-PVT"}


def test_little_data_is_answered_by_the_smallest_share_that_has_five_seeds(tmp_path):
    for share in (0.1, 0.5):
        for model in ("smp-unet", "thin+sdi", "sanet"):
            for seed in range(5 if share == 0.1 or model != "sanet" else 2):
                save(tmp_path, made_up(model, seed, share, params={"steps_per_epoch": 84}))
    found = look(tmp_path)
    assert not found.left_out and not found.beside
    chosen, why = company.choose(found, prices()).loc["little data"]
    assert chosen == "SDI (U-Net v2's skip)" and why.startswith("on 10% of the images")


# Costs, counts and print


def test_costs_of_the_frame_are_those_of_the_costs_room():
    params = CompanyParams(encoder="tu-test_resnet", image_size=64, designs=["smp-unet"],
                           peers=["pranet", "malunet"])  # fmt: skip
    price = company.priced(params, repeats=1)
    assert list(price.index) == ["smp-unet", "pranet", "malunet"]
    assert price.parameters["malunet"] == 177_943
    assert price.several.to_dict() == {"smp-unet": True, "pranet": False, "malunet": True}
    assert price.latency["smp-unet"][0] == 1 and (price.kept > 0).all()


def test_committed_counts_and_printed_rows():
    equal = company.equality()
    assert set(equal["equal"]) == {"yes"} and len(equal) >= 6
    assert equal.loc["PraNet", "of them never used"] == "2,049,000"
    light = company.light()
    assert light.loc["EGE-UNet", ["parameters", "by thop"]].tolist() == ["53,374", "45,806"]
    assert light.loc["EGE-UNet", "thop misses"] == "14.2%"
    table = company.backbones()
    assert len(table) == 9 and (table["M of the decoder"] > 0).all()
    printed = company.printed()
    assert [about.split(",")[0] for about in printed] == ["Table 1"] * 2 + ["Table 2", "scores"]
    readme = list(printed.values())[-1]
    assert readme.loc["etis", "Dice"] == "62.75" and "PraNet" in set(readme.model)
    assert len(company.methods()) == len(company.METHODS)


# The drawing


def reach(design, node) -> set[int]:
    """The rows of the encoder's levels that lie before a node."""
    return {row for row in range(3) if design.paths(("f", row, 0), node)}


def test_the_products_of_the_tree_reach_the_levels_of_the_equations():
    partial, shallow, sdi = company_figures.tree()
    assert reach(partial, ("x", 1, 1)) == reach(shallow, ("x", 1, 1)) == {1, 2}
    for design in (partial, shallow, sdi):
        assert reach(design, ("x", 0, 1)) == {0, 1, 2} and ("y", 0, 1) in design.heads
    factors = [sum(link.target == ("x", 0, 1) for link in d.links) for d in (partial, shallow, sdi)]
    assert factors == [3, 2, 3], "SANet multiplies two by two"


def test_the_partial_decoder_multiplies_as_drawn():
    """p3 is of degree one in each level: a doubled level doubles it, where T is linear."""
    torch.manual_seed(0)
    net = PartialDecoder(4).eval()
    seen = []
    net.merge3.register_forward_pre_hook(lambda module, given: seen.append(given[0][:, :4]))
    levels = [torch.randn(1, 4, side, side) for side in (8, 4, 2)]
    with torch.inference_mode():
        net(*levels)
        for k in range(3):
            net(*(2 * f if i == k else f for i, f in enumerate(levels)))
    for doubled in seen[1:]:
        assert torch.allclose(doubled, 2 * seen[0], atol=1e-6)
