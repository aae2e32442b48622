"""Metrics: their numbers, their gradients, the positions they read, and what they refuse."""

import math
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_lens import (
    Logit,
    LogitDiff,
    LogProb,
    MeanContrast,
    Metric,
    MetricError,
    RunnerUp,
    SequenceLogit,
    SequenceLogitDiff,
    SequenceLogProb,
    TopKContrast,
    run_with_relevance,
)
from lrp_lens.metrics import as_metric

LOGITS = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# Metric, and the same number written with the logits of example b.
VALUES: dict[str, tuple[Metric, Any]] = {
    "logit": (Logit(3), lambda b: LOGITS[b, -1, 3]),
    "logit at a position": (Logit(3, pos=1), lambda b: LOGITS[b, 1, 3]),
    "logit back from the end": (Logit(3, pos=-5), lambda b: LOGITS[b, 0, 3]),
    "logit per example": (Logit([3, 4, 5]), lambda b: LOGITS[b, -1, 3 + b]),
    "difference": (LogitDiff(3, 7), lambda b: LOGITS[b, -1, 3] - LOGITS[b, -1, 7]),
    "several contrasts": (LogitDiff(3, [7, 1]), lambda b: LOGITS[b, -1, 3] - LOGITS[b, -1, [7, 1]].mean()),
    "difference per example": (
        LogitDiff(torch.tensor([3, 4, 5]), torch.tensor([0, 1, 2])),
        lambda b: LOGITS[b, -1, 3 + b] - LOGITS[b, -1, b],
    ),
    "contrasts per example": (
        LogitDiff([3, 4, 5], [[7, 1], [0], [1, 2, 0]]),
        lambda b: LOGITS[b, -1, 3 + b] - LOGITS[b, -1, [[7, 1], [0], [1, 2, 0]][b]].mean(),
    ),
    "mean contrast": (MeanContrast(3), lambda b: LOGITS[b, -1, 3] - LOGITS[b, -1].mean()),
    "top k": (
        TopKContrast(3, k=4),
        lambda b: (
            LOGITS[b, -1, 3] - LOGITS[b, -1, [t for t in range(11) if t != 3]].sort().values[-4:].mean()
        ),
    ),
    "top k with the target": (
        TopKContrast(3, k=4, include_target=True),
        lambda b: LOGITS[b, -1, 3] - LOGITS[b, -1].sort().values[-4:].mean(),
    ),
    "top k of all others": (
        TopKContrast([3, 4, 5], k=10),
        lambda b: LOGITS[b, -1, 3 + b] * 1.1 - LOGITS[b, -1].sum() / 10,
    ),
    "log-probability": (LogProb(3), lambda b: LOGITS[b, -1].log_softmax(-1)[3]),
    "runner-up": (RunnerUp(), lambda b: LOGITS[b, -1].sort().values[-1] - LOGITS[b, -1].sort().values[-2]),
    "runner-up at a position": (
        RunnerUp(pos=2),
        lambda b: LOGITS[b, 2].sort().values[-1] - LOGITS[b, 2].sort().values[-2],
    ),
    # the answers' tokens but the last stand behind the prompt: the prompt ends before the last columns
    "sequence": (SequenceLogit([3, 4]), lambda b: LOGITS[b, 3, 3] + LOGITS[b, 4, 4]),
    "mean of a sequence": (
        SequenceLogit([3, 4], average=True),
        lambda b: (LOGITS[b, 3, 3] + LOGITS[b, 4, 4]) / 2,
    ),
    "sequences of their own": (
        SequenceLogit([[3, 4], [5], [6, 7, 8]]),
        lambda b: sum(LOGITS[b, 2 + i, t] for i, t in enumerate([[3, 4], [5], [6, 7, 8]][b])),
    ),
    "log-probability of a sequence": (
        SequenceLogProb([3, 4]),
        lambda b: LOGITS[b, 3].log_softmax(-1)[3] + LOGITS[b, 4].log_softmax(-1)[4],
    ),
    "answers of which one begins the other": (
        SequenceLogitDiff([3, 4], [3, 5, 7], of="logit"),
        lambda b: LOGITS[b, 2, 3] + LOGITS[b, 3, 4] - LOGITS[b, 2, 3] - LOGITS[b, 3, 5] - LOGITS[b, 4, 7],
    ),
    "answers that part at the end": (
        SequenceLogitDiff([3, 4], [3, 5]),
        lambda b: LOGITS[b, 4, 4] - LOGITS[b, 4, 5],
    ),
    "an answer of two tokens against one": (
        SequenceLogitDiff([3, 4], [5], average=True),
        lambda b: (
            (LOGITS[b, 3].log_softmax(-1)[3] + LOGITS[b, 4].log_softmax(-1)[4]) / 2
            - LOGITS[b, 3].log_softmax(-1)[5]
        ),
    ),
    "callable": (as_metric(lambda logits: logits[:, 1:3, 4].prod(-1)), lambda b: LOGITS[b, 1:3, 4].prod()),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    metric, expected = VALUES[name]
    wanted = torch.stack([expected(example) for example in range(3)])
    torch.testing.assert_close(metric(LOGITS), wanted, rtol=1e-13, atol=1e-13)
    single = {len(metric.terms())} <= {0, 1}
    if single:  # one example of the batch by itself
        torch.testing.assert_close(metric(LOGITS[1:2]), wanted[1:2], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", VALUES)
def test_gradients_are_those_of_the_numbers(name: str) -> None:
    """Linear metrics are their gradient times the logits; which tokens are on top is constant."""
    metric, _ = VALUES[name]
    logits = LOGITS.clone().requires_grad_(True)
    value = metric(logits)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    recovered = (gradient * LOGITS).sum((1, 2))
    cancels = name == "answers that part at the end"  # the one position's log-sum-exp does
    assert (metric.linear or cancels) == torch.allclose(recovered, value, rtol=1e-12)
    direction = torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-6
    numeric = (metric(LOGITS + step * direction) - metric(LOGITS - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum((1, 2)), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in VALUES if name != "callable"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_real_tokens(name: str, side: str) -> None:
    """Example b has b columns of padding: the metric is that of the example without them."""
    metric, _ = VALUES[name]
    width, starts = 8, [0, 1, 3]
    padded = torch.full((3, width, 11), math.nan, dtype=torch.float64)
    for example, start in enumerate(starts):
        first = start if side == "left" else 0
        padded[example, first : first + 5] = LOGITS[example]
    forced = max((len(branch.ids) for row in metric.branches() for branch in row), default=0)
    bound = metric.bind(starts if side == "left" else [0] * 3, [5 - forced] * 3, 11)
    torch.testing.assert_close(bound(padded), metric(LOGITS), rtol=1e-13, atol=1e-13)
    assert bound.positions is not None
    index = bound.positions[..., None].expand(-1, -1, 11)
    torch.testing.assert_close(bound.read(padded.gather(1, index)), metric(LOGITS), rtol=1e-13, atol=1e-13)


def test_low_precision_logits_are_read_in_float32() -> None:
    value = LogitDiff(3, 7)(LOGITS.to(torch.bfloat16))
    assert value.dtype == torch.float32
    assert LogProb(3)(LOGITS.to(torch.float16)).dtype == torch.float32


# ----------------------------------------------------------------------------------- on a model
def test_words_are_tokens(word_model: Any) -> None:
    mary, john = word_model.to_tokens("mary john", prepend_bos=False)[0].tolist()
    prompt = "then mary and john went to the store . john gave a ball to"
    by_word = run_with_relevance(word_model, prompt, LogitDiff("mary", "john"))[1]
    by_id = run_with_relevance(word_model, prompt, LogitDiff(mary, john))[1]
    assert torch.equal(by_word["hook_embed"], by_id["hook_embed"])
    assert by_word.towards == ("mary", "john")
    several = LogitDiff("mary", ["john", "tom"]).resolve(word_model)
    assert several == LogitDiff(mary, [john, word_model.to_tokens("tom", prepend_bos=False)[0].item()])
    assert SequenceLogit("mary john").resolve(word_model) == SequenceLogit([mary, john])
    assert SequenceLogitDiff("mary john", ["tom"]).resolve(word_model).target == ((mary, john),)


def test_a_batch_with_words_of_its_own(word_model: Any) -> None:
    prompts = ["mary gave the ball to", "then john went to the store and tom"]
    _, batch = run_with_relevance(word_model, prompts, LogitDiff(["mary", "john"], ["john", "tom"]))
    for index, (prompt, target, contrast) in enumerate(
        zip(prompts, ("mary", "john"), ("john", "tom"), strict=True)
    ):
        _, single = run_with_relevance(word_model, prompt, LogitDiff(target, contrast))
        torch.testing.assert_close(batch.metric_value[index : index + 1], single.metric_value)


def test_the_default_is_the_top_token_against_the_runner_up(word_model: Any) -> None:
    logits, cache = run_with_relevance(word_model, "mary gave the ball to")
    values, ids = logits[0, -1].topk(2)
    torch.testing.assert_close(cache.metric_value[0], values[0] - values[1])
    explicit = run_with_relevance(word_model, "mary gave the ball to", LogitDiff(int(ids[0]), int(ids[1])))[1]
    assert torch.equal(cache["hook_embed"], explicit["hook_embed"])
    assert (
        cache.towards
        == explicit.towards
        == tuple(word_model.tokenizer.decode([index]) for index in ids.tolist())
    )


def test_metrics_know_where_their_sign_points(word_model: Any) -> None:
    cache = run_with_relevance(word_model, "mary gave the ball to", LogitDiff("mary", ["john", "tom"]))[1]
    assert cache.towards is not None and cache.towards[0] == "mary"
    assert "john" in cache.towards[1] and "tom" in cache.towards[1]
    assert cache.tokens().towards == cache.towards
    assert run_with_relevance(word_model, "mary gave the ball to", Logit("mary"))[1].towards is None


@pytest.mark.parametrize("pos", [0, 3, -2])
def test_reading_one_position_sees_no_later_token(word_model: Any, pos: int) -> None:
    cache = run_with_relevance(word_model, "mary gave the ball to", LogitDiff("mary", "john", pos=pos))[1]
    last = pos % cache.token_ids.shape[1]
    relevance = cache.sum_to_positions("hook_embed")[0]
    assert relevance[last + 1 :].abs().sum() == 0
    assert relevance[last].abs() > 0


# --------------------------------------------------------------------------------- what is refused
def test_a_string_of_several_tokens_shows_them_and_offers_the_first(word_model: Any) -> None:
    first = word_model.to_tokens("mary", prepend_bos=False).item()
    with pytest.raises(MetricError) as caught:
        run_with_relevance(word_model, "mary gave", LogitDiff("mary john", "tom"))
    message = str(caught.value)
    for words in (
        "exactly one token",
        "'mary john' is 2",
        "['mary', 'john']",
        f"'mary' (id {first})",
        "SequenceLogit",
    ):
        assert words in message


@pytest.mark.parametrize("word", ["zebra", "", " "])
def test_an_unknown_word_is_refused(word_model: Any, word: str) -> None:
    for metric in (Logit(word), LogitDiff("mary", word), LogitDiff("mary", ["john", word]), LogProb(word)):
        with pytest.raises(MetricError, match=f"one token of the vocabulary; {word!r} is none"):
            run_with_relevance(word_model, "mary gave", metric)


def test_unknown_words_of_an_answer_are_refused(word_model: Any) -> None:
    for answer in ("mary zebra", ["mary", "zebra"]):
        with pytest.raises(MetricError, match="zebra"):
            run_with_relevance(word_model, "mary gave the ball", SequenceLogit(answer))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda: Logit(11), r"\[0, 11\), the vocabulary; .* has 11"),
        (lambda: Logit(-1), r"\[0, 11\)"),
        (lambda: LogitDiff(3, 99), "has 99"),
        (lambda: Logit(3, pos=5), r"\[-5, 5\), the tokens of the prompt; .* reads 5"),
        (lambda: Logit(3, pos=-6), "reads -6"),
        (lambda: RunnerUp(pos=9), "reads 9"),
        (lambda: SequenceLogit([1] * 6), r"\[-0, 0\), the tokens of the prompt"),
        (lambda: SequenceLogitDiff([1, 2], [3, 4]), "reads 2 rows of logits, for a batch of 3"),
        (lambda: SequenceLogitDiff([1, 2], [1, 2]), "different answers; both are"),
        (lambda: SequenceLogitDiff([1], [2], of="probability"), "'log_prob' or 'logit'"),
        (lambda: Logit("mary"), r"needs token ids; .*'mary'.*resolve\(model\)"),
        (lambda: SequenceLogit("mary"), r"needs token ids; .*resolve\(model\)"),
        (lambda: LogitDiff([1, 2], [3, 4]), "has 2 and reads 2 rows of logits, for a batch of 3"),
        (lambda: LogitDiff(3, 3), "different tokens; both are 3"),
        (lambda: LogitDiff(3, [4, 3]), "different tokens; both are 3"),
        (lambda: LogitDiff([1, 2, 3], [4, 5]), "3 targets and 2 contrasts"),
        (lambda: LogitDiff(3, []), "needs a token"),
        (lambda: Logit([]), "needs a token"),
        (lambda: Logit(None), "needs a token"),
        (lambda: Logit(3.0), "needs a token"),
        (lambda: Logit([3.5]), "needs a token"),
        (lambda: LogitDiff(3, None), "needs a token"),
        (lambda: Logit(3, pos="last"), "position"),
        (lambda: Logit(3, pos=1.0), "position"),
        (lambda: Logit(3, pos=[0, 1]), "position"),
        (lambda: TopKContrast(3, k=0), "at least one logit; received k=0"),
        (lambda: TopKContrast(3, k=11), "k=11 tokens of a vocabulary of 11"),
        (lambda: SequenceLogit([]), "at least one token"),
        (lambda: SequenceLogit([[1], []]), "at least one token"),
        (lambda: SequenceLogit(5), "SequenceLogit"),
        (lambda: SequenceLogitDiff([[1], [2]], [[3]]), "received 2 and 1"),
        (lambda: as_metric("mary"), "is a Metric .*LogitDiff"),
        (lambda: as_metric(3), "received 3"),
        (lambda: as_metric(lambda logits: 3.0), "tensor of shape .* returned float"),
        (lambda: as_metric(lambda logits: logits), r"shape \[3\]; the callable returned \(3, 5, 11\)"),
        (lambda: as_metric(lambda logits: logits.sum()), r"the callable returned \(\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_metrics_are_refused(metric: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        metric()(LOGITS)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_and_torch_are_tokens() -> None:
    for token in (np.int64(3), torch.tensor(3)):
        assert torch.equal(Logit(token)(LOGITS), Logit(3)(LOGITS))
        assert torch.equal(LogitDiff(token, 7)(LOGITS), LogitDiff(3, 7)(LOGITS))
        assert torch.equal(LogitDiff(token, [7, 1])(LOGITS), LogitDiff(3, [7, 1])(LOGITS))
        assert torch.equal(LogitDiff(7, token)(LOGITS), LogitDiff(7, 3)(LOGITS))
    assert torch.equal(Logit(np.array([3, 4, 5]))(LOGITS), Logit([3, 4, 5])(LOGITS))


def test_logits_of_another_shape_are_refused() -> None:
    for logits in (LOGITS[0], LOGITS[0, 0], LOGITS[None]):
        with pytest.raises((MetricError, jaxtyping.TypeCheckError)):
            Logit(3)(logits)


def test_metrics_are_values() -> None:
    assert LogitDiff(3, 7) == LogitDiff(3, [7]) == LogitDiff([3], [[7]])
    assert len({LogitDiff(3, 7), LogitDiff(3, 7), Logit(3)}) == 2
    tensor = torch.tensor([3, 4])
    metric = LogitDiff(tensor, tensor + 1)
    tensor += 5
    assert metric == LogitDiff([3, 4], [4, 5])


def test_a_callable_of_one_example_may_return_a_scalar() -> None:
    def total(logits: Tensor) -> Tensor:
        return logits.sum()

    torch.testing.assert_close(as_metric(total)(LOGITS[:1]), LOGITS[:1].sum()[None])
