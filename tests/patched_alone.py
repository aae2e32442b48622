"""Activation patching by its definition: one whole run of the model for each patch, one after the other.

For a cell: run the corrupted prompts, put the clean activation in at the cell's indices, read the metric.  Nothing of
lrp_lens is used but the metric.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

INDEX: dict[str, Callable[..., tuple[Any, ...]]] = {
    "pos": lambda pos: (slice(None), pos),
    "pos_head": lambda pos, head: (slice(None), pos, head),
    "head": lambda head: (slice(None), slice(None), head),
    "pattern_head": lambda head: (slice(None), head),
    "pattern_row": lambda head, dest: (slice(None), head, dest),
    "pattern_entry": lambda head, dest, src: (slice(None), head, dest, src),
}
"""Layout → indices of a cell in the activation."""
SITES = {
    "resid_pre": ("blocks.{}.hook_resid_pre", "pos"),
    "resid_mid": ("blocks.{}.hook_resid_mid", "pos"),
    "attn_out": ("blocks.{}.hook_attn_out", "pos"),
    "mlp_out": ("blocks.{}.hook_mlp_out", "pos"),
    "attn_head_out_by_pos": ("blocks.{}.attn.hook_z", "pos_head"),
    "attn_head_q_by_pos": ("blocks.{}.attn.hook_q", "pos_head"),
    "attn_head_k_by_pos": ("blocks.{}.attn.hook_k", "pos_head"),
    "attn_head_v_by_pos": ("blocks.{}.attn.hook_v", "pos_head"),
    "attn_head_pattern_by_pos": ("blocks.{}.attn.hook_pattern", "pattern_row"),
    "attn_head_pattern_dest_src_pos": ("blocks.{}.attn.hook_pattern", "pattern_entry"),
    "attn_head_out_all_pos": ("blocks.{}.attn.hook_z", "head"),
    "attn_head_q_all_pos": ("blocks.{}.attn.hook_q", "head"),
    "attn_head_k_all_pos": ("blocks.{}.attn.hook_k", "head"),
    "attn_head_v_all_pos": ("blocks.{}.attn.hook_v", "head"),
    "attn_head_pattern_all_pos": ("blocks.{}.attn.hook_pattern", "pattern_head"),
}


def patch_one_by_one(
    model: Any,
    corrupted: torch.Tensor,
    clean: torch.Tensor,
    site: str,
    metrics: Iterable[Callable[[torch.Tensor], torch.Tensor]],
    cells: Iterable[tuple[int, tuple[int, ...]]],
) -> torch.Tensor:
    """The metrics of each patched run, [metric, batch, cell].

    Args:
        model: HookedTransformer or TransformerBridge.
        corrupted: token ids of the run that is patched.
        clean: token ids of the other run.
        site: a key of `SITES`.
        metrics: logits [batch, pos, d_vocab] → [batch].
        cells: (layer, indices along the site's axes).
    """
    name, layout = SITES[site]
    metrics, found = list(metrics), []
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        for layer, cell in cells:
            value, index = cache[name.format(layer)], INDEX[layout](*cell)

            def patch(
                tensor: torch.Tensor, hook: Any, value: Any = value, index: Any = index
            ) -> torch.Tensor:
                patched = tensor.clone().reshape(value.shape)
                patched[index] = value[index]
                return patched.reshape(tensor.shape)

            logits = model.run_with_hooks(corrupted, fwd_hooks=[(name.format(layer), patch)])
            found.append(torch.stack([metric(logits) for metric in metrics]))
    return torch.stack(found, dim=-1)
