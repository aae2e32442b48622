"""What patching is given: token ids of two aligned runs, a metric, activations to patch in.

Clean and corrupted prompts are aligned token by token and prompt by prompt: a patch replaces the activation at a
position by that of the other run at the same position.  transformer_lens' metrics return one number for a batch;
metrics of lrp_lens return one per prompt, of which the number is the mean.

A metric's answers are appended to the prompts of both runs.  Two answers are two rows of a prompt: a patch at a
position behind the prompt replaces the activation there in both.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import require_eval, vocabulary_size
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import tokenize, with_answers
from lrp_lens.methods.facets import record_name
from lrp_lens.metrics import BoundMetric, CallableMetric, Metric, RunnerUp, as_metric
from lrp_lens.run.pairs import Direction, require_aligned, require_different, require_direction, settled
from lrp_lens.run.plain import plain_activations

PatchingMetric = Metric | Callable[[Tensor], Tensor]
"""Logits [batch, pos, d_vocab] → a scalar, or one number per prompt [batch] whose mean is the scalar."""


def aligned(
    model: Any, prompt: Any, what: str, metric: Any = None, prepend_bos: bool | None = None
) -> TokenBatch:
    """Prompts of one length, with the answers that a metric appends.

    Raises:
        InputError: for train mode, prompts of several lengths, or what `run_with_relevance` refuses.
    """
    require_eval(model)
    batch = prompt if isinstance(prompt, TokenBatch) else tokenize(model, prompt, None, prepend_bos)
    if len(set(batch.prompt_lengths)) > 1:
        raise InputError(
            f"Patching goes position by position, so the {what} prompts have one length; received lengths "
            f"{sorted(set(batch.prompt_lengths))}. Patch one length at a time."
        )
    return (
        with_answers(model, batch, metric.resolve(model).branches()) if isinstance(metric, Metric) else batch
    )


def lengths(shape: Sequence[int]) -> list[int]:
    """Tokens of each row, of rows of one length."""
    return [shape[1]] * shape[0]


def per_prompt(metric: Any, model: Any) -> Metric:
    """The metric as one number per prompt.

    A scalar over a batch becomes that scalar for each prompt, so that the mean over prompts is always the scalar.
    """
    if metric is None or (isinstance(metric, Metric) and metric.chooses):
        raise InputError(
            f"A pass of one run needs a metric that names its tokens; received {metric}. Pass one such as LogitDiff: "
            "which token is the clean run's first choice is not to be seen in the corrupted run."
        )
    if isinstance(metric, Metric):
        return metric.resolve(model)
    as_metric(metric)  # refuses what is no callable

    def function(logits: Tensor) -> Tensor:
        value = metric(logits)
        scalar = isinstance(value, Tensor) and value.ndim == 0
        return value.expand(logits.shape[0]) if scalar else value

    function.__name__ = getattr(metric, "__name__", "callable")
    return CallableMetric(function)


def settled_metric(model: Any, clean: Any, metric: Any, prepend_bos: bool | None = None) -> Any:
    """The metric of both runs: without one, or with one that chooses its tokens, those of each clean prompt.

    Raises:
        InputError: such a metric, and activations instead of prompts.
    """
    asked = RunnerUp() if metric is None else metric
    if not (isinstance(asked, Metric) and asked.chooses):
        return asked
    if is_cache(clean):
        raise InputError(
            "Without a metric that names its tokens, the clean run's first choice is set against its runner-up, which "
            "needs its prompts; received a cache of activations. Pass a metric such as LogitDiff, or the clean tokens."
        )
    batch = aligned(model, clean, "clean", None, prepend_bos)
    bound = asked.resolve(model).bind(batch.starts, batch.prompt_lengths, vocabulary_size(model))
    return settled(model, batch, bound).metric


def require_usable(name: str, bound: BoundMetric, logits: Tensor, there: Tensor) -> None:
    """Raise InputError unless a metric depends on the logits, MetricError unless it is finite.

    Args:
        name: the metric's, for the message.
        bound: one number per prompt.
        logits: of the run that is patched, [batch, pos, d_vocab].
        there: the metric of the other run, [batch].
    """
    if not isinstance(bound.metric, CallableMetric):
        return  # metrics of lrp_lens read logits by construction
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_(True)
        value = bound(leaf)
        if not value.requires_grad:
            raise InputError(
                f"A metric depends on the logits differentiably; {name} does not. Avoid constants, .item() and argmax."
            )
        (slope,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if (slope is None or not bool(slope.any())) and torch.equal(value.detach(), there.detach()):
        raise InputError(
            f"A metric depends on the logits; {name} is the constant {value[0].item():.3g} in both runs. Read the "
            "logits in it."
        )


def activations(model: Any, tokens: Int[Tensor, "row pos"], names: Iterable[str]) -> dict[str, Tensor]:
    """One forward pass without gradient; the activations at these hook points."""
    return plain_activations(model, tokens, names)[1]


def source_activations(
    model: Any, source: Any, names: Iterable[str], shape: tuple[int, int]
) -> dict[str, Tensor]:
    """The activations to patch in, from an ActivationCache of the other run, or from its prompts.

    Args:
        model: runs the prompts if `source` is not a cache.
        source: ActivationCache or mapping from hook names; or prompts, the metric's answers appended.
        names: canonical hook names that are needed.
        shape: [row, pos] of the run that is patched.

    Raises:
        InputError: if a name is not in the cache, or its shape does not fit.
    """
    wanted = list(names)
    if not is_cache(source):
        batch = aligned(model, source, "clean")
        require_aligned(lengths(batch.ids.shape), lengths(shape))
        return activations(model, batch.ids, wanted)
    records = resolve(model).record_of
    found: dict[str, Tensor] = {}
    for name in wanted:
        if name not in records:
            continue
        port = records[name].port
        key = name if name in source or port is None else port.name
        if key not in source:
            raise InputError(
                f"clean_cache holds the activation that is patched in; it has none at {name!r}. Make it with "
                "model.run_with_cache(clean_tokens), without names_filter, or pass the clean tokens."
            )
        tensor = source[key]
        found[name] = tensor[None] if getattr(source, "has_batch_dim", True) is False else tensor
    for name, tensor in found.items():  # a pattern is [batch, head, pos, pos], all else [batch, pos, ...]
        length = (
            tensor.shape[-1] if name == record_name("pattern", records[name].layer or 0) else tensor.shape[1]
        )
        require_aligned(lengths((tensor.shape[0], length)), lengths(shape))
    return found


def is_cache(source: Any) -> bool:
    """Whether these are activations by hook name (an ActivationCache), not prompts."""
    return isinstance(source, Mapping) or hasattr(source, "cache_dict")


def base_and_source(
    model: Any,
    corrupted: Any,
    clean: Any,
    direction: Direction,
    metric: Any = None,
    prepend_bos: bool | None = None,
) -> tuple[TokenBatch, Any]:
    """The run that is patched, and where the activations that are patched in come from; a metric's answers appended.

    Raises:
        InputError: for an unknown direction, noising with a cache instead of clean prompts, or prompts that do not fit
            or are the same.
    """
    require_direction(direction)
    batch = aligned(model, corrupted, "corrupted", metric, prepend_bos)
    if is_cache(clean):
        if direction == "denoising":
            return batch, clean
        raise InputError(
            "Noising patches the clean run, so it needs the clean prompts; received a cache of their activations. "
            "Pass the clean tokens in place of clean_cache."
        )
    other = aligned(model, clean, "clean", metric, prepend_bos)
    require_aligned(lengths(other.ids.shape), lengths(batch.ids.shape))
    require_different(other.ids[other.first_rows], batch.ids[batch.first_rows])
    return (batch, other) if direction == "denoising" else (other, batch)
