"""triage: from benchmark logs to a folder of verified explanations, one command on any number of rows.

1. Read every row once, without a model: how many cases are new, and whether the folder holds another case under an id.
2. Load the model; its fingerprint is a setting of the folder, as are rules, options and versions.
3. Each new case: `triage_batch`, and its row is on disk.  Rows that are no cases are kept with their fates.
4. An interruption, a kill or a full disk leaves what was finished; the same call goes on after it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from lrp_lens import __version__
from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.logs import CaseLog, LogRow, read_cases
from lrp_lens.failures.logs.log import content_of
from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.folder import Folder
from lrp_lens.failures.triage.load import Triage, load_triage
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.row import Fate, TriageRow
from lrp_lens.files import AnyPath
from lrp_lens.hosts.loading import load_model
from lrp_lens.patching.checks import require_whole
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.run.identity import model_identity

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
        progress: whether to show progress; None shows it where the work takes longer.

    Returns:
        What is in the folder: rows, coverage, cases and explanations.

    Raises:
        InputError: logs that are not there, a folder of other settings or other cases, one in which another run works,
            a full disk (what is kept stays), or an option out of range.  Nothing in a row is an error: it has a fate.

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
    if limit is not None:
        require_whole(limit, "limit", 1)
    log = source if isinstance(source, CaseLog) else read_cases(source, columns=columns, passages=passages)
    with Folder(out) as folder:
        folder.require_same(options.identity() | _versions())
        count = _new_cases(log, folder, limit) if log.repeatable else None
        loaded: list[Any] = []
        if count != 0:
            models = {"model": model, "contrast_model": contrast_model}
            loaded = [_loaded(one) for one in models.values()]
            folder.require_same({name: str(_identity(one)) for name, one in zip(models, loaded, strict=True)})
        with progress_bar(total=count, what="triage", show=progress, unit="case") as bar:
            try:
                for row in _rows(log, folder, limit, loaded, options):
                    if row.content:
                        folder.keep(row)
                        bar.update(1)
                    else:
                        folder.keep_other(row)
            except KeyboardInterrupt:
                folder.compact()
                raise
            folder.compact()
    return load_triage(out)


def _rows(
    log: CaseLog, folder: Folder, limit: int | None, loaded: list[Any], options: TriageOptions
) -> Iterator[TriageRow]:
    """The rows that are not in the folder, as they are made."""
    cases = 0
    for number, (told, case) in enumerate(log.read()):
        if case is None:
            place = f"{told.file}:{told.line}"
            name = told.id or place
            fate = _FATES[told.fate]
            yield TriageRow(
                id=name, number=number, fate=fate, reason=told.reason, file=told.file, line=told.line
            )
            continue
        cases += 1
        if limit is not None and cases > limit:
            return
        case = replace(case, id=told.id)
        if not _is_finished(told, case, folder):
            (row,) = triage_batch(loaded[0], [case], options, loaded[1])
            yield replace(row, number=number, file=told.file, line=told.line)


def _new_cases(log: CaseLog, folder: Folder, limit: int | None) -> int:
    """How many cases are not in the folder yet."""
    cases = ((told, case) for told, case in log.read() if case is not None)
    return sum(
        not _is_finished(told, replace(case, id=told.id), folder) for told, case in islice(cases, limit)
    )


def _is_finished(told: LogRow, case: Case, folder: Folder) -> bool:
    """Whether the folder has this case.

    Raises:
        InputError: it has another one under this id.
    """
    content = folder.finished.get(told.id.encode("utf-8", "backslashreplace").decode())
    if content not in (None, content_of(case)):
        raise InputError(
            f"An id is one case's; {told.id!r} ({told.file}:{told.line}) is another case than in the folder, whose log "
            "was another one or has changed since. Pass another folder."
        )
    return content is not None


def _loaded(model: Any) -> Any:
    """The model itself, or what its name or a function gives."""
    if isinstance(model, str | PathLike):
        return load_model(Path(model) if isinstance(model, PathLike) else model)
    return model if hasattr(model, "cfg") or not callable(model) else model()


def _identity(model: Any) -> list[str] | None:
    return None if model is None else model_identity(model)


def _versions() -> dict[str, str]:
    return {"lrp_lens": __version__, "transformer_lens": version("transformer_lens")}
