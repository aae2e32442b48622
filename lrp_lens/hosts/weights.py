"""Weights that can be read: gains, biases and projections are part of every rule, ledger and edge.

1. Weights that accelerate offloaded are brought in where they are read (`lrp_lens.hosts.offload`); of any other
   placeholder (device "meta") nothing can be read.
2. Quantised layers (bitsandbytes, GPTQ, MXFP4) hold integers that only they can read.
"""

from typing import Any

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
            if not weight.is_floating_point() or weight.element_size() < 2:
                raise SiteError(
                    f"Rules, the ledger and edges read the model's weights as floating point numbers; {where} is "
                    f"quantised ({weight.dtype}). Load unquantised weights (dtype=torch.bfloat16; a GGUF file is "
                    "dequantised by load_model)."
                )
