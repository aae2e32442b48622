"""What a state contributes to q, k and v, without biases, under a rule set: the images that edges are made of.

An edge's relevance is x_i · (gradient that target j sends to x_i) = (derivative of q, k, v along x_i) · (gradient that
j sends to them).  Along x itself the chain stream → norm → projection is simple:

1. A frozen norm is linear up to its bias; the plain one loses all but ε / (σ² + ε) of what enters it.
2. A projection adds its bias.  Together: image = c · (q - b_Q - b_norm W_Q), with c = 1 or ε / (σ² + ε).
3. The rule's share at q (k, v) and an ε-rule there are factors.
4. QK-norm and rotation follow; both are applied to the image, the norm by its derivative at q.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.gates import accumulation_dtype
from lrp_lens.hosts.reads import input_biases, input_norm, input_weights
from lrp_lens.hosts.scores import ScoreGeometry
from lrp_lens.hosts.sites import NormSite, Sites
from lrp_lens.rules import Epsilon, Plain, RuleSet

Part = Literal["q", "k", "v"]
PARTS: tuple[Part, ...] = ("q", "k", "v")
_SHARE = {"q": "query", "k": "key", "v": "value"}


@dataclass(frozen=True, eq=False)
class Projection:
    """One of q, k and v of a layer, [pos, head, d_head] (keys and values: one head per group).

    `whole`, `unbiased` and `image` are the same tensor where nothing comes between them.
    """

    value: Tensor
    """As it enters the scores (after QK-norm and rotation), or v itself."""
    whole: Tensor
    """Derivative of `value` along the projection itself, biases included, the rule's shares applied."""
    unbiased: Tensor
    """The same without biases."""
    image: Tensor
    """The same along the residual stream: without what the norm absorbs."""
    at_hook: Tensor
    """`image` before QK-norm, rotation and shares; · the gradient at the hook = relevance that the stream receives."""

    @property
    def distinct(self) -> tuple[Tensor, ...]:
        """`image`, `unbiased`, `whole`, each tensor once."""
        return tuple({id(one): one for one in (self.image, self.unbiased, self.whole)}.values())

    def spread(self, results: list[Tensor]) -> list[Tensor]:
        """Results for `distinct`, as (image, unbiased, whole)."""
        by_tensor = dict(zip(map(id, self.distinct), results, strict=True))
        return [by_tensor[id(one)] for one in (self.image, self.unbiased, self.whole)]

    def heads_first(self) -> "Projection":
        """[head, pos, d_head] for the row blocks; equal tensors stay one."""
        moved = {id(one): one.transpose(0, 1).contiguous() for one in (self.value, *self.distinct)}
        value, whole, unbiased, image = (
            moved[id(one)] for one in (self.value, self.whole, self.unbiased, self.image)
        )
        return Projection(value, whole, unbiased, image, self.at_hook)


def norm_derivative(site: NormSite | None, x: Tensor, direction: Tensor, frozen: bool) -> Tensor:
    """The derivative of a norm at x along a direction, gain applied; shapes [..., width].

    Args:
        site: None for no norm.
        x: where.
        direction: along what.
        frozen: the deviation σ is a constant (LN-rule).
    """
    if site is None:
        return direction
    shape = direction.shape
    gain = site.gain()
    if gain is not None and gain.numel() != shape[-1]:  # one norm over all heads
        x, direction = x.flatten(-2), direction.flatten(-2)
    if site.centred:
        x = x - x.mean(-1, keepdim=True)
        direction = direction - direction.mean(-1, keepdim=True)
    inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + site.epsilon)
    result = direction * inverse
    if not frozen:
        result = result - x * (x * direction).mean(-1, keepdim=True) * inverse**3
    result = result if gain is None else result * gain.to(result)
    return result.reshape(shape)


def _kept(site: NormSite, x: Tensor) -> Tensor:
    """What the plain norm keeps of a derivative along its own input: ε / (σ² + ε), [pos, 1, 1]."""
    x = x - x.mean(-1, keepdim=True) if site.centred else x
    variance = x.pow(2).mean(-1)
    return (site.epsilon / (variance + site.epsilon))[:, None, None]


def _bias_image(model: Any, sites: Sites, layer: int, part: Part) -> Tensor | None:
    """b_Q + b_norm W_Q, [head, d_head]; None where there is none."""
    norm = input_norm(sites, layer, "attention")
    of_norm = None if norm is None else norm.bias()
    image = input_biases(model, layer, part)
    if of_norm is not None and bool(of_norm.any()):
        weights = input_weights(model, layer, part)
        through = torch.einsum("d,hde->he", of_norm.to(weights), weights)
        image = through if image is None else image + through
    return image if image is not None and bool(image.any()) else None


def projection(
    model: Any,
    sites: Sites,
    rules: RuleSet,
    geometry: ScoreGeometry,
    layer: int,
    part: Part,
    heads: Tensor,
    x: Tensor,
) -> Projection:
    """One of q, k and v as edges need it.

    Args:
        model: the host.
        sites: its sites.
        rules: the rule set.
        geometry: of this layer's scores.
        layer: block index.
        part: "q", "k" or "v".
        heads: what hook_q, hook_k or hook_v saw, [pos, head, d_head].
        x: the residual stream before the block, [pos, d_model].
    """
    wide = accumulation_dtype(heads.dtype)
    heads, x = heads.to(wide), x.to(wide)
    frozen = not isinstance(rules.rule_for("norm", layer), Plain)
    before = input_norm(sites, layer, "attention")
    bias = _bias_image(model, sites, layer, part)
    unbiased = heads if bias is None else heads - bias.to(heads)
    image = unbiased if frozen or before is None else unbiased * _kept(before, x)
    share: Tensor | float = float(getattr(rules.rule_for("attention", layer), _SHARE[part], 1.0))
    if isinstance(linear := rules.rule_for("linear", layer), Epsilon):
        share = share * heads / (heads + torch.where(heads < 0, -linear.epsilon, linear.epsilon))
    norm = {"q": geometry.query_norm, "k": geometry.key_norm}.get(part)
    if norm is not None and (norm_bias := norm.bias()) is not None and bool(norm_bias.any()):
        raise SiteError(
            f"Edges through a QK-norm need one without a bias; {norm} has one. Use method='batch_packed'."
        )

    def scored(tensor: Tensor) -> Tensor:
        passed = norm_derivative(norm, heads, tensor * share, frozen)
        return passed if part == "v" else geometry.rotate(passed)

    whole = scored(heads)
    without = whole if unbiased is heads else scored(unbiased)
    along = without if image is unbiased else scored(image)
    value = norm_derivative(norm, heads, heads, frozen=True)
    value = value if part == "v" else geometry.rotate(value)
    return Projection(value, whole, without, along, image)
