"""What this Python lacks of requirements.txt, and its installation on Kaggle and Colab.

`python packages.py FILE [UP_TO]` prints the lines that are lacking; only the standard library and
`packaging` are imported, so that it runs before anything is installed.
"""

import importlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["install", "lacking"]

LIBRARY = "# deployment"  # what the notebooks import stands above this line of requirements.txt
SAME = {"opencv-python-headless": "opencv-python"}  # either brings cv2


def lacking(file: Path, up_to: str = LIBRARY) -> list[str]:
    """The requirements in `file`, above the line `up_to`, that are absent or of another version."""
    lines = file.read_text(encoding="utf-8").split(up_to)[0].splitlines()
    asked = [line.split("#")[0].strip() for line in lines]
    return [line for line in asked if line and not _has(Requirement(line))]


def _has(requirement: Requirement) -> bool:
    for name in (requirement.name, SAME.get(requirement.name)):
        try:
            return requirement.specifier.contains(version(name or ""), prereleases=True)
        except (PackageNotFoundError, ValueError):  # ValueError: there is no second name
            continue
    return False


def install(file: Path, wheels: Path) -> None:
    """Install what the notebooks lack of `file`, from the folder `wheels` where it lies there.

    Raises:
        RuntimeError: pip failed; says what is missing and what to attach.
    """
    missing = lacking(file)
    if not missing:
        return
    print("installing what this machine lacks:", *missing)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--retries", "0"]
    done = subprocess.run(
        [*command, "--find-links", str(wheels), *missing], capture_output=True, text=True
    )
    if done.returncode:
        cure = "turn the internet on (Kaggle: Settings), or attach the collection's dataset"
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise RuntimeError(f"cannot install {', '.join(missing)}: {cure} ({last})")
    importlib.invalidate_caches()


if __name__ == "__main__":
    for line in lacking(Path(sys.argv[1]), *sys.argv[2:]):
        print(line)
