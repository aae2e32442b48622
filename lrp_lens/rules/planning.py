"""From the rules at one site to its hooks, checked; and which of several lists of hooks acts."""

from typing import Any

from torch import Tensor

from lrp_lens.errors import RuleError, SiteError
from lrp_lens.hosts.sites import (
    ActivationSite,
    AttentionSite,
    ExpertsSite,
    MixtureSite,
    NormSite,
    Site,
    Sites,
)
from lrp_lens.rules.attention import row_hooks
from lrp_lens.rules.experts import experts_hooks
from lrp_lens.rules.plain import Plain
from lrp_lens.rules.rule import Hook, Rule, scaled


def site_hooks(site: Site, rules: dict[str, Any], name: str) -> tuple[Hook, ...]:
    """The hooks of one site.

    Args:
        site: where.
        rules: operation → rule, for the operations that happen there.
        name: of the rule set, for messages.

    Raises:
        RuleError: if a rule's hook stands where it may not.
        SiteError: if a rule asks for an edit where the host has no hook point.
    """
    if isinstance(site, MixtureSite):
        return ()  # an account; its operations have sites of their own
    if isinstance(site, ExpertsSite):
        if all(isinstance(rule, Plain) for rule in rules.values()):
            return ()
        shares = (rules["product"].share("gate"), rules["product"].share("up"))
        return experts_hooks(site, rules["activation"], shares, rules["experts"])
    if isinstance(site, ActivationSite):
        product = rules.get("product")
        shares = (1.0, 0.0) if product is None else (product.share("gate"), product.share("up"))
        hooks = _made(site, name, rules["activation"], rules["activation"].hooks(site, shares))
        share = rules["experts"].share("expert") if site.expert else 1
        return (*hooks, *scaled(site.post, share, detach=False))
    first: tuple[Hook, ...] = ()
    if isinstance(site, AttentionSite) and not (rule := rules["attention"]).answers("hooks"):
        first = _made(site, name, rule, row_hooks(site, rule, rules.get("softmax", Plain())))
        rules = {"softcap": rules["softcap"]} if "softcap" in rules else {}
    made = (_made(site, name, rule, rule.hooks(site)) for rule in rules.values())
    return first + tuple(hook for hooks in made for hook in hooks)


def _made(site: Site, name: str, rule: Rule, hooks: tuple[Hook, ...] | None) -> tuple[Hook, ...]:
    if hooks is None:
        raise SiteError(
            f"A rule needs a hook point; this host has none for the {site.kind} at {site}, where "
            f"{name} asks for: {rule}. Use Plain() there, or the other host for this model."
        )
    names = {port.name for port in site.ports} if hooks else set()
    for hook in hooks:
        outside = isinstance(site, NormSite) and hook.stage == "scale" and hook.port == site.output
        if hook.port.name not in names or outside:
            raise RuleError(
                f"A rule acts inside its site, and a norm's output counts as outside once it is recorded; {rule} "
                f"puts a hook of stage {hook.stage!r} on {hook.port.name} for {site}, whose hook points are "
                f"{', '.join(sorted(names))}. Use one of them (for a norm's output stage 'replace').",
                rule=rule,
                question="hooks",
            )
    return hooks


_OF_ROWS = {"attention": "row_gradients", "softmax": "at_scores", "softcap": "slope"}
"""Operation → the question whose answer says what a rule does in each row of scores and pattern."""


def mixes_rows(site: AttentionSite, rules: dict[str, Any]) -> str:
    """Why the rules of an attention cannot act on some of its rows at a time; "" if they can.

    A rule that answers for blocks of rows acts by these answers or by hooks that say the same; one that does not may do
    anything at scores and pattern.
    """
    for operation, rule in rules.items():
        if not rule.answers(_OF_ROWS[operation]):
            return f"the rule {rule} does not define {type(rule).__name__}.{_OF_ROWS[operation]}"
    return ""


def of_rows(site: AttentionSite, hook: Hook) -> str:
    """The part of an attention at which a hook acts on blocks of rows; "" for a hook on q, k or v as a whole."""
    parts = {"scores": site.scores, "pattern": site.pattern, "z": site.z}
    if hook.stage == "read":  # of what a hook at z needs later
        parts["v"] = site.v
    return next((part for part, port in parts.items() if port == hook.port), "")


def innermost(sites: Sites, hooks: list[Hook]) -> list[Hook]:
    """The hooks, each silent while a newer list of rule hooks is attached to the model.

    Every list leaves a marker at the embedding; the marker that was attached last tells which list acts.
    """
    plan, point = object(), sites.embedding.point

    def marker(tensor: Tensor, hook: Any) -> None:
        """Only its presence counts."""

    marker.plan = plan  # type: ignore[attr-defined]

    def acts() -> bool:
        for handle in reversed(point.fwd_hooks):
            other = getattr(handle.user_hook, "plan", None)
            if other is not None:
                return other is plan
        return True

    def guard(function: Any) -> Any:
        def guarded(tensor: Tensor, hook: Any) -> Tensor | None:
            return function(tensor, hook=hook) if acts() else None

        return guarded

    first = Hook(sites.embedding, marker, "read")
    return [first, *(Hook(hook.port, guard(hook.function), hook.stage) for hook in hooks)]


def dropped_edit(sites: Sites, site: Site, hook: Hook, reason: str, name: str, rules: dict[str, Any]) -> str:
    """What to say of an edit that the host drops."""
    rule = "; ".join(str(rule) for rule in rules.values() if not isinstance(rule, Plain))
    return (
        f"Every edit must reach the logits; at {hook.port.name} ({site}, {sites.architecture} in {sites.host}) "
        f"{reason}, so {name} ({rule}) cannot act there. Use a rule set that acts at q, k and v (ATTN_LRP, CP_LRP, "
        "RELP, RELP_FROZEN_PATTERN), eager attention (attn_implementation='eager'), or HookedTransformer for this "
        "model."
    )
