"""Attention in blocks of rows against attention in full: the same relevance and ledger, no tensor of rows × keys."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lrp_lens import (
    ATTN_LRP,
    GIM,
    PRESETS,
    RELP,
    VARIANTS,
    LogitDiff,
    SiteError,
    estimate,
    run_with_relevance,
)
from lrp_lens.hosts import by_rows as of_hosts
from lrp_lens.hosts import resolve
from lrp_lens.hosts.by_rows import refusal
from lrp_lens.ops import deferred, row_recorder
from lrp_lens.ops.by_rows import Attention, Program
from lrp_lens.ops.deferred import NotByRowsError
from lrp_lens.ops.live_bytes import Counter
from lrp_lens.ops.row_recorder import ByRows
from lrp_lens.rules import AttentionRule, Hook
from lrp_lens.rules.rule import scaled
from lrp_lens.run import by_rows
from tests import zoo
from tests.row_programs import only_by_operations, programs_that_run
from tests.test_low_memory import EXACT, PROMPTS, of_tensors, require_equal

METRIC = LogitDiff(3, [7, 9])
ROWS = 4
KINDS = ("gpt2", "gemma2", "bloom", "gpt_oss")
"""Host's own pattern, soft-cap and window, ALiBi, window and sink."""
FIRST = (("bridge", "gpt_oss"), ("hooked", "bloom"))
EVERY_KIND = pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param(host, name, marks=[pytest.mark.full] * ((host, name) not in FIRST))
        for host, name in zoo.models("hooked", "bridge")
        if name in KINDS
    ],
)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Every prompt is cut into blocks of a few rows, which the host's operations make; the programs that ran."""
    ran = programs_that_run(monkeypatch)
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda sites, batch, length: ROWS)
    only_by_operations(monkeypatch)
    return ran


def full_of(model: Any, tokens: Any, rules: Any, **options: Any) -> Any:
    return run_with_relevance(model, tokens, METRIC, rules=rules, memory="full", **options)[1]


def low_of(model: Any, tokens: Any, rules: Any, **options: Any) -> Any:
    return run_with_relevance(model, tokens, METRIC, rules=rules, memory="low", **options)[1]


# ------------------------------------------------------------------------------- by rows = in full
@pytest.mark.parametrize(("host", "name", "rules"), zoo.under_rules(zoo.models(), PRESETS))
def test_blocks_of_rows_give_the_same(host: str, name: str, rules: str, blocks: list[Program]) -> None:
    """On every architecture, host and preset that can act there: every sum, every view and the ledger."""
    model, tokens = zoo.shared(host, name), zoo.prompt_tokens(2, 9)
    try:
        full = full_of(model, tokens, rules)
    except SiteError:
        return  # an edit that the host drops (tests/test_low_memory.py)
    refusal(model, resolve(model))  # found out once
    del blocks[:]
    low = low_of(model, tokens, rules)
    # Hugging Face's GPT-J forms q · kᵀ in float32 whatever its dtype, and a product of some rows rounds otherwise
    in_float32 = (host, name) == ("bridge", "gptj")
    require_equal(full, low, EXACT[torch.float32 if in_float32 else torch.float64])
    assert low.memory_text == "asked for"
    assert len(blocks) == 2 * zoo.N_LAYERS and all(len(list(one.blocks())) == 3 for one in blocks)
    assert all(one.causal for one in blocks)


@EVERY_KIND
def test_every_way_through_attention(host: str, name: str, blocks: list[Program]) -> None:
    model, tokens = zoo.shared(host, name), zoo.prompt_tokens(1, 9)
    refusal(model, resolve(model))
    del blocks[:]
    for rules in VARIANTS.values():
        require_equal(full_of(model, tokens, rules), low_of(model, tokens, rules), EXACT[torch.float64])
    assert len(blocks) == 2 * zoo.N_LAYERS * len(VARIANTS)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("host", "name"), [(host, "llama") for host in zoo.HOSTS if host != "native"])
def test_padded_batches(host: str, name: str, side: Any, blocks: list[Program]) -> None:
    """Rows of padding see nothing, or, on Hugging Face's masks, everything."""
    model = zoo.shared(host, name, torch.float32)
    metric = LogitDiff([3, 4, 5], [7, 8, 9])
    _, full = run_with_relevance(model, PROMPTS, metric, memory="full", padding_side=side)
    _, low = run_with_relevance(model, PROMPTS, metric, memory="low", padding_side=side)
    require_equal(full, low, EXACT[torch.float32])
    assert blocks and all(one.causal is (side == "right" or host == "hooked") for one in blocks)


def test_in_bfloat16(blocks: list[Program]) -> None:
    """As near as bfloat16 is; sums over blocks are taken in float32."""
    host = zoo.HOSTS[-1]
    model, tokens = zoo.shared(host, "gemma2", torch.bfloat16), zoo.prompt_tokens(1, 9)
    full, low = full_of(model, tokens, ATTN_LRP), low_of(model, tokens, ATTN_LRP)
    scale = float(full["hook_embed"].abs().sum())
    np.testing.assert_allclose(low.tokens().values, full.tokens().values, rtol=0, atol=0.02 * scale)
    assert blocks


# ------------------------------------------------------------------------------- memory
class Squares(TorchDispatchMode):
    """Tensors that are made of all rows and keys: how many numbers each holds."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.found: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor) and not one.is_meta and one.shape[-2:] == (self.length,) * 2:
                self.found.add(one.untyped_storage().nbytes() // one.element_size())
        return result


@EVERY_KIND
def test_no_tensor_of_rows_and_keys_is_made(
    host: str, name: str, blocks: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the first pass nor going back; nor Hugging Face's mask of the whole model."""
    length = 101  # no width of the model
    model, tokens = zoo.shared(host, name, torch.float32), zoo.prompt_tokens(1, length)
    refusal(model, resolve(model))
    with Squares(length) as squares:
        low_of(model, tokens, GIM)
    assert not squares.found
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: None)
    with Squares(length) as squares:
        low_of(model, tokens, GIM)
    assert max(squares.found) >= zoo.N_HEADS * length * length


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_memory_grows_with_the_length(
    host: str, blocks: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the tokens, twice the bytes at the peak; in full more, though one pattern at a time is held."""
    model = zoo.shared(host, "gpt2", torch.float32)
    refusal(model, resolve(model))

    def peak(length: int) -> int:
        with Counter() as counter:
            low_of(model, zoo.prompt_tokens(1, length), ATTN_LRP, names_filter="hook_embed")
        return max(counter.timeline)

    assert peak(120) < 2.05 * peak(60)
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: None)
    assert peak(120) > 2.5 * peak(60)


def test_rows_of_a_block() -> None:
    sites = resolve(zoo.shared(zoo.HOSTS[-1], "llama"))
    assert by_rows.rows_of_a_block(sites, 1, 512) is None  # 4 heads: all scores are one block
    assert by_rows.rows_of_a_block(sites, 2, 8192) == by_rows.SCORES_OF_A_BLOCK // (2 * 4 * 8192)
    assert by_rows.rows_of_a_block(sites, 10**6, 8192) == 1


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_an_estimate_is_what_is_counted(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of a length that was not probed, cut into blocks; without blocks the estimate is another."""
    model = zoo.shared(host, "gpt2", torch.float32)
    whole = estimate(model, 120, rules=ATTN_LRP).low.peak
    monkeypatch.setattr(by_rows, "SCORES_OF_A_BLOCK", zoo.N_HEADS * 120 * 10)
    need = estimate(model, 120, rules=ATTN_LRP).low
    with Counter() as counter:
        low = low_of(model, zoo.prompt_tokens(1, 120), ATTN_LRP)
    assert low.memory == "low" and of_tensors(need) == pytest.approx(max(counter.timeline), rel=0.03)
    assert need.peak < 0.75 * whole
    asked = estimate(model, 120, rules=ATTN_LRP, names_filter="blocks.0.attn.hook_pattern").low
    assert asked.peak > 1.2 * need.peak, "one layer in full"


# ------------------------------------------------------------------------------- in full, by name
def in_full(model: Any, rules: Any, why: str, **options: Any) -> None:
    full = full_of(model, zoo.prompt_tokens(1, 9), rules, **options)
    low = low_of(model, zoo.prompt_tokens(1, 9), rules, **options)
    assert why in low.memory_text, low.memory_text
    if "names_filter" not in options:
        require_equal(full, low, EXACT[torch.float64])


class Detached(AttentionRule):
    """A rule with hooks of its own that says nothing of rows."""

    def hooks(self, site: Any) -> tuple[Hook, ...]:
        return scaled(site.pattern, 0.5)

    def sinks(self, site: Any, within: Any) -> tuple[str, ...]:
        return ("mine",)


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_what_cannot_be_taken_by_rows_is_in_full_and_said(
    host: str, blocks: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.shared(host, "gpt2")
    pattern = "blocks.1.attn.hook_pattern"
    refusal(model, resolve(model))
    del blocks[:]
    in_full(model, ATTN_LRP, f"attention of L1 in full: {pattern} is asked for", names_filter=pattern)
    assert {one.attention.label for one in blocks} == {"L0 attn"}
    with model.hooks(fwd_hooks=[(pattern, lambda tensor, hook: tensor * 0.9)]):
        in_full(model, ATTN_LRP, f"attention of L1 in full: a hook stands at {pattern}")
    mine = RELP.override(layers=[0], attention=Detached())
    in_full(
        model, mine, "attention of L0 in full: the rule Detached() does not define Detached.row_gradients"
    )
    assert {one.attention.label for one in blocks[-2:]} == {"L1 attn"}
    monkeypatch.setattr(of_hosts, "_refusals", {})
    monkeypatch.setattr(row_recorder, "_OF_A_ROW", set())
    del blocks[:]
    in_full(model, ATTN_LRP, "attention of every layer in full: Attention in blocks of rows runs")
    assert not blocks


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_nothing_is_left_behind(host: str, blocks: list[Program]) -> None:
    model = zoo.shared(host, "bloom")
    low_of(model, zoo.prompt_tokens(1, 9), ATTN_LRP)
    kept = [value for module in model.modules() for value in vars(module).values()]
    assert not any(isinstance(value, deferred.Deferred) for value in kept)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert full_of(model, zoo.prompt_tokens(1, 9), ATTN_LRP).memory == "full"


# ------------------------------------------------------------------------------- controls
DROPPED = [("gemma2", "tanh"), ("mistral", "__and__"), ("gpt_oss", "cat"), ("bloom", "add_")]


@pytest.mark.skipif(not zoo.HAS_HOOKED_TRANSFORMER, reason="TransformerBridge gives its masks as one tensor")
@pytest.mark.parametrize(("name", "operation"), DROPPED, ids=["soft-cap", "window", "sink", "ALiBi"])
def test_a_feature_that_is_dropped_is_found(
    name: str, operation: str, blocks: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The few tokens that are run both ways differ, and all is in full; without that check relevance is wrong."""
    model, tokens = zoo.shared("hooked", name), zoo.prompt_tokens(1, 9)
    full, dropped = full_of(model, tokens, ATTN_LRP), []
    original = ByRows._on_deferred

    def without(self: ByRows, attention: Attention, func: Any, args: Any, kwargs: Any) -> Any:
        made = original(self, attention, func, args, kwargs)
        if deferred.name_of(func) != operation:
            return made
        dropped.append(func)
        first = args[0][0] if operation == "cat" else args[0]
        if operation != "cat":
            return first
        hidden = deferred.node_of(first)
        return self._deferred(
            lambda block, part_of: torch.nn.functional.pad(part_of(hidden), (0, 1), value=-1e30),
            deferred.meta_of(made),
            first.device,
        )

    monkeypatch.setattr(ByRows, "_on_deferred", without)
    monkeypatch.setattr(of_hosts, "_refusals", {})
    low = low_of(model, tokens, ATTN_LRP)
    assert dropped and "of their range in blocks of rows" in low.memory_text
    require_equal(full, low, EXACT[torch.float64])
    monkeypatch.setattr(by_rows, "refusal", lambda *given: "")
    wrong = low_of(model, tokens, ATTN_LRP)
    with pytest.raises(AssertionError):
        require_equal(full, wrong, EXACT[torch.float64])


@pytest.mark.parametrize(
    ("rules", "part"),
    [(ATTN_LRP, "scores"), (GIM, "pattern"), (VARIANTS["RELP_CONSERVING"], "z")],
    ids=["soft-cap", "softmax", "attention"],
)
def test_a_rule_that_does_not_act_on_the_blocks_is_found(
    rules: Any, part: str, blocks: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = zoo.shared(zoo.HOSTS[-1], "gemma2"), zoo.prompt_tokens(1, 9)
    full, original = full_of(model, tokens, rules), Attention.through

    def idle(self: Attention, at: str, tensor: Tensor) -> Tensor:
        return tensor if at == part else original(self, at, tensor)

    monkeypatch.setattr(Attention, "through", idle)
    with pytest.raises(AssertionError):
        require_equal(full, low_of(model, tokens, rules), EXACT[torch.float64])


# ------------------------------------------------------------------------------- the program itself
def literal(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    scores = torch.matmul(q, k.mT) * 0.3
    return torch.matmul(torch.nn.functional.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1), v)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_a_program_is_the_attention_that_was_written_down(
    causal: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradients of plain autograd, in float64; keys behind a row are left out only where they are hidden."""
    n, generator = 7, torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(2, 3, n, 5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in "qkv"
    )
    hidden = (
        torch.ones(n, n, dtype=torch.bool).triu(1) if causal else torch.eye(n, dtype=torch.bool).roll(2, 0)
    )
    weights = torch.randn(2, 3, n, 5, generator=generator, dtype=torch.float64)
    expected = literal(q, k, v, hidden)
    only_by_operations(monkeypatch)
    mode = ByRows()
    with mode:
        mode.begin(Attention("here", 2, n, size))
        found = literal(q, k, v, hidden)
        mode.end()
    if size < n:  # a single block of all rows is in the graph itself
        assert found.grad_fn.program.causal is causal
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    gradients = (torch.autograd.grad((z * weights).sum(), (q, k, v)) for z in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


MIXED: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (lambda scores: torch.softmax(scores, dim=-2), "softmax is no known operation"),
    (lambda scores: scores.mT, "__get__ is no known operation"),
    (lambda scores: scores.reshape(2, -1), "an axis of rows or keys is reshaped"),
    (lambda scores: scores[..., 1:], "rows or keys are chosen by"),
    (lambda scores: scores.roll(1), "roll is no known operation"),
]


@pytest.mark.parametrize(("operation", "message"), MIXED)
def test_an_operation_that_mixes_rows_is_refused(operation: Any, message: str) -> None:
    mode, q = ByRows(), torch.randn(1, 2, 6, 4)
    with mode:
        mode.begin(Attention("here", 1, 6, 2))
        scores = torch.matmul(q, q.mT)
        with pytest.raises(NotByRowsError, match=f"at here {message}"):
            operation(scores)
        with pytest.raises(NotByRowsError, match="its z is no product of a pattern with v"):
            mode.end()
    mode.close()
    with pytest.raises(NotByRowsError, match="add reads scores or a pattern after that"):
        torch.add(scores, 1)
    with pytest.raises(NotByRowsError, match="its scores are made elsewhere"):
        mode.mark("scores", q)


def test_functions_without_a_place_are_refused() -> None:
    """A rule's function at a pattern that the host never shows would not act."""
    mode, q = ByRows(), torch.randn(1, 2, 6, 4)
    with mode:
        mode.begin(Attention("here", 1, 6, 2, {"pattern": [lambda tensor: tensor]}))
        with pytest.raises(NotByRowsError, match="scores and pattern are not shown"):
            literal(q, q, q, torch.zeros(6, 6, dtype=torch.bool))
