"""What attention and MLP write to the residual stream: output weights, and the norm that may follow them.

1. A head writes z · W_O[head], [d_head] → [d_model]; both hosts give W_O as [head, d_head, d_model].
2. Gemma 2 and 3 normalise what a sublayer writes with norms of their own (`ln1_post`, `ln2_post`).  OLMo 2 and 3
   have no other norms; HookedTransformer and TransformerBridge 3.9 call those `ln1` and `ln2`.
"""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.offload import read
from lrp_lens.hosts.sites import NormSite, Sites

_NORMS_AFTER = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")


def post_norm(sites: Sites, layer: int, after: Literal["attention", "mlp"]) -> NormSite | None:
    """The norm between a sublayer's output and the residual stream, or None."""
    before = {"attention": "ln1", "mlp": "ln2"}[after]
    norms = sites.norms.get(layer, {})
    alone = norms.get(before) if sites.architecture in _NORMS_AFTER else None
    return norms.get(f"{before}_post", alone)


def final_norm(sites: Sites) -> NormSite | None:
    """The norm before the unembedding, or None."""
    outside = sites.norms.get(None, {}).values()
    return next((site for site in outside if site.result.startswith(Names.FINAL_NORM)), None)


def output_weights(model: Any, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """W_O of one attention layer, detached.

    Raises:
        SiteError: if the host does not give it per head (quantised weights).
    """
    weight = read(model.blocks[layer].attn, "W_O")
    if weight is None or weight.ndim != 3 or not weight.is_floating_point():
        raise SiteError(
            f"A head's output needs W_O as [head, d_head, d_model]; {Names.attention_module(layer)}W_O is "
            f"{'missing' if weight is None else tuple(weight.shape)}. Load unquantised weights."
        )
    return weight
