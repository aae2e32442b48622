"""What attention and MLP read from the residual stream: input weights and biases, and the norm before them.

1. A head reads q = norm(stream) · W_Q[head] + b_Q[head], [d_model] → [d_head]; k and v likewise.
2. With grouped queries W_K and W_V have one matrix per key-value head, as hook_k and hook_v have: TransformerBridge
   gives them so, HookedTransformer keeps them as `_W_K` and `_W_V` and repeats them under the plain name.
3. A sublayer reads the stream through `ln1` or `ln2`.  OLMo 2 and 3 have no norms there, and parallel blocks with one
   norm (GPT-J, Phi) read through `ln1` twice.
4. q, k and v are all observed before QK-norm and rotation.
"""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts.forward import is_bridge
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.offload import read
from lrp_lens.hosts.sites import NormSite, Sites
from lrp_lens.hosts.writes import post_norm


def input_weights(model: Any, layer: int, part: str) -> Float[Tensor, "head d_model d_head"]:
    """W_Q, W_K or W_V of one attention layer, detached; one matrix per key-value head for k and v.

    norm output · weights + biases is what hook_q, hook_k or hook_v observes.

    Args:
        model: HookedTransformer or TransformerBridge.
        layer: block index.
        part: "q", "k" or "v".

    Raises:
        InputError: if part is none of these.
        SiteError: if the host does not give the weights per head (quantised weights).

    Example:
        >>> from lrp_lens import load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> input_weights(model, 0, "q").shape[1] == model.cfg.d_model
        True
    """
    weight = _parameter(model, layer, part, "W")
    if weight is None or weight.ndim != 3 or not weight.is_floating_point():
        raise SiteError(
            f"What a head reads needs W_{part.upper()} as [head, d_model, d_head]; that of "
            f"{Names.attention_module(layer)[:-1]} is "
            f"{'missing' if weight is None else tuple(weight.shape)}. Load unquantised weights."
        )
    return weight


def input_biases(model: Any, layer: int, part: str) -> Float[Tensor, "head d_head"] | None:
    """b_Q, b_K or b_V of one attention layer, detached, one row per head as `input_weights`; None without biases.

    Raises:
        InputError: if part is not "q", "k" or "v".
    """
    return _parameter(model, layer, part, "b")


def input_norm(sites: Sites, layer: int, before: Literal["attention", "mlp"]) -> NormSite | None:
    """The norm between the residual stream and a sublayer, or None (no norms, or norms after the sublayers)."""
    after = (post_norm(sites, layer, "attention"), post_norm(sites, layer, "mlp"))
    norms = {label: site for label, site in sites.norms.get(layer, {}).items() if site not in after}
    if before == "attention" or (sites.parallel and "ln2" not in norms):
        return norms.get("ln1")
    return norms.get("ln2")


def _parameter(model: Any, layer: int, part: str, kind: Literal["W", "b"]) -> Tensor | None:
    if part not in ("q", "k", "v"):
        raise InputError(f"A head reads 'q', 'k' and 'v'; received {part!r}.")
    attention, name = model.blocks[layer].attn, f"{kind}_{part.upper()}"
    one_per_group = (
        not is_bridge(model)
        and model.cfg.n_key_value_heads is not None
        and not model.cfg.ungroup_grouped_query_attention
    )
    if part != "q" and one_per_group:
        name = f"_{name}"
    return read(attention, name)
