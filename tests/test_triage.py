"""triage: logs in, a folder of rows out; stopped anywhere and gone on with, the same rows."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.failures.triage import Triage, TriageRow, load_triage, worker
from lrp_lens.failures.triage import folder as folders
from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.folder import Folder
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.run import triage

QUICK = TriageOptions(stability=False, repairs=False, draws=5, graph=False)
HOSTILE = '<script>alert("1")</script> \u202e\ud800 \x00 🙃'


def log_lines() -> list[str]:
    cases = [*demo_cases("key_value_ten_facts")[:3], *demo_cases("override_four_facts")[:1]]
    named = [replace(case, id=f"case {number}") for number, case in enumerate(cases)]
    named[1] = replace(named[1], suite=HOSTILE, metadata={"note": HOSTILE})
    lines = [json.dumps(one.to_dict() | {"logit_gap": 1.0}) for one in named]
    return [lines[0], "{broken", lines[1], lines[0], json.dumps({"question": HOSTILE}), *lines[2:]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(log_lines()) + "\n")
    return path


@pytest.fixture(scope="module")
def model() -> Any:
    return load_demo_model(device="cpu")


@pytest.fixture(scope="module")
def rows(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TriageRow]:
    """What a run that nothing stopped gives, without time and paths."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "log.jsonl").write_text("\n".join(log_lines()) + "\n")
    return told(triage(folder / "log.jsonl", model, out=folder / "out", options=QUICK))


def told(found: Triage) -> dict[str, TriageRow]:
    """The rows by their number, without time and folders."""
    rows = [(row, re.sub(r"/\S*/", "", row.reason)) for row in found.rows()]
    return {
        f"{row.number}": replace(row.without_time(), file="", id=Path(row.id).name, reason=reason)
        for row, reason in rows
    }


def seconds_of(found: Triage) -> dict[str, str]:
    """Id of each explained case → its seconds, which differ from run to run."""
    return {row.id: row.seconds for row in found.rows() if row.fate == "explained"}


def test_every_row_ends_in_the_result_with_its_fate(rows: dict[str, TriageRow]) -> None:
    assert [rows[str(number)].fate for number in range(7)] == [
        "explained", "bad row", "explained", "duplicate", "bad row", "explained", "explained",
    ]  # fmt: skip
    assert len(rows) == 7 and all(row.reason for row in rows.values() if row.fate != "explained")
    assert rows["2"].suite.startswith("<script>") and "\\ud800" in rows["2"].suite


def test_rows_are_those_of_the_batch(model: Any, rows: dict[str, TriageRow]) -> None:
    case = Case.from_dict(json.loads(log_lines()[0]))
    (alone,) = triage_batch(model, [case], QUICK)
    row = rows["0"]
    assert replace(alone, line=1).without_time() == row


def test_what_is_read_back(model: Any, log: Path, rows: dict[str, TriageRow]) -> None:
    found = triage(log, model, out=log.parent / "out", options=QUICK, limit=2)
    frame = found.to_dataframe()
    assert frame["number"].tolist() == sorted(frame["number"]) and "explanation" not in frame
    assert frame["fate"].tolist()[:3] == ["explained", "bad row", "explained"]
    assert {"case", "graph"} <= set(found.to_dataframe(details=True))
    cases = {case.id: case for case in found.cases()}
    assert cases["case 1"].metadata["note"] == HOSTILE and cases["case 0"].decided
    by_id = dict(found.explanations())
    assert by_id["case 0"].metric_value == rows["0"].metric_value
    coverage = found.coverage().set_index("fate")
    assert coverage.loc["explained", "rows"] == 2 and coverage["share"].sum() == pytest.approx(1)
    assert found.verdicts()["cases"].sum() == 2
    assert "2 explained" in repr(load_triage(log.parent / "out"))


def test_a_finished_case_is_never_done_again(model: Any, log: Path, rows: dict[str, TriageRow]) -> None:
    out = log.parent / "out"
    before = seconds_of(triage(log, model, out=out, options=QUICK, limit=3))
    assert len(before) == 3
    whole = triage(log, model, out=out, options=QUICK)
    assert before.items() <= seconds_of(whole).items()
    assert told(whole) == rows

    def no_model() -> None:
        raise AssertionError("nothing is to be done")

    assert told(triage(log, no_model, out=out, options=QUICK)) == rows


def test_errors_are_done_again_only_when_asked_for(
    model: Any, log: Path, rows: dict[str, TriageRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the old row is in a shard and the new one behind it, or still a file of its own."""
    monkeypatch.setattr(folders, "_TOGETHER", 2)
    out, inner, broken = log.parent / "out", worker.triage_batch, {"case 0", "case 2"}

    def some_fail(model: Any, cases: list[Case], *arguments: Any) -> list[TriageRow]:
        (row,) = inner(model, cases, *arguments)
        return [replace(row, fate="error", reason="decision: no room") if row.id in broken else row]

    monkeypatch.setattr(worker, "triage_batch", some_fail)
    first = triage(log, model, out=out, options=QUICK)
    failed = {row.id for row in first.rows() if row.fate == "error"}
    assert failed == broken and len(told(first)) == 7
    kept = seconds_of(first)

    def no_model() -> None:
        raise AssertionError("errors are finished, too")

    assert told(triage(log, no_model, out=out, options=QUICK)) == told(first)
    broken.discard("case 0")
    second = triage(log, model, out=out, options=QUICK, retry_errors=True)
    assert told(second) == rows | {"5": told(first)["5"]} and kept.items() <= seconds_of(second).items()
    assert sum(row.fate == "error" for row in second.rows()) == 1
    broken.clear()
    with Folder(out) as folder:
        assert folder.failed == {"case 2"} and len(folder.finished) == 4
        (case,) = (case for case in second.cases() if case.id == "case 2")
        (row,) = inner(model, [case], QUICK)
        folder.keep(replace(row, number=5, file=str(log), line=6))  # killed before it was put together
    assert told(load_triage(out)) == rows
    assert told(triage(log, no_model, out=out, options=QUICK, retry_errors=True)) == rows


# ------------------------------------------------------------------------------------ stopped
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest was started in the background
import sys
from pathlib import Path
from lrp_lens.demo import load_demo_model
from lrp_lens.failures.triage.run import triage
from tests.test_triage import QUICK
from lrp_lens.failures.triage import worker
inner, done = worker.triage_batch, 0
def slow(*arguments):
    global done
    if done == 2:
        print("in hand", flush=True)
        import time
        time.sleep(60)
    done += 1
    return inner(*arguments)
worker.triage_batch = slow
log, out = map(Path, sys.argv[1:])
triage(log, load_demo_model(device="cpu"), out=out, options=QUICK)
"""


class Killed(BaseException):
    """What nobody cleans up after, as behind a kill."""


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Killed])
def test_stopped_in_the_third_case(
    stop: type[BaseException],
    model: Any,
    log: Path,
    rows: dict[str, TriageRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, inner, out = 0, worker.triage_batch, log.parent / "out"

    def stopped(*arguments: Any) -> list[TriageRow]:
        nonlocal done
        done += 1
        if done == 3:
            raise stop
        return inner(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(worker, "triage_batch", stopped)
        with pytest.raises(stop):
            triage(log, model, out=out, options=QUICK)
    kept = seconds_of(load_triage(out))
    assert sorted(kept) == ["case 0", "case 1"]  # only the case in hand is lost
    whole = triage(log, model, out=out, options=QUICK)
    assert told(whole) == rows and kept.items() <= seconds_of(whole).items()


@pytest.mark.full
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_a_process_that_gets_the_signal(how: int, model: Any, log: Path, rows: dict[str, TriageRow]) -> None:
    out = log.parent / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(log), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert process.stdout is not None and process.stdout.readline() == "in hand\n"
    process.send_signal(how)
    process.wait(30)
    process.stdout.close()
    kept = seconds_of(load_triage(out))
    assert sorted(kept) == ["case 0", "case 1"]
    whole = triage(log, model, out=out, options=QUICK)
    assert told(whole) == rows and kept.items() <= seconds_of(whole).items()


def row_of(number: int) -> TriageRow:
    return TriageRow(
        id=f"{number}", number=number, fate="excluded", reason="no decision", content=f"{number}"
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_TOGETHER", 3)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("step", ["before the shard", "behind the shard", "between its cases"])
def test_killed_while_a_shard_is_made(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was moved and removed so far, every row is there once."""
    with Folder(tmp_path) as folder:
        folder.require_same({})
        for number in range(2):
            folder.keep(row_of(number))
        parts = {path.name: path.read_bytes() for path in tmp_path.glob("case-*")}
        folder.keep(row_of(2))
        assert not list(tmp_path.glob("case-*")) and len(list(tmp_path.glob("rows-*"))) == 1
    if step == "before the shard":
        (tmp_path / "rows-000000.parquet").rename(tmp_path / ".1234.parquet")
        parts |= {"case-third.parquet": b""}
        folders.write_rows(tmp_path / "case-third.parquet", [row_of(2)])
    for name in list(parts)[: 1 if step == "between its cases" else 2]:
        (tmp_path / name).write_bytes(parts[name])
    with Folder(tmp_path) as folder:
        assert sorted(folder.finished) == ["0", "1", "2"]
        folder.keep(row_of(3))
        folder.compact()
    assert sorted(row.id for row in load_triage(tmp_path).rows()) == ["0", "1", "2", "3"]


def test_a_full_disk_says_what_is_kept(model: Any, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    written, inner = 0, pyarrow.parquet.write_table

    def full(*arguments: Any, **options: Any) -> None:
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        inner(*arguments, **options)

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    out = log.parent / "out"
    with pytest.raises(InputError, match=r"No space left on device.* 2 finished cases are kept in"):
        triage(log, model, out=out, options=QUICK)
    assert sorted(row.id for row in load_triage(out).rows()) == ["case 0", "case 1"]


# ------------------------------------------------------------------------------------ refused
def test_other_settings_are_refused_with_what_differs(model: Any, log: Path) -> None:
    out = log.parent / "out"
    triage(log, model, out=out, options=QUICK, limit=1)

    def no_model() -> None:
        raise AssertionError("refused before the model is loaded")

    with pytest.raises(InputError, match="draws: 5 there, 6 now"):
        triage(log, no_model, out=out, options=replace(QUICK, draws=6))
    with pytest.raises(InputError, match=r"rules: .*CP_LRP"):
        triage(log, no_model, out=out, options=replace(QUICK, rules="CP_LRP"))
    other = load_demo_model(device="cpu")
    other.W_E.data[0, 0] += 1
    with pytest.raises(InputError, match=r"others: model: "):
        triage(log, other, out=out, options=QUICK, limit=2)


def test_another_case_under_a_finished_id_is_refused(model: Any, log: Path) -> None:
    out = log.parent / "out"
    triage(log, model, out=out, options=QUICK, limit=1)
    changed = json.loads(log_lines()[0]) | {"completion": "", "accepted": ["else"]}
    log.write_text(json.dumps(changed) + "\n")
    with pytest.raises(InputError, match=r"'case 0' .* is another case than in the folder"):
        triage(log, model, out=out, options=QUICK)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Folder(tmp_path), pytest.raises(InputError, match="One run at a time"), Folder(tmp_path):
        pass


def test_bad_arguments_come_before_the_model(log: Path, tmp_path: Path) -> None:
    def no_model() -> None:
        raise AssertionError("refused before the model is loaded")

    for source, options, said in (
        ("gone.jsonl", {}, "no file or folder"),
        (log, {"limit": 0}, "limit is a whole number"),
        (log, {"out": log}, "is a file"),
    ):
        with pytest.raises(InputError, match=said):
            triage(source, no_model, **{"out": tmp_path / "new", **options})


def test_a_damaged_case_is_put_aside_and_a_manifest_that_is_none_refused(tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        folder.require_same({"a": "1"})
        folder.keep(row_of(0))
    (path,) = tmp_path.glob("case-*.parquet")
    path.write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match="is damaged; it is put aside"), Folder(tmp_path) as folder:
        assert not folder.finished
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="is not that of a triage"):
        load_triage(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match="there is none in"):
        load_triage(tmp_path)


def test_rows_that_can_be_read_once_only(model: Any, tmp_path: Path) -> None:
    rows = (case.to_dict() for case in demo_cases("key_value_ten_facts")[:1])
    assert [row.fate for row in triage(rows, model, out=tmp_path, options=QUICK).rows()] == ["explained"]
