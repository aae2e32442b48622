"""Workers: who turns the cases of a triage into rows; this process, or several others.

1. Several workers give rows in any order: a row's number says where its case was read.
2. Nobody but the process that called `triage` reads logs and writes rows.
"""

import re
from contextlib import AbstractContextManager, nullcontext

from lrp_lens.errors import InputError
from lrp_lens.failures.triage.on_ray import on_ray, ray
from lrp_lens.failures.triage.worker import Here, Worker, Workers

_NAMED = re.compile(r"ray(?::([1-9][0-9]*))?")


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
    named = _NAMED.fullmatch(workers)
    return on_ray(worker, int(named[1]) if named and named[1] else None, cases)
