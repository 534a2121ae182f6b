"""Every command that a README prints, run as printed on real images, or said why it is not.

A command's capitalised words are replaced (DIR, PATH, RUN, PHOTOS), and what trains gets the
options that make it short. The commands of one file run in one folder in their order, as a reader
would.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "data/README.md", "data/samples/README.md", "outputs/results/README.md"]
STARTS = ("./run_all.sh", "unetv2 ", "python ", "torchrun ", "source ", "pip install ")
SHORT = {  # what makes a training short
    "./run_all.sh": "--limit 8 --epochs 1 --seeds 0 --output {tmp}/runs",
    "unetv2 train": "--limit 8 --epochs 1 --seed 0 --output-dir {tmp}/run",
    "torchrun": "--limit 8 --epochs 1 --seed 0 --output-dir {tmp}/two --device cpu",
}
NOT_RUN = {  # pattern: why; such a command must still be understood by its program
    r"run_all\.sh$": "the whole quick collection: test_notebooks runs it",
    r"run_all\.sh test": "these tests",
    r"run_all\.sh lab": "opens a server",
    r"run_all\.sh site": "test_site",
    r"workflow/publish_weights": "test_weights",
    r"config worlds-": "many trainings, by the way of quick, which test_notebooks runs",
    r"run_all\.sh publish": "wants reading copies and an account's name: test_kaggle",
    r"paper-": "wants a GPU",
    r"download": "fetches from the network",
    r"profile workflow/profiles": "wants a cluster: test_slurm",
    r"pip install": "installs from the network",
    r"env\.report": "test_env",
    r"workflow/readme": "test_readme computes what it writes",
    r"workflow/samples": "test_samples computes what it writes",
    r"workflow/address": "test_lint computes what it writes",
    r"ablation-(isic2017-e\d+|polyps) --data|ablation-nuclei": "many trainings, as isic2017-cpu",
    r"costs$": "minutes of timing: the README's shorter form is run",
    r"benchmarks/": "wants other people's code, or is long: test_benchmarks",
}


def commands(page: str) -> list[str]:
    """The commands of a page in their order: lines of shell blocks, and code in a sentence."""
    text, found = (ROOT / page).read_text(encoding="utf-8"), []
    for block, inline in re.findall(r"```bash\n(.*?)```|(?<!`)`([^`\n]+)`", text, re.S):
        for line in (block or inline).splitlines():
            command = line.split(" #")[0].strip()
            if command.startswith(STARTS):
                found.append(command)
    return list(dict.fromkeys(found))


EVERY = [(page, command) for page in PAGES for command in commands(page)]
FREE = [(page, command) for page, command in EVERY if re.search(r"unetv2 .*samples", command)]


def reason(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


@pytest.mark.parametrize(("page", "command"), EVERY)
def test_a_command_can_be_copied(page, command):
    assert "..." not in command, "a reader cannot type three dots"
    assert not re.search(r"/home/|/work/|/root/", command)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to work in, with a reader's own images and some photos."""
    folder = tmp_path_factory.mktemp("reader")
    for k in range(12):
        rng = np.random.default_rng(k)
        image = rng.integers(20, 90, (64, 64, 3), dtype=np.uint8)
        mask = cv2.circle(np.zeros((64, 64), np.uint8), (20 + 2 * k, 32), 12, 255, -1)
        image[mask > 0] += 120
        for sub, picture in (("images", image), ("masks", mask)):
            (folder / "own" / sub).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / "own" / sub / f"{k}.png"), picture)
    return folder


def filled(command: str, place: Path, data: str, weights: str) -> str:
    """`command` with its capitalised words replaced."""
    command = command.replace("--data DIR", f"--data {data}")
    command = command.replace("--weights DIR", f"--weights {weights}")
    command = re.sub(r"\bPATH\b", str(place / "own"), command)
    command = re.sub(r"\bPHOTOS\b", str(place / "own" / "images"), command)
    return re.sub(r"\bRUN\b", str(place / "run"), command)


def run(command: str, place: Path) -> subprocess.CompletedProcess:
    """`command` in `place`, with the environment's programs and the repository's run_all.sh."""
    command = command.replace("./run_all.sh", str(ROOT / "run_all.sh"))
    command = command.replace(" data/samples", f" {ROOT}/data/samples")
    bins = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bins}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "lib"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_their_order(page, place, data_dir, weights_dir):
    for command in commands(page):
        if reason(command) or command.startswith("source ") or (page, command) in FREE:
            continue
        full = filled(command, place, str(data_dir), str(weights_dir))
        start = next((s for s in SHORT if command.startswith(s)), None)
        if start and "--dry-run" not in full:
            full += " " + SHORT[start].format(tmp=place)
        assert not re.search(r"\b(DIR|PATH|RUN|PHOTOS|NAME|CLONE)\b", full), f"left over: {full}"
        done = run(full, place)
        assert done.returncode == 0, (
            f"{command}\n{full}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), FREE)
def test_what_needs_no_data_runs_as_printed(page, command, place):
    done = run(command, place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("24 masks written|global +Dice +9", done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), [e for e in EVERY if reason(e[1])])
def test_what_is_not_run_is_understood(page, command, place):
    """Its program, its options and the configs it names exist."""
    words = shlex.split(command)
    if words[0] == "./run_all.sh" and words[1:2] not in (["test"], ["lab"], ["publish"], ["site"]):
        cut = words.index("--") if "--" in words else len(words)
        with_config = [w for w in words[1:cut] if w not in ("DIR",)]
        flags = [w for w in with_config if w not in ("--data", "--weights")]
        done = run(shlex.join(["./run_all.sh", *flags, "--dry-run"]), place)
        assert done.returncode == 0, done.stdout + done.stderr
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
        done = run(f"python {ROOT / words[1]} --help", place)
        for option in (w for w in words[2:] if w.startswith("--")):
            assert option in done.stdout, f"{words[1]} has no {option}"
    elif words[0] == "unetv2":
        assert run(f"unetv2 {words[1]} --help", place).returncode == 0


@pytest.mark.slow
def test_the_python_of_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, "README.md", "exec"), {})  # a name that is not there fails here
