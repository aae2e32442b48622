"""HumanEval: the unit tests of a program that a model wrote, in a process of its own.

1. Prompt, completion (to the first text that ends a function, as lm-evaluation-harness cuts it) and tests are one
   program.
2. It runs in a fresh Python: no environment, an empty working directory, a limit on time and memory, and a filter of
   system calls (seccomp) under which no socket can be opened, no process started and none signalled.
3. It passes if it gets behind its tests.  A program that fails, takes too long or too much memory is wrong.

What a program can still do is read, and empty or remove, files of the user that runs it: run it in a container.  That
is why it never runs unless `allow_code_execution=True`.

HumanEval: Chen et al. 2021, arXiv 2107.03374.
"""

import os
import platform
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import final

from lrp_lens.errors import InputError
from lrp_lens.failures.decision.checker import Checker

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What ends a function, as lm-evaluation-harness has them."""

# Audit numbers, and the numbers of socket, socketpair, clone, fork, vfork, execve, kill, tkill, tgkill, ptrace,
# execveat, io_uring_setup, clone3; fork and vfork are clone on ARM.
_SYSTEM_CALLS = {
    "x86_64": (0xC000003E, (41, 53, 56, 57, 58, 59, 62, 200, 234, 101, 322, 425, 435)),
    "aarch64": (0xC00000B7, (198, 199, 220, 221, 129, 130, 131, 117, 281, 425, 435)),
}

_LAUNCHER = """
import ctypes, os, resource, struct, sys
audit, calls, memory, seconds, report, word = {audit}, {calls}, {memory}, {seconds}, {report}, {word!r}
program = sys.stdin.read()
for name, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, 0),
                    (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(name, (value, value))
# load the architecture: another one is killed; load the number: forbidden ones and x32's (from 2**30) get EPERM
steps = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0),
         (0x35, len(calls) + 1, 0, 0x40000000)]
steps += [(0x15, len(calls) - place, 0, call) for place, call in enumerate(calls)]
steps += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]
packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
filtered = Filter(len(steps), ctypes.addressof(packed))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filtered), 0, 0):
    os.write(report, b"no filter")
    os._exit(3)
del ctypes
exec(compile(program, "program", "exec"), {{"__name__": "__main__"}})
os.write(report, word.encode())
"""


@final
@dataclass(frozen=True)
class HumanEval(Checker):
    r"""A task of HumanEval.

    Args:
        prompt: the beginning of the program, which the completion goes on with.
        test: the tests, which define `check`.
        entry_point: name of the function that is checked.
        allow_code_execution: has to be True, for what a model wrote is run on this machine.
        seconds: how long the program may run.
        memory: its limit, in bytes.

    Raises:
        InputError: without allow_code_execution, a limit that is none, or on a system where the network cannot be cut
            off (it is on Linux, x86_64 and aarch64).

    Example:
        >>> HumanEval("def one():\n", "def check(one):\n    assert one() == 1\n", "one")
        Traceback (most recent call last):
        lrp_lens.errors.InputError: HumanEval runs what a model wrote on this machine. Pass allow_code_execution=True if
        you want that, best in a container.
    """

    prompt: str
    test: str
    entry_point: str
    allow_code_execution: bool = False
    seconds: float | int = 5.0
    memory: int = 2**29

    def __post_init__(self) -> None:
        if self.allow_code_execution is not True:
            raise InputError(
                "HumanEval runs what a model wrote on this machine. Pass allow_code_execution=True if you want that, "
                "best in a container."
            )
        if sys.platform != "linux" or platform.machine() not in _SYSTEM_CALLS:
            raise InputError(
                "HumanEval runs programs without a network, which is cut off on Linux (x86_64, aarch64) only; this is "
                f"{sys.platform} on {platform.machine()}. Run it in a container, or pass a checker of your own."
            )
        if not self.seconds > 0 or self.memory < 2**27 or not self.entry_point.isidentifier():
            raise InputError(
                "HumanEval needs seconds above 0, memory of at least 2**27 bytes and the name of a function; received "
                f"seconds={self.seconds}, memory={self.memory}, entry_point={self.entry_point!r}."
            )

    def score(self, completion: str) -> bool:
        cut = min((place for stop in STOPS if (place := completion.find(stop)) >= 0), default=len(completion))
        return passes(
            f"{self.prompt}{completion[:cut]}\n{self.test}\ncheck({self.entry_point})\n",
            self.seconds,
            self.memory,
        )


def passes(program: str, seconds: float | int, memory: int) -> bool:
    """Whether a program runs to its end within the limits, without network.

    Raises:
        InputError: the system refuses the filter of system calls.
    """
    audit, calls = _SYSTEM_CALLS[platform.machine()]
    word = secrets.token_hex(16)  # known to nobody who ends the program early
    receive, report = os.pipe()
    launcher = _LAUNCHER.format(
        audit=audit, calls=calls, memory=memory, seconds=int(seconds) + 1, report=report, word=word
    )
    with tempfile.TemporaryDirectory() as empty, os.fdopen(receive, "rb") as received:
        try:
            subprocess.run(
                [sys.executable, "-I", "-c", launcher],
                input=program.encode("utf-8", "surrogatepass"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                cwd=empty,
                env={"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
                pass_fds=(report,),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        finally:
            os.close(report)
        said = received.read().decode("ascii", "replace")
    if said == "no filter":
        raise InputError(
            "HumanEval runs programs without a network; this system refuses the filter that cuts it off (seccomp). "
            "Run it where seccomp is allowed."
        )
    return said == word
