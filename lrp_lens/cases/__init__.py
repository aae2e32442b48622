"""A case: one prompt and what was said behind it, the decision that is to be explained, and named parts of the prompt.

1. `Case` is one question about one model, usually one that it answers wrongly.
2. A case from a log often is *undecided*: what the model said is known, where it went wrong is not.  Every analysis
   that compares two tokens refuses it (`require_decided`) until a decision was found.
3. `Passage` names a part of a prompt before there are tokens: characters, a message, what a regular expression finds.
"""

from lrp_lens.cases.case import Case
from lrp_lens.cases.decided import require_decided
from lrp_lens.cases.passages import Passage, TextSpan

__all__ = ["Case", "Passage", "TextSpan", "require_decided"]
