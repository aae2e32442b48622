"""The programs that attention in blocks of rows runs, as they are run."""

import pytest
from torch import Tensor

from lrp_lens.ops.by_rows import Program


def programs_that_run(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """A list that gets each program at each of its calls."""
    ran: list[Program] = []
    original = Program.__call__

    def spy(self: Program, *given: Tensor) -> Tensor:
        ran.append(self)
        return original(self, *given)

    monkeypatch.setattr(Program, "__call__", spy)
    return ran


def only_by_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own operations make every row, and no fused kernel."""
    monkeypatch.setattr(Program, "is_fused", False)


def never_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused kernel makes some rows at a time, also where it could make all of them."""
    monkeypatch.setattr(Program, "at_once", False)
    monkeypatch.setattr("lrp_lens.ops.by_rows.MORE_ROWS", 1)
