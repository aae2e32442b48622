"""Progress: a bar that goes away on a terminal, lines off it, nothing for short work; None of it when not wanted."""

import io
import sys

import pytest

from lrp_lens import progress
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.failures.explain import explain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, wait: float, **options: object) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_BAR_AFTER", wait)
    monkeypatch.setattr(progress, "_LINE_EVERY", wait)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress.progress_bar(3, "masking", "prompt", **options) as bar:
        for _ in range(3):
            bar.update(1)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "wait", "show", "disabled", "shown"),
    [
        (io.StringIO, 0.0, None, "", True),
        (io.StringIO, 0.0, True, "1", True),
        (io.StringIO, 0.0, None, "1", False),
        (io.StringIO, 0.0, False, "", False),
        (io.StringIO, 60.0, True, "", False),
        (Terminal, 0.0, None, "", True),
        (Terminal, 0.0, False, "", False),
        (Terminal, 60.0, None, "", False),
    ],
)
def test_where_progress_shows(
    monkeypatch: pytest.MonkeyPatch, stream: type, wait: float, show: bool | None, disabled: str, shown: bool
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    text = written(monkeypatch, stream(), wait, show=show)
    assert ("masking" in text) == shown, text
    if shown and stream is io.StringIO:  # lines, no control characters
        assert "masking: 2 of 3" in text and "\r" not in text and "\x1b" not in text
        assert all(line.startswith("masking: ") for line in text.splitlines())
    if shown and stream is Terminal:  # the bar is wiped away
        assert "/3 [" in text and text.endswith("\r")


def test_explain_shows_its_masking(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    model, case = load_demo_model(device="cpu"), demo_cases()[0]
    explain(model, case, seeds=2, progress=False)
    assert stream.getvalue() == ""
    explain(model, case, seeds=2, progress=True)
    assert "masking: " in stream.getvalue()
