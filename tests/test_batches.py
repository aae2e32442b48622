"""Many questions at once: several metrics of one pass, prompts of different lengths, and streams of prompts."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_lens import (
    ATTN_LRP,
    InputError,
    Logit,
    LogitDiff,
    LogProb,
    MetricError,
    RelevanceCache,
    RuleError,
    RunnerUp,
    SequenceLogit,
    SequenceLogitDiff,
    SequenceLogProb,
    relevance_over,
    relevance_per_metric,
    run_with_relevance,
)
from lrp_lens.run import over
from lrp_lens.run.reading import JointReading
from tests import zoo
from tests.test_own_rules import MUTE
from tests.zoo_recipes import EVERY_RULE_SET

METRICS = [LogitDiff(3, [7, 9]), LogProb(5, pos=1), RunnerUp()]
WAYS: tuple[Any, ...] = ("full", "low")


def over_the_zoo() -> list[Any]:
    """All of it in the full tier, in the first a few which differ most."""
    marks = (pytest.mark.full, pytest.mark.zoo)
    return [pytest.param(*one, marks=() if one[1] in EVERY_RULE_SET else marks) for one in zoo.models()]


def squares(logits: Tensor) -> Tensor:
    return logits.square().mean((1, 2))


def require_same(found: RelevanceCache, expected: RelevanceCache, tolerance: float) -> None:
    """Relevance everywhere, the views and the ledger; errors as shares of the relevance at one point."""
    assert list(found) == list(expected) or list(found.sums) == list(expected)
    assert (found.metric_text, found.towards) == (expected.metric_text, expected.towards)
    names = list(found) or list(found.sums)
    scale = max(float(expected.summed(name).abs().sum()) for name in names)
    assert scale > 1e-2
    for name in found:
        assert float((found[name] - expected[name]).abs().max()) <= tolerance * scale, name
    for name in names:
        assert float((found.summed(name) - expected.summed(name)).abs().max()) <= tolerance * scale, name
    one, other = found.ledger(), expected.ledger()
    assert [(row.label, row.kind) for row in one.rows] == [(row.label, row.kind) for row in other.rows]
    pairs = [(row.amount, own.amount) for row, own in zip(one.rows, other.rows, strict=True)]
    parts = ("metric", "tokens", "positions", "stream", "remainder")
    for one_part, other_part in pairs + [(getattr(one, part), getattr(other, part)) for part in parts]:
        np.testing.assert_allclose(one_part, other_part, rtol=0, atol=tolerance * scale)


# ------------------------------------------------------------------------------------ several metrics
@pytest.mark.parametrize(("host", "name"), over_the_zoo())
def test_metrics_together_are_metrics_alone(host: str, name: str) -> None:
    """With metrics at different positions, linear or not; in low memory, too, against each in full; two prompts."""
    model, tokens, metrics = zoo.shared(host, name), zoo.prompt_tokens(2, 6), METRICS[:2]
    logits, full = relevance_per_metric(model, tokens, metrics, rules=ATTN_LRP, memory="full")
    same, low = relevance_per_metric(model, tokens, metrics, rules=ATTN_LRP, memory="low")
    assert torch.equal(logits, same)
    for metric, one, other in zip(metrics, full, low, strict=True):
        same, alone = run_with_relevance(model, tokens, metric, rules=ATTN_LRP, memory="full")
        assert torch.equal(logits, same)
        require_same(one, alone, 1e-12)
        require_same(other, alone, 1e-12)


@pytest.fixture(params=zoo.HOSTS)
def build(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return lambda name: zoo.shared(request.param, name)


@pytest.mark.parametrize("memory", WAYS)
@pytest.mark.parametrize("logits", ["all", "metric"])
def test_what_is_unembedded(build: Callable[[str], Any], memory: Any, logits: Any) -> None:
    """With "metric" each position that any of them reads once; everything where one reads everything."""
    model, tokens = build("gemma2"), zoo.prompt_tokens(2, 6)
    for metrics, read in ((METRICS, 2), ([squares, *METRICS], 6), ([SequenceLogit([4, 5])] * 2, 2)):
        shown, caches = relevance_per_metric(model, tokens, metrics, memory=memory, logits=logits)
        assert shown.shape[1] == (read if logits == "metric" else caches[0].batch.ids.shape[1])
        for metric, found in zip(metrics, caches, strict=True):
            require_same(found, run_with_relevance(model, tokens, metric, memory="full")[1], 1e-12)


@pytest.mark.parametrize("memory", WAYS)
def test_answers_of_several_tokens(build: Callable[[str], Any], memory: Any) -> None:
    """Metrics that append the same answer share its row; others are refused before anything runs."""
    model, tokens = build("llama"), zoo.prompt_tokens(1, 5)
    alike = [SequenceLogProb([4, 5]), SequenceLogit([4, 8])]
    for metric, found in zip(
        alike, relevance_per_metric(model, tokens, alike, memory=memory)[1], strict=True
    ):
        require_same(found, run_with_relevance(model, tokens, metric, memory="full")[1], 1e-12)
    for other in (SequenceLogProb([6, 5]), SequenceLogitDiff([4, 5], [7, 8, 9]), Logit(3)):
        with pytest.raises(MetricError, match=r"append the same answer tokens.*Put those that do into one"):
            relevance_per_metric(model, tokens, [alike[0], other], memory=memory)


def test_a_selection_of_hook_points(build: Callable[[str], Any]) -> None:
    model, tokens, names = build("gpt2"), zoo.prompt_tokens(1, 5), ["blocks.1.attn.hook_z", "hook_embed"]
    for memory in WAYS:
        _, caches = relevance_per_metric(model, tokens, METRICS, names_filter=names, memory=memory)
        for metric, found in zip(METRICS, caches, strict=True):
            _, alone = run_with_relevance(model, tokens, metric, names_filter=names, memory=memory)
            assert list(found) == list(alone)
            assert all(torch.equal(found.activations[name], alone.activations[name]) for name in names)
            for one in names:
                torch.testing.assert_close(found.gradients[one], alone.gradients[one], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("memory", "forwards"), [("full", 1), ("low", 2)])
def test_the_blocks_run_once_for_all_metrics(build: Callable[[str], Any], memory: Any, forwards: int) -> None:
    model, calls = build("llama"), []
    relevance_per_metric(model, zoo.prompt_tokens(1, 5), METRICS, memory=memory)  # what is probed once
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda tensor, hook: calls.append(1))]):
        relevance_per_metric(model, zoo.prompt_tokens(1, 5), METRICS, memory=memory)
    assert len(calls) == forwards


def test_what_is_no_list_of_metrics(build: Callable[[str], Any], unchecked: None) -> None:
    for wrong in ([], METRICS[0], "mary", None):
        with pytest.raises(InputError, match=r"metrics is a list of at least one metric; received .*Pass \["):
            relevance_per_metric(build("llama"), zoo.prompt_tokens(1, 5), wrong)
    with pytest.raises(MetricError, match="A token id lies in"):
        relevance_per_metric(build("llama"), zoo.prompt_tokens(1, 5), [METRICS[0], Logit(10_000)])


def test_metrics_mixed_up_would_be_seen(build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the positions of one metric read for another."""
    original = JointReading.rows
    monkeypatch.setattr(
        JointReading,
        "rows",
        lambda self, logits, index, selected: original(
            self, logits, 1 - index if index < 2 else index, selected
        ),
    )
    model, tokens = build("llama"), zoo.prompt_tokens(1, 5)
    _, caches = relevance_per_metric(model, tokens, METRICS, logits="metric")
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        require_same(caches[0], run_with_relevance(model, tokens, METRICS[0])[1], 1e-12)


# ------------------------------------------------------------------------------------ different lengths
PROMPTS = [zoo.prompt_tokens(1, length, seed=length)[0] for length in (9, 4, 6)]


def of_one(cache: RelevanceCache, index: int) -> dict[str, np.ndarray]:
    """What a batch says of one prompt, padding left out."""
    start, stop = cache.batch.starts[index], cache.batch.starts[index] + cache.batch.lengths[index]
    ledger = cache.ledger()
    return {
        "tokens": cache.tokens().values.reshape(cache.batch.n_examples, -1)[index, start:stop],
        "layers": cache.layers().select(batch=index).values[:, start:stop],
        "heads": cache.heads().select(batch=index).values,
        "metric": ledger.metric[index],
        "rows": np.array([row.amount[index] for row in ledger.rows]),
    }


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("host", "name"), over_the_zoo())
def test_a_prompt_does_not_know_its_batch(host: str, name: str, side: Any) -> None:
    """Padded on either side, in full and in low memory: as the prompt alone; and the padding holds nothing."""
    # transformers refuses float64 on the left, and its GPT-J forms scores in float32 whatever its dtype
    narrow = host == "bridge" and side == "left"
    model = zoo.shared(host, name, torch.float32 if narrow else torch.float64)
    tolerance = 1e-6 if narrow or (host, name) == ("bridge", "gptj") else 1e-12
    metric = LogitDiff([3, 4, 5], [7, 8, 9])
    batches = [
        run_with_relevance(model, PROMPTS, metric, padding_side=side, memory=memory)[1] for memory in WAYS
    ]
    alone = [
        run_with_relevance(model, [prompt], metric.example(index), memory="full")[1]
        for index, prompt in enumerate(PROMPTS)
    ]
    for batch in batches:
        padding = ~batch.batch.real.cpu().numpy()
        assert padding.sum() == 8 and not batch.tokens().values[padding].any()
        for index, own in enumerate(alone):
            scale = float(np.abs(own.layers().values).sum(-1).max())
            expected, found = of_one(own, 0), of_one(batch, index)
            for part, numbers in expected.items():
                np.testing.assert_allclose(found[part], numbers, rtol=0, atol=tolerance * scale, err_msg=part)


# ------------------------------------------------------------------------------------ streams of prompts
SIX = [zoo.prompt_tokens(1, length, seed=40 + place)[0] for place, length in enumerate((9, 4, 6, 4, 9, 5))]
OF_EACH: dict[str, list[Any]] = {
    "runner-up": [None] * 6,
    "one target each": [LogitDiff(13 + place, [7, 29 + place]) for place in range(6)],
    "kinds mixed": [Logit(3), LogProb(4), Logit(5), LogProb(6, pos=1), RunnerUp(), Logit(3)],
    "of all logits": [squares] * 6,
    "answers": [SequenceLogitDiff([4, 5], [7, 8 + place]) for place in range(6)],
}


def require_as_alone(model: Any, found: over.PromptRelevance, prompt: Tensor, metric: Any) -> None:
    """A record beside `run_with_relevance` of its prompt."""
    _, alone = run_with_relevance(model, prompt, metric, memory="full")
    assert found.error is None and found.metric_text == alone.metric_text
    np.testing.assert_allclose(found.metric_value, float(alone.metric_value[0]), rtol=1e-12)
    scale = float(np.abs(alone.layers().values).sum(-1).max())
    for name, view in found.views.items():
        expected = getattr(alone, name)()
        for part in ("dims", "labels", "notes", "towards", "units", "pieces", "name"):
            assert getattr(view, part) == getattr(expected, part), (name, part)
        np.testing.assert_array_equal(view.special, expected.special)
        np.testing.assert_allclose(view.values, expected.values, rtol=0, atol=1e-12 * scale, err_msg=name)
    ledger, expected = found.ledger, alone.ledger()
    assert ledger is not None and (ledger.title, ledger.towards) == (expected.title, expected.towards)
    assert [row.label for row in ledger.rows] == [row.label for row in expected.rows]
    for one, other in zip(ledger.rows, expected.rows, strict=True):
        np.testing.assert_allclose(one.amount, other.amount, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(ledger.tokens, expected.tokens, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("of", OF_EACH)
def test_a_record_is_what_its_prompt_alone_gives(build: Callable[[str], Any], of: str) -> None:
    """Every view and the ledger, in the prompts' order, whatever ran together."""
    model, metrics = build("gpt2"), OF_EACH[of]
    found = list(
        relevance_over(model, SIX, metrics, views=over.VIEWS, window=4, batch_tokens=20, progress=False)
    )
    assert [one.index for one in found] == list(range(6))
    for one, prompt, metric in zip(found, SIX, metrics, strict=True):
        assert [*one.views, "ledger"] == list(over.VIEWS)
        require_as_alone(model, one, prompt, metric)
    with pytest.raises(AssertionError):  # control: another prompt's record
        require_as_alone(model, found[1], SIX[3], metrics[3])


def test_prompts_of_like_length_run_together(build: Callable[[str], Any]) -> None:
    """As many as fit; a function of all logits, which would read padding, only with its own length."""
    model, shapes = build("llama"), []
    hook = ("hook_embed", lambda tensor, hook: shapes.append(tuple(tensor.shape[:2])))
    for metric, expected in (
        (Logit(3), [(4, 6), (2, 9)]),
        (squares, [(2, 4), (1, 5), (1, 6), (2, 9)]),
        (SequenceLogitDiff([4, 5], [7, 8]), [(4, 5), (4, 7), (2, 10), (2, 10)]),
    ):
        shapes.clear()
        with model.hooks(fwd_hooks=[hook]):
            list(relevance_over(model, SIX, metric, batch_tokens=28, memory="full", progress=False))
        assert sorted(shapes, key=lambda shape: shape[1]) == expected


def test_a_generator_is_read_a_window_at_a_time(build: Callable[[str], Any]) -> None:
    read: list[int] = []

    def prompts() -> Iterator[Tensor]:
        for index in itertools.count():  # without an end
            read.append(index)
            yield SIX[index % 6]

    stream = relevance_over(build("llama"), prompts(), Logit(3), window=3, progress=False)
    assert not read and [next(stream).index for _ in range(4)] == [0, 1, 2, 3] and len(read) == 6
    stream.close()  # type: ignore[attr-defined]
    assert next(stream, None) is None


def test_a_bad_prompt_is_an_entry_with_its_reason(build: Callable[[str], Any], unchecked: None) -> None:
    """What the tokens or the metric of one prompt refuse, before the pass or in it; the others are as ever."""
    model = build("llama")

    def not_for_all(logits: Tensor) -> Tensor:
        return logits[:, -1, 3] + torch.where(logits[:, 0, 4] == bad, torch.nan, 0.0)

    bad = float(model(SIX[1][None])[0, 0, 4].detach())
    prompts: list[Any] = [SIX[0], [], SIX[1], SIX[3], [10_000], "mary", None, [5] * 200, SIX[:2], SIX[4]]
    found = list(relevance_over(model, prompts, not_for_all, batch_tokens=1000, progress=False))
    assert [one.index for one in found] == list(range(10))
    reasons = {one.index: str(one.error) for one in found if one.error is not None}
    said = {
        1: "at least one token",
        2: "finite number",
        4: "vocabulary",
        5: "needs a tokenizer",
        6: "NoneType",
    }
    assert reasons.keys() == said.keys() | {7, 8}
    for index, words in (said | {7: "fits the context", 8: "a single one"}).items():
        assert words in reasons[index] and words in repr(found[index]) and not found[index].views
    assert all(one.views["tokens"].shape == (len(prompts[one.index]),) for one in found if not one.error)
    assert "NaN" not in repr(found[0]) and "tokens" in repr(found[0])
    one_each = [Logit(3, pos=8), Logit(3, pos=8)]
    long, short = relevance_over(model, [SIX[0], SIX[1]], one_each, progress=False)
    assert long.error is None and isinstance(short.error, MetricError)


def test_what_concerns_all_prompts_is_refused_at_once(build: Callable[[str], Any], unchecked: None) -> None:
    model = build("llama")
    for prompts in ("mary", [{"role": "user", "content": "mary"}], 5, {"prompt": [3]}):
        with pytest.raises(InputError, match=r"prompts is an iterable of prompts; received .*into a list"):
            relevance_over(model, prompts)
    with pytest.raises(InputError, match=r"views are some of tokens, .*Did you mean 'heads'\?"):
        relevance_over(model, SIX, views=["tokens", "head"])
    for option in (dict(window=0), dict(batch_tokens=True)):
        with pytest.raises(InputError, match=r"is a whole number, .* >= 1; received"):
            relevance_over(model, SIX, **option)
    with pytest.raises(MetricError, match="for all prompts has one answer"):
        relevance_over(model, SIX, LogitDiff([3, 4], [5, 6]))
    with pytest.raises(MetricError, match="received 2 metrics for 6 prompts"):
        relevance_over(model, SIX, [None, None])
    with pytest.raises(MetricError, match="prompt 2 has none left"):
        list(relevance_over(model, SIX, iter([None, None]), progress=False))
    with pytest.raises(RuleError, match="relevance_over asks"):
        relevance_over(model, SIX, rules=MUTE, views="ledger")


def test_an_interrupted_stream_leaves_nothing(build: Callable[[str], Any]) -> None:
    """The records before are there; hooks and flags are as before (tests/conftest.py looks)."""
    model, calls = build("gpt2"), []

    def interrupt(tensor: Tensor, hook: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", interrupt)]):
        stream = relevance_over(model, SIX, Logit(3), window=1, memory="full", progress=False)
        assert next(stream).index == 0
        with pytest.raises(KeyboardInterrupt):
            next(stream)
