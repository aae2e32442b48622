"""The presets: which rule each method of the literature uses for each operation; and rule sets by name."""

from types import MappingProxyType
from typing import Any

from lrp_lens.errors import RuleError, bare_name, did_you_mean
from lrp_lens.hosts.sites import AttentionSite, Sites
from lrp_lens.rules.activations import Identity, ProductWeights
from lrp_lens.rules.attention import AttentionWeights, ConservingAttention
from lrp_lens.rules.experts import ExpertWeights
from lrp_lens.rules.norms import FrozenNorm
from lrp_lens.rules.rule import Rule
from lrp_lens.rules.ruleset import NAMED, RuleSet
from lrp_lens.rules.softmax import SecantSoftmax, TemperedSoftmax

HALF = ProductWeights(0.5, 0.5)
UNIFORM_ATTENTION = AttentionWeights(0.25, 0.25, 0.5)

ATTN_LRP = RuleSet(
    name="ATTN_LRP",
    norm=FrozenNorm(),
    activation=Identity(),
    product=HALF,
    attention=UNIFORM_ATTENTION,
    softcap=Identity(),
    experts=ExpertWeights(0.5, 0.5),
)
"""AttnLRP (Achtibat et al. 2024, 2402.05602): LN-rule, identity rule, half rule on products, uniform rule on both
attention products, plain softmax.  Not conservative: the softmax absorbs relevance, which the ledger shows."""

CP_LRP = RuleSet(
    name="CP_LRP",
    norm=FrozenNorm(),
    activation=Identity(),
    product=ProductWeights(0.0, 1.0),
    attention=AttentionWeights(0.0, 0.0, 1.0),
    softcap=Identity(),
    experts=ExpertWeights(0.0, 1.0),
)
"""CP-LRP (Ali et al. 2022, 2202.07304, extended to gated MLPs): attention patterns, gates and routing are constants.
Conservative up to biases."""

RELP = RuleSet(
    name="RELP",
    norm=FrozenNorm(),
    activation=Identity(),
    product=HALF,
    softcap=Identity(),
    experts=ExpertWeights(0.5, 0.5),
)
"""RelP (Jafari et al. 2025, 2508.21258): LN-rule, identity rule, half rule; attention keeps its gradient."""

RELP_FROZEN_PATTERN = RELP.replace(name="RELP_FROZEN_PATTERN", attention=AttentionWeights(0.0, 0.0, 1.0))
"""RelP with its option for attention, the AH-rule of Ali et al. 2022 (elsewhere: RelP-AH): patterns are constants.
Conservative up to biases, but for the router of a mixture."""

GIM = RuleSet(
    name="GIM",
    norm=FrozenNorm(),
    attention=UNIFORM_ATTENTION,
    softmax=TemperedSoftmax(2.0),
)
"""GIM (Edin et al. 2025, 2505.17630): its three modifications, i.e. normaliser frozen, q, k, v weighted ¼, ¼, ½,
softmax backward at temperature 2; MLPs keep their gradient.  Needs a host that computes attention patterns."""

GRADIENT = RuleSet(name="GRADIENT")
"""Gradient × activation, no rule at all: the control."""

PRESETS = MappingProxyType(
    {rules.name: rules for rules in (ATTN_LRP, CP_LRP, RELP, RELP_FROZEN_PATTERN, GIM, GRADIENT)}
)
"""Name → preset."""
NAMED.update(PRESETS)

_QK_HALF, _QK_QUARTER = AttentionWeights(0.5, 0.5, 1.0), AttentionWeights(0.25, 0.25, 1.0)
_VARIED: dict[str, dict[str, Rule]] = {
    "RELP_QK_HALF": {"attention": _QK_HALF},
    "RELP_QK_QUARTER": {"attention": _QK_QUARTER},
    "RELP_SECANT": {"softmax": SecantSoftmax()},
    "RELP_SECANT_QK_HALF": {"attention": _QK_HALF, "softmax": SecantSoftmax()},
    "RELP_SECANT_QK_QUARTER": {"attention": _QK_QUARTER, "softmax": SecantSoftmax()},
    "RELP_CONSERVING": {"attention": ConservingAttention()},
    "RELP_CONSERVING_SECANT": {"attention": ConservingAttention(), "softmax": SecantSoftmax()},
}
VARIANTS = MappingProxyType({name: RELP.replace(name=name, **changed) for name, changed in _VARIED.items()})
"""Name → RELP with another way through attention (docs/attention_rules.md).  Found by name like a preset, but not run
where every preset is run by default."""

DEFAULT_RULES = RELP_FROZEN_PATTERN
"""What every analysis takes unless it is given rules: results name it, none of them chooses by itself.

Of the rule sets that conserve, the one that explains tokens best on two language models (README): the words hold what
is explained, biases aside.  It holds attention patterns constant, so it has nothing to say of queries and keys."""


def conserves(rules: RuleSet, sites: Sites) -> bool:
    """Whether nothing but biases takes relevance at any of these sites, as the rules themselves say.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> from lrp_lens.hosts import resolve
        >>> sites = resolve(load_demo_model())
        >>> conserves(RELP_FROZEN_PATTERN, sites), conserves(RELP, sites)
        (True, False)
    """
    return not any(rules.may_take(site) for site in sites.sites)


def conserving(sites: Sites) -> str:
    """The name of a preset under which nothing but biases takes relevance at any of these sites; "" for none.

    Of several the default one, else the first.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> from lrp_lens.hosts import resolve
        >>> conserving(resolve(load_demo_model()))
        'RELP_FROZEN_PATTERN'
    """
    if "conserving" not in sites.remembered:
        found = (rules.name for rules in (DEFAULT_RULES, *PRESETS.values()) if conserves(rules, sites))
        sites.remembered["conserving"] = next(found, "")
    return str(sites.remembered["conserving"])


def holds_patterns(rules: RuleSet, sites: Sites) -> bool:
    """Whether attention patterns are constants: nothing flows into queries and keys, in any layer.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> from lrp_lens.hosts import resolve
        >>> sites = resolve(load_demo_model())
        >>> holds_patterns(CP_LRP, sites), holds_patterns(RELP, sites)
        (True, False)
    """
    cut = [rules.rule_for("attention", site.layer).cuts(site) for site in sites.of(AttentionSite)]
    return bool(cut) and all("pattern" in parts or parts >= {"q", "k"} for parts in cut)


def as_rule_set(rules: Any) -> RuleSet:
    """A rule set from itself or the name of a preset or variant, in any spelling: "RELP", "relp", "AttnLRP".

    Raises:
        RuleError: for anything else; a typo is met with the nearest names.

    Example:
        >>> as_rule_set("AttnLRP").name
        'ATTN_LRP'
    """
    if isinstance(rules, RuleSet):
        return rules
    named = PRESETS | VARIANTS
    known = {bare_name(name): rules for name, rules in named.items()}
    found = known.get(bare_name(rules)) if isinstance(rules, str) else None
    if found is None:
        hint = did_you_mean(rules, named)
        raise RuleError(f"rules is a RuleSet, or one of {', '.join(PRESETS)}; received {rules!r}.{hint}")
    return found
