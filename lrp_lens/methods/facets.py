"""Facets: which activation is patched, and along which axes the patches are laid out.

Each facet is one of `transformer_lens.patching`'s sweeps: a part of every layer (its activation), one patch per
combination of the axes.  A patch replaces the activation at its indices, over all axes that are not named.  Heads
of `k` and `v` are the host's own: key-value heads under grouped-query attention.
"""

from dataclasses import dataclass

from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts.names import Names

STREAM = ("batch", "pos", "width")
HEADS = ("batch", "pos", "head", "width")
PATTERN = ("batch", "head", "dest_pos", "src_pos")

PARTS: dict[str, tuple[str, ...]] = {
    "resid_pre": STREAM,
    "resid_mid": STREAM,
    "attn_out": STREAM,
    "mlp_out": STREAM,
    "z": HEADS,
    "q": HEADS,
    "k": HEADS,
    "v": HEADS,
    "pattern": PATTERN,
}
"""Part → axes of its activation."""


@dataclass(frozen=True)
class Facet:
    """One sweep of patches over all layers."""

    name: str
    """As in `get_act_patch_{name}`."""
    part: str
    """A key of `PARTS`."""
    axes: tuple[str, ...]
    """Axes of the result after the layer, in transformer_lens' order."""

    @property
    def dims(self) -> tuple[str, ...]:
        """Axes of the part's activation."""
        return PARTS[self.part]

    @property
    def shape_words(self) -> str:
        """The result's shape in words, e.g. [layer, pos, head]."""
        return f"[{', '.join(('layer', *self.axes))}]"

    def reduce(self, product: Tensor) -> Tensor:
        """Sum a product [*dims] over everything but the batch and the facet's axes: [batch, *axes]."""
        kept = ("batch", *self.axes)
        dropped = [index for index, dim in enumerate(self.dims) if dim not in kept]
        summed = product.sum(dropped) if dropped else product
        order = [dim for dim in self.dims if dim in kept]
        return summed.permute([order.index(dim) for dim in kept])


_BY_POS, _ALL_POS = ("pos", "head"), ("head",)

FACETS: dict[str, Facet] = {
    facet.name: facet
    for facet in (
        *(Facet(part, part, ("pos",)) for part in ("resid_pre", "resid_mid", "attn_out", "mlp_out")),
        Facet("attn_head_out_by_pos", "z", _BY_POS),
        Facet("attn_head_q_by_pos", "q", _BY_POS),
        Facet("attn_head_k_by_pos", "k", _BY_POS),
        Facet("attn_head_v_by_pos", "v", _BY_POS),
        Facet("attn_head_pattern_by_pos", "pattern", ("head", "dest_pos")),
        Facet("attn_head_pattern_dest_src_pos", "pattern", ("head", "dest_pos", "src_pos")),
        Facet("attn_head_out_all_pos", "z", _ALL_POS),
        Facet("attn_head_q_all_pos", "q", _ALL_POS),
        Facet("attn_head_k_all_pos", "k", _ALL_POS),
        Facet("attn_head_v_all_pos", "v", _ALL_POS),
        Facet("attn_head_pattern_all_pos", "pattern", _ALL_POS),
    )
}
"""Name → facet."""

_HEAD_PARTS = ("out", "q", "k", "v", "pattern")

BUNDLES: dict[str, tuple[str, ...]] = {
    "block_every": ("resid_pre", "attn_out", "mlp_out"),
    "attn_head_all_pos_every": tuple(f"attn_head_{part}_all_pos" for part in _HEAD_PARTS),
    "attn_head_by_pos_every": tuple(f"attn_head_{part}_by_pos" for part in _HEAD_PARTS),
}
"""Name → facets stacked along a first axis `patch_type`."""


def facet_of(name: str) -> Facet:
    """The facet of a name.

    Raises:
        InputError: if there is none; the message lists them.
    """
    if name not in FACETS:
        raise InputError(f"A site is one of {', '.join(FACETS)}; received {name!r}.")
    return FACETS[name]


def record_name(part: str, layer: int) -> str:
    """The hook name of a part in one layer."""
    streams = {
        "resid_pre": Names.resid_pre,
        "resid_mid": Names.resid_mid,
        "attn_out": Names.attn_out,
        "mlp_out": Names.mlp_out,
    }
    return streams[part](layer) if part in streams else Names.attention(layer, part)
