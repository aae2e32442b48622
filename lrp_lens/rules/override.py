"""Override: what makes a rule set differ from layer to layer."""

from dataclasses import dataclass

from lrp_lens.rules.rule import Rule


@dataclass(frozen=True)
class Override:
    """Another rule for one operation in some layers."""

    operation: str
    rule: Rule
    layers: frozenset[int]

    def __str__(self) -> str:
        words = self.rule.words(self.operation)
        return f"{self.operation} in layers {', '.join(map(str, sorted(self.layers)))}: {words}"
