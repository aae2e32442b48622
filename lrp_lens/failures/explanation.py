"""What `explain` returns: one preference, every view of it, and the check of the claim. Data only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.characters import shown, signed
from lrp_lens.failures.explanation_json import (
    SCHEMA,
    VIEWS,
    ledger_from_json,
    ledger_to_json,
    require_schema,
    view_from_json,
    view_to_json,
)
from lrp_lens.files import read_json
from lrp_lens.views import View
from lrp_lens.views.groups import Group, groups_of, places
from lrp_lens.views.table import table_of

if TYPE_CHECKING:
    from lrp_lens.masking.check import MaskingCheck

_PLAIN = (
    "title", "prompt", "model_name", "metric", "metric_value", "rules", "remainder", "correct", "seconds", "position",
    "prompt_length",
)  # fmt: skip
_LISTS = ("completion", "notes", "token_ids")


@dataclass(frozen=True)
class Choice:
    """One candidate for the next token."""

    text: str
    id: int
    logit: float
    probability: float
    rank: int
    """1 is the model's first choice."""

    def __str__(self) -> str:
        return f"{self.text!r} (logit {self.logit:.2f}, p = {self.probability:.3f}, rank {self.rank})"


@dataclass(frozen=True)
class Explanation:
    """Why did the model prefer `target` over `contrast`?

    Positive relevance pushes towards the target, negative relevance towards the contrast.
    """

    prompt: str
    model_name: str
    token_strings: tuple[str, ...]
    """Tokens of the prompt as the model saw them, BOS included."""
    target: Choice
    """The token whose preference is explained."""
    contrast: Choice
    """The token it is compared with."""
    candidates: tuple[Choice, ...]
    """The model's first choices, best first."""
    metric: str
    """The metric in words."""
    metric_value: float
    """Logit of the target minus logit of the contrast."""
    rules: str
    """Name of the rule set."""
    tokens: View
    """Per input token, dims (position,)."""
    layers: View
    """Residual stream, dims (layer, position)."""
    heads: View
    """Attention heads, dims (layer, head)."""
    components: View
    """Embeddings, heads, MLPs, biases, dims (component,)."""
    ledger: pd.DataFrame
    """Where the metric went: columns layer, name, kind, amount, share."""
    remainder: float
    """What the ledger cannot account for, in logits; a bug unless it is round-off."""
    masking: "MaskingCheck"
    segments: View | None = None
    """Tokens summed over messages, template and completion, dims (segment,); None for a plain prompt."""
    completion: tuple[str, ...] = ()
    """Tokens of the completion whose token `position` is explained; empty for none.  Those before it are among
    `token_strings`."""
    position: int | None = None
    token_ids: tuple[int, ...] = ()
    """Ids of these tokens, for what runs the model again (`lrp_lens.failures.verification`)."""
    prompt_length: int = 0
    """How many of them are the prompt; what follows has been said since."""
    title: str = ""
    """Name of the case, if any."""
    correct: bool | None = None
    """Whether the target is the right answer, as the case says; None where nobody said."""
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock time of each step."""

    @property
    def roles(self) -> tuple[str, str]:
        """What target and contrast are called; "right" and "wrong" only where a case knows.

        ("target (wrong)", "contrast (right)") in a failure, ("target", "contrast") where nobody said.
        """
        if self.correct is None:
            return "target", "contrast"
        first, second = ("right", "wrong") if self.correct else ("wrong", "right")
        return f"target ({first})", f"contrast ({second})"

    def top_tokens(self, k: int = 5) -> pd.DataFrame:
        """The k non-special tokens with the largest |relevance|."""
        return self.tokens.top(k, exclude_special=True)

    def top_words(self, k: int = 5) -> pd.DataFrame:
        """The k words with the largest |relevance|, largest first: columns text, positions ("3" or "3–4"), value."""
        groups = [one for one in self._words() if not one.special]
        values = [float(self.tokens.values[list(one.positions)].sum(dtype=float)) for one in groups]
        where = [places(one.positions) for one in groups]
        columns = {"text": [one.label for one in groups], "positions": where, "value": np.array(values)}
        rows = table_of(columns).dropna(subset=["value"])
        order = np.argsort(-rows["value"].abs().to_numpy(), kind="stable")[: max(k, 0)]
        return rows.iloc[order].reset_index(drop=True)

    def _words(self) -> list[Group]:
        """The tokens put together to words; each alone where their text is not known."""
        return groups_of(self.tokens, "word" if self.tokens.pieces is not None else "position")

    def top_heads(self, k: int = 5) -> pd.DataFrame:
        """The k heads with the largest |relevance|: columns label, value."""
        return self.heads.top(k)[["label", "value"]]

    def top_mlps(self, k: int = 5) -> pd.DataFrame:
        """The k MLPs with the largest |relevance|: columns component, value."""
        rows = self.components.to_dataframe()
        rows = rows[rows["component"].str.contains("mlp", case=False)]
        order = rows["value"].abs().sort_values(ascending=False, kind="stable").index
        return rows.loc[order[:k], ["component", "value"]].reset_index(drop=True)

    def claim(self) -> str:
        """The explanation in words: what pushes most towards the target, and a word that pushes harder against it."""
        rows = self.top_words(len(self.token_strings))
        favour, against = rows[rows["value"] > 0].head(3), rows[rows["value"] < 0].head(1)
        claim = (
            f"Towards {self.target.text!r} push most: {_said(favour)}."
            if len(favour)
            else f"No token of the prompt pushes towards {self.target.text!r}."
        )
        if len(against) and against.index[0] == 0:
            claim += f" Against it pushes {'harder' if len(favour) else 'most'}: {_said(against)}."
        return claim

    def shares(self) -> str:
        """The relevance of each message, of the template and of the completion in words; "" for a plain prompt."""
        if self.segments is None:
            return ""
        rows = self.segments.to_dataframe()
        said = ", ".join(f"{row.segment} ({signed(row.value)})" for row in rows.itertuples())
        return f"By message: {said}."

    def to_json_dict(self) -> dict[str, Any]:
        """Everything as plain lists, numbers and strings, ready for json.dumps; `from_json_dict` reads it."""
        plain = {"schema": SCHEMA} | {name: getattr(self, name) for name in _PLAIN}
        plain["tokens"] = list(self.token_strings)
        plain |= {name: list(getattr(self, name)) for name in _LISTS}
        plain["claim"] = self.claim()
        for name in ("target", "contrast"):
            plain[name] = asdict(getattr(self, name))
        plain["candidates"] = [asdict(one) for one in self.candidates]
        views = {name: getattr(self, name) for name in VIEWS}
        plain["views"] = {name: view_to_json(view) for name, view in views.items() if view is not None}
        return plain | ledger_to_json(self.ledger) | {"masking": self.masking.to_dict()}

    @classmethod
    def from_json_dict(cls, plain: Mapping[str, Any]) -> "Explanation":
        """The explanation that `to_json_dict` was called on.

        Raises:
            InputError: something else, or the JSON form of another version.
        """
        from lrp_lens.masking.check import MaskingCheck

        plain = require_schema(plain)
        held: dict[str, Any] = {name: plain[name] for name in _PLAIN}
        held |= {name: tuple(plain[name]) for name in _LISTS}
        held |= {name: view_from_json(one) for name, one in plain["views"].items()}
        held |= {name: Choice(**plain[name]) for name in ("target", "contrast")}
        return cls(
            **held,
            token_strings=tuple(plain["tokens"]),
            candidates=tuple(Choice(**one) for one in plain["candidates"]),
            ledger=ledger_from_json(plain),
            masking=MaskingCheck.from_dict(plain["masking"]),
        )

    def save(
        self, path: str | PathLike[str], *, palette: Literal["default", "lrp"] = "default"
    ) -> tuple[Path, ...]:
        """Write the report (.html), the numbers (.json), or, where the name has no suffix, both.

        Args:
            path: e.g. "report.html", "report.json", or "report" for both.
            palette: of the page: "default" (blue pushes towards the target) or "lrp" (red does).

        Returns:
            The absolute paths of what was written.

        Raises:
            InputError: another suffix, a path that cannot be written, or an unknown palette.
        """
        from lrp_lens.report.saving import save_explanation

        return save_explanation(self, path, palette=palette)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Explanation":
        """The explanation that `save` wrote as .json.

        Raises:
            InputError: no such file, or none of an explanation.
        """
        return cls.from_json_dict(read_json(path))

    def plot(self, **options: Any) -> Any:
        """The heat map of its tokens; options are those of `View.plot`.  The report (`save`) holds every figure."""
        return self.tokens.plot(**options)

    def _repr_html_(self) -> str:
        from lrp_lens.report.glance import explanation_glance

        return str(explanation_glance(self))

    def __repr__(self) -> str:
        lines = [
            f"Explanation of {self.model_name} ({self.rules}): {self.metric} = {signed(self.metric_value, '+.3f')}",
            f"  {self.roles[0]}: {self.target}",
            f"  {self.roles[1]}: {self.contrast}",
            f"  {self.claim()}",
            *(f"  {said}" for said in (self.shares(),) if said),
            f"  {self.masking}",
            *(f"  caution: {said}" for said in self.tokens.cautions if said),
            *(f"  note: {note}" for note in self.notes if note not in self.tokens.cautions),
        ]
        return shown("\n".join(lines))


def _said(words: pd.DataFrame) -> str:
    return ", ".join(
        f"{text!r} (position{'s' * ('–' in where)} {where}, {signed(value)})"
        for text, where, value in zip(*(words[name].tolist() for name in words), strict=True)
    )
