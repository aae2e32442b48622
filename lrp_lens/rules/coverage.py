"""coverage: every operation of a model, the rule that takes it, and whether the edit is live."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.sites import BiasSite, LinearSite, MixtureSite
from lrp_lens.rules import RuleSet, as_rule_set


@dataclass(frozen=True)
class CoverageRow:
    """One operation of the model under a rule set."""

    layer: int | None
    site: str
    """Name within the layer, e.g. `ln1`, `attn`, `mlp`."""
    kind: str
    """`norm`, `activation`, `attention`, `router`, `experts`, `linear` or `logits`."""
    rule: str
    """The rules that take it, in words."""
    points: tuple[str, ...]
    """Hook points that are edited; empty for a plain gradient, which needs no edit."""
    live: bool
    """Whether every edit reaches the logits (probed on this model)."""


@dataclass(frozen=True)
class Coverage:
    """Every operation of a model under a rule set."""

    title: str
    rows: tuple[CoverageRow, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: layer, site, kind, rule, points, live."""
        frame = pd.DataFrame.from_records([vars(row) for row in self.rows]).astype({"layer": "Int64"})
        frame["points"] = frame["points"].map(", ".join)
        return frame

    def __str__(self) -> str:
        lines = [self.title]
        for row in self.rows:
            where = "" if row.layer is None else f"L{row.layer} "
            edits = ", ".join(row.points) or "no edit"
            lines.append(
                f"  {where + row.site:<18} {'live' if row.live else 'DEAD'}  {row.rule:<52}  {edits}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return str(self.to_dataframe().to_html(index=False, na_rep=""))


def coverage(model: Any, rules: RuleSet | str) -> Coverage:
    """Every site of a model, the rule that takes it, and whether its edit is live.

    Args:
        model: a HookedTransformer or TransformerBridge.
        rules: the rule set to check, or the name of a preset.

    Raises:
        SiteError: if no rule knows an operation, or the host drops an edit; names module, rule and remedy.

    Example:
        >>> from lrp_lens import ATTN_LRP, load_demo_model
        >>> all(row.live for row in coverage(load_demo_model(), ATTN_LRP).rows)
        True
    """
    rules, sites, dropped = as_rule_set(rules), resolve(model), dead(model)
    rules.plan(model)
    rows = []
    for site in sites.sites:
        if isinstance(site, BiasSite | MixtureSite) or (isinstance(site, LinearSite) and site.output is None):
            continue  # accounts of the ledger; linear maps inside another site
        edited = sorted({hook.port.name for hook in rules.hooks_at(site) if hook.stage != "read"})
        live = not any(name in dropped for name in edited)
        rows.append(CoverageRow(site.layer, site.label, site.kind, rules.words_at(site), tuple(edited), live))
    return Coverage(f"{rules.name} on {sites.architecture} in {sites.host}", tuple(rows))
