"""An interrupted table goes on: the finished cases in one safetensors file, which each case replaces as a whole.

1. `identity` says in words and hashes what the numbers depend on: model, cases, metrics, methods and options.
2. A file is used only if it was written for the same; else the error names what differs.
3. A case's numbers depend on nothing but these, so a table that goes on is the table of an uninterrupted run.
"""

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from lrp_lens.errors import InputError
from lrp_lens.files import require_writable
from lrp_lens.files.arrays import read, write
from lrp_lens.masking.curves import Plan
from lrp_lens.masking.question import Question
from lrp_lens.methods.method import Method

KIND = "FaithfulnessCheckpoint/1"
_SAMPLED = 4096


class Measured(NamedTuple):
    """One finished case."""

    metric: float
    """The metric of the unmasked prompt."""
    measures: Float[np.ndarray, "method measure"]
    """The columns of MEASURES."""
    drawn: Float[np.ndarray, "side method point"]
    """The curves, MoRF and LeRF."""


class Checkpoint:
    """The finished cases of one table.

    Args:
        path: the file; None keeps everything in memory.
        identity: says what the numbers depend on, by name; anything that JSON can hold.  Not asked without a path.
        seconds: seconds by method; what the file holds is added.

    Raises:
        InputError: the path cannot be written, the file is damaged or no checkpoint, or it is one of other inputs.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None,
        identity: Callable[[], dict[str, Any]],
        seconds: dict[str, float],
    ) -> None:
        self.path = None if path is None else require_writable(path)
        self.identity = {} if self.path is None else identity()
        self.seconds = seconds
        self.done: list[Measured] = []
        if self.path is None or not self.path.exists():
            return
        try:
            arrays, words = read(self.path, KIND)
        except InputError as error:
            raise InputError(
                f"A checkpoint is a file that an interrupted call wrote, whole. {error} Or pass another path."
            ) from error
        other = [name for name, own in self.identity.items() if words["identity"].get(name) != own]
        if other:
            raise InputError(
                f"A checkpoint goes on with what it was written for; {fspath(self.path)!r} was written for other "
                f"{', '.join(other)}. Pass another path, or what it was written for."
            )
        columns = [arrays[name] for name in Measured._fields]
        self.done = [Measured(float(one), *rest) for one, *rest in zip(*columns, strict=True)]
        seconds |= words["seconds"]

    def add(self, one: Measured) -> None:
        """Keep one more case."""
        done = [*self.done, one]
        if self.path is not None:
            columns = zip(Measured._fields, zip(*done, strict=True), strict=True)
            arrays = {name: np.stack([np.asarray(value) for value in column]) for name, column in columns}
            write(self.path, KIND, arrays, {"identity": self.identity, "seconds": self.seconds})
        self.done = done


def identity(
    model: Any,
    questions: Sequence[Question],
    methods: Sequence[Method],
    plan: Plan,
    options: dict[str, Any],
) -> dict[str, Any]:
    """What the numbers of a table depend on.

    Args:
        model: its parameters are sampled.
        questions: one for each case.
        methods: told apart by name, cost, function and what the function was made with.
        plan: points of the curves.
        options: further options, by name.
    """
    cases = [
        [one.tokens.tolist(), one.maskable.tolist(), one.suite, one.correct, _evidence(one), one.seed]
        for one in questions
    ]
    return options | {
        "model": _model(model),
        "cases": _hashed(repr(cases)),
        "metric": _hashed(repr([_plain(one.metric) for one in questions])),
        "methods": {one.name: _hashed(repr([one.cost, _function(one.tokens)])) for one in methods},
        "steps, limit or fractions": [plan.steps, plan.limit, list(plan.fractions)],
    }


def _evidence(question: Question) -> list[int] | None:
    return None if question.evidence is None else np.flatnonzero(question.evidence).tolist()


def _function(function: Any) -> list[str]:
    """A function's name, its code and what it closes over; anything else by its repr."""
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return [_plain(function)]
    made = inspect.getclosurevars(function).nonlocals
    code = function.__code__
    said = [f"{function.__module__}.{function.__qualname__}", code.co_code.hex(), _plain(code.co_consts)]
    return [*said, *(f"{name}={_plain(value)}" for name, value in sorted(made.items()))]


def _plain(value: Any) -> str:
    """repr without addresses, which differ in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _model(model: Any) -> str:
    """Names, shapes, types and some values of all parameters."""
    total = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        some = flat[:: -(-len(flat) // _SAMPLED) or 1].cpu().contiguous().view(torch.uint8).numpy()
        total.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        total.update(some.tobytes())
    return total.hexdigest()


def _hashed(words: str) -> str:
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
