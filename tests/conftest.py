"""Fixtures for all tests. Real data, weights and a GPU are optional: their tests say why they are
skipped.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "realdata: needs the datasets of DATA_DIR or the weights of WEIGHTS_DIR"
    )
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def _folder_of(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{variable} does not name a folder")
    return Path(folder)


@pytest.fixture
def data_dir() -> Path:
    """The folder of the real datasets."""
    return _folder_of("DATA_DIR")


@pytest.fixture
def weights_dir() -> Path:
    """The folder of pretrained encoder weights (<encoder>.safetensors)."""
    return _folder_of("WEIGHTS_DIR")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Decoded arrays of the tests stay out of the user's cache."""
    os.environ.setdefault("UNETV2_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def fake_dataset(tmp_path):
    """Write n pairs of random pictures with one bright disc each: fake_dataset(images, masks, ids,
    ...) -> folder.
    """

    def write(
        images="images/{id}.png",
        masks="masks/{id}.png",
        ids=range(10),
        size=(40, 48),
        values=(255,),
    ) -> Path:
        for k, id in enumerate(ids):
            rng = np.random.default_rng(k)
            image, mask = rng.integers(20, 90, (*size, 3), dtype=np.uint8), np.zeros(size, np.uint8)
            for value in values:
                centre = tuple(int(rng.integers(10, side - 10)) for side in reversed(size))
                cv2.circle(mask, centre, int(rng.integers(5, 9)), value, -1)
            image[mask > 0] += 130
            for pattern, array in ((images, image), (masks, mask)):
                path = tmp_path / pattern.format(id=id)
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), array)
        return tmp_path

    return write


@pytest.fixture
def one_thread():
    """Small tensors are quickest so, above all beside other tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
