"""How much memory a device has left, and giving freed memory back to it.

What is left is what the machine, and the limits that a container sets, say at the moment.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

_CONTAINERS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_MACHINE = "/proc/meminfo"


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on a device; None where nothing says how many.

    Example:
        >>> found = free_bytes(torch.device("cpu"))
        >>> found is None or found > 0
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [*_of_machine(), *(left for files in _CONTAINERS for left in _of_container(*files))]
    return min(found, default=None)


def give_back(device: torch.device) -> None:
    """Return freed memory to the system, where a process keeps it: glibc does on Linux, in pieces between what is held.

    Example:
        >>> give_back(torch.device("cpu"))
    """
    trim = _malloc_trim() if device.type == "cpu" else None
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _of_machine() -> list[int]:
    try:
        lines = Path(_MACHINE).read_text(encoding="utf-8").splitlines()
        return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:  # no Linux
        names = getattr(os, "sysconf_names", {})
        if {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
            return [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
        return []


def _of_container(limit: str, used: str) -> list[int]:
    try:
        return [max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))]
    except (OSError, ValueError):  # no such file, or "max"
        return []
