"""The programs that attention in blocks of rows runs, as they are run."""

import pytest
from torch import Tensor

from lrp_lens.ops.deferred import Program


def programs_that_run(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """A list that gets each program at each of its calls."""
    ran: list[Program] = []
    original = Program.__call__

    def spy(self: Program, *given: Tensor) -> Tensor:
        ran.append(self)
        return original(self, *given)

    monkeypatch.setattr(Program, "__call__", spy)
    return ran
