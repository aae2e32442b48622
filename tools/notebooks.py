"""Run the tutorials and keep their outputs current: `python -m tools.notebooks` runs all and rewrites what they show.

1. The cells are run in order in one namespace, as a fresh kernel would, but in this process: no kernel is needed.
2. What a cell prints and what its last line shows become its outputs: text, HTML, and pictures (SVG).  plotly's own
   output is left out; it is large, a forge does not show it, and running the notebook brings it back.
3. `differences` compares stored outputs with fresh ones: words must be equal, numbers near, pictures alike.  The tests
   use it, so a notebook whose outputs are out of date does not pass.
"""

import ast
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.io
import torch

from lrp_lens.errors import InputError
from lrp_lens.hosts.loading.packages import MODELS, installed_parts
from tools.alike import differs

TUTORIALS = sorted(
    (Path(__file__).parent.parent / "tutorials").glob("*.ipynb"),
    key=lambda path: int(path.name.partition("_")[0]),
)
TAG = "smollm2"
"""Of cells, and the name of the model that they ask for."""
PLOTLY = "application/vnd.plotly.v1+json"
Output = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """A notebook as its JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict[str, Any], tagged: bool | None = None) -> list[dict[str, Any]]:
    """Those with the tag, those without, or both (None)."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in cells if tagged is None or (TAG in cell["metadata"].get("tags", ())) is tagged]


def run(notebook: dict[str, Any], name: str = "notebook", tagged: bool | None = None) -> list[list[Output]]:
    """The outputs of these code cells, as a notebook stores them; an exception of a cell passes through."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    with _as_in_a_notebook():
        return [
            list(_run_cell("".join(cell["source"]), names, number, f"{name}, code cell {number}"))
            for number, cell in enumerate(code_cells(notebook, tagged), start=1)
        ]


@contextlib.contextmanager
def _as_in_a_notebook() -> Iterator[None]:
    """Figures and tables show themselves as in a notebook, whatever terminal this runs in."""
    before, threads = plotly.io.renderers.default, torch.get_num_threads()
    plotly.io.renderers.default = "plotly_mimetype"
    torch.set_num_threads(1)  # which of nearly equal edges a graph draws depends on it
    try:
        with pd.option_context("display.width", 80, "display.max_columns", 20):
            yield
    finally:
        plotly.io.renderers.default = before
        torch.set_num_threads(threads)


def _run_cell(source: str, names: dict[str, Any], number: int, where: str) -> Iterator[Output]:
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    if printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())}
    if value is not None:
        data = {kind: _lines(text) for kind, text in sorted(_shown(value).items())}
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def _shown(value: Any) -> dict[str, str]:
    """What a notebook shows of a value: its own bundle, or its HTML and its repr."""
    if hasattr(value, "_repr_mimebundle_"):
        return {kind: text for kind, text in value._repr_mimebundle_().items() if kind != PLOTLY}
    html = value._repr_html_() if hasattr(value, "_repr_html_") else None
    return {"text/plain": repr(value)} | ({} if html is None else {"text/html": html})


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def differences(notebook: dict[str, Any], fresh: list[list[Output]], tagged: bool | None = None) -> list[str]:
    """Where stored outputs are not what a run of these cells gives: one line per cell."""
    found = []
    for number, (cell, outputs) in enumerate(zip(code_cells(notebook, tagged), fresh, strict=True), start=1):
        stored = cell["outputs"]
        kinds = [
            [(one["output_type"], *sorted(one.get("data", {}))) for one in each] for each in (stored, outputs)
        ]
        if kinds[0] != kinds[1]:
            found.append(f"code cell {number}: shows {kinds[1]}, stored are {kinds[0]}")
            continue
        for old, new in zip(stored, outputs, strict=True):
            for kind in ["text", *old.get("data", {})]:
                texts = ["".join(one.get("data", one).get(kind, "")) for one in (old, new)]
                if reason := differs(*texts):
                    found.append(f"code cell {number}, {kind}: {reason}")
    return found


def _is_installed() -> bool:
    try:
        installed_parts(MODELS[TAG])
    except InputError:
        return False
    return True


def write(path: Path) -> None:
    """Run a notebook and store what it shows."""
    notebook = read(path)
    for tagged in (False, True) if _is_installed() else (False,):
        cells = code_cells(notebook, tagged)
        for cell, outputs in zip(cells, run(notebook, path.name, tagged), strict=True):
            cell["outputs"] = outputs
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell["execution_count"] = number
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = number
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for tutorial in TUTORIALS:
        if len(sys.argv) < 2 or tutorial.name.partition("_")[0] in sys.argv[1:]:
            write(tutorial)
            print(f"{tutorial.name}: {tutorial.stat().st_size // 1024} kB")
