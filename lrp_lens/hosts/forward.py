"""One forward pass on either host, from token ids and an attention mask."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lrp_lens.errors import InputError
from lrp_lens.hosts.no_cache import without_cache
from lrp_lens.hosts.scope import exclusive, modules_of
from lrp_lens.ops.gates import accumulation_dtype


def is_bridge(model: Any) -> bool:
    """Whether the model is a TransformerBridge; otherwise it is a HookedTransformer.

    Raises:
        InputError: if it is neither.
    """
    names = {base.__name__ for base in type(model).__mro__}
    if "TransformerBridge" in names:
        return True
    if "HookedTransformer" in names:
        return False
    raise InputError(
        f"lrp_lens needs a transformer_lens HookedTransformer or TransformerBridge, received {type(model).__name__}. "
        "Load one with HookedTransformer.from_pretrained(...) or TransformerBridge.boot_transformers(...)."
    )


def device_of(model: Any) -> torch.device:
    """The device that token ids must be on."""
    return next(model.parameters()).device


def last_position(tensor: torch.Tensor, hook: Any = None) -> torch.Tensor:
    """A hook before the unembedding that keeps one position: the last, or any where nobody reads the logits."""
    return tensor[:, -1:]


def vocabulary_size(model: Any) -> int:
    """Number of logits at each position."""
    return int(getattr(model.cfg, "d_vocab_out", None) or model.cfg.d_vocab)


def input_vocabulary_size(model: Any) -> int:
    """Number of token ids that the model reads; of `vocabulary_size`, some models write fewer."""
    return int(model.cfg.d_vocab)


def require_gradients() -> None:
    """Raise InputError in inference mode."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "Relevance needs gradients, and torch.inference_mode() forbids them. Leave inference mode first."
        )


def require_eval(model: Any, parts: Iterable[nn.Module] | None = None) -> None:
    """Raise InputError if the model, or a part of it, is in train mode; `parts`: some of its modules, default all."""
    if parts is None:
        parts = modules_of(model.original_model) if is_bridge(model) else ()
    elif not is_bridge(model):
        parts = ()
    parts = [model, *(part for part in parts if not type(part).__module__.startswith("transformer_lens"))]
    # Folding weights leaves new transformer_lens modules in train mode: they do not count.
    if any(part.training for part in parts):
        raise InputError(
            "Relevance is defined on the deterministic forward pass, but the model is in train mode. "
            "Call model.eval() first (HookedTransformer.from_pretrained returns models in train mode)."
        )


def forward(
    model: Any, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None
) -> Float[Tensor, "batch read d_vocab"]:
    """Logits of a batch; `mask` is False at padding, or None where there is no padding on the left.

    Positions are counted from the first real token of each row on both hosts.  A hook before the unembedding may
    keep fewer of them (`read`).  No keys and values are kept.

    Raises:
        InputError: padding on the left in float64, where transformers' attention returns NaN.
    """
    bridge, left = is_bridge(model), getattr(model.tokenizer, "padding_side", "right") == "left"
    if mask is None and left and not bridge:
        # else HookedTransformer guesses one from the token ids
        mask = torch.ones_like(tokens, dtype=torch.bool)
    options: dict[str, Any] = {} if mask is None else {"attention_mask": mask.long()}
    if bridge:
        options |= without_cache(model)
    with exclusive(model):
        logits = model(tokens, return_type="logits", **options)
    if mask is not None and logits.dtype == torch.float64 and bool(logits.detach().isnan().any()):
        raise InputError(
            "Padding on the left gives NaN here: transformers takes the softmax of float64 models in float32, where "
            "float64's mask value is -inf and a row of padding 0 / 0. Pad on the right (the default), or load the "
            "model in float32."
        )
    return logits


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, in one pass: their sum is unless one of them is not."""
    return bool(torch.isfinite(tensor.sum(dtype=accumulation_dtype(tensor.dtype))))


def require_finite(logits: Tensor, first: Callable[[], str] = str) -> None:
    """Refuse logits that are no finite numbers.

    Args:
        logits: what the model returned.
        first: where the first such number stood, "" if that is not known; asked only where there is one.

    Raises:
        InputError: names the place.
    """
    if not is_finite(logits):
        kind = "NaN" if bool(torch.isnan(logits).any()) else "infinite"
        place = first()
        raise InputError(
            f"Relevance needs finite logits; the model returned {kind} values"
            f"{f', and the first that are no finite numbers stand at {place}' if place else ''}."
            f"{range_of(logits.dtype)} Load it in float32 or bfloat16."
        )


def range_of(dtype: torch.dtype) -> str:
    """What a narrow type cannot hold, as a sentence."""
    return " float16 holds nothing above 65,504." if dtype == torch.float16 else ""
