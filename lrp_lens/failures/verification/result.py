"""What `verify` returns: the checks of one case, its verdict and pattern, its stability and its repairs.  Data only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lrp_lens.characters import shown, signed
from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Choice
from lrp_lens.failures.verification.check import DEEDS, Check, listed
from lrp_lens.failures.verification.criterion import CaseVerdict, Criterion, Pattern
from lrp_lens.failures.verification.outcomes import Repair, Variant
from lrp_lens.files import read_json

SCHEMA = "lrp_lens.verification/1"
"""What the JSON form is called, its first entry."""
_READ = {
    CaseVerdict.INPUT: "The failure can be seen in the prompt's tokens.",
    CaseVerdict.GRAPH: "Tokens do not show the failure; heads, MLPs or attention edges that relevance blames do.",
    CaseVerdict.NONE: "No intervention on what relevance blames turns the preference more than random ones do.",
}


@dataclass(frozen=True)
class Verification:
    """What interventions say about one failure."""

    prompt: str
    token_strings: tuple[str, ...]
    target: Choice
    """What the model says."""
    contrast: Choice
    """What it should say."""
    rules: str
    replacement: str
    """What the embeddings of hidden tokens become, in words."""
    factor: float
    """By which the values of amplified tokens are multiplied."""
    criterion: Criterion
    hide: Check
    """Tokens that support the target, hidden."""
    amplify: Check
    """Tokens that support the contrast, amplified."""
    silence: Check | None
    """Heads and MLPs that support the target, silenced at their places; None where it was not run."""
    cut: Check | None = None
    """Attention edges that support the target, cut; None where it was not run."""
    variants: tuple[Variant, ...] = ()
    repairs: tuple[Repair, ...] = ()
    """Every change of the text that was run, right or not."""
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock time of each part."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks that were run."""
        return tuple(one for one in (self.hide, self.amplify, *self.inside) if one is not None)

    @property
    def inside(self) -> tuple[Check | None, Check | None]:
        """The checks inside the model, None for one that was not run."""
        return self.silence, self.cut

    @property
    def verdict(self) -> CaseVerdict:
        """Where the failure can be seen: input, graph or none."""
        return self.criterion.verdict(self.hide, self.amplify, *self.inside)

    @property
    def pattern(self) -> Pattern:
        """How its tokens were weighted."""
        return self.criterion.pattern(self.hide, self.amplify)

    @property
    def confidence(self) -> float:
        """That of the check the verdict rests on, the surest of several; 0 for none.

        It is 1 − the chance that random tokens (or places, or edges) do the same: see `Criterion.confidence`.
        """
        asked = (self.hide, self.amplify) if self.verdict == CaseVerdict.INPUT else self.inside
        return max(self.criterion.confidence(one) for one in asked)

    @property
    def stable(self) -> bool | None:
        """Whether every variant has the same verdict; None where none was run."""
        return all(one.verdict == self.verdict for one in self.variants) if self.variants else None

    @property
    def repair(self) -> Repair | None:
        """Of the changes that made the answer right, the one of the fewest tokens; None if there is none."""
        right = [one for one in self.repairs if one.reading.right]
        return min(right, key=lambda one: one.changed, default=None)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per run: check, size, units, gap, first_choice, flip, win, answer, accepted, control."""
        return pd.concat([one.to_dataframe() for one in self.checks], ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, for JSON."""
        repair = self.repair
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "pattern": self.pattern.value,
            "confidence": self.confidence,
            "stable": self.stable,
            "summary": self.summary(),
            "prompt": self.prompt,
            "tokens": list(self.token_strings),
            "target": asdict(self.target),
            "contrast": asdict(self.contrast),
            "rules": self.rules,
            "replacement": self.replacement,
            "factor": self.factor,
            "criterion": self.criterion.to_dict(),
            "checks": [one.to_dict() for one in self.checks],
            "variants": [one.to_dict() for one in self.variants],
            "repair": None if repair is None else asdict(repair),
            "repairs": [asdict(one) for one in self.repairs],
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Verification":
        """The verification that `to_dict` was called on.

        Args:
            values: what it returned, or `json.loads` of it.

        Raises:
            InputError: another schema, or other entries.
        """
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            found = values.get("schema") if isinstance(values, Mapping) else type(values).__name__
            raise InputError(
                f"A verification is read from what its to_dict() returned, with the schema {SCHEMA!r}; received "
                f"{found!r}."
            )
        try:
            plain: Any = {
                name: values[name] for name in ("prompt", "rules", "replacement", "factor", "seconds")
            }
            checks: Any = {one["kind"]: Check.from_dict(one) for one in values["checks"]}
            return cls(
                **plain,
                **dict.fromkeys(DEEDS) | checks,
                token_strings=tuple(values["tokens"]),
                target=Choice(**values["target"]),
                contrast=Choice(**values["contrast"]),
                criterion=Criterion(**values["criterion"]),
                variants=tuple(map(Variant.from_dict, values["variants"])),
                repairs=tuple(map(Repair.from_dict, values["repairs"])),
                notes=tuple(values["notes"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"A verification of the schema {SCHEMA!r} has other entries ({type(error).__name__}: {error}). Write "
                "it anew with to_dict()."
            ) from error

    def save(
        self, path: str | PathLike[str], *, palette: Literal["default", "lrp"] = "default"
    ) -> tuple[Path, ...]:
        """Write the report (.html), the numbers (.json), or, where the name has no suffix, both.

        Args:
            path: e.g. "report.html", "report.json", or "report" for both.
            palette: of the page: "default" (blue is the target) or "lrp" (red is).

        Returns:
            The absolute paths of what was written.

        Raises:
            InputError: another suffix, a path that cannot be written, or an unknown palette.
        """
        from lrp_lens.report.saving import save_verification

        return save_verification(self, path, palette=palette)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Verification":
        """The verification that `save` wrote as .json.

        Raises:
            InputError: no such file, or none of a verification.
        """
        return cls.from_dict(read_json(path))

    def _repr_html_(self) -> str:
        from lrp_lens.report.glance import verification_glance

        return str(verification_glance(self))

    def summary(self) -> str:
        """The verdict in words."""
        said = [f"Verdict: {self.verdict} (confidence {self.confidence:.2f}). {_READ[self.verdict]}"]
        if self.verdict == CaseVerdict.INPUT:
            both = Pattern.UNDERWEIGHTED.value + " and " + Pattern.OVERWEIGHTED.value
            said.append(f"Pattern: {both if self.pattern == Pattern.BOTH else self.pattern}.")
        if self.stable is False:
            other = [one for one in self.variants if one.verdict != self.verdict]
            told = (f"{one.verdict} under {one.rules}, {one.replacement}" for one in other)
            said.append(f"Unstable: {'; '.join(told)}.")
        return " ".join(said)

    def __repr__(self) -> str:
        first, event = self.hide.steps[0].reading, self.criterion.event
        lines = [
            f"Verification ({self.rules}): {self.target.text!r} against {self.contrast.text!r},"
            f" gap {signed(first.gap)}",
            f"  {self.summary()}",
            f"  A check passes by: {self.criterion}.",
            *(f"  {one.words(event)} {one.verdict.outcome.value.capitalize()}." for one in self.checks),
        ]
        if self.stable:
            lines.append(
                f"  Stable under {listed(tuple(f'{v.rules}, {v.replacement}' for v in self.variants))}."
            )
        if self.repairs:
            lines.append(f"  Repair: {self.repair or f'none of the {len(self.repairs)} that were run'}.")
        return shown("\n".join([*lines, *(f"  Note: {one}." for one in self.notes)]))
