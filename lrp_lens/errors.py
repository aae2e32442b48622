"""The errors of lrp_lens: one base, four kinds.  Each message says the invariant, what was received, the likely fix."""

from collections.abc import Iterable
from difflib import get_close_matches


class LrpLensError(ValueError):
    """Base of every error that lrp_lens raises on purpose; catch this one for all of them."""


class InputError(LrpLensError):
    """A prompt, token, position, file or option that the call cannot work with."""


class UnknownNameError(InputError, KeyError):
    """A hook point that a result does not hold; a KeyError, too, so that results work as mappings."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class MetricError(LrpLensError):
    """A metric that cannot be read from these logits or bound to this tokenizer."""


class RuleError(LrpLensError):
    """A relevance rule with impossible settings, one that does not fit, or one that does not answer an analysis."""

    def __init__(
        self, message: str, *, rule: object = None, question: str | None = None, analysis: str | None = None
    ) -> None:
        super().__init__(message)
        self.rule = rule
        """The rule that does not answer, if that is the fault."""
        self.question = question
        """The method it lacks, e.g. "transpose"."""
        self.analysis = analysis
        """What asked, e.g. "component_edges"."""


class SiteError(LrpLensError):
    """An operation of the model that no rule knows, or an edit that the host drops."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The nearest of the known names, as the end of a message; "" if none is near.

    Example:
        >>> did_you_mean("REPL", ["RELP", "GIM"])
        " Did you mean 'RELP'?"
    """
    spelled = {bare_name(one): one for one in known}
    near = get_close_matches(bare_name(name), spelled, n=2) if isinstance(name, str) else []
    return f" Did you mean {' or '.join(repr(spelled[one]) for one in near)}?" if near else ""


def bare_name(name: str) -> str:
    """A name without case and punctuation: "attn-lrp" and "ATTN_LRP" are one."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
