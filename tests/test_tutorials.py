"""Tutorials: as much prose as code, short cells; each runs from start to end, and shows what it is stored with.

Every cell is executed in order in one namespace, as a fresh kernel would; the last one checks the notebook's claim.
Each takes less than 60 s on two quiet cores.  `make notebooks-run` stores what they show.  Six have a second half on
SmolLM2, which runs by itself, among the tests of real models; the ninth's and the tenth's may take three minutes.
"""

import importlib.util
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.io
import pytest
import torch

from lrp_lens.views import View
from tools.alike import differs
from tools.notebooks import TUTORIALS, code_cells, differences, read, run

LINES, KILOBYTES = 12, 400
STORED_WITH_THIS_HOST = version("transformer_lens").startswith(
    "3."
)  # the number of hook points is the host's own

each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[str]:
    """The text of every cell of one kind."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in stored if cell["cell_type"] == kind]


@pytest.fixture(autouse=True)
def _settings_are_left_alone() -> Iterator[None]:
    """A tutorial sets no global option that its reader has not asked for."""

    def settings() -> tuple[object, ...]:
        renderer = plotly.io.renderers.default
        return plotly.io.templates.default, renderer, torch.is_grad_enabled(), pd.options.display.width

    before = settings()
    yield
    assert settings() == before


def test_they_are_numbered() -> None:
    numbers = [int(path.name.partition("_")[0]) for path in TUTORIALS]
    assert numbers == list(range(1, 11))
    for number, path in zip(numbers, TUTORIALS, strict=True):
        assert cells(path, "markdown")[0].startswith(f"# {number} ")


@each
def test_it_is_stored_with_what_it_shows(path: Path) -> None:
    """Small, in the order of the cells, and every figure as a picture that needs no script."""
    notebook = read(path)
    assert notebook["nbformat"] == 4 and notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = code_cells(notebook)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < KILOBYTES * 1024
    shown = [set(output["data"]) for cell in code for output in cell["outputs"] if "data" in output]
    assert all(kinds - {"text/plain"} <= {"text/html", "image/svg+xml"} for kinds in shown)
    assert any("image/svg+xml" in kinds or "text/html" in kinds for kinds in shown)
    assert "<script" not in path.read_text(encoding="utf-8")


@each
def test_it_has_as_much_prose_as_code_in_short_cells(path: Path) -> None:
    code, prose = cells(path, "code"), cells(path, "markdown")
    words = [sum(len(re.findall(r"\w+", text)) for text in texts) for texts in (prose, code)]
    assert words[0] >= words[1]
    assert max(text.count("\n") + 1 for text in code) <= LINES
    assert not any(line.startswith(("%", "!")) for text in code for line in text.splitlines())


@each
def test_it_says_what_to_change_and_ends_with_its_claim(path: Path) -> None:
    (own,) = [text for text in cells(path, "markdown") if "## For your own model" in text]
    assert 'from_pretrained("gpt2").eval()' in own and "Qwen" in own and '" Mary"' in own
    assert "assert " in cells(path, "code")[-1]


@pytest.mark.full
@each
def test_it_runs_and_its_outputs_are_current(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = read(path)
    fresh = run(notebook, path.name, tagged=False)
    assert capsys.readouterr().err == ""  # no progress bars and no warnings in a stored page
    if STORED_WITH_THIS_HOST:
        assert differences(notebook, fresh, tagged=False) == [], "run `make notebooks-run`"


@pytest.mark.parametrize(
    "path", [path for path in TUTORIALS if code_cells(read(path), tagged=True)], ids=lambda path: path.stem
)
def test_its_second_half_runs_on_a_real_model(
    path: Path, smollm2: object, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = read(path)
    fresh = run(notebook, path.name, tagged=True)
    assert capsys.readouterr().err == ""
    if STORED_WITH_THIS_HOST:
        assert differences(notebook, fresh, tagged=True) == [], "run `make notebooks-run`"


@pytest.mark.parametrize("path", [TUTORIALS[0], TUTORIALS[8]], ids=lambda path: path.stem)
def test_a_second_half_shows_nothing_where_the_model_is_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the sentence that says how to get it; its claims are not made."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    first, *others = run(read(path), path.name, tagged=True)
    assert "make models" in "".join(first[0]["text"]) and len(first) == 1
    assert all("assert" not in "".join(output.get("text", "")) for outputs in others for output in outputs)


def test_second_halves_are_on_the_notebooks_that_need_them() -> None:
    halves = [path.stem.partition("_")[0] for path in TUTORIALS if code_cells(read(path), tagged=True)]
    assert halves == ["1", "4", "6", "7", "9", "10"]


# ------------------------------------------------------------------------------------------ the comparison itself
@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("a 1.00", "a 1.01", True),
        ("a 1.00", "a 1.30", False),
        ("a 1.00", "b 1.00", False),
        ("a 1.00", "a 1.00 2", False),
        ("took 1.2 s", "took 93 s", True),
        ("took 1.2 s", "took 93 m", False),
        ("error 3e-07", "error −9.5e-08", True),
        ("error 3e-07", "error 0.3", False),
        ("−5.0", "-5.0", True),
        ("−5.0", "5.0", False),
    ],
)
def test_outputs_that_say_the_same(old: str, new: str, same: bool) -> None:
    assert (differs(old, new) == "") is same


def test_pictures_that_show_the_same() -> None:
    values = np.array([[1.0, -2.0], [0.5, 3.0]])

    def drawn(dims: tuple[str, ...], array: np.ndarray) -> str:
        return str(View(array, dims).plot()._repr_mimebundle_()["image/svg+xml"])

    heads, layers, line = ("layer", "head"), ("layer", "position"), ("layer",)
    for dims, array in ((heads, values), (layers, values), (line, values[0])):
        old = drawn(dims, array)
        assert differs(old, drawn(dims, array * 1.001)) == ""
    assert "words of the picture" in differs(drawn(heads, values), drawn(heads, values * [[1.5, 1], [1, 1]]))
    assert "another colour" in differs(drawn(layers, values), drawn(layers, values * [[-1, 1], [1, 1]]))
    stages = np.array([1.0, -2.0, 0.5])
    assert "moved by" in differs(drawn(line, stages), drawn(line, stages * [1, 1, 0.8]))
    assert "cells" in differs(drawn(layers, values), drawn(layers, np.array([[1.0, np.nan], [0.5, 3.0]])))


def test_the_terminal_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source = 'import pandas as pd\npd.DataFrame({f"a column {i}": [i] for i in range(12)})'
    shown = []
    for columns in ("40", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        shown.append(run({"cells": [{"cell_type": "code", "source": [source]}]}))
    assert shown[0] == shown[1] and "..." not in str(shown[0])


def test_what_a_cell_shows_is_stored_as_a_notebook_does() -> None:
    source = ["print('a')\nprint('b')\n1 + 1", "x = 3", "None", "import numpy as np\nnp.float64(2)"]
    notebook = {"cells": [{"cell_type": "code", "source": [one], "outputs": []} for one in source]}
    first, *others = run(notebook)
    assert first[0] == {"name": "stdout", "output_type": "stream", "text": ["a\n", "b\n"]}
    assert first[1]["data"] == {"text/plain": ["2"]} and first[1]["execution_count"] == 1
    assert [len(one) for one in others] == [0, 0, 1]
    assert differences(notebook, [first, *others])[0].startswith("code cell 1: shows")
    with pytest.raises(ZeroDivisionError):
        run({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]})
