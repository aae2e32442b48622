"""RuleSet: one rule per kind of operation, with per-layer overrides; it plans the hooks of a model.

1. Resolve the model's sites.
2. For each site pick the rules: the newest override whose layers match, else the set's own rule.
3. Collect the hooks; refuse any that stands on a hook point the host drops.
4. Order them: replacements, then (recording), then scales and reads.

What several rules decide together at one site (which relevance is taken there, what is cut off, how it is printed) is
answered here, too.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lrp_lens.errors import RuleError, SiteError
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.sites import AttentionSite, LogitSite, MixtureSite, Site, Sites
from lrp_lens.rules.activations import ActivationRule, ProductRule, SoftcapRule
from lrp_lens.rules.attention import AttentionRule
from lrp_lens.rules.experts import ExpertsRule
from lrp_lens.rules.linear import LinearRule
from lrp_lens.rules.norms import NormRule
from lrp_lens.rules.operations import OPERATIONS, operations_at, records_of, require_rule
from lrp_lens.rules.override import Override
from lrp_lens.rules.plain import Plain
from lrp_lens.rules.planning import dropped_edit, innermost, site_hooks
from lrp_lens.rules.rule import STAGES, Hook, Rule
from lrp_lens.rules.softmax import SoftmaxRule

Where = Literal["everywhere", "in the blocks", "after the blocks"]
Questions = Mapping[str, tuple[str, ...]]
"""Operation → what is asked of its rule."""


NAMED: dict[str, "RuleSet"] = {}
"""The rule sets that others are told from, by name: the presets, which enter themselves."""


@dataclass(frozen=True)
class RuleSet:
    """One rule per kind of operation; see `lrp_lens.rules` for what a rule is.

    Example:
        >>> from lrp_lens import RELP, Plain
        >>> print(RELP.override(layers=range(4), norm=Plain()).overrides[0])
        norm in layers 0, 1, 2, 3: plain gradient
    """

    name: str
    norm: NormRule = Plain()
    activation: ActivationRule = Plain()
    product: ProductRule = Plain()
    attention: AttentionRule = Plain()
    softmax: SoftmaxRule = Plain()
    softcap: SoftcapRule = Plain()
    experts: ExpertsRule = Plain()
    linear: LinearRule = Plain()
    overrides: tuple[Override, ...] = ()
    """Newest first; the first that matches a site's layer wins."""

    def __post_init__(self) -> None:
        for operation in OPERATIONS:
            require_rule(operation, getattr(self, operation))

    def __str__(self) -> str:
        lines = [f"RuleSet {self.name}"]
        lines += [f"  {operation:<11}{getattr(self, operation).words(operation)}" for operation in OPERATIONS]
        lines += [f"  override   {override}" for override in self.overrides]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """A preset by its name, any other set by what makes it from the nearest preset: short in a signature."""

        def changes(preset: "RuleSet") -> dict[str, Rule]:
            return {
                one: getattr(self, one) for one in OPERATIONS if getattr(self, one) != getattr(preset, one)
            }

        named = self.name.partition(" with ")[0]
        base = NAMED.get(named) or min(NAMED.values(), key=lambda preset: len(changes(preset)))
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

    @property
    def is_gradient(self) -> bool:
        """Whether no rule is at work: gradient × activation."""
        return not self.ruled and all(isinstance(one.rule, Plain) for one in self.overrides)

    @property
    def ruled(self) -> tuple[str, ...]:
        """The operations that the set's own rules act on, overrides aside.

        Example:
            >>> from lrp_lens import CP_LRP
            >>> RuleSet("norms", norm=CP_LRP.norm).ruled
            ('norm',)
        """
        return tuple(one for one in OPERATIONS if not isinstance(getattr(self, one), Plain))

    def replace(self, *, name: str | None = None, **rules: Rule) -> "RuleSet":
        """A copy with other rules in every layer.

        Args:
            name: name of the copy; by default the old name and what changed.
            rules: operation=rule, for the operations of `RuleSet`'s fields.

        Raises:
            RuleError: for an unknown operation or a rule that does not fit it.
        """
        for operation, rule in rules.items():
            require_rule(operation, rule)
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
            raise RuleError(f"An override changes at least one of {', '.join(OPERATIONS)}; received none.")
        for operation, rule in rules.items():
            require_rule(operation, rule)
        new = tuple(Override(operation, rule, chosen) for operation, rule in rules.items())
        label = "; ".join(map(str, new))
        return replace(self, name=name or f"{self.name} with {label}", overrides=new + self.overrides)

    def rule_for(self, operation: str, layer: int | None) -> Any:
        """The rule of one operation in one layer."""
        for override in self.overrides:
            if override.operation == operation and layer in override.layers:
                return override.rule
        return getattr(self, operation)

    def rules_at(self, site: Site) -> dict[str, Any]:
        """Operation → rule, for the operations that happen at a site and that relevance reaches."""
        rules = {operation: self.rule_for(operation, site.layer) for operation in operations_at(site)}
        if "attention" in rules and not rules["attention"].reaches_pattern:
            return {"attention": rules["attention"]}  # nothing flows through the softmax
        return rules

    # ------------------------------------------------------------------------------- questions
    def require(
        self, analysis: str, sites: Sites, questions: Questions, *, where: Where = "everywhere"
    ) -> None:
        """Refuse an analysis whose questions a rule does not answer, before it starts.

        Args:
            analysis: what asks, for the message.
            sites: of the model.
            questions: operation → names of the rule's methods.
            where: which sites are asked about.

        Raises:
            RuleError: names rule, question and analysis.
        """
        for rule, name, site in self.lacks(sites, questions, where=where):
            raise rule.unanswered(name, analysis, f" at {site}")

    def lacks(
        self, sites: Sites, questions: Questions, *, where: Where = "everywhere"
    ) -> Iterator[tuple[Rule, str, Site]]:
        """Every question that a rule does not answer: rule, question, site; arguments as `require`."""
        for site in sites.sites:
            if where != "everywhere" and (where == "in the blocks") == (site.layer is None):
                continue
            for operation, rule in self.rules_at(site).items():
                for name in questions.get(operation, ()):
                    if not rule.answers(name):
                        yield rule, name, site

    def sinks(self, site: Site) -> tuple[str, ...]:
        """Names for what takes relevance at a site under these rules; () if it is all handed on (but for biases).

        Raises:
            RuleError: if a rule does not say.
        """
        rules = self.rules_at(site)
        names = {
            "norm": site.label,
            "activation": "activation",
            "product": "gated product",
            "softcap": "logit soft-cap" if isinstance(site, LogitSite) else "soft-cap",
            "softmax": "softmax",
            "experts": "router",
            "linear": f"{getattr(rules.get('linear'), 'symbol', '')} at {site.label}",
        }
        attention = rules.pop("attention", None)
        taken = [names[operation] for operation, rule in rules.items() if not rule.conserves(site)]
        if isinstance(site, AttentionSite) and attention is not None:
            if taken[:1] == ["softmax"]:
                taken[1:1] = site.extras
            return tuple(attention.sinks(site, tuple(taken)))
        if isinstance(site, MixtureSite):
            inner = bool({"activation", "gated product"} & set(taken))
            parts = (
                ("router" in taken, "router"),
                (site.biased, "expert biases"),
                (inner, "expert activations"),
            )
            return tuple(name for there, name in parts if there)
        return tuple(taken)

    def may_take(self, site: Site) -> bool:
        """Whether relevance is taken at a site, or a rule does not say."""
        try:
            return bool(self.sinks(site))
        except RuleError:
            return True

    def cut(self, sites: Sites) -> set[str]:
        """Names of the records that rules cut off: their relevance is 0, not missing."""
        names: set[str] = set()
        for site in sites.sites:
            for rule in self.rules_at(site).values():
                for part in rule.cuts(site):
                    names |= records_of(sites, site, part)
        return names

    def words_at(self, site: Site) -> str:
        """The rules that take a site, in words."""
        if isinstance(site, LogitSite) and site.softcap is None:
            return "no soft-cap"
        words = {operation: rule.words(operation) for operation, rule in self.rules_at(site).items()}
        if len(set(words.values())) == 1:
            return next(iter(words.values()))
        return "; ".join(f"{operation}: {one}" for operation, one in words.items())

    # ------------------------------------------------------------------------------- hooks
    def plan(self, model: Any) -> list[Hook]:
        """Every hook of this rule set on a model, in stage order, each checked to be live.

        Raises:
            InputError: if the model is not a transformer_lens model.
            RuleError: if an override names a layer the model does not have, or a rule's hook stands where it may not.
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
                    raise SiteError(dropped_edit(sites, site, hook, reason, self.name, self.rules_at(site)))
                hooks.append(hook)
        return innermost(sites, sorted(hooks, key=lambda hook: STAGES.index(hook.stage)))

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
            RuleError: if a rule's hook stands where it may not.
            SiteError: if a rule asks for an edit where the host has no hook point.
        """
        return site_hooks(site, self.rules_at(site), self.name)


def _arguments(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
