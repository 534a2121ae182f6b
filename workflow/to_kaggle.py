"""./run_all.sh publish DIR: write to DIR what the Kaggle client pushes.

DIR/datasets holds library, records, weights and samples, each as it lies in the repository, so that
a notebook finds its files wherever Kaggle mounts them; DIR/kernels holds every notebook, as it was
executed (its reading copy in outputs/results), with the metadata that the client asks for. The
client itself clears the outputs of what it pushes; Kaggle executes it, and shows those outputs.
What writes results into this repository is workflow/publish.py.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import address

from unetv2.common import files

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "outputs" / "results"
CODE = ("lib", "workflow", "notebooks", "run_all.sh", "requirements.txt", "pyproject.toml")
ABOUT = ("LICENSE", "README.md")
RUNS = "outputs/quick/runs"  # of ./run_all.sh: what the comparing notebooks read
MEASURED = ("outputs/results/records", "outputs/results/*.json")
PARTS = {  # name: subtitle (20 to 80 characters), licence as Kaggle calls it, files and folders
    "library": ("The library and notebooks, and wheels to install", "other", (*CODE, *ABOUT)),
    "records": ("What finished trainings scored, image by image", "other", MEASURED),
    "weights": ("Trained networks, and their cards", "other", ("outputs/results/weights", RUNS)),
    "samples": ("A few images and masks of public sets", "CC0-1.0", ("data/samples",)),
}
MIT = "Code and results are under the MIT licence."
# what Kaggle's image lacks (github.com/Kaggle/docker-python, August 2026), and what these need
WHEELS = ("segmentation-models-pytorch", "fvcore", "iopath", "yacs", "portalocker", "thop")
UNSEEN = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "run.log")
GPU = {"enable_gpu": "true", "machine_shape": "NvidiaTeslaT4"}  # a P100 has no kernels in its torch
NO_GPU = {"enable_gpu": "false", "machine_shape": ""}


def main(argv: list[str]) -> int:
    """Write the folders; exit status 0, or 2 with one sentence that says why not."""
    parser = argparse.ArgumentParser(
        prog="./run_all.sh publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="new or empty")
    folder = parser.parse_args(argv).folder.expanduser().resolve()
    try:
        write(folder, owner(), RESULTS)
        wheels(folder / "datasets" / "library" / "wheels")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{folder}: now, with the Kaggle client (pip install kaggle),")
    for part in sorted((folder / "datasets").iterdir()):
        print(f"  kaggle datasets create --dir-mode zip -p {part}")
    print(f"  for k in {folder}/kernels/*; do kaggle kernels push -p $k; done")
    return 0


def owner() -> str:
    """The user or organisation on Kaggle: of pyproject.toml, else the client's KAGGLE_USERNAME.

    Raises:
        ValueError: there is none, or it is no name on Kaggle.
    """
    name = address.settings()["kaggle"] or os.environ.get("KAGGLE_USERNAME", "")
    if not re.fullmatch(r"[\w-]+", name):
        where = "[tool.unetv2] kaggle in pyproject.toml, or KAGGLE_USERNAME"
        raise ValueError(f"{name!r} is no user of Kaggle: name yours in {where}")
    return name


def write(folder: Path, owner: str, results: Path) -> None:
    """Write datasets and kernels of `owner` below `folder`, with the reading copies in `results`.

    Raises:
        ValueError: `folder` holds something; a reading copy is missing or older than its source.
        OSError: `folder` cannot be written.
    """
    copies = reading_copies(results)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: name a new one")
    sources = []
    for name, (subtitle, licence, paths) in PARTS.items():
        there = [path for pattern in paths for path in sorted(ROOT.glob(pattern))]
        if not there:
            continue
        about = {"title": f"U-Net v2 collection: {name}", "subtitle": subtitle}
        about |= {"id": f"{owner}/unetv2-{name}", "licenses": [{"name": licence}]}
        about["description"] = " ".join(
            filter(None, [MIT * (licence == "other"), address.settings()["address"]])
        )
        place = folder / "datasets" / name
        files.write_json(place / "dataset-metadata.json", about)
        for path in there:
            copy(path, place / path.relative_to(ROOT))
        sources.append(about["id"])
    for source, text in copies.items():
        place = folder / "kernels" / source.stem
        files.write_text(place / source.name, text)
        files.write_json(place / "kernel-metadata.json", kernel(source, owner, sources))


def kernel(source: Path, owner: str, sources: list[str]) -> dict:
    """The kernel-metadata.json of a notebook; its title is what its id is made from, as asked."""
    title = "Skip connections " + source.stem.replace("_", " ")
    head = "".join(json.loads(source.read_text(encoding="utf-8"))["cells"][0]["source"])
    needs = re.search(r"^\| GPU needed\? \| (.+?) \|", head, re.M)[1]
    return {
        "id": f"{owner}/{title.lower().replace(' ', '-')}",
        "title": title,
        "code_file": source.name,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": "true",
        **(NO_GPU if needs == "no" else GPU),
        "enable_internet": "false",
        "dataset_sources": sources,
        "competition_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }


def copy(path: Path, target: Path) -> None:
    """Copy a file or folder, without caches, logs and hidden files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        shutil.copy(path, target)
    else:
        shutil.copytree(path, target, ignore=UNSEEN)


def reading_copies(results: Path) -> dict[Path, str]:
    """The text of the reading copy of each source: of the quick run, which needs no data; of a
    comparison another one, if there is one, which needs committed records alone.

    Raises:
        ValueError: some are missing or older than their source; all of them named.
    """
    found, missing, old = {}, [], []
    for source in sorted(ROOT.glob(address.SOURCES)):
        text = source.read_text(encoding="utf-8")
        role = json.loads(text)["metadata"].get("unetv2", {}).get("role")
        if role is None:  # a reader's own
            continue
        copies = sorted(results.glob(f"*/{source.name}"), key=lambda path: path.parts[-2])
        copies.sort(key=lambda path: (path.parts[-2] == "quick") == (role in ("after", "records")))
        texts = [path.read_text(encoding="utf-8") for path in copies]
        fresh = [copy for copy in texts if cells(copy) == cells(text)]
        if fresh:
            found[source] = fresh[0]
        else:
            (old if copies else missing).append(source.stem)
    wrong = {"missing": missing, "older than their sources": old}
    if said := [f"{why}: {', '.join(names)}" for why, names in wrong.items() if names]:
        how = "./run_all.sh, then python workflow/publish.py quick, makes them"
        raise ValueError(f"reading copies in {results} are {'; '.join(said)}. {how}")
    return found


def cells(notebook: str) -> list[str]:
    """The cells of a notebook without those that papermill adds."""
    return [
        "".join(cell["source"]).strip()
        for cell in json.loads(notebook)["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]


def wheels(folder: Path) -> None:
    """Put the packages that Kaggle's image lacks into `folder`, in the versions of the lock.

    Raises:
        OSError: they cannot be fetched.
    """
    lock = (ROOT / "requirements.lock.txt").read_text(encoding="utf-8")
    asked = [re.search(rf"^{name}==[\w.]+", lock, re.M)[0] for name in WHEELS]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    done = subprocess.run([*command, *asked], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise OSError(f"cannot fetch {', '.join(asked)} for Kaggle: {last}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
