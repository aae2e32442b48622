"""What a state contributes to q, k and v, without biases, under a rule set: the images that edges are made of.

An edge's relevance is x_i · (gradient that target j sends to x_i) = (derivative of q, k, v along x_i) · (gradient that
j sends to them).  Along x itself the chain stream → norm → projection is simple:

1. A norm keeps a share c of what enters it, by its rule: 1 if it is frozen, ε / (σ² + ε) under the plain gradient.
2. A projection adds its bias.  Together: image = c · (q - b_Q - b_norm W_Q).
3. The rule's share at q (k, v) and the factor of the linear map's rule are factors.
4. QK-norm and rotation follow; both are applied to the image, the norm by its rule's derivative at q.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.hosts.attention_scores import ScoreGeometry
from lrp_lens.hosts.reads import input_biases, input_norm, input_weights
from lrp_lens.hosts.sites import Sites
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.rules import RuleSet

Part = Literal["q", "k", "v"]
PARTS: tuple[Part, ...] = ("q", "k", "v")


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
    rule, before = rules.rule_for("norm", layer), input_norm(sites, layer, "attention")
    bias = _bias_image(model, sites, layer, part)
    unbiased = heads if bias is None else heads - bias.to(heads)
    lossy = before is not None and bool(rules.sinks(before))
    image = unbiased * rule.kept(before, x)[..., None] if lossy else unbiased
    share = rules.rule_for("attention", layer).share(part) * rules.rule_for("linear", layer).factor(heads)
    norm = {"q": geometry.query_norm, "k": geometry.key_norm}.get(part)
    if norm is not None and (norm_bias := norm.bias()) is not None and bool(norm_bias.any()):
        raise SiteError(
            f"Edges through a QK-norm need one without a bias; {norm} has one. Use method='batch_packed'."
        )

    def scored(tensor: Tensor) -> Tensor:
        passed = rule.along(norm, heads, tensor * share)
        return passed if part == "v" else geometry.rotate(passed)

    whole = scored(heads)
    without = whole if unbiased is heads else scored(unbiased)
    along = without if image is unbiased else scored(image)
    value = heads if norm is None else norm.norm.forward(heads)
    value = value if part == "v" else geometry.rotate(value)
    return Projection(value, whole, without, along, image)
