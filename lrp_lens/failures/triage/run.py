"""triage: from benchmark logs to a folder of verified explanations, one command on any number of rows.

1. Read every row once, without a model: how many cases are new, and whether the folder holds another case under an id.
2. Load the model; its fingerprint is a setting of the folder, as are rules, options and versions.
3. Each new case: `triage_batch`, in this process or in others (workers.py), and its row is on disk.  Rows that are no
   cases are kept with their fates.
4. An interruption, a kill or a full disk leaves what was finished; the same call goes on after it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from typing import Any

from lrp_lens import __version__
from lrp_lens.cases import Case
from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError
from lrp_lens.failures.logs import CaseLog, LogRow, read_cases
from lrp_lens.failures.logs.log import content_of
from lrp_lens.failures.triage.folder import Folder
from lrp_lens.failures.triage.load import Triage, load_triage
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.row import Fate, TriageRow, in_utf8
from lrp_lens.failures.triage.worker import Work, Worker
from lrp_lens.failures.triage.workers import require_workers, workers_of
from lrp_lens.files import AnyPath
from lrp_lens.progress import progress_bar, require_show

_FATES: dict[str, Fate] = {
    "filter": "other filter", "duplicate": "duplicate", "no answer": "no answer", "bad": "bad row",
    "empty": "empty file", "no log": "no log",
}  # fmt: skip


def triage(
    source: Any,
    model: Any,
    *,
    out: AnyPath,
    options: TriageOptions | None = None,
    contrast_model: Any = None,
    limit: int | None = None,
    columns: Mapping[str, Any] | None = None,
    passages: Mapping[str, Any] | None = None,
    chat: bool = False,
    workers: str | None = None,
    retry_errors: bool = False,
    progress: bool | None = None,
) -> Triage:
    """Explain and verify every failure of benchmark logs.

    Args:
        source: a log, or several; or rows, as `read_cases` takes them; or what it returned.
        model: a HookedTransformer or TransformerBridge in eval mode; or a name or path, as `load_model` takes it, which
            is loaded when everything else is in order; or a function that loads it.
        out: folder of the rows, made if it is not there.  Finished cases in it are not done again.
        options: task, rules and what else rows depend on; None takes the defaults.
        contrast_model: a second model, which knows better: as `model`.
        limit: only so many cases, the first ones; a later call may take more.
        columns: field of a case → column of rows of one's own, as in `read_cases`.
        passages: named parts of every prompt, as in `read_cases`.
        chat: whether a prompt that is a text is a user's message, as in `read_cases`.
        workers: None does the work in this process; "ray:4" in four others, "ray" in one for each GPU, else one for
            each two CPU cores, of the cluster that Ray finds or of this machine.  The rows are the same.  Each worker
            loads the model: pass a name, path or function; a model itself is copied.
        retry_errors: whether cases at which something failed are done again; their rows are kept until then.
        progress: whether to show progress; None shows it where the work takes longer.

    Returns:
        What is in the folder: rows, coverage, cases and explanations.

    Raises:
        InputError: logs that are not there, a folder of other settings or other cases, one in which another run works,
            a full disk (what is kept stays), an option out of range, or workers without Ray or that end while they load
            the model.  Nothing in a row is an error: it has a fate.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lrp_lens import demo_cases, load_demo_model
        >>> rows = [case.to_dict() for case in demo_cases("key_value_ten_facts")[:1]] + [{"question": "no prompt"}]
        >>> with TemporaryDirectory() as folder:
        ...     found = triage(rows, load_demo_model, out=folder, options=TriageOptions(stability=False, draws=5))
        ...     [row.fate for row in found.rows()]
        ['explained', 'bad row']
    """
    options = options or TriageOptions()
    require_show(progress)
    require_workers(workers)
    if limit is not None:
        require_whole(limit, "limit", 1)
    if not isinstance(source, CaseLog):
        source = read_cases(source, columns=columns, passages=passages, chat=chat)
    log: CaseLog = source
    worker = Worker(model, contrast_model, options)
    with Folder(out) as folder:
        folder.require_same(options.identity() | _versions())
        count = _count(log, folder, limit, retry_errors) if log.repeatable else None
        with workers_of(workers, worker, count) as crew, _compacted(folder):
            if count != 0:
                folder.require_same(crew.settings())
            with progress_bar(total=count, what="triage", show=progress, unit="case") as bar:
                for row in crew.rows(_work(log, folder, limit, retry_errors)):
                    folder.keep(row)
                    bar.update(1)
    return load_triage(out)


@contextmanager
def _compacted(folder: Folder) -> Iterator[None]:
    """What was kept in few files, also after an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        folder.compact()
        raise
    folder.compact()


def _work(log: CaseLog, folder: Folder, limit: int | None, retry_errors: bool) -> Iterator[Work]:
    """The cases that are not in the folder, as they are read; rows that are no cases are kept on the way."""
    cases = 0
    for number, (told, case) in enumerate(log.read()):
        if case is None:
            folder.keep_other(_no_case(told, number))
            continue
        cases += 1
        if limit is not None and cases > limit:
            return
        case = replace(case, id=told.id)
        if not _is_finished(told, case, folder, retry_errors):
            yield Work(case=case, number=number, file=told.file, line=told.line)


def _no_case(told: LogRow, number: int) -> TriageRow:
    """The row of what is no case."""
    return TriageRow(
        id=told.id or f"{told.file}:{told.line}",
        number=number,
        fate=_FATES[told.fate],
        reason=told.reason,
        file=told.file,
        line=told.line,
    )


def _count(log: CaseLog, folder: Folder, limit: int | None, retry_errors: bool) -> int:
    """How many cases are to be done."""
    cases = ((told, case) for told, case in log.read() if case is not None)
    return sum(
        not _is_finished(told, replace(case, id=told.id), folder, retry_errors)
        for told, case in islice(cases, limit)
    )


def _is_finished(told: LogRow, case: Case, folder: Folder, retry_errors: bool) -> bool:
    """Whether the folder has this case, and it is not to be done again.

    Raises:
        InputError: it has another one under this id.
    """
    name = in_utf8(told.id)
    content = folder.finished.get(name)
    if content not in (None, content_of(case)):
        raise InputError(
            f"An id is one case's; {told.id!r} ({told.file}:{told.line}) is another case than in the folder, whose log "
            "was another one or has changed since. Pass another folder."
        )
    return content is not None and not (retry_errors and name in folder.failed)


def _versions() -> dict[str, str]:
    return {"lrp_lens": __version__, "transformer_lens": version("transformer_lens")}
