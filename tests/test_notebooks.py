"""Every notebook from end to end, as `./run_all.sh` runs it, with few images and one epoch; then
the solutions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*_solutions.ipynb"))
CONFIG = {
    "datasets": ["synthetic"],
    "models": ["thin+copy", "thin+nested", "thin+sdi"],
    "seeds": [0],
    "run": {"image_size": 64, "epochs": 1, "batch_size": 8, "limit": 16, "studies": False},
    "family": ["tmi-unet-l2", "tmi-unet-l1", "tmi-unet++"],
    "family_run": {"recipe": "unetpp", "width": 8, "batchnorm": True, "studies": True},
    "notebooks": {
        "00": {"epochs": 1, "limit": 16},
        "10": {"limit": 24, "image_size": 64},
        "20": {"epochs": 1},
        "21": {"epochs": 1},
        "42": {
            "image_sizes": [32, 64],
            "batch_sizes": [1, 2],
            "repeats": 1,
            "table4_encoder": "tu-pvt_v2_b0",
            "table4_size": 64,
        },
        "22": {"epochs": 1, "image_size": 32, "encoder": "tu-test_resnet"},
        "24": {
            "epochs": 1,
            "decoders": ["unet", "segformer"],
            "encoders": ["tu-test_resnet", "tu-pvt_v2_b0"],
        },
        "60": {"epochs": 1, "networks": ["isic2017-thin+sdi", "isic2017-thin+copy"]},
        "46": {"repeats": 1},
        "90": {"count": 3},
    },
}


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """The folder of a whole run, and what the door said."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "smoke.yaml").write_text(yaml.safe_dump(CONFIG))
    path = os.pathsep.join([str(ROOT / "lib"), str(ROOT / "workflow")])
    command = [
        sys.executable,
        str(ROOT / "workflow" / "door.py"),
        "--config",
        str(folder / "smoke.yaml"),
    ]
    environment = os.environ | {"PYTHONPATH": path, "PWD": str(folder)}
    done = subprocess.run(
        [*command, "--output", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    return folder / "smoke", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_end_to_end(source, house):
    folder, said = house
    copies = sorted(folder.rglob(source.name))
    trained = len(CONFIG["models"] + CONFIG["family"])
    assert len(copies) == (trained if source.name.startswith("3") else 1), said
    for copy in copies:
        code = [c for c in json.loads(copy.read_text())["cells"] if c["cell_type"] == "code"]
        errors = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
        assert not errors, said
        assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), said
        assert copy.stat().st_size < 2**20, "an executed notebook stays under 1 MB"


@pytest.fixture(scope="session")
def solved(house, tmp_path_factory):
    """What went wrong in each solution: all run in one process, which loads torch once."""
    folder, said = house
    place, work = tmp_path_factory.mktemp("solved"), {}
    for source in SOLUTIONS:
        given = next(iter(sorted(folder.rglob(source.name.replace("_solutions", "")))), None)
        assert given, said
        values = yaml.safe_load((given.parent / "params.yaml").read_text())
        work[str(source)] = values | {"output_dir": str(place / source.stem)}
    (place / "work.json").write_text(json.dumps(work))
    command = [sys.executable, str(ROOT / "tests" / "rehearse.py"), str(place / "work.json")]
    environment = os.environ | {"MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("source", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_run(source, solved):
    assert not solved[str(source)], solved[str(source)]
