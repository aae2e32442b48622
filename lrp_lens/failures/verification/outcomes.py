"""What a verification finds besides its checks: what it is under other rules, and changes of the text that were run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lrp_lens.failures.verification.check import Reading, plain
from lrp_lens.failures.verification.criterion import CaseVerdict, Pattern


@dataclass(frozen=True)
class Repair:
    """A change of the prompt's text that was run."""

    action: str
    """"hide", "repeat" or "move"."""
    words: str
    """The words that it is about."""
    prompt: str
    """The text as it was run."""
    changed: int
    """How many tokens were taken out or put in."""
    reading: Reading

    def __str__(self) -> str:
        where = "" if self.action == "hide" else " before the last sentence"
        said = f"the first choice is {self.reading.first_choice!r}"
        if self.reading.answer is not None:
            said = f"the answer is {self.reading.answer!r}"
        return f"{self.action} {self.words!r}{where}: {said}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Repair":
        """The repair that `dataclasses.asdict` was called on."""
        return cls(**{**values, "reading": Reading(**values["reading"])})


@dataclass(frozen=True)
class Variant:
    """The same verification under another rule set or another replacement."""

    rules: str
    replacement: str
    verdict: CaseVerdict
    pattern: Pattern
    positions: tuple[int, ...]
    """The tokens it blames most for the target, as many as the verification's."""
    overlap: float
    """Their share among the verification's own; NaN where either has none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON."""
        told = {"verdict": self.verdict.value, "pattern": self.pattern.value}
        return asdict(self) | told | {"positions": list(self.positions), "overlap": plain(self.overlap)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Variant":
        """The variant that `to_dict` was called on."""
        overlap = float("nan") if values["overlap"] is None else values["overlap"]
        verdict, pattern = CaseVerdict(values["verdict"]), Pattern(values["pattern"])
        positions = tuple(values["positions"])
        return cls(values["rules"], values["replacement"], verdict, pattern, positions, overlap)
