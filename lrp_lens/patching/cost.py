"""What a method costs: seconds and peak memory of a stretch of code."""

import ctypes
import threading
import time
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")
_PAGE = 4096
_PERIOD = 0.002


def _give_back() -> None:
    """Return freed memory to the system where the allocator can, so that its next use shows."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


class Meter:
    """Seconds, and the rise of memory above what was held at the start, of a `with` block.

    On CUDA torch's own peak counter; on a CPU the resident memory of the process, sampled every 2 ms (NaN where the
    system does not show it), after the allocator has given back what is free (glibc).  On a CPU it is an estimate.

    Example:
        >>> with Meter() as meter:
        ...     block = torch.ones(10)
        >>> meter.seconds >= 0
        True
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.seconds = self.peak_mb = float("nan")

    def __enter__(self) -> "Meter":
        self._stop = threading.Event()
        if self.device.type != "cuda":
            _give_back()
        self._highest = self._start = self._held()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self._highest = torch.cuda.max_memory_allocated(self.device)
        self.seconds = time.perf_counter() - self._began
        if self.device.type != "cuda":
            self._stop.set()
            self._thread.join()
        self.peak_mb = (self._highest - self._start) / 1e6

    def _held(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return float(torch.cuda.memory_allocated(self.device))
        return float(_STATM.read_text().split()[1]) * _PAGE if _STATM.exists() else float("nan")

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD):
            self._highest = max(self._highest, self._held())
