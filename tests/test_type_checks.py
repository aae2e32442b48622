"""Tests run under type checks: those of a function made anew at every call are compiled once, and hold every time."""

from collections.abc import Callable
from typing import Any, Literal

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
    stand_ins: list[Any] = []

    def kept(stand_in: Any) -> Any:
        stand_ins.append(checked(stand_in))
        return stand_ins[-1]

    for default in defaults:

        @jaxtyped(typechecker=kept)
        def inner(times: Any = default) -> Any:
            return times

        assert inner() is default
    assert len({id(one) for one in stand_ins}) == 4


def test_the_functions_of_lrp_lens_are_checked() -> None:
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
