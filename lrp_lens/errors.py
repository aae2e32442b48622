"""The four errors of lrp_lens; each message says the invariant, what was received, and the likely fix."""


class InputError(ValueError):
    """A prompt, token, position, file or option that the call cannot work with."""


class UnknownNameError(InputError, KeyError):
    """A hook point that a result does not hold; a KeyError, too, so that results work as mappings."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class MetricError(ValueError):
    """A metric that cannot be read from these logits or bound to this tokenizer."""


class RuleError(ValueError):
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


class SiteError(ValueError):
    """An operation of the model that no rule knows, or an edit that the host drops."""
