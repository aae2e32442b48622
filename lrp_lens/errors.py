"""The four errors of lrp_lens; each message says the invariant, what was received, and the likely fix."""


class InputError(ValueError):
    """A prompt, token, position, file or option that the call cannot work with."""


class MetricError(ValueError):
    """A metric that cannot be read from these logits or bound to this tokenizer."""


class RuleError(ValueError):
    """A relevance rule with impossible settings, or one that does not fit the operation it was given to."""


class SiteError(ValueError):
    """An operation of the model that no rule knows, or an edit that the host drops."""
