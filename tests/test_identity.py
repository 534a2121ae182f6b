"""The identity of a run: what makes two runs the same, and what makes another of it."""

import subprocess
import sys

import pytest

from unetv2 import skips
from unetv2.common.params import RunParams
from unetv2.evaluation import identity as module
from unetv2.evaluation.identity import deciding, identity

DATA = "0123456789abcdef"
RUN = {"dataset": "isic2017", "model": "thin+sdi", "encoder": "mobilenet_v2", "epochs": 24}


def of(fingerprint: str = DATA, **values) -> str:
    return identity(RunParams.make(RUN | values), fingerprint)


def test_it_is_twelve_hex_digits():
    assert len(of()) == 12 and int(of(), 16) >= 0


@pytest.mark.parametrize(
    "values",
    [
        {"output_dir": "elsewhere"},
        {"data_dir": "/data", "weights_dir": "/weights"},
        {"device": "cpu", "workers": 4},
        {"audit": True},
        {"also_test": ["cvc300"]},
        {"studies": False},
        {"channels_last": True, "compile": True},
    ],
    ids=str,
)
def test_places_what_is_measured_afterwards_and_the_order_of_sums_do_not_count(values):
    assert of(**values) == of()


@pytest.mark.parametrize(
    "values",
    [
        {"dataset": "isic2018"},
        {"model": "thin+copy"},
        {"model": "thin+sdi-c8"},
        {"encoder": "resnet18"},
        {"encoder_weights": "imagenet"},
        {"seed": 1},
        {"epochs": 12},
        {"lr": 1e-4},
        {"limit": 100},
        {"train_share": 0.5},
        {"steps_per_epoch": 90},
        {"drop_duplicates": True},
        {"fingerprint": "f" * 16},
    ],
    ids=str,
)
def test_what_decides_counts(values):
    assert of(**values) != of()


def test_a_value_that_is_the_default_is_as_good_as_none():
    assert of(seed=0, limit=None) == of()


def test_a_folder_is_its_content_and_its_name():
    assert of(dataset="folder:/here/mine") == of(dataset="folder:/there/mine/")
    assert of(dataset="folder:/here/mine") == of(dataset=r"folder:C:\there\mine")
    assert of(dataset="folder:/here/mine") != of(dataset="folder:/here/yours")


def test_the_source_of_a_readers_own_skip_counts(monkeypatch):
    monkeypatch.setattr(skips, "source", lambda name: f"the text behind {name}", raising=False)
    first = of(model="thin+my_module:MySkip")
    monkeypatch.setattr(skips, "source", lambda name: "another text")
    assert of(model="thin+my_module:MySkip") != first


def test_the_skip_is_asked_for_without_the_suffixes_of_the_model(monkeypatch):
    asked = []
    monkeypatch.setattr(skips, "source", asked.append, raising=False)
    of(model="smp-unet+my.module:MySkip-c8-l3-ds")
    assert asked == ["my.module:MySkip"]


def test_the_training_version_counts(monkeypatch):
    first = of()
    monkeypatch.setattr(module, "TRAINING_VERSION", module.TRAINING_VERSION + 1)
    assert of() != first


def test_identities_that_are_committed_stay():
    """They stand in the records: a default that changes, or a new order, must not orphan them."""
    assert module.TRAINING_VERSION == 1
    decided = {"dataset": "isic2017", "encoder": "mobilenet_v2", "epochs": 24}
    assert deciding(RunParams.make(RUN)) == decided, "the default model is left out"
    assert of() == "184af08f81e9"


@pytest.mark.parametrize("model", ["tmi-unet++", "malunet", "transfuse-s"])
def test_the_encoder_does_not_count_where_the_model_brings_its_own(model):
    assert of(model=model) == of(model=model, encoder="resnet18")
    assert of(model="pranet") != of(model="pranet", encoder="resnet18")


def test_importing_it_loads_no_torch():
    code = "import sys, unetv2.evaluation.identity; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
