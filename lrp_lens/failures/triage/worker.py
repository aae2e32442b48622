"""Worker: the models, and what becomes of a case; in this process or in another.

1. A worker loads the models once; their fingerprints are settings of the folder.
2. It takes cases as they are read, and gives rows as they are done.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from lrp_lens.cases import Case
from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.row import TriageRow
from lrp_lens.hosts.loading import load_model
from lrp_lens.run.identity import model_identity


@dataclass(frozen=True, kw_only=True)
class Work:
    """A case that is to be done, and where it was read."""

    case: Case
    number: int
    file: str
    line: int

    def placed(self, row: TriageRow) -> TriageRow:
        """The case's row with its place."""
        return replace(row, number=self.number, file=self.file, line=self.line)


class Worker:
    """The models, and what is done to each case; nothing is loaded until `load`."""

    def __init__(self, model: Any, contrast_model: Any, options: TriageOptions) -> None:
        self.parts = (model, contrast_model, options)
        """What it is made of: models, or what gives them, and options."""
        self._models: list[Any] = []

    def load(self) -> dict[str, str]:
        """Load the models, and say by name what they are, the same in every process."""
        self._models = [_loaded(one) for one in self.parts[:2]]
        names = ("model", "contrast_model")
        return {name: str(_identity(one)) for name, one in zip(names, self._models, strict=True)}

    def row(self, work: Work) -> TriageRow:
        """What became of one case."""
        model, contrast_model = self._models
        (row,) = triage_batch(model, [work.case], self.parts[2], contrast_model)
        return work.placed(row)


class Workers(Protocol):
    """One worker or several."""

    def settings(self) -> dict[str, str]:
        """What the models are, as `Worker.load` says it; waits until one worker has loaded them."""

    def rows(self, work: Iterator[Work]) -> Iterator[TriageRow]:
        """The row of each case, as they are done."""


class Here:
    """This process is the only worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def settings(self) -> dict[str, str]:
        """See Workers."""
        return self._worker.load()

    def rows(self, work: Iterator[Work]) -> Iterator[TriageRow]:
        """See Workers."""
        return map(self._worker.row, work)


def _loaded(model: Any) -> Any:
    """The model itself, or what its name or a function gives."""
    if isinstance(model, str | PathLike):
        return load_model(Path(model) if isinstance(model, PathLike) else model)
    return model if hasattr(model, "cfg") or not callable(model) else model()


def _identity(model: Any) -> list[str] | None:
    return None if model is None else model_identity(model)
