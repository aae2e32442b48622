"""RuleSet: one rule per kind of operation, with per-layer overrides; it plans the hooks of a model.

1. Resolve the model's sites.
2. For each site pick the rules: the newest override whose layers match, else the set's own rule.
3. Collect the hooks; refuse any that stands on a hook point the host drops.
4. Order them: replacements, then (recording), then scales and reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lrp_lens.errors import RuleError, SiteError
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.sites import (
    ActivationSite,
    AttentionSite,
    ExpertsSite,
    LinearSite,
    LogitSite,
    NormSite,
    RouterSite,
    Site,
    Sites,
)
from lrp_lens.rules.mixture import activation_hooks, experts_hooks, router_hooks
from lrp_lens.rules.rule import (
    STAGES,
    AttentionWeights,
    Epsilon,
    ExpertWeights,
    FrozenNorm,
    FrozenPattern,
    Hook,
    Identity,
    Plain,
    ProductWeights,
    TemperedSoftmax,
    softcap_hooks,
)

ALLOWED: dict[str, tuple[type, ...]] = {
    "norm": (FrozenNorm, Plain),
    "activation": (Identity, Plain),
    "product": (ProductWeights, Plain),
    "attention": (AttentionWeights, FrozenPattern, Plain),
    "softmax": (TemperedSoftmax, Plain),
    "softcap": (Identity, Plain),
    "experts": (ExpertWeights, Plain),
    "linear": (Epsilon, Plain),
}
FIELDS_OF: dict[type[Site], tuple[str, ...]] = {
    NormSite: ("norm",),
    ActivationSite: ("activation", "product", "experts"),
    AttentionSite: ("attention", "softmax", "softcap"),
    RouterSite: ("experts",),
    ExpertsSite: ("activation", "product", "experts"),
    LogitSite: ("softcap",),
    LinearSite: ("linear",),
}
Rule = (
    FrozenNorm
    | Identity
    | ProductWeights
    | AttentionWeights
    | FrozenPattern
    | TemperedSoftmax
    | ExpertWeights
    | Epsilon
    | Plain
)


def _require_rule(operation: str, rule: object) -> None:
    if operation not in ALLOWED:
        raise RuleError(f"A rule set has rules for {', '.join(ALLOWED)}; received {operation!r}.")
    if not isinstance(rule, ALLOWED[operation]):
        allowed = " or ".join(kind.__name__ for kind in ALLOWED[operation])
        raise RuleError(f"The rule for {operation!r} is {allowed}; received {rule!r}.")


@dataclass(frozen=True)
class Override:
    """Another rule for one operation in some layers."""

    operation: str
    rule: Rule
    layers: frozenset[int]

    def __str__(self) -> str:
        return f"{self.operation} in layers {', '.join(map(str, sorted(self.layers)))}: {self.rule}"


@dataclass(frozen=True)
class RuleSet:
    """One rule per kind of operation.

    Example:
        >>> from lrp_lens import RELP, Plain
        >>> print(RELP.override(layers=range(4), norm=Plain()).overrides[0])
        norm in layers 0, 1, 2, 3: plain gradient
    """

    name: str
    norm: FrozenNorm | Plain = Plain()
    activation: Identity | Plain = Plain()
    product: ProductWeights | Plain = Plain()
    attention: AttentionWeights | FrozenPattern | Plain = Plain()
    softmax: TemperedSoftmax | Plain = Plain()
    softcap: Identity | Plain = Plain()
    experts: ExpertWeights | Plain = Plain()
    linear: Epsilon | Plain = Plain()
    overrides: tuple[Override, ...] = ()
    """Newest first; the first that matches a site's layer wins."""

    def __post_init__(self) -> None:
        for operation in ALLOWED:
            _require_rule(operation, getattr(self, operation))

    def __str__(self) -> str:
        lines = [f"RuleSet {self.name}"]
        for operation in ALLOWED:
            rule = getattr(self, operation)
            text = "0-rule" if operation == "linear" and isinstance(rule, Plain) else rule
            lines.append(f"  {operation:<11}{text}")
        lines += [f"  override   {override}" for override in self.overrides]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """A preset by its name, any other set by what makes it from the nearest preset: short in a signature."""
        from lrp_lens.rules.presets import PRESETS

        def changes(preset: "RuleSet") -> dict[str, Rule]:
            return {one: getattr(self, one) for one in ALLOWED if getattr(self, one) != getattr(preset, one)}

        named = self.name.partition(" with ")[0]
        base = PRESETS.get(named) or min(PRESETS.values(), key=lambda preset: len(changes(preset)))
        given = {} if named == base.name else {"name": self.name}
        text, changed = base.name, given | changes(base)
        if changed:
            text += f".replace({_arguments(changed)})"
        for override in reversed(self.overrides):
            layers = sorted(override.layers)
            span = range(layers[0], layers[-1] + 1)
            text += f".override(layers={span if layers == [*span] else layers}, "
            text += f"{_arguments({override.operation: override.rule})})"
        return text

    def replace(self, *, name: str | None = None, **rules: Rule) -> "RuleSet":
        """A copy with other rules in every layer.

        Args:
            name: name of the copy; by default the old name and what changed.
            rules: operation=rule, for the operations of `RuleSet`'s fields.

        Raises:
            RuleError: for an unknown operation or a rule that does not fit it.
        """
        for operation, rule in rules.items():
            _require_rule(operation, rule)
        changed = ", ".join(f"{operation}: {rule}" for operation, rule in rules.items())
        return replace(self, name=name or f"{self.name} with {changed}", **rules)  # type: ignore[arg-type]

    def override(self, *, layers: Iterable[int], name: str | None = None, **rules: Rule) -> "RuleSet":
        """A copy with other rules in some layers only; site kinds outside the blocks are never overridden.

        Raises:
            RuleError: for an unknown operation, a rule that does not fit it, or a negative layer.
        """
        chosen = frozenset(layers) if isinstance(layers, Iterable) else frozenset()
        if not chosen or not all(isinstance(layer, int) and layer >= 0 for layer in chosen):
            raise RuleError(
                f"An override names at least one layer, counted from 0; received {layers!r}. Use layers=range(4)."
            )
        if not rules:
            raise RuleError(f"An override changes at least one of {', '.join(ALLOWED)}; received none.")
        for operation, rule in rules.items():
            _require_rule(operation, rule)
        new = tuple(Override(operation, rule, chosen) for operation, rule in rules.items())
        label = "; ".join(map(str, new))
        return replace(self, name=name or f"{self.name} with {label}", overrides=new + self.overrides)

    def rule_for(self, operation: str, layer: int | None) -> Any:
        """The rule of one operation in one layer."""
        for override in self.overrides:
            if override.operation == operation and layer in override.layers:
                return override.rule
        return getattr(self, operation)

    def rules_at(self, site: Site) -> dict[str, Rule]:
        """Operation → rule, for the operations that happen at a site."""
        return {
            operation: self.rule_for(operation, site.layer) for operation in FIELDS_OF.get(type(site), ())
        }

    def plan(self, model: Any) -> list[Hook]:
        """Every hook of this rule set on a model, in stage order, each checked to be live.

        Raises:
            InputError: if the model is not a transformer_lens model.
            RuleError: if an override names a layer the model does not have.
            SiteError: if an operation has no rule, or the host drops an edit that a rule needs.
        """
        sites, dropped = resolve(model), dead(model)
        for override in self.overrides:
            if max(override.layers) >= sites.n_layers:
                raise RuleError(
                    f"An override names layers of the model, 0 to {sites.n_layers - 1}; received "
                    f"{sorted(override.layers)}."
                )
        hooks: list[Hook] = []
        for site in sites.sites:
            for hook in self.hooks_at(site):
                reason = dropped.get(hook.port.name)
                if reason is not None:
                    raise SiteError(_dropped(sites.host, sites.architecture, site, hook, reason, self))
                hooks.append(hook)
        return _innermost(sites, sorted(hooks, key=lambda hook: STAGES.index(hook.stage)))

    def hooks(self, model: Any) -> list[tuple[str, Any]]:
        """Ordinary TransformerLens forward hooks, for `model.hooks` and `model.run_with_hooks`.

        Value-preserving: logits are bit-identical.  Each call returns hooks with a state of their own.  Of nested
        contexts with rule hooks the innermost acts; the outer one acts again after it is left.

        Returns:
            List of (hook name, function(tensor, hook)).

        Example:
            with model.hooks(fwd_hooks=CP_LRP.hooks(model)):
                logits = model(tokens)
        """
        return [(hook.port.name, hook.function) for hook in self.plan(model)]

    def hooks_at(self, site: Site) -> tuple[Hook, ...]:
        """The hooks of one site.

        Raises:
            SiteError: if a rule asks for an edit where the host has no hook point.
        """
        rules: dict[str, Any] = self.rules_at(site)
        if isinstance(site, ActivationSite):
            return activation_hooks(site, **rules)
        if isinstance(site, ExpertsSite):
            return experts_hooks(site, **rules)
        if isinstance(site, RouterSite):
            return router_hooks(site, **rules)
        if isinstance(site, AttentionSite):
            return self._attention_hooks(site, **rules)
        if isinstance(site, LogitSite):
            return () if isinstance(rules["softcap"], Plain) else softcap_hooks(site)
        if isinstance(site, NormSite | LinearSite):
            (rule,) = rules.values()
            hooks = () if isinstance(rule, Plain) else rule.hooks(site)
            return self._require(site, hooks, rule)
        return ()

    def _attention_hooks(
        self, site: AttentionSite, attention: Any, softmax: Any, softcap: Any
    ) -> tuple[Hook, ...]:
        hooks: tuple[Hook, ...] = ()
        if not isinstance(attention, Plain):
            hooks += self._require_unless_plain(site, attention)
            if not attention.reaches_pattern:
                return hooks  # nothing flows through the softmax: its rules would only cost memory
        if not isinstance(softmax, Plain):
            hooks += self._require(site, softmax.hooks(site), softmax)
        if site.softcap is not None and not isinstance(softcap, Plain):
            hooks += self._require(site, softcap_hooks(site), softcap)
        return hooks

    def _require_unless_plain(self, site: AttentionSite, attention: Any) -> tuple[Hook, ...]:
        hooks: tuple[Hook, ...] = attention.hooks(site)
        plain = attention == AttentionWeights(1.0, 1.0, 1.0)
        return hooks if plain else self._require(site, hooks, attention)

    def _require(self, site: Site, hooks: tuple[Hook, ...], rule: object) -> tuple[Hook, ...]:
        if not hooks and not isinstance(rule, Plain):
            raise SiteError(
                f"A rule needs a hook point; this host has none for the {site.kind} at {site}, where "
                f"{self.name} asks for: {rule}. Use Plain() there, or the other host for this model."
            )
        return hooks


def _arguments(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _innermost(sites: Sites, hooks: list[Hook]) -> list[Hook]:
    """The hooks, each silent while a newer list of rule hooks is attached to the model.

    Every list leaves a marker at the embedding; the marker that was attached last tells which list acts.
    """
    plan, point = object(), sites.embedding.point

    def marker(tensor: Tensor, hook: Any) -> None:
        """Only its presence counts."""

    marker.plan = plan  # type: ignore[attr-defined]

    def acts() -> bool:
        plans = (getattr(handle.user_hook, "plan", None) for handle in reversed(point.fwd_hooks))
        return next((other for other in plans if other is not None), plan) is plan

    def guard(function: Any) -> Any:
        def guarded(tensor: Tensor, hook: Any) -> Tensor | None:
            return function(tensor, hook=hook) if acts() else None

        return guarded

    first = Hook(sites.embedding, marker, "read")
    return [first, *(Hook(hook.port, guard(hook.function), hook.stage) for hook in hooks)]


def _dropped(host: str, architecture: str, site: Site, hook: Hook, reason: str, rules: RuleSet) -> str:
    rule = "; ".join(str(rule) for rule in rules.rules_at(site).values() if not isinstance(rule, Plain))
    return (
        f"Every edit must reach the logits; at {hook.port.name} ({site}, {architecture} in {host}) {reason}, so "
        f"{rules.name} ({rule}) cannot act there. Use a rule set that acts at q, k and v (ATTN_LRP, CP_LRP, RELP), "
        "eager attention (attn_implementation='eager'), or HookedTransformer for this model."
    )
