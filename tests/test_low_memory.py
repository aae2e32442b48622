"""The pass block by block against the pass in full: the same relevance, views and ledger, from one block's graph."""

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GRADIENT,
    PRESETS,
    InputError,
    Logit,
    LogitDiff,
    LogProb,
    MetricError,
    RelevanceCache,
    RuleError,
    RunnerUp,
    SequenceLogitDiff,
    SiteError,
    estimate,
    relevance_per_metric,
    run_with_relevance,
)
from lrp_lens.errors import UnknownNameError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.scope import modules_of
from lrp_lens.ops.live_bytes import Counter
from lrp_lens.rules import as_rule_set
from lrp_lens.run import blocks
from lrp_lens.run.blocks import BlockRun
from lrp_lens.run.estimate import ALLOCATOR, KERNELS, Need
from tests import zoo
from tests.test_own_rules import MUTE

choosing = sys.modules["lrp_lens.run.choosing"]
METRIC = LogitDiff(3, [7, 9])
PROMPTS = [zoo.prompt_tokens(1, length, seed=length)[0] for length in (9, 4, 6)]
EXACT = {torch.float64: 1e-12, torch.float32: 1e-6}
VIEWS: dict[str, Callable[[RelevanceCache], Any]] = {
    "tokens": lambda cache: cache.tokens(),
    "positions": lambda cache: cache.positions(),
    "layers": lambda cache: cache.layers(mid=True),
    "heads": lambda cache: cache.heads(by_position=True),
    "components": lambda cache: cache.components(),
}


@pytest.fixture(params=zoo.HOSTS)
def build(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return lambda name: zoo.shared(request.param, name)


def require_equal(full: RelevanceCache, low: RelevanceCache, tolerance: float) -> None:
    """Every view, every sum and the ledger; errors as shares of the relevance that the pass holds at one point."""
    assert (full.memory, low.memory) == ("full", "low")
    assert len(low) == 0 and set(low.sums) == set(full) and list(low.sums) == list(full)
    scale = max(float(full[name].abs().sum()) for name in full)
    assert scale > 1e-2
    for name in full:
        expected = full.summed(name)
        assert low.sums[name].shape == expected.shape and low.sums[name].dtype == expected.dtype
        assert float((low.sums[name] - expected).abs().max()) <= tolerance * scale, name
    for view, of in VIEWS.items():
        one, other = of(low), of(full)
        assert one.labels == other.labels and one.dims == other.dims and one.cautions == other.cautions
        np.testing.assert_allclose(one.values, other.values, rtol=0, atol=tolerance * scale, err_msg=view)
    one, other = low.ledger(), full.ledger()
    assert [(row.label, row.kind) for row in one.rows] == [(row.label, row.kind) for row in other.rows]
    parts = [(row.amount, expected.amount) for row, expected in zip(one.rows, other.rows, strict=True)]
    parts += [
        (getattr(one, name), getattr(other, name))
        for name in ("metric", "tokens", "positions", "stream", "remainder")
    ]
    for found, expected in parts:
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)
    assert one.rounding == other.rounding and one.title == other.title


def both(model: Any, prompt: Any, metric: Any, **options: Any) -> tuple[RelevanceCache, RelevanceCache]:
    logits, full = run_with_relevance(model, prompt, metric, memory="full", **options)
    same, low = run_with_relevance(model, prompt, metric, memory="low", **options)
    assert torch.equal(logits, same)
    return full, low


# ------------------------------------------------------------------------------------ low = full
@pytest.mark.parametrize(("host", "name", "rules"), zoo.under_rules(zoo.models(), PRESETS))
def test_both_ways_give_the_same(host: str, name: str, rules: str) -> None:
    """On every architecture, host and preset; two prompts of one length."""
    model, tokens = zoo.shared(host, name), zoo.prompt_tokens(2, 9)
    try:
        as_rule_set(rules).plan(model)
    except SiteError as error:  # an edit that the host drops
        refused = re.escape(str(error))
        with pytest.raises(SiteError, match=f"^{refused}$"):
            run_with_relevance(model, tokens, METRIC, rules=rules, memory="low")
        return
    _, full = run_with_relevance(model, tokens, METRIC, rules=rules, memory="full")
    _, low = run_with_relevance(model, tokens, METRIC, rules=rules, memory="low")
    require_equal(full, low, EXACT[torch.float64])


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral"])
def test_in_float32(build: Callable[[str], Any], name: str, request: pytest.FixtureRequest) -> None:
    host = request.node.callspec.params["build"]
    full, low = both(zoo.shared(host, name, torch.float32), zoo.prompt_tokens(2, 9), METRIC)
    require_equal(full, low, EXACT[torch.float32])


def squares(logits: Tensor) -> Tensor:
    return logits.square().mean((1, 2))


@pytest.mark.parametrize(
    "metric",
    [RunnerUp(), LogProb(5, pos=1), squares, SequenceLogitDiff((5, 8), (7, 9, 11))],
    ids=["runner-up", "not linear", "of all logits", "answers of two rows"],
)
@pytest.mark.parametrize("logits", ["all", "metric"])
def test_metrics(build: Callable[[str], Any], metric: Any, logits: str) -> None:
    full, low = both(build("gemma2"), zoo.prompt_tokens(2, 6), metric, rules=GRADIENT, logits=logits)
    require_equal(full, low, EXACT[torch.float64])
    assert low.metric_text == full.metric_text and low.towards == full.towards


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_padded_batches(
    build: Callable[[str], Any], name: str, side: str, request: pytest.FixtureRequest
) -> None:
    host = request.node.callspec.params["build"]
    model = zoo.shared(host, name, torch.float32)  # transformers refuses padding on the left in float64
    full, low = both(model, PROMPTS, LogitDiff([3, 4, 5], [7, 8, 9]), padding_side=side)
    require_equal(full, low, EXACT[torch.float32])


@pytest.mark.parametrize(
    "names",
    [
        "hook_embed",
        ["blocks.0.attn.hook_pattern", "blocks.1.mlp.hook_post", "unembed.hook_out"],
        [],
        lambda name: True,
        lambda name: "hook_resid" in name or name == "ln_final.hook_normalized",
    ],
    ids=["one", "some", "none", "every", "predicate"],
)
def test_what_is_asked_for_is_kept(build: Callable[[str], Any], names: Any) -> None:
    full, low = both(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC, names_filter=names)
    assert list(low) == list(full) and not low.sums
    scale = max([float(full[name].nan_to_num().abs().max()) for name in full], default=1.0)
    for name in full:
        assert low.activations[name].shape == full.activations[name].shape
        torch.testing.assert_close(low[name], full[name], rtol=0, atol=1e-12 * scale, equal_nan=True)
        torch.testing.assert_close(low.activations[name], full.activations[name], rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="needs all default hook points"):
        low.ledger()


def test_hooks_of_the_users_act_once(build: Callable[[str], Any]) -> None:
    """At the stream, where the pass is cut, and inside a block."""
    model = build("llama")
    edits = [
        (name, lambda tensor, hook: tensor * 1.5)
        for name in (
            "hook_embed",
            "blocks.0.hook_resid_pre",
            "blocks.1.mlp.hook_post",
            "blocks.1.hook_resid_post",
        )
    ]
    plain, _ = both(model, zoo.prompt_tokens(1, 7), METRIC)
    with model.hooks(fwd_hooks=edits):
        full, low = both(model, zoo.prompt_tokens(1, 7), METRIC)
    require_equal(full, low, EXACT[torch.float64])
    assert np.abs(full.tokens().values - plain.tokens().values).max() > 1e-3


# ------------------------------------------------------------------------------------ what is held
class Held:
    """One tensor that a graph holds, out of it: an output held with its graph would hold itself."""

    def __init__(self, counter: "SavedBytes", tensor: Tensor) -> None:
        self.counter, self.tensor = counter, tensor.detach()

    def __del__(self) -> None:
        self.counter.release(self.tensor)


class SavedBytes:
    """Bytes that graphs hold at one time, each storage once; the model's own left out."""

    def __init__(self, model: Any) -> None:
        self.own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.uses: dict[int, int] = {}
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self.own:
            return tensor
        uses = self.uses.get(storage.data_ptr(), 0)
        self.uses[storage.data_ptr()] = uses + 1
        self.now += 0 if uses else storage.nbytes()
        self.peak = max(self.peak, self.now)
        return Held(self, tensor)

    def release(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.uses[storage.data_ptr()] -= 1
        self.now -= 0 if self.uses[storage.data_ptr()] else storage.nbytes()

    def __call__(self) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(
            self.pack, lambda held: held if isinstance(held, Tensor) else held.tensor
        )


def test_freed_memory_is_given_back(build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each block runs again, where its input is large."""
    devices: list[Any] = []
    monkeypatch.setattr(blocks, "give_back", devices.append)
    for large, times in ((2**20, 0), (1, zoo.N_LAYERS)):
        monkeypatch.setattr(blocks, "GIVEN_BACK_FROM", large)
        run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC, memory="low")
        assert devices == [torch.device("cpu")] * times


@pytest.mark.parametrize("rules", [ATTN_LRP, CP_LRP], ids=["pattern in the graph", "pattern out of it"])
@pytest.mark.parametrize("host", zoo.HOSTS)
def test_no_pattern_stays_with_the_model(host: str, rules: Any) -> None:
    """Hosts keep one of every layer, quadratic in the length, also where no gradient goes through it."""
    model = zoo.shared(host, "gpt2")
    for memory in ("full", "low"):
        run_with_relevance(model, zoo.prompt_tokens(1, 11), METRIC, rules=rules, memory=memory)
        values = (value for module in modules_of(model) for value in vars(module).values())
        assert not [one.shape for one in values if isinstance(one, Tensor) and one.shape[-2:] == (11, 11)]


def deeper(host: str, layers: int) -> Any:
    """A GPT-2 of some layers."""
    original = dict(zoo.RECIPES["gpt2"][2])
    key = "n_layer" if "n_layer" in original else "num_hidden_layers"
    fields = {**original, key: layers}
    model_class, config_class, _ = zoo.RECIPES["gpt2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.RECIPES, "gpt2", (model_class, config_class, fields))
        return zoo.BUILD[host]("gpt2", torch.float32)


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_one_blocks_graph_is_held(host: str) -> None:
    """Four times the layers take four times the graph in full, and the same in low memory."""
    peaks = {}
    for layers in (2, 8):
        model = deeper(host, layers)
        assert len(model.blocks) == layers
        for memory in ("full", "low"):
            saved = SavedBytes(model)
            with saved():
                run_with_relevance(model, zoo.prompt_tokens(1, 20), METRIC, rules=ATTN_LRP, memory=memory)
            peaks[layers, memory] = saved.peak
            assert saved.now == 0, "a graph is left behind"
    assert peaks[8, "full"] > 2.5 * peaks[2, "full"]  # what is behind the blocks does not grow
    assert peaks[8, "low"] < 1.05 * peaks[2, "low"] and 3 * peaks[8, "low"] < peaks[8, "full"]


def of_tensors(need: Need) -> int:
    """The peak without what an allocator keeps between tensors and kernels use: tensors are all that is counted."""
    tensors = need.peak - need.parts[ALLOCATOR] - need.parts[KERNELS]
    assert need.parts[ALLOCATOR] == pytest.approx(0.4 * tensors, abs=1)
    assert need.parts[KERNELS] == min(25_000_000, tensors // 2)
    return tensors


def test_an_estimate_of_short_prompts_has_what_blocks_leave_in_pieces(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between blocks whose memory is used again and those that give it back; in full no block frees anything."""
    model = build("llama")
    before = estimate(model, 20)
    monkeypatch.setattr("lrp_lens.run.estimate._PIECES_FROM", 1)
    short = estimate(model, 20)
    tensors = of_tensors(before.low)
    assert short.full == before.full and short.low.parts[KERNELS] == 0
    assert short.low.parts[ALLOCATOR] == pytest.approx(2.2 * tensors, abs=1)
    assert short.low.peak == pytest.approx(3.2 * tensors, abs=1)
    monkeypatch.setattr("lrp_lens.run.estimate.GIVEN_BACK_FROM", 1)
    assert estimate(model, 20).low == before.low


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_an_estimate_is_what_is_counted(build: Callable[[str], Any], name: str) -> None:
    """Peak and rest at a length, and in a batch, that were not probed; a mixture's loop differs with the tokens."""
    model = build(name)
    for batch, length in ((1, 31), (2, 24)):
        tolerance = 0.1 if name == "mixtral" or batch > 1 else 0.03  # rows together may take other kernels
        need = estimate(model, length, batch)
        assert need.low.peak < need.full.peak and need.low.kept < need.full.kept
        assert need.low.flops > need.full.flops > 0
        for way in ("full", "low"):
            counter = Counter()
            with counter:
                kept = run_with_relevance(model, zoo.prompt_tokens(batch, length), METRIC, memory=way)
            assert len(kept) == 2
            assert of_tensors(need.of(way)) == pytest.approx(max(counter.timeline), rel=tolerance)
            assert sum(need.of(way).parts.values()) == need.of(way).peak
    table = need.to_dataframe()
    assert set(table.memory) == {"", "full", "low"} and "memory='low'" in str(need)


def test_auto_goes_where_it_fits(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    """By the memory that is free; what does not fit is refused with the number and what would fit."""
    model, tokens = build("llama"), zoo.prompt_tokens(1, 20)
    need = estimate(model, 20)

    def free(size: float) -> None:
        monkeypatch.setattr(choosing, "free_bytes", lambda device: int(size))

    def run(memory: Any) -> RelevanceCache:
        return run_with_relevance(model, tokens, METRIC, memory=memory)[1]

    assert run("auto").memory == "full" and "far below" in run("auto").memory_text
    free(2.1 * need.full.peak)
    assert run("auto").memory == "full" and "are free" in run("auto").memory_text
    free(1.1 * need.full.peak)
    low = run("auto")
    assert low.memory == "low" and "in full" in low.memory_text and run("full").memory == "full"
    monkeypatch.setattr(blocks, "rounding", lambda dtype: -1.0)
    again = run("auto")
    assert again.memory == "full" and "not block by block: A pass block by block" in again.memory_text
    with pytest.raises(SiteError, match="runs each part again"):
        run("low")
    free((need.full.peak + need.low.peak) / 2)
    with pytest.raises(SiteError, match="runs each part again"):
        run("auto")
    monkeypatch.undo()
    free((need.full.peak + need.low.peak) / 2)
    with pytest.raises(InputError, match=r"1 × 20 tokens need, .* GB are free. Use memory='low'"):
        run("full")
    for wrong in (dict(n_tokens=0), dict(n_tokens=3, batch=True), dict(n_tokens=3, metrics=0)):
        with pytest.raises(InputError, match=r"is a whole number, .* >= 1; received"):
            estimate(model, **wrong)


def test_only_the_way_that_is_asked_for_is_estimated(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass in low memory is not held up by counting passes in full, nor the other way round."""
    model, tokens, asked = build("llama"), zoo.prompt_tokens(1, 20), []
    original = choosing.needed
    monkeypatch.setattr(choosing, "free_bytes", lambda device: int(1.1 * estimate(model, 20).full.peak))
    monkeypatch.setattr(choosing, "needed", lambda way, *given: asked.append(way) or original(way, *given))
    for memory, ways in (("low", {"low"}), ("full", {"full"}), ("auto", {"full", "low"})):
        asked.clear()
        run_with_relevance(model, tokens, METRIC, memory=memory)
        assert set(asked) == ways


@pytest.mark.full
def test_what_would_fit_is_named_and_fits(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    """The least loss first; what the message says fits, and a little more does not."""
    model, tokens, metrics = build("llama"), zoo.prompt_tokens(3, 20), [METRIC, Logit(4), Logit(5)]

    def free(size: float) -> None:
        monkeypatch.setattr(choosing, "free_bytes", lambda device: int(size))

    def refused(memory: Any, tokens: Tensor = tokens, **options: Any) -> str:
        with pytest.raises(InputError, match=r"A pass fits in memory; .* are free\. ") as caught:
            relevance_per_metric(model, tokens, metrics, memory=memory, **options)
        return str(caught.value).rsplit("free. ", 1)[1]

    def low(n_tokens: int = 20, batch: int = 3, metrics: int = 3, **options: Any) -> int:
        return estimate(model, n_tokens, batch, metrics=metrics, **{"logits": "metric"} | options).low.peak

    whole = low(logits="all")
    free(whole)
    assert refused("full") == f"Use memory='low': {whole / 1e9:.3g} GB."
    free(low())
    assert refused("full") == f"Use memory='low' and logits='metric': {low() / 1e9:.3g} GB."
    assert refused("auto") == refused("low") == f"Use logits='metric': {low() / 1e9:.3g} GB."
    assert "no names_filter" in refused("low", names_filter=lambda name: True)
    relevance_per_metric(model, tokens, metrics, memory="low", logits="metric")
    for asked, fewer in (("metrics", 2), ("batch", 2)):
        alone = {} if asked == "metrics" else {"metrics": 1}
        fits = low(**alone | {asked: fewer})
        assert fits < low(**alone)
        free((fits + low(**alone)) / 2)
        assert f"at most {fewer}" in refused("low")
    free(low(n_tokens=10, batch=1, metrics=1))
    said = re.fullmatch(r".* and prompts of at most (\d+) tokens: .*", refused("low"))
    assert said is not None and int(said[1]) >= 10
    assert low(n_tokens=int(said[1]), batch=1, metrics=1) <= low(n_tokens=10, batch=1, metrics=1)
    assert low(n_tokens=int(said[1]) + 1, batch=1, metrics=1) > low(n_tokens=10, batch=1, metrics=1)
    free(1)
    assert refused("auto") == refused("full") and "Not even one token fits" in refused("low")


def test_sums_are_all_that_is_held(build: Callable[[str], Any]) -> None:
    """No tensor of the width of the model, but for logits."""
    _, low = run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC, memory="low")
    assert all(one.numel() <= 9 * 4 for one in low.sums.values())
    balance = low._balance
    assert balance is not None and low.balance is None
    assert all(one.numel() == 1 for one in balance.stream.values())


# ------------------------------------------------------------------------------------ the result
def test_an_activation_that_was_not_kept_is_refused_by_name(build: Callable[[str], Any]) -> None:
    _, low = run_with_relevance(build("llama"), zoo.prompt_tokens(1, 7), METRIC, memory="low")
    for ask in (
        lambda: low["z", 1],
        lambda: low.activations["z", 1],
        lambda: low.gradients["blocks.1.attn.hook_z"],
    ):
        with pytest.raises(
            UnknownNameError, match=r"names_filter=\['blocks.1.attn.hook_z'\], or with memory='full'"
        ):
            ask()
    with pytest.raises(UnknownNameError, match="memory='full'"):
        low.neurons(0)
    assert ("z", 1) not in low and low.holds(("z", 1)) and not low.holds(("pattern", 1))
    assert "low memory: sums at" in repr(low)
    _, some = run_with_relevance(
        build("llama"), zoo.prompt_tokens(1, 7), METRIC, memory="low", names_filter="hook_embed"
    )
    assert "1 hook points (low memory)" in repr(some)


def test_files(build: Callable[[str], Any], tmp_path: Any) -> None:
    _, low = run_with_relevance(build("gpt2"), PROMPTS, METRIC, memory="low")
    low.save(tmp_path / "low.safetensors")
    again = RelevanceCache.load(tmp_path / "low.safetensors")
    assert repr(again) == repr(low) and str(again.ledger()) == str(low.ledger()) and again.memory == "low"
    for view, of in VIEWS.items():
        np.testing.assert_array_equal(of(again).values, of(low).values, err_msg=view)
    with pytest.raises(UnknownNameError, match="memory='full'"):
        again["z", 0]
    assert low.to("cpu") is low and again.to("meta").sums["z", 0].device.type == "meta"


def test_rules_that_do_not_answer_have_no_ledger(build: Callable[[str], Any], tmp_path: Any) -> None:
    full, low = both(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC, rules=MUTE)
    np.testing.assert_allclose(low.tokens().values, full.tokens().values, rtol=1e-12)
    with pytest.raises(RuleError, match="the ledger asks"):
        low.ledger()
    low.save(tmp_path / "mute.safetensors")
    assert RelevanceCache.load(tmp_path / "mute.safetensors").tokens().values.shape == (9,)


# ------------------------------------------------------------------------------------ controls
def test_a_block_that_does_not_run_again_as_it_ran_is_refused(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks that change between calls, at a block and behind the last one; and a part that is run on another state."""
    model, tokens = build("llama"), zoo.prompt_tokens(1, 7)
    for name, part in (("blocks.1.mlp.hook_post", "block 1"), ("unembed.hook_in", "what follows the blocks")):
        calls: list[int] = []

        def drift(tensor: Tensor, hook: Any, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return tensor * len(calls)

        with (
            model.hooks(fwd_hooks=[(name, drift)]),
            pytest.raises(SiteError, match=rf"{part} of .* now writes something else.*memory='full'"),
        ):
            run_with_relevance(model, tokens, METRIC, memory="low")
    original = BlockRun.block

    def swapped(self: Any, layer: int, gradient: Tensor, **options: Any) -> Any:
        self.calls[layer] = self.calls[0]
        return original(self, layer, gradient, **options)

    with monkeypatch.context() as patch:
        patch.setattr(BlockRun, "block", swapped)
        with pytest.raises(SiteError, match=r"block 1 of .* now writes something else"):
            run_with_relevance(model, tokens, METRIC, memory="low")
    monkeypatch.setattr(blocks, "rounding", lambda dtype: float("inf"))
    monkeypatch.setattr(BlockRun, "block", swapped)
    full, low = both(model, tokens, METRIC)
    with pytest.raises(AssertionError):
        require_equal(full, low, EXACT[torch.float64])


@pytest.mark.parametrize("name", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"])
def test_a_stream_that_is_cut_is_refused_as_in_full(build: Callable[[str], Any], name: str) -> None:
    model = build("llama")
    with model.hooks(fwd_hooks=[(name, lambda tensor, hook: tensor.detach())]):
        for memory in ("full", "low"):
            with pytest.raises(MetricError, match="or a hook on the model cuts the logits off"):
                run_with_relevance(model, zoo.prompt_tokens(1, 7), METRIC, memory=memory)


def test_what_the_host_computes_outside_the_graph(build: Callable[[str], Any]) -> None:
    """Refused if it is named, left out if a predicate chose it; with a part of a block cut off by a user's hook."""
    model, name, messages = build("llama"), "blocks.1.attn.hook_v", []
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda tensor, hook: tensor.detach())]):
        for memory in ("full", "low"):
            options = dict(rules=ATTN_LRP, memory=memory)
            with pytest.raises(SiteError, match="outside the graph") as caught:
                run_with_relevance(model, zoo.prompt_tokens(1, 7), METRIC, names_filter=name, **options)
            messages.append(str(caught.value))
            _, rest = run_with_relevance(
                model, zoo.prompt_tokens(1, 7), METRIC, names_filter=lambda one: "hook_v" in one, **options
            )
            assert list(rest) == ["blocks.0.attn.hook_v"]
    assert messages[0] == messages[1] and name in messages[0]
    assert ("or use HookedTransformer" in messages[0]) == (resolve(model).host == "TransformerBridge")


def test_an_interrupted_pass_leaves_nothing(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("gpt2")
    hooks = {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}
    original = BlockRun._back

    def interrupted(self: Any, output: list[Tensor], *rest: Any) -> Any:
        if output[0].ndim:  # not the metric itself
            raise KeyboardInterrupt
        return original(self, output, *rest)

    monkeypatch.setattr(BlockRun, "_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_with_relevance(model, zoo.prompt_tokens(1, 7), METRIC, rules=CP_LRP, memory="low")
    assert torch.is_grad_enabled() and all(one.requires_grad for one in model.parameters())
    assert {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()} == hooks
    monkeypatch.undo()
    full, low = both(model, zoo.prompt_tokens(1, 7), METRIC, rules=CP_LRP)
    require_equal(full, low, EXACT[torch.float64])


def test_progress(build: Callable[[str], Any], capfd: pytest.CaptureFixture[str]) -> None:
    run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC, memory="low", progress=True)
    assert "blocks" in capfd.readouterr().err
    run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC, memory="low")
    assert capfd.readouterr().err == ""


def test_what_memory_is(build: Callable[[str], Any], unchecked: None) -> None:
    for wrong in ("small", None, 3):
        with pytest.raises(InputError, match="memory is 'auto', 'full' or 'low'"):
            run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC, rules=ATTN_LRP, memory=wrong)
