"""Processor time, wall clock and peak memory of pieces of work, in worker processes that take turns.

1. A worker holds one model, in an environment that need not be this one.  It warms up, notes what memory it has now
   (the model), and answers requests, a line of JSON each.
2. Before a request freed memory goes back to the system and the kernel's high-water mark is set back; what the mark
   says afterwards, less the model, is the peak of that piece of work alone.
3. `in_turns` asks several workers one after another, several times, so that a busy machine hits them alike: what can be
   compared are ratios of neighbours.

Nothing but Python's own library: a peer's environment has no lrp_lens.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WARM_UP = 32
"""Tokens of the first, unmeasured calls."""
Work = Callable[[int], "Sequence[float] | None"]
"""Tokens → numbers to be compared, or nothing."""


def memory(what: str) -> int:
    """Bytes that this process holds now (VmRSS), or held at most since the mark was set back (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])
    raise OSError(f"the system does not say {what}")


def machine() -> str:
    """Processor, cores and memory, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor"
    )
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{name}, {os.cpu_count()} cores, {size:.0f} GiB"


def released() -> None:
    """Give freed memory back to the system, and set the high-water mark back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def used(work: Work, tokens: int, model: int) -> dict[str, Any]:
    """What one piece of work took; `refused` where it raised an error."""
    released()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        found = work(tokens)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {
        **seconds,
        "peak_mb": (memory("VmHWM") - model) / 1e6,
        "found": None if found is None else [*found],
    }


def serve(works: Mapping[str, Work]) -> None:
    """Answer requests until there are no more; what libraries print goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name, work in works.items():
        if not name.startswith("ask "):
            work(WARM_UP)
    released()
    model = memory("VmRSS")
    print(json.dumps({"model_mb": model / 1e6}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = used(works[request["work"]], request["tokens"], model)
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A worker process, started when it is first asked, and anew if it has died."""

    def __init__(self, *arguments: str, python: Path | str = sys.executable, threads: int = 1) -> None:
        self.command = [str(python), "-m", *arguments]
        self.threads = str(threads)
        self.process: subprocess.Popen[str] | None = None
        self.model_mb = 0.0

    def ask(self, work: str, tokens: int) -> dict[str, Any]:
        """What one piece of work took; `refused` also where the process was ended, as by a lack of memory."""
        try:
            process = self.process or self._start()
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps({"work": work, "tokens": tokens}), file=process.stdin, flush=True)
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.close()
            return {"refused": f"the process ended with {code}"}
        return dict(json.loads(answer))

    def _start(self) -> "subprocess.Popen[str]":
        count = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), self.threads)
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env={**os.environ, **count},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        if not ready:
            raise RuntimeError(f"{' '.join(self.command)} did not start: status {self.close()}")
        self.model_mb = float(json.loads(ready)["model_mb"])
        return self.process

    def close(self) -> int:
        """End the process; its exit status."""
        if self.process is None:
            return 0
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        code, self.process = self.process.wait(), None
        return code


def in_turns(asked: Sequence[tuple[str, Worker, str]], tokens: int, turns: int) -> list[dict[str, Any]]:
    """A row for each turn of each (name, worker, work); what was refused is not asked again."""
    rows: list[dict[str, Any]] = []
    refused: set[str] = set()
    for turn in range(turns):
        for name, worker, work in asked:
            if name not in refused:
                answer = worker.ask(work, tokens)
                rows.append({"tokens": tokens, "work": name, "turn": turn, "refused": ""} | answer)
                refused |= {name} if "refused" in answer else set()
    return rows


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two rows of numbers, as a share of the other's largest."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) / max(map(abs, other))
