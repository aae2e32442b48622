"""Tests run under type checks: those of a function made anew at every call are compiled once, and hold every time."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import Float, Int, TypeCheckError, jaxtyped
from torch import Tensor

from lrp_lens.methods.inputs import per_prompt
from lrp_lens.ops import gates
from tests import type_checks
from tests.type_checks import checked


def made(scale: float, kind: Any = float, default: Any = 1) -> Callable[..., Any]:
    """A function that is made anew, of a signature that depends on the arguments."""

    @jaxtyped(typechecker=checked)
    def inner(x: Float[Tensor, "a b"], by: kind, times: Any = default) -> Float[Tensor, " a"]:
        return (x.sum(-1) if by else x) * scale

    return inner


def test_each_function_is_checked_and_is_itself() -> None:
    for scale in (1.0, 2.0, 3.0):
        function = made(scale)
        assert torch.equal(function(torch.ones(3, 2), 1.0), torch.full((3,), 2 * scale))
        for wrong in (
            ("text", 1.0),
            (torch.ones(3), 1.0),
            (torch.ones(3, 2), "text"),
            (torch.ones(3, 2), 0.0),
        ):
            with pytest.raises(TypeCheckError):
                function(*wrong)


def test_a_signature_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(type_checks, "_compiled", {})
    original = type_checks.beartype
    monkeypatch.setattr(type_checks, "beartype", lambda one: (compiled.append(one), original(one))[1])
    made(1.0)
    assert len(compiled) == 2  # the parameters, and all with what is returned
    made(2.0)
    assert len(compiled) == 2


def test_signatures_that_differ_are_told_apart() -> None:
    by_text, by_number = made(1.0, str), made(1.0, float)
    for function, right, wrong in (
        (by_text, "text", 1.0),
        (by_number, 1.0, "text"),
        (made(1.0, str), "a", 1.0),
    ):
        function(torch.ones(3, 2), right)
        with pytest.raises(TypeCheckError):
            function(torch.ones(3, 2), wrong)


@pytest.mark.parametrize("defaults", [(0, False), (1, 1.0), ([1], [2])])
def test_defaults_are_told_apart(defaults: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type_checks, "_compiled", {})
    found: list[Any] = []
    for default in defaults:

        def inner(times: Any = default) -> Any:
            return times

        assert checked(inner)() is default
        found.append(type_checks._checks(inner))
    assert found[0] is not found[1]


def test_an_axis_has_one_size_within_a_call() -> None:
    @checked
    def inner(x: Float[Tensor, " a"], y: Float[Tensor, " a"], end: int) -> Float[Tensor, " a"]:
        return x[:end]

    for size in (2, 3):
        assert len(inner(torch.ones(size), torch.ones(size), size)) == size
    for sizes in ((2, 3, 2), (3, 3, 2)):
        with pytest.raises(TypeCheckError, match="inner"):
            inner(torch.ones(sizes[0]), torch.ones(sizes[1]), sizes[2])


@checked
@dataclasses.dataclass(frozen=True)
class Held:
    """Everything that a class can hold which is called."""

    values: Float[Tensor, " a"]
    scale: int = 1

    @classmethod
    @checked
    def ones(cls, size: int) -> "Held":
        return cls(torch.ones(size))

    @staticmethod
    @checked
    def double(by: int, /, *more: int, times: int = 2, **named: int) -> int:
        return times * sum((by, *more, *named.values()))

    @property
    @checked
    def first(self) -> str:
        return self.values[0].item()  # type: ignore[return-value]


def test_what_a_class_holds_is_checked() -> None:
    assert Held.double(1, 2, times=3, more=4) == 21
    calls: list[Callable[[], Any]] = [
        lambda: Held("text"),  # type: ignore[arg-type]
        lambda: Held(torch.ones(2), "text"),  # type: ignore[arg-type]
        lambda: Held.ones("text"),  # type: ignore[arg-type]
        lambda: Held.double(1, "text"),  # type: ignore[arg-type]
        lambda: Held.double(1, more="text"),  # type: ignore[arg-type]
        lambda: Held.ones(2).first,
    ]
    for call in calls:
        with pytest.raises(TypeCheckError):
            call()
    assert Held.ones(2).values.shape == (2,)


def test_wrong_numbers_of_arguments_stay_errors_of_the_call() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        Held.double()  # type: ignore[call-arg]


def test_an_annotation_for_type_checkers_only_is_no_check() -> None:
    def inner(x: "NotImported", y: int) -> int:  # type: ignore[name-defined]
        return y

    assert checked(inner)("anything", 1) == 1
    with pytest.raises(TypeCheckError):
        checked(inner)("anything", "text")


def test_the_functions_of_lrp_lens_are_checked() -> None:
    assert jaxtyping.jaxtyped is checked
    with pytest.raises(TypeCheckError):
        gates.accumulation_dtype("float32")
    for _ in range(2):
        metric: Any = per_prompt(lambda logits: logits.sum(), None)
        with pytest.raises(TypeCheckError):
            metric.function("logits")


HINTS = [
    Float[Tensor, "a b"],
    Float[Tensor, "a c"],
    Float[np.ndarray, "a b"],
    Int[Tensor, "a b"],
    Float[Tensor, "a b"] | None,
    list[Float[Tensor, "a b"]],
    list[Float[Tensor, "a c"]],
    Callable[[Float[Tensor, "a b"]], None],
    Callable[[Float[Tensor, "a b"]], int],
    Literal[1],
    Literal[True],
]


@pytest.mark.parametrize("place", range(len(HINTS)))
def test_types_that_differ_are_told_apart(place: int) -> None:
    found = [type_checks._parts(one) for one in HINTS]
    assert [index for index, one in enumerate(found) if one == found[place]] == [place]
