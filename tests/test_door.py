"""The one door as a person meets it: options, one line per step, failures reported, nothing done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

LESSON = "print('hello')"
TRAIN = """
import json, pathlib
print("training", model)
folder = pathlib.Path(output_dir)
(folder / "trained.txt").open("a").write(f"{model} {epochs}\\n")
(folder / "metrics.json").write_text(json.dumps({"model": model}))
"""
BROKEN = "x = 1\n\nraise ValueError('the moon is in the wrong phase')"
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


def write(path: Path, *code: str) -> None:
    """A notebook with a `parameters` cell and one cell for each of `code`."""
    parameters = nbformat.v4.new_code_cell("output_dir: str = ''", metadata={"tags": ["parameters"]})
    cells = [parameters, *map(nbformat.v4.new_code_cell, code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def house(tmp_path):
    """A folder with small notebooks and a config, and a function that calls the door on them."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    write(notebooks / "00_start.ipynb", LESSON)
    write(notebooks / "30_train.ipynb", TRAIN)
    write(notebooks / "40_compare.ipynb", LESSON)
    config = {"datasets": ["synthetic"], "models": ["unet", "unetv2"], "seeds": [0], "run": {"epochs": 1}, "jobs": 2}

    class House:
        folder, out = notebooks, tmp_path / "out" / "tiny"

        def save(self, **changes):
            (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config | changes))

        def command(self, *options):
            start = [sys.executable, str(ROOT / "workflow" / "door.py"), "--config", str(tmp_path / "tiny.yaml")]
            return [*start, "--output", str(tmp_path / "out"), *options]

        def environment(self):
            path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "workflow")])
            return os.environ | {"NOTEBOOKS_DIR": str(notebooks), "PYTHONPATH": path, "PWD": str(tmp_path)}

        def __call__(self, *options):
            done = subprocess.run(
                self.command(*options),
                env=self.environment(),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=240,
            )
            return done.returncode, done.stdout + done.stderr

    house = House()
    house.save()
    return house
