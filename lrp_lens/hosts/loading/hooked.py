"""Into HookedTransformer (TransformerLens 3.9), if it computes the same there.

1. The configuration is TransformerLens's reading of config.json (`hooked_config`), the weights come from its converter.
2. They are handed over, not copied one by one: `load_and_process_state_dict` walks through all modules once per weight,
   and a weight that the converter only transposed stays a transposed view, which HookedTransformer's own transposes
   at run time then undo for nothing.
3. The logits of a few tokens must be those of the Hugging Face model.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from lrp_lens.errors import InputError
from lrp_lens.hosts.loading.hooked_config import hooked_fields
from lrp_lens.hosts.loading.options import TOLERANCES, HookedTransformer, HookedTransformerConfig
from lrp_lens.hosts.loading.original import Original, read_from_hub


class NotHookedTransformerError(InputError):
    """HookedTransformer cannot hold this model exactly; TransformerBridge can."""


def hooked_from_hub(name: str, dtype: torch.dtype, device: str, options: dict[str, bool]) -> Any:
    """A model on the hub, by TransformerLens's own loader.

    Raises:
        NotHookedTransformerError: an unknown name, or biases that the loader drops.
        InputError: the hub has no such model, or cannot be reached.
    """
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        get_official_model_name(name)
    except ValueError as error:
        raise NotHookedTransformerError(
            f"HookedTransformer has no entry for the model name {name!r}: check the spelling, pass a local"
            " directory, or use host='TransformerBridge'"
        ) from error
    with read_from_hub(name):
        model = HookedTransformer.from_pretrained(name, dtype=dtype, device=device, **options)
    if model.cfg.original_architecture == "LlamaForCausalLM":
        _refuse_dropped_biases(AutoConfig.from_pretrained(get_official_model_name(name)))
    return model.eval()


def hooked_from_original(
    original: Original, dtype: torch.dtype, device: str, options: dict[str, bool]
) -> Any:
    """A local model, with its logits compared.

    Raises:
        NotHookedTransformerError: an architecture that TransformerLens cannot convert, or other logits.
        InputError: weights that are missing or broken.
    """
    _refuse_dropped_biases(AutoConfig.from_pretrained(original.directory, local_files_only=True))
    reference = original.weights(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            model = _converted(original, reference, dtype, options)
        except (NotImplementedError, ValueError, AttributeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise NotHookedTransformerError(
                f"HookedTransformer cannot convert a local {reference.config.architectures[0]}: {error!r}; load it"
                " with host='TransformerBridge'"
            ) from error
    _check_logits(model, reference, dtype)
    return model.to(device, print_details=False)


def _converted(
    original: Original, reference: PreTrainedModel, dtype: torch.dtype, options: dict[str, bool]
) -> Any:
    """The HookedTransformer on the CPU, in eval mode."""
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict
    from transformer_lens.weight_processing import ProcessWeights

    fields = hooked_fields(original.directory, reference.config, options["fold_ln"])
    fields |= {"dtype": dtype, "device": "cpu", "model_name": original.name}
    config = HookedTransformerConfig.from_dict(fields)
    # Given the model itself, the loader only asks that the path exist.
    weights = get_pretrained_state_dict(str(original.directory), config, reference, dtype=dtype)
    model = HookedTransformer(config, original.tokenizer(), move_to_device=False)
    weights = model.fill_missing_keys(weights)
    if any(options.values()):  # in place, so on copies: the reference keeps its weights
        weights = {name: weight.detach().clone() for name, weight in weights.items()}
        weights = ProcessWeights.process_weights(weights, config, **options)
    model.load_state_dict(_each_its_own(weights, model.state_dict()), strict=False, assign=True)
    return model.eval()


def _each_its_own(
    weights: Mapping[str, torch.Tensor], places: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights in the dtypes of their places, no two in one piece of memory: tied and fused weights are copied."""
    taken: set[int] = set()
    own = {}
    for name, weight in weights.items():
        here = weight.detach()
        if name in places:
            here = here.to(places[name].dtype)
        memory = here.untyped_storage()
        if memory.data_ptr() in taken or memory.nbytes() > here.numel() * here.element_size():
            here = here.clone()
        taken.add(here.untyped_storage().data_ptr())
        own[name] = here
    return own


def _refuse_dropped_biases(config: PreTrainedConfig) -> None:
    """HookedTransformer's Llama converter writes zeros where the checkpoint has biases."""
    if "LlamaForCausalLM" not in (config.architectures or []):
        return
    for key in ("attention_bias", "mlp_bias"):
        if getattr(config, key, False):
            raise NotHookedTransformerError(
                f"HookedTransformer's converter for Llama silently drops biases, and this model's config.json"
                f" has {key}=true: load it with host='TransformerBridge'"
            )


@torch.no_grad()
def _check_logits(model: Any, reference: PreTrainedModel, dtype: torch.dtype) -> None:
    """Both must say the same on a few tokens (up to a constant per position, which centring may add)."""
    count = min(8, model.cfg.n_ctx)
    tokens = torch.arange(3, 3 + count)[None] % model.cfg.d_vocab
    theirs = reference(input_ids=tokens, use_cache=False).logits
    ours = model(tokens)[..., : theirs.shape[-1]]
    difference = (ours.float().log_softmax(-1) - theirs.float().log_softmax(-1)).abs().max().item()
    tolerance = TOLERANCES[dtype] * max(1.0, theirs.abs().max().item() / 10)
    if not (math.isfinite(difference) and difference <= tolerance):
        architecture = type(reference).__name__
        raise NotHookedTransformerError(
            f"HookedTransformer must give the logits of the original {architecture}, but after conversion the"
            f" log-probabilities differ by {difference:.2g} (at most {tolerance:.2g}): load it with"
            " host='TransformerBridge'"
        )
