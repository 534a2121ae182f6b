"""What a reader who does not see a figure is told: text beside each figure of a notebook.

It is put together from what the notebook says: the section, what the function that draws says of
its figure (where no such function is called, the labels in the code), and the sentences above.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["described"]

TEACHING = Path(__file__).resolve().parents[2] / "lib" / "unetv2" / "teaching"
LONGEST = 300  # characters of the sentences above


def described(cells: list[dict]) -> Iterator[tuple[dict, str]]:
    """Each code cell with a figure among its outputs, and the text for it."""
    section = prose = ""
    known: dict[str, str] = {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            section = ([section] + re.findall(r"^#+ (.+)", source, re.M))[-1]
            prose = _sentences(source)
            continue
        if cell["cell_type"] != "code":
            continue
        drawn = _drawn(source, known)
        shown = [kind for o in cell["outputs"] for kind in o.get("data", {})]
        count = sum(kind.startswith("image/") for kind in shown)
        if count:
            many = f"{count} figures" if count > 1 else "Figure"
            above = prose and f"Text above: {prose}"
            parts = [f"{many} in “{_plain(section)}”.", _plain(drawn), above]
            yield cell, " ".join(part for part in parts if part)


def _sentences(markdown: str) -> str:
    """The last sentences of the last paragraph, at least one."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", markdown)]
    blocks = [block for block in blocks if block and not re.match(r"[#|>$]|```", block)]
    if not blocks:
        return ""
    every = re.split(r"(?<=[.?!:])\s+(?=[A-Z*])", _plain(blocks[-1]))
    text = every.pop()
    while every and len(every[-1]) + len(text) < LONGEST:
        text = f"{every.pop()} {text}"
    return text


def _plain(markdown: str) -> str:
    """Without marks: links are their words, formulas their source."""
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", markdown)
    return " ".join(re.sub(r"\*\*|`|\$|(?<!\w)\*|\*(?!\w)", "", text).split())


def _drawn(source: str, known: dict[str, str]) -> str:
    """What the code says of its figure; `known`, by name as the notebook calls it, grows."""
    tree = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "unetv2.teaching":
            for module in node.names:
                known |= _functions(module.name, module.asname or module.name)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (inner := _called(node, known)):
            known[node.name] = _first(node) or known[inner]
        if isinstance(node, ast.Assign) and (name := _called(node.value, known)):
            known |= {ast.unparse(target): known[name] for target in node.targets}
    last = tree.body[-1] if tree.body else tree
    shown = ast.unparse(last)
    if shown in known or (shown := _called(last, known) or _called(tree, known)):
        return known[shown]
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Subscript):
        return f"Code: {ast.unparse(last)}."
    return f"Labels: {'; '.join(labels)}." if (labels := _labels(tree)) else ""


def _labels(tree: ast.AST) -> list[str]:
    """The texts that the code gives to axes, panels and lines."""
    found = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", "")
            given = [k.value for k in call.keywords if (k.arg or "").endswith(("label", "title"))]
            given += call.args[:1] if name.startswith("set_") and name.endswith("label") else []
            texts = [node.value for node in given if isinstance(node, ast.Constant)]
            found |= {" ".join(text.split()): None for text in texts if isinstance(text, str)}
    return list(found)


def _functions(module: str, called: str) -> dict[str, str]:
    """Of the functions of a teaching module that return a figure what they say of it."""
    path = TEACHING / f"{module}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    drawing = [
        node
        for node in body
        if isinstance(node, ast.FunctionDef)
        and node.returns
        and ast.unparse(node.returns).endswith("Figure")
    ]
    return {f"{called}.{node.name}": _first(node) for node in drawing}


def _first(node: ast.FunctionDef) -> str:
    """The first paragraph of a function's docstring."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _called(tree: ast.AST, known: dict[str, str]) -> str:
    """The last of the known functions that is called, or ""."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    names = [ast.unparse(call.func) for call in calls]
    return next((name for name in reversed(names) if name in known), "")
