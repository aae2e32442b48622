"""Checker: whether a completion is right, and as soon as that can be said.

1. `score`: True or False, or a number from 0 to 1 that is 1 where the completion is accepted.
2. `already`: what a beginning says of every text that begins so: lost, accepted whatever follows, or nothing yet.
   A rollout ends where it is settled, and what stands behind the place where a completion was lost is not searched.
3. `spans` and `wanted`: where an accepted completion carries what makes it right, and which texts would.
4. `judge` asks under a time limit.  A checker that raises or hangs is a verdict with its reason, never an exception.
"""

import ctypes
import math
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, final

from lrp_lens.errors import InputError

Spans = tuple[tuple[int, int], ...]
"""Characters [start, stop) of a text."""
Answer = TypeVar("Answer")


class Checker(ABC):
    """Whether a completion is right."""

    at_end = False
    """Whether it is decided at the end of the completion, so that a search begins there."""

    @abstractmethod
    def score(self, completion: str) -> bool | float:
        """True, or 1, for a completion that is accepted; between 0 and 1 for one that is partly right."""

    def already(self, prefix: str) -> bool | None:
        """False if no text that begins so is accepted, True if every one is, None if it is open."""
        return None

    def spans(self, completion: str, failed: str) -> Spans | None:
        """Where an accepted completion carries what makes it right and `failed` wrong; None if that is not known."""
        return None

    def wanted(self, failed: str) -> tuple[str, ...]:
        """Texts that a right completion has, and `failed` lacks; empty if none is known."""
        return ()


@final
@dataclass(frozen=True)
class Callback(Checker):
    """Any function of the completion.

    Example:
        >>> Callback(lambda text: "," not in text).score("no comma")
        True
    """

    function: Callable[[str], bool | float]

    def score(self, completion: str) -> Any:  # `judge` says what else it returned
        return self.function(completion)


def as_checker(checker: Any) -> Checker:
    """The checker itself, or one that calls a function.

    Raises:
        InputError: neither.
    """
    if isinstance(checker, Checker):
        return checker
    if callable(checker) and not isinstance(checker, type):
        return Callback(checker)
    raise InputError(
        f"A checker is a Checker or a function of the completion; received {checker!r}. Write e.g. "
        "`lambda text: 'yes' in text`, or `Contains('yes')`."
    )


@dataclass(frozen=True)
class Verdict:
    """What a checker says of a completion."""

    score: float
    """From 0 to 1; NaN where the checker failed."""
    failure: str = ""
    """Why it said nothing: it raised, hung or returned no number."""

    @property
    def accepted(self) -> bool:
        """Whether the completion is right."""
        return self.score >= 1


class _OutOfTimeError(BaseException):
    """Raised inside a checker that takes too long; no `except Exception` of its own catches it."""


def judge(checker: Checker, completion: str, seconds: float | int) -> Verdict:
    """The verdict on a completion, within a time limit.

    Example:
        >>> judge(as_checker(lambda text: len(text) > 3), "long enough", 5.0).accepted
        True
        >>> judge(as_checker(lambda text: 1 / 0), "anything", 5.0).failure
        'the checker raised ZeroDivisionError: division by zero'
    """
    said: Any
    said, failure = asked(lambda: checker.score(completion), seconds)
    if failure:
        return Verdict(math.nan, failure)
    try:
        score = math.nan if said is None else float(said)
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= 1:
        return Verdict(math.nan, f"the checker returned {said!r}, neither a bool nor a number from 0 to 1")
    return Verdict(score)


def settled(checker: Checker, prefix: str, seconds: float | int) -> tuple[bool | None, str]:
    """What `already` says of a prefix, characters that are not complete left out; and why it failed, if so."""
    return asked(lambda: checker.already(prefix.rstrip("\ufffd")), seconds)


def asked(question: Callable[[], Answer], seconds: float | int) -> tuple[Answer | None, str]:
    """The answer of code that nobody vouches for, or why there is none."""
    try:
        with _limited(seconds):
            return question(), ""
    except _OutOfTimeError:
        return None, f"the checker took more than {seconds:g} s"
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        told = next((line.strip() for line in lines if line.strip(" *")), "")
        return None, f"the checker raised {type(error).__name__}: {told}"


@contextmanager
def _limited(seconds: float | int) -> Iterator[None]:
    """Raise `_OutOfTimeError` in this thread after some seconds.

    In the main thread by a timer's signal, which interrupts regular expressions, too; elsewhere, and where a timer of
    somebody's runs, from a second thread, which stops Python code only.
    """
    main = threading.current_thread() is threading.main_thread()
    if main and hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):

        def ring(number: int, frame: Any) -> None:
            raise _OutOfTimeError

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return
    owner, lock, over = threading.get_ident(), threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(owner), ctypes.py_object(_OutOfTimeError)
                )

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
