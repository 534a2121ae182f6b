"""Notebooks in one process, one after another, each with variables of its own.

`rehearse.py PLACE TOP` starts notebooks as on Kaggle or Colab: PLACE is "kaggle" or "content", a
folder of TOP that stands for the host's own. There is no network. Every notebook is executed up to
its strict check, and must then write below the folder that the host keeps; NOTEBOOK=NN executes
that one to its end, with the parameters in VALUES.

`rehearse.py WORK`: WORK is a JSON file {notebook: parameters}. Each is executed to its end, in its
own folder; prints, as JSON, {notebook: what went wrong, or ""}. So many notebooks load torch once.
"""

import json
import os
import socket
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path


def execute(
    notebook: Path, values: dict, whole: bool = True, change: Callable[[str], str] = str
) -> dict:
    """The variables of a notebook after its last cell, or after its strict check.

    Args:
        values: parameters in place of the notebook's own.
        change: what is done to the text of each code cell before.
    """
    from IPython.display import display

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [change("".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    checks = [i for i, cell in enumerate(code) if "from_notebook(globals())" in cell]
    check = checks[0] if checks else 0  # some solutions have no parameters
    main = sys.modules["__main__"] = types.ModuleType("__main__")  # where a reader's own skip lies
    names = main.__dict__
    names["display"] = display
    for number, cell in enumerate(code if whole else code[: check + 1]):
        names |= values if number == check else {}
        exec(compile(cell, f"{notebook.name}[{number}]", "exec"), names)
    return names


def start(place: str, top: Path) -> None:
    """Rehearse all notebooks in `top`/notebooks on a host."""

    def refuse(*_):
        raise OSError("there is no network here")

    def below_top(cell: str) -> str:
        cell = cell.replace('"/kaggle', f'"{top}/kaggle')
        return cell.replace('"/content', f'"{top}/content')

    socket.socket.connect = socket.getaddrinfo = refuse
    keeps = top / ("kaggle/working" if place == "kaggle" else "content")
    asked, values = os.environ.get("NOTEBOOK"), json.loads(os.environ.get("VALUES", "{}"))
    os.chdir(keeps)
    for notebook in sorted((top / "notebooks").rglob("*.ipynb")):
        whole = notebook.name.startswith(asked or "none")
        names = execute(notebook, values if whole else {}, whole, below_top)
        env, root = names["env"], names["ROOT"]
        assert Path(env.__file__).is_relative_to(top / place), env.__file__
        assert root.is_relative_to(top / place), root
        out = env.path(names["P"].output_dir if "P" in names else "outputs/x")
        assert out.is_relative_to(keeps), out
        out.mkdir(parents=True, exist_ok=True)
        print("rehearsed", notebook.stem)


def work(file: Path) -> dict[str, str]:
    """Execute the notebooks that `file` names; what went wrong in each."""
    import matplotlib.pyplot as plt

    found = {}
    for name, values in json.loads(file.read_text(encoding="utf-8")).items():
        os.chdir(Path(name).parent)
        try:
            execute(Path(name), values)
            found[name] = ""
        except Exception:  # whatever a notebook raises is what the test shows
            found[name] = traceback.format_exc()
        plt.close("all")
    return found


if __name__ == "__main__":
    if len(sys.argv) == 3:
        start(sys.argv[1], Path(sys.argv[2]))
    else:
        print("\n" + json.dumps(work(Path(sys.argv[1]))))
