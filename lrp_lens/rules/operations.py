"""Which operations there are: the rules that each takes, the sites where it happens, and the records of their parts."""

from collections.abc import Iterator, Mapping

from lrp_lens.errors import RuleError
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import (
    ActivationSite,
    AttentionSite,
    ExpertsSite,
    LinearSite,
    LogitSite,
    MixtureSite,
    NormSite,
    RouterSite,
    Site,
    Sites,
)
from lrp_lens.rules.activations import ActivationRule, ProductRule, SoftcapRule
from lrp_lens.rules.attention import AttentionRule
from lrp_lens.rules.experts import ExpertsRule
from lrp_lens.rules.linear import LinearRule
from lrp_lens.rules.norms import NormRule
from lrp_lens.rules.rule import Rule
from lrp_lens.rules.softmax import SoftmaxRule

OPERATIONS: Mapping[str, type[Rule]] = {
    "norm": NormRule,
    "activation": ActivationRule,
    "product": ProductRule,
    "attention": AttentionRule,
    "softmax": SoftmaxRule,
    "softcap": SoftcapRule,
    "experts": ExpertsRule,
    "linear": LinearRule,
}
"""Field of a rule set → class of the rules it takes."""


def require_rule(operation: str, rule: object) -> None:
    """Raise RuleError unless a rule may stand in this field of a rule set."""
    if operation not in OPERATIONS:
        raise RuleError(f"A rule set has rules for {', '.join(OPERATIONS)}; received {operation!r}.")
    base = OPERATIONS[operation]
    if not isinstance(rule, base):
        known = " or ".join(dict.fromkeys(kind.__name__ for kind in _kinds(base)))
        raise RuleError(
            f"The rule for {operation!r} is a {base.__name__} ({known}, or one of your own); received {rule!r}."
        )


def _kinds(base: type[Rule]) -> Iterator[type[Rule]]:
    """The public classes of this package that derive from a base."""
    for kind in base.__subclasses__():
        if kind.__module__.startswith(__package__ or "") and not kind.__name__.startswith("_"):
            yield kind
        yield from _kinds(kind)


def operations_at(site: Site) -> tuple[str, ...]:
    """The operations that happen at a site, each with a rule of its own."""
    if isinstance(site, LinearSite):  # most are
        return ("linear",)
    if isinstance(site, NormSite):
        return ("norm",)
    if isinstance(site, ActivationSite):
        return ("activation", *(("product",) if site.up else ()), *(("experts",) if site.expert else ()))
    if isinstance(site, AttentionSite):
        return ("attention", "softmax", *(("softcap",) if site.softcap is not None else ()))
    if isinstance(site, LogitSite):
        return ("softcap",) if site.softcap is not None else ()
    if isinstance(site, RouterSite):
        return ("experts",)
    if isinstance(site, ExpertsSite | MixtureSite):
        return ("activation", "product", "experts")
    return ()


def records_of(sites: Sites, site: Site, part: str) -> set[str]:
    """The records that a part of a site stands for: with the pattern all that only it leads to."""
    layer = site.layer or 0
    if isinstance(site, AttentionSite):
        if part != "pattern":
            return {Names.attention(layer, part)}
        carried = {Names.attention(layer, name) for name in ("v", "z", "result")}
        prefix = Names.attention_module(layer)
        return {name for name in sites.record_of if name.startswith(prefix)} - carried
    if isinstance(site, ActivationSite):
        return set() if site.expert else {Names.mlp(layer, {"up": "pre_linear"}.get(part, part))}
    return {port.name for port in [getattr(site, part, None)] if port is not None}
