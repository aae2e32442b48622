"""PromptRelevance: the record that `relevance_over` keeps of one prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrp_lens.characters import shown
from lrp_lens.errors import InputError, LrpLensError
from lrp_lens.markup import Html, told
from lrp_lens.run.ledger import Ledger
from lrp_lens.views import View


@dataclass(frozen=True, eq=False)
class PromptRelevance:
    """What is left of one prompt: views of it alone, or why there are none."""

    index: int
    """Of the prompt among those given, from 0."""
    error: LrpLensError | None = None
    """Why this prompt has no relevance; None where it has."""
    metric_value: float = float("nan")
    metric_text: str = ""
    """The metric in words, with its tokens chosen."""
    views: Mapping[str, View] = field(default_factory=dict)
    """By name, those that were asked for; each as `run_with_relevance` of the prompt alone gives it."""
    ledger: Ledger | None = None
    """Where the metric went, if asked for."""

    def __repr__(self) -> str:
        if self.error is not None:
            return shown(f"PromptRelevance({self.index}, {type(self.error).__name__}: {self.error})")
        held = [*self.views, *(["ledger"] if self.ledger is not None else [])]
        return shown(
            f"PromptRelevance({self.index}, {self.metric_text} = {self.metric_value:.4g}, {', '.join(held)})"
        )

    def plot(self, view: str | None = None, **options: Any) -> Any:
        """One of its views, drawn.

        Args:
            view: its name; None takes the first.
            options: those of `View.plot`.

        Raises:
            InputError: no such view.
        """
        name = next(iter(self.views), "") if view is None else view
        if name not in self.views:
            raise InputError(
                f"This record holds the views {', '.join(self.views) or 'none'}; received {name!r}."
            )
        return self.views[name].plot(**options)

    def _repr_html_(self) -> Html:
        return told(repr(self), *(view._repr_html_() for view in self.views.values()))
