"""What every rule is: frozen data, hooks, and answers to the questions that analyses ask.

A hook has a stage, which fixes its place among the hooks of one point:

1. `replace`: returns the same value with another graph behind it;
2. (relevance is recorded here: gradient × activation of what the point passes on);
3. `scale`:   returns the same value and scales what flows back from here, so that the recorded relevance is
              what the tensor receives under the rule;
4. `read`:    keeps the tensor for a later gate, whose relevance thus passes the scales.

A question is a method marked with `@question`.  Its default raises RuleError, so a rule that does not answer is
refused by the analyses that ask, never misread.  A class that acts differently from the one it derives from (defines
`hooks` or `gate` anew) does not inherit its answers: it gives its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, TypeVar

from torch import Tensor

from lrp_lens.errors import RuleError
from lrp_lens.hosts.sites import Port
from lrp_lens.ops.gates import scale_gradient, stop_relevance

Stage = Literal["replace", "read", "scale"]
STAGES: tuple[Stage, ...] = ("replace", "scale", "read")
_ACTS = ("hooks", "gate")
"""Methods by which a rule acts."""
_DEFAULTED = ("cuts", "reaches_pattern")
"""Answers with a default that holds for a rule which acts otherwise, too."""
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Hook:
    """One TransformerLens forward hook at one port."""

    port: Port
    function: Callable[..., Tensor | None]
    stage: Stage


def question(words: str) -> Callable[[Method], Method]:
    """Mark a method as a question, whose default refuses.

    Args:
        words: what is asked, after "cannot say".
    """

    def mark(method: Method) -> Method:
        @wraps(method)
        def refuse(self: "Rule", *args: Any, **kwargs: Any) -> Any:
            raise self.unanswered(method.__name__)

        refuse.question = words  # type: ignore[attr-defined]
        return refuse  # type: ignore[return-value]

    return mark


class Rule:
    """Base of all rules; derive from the class of the operation it is for (`NormRule`, `SoftmaxRule`, ...)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not any(name in vars(cls) for name in _ACTS):
            return
        for name in dir(cls):
            first = next(vars(base)[name] for base in reversed(cls.__mro__) if name in vars(base))
            if name not in vars(cls) and name not in _ACTS and (_words(first) or name in _DEFAULTED):
                setattr(cls, name, first)

    def __str__(self) -> str:
        own = type(self).__repr__ is not object.__repr__
        return repr(self) if own else f"{type(self).__name__}()"

    @question("which hooks make it act")
    def hooks(self, site: Any) -> "tuple[Hook, ...] | None":
        """The hooks at a site; () where it needs none, None where the host lacks the hook point it needs."""
        raise NotImplementedError

    def cuts(self, site: Any) -> frozenset[str]:
        """The parts of a site (names of its fields) that receive no relevance at all; default none."""
        return frozenset()

    def words(self, operation: str) -> str:
        """The rule as a rule set prints it."""
        return str(self)

    def answers(self, name: str) -> bool:
        """Whether it answers a question.

        Example:
            >>> from lrp_lens import FrozenNorm
            >>> FrozenNorm().answers("transpose")
            True
        """
        return not _words(getattr(type(self), name, None))

    def unanswered(self, name: str, analysis: str = "", where: str = "") -> RuleError:
        """The error for a question without an answer."""
        kind, words = type(self).__name__, _words(getattr(type(self), name))
        asked = f", which {analysis} asks{where}" if analysis else ""
        return RuleError(
            f"An analysis is right or refuses: the rule {self} ({kind}) cannot say {words}{asked}. Define "
            f"{kind}.{name} (see docs/write_your_own_rule.md), or leave the rule out.",
            rule=self,
            question=name,
            analysis=analysis or None,
        )


def _words(method: object) -> str:
    return getattr(method, "question", "") if callable(method) else ""


def scaled(
    port: Port, factor: float | int, *, detach: bool = True, stage: Stage = "scale"
) -> tuple[Hook, ...]:
    """Multiply the relevance that flows back through `port`: none for 1, cut for 0.

    Args:
        port: where.
        factor: share of the relevance.
        detach: for 0, take the tensor out of the graph; False keeps it in, so that what is computed from this
            tensor alone still has a gradient.
        stage: "scale", or "replace" where what is recorded at the port lies outside the operation.
    """
    if factor == 1:
        return ()

    def hook(tensor: Tensor, hook: object) -> Tensor:
        return scale_gradient(tensor, float(factor)) if factor or not detach else stop_relevance(tensor)

    return (Hook(port, hook, stage),)


def require_share(owner: object, **shares: object) -> None:
    """Raise RuleError unless every share of a product lies between 0 and 1."""
    for name, share in shares.items():
        if not isinstance(share, float | int) or not 0 <= share <= 1:
            raise RuleError(
                f"A factor of a product takes a share of the relevance between 0 and 1; "
                f"{type(owner).__name__}.{name} is {share!r}. Use 0 (frozen), 0.5 (half rule) or 1 (plain)."
            )
