"""What `load_model` is asked: every argument checked before any file is opened."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from lrp_lens.errors import InputError

HostName = Literal["auto", "HookedTransformer", "TransformerBridge"]
HOSTS = ("auto", "HookedTransformer", "TransformerBridge")

try:
    from transformer_lens import HookedTransformer as HookedTransformer
    from transformer_lens import HookedTransformerConfig as HookedTransformerConfig
except ImportError:
    HookedTransformer = HookedTransformerConfig = None

HAS_HOOKED_TRANSFORMER = HookedTransformer is not None
"""Whether the installed TransformerLens has HookedTransformer (removed in version 4)."""

PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
TOLERANCES = {torch.float64: 1e-4, torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 0.5}
"""The floating-point types, and how far log-probabilities of two hosts may lie apart in each."""


def require_options(host: str, processing: dict[str, bool]) -> None:
    """Refuse an unknown host or option, and what the host or this TransformerLens cannot do.

    Raises:
        InputError: the message says what to use instead.
    """
    if host not in HOSTS:
        raise InputError(f"host must be one of {HOSTS}, got {host!r}")
    unknown = sorted(set(processing) - set(PROCESSING))
    if unknown:
        raise InputError(f"load_model knows the processing options {PROCESSING}, got {unknown}")
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


def require_name(name: Any) -> None:
    """Refuse what names no model.

    Raises:
        InputError: neither a text nor a path, or an empty one.
    """
    if not isinstance(name, str | Path) or not str(name).strip() or "\0" in str(name):
        raise InputError(
            f"a model is a name on the hub such as 'gpt2', a directory, a .gguf file, or a model that is installed as"
            f" a package such as 'smollm2'; received {name!r}. "
            "load_demo_model() loads the model that comes with lrp_lens"
        )


def as_dtype(dtype: Any) -> torch.dtype:
    """The dtype asked for; float32 where none is.

    Raises:
        InputError: no dtype of torch, or one without gradients.
    """
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or dtype not in TOLERANCES:
        names = ", ".join(str(one) for one in TOLERANCES)
        raise InputError(
            f"relevance needs weights of a floating-point dtype, one of {names}; received {dtype!r}"
        )
    return dtype


def as_device(device: Any) -> torch.device:
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
