"""Print the lines of requirements.txt that this Python lacks; with `test`, the tests' too."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

text = (Path(__file__).parents[1] / "requirements.txt").read_text(encoding="utf-8")
if "test" not in sys.argv[1:]:
    text = text.split("# tests and style only")[0]
for line in text.splitlines():
    line = line.split("#")[0].strip()
    if not line:
        continue
    requirement = Requirement(line)
    try:
        if not requirement.specifier.contains(version(requirement.name), prereleases=True):
            print(line)
    except PackageNotFoundError:
        print(line)
