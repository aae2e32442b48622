"""The zoo: tiny random models of every architecture lrp_lens is tested on, in every host that can hold them.

Each model has two layers, width 32, four heads and a vocabulary of 97. Every parameter is random, biases,
norm weights, router biases and attention sinks included, so that no term of a relevance rule is multiplied by
a zero or a one by accident. Nothing is downloaded, and every builder is deterministic and leaves the global
random state as it found it.

    hugging_face("llama")    the transformers model, eager attention and eager experts
    hooked("llama")          the same weights in a HookedTransformer (TransformerLens 3.9 only)
    bridge("llama")          the same weights in a TransformerBridge (TransformerLens 3.9 and 4)
    native_hooked("ln_relu") a HookedTransformer of its own, not converted from anything (3.9 only)
    shared("bridge", "llama") the same, built once a process, for tests that only run it
    models("hooked", "bridge") every (host, name) of these hosts, to parametrise tests with
    prompt_tokens(2, 9)      token ids

Which host holds which architecture (tests/test_zoo.py holds every line of this table to the logits):

    architecture               HookedTransformer 3.9                              Bridge 3.9   Bridge 4.3
    neox, gptj, opt, bloom,    yes                                                yes          yes
      llama, llama_mha,
      mistral, mixtral, qwen2,
      qwen3, phi3, olmo3,
      olmoe, gpt_oss
    gpt2, phi                  yes, if config.n_ctx (gpt2) or                     yes          yes
                               config.partial_rotary_factor (phi) is there:
                               TransformerLens reads them, configurations made
                               by transformers 5 lack them
    gemma2, gemma3             yes; TransformerLens has a configuration for       yes          yes
                               every released size, by name (here overridden)
    llama_head_dim             by hand: the reader ignores head_dim               yes          yes
    llama_attention_biases     by hand: the converter zeroes the biases silently  yes          yes
                               (here they are copied in after loading)
    llama_biases               no: GatedMLP has no bias on the gate and adds b_in yes          yes
                               after the product, where Llama's comes before
    qwen3_moe                  by hand: no reader, no converter (here Mixtral's   yes          yes
                               converter plus the QK-norms)
    olmo2                      by hand: a configuration only for released sizes   yes          yes
    olmo2_gqa                  by hand: the converter ignores grouped keys (here  yes          yes
                               OLMo-3's, whose layout is the same)

"By hand" means that HookedTransformer computes the architecture exactly, but its loader does not get there;
how it is done is in tests/zoo_conversion.py.

What an architecture has no parameter for, and is therefore zero: biases anywhere in llama, llama_mha,
llama_head_dim, mistral, mixtral, qwen3, qwen3_moe, gemma2, gemma3, phi3, olmo2, olmo3, olmoe; attention
biases in gptj; the output bias b_O in qwen2; MLP biases in qwen2 and llama_attention_biases; the unembedding
bias everywhere but gptj and phi; router biases everywhere but gpt_oss.

Precision: of the float64 models only gpt2 is float64 throughout. Transformers casts to float32 inside
RMSNorm, the softmax, the rotary tables, Gemma's embedding scale and GPT-J's query-key product;
HookedTransformer inside the routers' softmax (FLOAT32_ROUTERS) and Gemma's norm weights. So two hosts agree
to 1e-5 (`logit_tolerance`), unless both are built and run inside `float64_throughout()`, where they agree to
1e-12 (bloom to 1e-8: its hosts write a constant of the GELU with different numbers of digits). All weights
are float32 numbers.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterable
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import pytest
import torch
import transformers
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from tests.zoo_recipes import (
    D_HEAD,
    D_MLP,
    D_MODEL,
    D_VOCAB,
    EVERY_RULE_SET,
    N_CTX,
    N_HEADS,
    N_LAYERS,
    NATIVE,
    RECIPES,
)

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    from tests.zoo_conversion import convert

    HAS_HOOKED_TRANSFORMER = True
except ImportError:  # TransformerLens 4
    HAS_HOOKED_TRANSFORMER = False

_FLOAT32 = torch.float32  # also inside float64_throughout


def _builder(name: str):
    def build() -> transformers.PreTrainedModel:
        model_class, config_class, fields = RECIPES[name]
        # A configuration keeps the lists it is given, so it is given copies.
        fields = {key: list(value) if isinstance(value, list) else value for key, value in fields.items()}
        return getattr(transformers, model_class)(getattr(transformers, config_class)(**fields))

    return build


ARCHITECTURES = {name: _builder(name) for name in RECIPES}
BRIDGE_NAMES = tuple(ARCHITECTURES)
HOOKED_NAMES = (
    tuple(name for name in ARCHITECTURES if name != "llama_biases") if HAS_HOOKED_TRANSFORMER else ()
)
FLOAT64_NAMES = ("gpt2",)  # transformers itself computes these in float64 throughout
FLOAT32_ROUTERS = ("mixtral", "qwen3_moe", "olmoe", "gpt_oss")  # HookedTransformer casts their routers


def hosts_of(name: str) -> tuple[str, ...]:
    """The hosts that hold this architecture exactly: any of "hugging_face", "hooked", "bridge"."""
    return ("hugging_face",) + ("hooked",) * (name in HOOKED_NAMES) + ("bridge",) * (name in BRIDGE_NAMES)


def logit_tolerance(name: str) -> float:
    """How closely two hosts agree on the logits in float64, outside `float64_throughout`."""
    return 1e-9 if name in FLOAT64_NAMES else 1e-5


@contextlib.contextmanager
def float64_throughout():
    """A scope in which nothing casts to float32: build and run both models to be compared inside it.

    The hosts' own casts to float32 otherwise hide differences below 1e-6. The scope replaces torch's names
    for float32 by those of float64: use it in tests only, to build, run and differentiate models.
    """
    for model_class, _, _ in RECIPES.values():
        getattr(transformers, model_class)  # imported out here, lest a module keep the replaced names
    default = torch.get_default_dtype()
    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch, "float", torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


# ---------------------------------------------------------------------------------------- hosts
@contextlib.contextmanager
def _quietly(seed: int = 0):
    """A scope with its own random state and without deprecation warnings or log lines of the hosts."""
    disabled_below = logging.root.manager.disable
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            logging.disable(disabled_below)


def _randomize(model: torch.nn.Module, *, seed: int = 0, norm_mean: float = 1.0) -> None:
    """Make every parameter random: norm weights around `norm_mean`, biases at 0.2, matrices at 0.25.

    GPT-OSS's gate and up biases are drawn at 4.0, so that its clamps at 7 are active for some units.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=_FLOAT32)
            words = name.lower()
            is_norm = any(word in words for word in ("norm", "ln_", ".ln", "ln1", "ln2"))
            if is_norm and words.endswith(("weight", ".w")):
                parameter.copy_(norm_mean + 0.3 * noise)
            elif "gate_up_proj_bias" in words:
                parameter.copy_(4.0 * noise)
            elif parameter.dim() == 1 or words.endswith("bias") or "b_" in words.rsplit(".", 1)[-1]:
                parameter.copy_(0.2 * noise)
            else:
                is_embedding = any(word in words for word in ("embed", "wte", "wpe"))
                parameter.copy_((0.5 if is_embedding else 0.25) * noise)


def hugging_face(name: str, dtype: torch.dtype = torch.float64) -> transformers.PreTrainedModel:
    """The transformers model with eager attention and eager experts, in eval mode."""
    with _quietly():
        model = ARCHITECTURES[name]()
        _randomize(model, norm_mean=0.0 if name.startswith("gemma") else 1.0)  # Gemma multiplies by 1 + w
        model.config.architectures = [type(model).__name__]
        model.set_attn_implementation("eager")
        model.config._experts_implementation = "eager"
        return model.to(dtype).eval()


def bridge(name: str, dtype: torch.dtype = torch.float64):
    """A TransformerBridge around a fresh copy of the model, not in compatibility mode."""
    model = hugging_face(name, dtype)
    with _quietly():
        return build_bridge_from_module(
            model, type(model).__name__, hf_config=model.config, dtype=dtype
        ).eval()


def hooked(name: str, dtype: torch.dtype = torch.float64) -> "HookedTransformer":
    """A HookedTransformer with the same weights: nothing folded, nothing centred."""
    if name not in HOOKED_NAMES:
        raise ValueError(f"HookedTransformer does not hold {name!r} here; it holds {HOOKED_NAMES}")
    model = hugging_face(name, dtype)
    with _quietly():
        return convert(name, model, dtype)


# ---------------------------------------------------------------------------------------- native models
NATIVE_NAMES = tuple(NATIVE) if HAS_HOOKED_TRANSFORMER else ()
BIAS_FREE_NAMES = tuple(name for name in NATIVE_NAMES if name.startswith("bias_free"))


def native_hooked(name: str, dtype: torch.dtype = torch.float64) -> "HookedTransformer":
    """A HookedTransformer of its own configuration, with random biases unless its name says bias_free."""
    if name not in NATIVE_NAMES:
        raise ValueError(f"no native model {name!r} here; there are {NATIVE_NAMES}")
    fields = dict(
        d_model=D_MODEL, n_heads=N_HEADS, d_head=D_HEAD, n_layers=N_LAYERS, d_vocab=D_VOCAB, n_ctx=N_CTX
    )
    if not NATIVE[name].get("attn_only"):
        fields["d_mlp"] = D_MLP
    with _quietly():
        config = HookedTransformerConfig(**fields | NATIVE[name], dtype=torch.float32, device="cpu")
        model = HookedTransformer(config)
        _randomize(model)
        if name in BIAS_FREE_NAMES:
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if parameter_name.rsplit(".", 1)[-1].lstrip("_").startswith("b"):
                        parameter.zero_()
        if dtype != torch.float32:
            # Built anew, because the rotary tables are computed in the configuration's own dtype.
            state = {key: value for key, value in model.state_dict().items() if "rotary" not in key}
            model = HookedTransformer(
                HookedTransformerConfig(**fields | NATIVE[name], dtype=dtype, device="cpu")
            )
            model.load_state_dict(state, strict=False)
        return model.to(dtype, print_details=False).eval()


# ---------------------------------------------------------------------------------------- all of them
BUILD = {"bridge": bridge} | ({"hooked": hooked, "native": native_hooked} if HAS_HOOKED_TRANSFORMER else {})
HOSTS = tuple(host for host in BUILD if host != "native")
REFUSED = ("solu_ln",)  # built to be refused


def models(*hosts: str) -> list[tuple[str, str]]:
    """(host, name) of every model of these hosts that lrp_lens takes; by default of all that are installed."""
    names = {"hooked": HOOKED_NAMES, "native": NATIVE_NAMES, "bridge": BRIDGE_NAMES}
    return [(host, name) for host in hosts or names for name in names[host] if name not in REFUSED]


def under_rules(models: list[tuple[str, str]], rules: Iterable[str]) -> list[Any]:
    """(host, name, rules) of every model under each rule set, to parametrise a test.

    In the first tier the first rule set goes through all models, the others through `EVERY_RULE_SET`.
    """
    return [
        pytest.param(host, name, one, marks=[pytest.mark.full] * (place > 0 and name not in EVERY_RULE_SET))
        for host, name in models
        for place, one in enumerate(rules)
    ]


_shared: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}
_lent: set[tuple[Any, ...]] = set()


def shared(host: str, name: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model that is built once a process and lent to every test that asks for it.

    Whoever borrows it leaves it as it was; `changed` says who did not (tests/conftest.py asks after every test).  A
    test that means to change its model builds one of its own.  Inside `float64_throughout` there is another one.
    """
    key = (host, name, dtype, torch.float32 is torch.float64)
    if key not in _shared:
        model = BUILD[host](name, dtype)
        with torch.no_grad():
            model(prompt_tokens(1, 3))  # TransformerBridge attaches hooks of its own at the first pass
        _shared[key] = model, _found(model)
    _lent.add(key)
    return _shared[key][0]


def changed() -> list[str]:
    """What was not left as found in the models lent since the last call; these are not lent again."""
    faults = []
    for key in _lent:
        model, before = _shared[key]
        after = _found(model)
        different = sorted(part for part in before | after if before.get(part) != after.get(part))
        if different:
            del _shared[key]
            faults.append(f"{key[0]} {key[1]}: {', '.join(different[:5])}")
    _lent.clear()
    return faults


def _found(model: Any) -> dict[str, Any]:
    """What a test could leave changed: weights, gradients, hooks, mode, modules and plain settings.

    Weights count by the number of their in-place changes and by their sum, which also sees changes behind autograd.
    """
    found: dict[str, Any] = {}
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            total = tensor.detach().double().sum().item()
            state = (id(tensor), tensor._version, tensor.requires_grad, tensor.grad is None, repr(total))
            found[f"{kind} {name}"] = state
    for name, module in model.named_modules():
        hooks = [len(getattr(module, kind)) for kind in _HOOKS]
        points = [len(getattr(module, kind, ())) for kind in ("fwd_hooks", "bwd_hooks", "ctx")]
        found[f"module {name}"] = (id(module), module.training, hooks, points)
    plain = {
        key: value for key, value in vars(model.cfg).items() if isinstance(value, bool | int | float | str)
    }
    return found | {f"cfg {key}": value for key, value in plain.items()}


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def prompt_tokens(batch: int = 1, length: int = 9, seed: int = 3) -> torch.Tensor:
    """Token ids [batch, length], special tokens (0, 1, 2) left out."""
    return torch.randint(3, D_VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
