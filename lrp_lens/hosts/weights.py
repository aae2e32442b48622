"""Weights that can be read: gains, biases and projections are part of every rule, ledger and edge.

1. Weights that accelerate offloaded are brought in where they are read (`lrp_lens.hosts.offload`); of any other
   placeholder (device "meta") nothing can be read.
2. Quantised layers (bitsandbytes, GPTQ, MXFP4) hold integers that only they can read.  Those of bitsandbytes go back
   through their own weights, so a pass may run through them; what needs the weights themselves (edges, W_O) is refused
   where it reads them.
3. On processors with AVX512-BF16 a 4-bit layer that runs without gradient packs its weights for a kernel that has none,
   for good: refused, unless it is told not to.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from lrp_lens.errors import SiteError
from lrp_lens.hosts.offload import brings_in
from lrp_lens.hosts.scope import modules_of


def require_readable(model: Any) -> None:
    """Refuse a model with weights that are not there, or that are no floating point numbers.

    Raises:
        SiteError: names the first module, and what it holds.
    """
    for module in modules_of(model):
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            where = f"{type(module).__name__}.{name}"
            if weight.is_meta and not brings_in(module):
                raise SiteError(
                    f"Rules, the ledger and edges read the model's weights; {where} is not in memory (device 'meta'), "
                    "and no hook of accelerate's brings it in (TransformerBridge takes a fused q, k and v apart, and "
                    "accelerate does not know the parts). Keep its layer in memory."
                )
            if _goes_back(module):
                continue
            if not weight.is_floating_point() or weight.element_size() < 2:
                raise SiteError(
                    f"Rules, the ledger and edges read the model's weights as floating point numbers; {where} is "
                    f"quantised ({weight.dtype}). Load unquantised weights (dtype=torch.bfloat16; a GGUF file is "
                    "dequantised by load_model), or layers of bitsandbytes."
                )


def scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What the integers of bitsandbytes' layers are multiplied by, which is no parameter of theirs."""
    for part in filter(_of_bitsandbytes, modules_of(model)):
        state: Any = getattr(part.weight, "quant_state", None)
        held = {"absmax": getattr(state, "absmax", None), "SCB": getattr(part.weight, "SCB", None)}
        held["absmax of absmax"] = getattr(getattr(state, "state2", None), "absmax", None)
        held["offset"] = getattr(state, "offset", None)
        if held["SCB"] is None:  # the first pass moves it
            held["SCB"] = getattr(getattr(part, "state", None), "SCB", None)
        yield from ((name, one) for name, one in held.items() if isinstance(one, Tensor))


def _of_bitsandbytes(module: nn.Module) -> bool:
    names = {base.__name__ for base in type(module).__mro__ if base.__module__.startswith("bitsandbytes.")}
    return bool(names & {"Linear4bit", "Linear8bitLt"})


def _goes_back(module: nn.Module) -> bool:
    """Whether bitsandbytes differentiates through a layer.

    Raises:
        SiteError: it would not, once it has run without gradient.
    """
    if not _of_bitsandbytes(module):
        return False
    packed = getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False)
    packs = module.weight.device.type == "cpu" and getattr(module, "support_avx512bf16_for_cpu", False)
    if packed or packs:
        raise SiteError(
            f"Relevance goes back through every layer; {type(module).__name__} of bitsandbytes "
            f"{'has packed' if packed else 'packs'} its weights for a kernel without gradient when it runs without one "
            f"on this processor. {'Load the model anew, and set' if packed else 'Set'} "
            "support_avx512bf16_for_cpu = False on each such layer before it runs."
        )
    return True
