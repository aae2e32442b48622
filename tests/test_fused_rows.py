"""Attention by a fused kernel: where a host's operations allow it, the same z and gradients; elsewhere, not taken."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lrp_lens import ATTN_LRP, GIM, PRESETS, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.attention_scores import window_of
from lrp_lens.hosts.by_rows import refusal
from lrp_lens.ops import by_rows
from lrp_lens.ops.by_rows import Attention, Block, Program
from lrp_lens.ops.fused import is_causal
from lrp_lens.ops.row_recorder import ByRows
from tests import zoo
from tests.row_programs import never_at_once, programs_that_run
from tests.test_attention_rows import ROWS, Squares, full_of, low_of
from tests.test_low_memory import EXACT, require_equal

N, WINDOW = 11, 3
HIDDEN = torch.ones(N, N, dtype=torch.bool).triu(1)
BEFORE = torch.ones(N, N, dtype=torch.bool).tril(-WINDOW)
LOWEST = torch.finfo(torch.float64).min
GENERATOR = torch.Generator().manual_seed(5)
BIAS = torch.randn(1, 3, N, N, generator=GENERATOR, dtype=torch.float64)
Weigh = Callable[[Tensor], Tensor]


def causal(scores: Tensor) -> Tensor:
    return scores.masked_fill(HIDDEN, -torch.inf)


def softmax(scores: Tensor) -> Tensor:
    return functional.softmax(scores, dim=-1)


def hidden_by_where(scores: Tensor) -> Tensor:
    lowest, scale = torch.full([], LOWEST, dtype=torch.float64), torch.full([], 2.0, dtype=torch.float64)
    return softmax(torch.where(~HIDDEN, scores / scale, lowest))


def without_nan(scores: Tensor) -> Tensor:
    pattern = softmax(causal(scores / 3.0))
    return torch.where(torch.isnan(pattern), torch.zeros_like(pattern), pattern)


def with_a_sink(scores: Tensor) -> Tensor:
    sink = torch.full((2, 3, N, 1), 0.3, dtype=torch.float64)
    return softmax(torch.cat([causal(scores), sink], dim=-1))[..., :-1]


def capped(scores: Tensor) -> Tensor:
    return 2 * torch.tanh(scores / 2)


def one_row_hidden(scores: Tensor) -> Tensor:
    return softmax(causal(scores).masked_fill(torch.arange(N)[:, None] == 0, LOWEST))


def in_float32(scores: Tensor) -> Tensor:
    return functional.softmax(causal(scores), dim=-1, dtype=torch.float32).to(scores.dtype)


ADDED = torch.zeros(N, N, dtype=torch.float64).masked_fill(HIDDEN, LOWEST)
# how scores become a pattern → how a fused kernel makes z: all rows "at once", in "blocks", or not at all
KINDS: dict[str, tuple[Weigh, str]] = {
    "GPT-2": (hidden_by_where, "at once"),
    "Llama": (lambda one: softmax(one * 0.3 + ADDED), "at once"),
    "HookedTransformer": (without_nan, "at once"),
    "no dropout": (lambda one: functional.dropout(softmax(causal(one)), p=0.5, training=False), "at once"),
    "window": (lambda one: softmax(causal(one).masked_fill(BEFORE, -torch.inf)), "blocks"),
    "a bias of each head": (lambda one: softmax(causal((one + BIAS) * 0.5)), "blocks"),
    "a bias": (lambda one: softmax(causal(one + BIAS[:, :1])), "blocks"),
    "the same shape": (lambda one: softmax(causal(one.view(2, 3, N, N).reshape(2, 3, N, N))), "at once"),
    "rows of the batch": (lambda one: softmax(causal(one[torch.arange(2)])), "at once"),
    "all keys": (lambda one: softmax(one * 0.2), "blocks"),
    "a prefix": (lambda one: softmax(one.masked_fill(HIDDEN & (torch.arange(N) > 2), LOWEST)), "blocks"),
    "soft-cap": (lambda one: softmax(causal(capped(one))), "operations"),
    "sink": (with_a_sink, "operations"),
    "product of two": (lambda one: softmax(causal(one * one)), "operations"),
    "replaced, not hidden": (lambda one: softmax(one.masked_fill(HIDDEN, -1.5)), "operations"),
    "a row that sees nothing": (one_row_hidden, "operations"),
    "a factor of each key": (lambda one: softmax(causal(one * BIAS[:, :1])), "operations"),
    "in float32": (in_float32, "operations"),
}


def factors(d_value: int = 4) -> list[Tensor]:
    widths = (4, 4, d_value)
    return [
        torch.randn(2, 3, N, one, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
        for one in widths
    ]


def both(weigh: Weigh, attention: Attention, d_value: int = 4) -> tuple[Program, float]:
    """What ran, and the largest difference to plain autograd in z and in the gradients, of the largest number."""
    q, k, v = factors(d_value)
    weights = torch.randn(2, 3, N, d_value, generator=GENERATOR, dtype=torch.float64)

    def attend() -> Tensor:
        return torch.matmul(weigh(torch.matmul(q, k.transpose(-1, -2))), v)

    expected = attend()
    mode = ByRows()
    with pytest.MonkeyPatch.context() as patch, mode:
        ran = programs_that_run(patch)
        mode.begin(attention)
        found = attend()
        mode.end()
    one, other = ((z, *torch.autograd.grad((z * weights).sum(), (q, k, v))) for z in (found, expected))
    errors = [
        float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in zip(one, other, strict=True)
    ]
    return ran[0], max(errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 4])
def test_a_kernel_gives_what_the_operations_give(
    kind: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradients in float64, whichever way the rows are made; and the way is the expected one."""
    weigh, way = KINDS[kind]
    for blocks in (False, True):
        if blocks:
            never_at_once(monkeypatch)
        program, error = both(weigh, Attention("here", 2, N, size))
        assert error < (1e-6 if kind == "in float32" else 1e-13)
        assert program.is_fused is (way != "operations")
        assert program.at_once is (way == "at once" and not blocks)


def test_what_no_kernel_takes() -> None:
    """Values of another width, and functions of rules that act on scores in the graph."""
    program, error = both(KINDS["Llama"][0], Attention("here", 2, N, 4), d_value=6)
    assert not program.is_fused and error < 1e-13
    acting = {"z": [lambda tensor: None]}
    program, error = both(KINDS["Llama"][0], Attention("here", 2, N, 4, acting))
    assert not program.is_fused and error < 1e-13
    with torch.no_grad():
        assert program.is_fused


@pytest.mark.parametrize("kind", ["window", "a bias of each head", "a prefix"])
def test_a_mask_that_is_dropped_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the kernel without the mask of a block, and all rows at once where that is not what the mask says."""
    weigh, _ = KINDS[kind]
    with monkeypatch.context() as patch:
        patch.setattr(by_rows, "is_causal", lambda mask, start: True)
        assert both(weigh, Attention("here", 2, N, 4))[1] > 1e-3
    monkeypatch.setattr(by_rows, "mask_of", lambda scores, form: torch.zeros_like(scores(0.0)))
    assert both(weigh, Attention("here", 2, N, 4))[1] > 1e-3


def test_which_masks_are_causal() -> None:
    mask = torch.zeros(1, 1, N, N).masked_fill(HIDDEN, -torch.inf)
    assert is_causal(mask, 0) and is_causal(mask[..., 3:7, :], 3) and is_causal(mask[..., -1:, :], N - 1)
    assert not is_causal(mask[..., 3:7, :], 2) and not is_causal(mask[..., 3:7, :], 4)
    for row, key, value in ((5, 2, -1.0), (5, 9, -1.0), (5, 5, -torch.inf), (5, 2, -torch.inf), (0, 1, 0.0)):
        other = mask.clone()
        other[..., row, key] = value
        assert not is_causal(other, 0)
    many = mask.repeat(2, 3, 1, 1)  # of each prompt and head
    assert is_causal(many, 0) and not is_causal(None, 0)
    many[1, 2, 5, 0] = -1.0
    assert not is_causal(many, 0)


# ------------------------------------------------------------------------------- windows
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["window", "soft-cap and window"])
def test_keys_before_the_window_are_left_out(kind: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block has more keys than its rows and the window; the rest is as before."""
    weigh = KINDS["window"][0]
    if kind != "window":
        weigh = lambda one: softmax(causal(capped(one)).masked_fill(BEFORE, -torch.inf))  # noqa: E731
    monkeypatch.setattr(by_rows, "MORE_ROWS", 1)
    if not fused:
        monkeypatch.setattr(Program, "is_fused", False)
    program, error = both(weigh, Attention("here", 2, N, 2, window=WINDOW))
    assert program.windowed and error < 1e-13
    assert [(block.first, block.keys) for block in program.blocks()] == [
        (max(0, start - WINDOW + 1), min(start + 2, N)) for start in range(0, N, 2)
    ]


def test_a_window_is_not_taken_on_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row sees more than its host says: all keys stay; without that check z is wrong (control)."""
    weigh = KINDS["window"][0]
    program, error = both(weigh, Attention("here", 2, N, 2, window=WINDOW - 1))
    assert program.causal and not program.windowed and error < 1e-13
    monkeypatch.setattr(Program, "hidden", lambda self, row, query, key: torch.ones(N, dtype=torch.bool))
    assert both(weigh, Attention("here", 2, N, 2, window=WINDOW - 1))[1] > 1e-3


@pytest.mark.parametrize(("host", "name"), [(host, "mistral") for host in zoo.HOSTS if host != "native"])
def test_a_model_with_a_window(host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers run without the keys before it; where the host's words are ignored, with all, and the same."""
    ran = programs_that_run(monkeypatch)
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: 2)
    with zoo.float64_throughout():
        model, tokens = zoo.shared(host, name), zoo.prompt_tokens(1, 13)
        full = full_of(model, tokens, ATTN_LRP)
        refusal(model, resolve(model))
        del ran[:]
        require_equal(full, low_of(model, tokens, ATTN_LRP), EXACT[torch.float64])
    window = window_of(model, 0)
    assert window and all(one.windowed and one.attention.window == window for one in ran)
    assert any(block.first > 0 for block in ran[0].blocks())


# ------------------------------------------------------------------------------- models
@pytest.mark.parametrize("host", zoo.HOSTS)
def test_all_rows_at_once(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of causal attention; rules that act inside go back through its operations."""
    ran = programs_that_run(monkeypatch)
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: ROWS)
    model, tokens = zoo.shared(host, "gpt2"), zoo.prompt_tokens(1, 9)
    refusal(model, resolve(model))
    for rules in (ATTN_LRP, GIM):
        full = full_of(model, tokens, rules)
        del ran[:]
        require_equal(full, low_of(model, tokens, rules), EXACT[torch.float64])
        with torch.no_grad():
            assert all(one.at_once for one in ran)
        assert [bool(one.attention.functions) for one in ran] == [rules is GIM] * 2 * zoo.N_LAYERS


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("host", zoo.HOSTS)
def test_no_tensor_of_rows_and_keys_is_made(
    host: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch has a slow way, too, which would form all scores: it is not taken."""
    ran, length = programs_that_run(monkeypatch), 101  # no width of the model
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: ROWS)
    if not at_once:
        never_at_once(monkeypatch)
    model, tokens = zoo.shared(host, "gpt2", torch.float32), zoo.prompt_tokens(1, length)
    refusal(model, resolve(model))
    del ran[:]
    with Squares(length) as squares:
        low_of(model, tokens, ATTN_LRP)
    assert not squares.found and all(one.is_fused and one.at_once is at_once for one in ran)


@pytest.mark.full
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_models(host: str, name: str, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Low memory equals full under every preset that can act there, fused wherever the model allows it."""
    ran = programs_that_run(monkeypatch)
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: ROWS)
    if not at_once:
        never_at_once(monkeypatch)
    with zoo.float64_throughout():
        model, tokens = zoo.shared(host, name), zoo.prompt_tokens(2, 9)
        refusal(model, resolve(model))
        del ran[:]  # of the pass that finds out what can go by rows
        for rules in PRESETS:
            try:
                full = full_of(model, tokens, rules)
            except SiteError:
                continue  # an edit that the host drops (tests/test_low_memory.py)
            require_equal(full, low_of(model, tokens, rules), 1e-10)
    fused = [one for one in ran if one.is_fused]
    if name in ("gpt2", "llama", "mixtral") and host != "native":
        assert fused and any(one.at_once for one in fused) is at_once
    if name in ("gemma2", "gpt_oss"):
        assert not fused


def test_blocks_cover_every_row_once() -> None:
    program, _ = both(KINDS["window"][0], Attention("here", 2, N, 1, window=WINDOW))
    rows = [row for block in program.blocks() for row in range(block.start, block.stop)]
    assert rows == list(range(N)) and isinstance(next(program.blocks()), Block)
