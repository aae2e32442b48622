"""Tutorials: stored without outputs, as much prose as code, short cells; and each runs from start to end.

Every cell is executed in order in one namespace, as a fresh kernel would; the last one checks the notebook's claim.
Each takes less than 60 s on two quiet cores.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.io
import pytest
import torch

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("*.ipynb"))
LINES = 12

each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[str]:
    """The text of every cell of one kind."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in stored if cell["cell_type"] == kind]


@pytest.fixture(autouse=True)
def _settings_are_left_alone() -> Iterator[None]:
    """A tutorial sets no global option that its reader has not asked for."""
    before = plotly.io.templates.default, torch.is_grad_enabled(), pd.options.display.width
    yield
    assert (plotly.io.templates.default, torch.is_grad_enabled(), pd.options.display.width) == before


def test_they_are_numbered() -> None:
    numbers = [int(path.name.partition("_")[0]) for path in TUTORIALS]
    assert numbers == list(range(1, 9))
    for number, path in zip(numbers, TUTORIALS, strict=True):
        assert cells(path, "markdown")[0].startswith(f"# {number} ")


@each
def test_it_is_stored_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


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
def test_it_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, text in enumerate(cells(path, "code"), start=1):
        exec(compile(text, f"{path.name}, code cell {number}", "exec"), names)
    assert capsys.readouterr().err == ""  # no progress bars and no warnings in a stored page
