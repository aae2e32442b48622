"""A pass in full with attention left to a fused kernel against the host's own operations: the same relevance."""

from typing import Any

import numpy as np
import pytest
import torch

from lrp_lens import (
    ATTN_LRP,
    GIM,
    PRESETS,
    LogitDiff,
    RelevanceCache,
    SiteError,
    estimate,
    relevance_per_metric,
    run_with_relevance,
)
from lrp_lens.hosts import by_rows as of_hosts
from lrp_lens.hosts import resolve
from lrp_lens.hosts.by_rows import refusal
from lrp_lens.ops import by_rows, row_recorder
from lrp_lens.ops.by_rows import Attention, Program
from lrp_lens.ops.live_bytes import Counter
from lrp_lens.run import whole
from tests import zoo
from tests.row_programs import programs_that_run
from tests.test_fused_rows import KINDS, N, both
from tests.test_low_memory import EXACT, PROMPTS, of_tensors

METRIC = LogitDiff(3, [7, 9])
HOST = zoo.HOSTS[-1]
PATTERN = "blocks.1.attn.hook_pattern"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Prompts of any length go to the kernel; the programs that ran."""
    monkeypatch.setattr(whole, "SHORT", 1)
    return programs_that_run(monkeypatch)


def run(model: Any, prompt: Any, rules: Any = ATTN_LRP, **options: Any) -> RelevanceCache:
    options = {"logits": "metric", "memory": "full"} | options
    return run_with_relevance(model, prompt, METRIC, rules=rules, **options)[1]


def by_operations(monkeypatch: pytest.MonkeyPatch, *given: Any, **options: Any) -> RelevanceCache:
    """The same pass by the host's own operations."""
    with monkeypatch.context() as patch:
        patch.setattr(whole, "SHORT", 10**9)
        return run(*given, **options)


def require_same(one: RelevanceCache, other: RelevanceCache, tolerance: float) -> None:
    """Every activation and gradient, the metric and the ledger; errors as shares of the largest of their kind."""
    assert list(one) == list(other) and (one.memory, other.memory) == ("full", "full")
    for kind in ("activations", "gradients"):
        scale = max(float(tensor.abs().max()) for tensor in getattr(other, kind).values())
        for name, tensor in getattr(one, kind).items():
            assert float((tensor - getattr(other, kind)[name]).abs().max()) <= tolerance * scale, (kind, name)
    scale = max(float(other[name].abs().sum()) for name in other)
    assert scale > 1e-2
    mine, expected = one.ledger(), other.ledger()
    assert [row.label for row in mine.rows] == [row.label for row in expected.rows]
    pairs = [(row.amount, known.amount) for row, known in zip(mine.rows, expected.rows, strict=True)]
    parts = ("metric", "tokens", "positions", "stream", "remainder")
    for found, known in [*pairs, *((getattr(mine, part), getattr(expected, part)) for part in parts)]:
        np.testing.assert_allclose(found, known, rtol=0, atol=tolerance * scale)


# ------------------------------------------------------------------------------- the kernel = the operations
def same_under_every_preset(
    host: str, name: str, kernel: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    with zoo.float64_throughout():
        model, tokens = zoo.shared(host, name), zoo.prompt_tokens(2, 9)
        refusal(model, resolve(model))
        del kernel[:]
        for rules in PRESETS:
            try:
                expected = by_operations(monkeypatch, model, tokens, rules)
            except SiteError:
                continue  # an edit that the host drops (tests/test_low_memory.py)
            require_same(run(model, tokens, rules), expected, 1e-12 if host != "native" else 1e-10)


@pytest.mark.parametrize(
    "host", [pytest.param(host, marks=[pytest.mark.full] * (host != HOST)) for host in zoo.HOSTS]
)
def test_the_kernel_gives_what_the_operations_give(
    host: str, kernel: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under every preset, in float64; all rows at once in every layer but where a rule acts inside."""
    same_under_every_preset(host, "llama", kernel, monkeypatch)
    assert len(kernel) == zoo.N_LAYERS * (len(PRESETS) - 1) and all(one.at_once for one in kernel)


@pytest.mark.full
@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_every_model(host: str, name: str, kernel: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """Soft-caps, sinks, ALiBi, windows: what is no form of the kernel's is formed by the operations, in the graph."""
    same_under_every_preset(host, name, kernel, monkeypatch)
    if name in ("gemma2", "gpt_oss"):
        assert not any(one.is_fused for one in kernel)


def test_a_window(kernel: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the kernel with the mask; a mask that is taken for a causal one gives something else (control)."""
    with zoo.float64_throughout():
        model, tokens = zoo.shared(HOST, "mistral"), zoo.prompt_tokens(1, 13)
        expected = by_operations(monkeypatch, model, tokens)
        require_same(run(model, tokens), expected, 1e-12)
        assert kernel[-1].is_fused and not kernel[-1].at_once
        monkeypatch.setattr(by_rows, "is_causal", lambda mask, start: True)
        resolve(model).remembered.pop("masks")
        wrong = run(model, tokens)
        resolve(model).remembered.pop("masks")
    with pytest.raises(AssertionError):
        require_same(wrong, expected, 1e-3)


def test_in_float32_and_padded_on_the_right(kernel: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of different lengths, and several metrics."""
    model = zoo.shared(HOST, "llama", torch.float32)
    require_same(run(model, PROMPTS), by_operations(monkeypatch, model, PROMPTS), 10 * EXACT[torch.float32])
    del kernel[:]
    metrics = [METRIC, LogitDiff(1, 2)]
    _, found = relevance_per_metric(model, PROMPTS, metrics, memory="full", logits="metric", rules=ATTN_LRP)
    assert len(kernel) == zoo.N_LAYERS
    require_same(found[0], run(model, PROMPTS), 10 * EXACT[torch.float32])


def test_in_bfloat16(kernel: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = zoo.shared(HOST, "llama", torch.bfloat16), zoo.prompt_tokens(1, 9)
    expected, found = by_operations(monkeypatch, model, tokens), run(model, tokens)
    assert len(kernel) >= zoo.N_LAYERS and found.metric_value.isfinite().all()
    scale = float(expected["hook_embed"].abs().sum())
    np.testing.assert_allclose(found.tokens().values, expected.tokens().values, rtol=0, atol=0.02 * scale)


# ------------------------------------------------------------------------------- where it is taken
def test_the_result_says_so(kernel: list[Program]) -> None:
    model = zoo.shared(HOST, "llama")
    text = run(model, zoo.prompt_tokens(1, 9)).memory_text
    assert text == "asked for; attention of every layer by PyTorch's fused kernel, the same up to rounding"
    some = run(model, zoo.prompt_tokens(1, 9), names_filter=["hook_embed", PATTERN])
    assert "attention of L0" in some.memory_text and "L1" not in some.memory_text
    assert some.activations[PATTERN].shape[-2:] == (9, 9)


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_where_somebody_looks_or_acts(host: str, kernel: list[Program]) -> None:
    """All logits, bit for bit those of a plain pass; a pattern asked for, a hook there, rules inside, padding."""
    model, tokens = zoo.shared(host, "llama", torch.float32), zoo.prompt_tokens(1, 9)
    refusal(model, resolve(model))
    del kernel[:]
    logits, _ = run_with_relevance(model, tokens, METRIC, memory="full")
    with torch.no_grad():
        assert torch.equal(logits, model(tokens))
    run(model, tokens, names_filter=lambda name: name.endswith(("hook_embed", "hook_pattern")))
    run(model, tokens, GIM)
    run_with_relevance(model, PROMPTS, METRIC, logits="metric", memory="full", padding_side="left")
    seen: list[torch.Size] = []
    names = [PATTERN.replace("1", str(layer)) for layer in range(zoo.N_LAYERS)]
    with model.hooks(fwd_hooks=[(name, lambda tensor, hook: seen.append(tensor.shape)) for name in names]):
        run(model, tokens)
    assert not kernel and len(seen) == zoo.N_LAYERS


def test_a_backward_hook_at_a_pattern(kernel: list[Program]) -> None:
    """It needs the pattern, too."""
    model = zoo.shared(HOST, "llama")
    point = model.hook_dict[PATTERN]
    handle = point.register_full_backward_hook(lambda module, before, after: None)
    try:
        assert "attention of L0" in run(model, zoo.prompt_tokens(1, 9)).memory_text
    finally:
        handle.remove()


def test_short_prompts_are_left_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = programs_that_run(monkeypatch)
    model = zoo.shared(HOST, "llama")
    run(model, zoo.prompt_tokens(1, 9))
    assert (
        not ran and not whole.by_kernel("metric", whole.SHORT - 1) and whole.by_kernel("metric", whole.SHORT)
    )


def test_who_reads_a_pattern_elsewhere_gets_it(
    kernel: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operations that cannot be written down: the pass runs again, by the host's own."""
    model, tokens = zoo.shared(HOST, "llama"), zoo.prompt_tokens(1, 9)
    refusal(model, resolve(model))
    monkeypatch.setattr(row_recorder, "_OF_A_ROW", set())
    del kernel[:]
    found = run(model, tokens)
    assert not kernel and found.memory_text == "asked for"
    monkeypatch.setattr(of_hosts, "_refusals", {})
    assert run(model, tokens).memory_text == "asked for"


# ------------------------------------------------------------------------------- masks that are remembered
def test_a_remembered_mask_is_looked_at_again() -> None:
    """What was causal in the last pass and has a window, or sees all keys, in this one."""
    for kind, (weigh, way) in KINDS.items():
        if way == "blocks":
            _, error = both(weigh, Attention("here", 2, N, N, found={"here": (2, N, True)}))
            assert error < 1e-13, kind
    found = {"here": (2, N, True)}
    program, error = both(KINDS["Llama"][0], Attention("here", 2, N, N, found=found))
    assert program.at_once and error < 1e-13
    found["here"] = (2, N - 1, True)  # of other prompts: looked at whole
    both(KINDS["window"][0], Attention("here", 2, N, 4, found=found))
    assert found["here"] == (2, N, False)


# ------------------------------------------------------------------------------- memory
@pytest.mark.full
def test_an_estimate_knows(kernel: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted at a length that was not probed; less than with the host's own patterns."""
    model, tokens = zoo.shared(HOST, "llama", torch.float32), zoo.prompt_tokens(1, 120)
    need = estimate(model, 120, rules=ATTN_LRP, logits="metric").full
    with Counter() as counter:
        run(model, tokens)
    assert of_tensors(need) == pytest.approx(max(counter.timeline), rel=0.05)
    monkeypatch.setattr(whole, "SHORT", 121)
    monkeypatch.setattr("lrp_lens.run.estimate.by_kernel", lambda logits, length: False)
    assert need.peak < 0.75 * estimate(model, 120, rules=ATTN_LRP, logits="metric").full.peak
