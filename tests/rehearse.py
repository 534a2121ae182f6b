"""rehearse.py PLACE TOP: notebooks as they start on Kaggle and Colab, one after another.

PLACE is "kaggle" or "content", a folder of TOP that stands for the host's own. There is no network.
Every notebook is executed up to its strict check, and must then write below the folder that the
host keeps; NOTEBOOK=NN executes that one to its end, with the parameters in VALUES.
"""

import json
import os
import socket
import sys
from pathlib import Path


def refuse(*_):
    raise OSError("there is no network here")


def code_of(notebook: Path, top: Path) -> list[str]:
    """The code cells of a notebook, with the host's folders below `top`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [
        c.replace('"/kaggle', f'"{top}/kaggle').replace('"/content', f'"{top}/content')
        for c in code
    ]


def start(notebook: Path, top: Path, values: dict, whole: bool) -> dict:
    """The variables of a notebook after its strict check, or after its last cell."""
    from IPython.display import display

    code, names = code_of(notebook, top), {"__name__": "__main__", "display": display}
    checks = [i for i, cell in enumerate(code) if "from_notebook(globals())" in cell]
    check = checks[0] if checks else 0  # some solutions have no parameters
    for number, cell in enumerate(code if whole else code[: check + 1]):
        names |= values if whole and number == check else {}
        exec(compile(cell, f"{notebook.name}[{number}]", "exec"), names)
    return names


def main(place: str, top: Path) -> None:
    keeps = top / ("kaggle/working" if place == "kaggle" else "content")
    asked, values = os.environ.get("NOTEBOOK"), json.loads(os.environ.get("VALUES", "{}"))
    os.chdir(keeps)
    for notebook in sorted((top / "notebooks").rglob("*.ipynb")):
        names = start(notebook, top, values, notebook.name.startswith(asked or "none"))
        env, root = names["env"], names["ROOT"]
        assert Path(env.__file__).is_relative_to(top / place), env.__file__
        assert root.is_relative_to(top / place), root
        out = env.path(names["P"].output_dir if "P" in names else "outputs/x")
        assert out.is_relative_to(keeps), out
        out.mkdir(parents=True, exist_ok=True)
        print("rehearsed", notebook.stem)


if __name__ == "__main__":
    socket.socket.connect = socket.getaddrinfo = refuse
    main(sys.argv[1], Path(sys.argv[2]))
