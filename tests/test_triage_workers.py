"""Workers: every case one row, the same rows, whichever process is lost; Ray itself in the second tier."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases
from lrp_lens.errors import InputError
from lrp_lens.failures.triage import TriageRow, load_triage, on_ray, workers
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.run import triage
from lrp_lens.failures.triage.worker import Work, Worker
from tests.test_triage import QUICK, told

# ------------------------------------------------------------------------------------ the order of work, without Ray


class LostError(Exception):
    """Of Ray: an actor is gone."""


class RaisedError(LostError):
    """Of Ray: something was raised in an actor."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


@dataclass(eq=False)
class Ray:
    """What is used of Ray, with a clock of its own: an actor's call ends after its seconds, or ends the actor."""

    seconds: Callable[[Work | None], float] = lambda work: 1.0
    dies: Callable[[Work | None], bool] = lambda work: False
    held: dict[str, float] = field(default_factory=lambda: {"CPU": 4.0})
    machines: int = 1
    now: float = 0.0
    made: list["Actor"] = field(default_factory=list)
    exceptions: Any = field(
        default_factory=lambda: SimpleNamespace(RayError=LostError, RayTaskError=RaisedError)
    )

    def remote(self, **options: Any) -> Any:
        self.options = options
        return lambda kind: SimpleNamespace(remote=lambda *parts: Actor(self, kind(*parts)))

    def wait(self, calls: list["Call"], num_returns: int) -> tuple[list["Call"], list["Call"]]:
        first = min(calls, key=lambda one: one.ends)
        self.now = first.ends
        return [first], [one for one in calls if one is not first]

    def get(self, call: "Call") -> Any:
        if not call.actor.alive or self.dies(call.work):
            call.actor.alive = False
            raise LostError
        try:
            return call.function()
        except Exception as error:
            raise RaisedError(error) from error

    def kill(self, actor: "Actor") -> None:
        actor.alive = False

    def put(self, part: Any) -> Any:
        return part

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return self.held

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}] * self.machines + [{"Alive": False}]


@dataclass(eq=False)
class Call:
    actor: "Actor"
    work: Work | None
    function: Callable[[], Any]
    ends: float


class Actor:
    def __init__(self, cluster: Ray, worker: Worker) -> None:
        self.alive, self.done = True, list[str]()

        def begun(work: Work | None, function: Callable[[], Any]) -> Call:
            if work is not None:
                self.done.append(work.case.id)
            return Call(self, work, function, cluster.now + cluster.seconds(work))

        self.load = SimpleNamespace(remote=lambda: begun(None, worker.load))
        self.row = SimpleNamespace(remote=lambda work: begun(work, lambda: worker.row(work)))
        cluster.made.append(self)


class Told(Worker):
    """A worker that only says which case it was given."""

    def load(self) -> dict[str, str]:
        return {"model": next(self.parts[0])}

    def row(self, work: Work) -> TriageRow:
        if work.case.id == "fault":
            raise ZeroDivisionError(work.case.id)
        return work.placed(TriageRow(id=work.case.id, number=0, fate="excluded", reason="done"))


def works(number: int) -> Iterator[Work]:
    for place in range(number):
        yield Work(case=Case(prompt="a", id=f"{place}"), number=place, file="log", line=place + 1)


def rows_on(
    cluster: Ray, monkeypatch: pytest.MonkeyPatch, work: Iterator[Work], size: int, models: Any = None
) -> list[TriageRow]:
    """The rows, as they come."""
    monkeypatch.setattr(on_ray, "ray", lambda: cluster)
    worker = Told(iter(lambda: "one", None) if models is None else models, None, TriageOptions())
    try:
        with on_ray.on_ray(worker, size, None) as crew:
            assert crew.settings() == {"model": "one"}
            return list(crew.rows(work))
    finally:
        assert not any(actor.alive for actor in cluster.made)  # however it ends


@pytest.mark.parametrize("seed", range(20))
def test_every_case_has_one_row_whoever_is_lost(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    deaths = {f"{one}": draw.choice([0, 0, 0, 1, 2, 3, 9]) for one in range(12)}
    left, loading = dict(deaths), [draw.random() < 0.3 for _ in range(99)]
    loading[2::3] = [False] * len(loading[2::3])  # never three in a row

    def dies(work: Work | None) -> bool:
        if work is None:
            return loading.pop(0)
        left[work.case.id] -= 1
        return left[work.case.id] >= 0

    cluster = Ray(dies=dies, seconds=lambda work: draw.random())
    rows = rows_on(cluster, monkeypatch, works(12), draw.choice([1, 2, 3, 20]))
    assert sorted(row.number for row in rows) == list(range(12))
    for row in rows:
        assert (row.id, row.file, row.line) == (f"{row.number}", "log", row.number + 1)
        assert row.fate == ("error" if deaths[row.id] >= 3 else "excluded")
        assert row.fate == "excluded" or row.reason.startswith("worker: 3 processes that worked on it ended")


def test_a_free_worker_takes_the_next_case_which_is_read_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, read = Ray(seconds=lambda work: 50.0 if work and work.number == 0 else 1.0), []

    def watched() -> Iterator[Work]:
        for work in works(20):
            read.append(work.number)
            in_hand = len(read) - sum(len(actor.done) for actor in cluster.made)
            assert in_hand <= 1  # it is given away before the next one is read
            yield work

    rows = rows_on(cluster, monkeypatch, watched(), 2)
    assert sorted(len(actor.done) for actor in cluster.made) == [1, 19]
    assert [row.number for row in rows][-1] == 0  # done last, and no one waited for it


def test_a_model_that_ends_its_worker_each_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="3 processes in a row ended while they did"):
        rows_on(Ray(dies=lambda work: work is None), monkeypatch, works(2), 2)


def test_workers_of_two_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"All workers have the same models; one has .*'one'.*'other'"):
        rows_on(Ray(), monkeypatch, works(9), 2, iter(["one", "other"]))


def test_what_a_worker_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = replace(next(works(1)), case=Case(prompt="a", id="fault"))
    with pytest.raises(ZeroDivisionError, match="fault"):
        rows_on(Ray(), monkeypatch, iter([fault]), 2)


@pytest.mark.parametrize(
    ("held", "machines", "size", "cpus", "gpus"),
    [
        ({"CPU": 16.0}, 1, 4, 4, 0),  # threads of one machine are shared out
        ({"CPU": 16.0}, 4, 4, 1, 0),  # of several: one each fits wherever it is put
        ({"CPU": 2.0}, 1, 3, 0.5, 0),  # two of three fit on a core
        ({"CPU": 8.0, "GPU": 4.0}, 1, 4, 2, 1),
        ({"CPU": 8.0, "GPU": 4.0}, 1, 2, 4, 1),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 3, 2, 0.5),  # a third of each would leave one without a place
    ],
)
def test_what_a_worker_asks_the_cluster_for(
    held: dict[str, float],
    machines: int,
    size: int,
    cpus: float,
    gpus: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Ray(held=held, machines=machines)
    rows_on(cluster, monkeypatch, works(1), size)
    assert cluster.options == {"max_restarts": 0, "num_cpus": cpus, "num_gpus": gpus}


# ------------------------------------------------------------------------------------ refused, before any work
@pytest.mark.parametrize("named", ["ray:", "ray:0", "ray:-1", "ray:x", "spark", "", 2])
@pytest.mark.usefixtures("unchecked")
def test_what_names_no_workers(named: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'ray' or 'ray:N' with N from 1; received"):
        triage("gone.jsonl", "gone", out=tmp_path / "out", workers=named)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'lrp-lens\[ray\]'"):
        triage("gone.jsonl", "gone", out=tmp_path / "out", workers="ray:2")


def test_what_cannot_be_copied_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(part: Any) -> Any:
        raise TypeError("cannot pickle a generator")

    cluster = Ray()
    monkeypatch.setattr(cluster, "put", put)
    with pytest.raises(InputError, match=r"list_iterator cannot be copied: cannot pickle a generator\. Pass"):
        rows_on(cluster, monkeypatch, works(1), 1, iter(["one"]))


def test_nothing_to_do_needs_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ray", lambda: None)

    def no_workers(*arguments: Any) -> None:
        raise AssertionError("no case is to be done")

    monkeypatch.setattr(on_ray, "on_ray", no_workers)
    found = triage([{"question": "?"}], "no model", out=tmp_path, workers="ray:2")
    assert [row.fate for row in found.rows()] == ["bad row"]


# ------------------------------------------------------------------------------------ Ray
LETHAL, PAUSE = "lethal", "pause"


def fatal(marks: Path) -> Callable[[Case], Any]:
    """A task that tells which process has which case, and ends its process at one case once and at another always."""

    def task(case: Case) -> None:
        tries = len(list(marks.glob(f"{case.id}.*")))
        (marks / f"{case.id}.{tries}.{os.getpid()}").touch()
        if case.id == LETHAL or (case.id == "open 1" and tries == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if case.id == "open 2" and (marks / PAUSE).exists():
            time.sleep(600)

    return task


def some_cases(lethal: bool) -> list[Case]:
    """Decided ones, and open ones that have the task's checker."""
    decided = [
        replace(case, id=f"case {number}")
        for number, case in enumerate(demo_cases("key_value_ten_facts")[:3])
    ]
    opened = [
        Case(prompt=case.prompt, id=f"open {place}", correct=None) for place, case in enumerate(decided)
    ]
    return [*decided[:1], *opened, *decided[1:], *([Case(prompt="a", id=LETHAL)] if lethal else [])]


def options(marks: Path) -> TriageOptions:
    return replace(QUICK, task=fatal(marks), max_new_tokens=4, min_gap=-100)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TriageRow]:
    """The rows of one process, which is spared."""
    from lrp_lens.demo import load_demo_model

    folder = tmp_path_factory.mktemp("alone")
    (folder / f"open 1.0.{os.getpid()}").touch()
    rows = told(triage(some_cases(False), load_demo_model, out=folder / "out", options=options(folder)))
    assert {row.fate for row in rows.values()} == {"explained"}
    return rows


SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest was started in the background
import sys
from pathlib import Path
from lrp_lens.demo import load_demo_model
from lrp_lens.failures.triage.run import triage
from tests.test_triage_workers import LETHAL, options, some_cases
out, marks, lethal = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == LETHAL
model = load_demo_model if lethal else load_demo_model(device="cpu")  # loaded there, or copied
triage(some_cases(lethal), model, out=out, options=options(marks), workers="ray:2", progress=False)
"""


def started(out: Path, marks: Path, lethal: bool) -> subprocess.Popen[str]:
    """A triage on a cluster of its own, of two workers."""
    pytest.importorskip("ray", reason="needs pip install 'lrp-lens[ray]'")
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), str(marks), LETHAL if lethal else "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
    )


def workers_of(marks: Path) -> set[int]:
    """The processes that worked on cases."""
    return {int(mark.suffix[1:]) for mark in marks.glob("*.*.*")}


def alive(processes: set[int]) -> set[int]:
    return {pid for pid in processes if Path(f"/proc/{pid}").exists()}


@pytest.mark.full
def test_two_workers_give_the_rows_of_one_with_one_killed(
    alone: dict[str, TriageRow], tmp_path: Path
) -> None:
    process = started(tmp_path / "out", tmp_path, lethal=True)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    found = told(load_triage(tmp_path / "out"))
    lost = found.pop("6")
    assert lost.id == LETHAL and lost.fate == "error" and lost.reason.startswith("worker: 3 processes")
    assert found == alone
    assert len(list(tmp_path.glob("open 1.*"))) == 2 and len(list(tmp_path.glob(f"{LETHAL}.*"))) == 3
    assert len(workers_of(tmp_path)) >= 4 and not alive(workers_of(tmp_path))


@pytest.mark.full
def test_an_interrupt_stops_the_workers_and_loses_what_is_in_hand(
    alone: dict[str, TriageRow], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / PAUSE).touch()
    process = started(out, tmp_path, lethal=False)
    while len(list(out.glob("case-*.parquet"))) < 5:  # all but the one that hangs
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    assert alive(workers_of(tmp_path))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    assert not alive(workers_of(tmp_path))
    kept = {row.id: row.seconds for row in load_triage(out).rows()}
    assert sorted(kept) == ["case 0", "case 1", "case 2", "open 0", "open 1"]
    (tmp_path / PAUSE).unlink()
    from lrp_lens.demo import load_demo_model

    whole = triage(some_cases(False), load_demo_model, out=out, options=options(tmp_path))
    assert told(whole) == alone and kept.items() <= {row.id: row.seconds for row in whole.rows()}.items()
