"""Sites: where a model does each kind of operation, as live hook points.

A `Site` names the hook points around one operation (a norm, an activation, an attention, ...) and the numbers
a rule needs there (gain, epsilon, soft-cap).  A `Record` says how to observe one activation and its gradient.
Rules, caches and ledgers read sites; only `lrp_lens.hosts` fills them in, so nothing else knows
HookedTransformer from TransformerBridge or spells a hook name.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from lrp_lens.ops.norms import Norm

Parameter = Callable[[], Tensor | None]
"""Reads a parameter when called, so that sites never hold on to weights that are later replaced."""


def no_parameter() -> None:
    """The `Parameter` of an operation that has none."""


def parameter_of(module: nn.Module, name: str) -> Parameter:
    """Reads `module.name`, detached, at each call; None where the module has no such tensor.

    The module is held weakly: sites are cached per model and must not keep it alive.
    """
    owner = weakref.ref(module)

    def read() -> Tensor | None:
        try:
            value = getattr(owner(), name)
        except AttributeError:
            return None
        return value.detach() if isinstance(value, Tensor) else None

    return read


@dataclass(frozen=True)
class Port:
    """One live hook point."""

    name: str
    """Name under which `model.hooks` accepts it, e.g. `blocks.0.attn.hook_q`."""
    point: HookPoint = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Site:
    """One operation of the model; subclasses name its hook points."""

    kind: ClassVar[str]
    layer: int | None
    """Block index, or None outside the blocks."""
    label: str
    """Name within the layer, e.g. `ln1`, `attn`, `mlp`."""

    def __str__(self) -> str:
        return self.label if self.layer is None else f"L{self.layer} {self.label}"

    @property
    def ports(self) -> tuple[Port, ...]:
        """The hook points of this site, in the order in which they fire."""
        return tuple(value for value in vars(self).values() if isinstance(value, Port))


@dataclass(frozen=True, kw_only=True)
class NormSite(Site):
    """LayerNorm or RMSNorm: (x - mean) / sqrt(var + epsilon) · gain + bias.

    HookedTransformer's scale can be edited (`scale`); TransformerBridge may compute the norm inside Hugging
    Face's module, so there the output is replaced (`input`, `output`).
    """

    kind: ClassVar[str] = "norm"
    centred: bool
    epsilon: float
    scale: Port | None = None
    normalized: Port | None = None
    """(x - mean) / scale, before gain and bias; given with `scale`."""
    input: Port | None = None
    output: Port | None = None
    gain: Parameter = field(default=no_parameter, repr=False, compare=False)
    bias: Parameter = field(default=no_parameter, repr=False, compare=False)
    result: str = ""
    """Name of the record of the norm's output."""
    of: str = "stream"
    """What is normalised: `stream`, `query`, `key` or `embedding`."""

    @property
    def norm(self) -> Norm:
        """The operation, with gain and bias as they are now."""
        return Norm(self.centred, self.epsilon, self.gain(), self.bias())

    @property
    def bare(self) -> Norm:
        """The standardisation alone, without gain and bias."""
        return Norm(self.centred, self.epsilon)


@dataclass(frozen=True, kw_only=True)
class ActivationSite(Site):
    """post = f(pre) [· (up + offset)] [+ bias]: the nonlinearity of an MLP, or of one expert of a mixture."""

    kind: ClassVar[str] = "activation"
    pre: Port
    up: Port | None = None
    post: Port
    function: str
    """Name in `lrp_lens.ops.ratios.RATIOS`, or `clamped_swiglu`."""
    limit: float | None = None
    """GPT-OSS: both branches are clamped at this value, and 1 is added to the linear branch."""
    expert: bool = False
    """Whether this is one expert of a mixture, whose output is multiplied by a routing weight."""


@dataclass(frozen=True, kw_only=True)
class AttentionSite(Site):
    """z = softmax(q·k) v, with the hook points of its factors (before any QK-norm and rotation)."""

    kind: ClassVar[str] = "attention"
    q: Port
    k: Port
    v: Port
    scores: Port | None
    """None where the host never fires it."""
    pattern: Port | None
    z: Port
    softcap: float | None = None
    sink: Parameter = field(default=no_parameter, repr=False, compare=False)
    """Logit of each head's attention sink, [head]."""
    extras: tuple[str, ...] = ()
    """What else enters the softmax: `ALiBi`, `attention sink`."""


@dataclass(frozen=True, kw_only=True)
class RouterSite(Site):
    """Routing weights of a HookedTransformer mixture of experts, [tokens, experts]."""

    kind: ClassVar[str] = "router"
    weights: Port


@dataclass(frozen=True, kw_only=True)
class ExpertsSite(Site):
    """A whole mixture of experts between two hook points (TransformerBridge has no hooks inside)."""

    kind: ClassVar[str] = "experts"
    input: Port
    output: Port
    module: nn.Module = field(repr=False, compare=False)
    function: str
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class MixtureSite(Site):
    """Where the relevance of a whole mixture of experts is balanced: what it reads against what it writes."""

    kind: ClassVar[str] = "mixture"
    source: str
    """Name of the record of its input."""
    result: str
    """Name of the record of its output."""
    biased: bool
    """Whether router or experts have biases."""


@dataclass(frozen=True, kw_only=True)
class LogitSite(Site):
    """Logits before the final soft-cap, [batch, position, vocabulary]."""

    kind: ClassVar[str] = "logits"
    output: Port
    softcap: float | None = None


@dataclass(frozen=True, kw_only=True)
class LinearSite(Site):
    """The output of one linear map, bias included: where an ε-rule acts."""

    kind: ClassVar[str] = "linear"
    output: Port | None
    """None where the host has no hook point at this output."""
    record: str
    """Name of the record of this output."""


@dataclass(frozen=True, kw_only=True)
class BiasSite(Site):
    """A bias, and the record of the tensor it was added to: it takes the relevance bias ⊙ gradient."""

    kind: ClassVar[str] = "bias"
    record: str
    bias: Parameter = field(repr=False, compare=False)

    @property
    def ports(self) -> tuple[Port, ...]:
        """A bias has no hook point of its own."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Record:
    """How to observe one activation and its gradient."""

    name: str
    """TransformerLens' HookedTransformer name, on every host."""
    layer: int | None
    port: Port | None = None
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    """Observed at this module's output where the host has no hook point there."""
    plus: tuple[str, ...] = ()
    """Records whose gradient is added: the host's hook sees only one branch of the stream."""
    optional: bool = False
    """Kept on request only: scores and patterns (quadratic in length), scales, and the ledger's own."""


SiteKind = TypeVar("SiteKind", bound=Site)


@dataclass(frozen=True)
class Sites:
    """Every operation of one model and every activation that can be recorded."""

    host: str
    """`HookedTransformer` or `TransformerBridge`."""
    architecture: str
    n_layers: int
    n_heads: int
    parallel: bool
    """Attention and MLP read the same residual stream (GPT-NeoX, GPT-J, Phi)."""
    sites: tuple[Site, ...]
    records: tuple[Record, ...]
    embedding: Port
    """The token embedding as added to the stream; it fires before every block."""
    unembed_input: Port
    """Where positions that the metric does not read can be dropped before unembedding."""
    remembered: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What others worked out from these sites alone and will need again."""

    def of(self, kind: type[SiteKind]) -> Iterator[SiteKind]:
        """The sites of one kind, in the order of the forward pass."""
        if kind not in self._of_kind:
            self._of_kind[kind] = [site for site in self.sites if isinstance(site, kind)]
        return iter(self._of_kind[kind])

    @cached_property
    def _of_kind(self) -> dict[type[Site], list[Any]]:
        return {}

    @cached_property
    def norms(self) -> dict[int | None, dict[str, NormSite]]:
        """Layer → label → norm."""
        found: dict[int | None, dict[str, NormSite]] = {}
        for site in self.of(NormSite):
            found.setdefault(site.layer, {})[site.label] = site
        return found

    @cached_property
    def record_of(self) -> dict[str, Record]:
        """Canonical name → record."""
        return {record.name: record for record in self.records}
