"""Workers: who turns the cases of a triage into rows; this process, or several others.

1. A worker loads the models once; their fingerprints are settings of the folder.
2. It takes cases as they are read, and gives rows as they are done.  Several workers give them in any order: a row's
   number says where its case was read.
3. Nobody but the process that called `triage` reads logs and writes rows.
"""

import importlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.row import TriageRow
from lrp_lens.hosts.loading import load_model
from lrp_lens.run.identity import model_identity

_NAMED = re.compile(r"ray(?::([1-9][0-9]*))?")


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


def require_workers(workers: str | None) -> None:
    """Refuse what names no workers, or workers that cannot be had, before any work.

    Raises:
        InputError: neither None nor "ray" nor "ray:N"; or Ray is not installed.

    Example:
        >>> require_workers("ray:0")
        Traceback (most recent call last):
        lrp_lens.errors.InputError: workers are None (this process), 'ray' or 'ray:N' with N from 1; received 'ray:0'.
    """
    if workers is None:
        return
    if not isinstance(workers, str) or not _NAMED.fullmatch(workers):
        raise InputError(
            f"workers are None (this process), 'ray' or 'ray:N' with N from 1; received {workers!r}."
        )
    ray()


def workers_of(workers: str | None, worker: Worker, cases: int | None) -> AbstractContextManager[Workers]:
    """The workers that were asked for; they are stopped at the end of the `with`.

    Args:
        workers: as `require_workers` accepts it.
        worker: what each of them is.
        cases: how many there are to do; None if nobody knows.
    """
    if workers is None or cases == 0:
        return nullcontext(Here(worker))
    from lrp_lens.failures.triage.on_ray import on_ray

    named = _NAMED.fullmatch(workers)
    return on_ray(worker, int(named[1]) if named and named[1] else None, cases)


def ray() -> Any:
    """The package ray, which is an extra and imported when it is asked for.

    Raises:
        InputError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            "several workers run on Ray, which is not installed: pip install 'lrp-lens[ray]', or leave workers out"
        ) from error


def _loaded(model: Any) -> Any:
    """The model itself, or what its name or a function gives."""
    if isinstance(model, str | PathLike):
        return load_model(Path(model) if isinstance(model, PathLike) else model)
    return model if hasattr(model, "cfg") or not callable(model) else model()


def _identity(model: Any) -> list[str] | None:
    return None if model is None else model_identity(model)
