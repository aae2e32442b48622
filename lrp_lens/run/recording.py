"""Recording: which activations of a pass are kept, and their gradients.

1. Choose records: the caller's, the ledger's, and those whose gradient completes another's (`Wanted`).
2. During the forward pass keep their tensors in the graph (`Recorder`, attached by `pass_hooks`).
3. One backward pass to all of them (`backward`); what it does not reach was cut by a rule, or stands outside the
   host's graph, which is an error (`require_reached`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypeAliasType

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import (
    BiasSite,
    ExpertsSite,
    LinearSite,
    LogitSite,
    MixtureSite,
    NormSite,
    Record,
    Sites,
)
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.writes import final_norm
from lrp_lens.rules import Hook, RuleSet
from lrp_lens.run.balance import Calls

NamesFilter = TypeAliasType("NamesFilter", str | Sequence[str] | Callable[[str], bool] | None)
"""A hook name, several, or a predicate, as in `run_with_cache`; None keeps every default hook point."""


class Recorder:
    """Keeps the tensors that hook points pass on, in the graph, for one backward pass."""

    def __init__(self, sites: Sites, batch: TokenBatch) -> None:
        self.sites, self.batch = sites, batch
        self.kept: dict[str, list[Tensor]] = {}
        self.norm_inputs: dict[str, list[Tensor]] = {}

    def leaf(self, tensor: Tensor, hook: Any) -> Tensor:
        """Start the graph here; position embeddings shared by a batch get one row per example."""
        rows = tensor.detach().expand(self.batch.ids.shape[0], *tensor.shape[1:])
        return rows.requires_grad_(True) if rows.is_contiguous() else rows.clone().requires_grad_(True)

    def hook(self, record: Record) -> Callable[..., Tensor]:
        """Keep what the point passes on; one branch of a stream gets a node of its own."""

        def keep(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.view_as(tensor) if record.plus else tensor
            self.kept.setdefault(record.name, []).append(tensor)
            return tensor

        return keep

    def module_hook(self, name: str) -> Callable[..., None]:
        """Keep a module's output, where the host has no hook point."""

        def keep(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.kept.setdefault(name, []).append(output)

        return keep

    def input_hook(self, name: str) -> Callable[..., None]:
        """Keep what a norm reads, from a hook point's tensor or a module's inputs."""

        def keep(first: Any, *rest: Any, hook: Any = None) -> None:
            tensor = rest[0][0] if rest else first
            self.norm_inputs.setdefault(name, []).append(tensor.detach())

        return keep


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a pass records."""

    chosen: frozenset[str]
    """What the caller asked to keep."""
    accounts: frozenset[str]
    """What only the ledger needs."""
    names: frozenset[str]
    """All that is recorded: these, the embedding, and whatever completes their gradients."""
    biases: Mapping[BiasSite, Tensor]
    """For the ledger."""
    everything: bool
    """No selection: a ledger can be closed."""
    lenient: bool
    """A predicate chose: what the host computes outside the graph is left out instead of refused."""

    @classmethod
    def of(cls, names_filter: NamesFilter, sites: Sites, rules: RuleSet) -> "Wanted":
        """What a call asks for.

        Raises:
            InputError: if a name is no hook point of the model.
        """
        keep, everything = selector(names_filter, sites), names_filter is None
        chosen = {record.name for record in sites.records if keep(record)}
        biases = nonzero_biases(sites) if everything else {}
        accounts = ledger_records(sites, rules, biases) if everything else set()
        names = with_completions(chosen | {Names.EMBED} | accounts, sites)
        return cls(
            frozenset(chosen),
            frozenset(accounts),
            frozenset(names),
            biases,
            everything,
            callable(names_filter),
        )


class PassHooks(NamedTuple):
    """What `hosts.scope.attached` takes.  Rules replace an operation's graph before a user edits its value."""

    hooks: list[tuple[Any, Any]]
    module_hooks: list[tuple[Any, Any]]
    before: list[tuple[Any, Any]]


def pass_hooks(
    plan: Iterable[Hook],
    sites: Sites,
    rules: RuleSet,
    recorder: Recorder,
    names: Collection[str],
    leaves: Iterable[str] = (),
    gates: Iterable[tuple[Any, Any]] = (),
) -> PassHooks:
    """The hooks of a pass, those of one point in the order in which they run.

    Args:
        plan: the rules' hooks.
        sites: of the model.
        rules: the rule set.
        recorder: where tensors are kept.
        names: records to keep.
        leaves: records at which the graph starts.
        gates: further hooks, behind those that replace and before those that record.
    """
    plan = list(plan)
    before = [(hook.port.point, hook.function) for hook in plan if hook.stage == "replace"]
    starts = [sites.record_of[name].port for name in leaves if name in sites.record_of]
    hooks: list[tuple[Any, Any]] = [(port.point, recorder.leaf) for port in starts if port is not None]
    hooks += gates
    module_hooks: list[tuple[Any, Any]] = []
    for name in sorted(names):  # two records of one point always in the same order
        record = sites.record_of.get(name)
        if record is None:
            continue
        if record.port is not None:
            hooks.append((record.port.point, recorder.hook(record)))
        elif record.module is not None:
            module_hooks.append((record.module, recorder.module_hook(name)))
    for site in sites.of(NormSite):
        if site.result in names and rules.may_take(site):
            module = sites.record_of[site.result].module
            if site.input is not None:
                hooks.append((site.input.point, recorder.input_hook(site.result)))
            elif module is not None:
                module_hooks.append((module, recorder.input_hook(site.result)))
    hooks += [(hook.port.point, hook.function) for hook in plan if hook.stage != "replace"]
    return PassHooks(hooks, module_hooks, before)


def require_reached(unreached: set[str], sites: Sites, lenient: bool) -> None:
    """Refuse records without a gradient, unless a predicate chose them.

    Raises:
        SiteError: names them.
    """
    if unreached and not lenient:
        other = "" if sites.host == "HookedTransformer" else ", or use HookedTransformer"
        raise SiteError(
            f"Relevance needs a gradient at every recorded point; {sites.host} computes "
            f"{', '.join(sorted(unreached))} outside the graph. Leave it out of names_filter{other}; a hook on the "
            "model may cut it off (model.reset_hooks() removes them all); a rule of your own that does says so in "
            "`cuts`."
        )


def selector(names_filter: NamesFilter, sites: Sites) -> Callable[[Record], bool]:
    """Which records to keep; with None, everything linear in length.

    Raises:
        InputError: if a name is no hook point of the model.
    """
    if names_filter is None:
        return lambda record: not record.optional
    if callable(names_filter):
        return lambda record: names_filter(record.name)
    if not isinstance(names_filter, str | Sequence | Set):
        raise InputError(
            f"names_filter is None, a hook name, a list of names or a predicate; received {names_filter!r}."
        )
    names = {names_filter} if isinstance(names_filter, str) else set(names_filter)
    unknown = sorted(names - set(sites.record_of))
    if unknown:
        raise InputError(
            f"names_filter names hook points of the model; {unknown[0]!r} is none. Names look like "
            f"{Names.attention(0, 'z')!r} and {Names.resid_pre(0)!r}."
        )
    return lambda record: record.name in names


def ledger_records(sites: Sites, rules: RuleSet, biases: Mapping[BiasSite, Tensor]) -> set[str]:
    """Names that only accounts need: what biases were added to, the final norm's output, what takes relevance."""
    final = final_norm(sites)
    names = {site.record for site in biases} | ({final.result} if final else set())
    for site in sites.sites:
        if isinstance(site, MixtureSite):
            names |= {site.source, site.result}
        elif isinstance(site, NormSite | LinearSite | LogitSite) and rules.may_take(site):
            records = {NormSite: "result", LinearSite: "record"}
            names.add(getattr(site, records[type(site)]) if type(site) in records else Names.LOGITS)
    return names - {""}


def with_completions(names: set[str], sites: Sites) -> set[str]:
    """With the records whose gradients complete others."""
    return names | {
        extra for name in names if name in sites.record_of for extra in sites.record_of[name].plus
    }


def backward(
    output: Tensor, recorder: Recorder, gradient: Tensor | None = None, *, keep_graph: bool = False
) -> tuple[dict[str, Calls], set[str]]:
    """One backward pass to every recorded tensor.

    Args:
        output: one number, or a tensor with its gradient given.
        recorder: what was recorded on the way to it.
        gradient: the gradient at `output`.
        keep_graph: whether further passes follow.

    Returns:
        What was recorded, with gradient 0 where the pass does not arrive; and the names of those.
    """
    flat = [tensor for tensors in recorder.kept.values() for tensor in tensors]
    reachable = [tensor for tensor in flat if tensor.requires_grad and output.requires_grad]
    gradients: tuple[Tensor | None, ...] = ()
    if reachable:
        gradients = torch.autograd.grad(
            output, reachable, gradient, allow_unused=True, retain_graph=keep_graph
        )
    found = {id(tensor): gradient for tensor, gradient in zip(reachable, gradients, strict=True)}

    def at(tensor: Tensor) -> Tensor:
        result = found.get(id(tensor))
        return torch.zeros_like(tensor) if result is None else result

    calls = {
        name: Calls(
            tuple(t.detach() for t in tensors), tuple(at(t) for t in tensors), recorder.batch.examples
        )
        for name, tensors in recorder.kept.items()
    }
    unreached = {
        name for name, tensors in recorder.kept.items() if all(found.get(id(t)) is None for t in tensors)
    }
    return calls, unreached


def complete(calls: dict[str, Calls], sites: Sites, names: Iterable[str]) -> None:
    """Add the gradients of the branches that a host's hook point does not see."""
    for name in names:
        record = sites.record_of.get(name)
        if record is None or name not in calls or not record.plus:
            continue
        own = calls[name]
        shape = own.activations[0].shape
        extra = [gradient.reshape(shape) for other in record.plus for gradient in calls[other].gradients]
        calls[name] = replace(own, gradients=(own.gradients[0] + sum(extra),))


def accounts_only(sites: Sites) -> Sites:
    """The sites without the model's modules: a cache must not keep weights alive."""
    kept = tuple(site for site in sites.sites if not isinstance(site, ExpertsSite))
    return replace(sites, sites=kept, records=())


def nonzero_biases(sites: Sites) -> dict[BiasSite, Tensor]:
    """The biases that can take relevance."""
    biases = {site: site.bias() for site in sites.of(BiasSite)}
    return {site: bias.clone() for site, bias in biases.items() if bias is not None and bool(bias.any())}


def total(gradients: tuple[Tensor, ...]) -> Tensor:
    """Sum over the calls of one point (equal activations)."""
    total = gradients[0]
    for gradient in gradients[1:]:
        total = total + gradient
    return total
