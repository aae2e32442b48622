"""on_ray: the cases of a triage on processes of a Ray cluster, on one machine or several (arXiv 1712.05889).

1. Each worker is an actor, a process that holds the models.  It loads them once and says what they are; workers whose
   models differ are refused.
2. A worker has one case in hand.  Whichever is free first takes the next one, which is read only then.
3. A worker that is lost (killed, out of memory, its machine gone) is replaced and its case is done again; a case that
   cost three workers is an `error` row.
4. However it ends, the workers are stopped, and so is the cluster if it was started here.

These are Ray's actors without Ray Data around them: a dataset has all of its rows before it begins, tries a row that
ends its worker for ever, or drops it without a word.
"""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from typing import Any

from lrp_lens.errors import InputError
from lrp_lens.extras import require_extra
from lrp_lens.failures.triage.batch import lost_row
from lrp_lens.failures.triage.row import TriageRow
from lrp_lens.failures.triage.worker import Work, Worker

_LIVES = 3
"""Workers that one case, or the loading of the models, may cost."""
_USAGE = "RAY_USAGE_STATS_ENABLED"


@dataclass(eq=False)
class _InHand:
    """What an actor is doing: a case, or loading the models."""

    actor: Any
    work: Work | None
    lost: int = 0
    """Workers that this case has cost."""


class OnRay:
    """Workers on Ray; made by `on_ray`."""

    def __init__(self, library: Any, worker: Worker, count: int) -> None:
        self._ray = library
        self._actor = library.remote(max_restarts=0, **_shares(library, count))(type(worker))
        self._parts = [_copied(library, one) for one in worker.parts]
        self._settings: dict[str, str] | None = None
        self._lost_loading = 0
        self._free: list[Any] = []
        self._again: deque[_InHand] = deque()
        self._running: dict[Any, _InHand] = {}
        for _ in range(count):
            self._start()

    def settings(self) -> dict[str, str]:
        """See Workers."""
        while self._settings is None:
            self._await()
        return self._settings

    def rows(self, work: Iterator[Work]) -> Iterator[TriageRow]:
        """See Workers."""
        while True:
            while self._free and (held := self._next(work)) is not None:
                held.actor = self._free.pop()
                self._running[held.actor.row.remote(held.work)] = held
            if self._free and all(held.work is None for held in self._running.values()):
                return  # a free worker found nothing to do, and no case is in hand
            row = self._await()
            if row is not None:
                yield row

    def stop(self) -> None:
        """End every worker."""
        for actor in [*self._free, *(held.actor for held in self._running.values())]:
            self._kill(actor)

    def _next(self, work: Iterator[Work]) -> _InHand | None:
        if self._again:
            return self._again.popleft()
        following = next(work, None)
        return None if following is None else _InHand(None, following)

    def _start(self) -> None:
        """A new worker, which begins to load."""
        actor = self._actor.remote(*self._parts)
        self._running[actor.load.remote()] = _InHand(actor, None)

    def _await(self) -> TriageRow | None:
        """Wait for what ends first; its row, if it was a case that is done with."""
        (ended,), _ = self._ray.wait(list(self._running), num_returns=1)
        held = self._running.pop(ended)
        try:
            found = self._ray.get(ended)
        except self._ray.exceptions.RayTaskError as error:  # raised in the worker, which lives on
            self._kill(held.actor)
            raise error.cause from None
        except self._ray.exceptions.RayError:
            return self._lost(held)
        self._free.append(held.actor)
        if held.work is None:
            self._lost_loading = 0
            self._require_same(found)
            return None
        return found

    def _lost(self, held: _InHand) -> TriageRow | None:
        """Another worker instead of a lost one; the row of its case, if that has cost too many."""
        self._kill(held.actor)  # it may only be out of reach
        held.lost += 1
        if held.work is None:
            self._lost_loading += 1
            if self._lost_loading == _LIVES:
                raise InputError(
                    f"Workers load the models; {_LIVES} processes in a row ended while they did, killed or out of "
                    "memory. Pass fewer workers, or a smaller model."
                )
        self._start()
        if held.work is None:
            return None
        if held.lost < _LIVES:
            self._again.append(held)
            return None
        return held.work.placed(lost_row(held.work.case, held.lost))

    def _require_same(self, settings: dict[str, str]) -> None:
        if self._settings is None:
            self._settings = settings
        elif settings != self._settings:
            raise InputError(
                f"All workers have the same models; one has {self._settings} and another {settings}. Put the same "
                "files on every machine of the cluster."
            )

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):  # it is gone already, or the cluster is
            self._ray.kill(actor)


def ray() -> Any:
    """The package ray, which is an extra and imported when it is asked for.

    Raises:
        InputError: it is not installed; the message names the extra.
    """
    return require_extra("ray", "ray", use="several workers run", otherwise="leave workers out")


@contextmanager
def on_ray(worker: Worker, count: int | None, cases: int | None) -> Iterator[OnRay]:
    """Workers on the cluster that Ray finds, or on one that is started on this machine for as long as they work.

    Args:
        worker: what each of them is.
        count: how many; None: one for each GPU, else one for each two CPU cores.
        cases: how many cases there are, so that no more workers are started; None if nobody knows.

    Raises:
        InputError: what cannot be copied into another process, workers of different models, or workers that end while
            they load them.
    """
    library = ray()
    begun, crew = not library.is_initialized(), None
    try:
        if begun:
            _join_or_start(library, count)
        if count is None:
            held = library.cluster_resources()
            count = int(held.get("GPU", 0) or max(1, held.get("CPU", 0) // 2))
        crew = OnRay(library, worker, count if cases is None else min(count, cases))
        yield crew
    finally:
        if crew is not None:
            crew.stop()
        if begun:
            library.shutdown()


def _join_or_start(library: Any, count: int | None) -> None:
    """Join the cluster that RAY_ADDRESS or `ray start` names; else start one here, without dashboard or telemetry."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        library.init(address="auto", **quiet)
    except ConnectionError:
        known = os.environ.get(_USAGE)
        os.environ[_USAGE] = known or "0"
        try:
            cores = max(count or 1, os.cpu_count() or 1)
            library.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        finally:
            if known is None:
                del os.environ[_USAGE]


def _shares(library: Any, count: int) -> dict[str, float]:
    """What each worker asks the cluster for, so that all fit: its threads are as many as its CPU cores."""
    held = library.cluster_resources()
    cpus, gpus = float(held.get("CPU", 0)), float(held.get("GPU", 0))
    alone = sum(one["Alive"] for one in library.nodes()) == 1
    return {
        "num_cpus": cpus // count if alone and cpus >= count else _part(cpus, count),
        "num_gpus": _part(gpus, count),
    }


def _part(total: float, count: int) -> float:
    """A whole one where there are enough, else such a part that as many as are needed share one."""
    return min(1.0, 1 / ceil(count / total)) if total else 0.0


def _copied(library: Any, part: Any) -> Any:
    """The part as the workers are given it.

    Raises:
        InputError: it cannot be copied into another process.
    """
    try:
        return library.put(part)
    except Exception as error:  # of pickle, and of whatever is pickled
        raise InputError(
            f"Workers are given a copy of model and options; {type(part).__name__} cannot be copied: {error}. Pass the "
            "model's name, its path or a function that loads it, and as task a name or a function of a module."
        ) from error
