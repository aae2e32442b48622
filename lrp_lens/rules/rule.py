"""Rules: frozen data that says how relevance passes one kind of operation, and the hooks that do it.

Each rule turns a `Site` into hooks.  A hook has a stage, which fixes its place among the hooks of one point:

1. `replace`: returns the same value with another graph behind it;
2. (relevance is recorded here: gradient × activation of what the point passes on);
3. `scale`:   returns the same value and scales what flows back from here, so that the recorded relevance is
              what the tensor receives under the rule;
4. `read`:    keeps the tensor for a later gate, whose relevance thus passes the scales.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lrp_lens.errors import RuleError
from lrp_lens.gates import (
    accumulation_dtype,
    frozen_normalizer,
    scale_gradient,
    stop_relevance,
    tempered_softmax,
)
from lrp_lens.hosts.sites import AttentionSite, LinearSite, LogitSite, NormSite, Port
from lrp_lens.ratios import softcap_ratio

Stage = Literal["replace", "read", "scale"]
STAGES: tuple[Stage, ...] = ("replace", "scale", "read")


@dataclass(frozen=True)
class Hook:
    """One TransformerLens forward hook at one port."""

    port: Port
    function: Callable[..., Tensor | None]
    stage: Stage


def scaled(port: Port, factor: float | int, *, detach: bool = True) -> tuple[Hook, ...]:
    """Multiply the relevance that flows back through `port`: none for 1, cut for 0.

    Args:
        port: where.
        factor: share of the relevance.
        detach: for 0, take the tensor out of the graph; False keeps it in, so that what is computed from this
            tensor alone still has a gradient.
    """
    if factor == 1:
        return ()

    def hook(tensor: Tensor, hook: object) -> Tensor:
        return scale_gradient(tensor, float(factor)) if factor or not detach else stop_relevance(tensor)

    return (Hook(port, hook, "scale"),)


def _require_share(owner: object, **shares: object) -> None:
    for name, share in shares.items():
        if not isinstance(share, float | int) or not 0 <= share <= 1:
            raise RuleError(
                f"A factor of a product takes a share of the relevance between 0 and 1; "
                f"{type(owner).__name__}.{name} is {share!r}. Use 0 (frozen), 0.5 (half rule) or 1 (plain)."
            )


@dataclass(frozen=True)
class Plain:
    """No rule: the operation keeps its own derivative (gradient × activation)."""

    def __str__(self) -> str:
        return "plain gradient"


@dataclass(frozen=True)
class FrozenNorm:
    """LN-rule: the standard deviation (or root mean square) is a constant.

    y = (x - mean) / σ · gain + bias with σ frozen, so R(x) = x ⊙ ∂/∂x of a linear map.
    Source: Ali et al. 2022 (2202.07304), Equation 12; AttnLRP (2402.05602), Proposition 3.4.
    """

    def __str__(self) -> str:
        return "normaliser frozen (LN-rule)"

    def hooks(self, site: NormSite) -> tuple[Hook, ...]:
        """Detach the scale where the host lets it be edited, else replace the norm's output."""
        if site.scale is not None:

            def freeze(tensor: Tensor, hook: object) -> Tensor:
                return stop_relevance(tensor)

            return (Hook(site.scale, freeze, "scale"),)
        assert site.input is not None and site.output is not None
        kept: list[Tensor] = []

        def read(tensor: Tensor, hook: object) -> None:
            kept[:] = [tensor]

        def replace(tensor: Tensor, hook: object) -> Tensor:
            return frozen_normalizer(
                tensor, kept.pop(), site.gain(), epsilon=site.epsilon, centred=site.centred
            )

        return Hook(site.input, read, "read"), Hook(site.output, replace, "replace")


@dataclass(frozen=True)
class Identity:
    """Identity rule: R(x) = R(f(x)), i.e. the local derivative is f(x)/x in closed form.

    Source: AttnLRP (2402.05602), Equation 9.  Used for activations and for soft-caps.
    """

    def __str__(self) -> str:
        return "identity rule"


@dataclass(frozen=True)
class ProductWeights:
    """Shares of a gated product f(gate) · up: R(gate) = gate_share · R, R(up) = up_share · R.

    Half rule (½, ½): Arras et al. 2019; AttnLRP, Equation 7.  Frozen gate (0, 1): CP-LRP.
    """

    gate: float | int
    up: float | int

    def __post_init__(self) -> None:
        _require_share(self, gate=self.gate, up=self.up)

    def __str__(self) -> str:
        names = {(0.5, 0.5): "half rule", (0.0, 1.0): "gate frozen"}
        return names.get((self.gate, self.up), f"gate {self.gate:g}, up {self.up:g}")


@dataclass(frozen=True)
class AttentionWeights:
    """Shares of z = softmax(q·k) v at q, k and v; no tensor quadratic in length is touched.

    (¼, ¼, ½): uniform rule on both matrix products (AttnLRP, Proposition 3.3: ½ to v, ½ to the pattern, halved
    again between q and k).  (0, 0, 1): the pattern is a constant (AH-rule of Ali et al. 2022; CP-LRP).
    """

    query: float | int
    key: float | int
    value: float | int

    def __post_init__(self) -> None:
        _require_share(self, query=self.query, key=self.key, value=self.value)

    def __str__(self) -> str:
        names = {
            (0.25, 0.25, 0.5): "uniform rule (q ¼, k ¼, v ½)",
            (0.0, 0.0, 1.0): "pattern frozen (AH-rule)",
        }
        key = (self.query, self.key, self.value)
        return names.get(key, f"q {self.query:g}, k {self.key:g}, v {self.value:g}")

    def hooks(self, site: AttentionSite) -> tuple[Hook, ...]:
        """Scale what flows back through q, k and v, before QK-norm and rotation (both linear under FrozenNorm)."""
        through = scaled(site.v, self.value, detach=False)  # z stays in the graph, also with a share of 0
        return (*scaled(site.q, self.query), *scaled(site.k, self.key), *through)

    @property
    def reaches_pattern(self) -> bool:
        """Whether any relevance passes the softmax."""
        return bool(self.query or self.key)


@dataclass(frozen=True)
class FrozenPattern:
    """The attention pattern itself is detached: the same relevance as `AttentionWeights(0, 0, 1)`.

    Acts on the [batch, head, query, key] tensor, so it needs a host that computes the pattern.
    """

    reaches_pattern = False

    def __str__(self) -> str:
        return "pattern detached"

    def hooks(self, site: AttentionSite) -> tuple[Hook, ...]:
        """Detach at the pattern."""
        if site.pattern is None:
            return ()

        def freeze(tensor: Tensor, hook: object) -> Tensor:
            return stop_relevance(tensor)

        return (Hook(site.pattern, freeze, "scale"),)


@dataclass(frozen=True)
class TemperedSoftmax:
    """Backward pass of the attention softmax with the pattern p at another temperature T: p ⊙ (g - Σ p ⊙ g).

    Source: GIM (Edin et al. 2025, 2505.17630), temperature 2.  Acts on scores and pattern, [.., query, key].
    """

    temperature: float | int = 2.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RuleError(
                f"A softmax temperature is positive; TemperedSoftmax received {self.temperature!r}. Use 2.0 (GIM)."
            )

    def __str__(self) -> str:
        return f"softmax backward at temperature {self.temperature:g}"

    def hooks(self, site: AttentionSite) -> tuple[Hook, ...]:
        """Replace the graph between scores and pattern."""
        if site.scores is None or site.pattern is None:
            return ()
        kept: list[Tensor] = []

        def read(tensor: Tensor, hook: object) -> None:
            kept[:] = [tensor]

        def replace(tensor: Tensor, hook: object) -> Tensor:
            sink = site.sink()
            column = None if sink is None else sink.reshape(1, -1, 1, 1)
            return tempered_softmax(tensor, kept.pop(), self.temperature, column)

        return Hook(site.scores, read, "read"), Hook(site.pattern, replace, "replace")


@dataclass(frozen=True)
class ExpertWeights:
    """Shares of routing weight × expert output in a mixture of experts.

    Half rule (½, ½) with the router's softmax plain; (0, 1) holds the routing constant.
    """

    router: float | int
    expert: float | int

    def __post_init__(self) -> None:
        _require_share(self, router=self.router, expert=self.expert)

    def __str__(self) -> str:
        names = {(0.5, 0.5): "half rule", (0.0, 1.0): "routing frozen"}
        return names.get((self.router, self.expert), f"router {self.router:g}, expert {self.expert:g}")


@dataclass(frozen=True)
class Epsilon:
    """ε-rule on the output z of a linear map: relevance × z / (z + ε sign z).

    ε damps outputs near 0 and absorbs a share of the relevance.  Source: Bach et al. 2015, Equation 58.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise RuleError(
                f"The ε-rule needs ε > 0, received {self.epsilon!r}. For ε = 0 use Plain() (0-rule)."
            )

    def __str__(self) -> str:
        return f"ε-rule (ε = {self.epsilon:g})"

    def hooks(self, site: LinearSite) -> tuple[Hook, ...]:
        """Scale at the output of the linear map."""
        if site.output is None:
            return ()

        def hook(tensor: Tensor, hook: object) -> Tensor:
            wide = tensor.detach().to(accumulation_dtype(tensor.dtype))
            stabilised = wide + torch.where(wide < 0, -self.epsilon, self.epsilon)
            return scale_gradient(tensor, wide / stabilised)

        return (Hook(site.output, hook, "scale"),)


def softcap_hooks(site: AttentionSite | LogitSite) -> tuple[Hook, ...]:
    """Identity rule on cap · tanh(s / cap): the local derivative tanh(u)/u instead of 1 - tanh(u)², u = s / cap.

    Logits are hooked before the cap, attention scores after it (masked entries are -inf there); either way the
    gradient is scaled by the quotient of the two derivatives, since the host's own one is applied as well.
    """
    cap = site.softcap
    if cap is None:
        return ()
    if isinstance(site, LogitSite):

        def before(tensor: Tensor, hook: object) -> Tensor:
            u = tensor.detach().to(accumulation_dtype(tensor.dtype)) / cap
            return scale_gradient(tensor, _quotient(u, torch.tanh(u)))

        return (Hook(site.output, before, "scale"),)
    if site.scores is None:
        return ()

    def after(tensor: Tensor, hook: object) -> Tensor:
        wide = tensor.detach().to(accumulation_dtype(tensor.dtype)) / cap
        edge = 1 - torch.finfo(wide.dtype).eps
        t = wide.clamp(-edge, edge)
        masked = wide.abs() > 1 + 1e-3  # beyond what a cap returns
        return scale_gradient(tensor, torch.where(masked, 1.0, _quotient(torch.atanh(t), t)))

    return (Hook(site.scores, after, "scale"),)


def _quotient(u: Tensor, t: Tensor) -> Tensor:
    slope = 1 - t * t
    return torch.where(slope > 0, softcap_ratio(u) / slope.clamp_min(torch.finfo(u.dtype).tiny), 0)
