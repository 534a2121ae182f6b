"""The house: arrows between the library's rooms run one way, and importing it costs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / "lib" / "unetv2"
FLOORS = [  # a room may use those on the floors below, and none above
    {"teaching"},
    {"training"},
    {"evaluation", "costs"},
    {"inference"},
    {"networks", "data"},
    {"skips"},
    {"common"},
]
FLOOR = {room: number for number, rooms in enumerate(reversed(FLOORS)) for room in rooms}
ALLOWED_IN_SKIPS = {"torch", "collections", "functools", "typing", "importlib", "inspect", "re"}


def imports(path: Path) -> set[str]:
    """Absolute names of all that the file imports, in functions too; ours as unetv2.ROOM."""
    package = ("unetv2", *path.relative_to(LIBRARY).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            top = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{top}.{name.name}" for name in node.names}
    return found


ROOMS = sorted(FLOOR)
FILES = sorted(LIBRARY.rglob("*.py"))


def test_every_room_has_a_floor():
    there = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()}
    assert there == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_run_one_way(room):
    for path in (LIBRARY / room).rglob("*.py"):
        for name in imports(path):
            if not name.startswith("unetv2."):
                continue
            other = name.split(".")[1]
            if other in FLOOR and other != room:
                up = f"{path.relative_to(LIBRARY)} uses {name}, which lies above or beside it"
                assert FLOOR[other] < FLOOR[room], up


def test_skips_import_torch_alone():
    for path in (LIBRARY / "skips").glob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            own = name.startswith(("unetv2.skips", "unetv2.common.errors"))
            assert own or top in ALLOWED_IN_SKIPS, f"{path.name} imports {name}"


@pytest.mark.parametrize("module", ["unetv2", "unetv2.cli", "unetv2.common.params"])
def test_what_everybody_imports_loads_nothing_heavy(module):
    heavy = "torch timm segmentation_models_pytorch pandas scipy matplotlib albumentations".split()
    code = f"import sys, {module}; print(*({{*{heavy}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_nothing_prints_at_import():
    code = "import pkgutil, unetv2; [__import__(m.name) for m in pkgutil.walk_packages(" + (
        "unetv2.__path__, 'unetv2.') if not m.name.endswith('__main__')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
