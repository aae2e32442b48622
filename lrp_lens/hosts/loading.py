"""Load a model into a TransformerLens host, by hub name or from a local Hugging Face directory.

A hub name goes through TransformerLens's own loader. A directory goes to

1. HookedTransformer (TransformerLens 3.9) by its converter: the config is read from a copy in a folder with a
   neutral name (TransformerLens takes a path that contains "llama" or "gemma" for a model name), the weights
   are converted from the loaded model, and the logits are compared with that model's;
2. TransformerBridge by `boot_transformers`, which runs the Hugging Face modules themselves.

Nothing is fetched for a directory. Weights are loaded as they are (no folded norms, nothing centred), because
relevance at a hook point then means the same on every host.
"""

import math
import os
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lrp_lens.errors import InputError

HostName = Literal["auto", "HookedTransformer", "TransformerBridge"]
HOSTS = ("auto", "HookedTransformer", "TransformerBridge")

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    HookedTransformer = HookedTransformerConfig = None

HAS_HOOKED_TRANSFORMER = HookedTransformer is not None
"""Whether the installed TransformerLens has HookedTransformer (removed in version 4)."""

_PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
_TOLERANCES = {torch.float64: 1e-4, torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 0.5}


def load_model(
    name_or_dir: str | Path,
    *,
    host: HostName = "auto",
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    **processing: bool,
) -> Any:
    """Load a model into HookedTransformer or TransformerBridge, in eval mode.

    Args:
        name_or_dir: A name on the hub, or a local directory with `config.json`, weights and tokenizer.
        host: "HookedTransformer" or "TransformerBridge"; "auto" takes HookedTransformer if the installed
            TransformerLens has it and it can hold the model exactly, else TransformerBridge.
        dtype: Type of the weights; float32 if None.
        device: Where to put the model; CUDA if there is any and CPU otherwise, if None.
        processing: HookedTransformer's `fold_ln`, `center_writing_weights`, `center_unembed` and
            `fold_value_biases`, all False by default. They make "auto" insist on HookedTransformer.

    Returns:
        The HookedTransformer or TransformerBridge.

    Raises:
        InputError: If there is no such directory, an option is unknown, or the host cannot hold the model
            (HookedTransformer drops Llama's biases, for instance); the message says what to do.

    Example:
        >>> from lrp_lens.demo import DEMO_CHECKPOINT
        >>> model = load_model(DEMO_CHECKPOINT, host="TransformerBridge", device="cpu")
        >>> model.to_tokens("mary gave").shape
        torch.Size([1, 3])
    """
    _check_options(host, processing)
    _require_name(name_or_dir)
    dtype = _dtype(dtype)
    device = str(_device(device))
    directory = _local_directory(name_or_dir)
    source = str(name_or_dir) if directory is None else directory
    if host == "TransformerBridge" or not HAS_HOOKED_TRANSFORMER:
        return _bridge(source, dtype, device)
    try:
        return _hooked(source, dtype, device, dict.fromkeys(_PROCESSING, False) | processing)
    except NotHookedTransformerError:
        if host == "HookedTransformer" or any(processing.values()):
            raise
        return _bridge(source, dtype, device)


class NotHookedTransformerError(InputError):
    """HookedTransformer cannot hold this model exactly; TransformerBridge can."""


def _check_options(host: str, processing: dict[str, bool]) -> None:
    if host not in HOSTS:
        raise InputError(f"host must be one of {HOSTS}, got {host!r}")
    unknown = sorted(set(processing) - set(_PROCESSING))
    if unknown:
        raise InputError(f"load_model knows the processing options {_PROCESSING}, got {unknown}")
    wanted = sorted(name for name, value in processing.items() if value)
    if host == "TransformerBridge" and wanted:
        raise InputError(
            f"TransformerBridge loads weights as they are, got {wanted}: use host='HookedTransformer', or"
            " call bridge.enable_compatibility_mode() on the loaded model"
        )
    if not HAS_HOOKED_TRANSFORMER and (host == "HookedTransformer" or wanted):
        reason = f"the options {wanted} need it" if wanted else "it was asked for"
        raise InputError(
            f"TransformerLens {version('transformer_lens')} has no HookedTransformer, and {reason}: use"
            " host='TransformerBridge' without these options, or install transformer_lens<4"
        )


def _require_name(name: Any) -> None:
    if not isinstance(name, str | Path) or not str(name).strip() or "\0" in str(name):
        raise InputError(
            f"a model is a name on the hub such as 'gpt2', or a directory; received {name!r}. "
            "load_demo_model() loads the model that comes with lrp_lens"
        )


def _dtype(dtype: Any) -> torch.dtype:
    """The dtype asked for; float32 where none is.

    Raises:
        InputError: no dtype of torch, or one without gradients.
    """
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or dtype not in _TOLERANCES:
        names = ", ".join(str(one) for one in _TOLERANCES)
        raise InputError(
            f"relevance needs weights of a floating-point dtype, one of {names}; received {dtype!r}"
        )
    return dtype


def _device(device: Any) -> torch.device:
    """The device asked for; CUDA if there is any, where none is.

    Raises:
        InputError: no device, or one that is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
        if found.type == "meta":
            raise TypeError("a meta device holds no numbers")
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            there.append("mps")
        raise InputError(f"a device is one of {', '.join(there)} here; received {device!r}") from error
    return found


def _local_directory(name_or_dir: str | Path) -> Path | None:
    """The directory meant, or None for a name on the hub."""
    path = Path(name_or_dir).expanduser()
    meant_as_path = isinstance(name_or_dir, Path) or str(name_or_dir).startswith((".", "~", os.sep))
    if not path.is_dir():
        if meant_as_path:
            raise InputError(f"no such model directory: {str(path)!r}")
        return None
    if not (path / "config.json").is_file():
        found = sorted(entry.name for entry in path.iterdir())[:8]
        raise InputError(
            f"a model directory must hold config.json, weights and tokenizer files; {str(path)!r} holds {found}"
        )
    return path.resolve()


def _bridge(source: str | Path, dtype: torch.dtype, device: str) -> Any:
    if isinstance(source, str):
        return TransformerBridge.boot_transformers(source, dtype=dtype, device=device).eval()
    tokenizer = _tokenizer(source)
    if tokenizer is None:
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        model = _hugging_face(source, dtype).to(device)
        architecture = model.config.architectures[0]
        return build_bridge_from_module(model, architecture, hf_config=model.config, dtype=dtype).eval()
    try:
        return TransformerBridge.boot_transformers(str(source), dtype=dtype, device=device).eval()
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(directory: Path, error: OSError) -> InputError:
    return InputError(f"transformers cannot load the weights in {str(directory)!r}: {error}")


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
    if not any((directory / name).is_file() for name in names):
        return None
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _hugging_face(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, local_files_only=True, attn_implementation="eager"
        )
    except OSError as error:
        raise _unreadable(directory, error) from error
    model.config.architectures = [type(model).__name__]
    return model.eval()


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


def _hooked(source: str | Path, dtype: torch.dtype, device: str, options: dict[str, bool]) -> Any:
    if isinstance(source, str):
        return _hooked_from_hub(source, dtype, device, options)
    return _hooked_from_directory(source, dtype, device, options)


def _hooked_from_hub(name: str, dtype: torch.dtype, device: str, options: dict[str, bool]) -> Any:
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        get_official_model_name(name)
    except ValueError as error:
        raise NotHookedTransformerError(
            f"HookedTransformer has no entry for the model name {name!r}: check the spelling, pass a local"
            " directory, or use host='TransformerBridge'"
        ) from error
    model = HookedTransformer.from_pretrained(name, dtype=dtype, device=device, **options)
    if model.cfg.original_architecture == "LlamaForCausalLM":
        _refuse_dropped_biases(AutoConfig.from_pretrained(get_official_model_name(name)))
    return model.eval()


def _hooked_from_directory(directory: Path, dtype: torch.dtype, device: str, options: dict[str, bool]) -> Any:
    from transformer_lens import loading_from_pretrained as loading

    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    _refuse_dropped_biases(config)
    reference = _hugging_face(directory, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        fields = _hooked_fields(directory, reference.config, options["fold_ln"])
        fields |= {"dtype": dtype, "device": device, "model_name": directory.name}
        model_config = HookedTransformerConfig.from_dict(fields)
        try:
            # Given the model itself, the loader only asks that the path exist.
            weights = loading.get_pretrained_state_dict(str(directory), model_config, reference, dtype=dtype)
        except (ValueError, AttributeError, KeyError) as error:
            raise _unsupported(reference.config.architectures[0], error) from error
        model = HookedTransformer(model_config, _tokenizer(directory), move_to_device=False)
        model.load_and_process_state_dict(weights, **options)
    model.eval()
    _check_logits(model.to("cpu", print_details=False), reference, dtype)
    return model.to(device, print_details=False)


def _hooked_fields(directory: Path, config: PreTrainedConfig, fold_ln: bool) -> dict[str, Any]:
    """TransformerLens's own reading of config.json, taken from a directory whose name means nothing to it."""
    from transformer_lens.loading_from_pretrained import convert_hf_model_config

    if any(name in tempfile.gettempdir().lower() for name in ("llama", "gemma")):
        raise InputError(
            "HookedTransformer takes a path with 'llama' or 'gemma' in it for a model name, and the folder"
            f" for temporary files is {tempfile.gettempdir()}: set TMPDIR to another one"
        )
    with tempfile.TemporaryDirectory(prefix="model-") as neutral:
        for file in directory.glob("*config*.json"):
            shutil.copy(file, neutral)
        try:
            fields = convert_hf_model_config(neutral)
        except (NotImplementedError, ValueError, AttributeError, KeyError) as error:
            raise _unsupported(config.architectures[0], error) from error
    head = getattr(config, "head_dim", None)
    if head and fields.get("rotary_dim") == fields["d_head"]:
        fields["d_head"] = fields["rotary_dim"] = head
    if fold_ln:
        fields["normalization_type"] = {"LN": "LNPre", "RMS": "RMSPre"}.get(
            fields["normalization_type"], fields["normalization_type"]
        )
    return fields | {"init_weights": False, "tokenizer_name": None, "from_checkpoint": False}


def _unsupported(architecture: str, error: Exception) -> NotHookedTransformerError:
    return NotHookedTransformerError(
        f"HookedTransformer cannot convert a local {architecture}: {error!r}; load it with"
        " host='TransformerBridge'"
    )


@torch.no_grad()
def _check_logits(model: Any, reference: PreTrainedModel, dtype: torch.dtype) -> None:
    """Both must say the same on a few tokens (up to a constant per position, which centring may add)."""
    count = min(8, model.cfg.n_ctx)
    tokens = torch.arange(3, 3 + count)[None] % model.cfg.d_vocab
    theirs = reference(input_ids=tokens, use_cache=False).logits
    ours = model(tokens)[..., : theirs.shape[-1]]
    difference = (ours.float().log_softmax(-1) - theirs.float().log_softmax(-1)).abs().max().item()
    tolerance = _TOLERANCES.get(dtype, 2e-3) * max(1.0, theirs.abs().max().item() / 10)
    if not (math.isfinite(difference) and difference <= tolerance):
        architecture = type(reference).__name__
        raise NotHookedTransformerError(
            f"HookedTransformer must give the logits of the original {architecture}, but after conversion the"
            f" log-probabilities differ by {difference:.2g} (at most {tolerance:.2g}): load it with"
            " host='TransformerBridge'"
        )
