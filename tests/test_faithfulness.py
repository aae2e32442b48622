"""The measures against slow literal definitions, a model whose truth is known, and the demo model."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError, SiteError
from lrp_lens.masking import (
    BASELINES,
    MEASURES,
    Faithfulness,
    Question,
    faithfulness,
)
from lrp_lens.masking import replacement as replacement_module
from lrp_lens.masking.curves import Plan, as_plan, curves, prefix_masks, relevance_order
from lrp_lens.masking.evaluate import inapplicable
from lrp_lens.masking.measures import evidence_overlap
from lrp_lens.masking.questions import questions, require_seed
from lrp_lens.methods import METHODS, Method, relevance_method
from lrp_lens.methods.attention import pattern_points
from lrp_lens.methods.question import MaskedRuns
from lrp_lens.methods.registry import as_methods
from lrp_lens.metrics import CallableMetric, Logit, LogitDiff, SequenceLogit
from lrp_lens.plots import plot_faithfulness, plot_faithfulness_measure
from lrp_lens.rules import ATTN_LRP, CP_LRP, PRESETS
from lrp_lens.run.relevance import run_with_relevance
from tests import zoo

BOS_AND = np.array([0.0])


def short_cases(count: int, correct: bool = False) -> list[Case]:
    """The shortest ones, to save time."""
    return sorted(demo_cases(correct=correct), key=lambda case: len(case.prompt.split()))[:count]


class Synthetic(Question):
    """A question whose answers are a given function of what is kept; position 0 is special."""

    def __init__(self, function: Any, n: int, seed: int = 0, **fields: Any) -> None:
        super().__init__(
            model=None,
            tokens=torch.zeros(n + 1, dtype=torch.long),
            strings=("x",) * (n + 1),
            maskable=np.arange(1, n + 1),
            metric=fields.pop("metric", LogitDiff(0, 1)),
            replacement=torch.zeros(n + 1, 1),
            seed=seed,
            **fields,
        )
        self.function = function

    def masked(self, masks: np.ndarray) -> MaskedRuns:
        assert not masks[:, 0].any(), "a special token was masked"
        values = np.array([self.function(frozenset(np.flatnonzero(~row[1:]).tolist())) for row in masks])
        return MaskedRuns(values.astype(float), (values < 0.5).astype(np.int64), 1 / (1 + np.exp(-values)))


def linear(weights: Any, **fields: Any) -> Synthetic:
    """A bag of words: the metric is the sum of the kept words' weights."""
    weights = np.asarray(weights, dtype=float)
    return Synthetic(lambda kept: weights[sorted(kept)].sum(), len(weights), **fields)


def arbitrary(n: int, seed: int) -> Synthetic:
    """Any function of what is kept."""
    table: dict[frozenset[int], float] = {}

    def value(kept: frozenset[int]) -> float:
        own = np.random.default_rng([seed, *sorted(kept)])
        return table.setdefault(kept, float(own.normal(1.0, 2.0)))

    return Synthetic(value, n, seed)


def scores_of(values: Any) -> np.ndarray:
    return np.concatenate([BOS_AND, np.asarray(values, dtype=float)])


# ------------------------------------------------------------------------------------ measures
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [None, 3])
def test_every_measure_equals_its_definition(seed: int, steps: int | None) -> None:
    n = 9
    question = arbitrary(n, seed)
    m = question.function
    scores = np.random.default_rng(seed).normal(size=n)
    plan = Plan(steps=steps, limit=4, fractions=(0.1, 0.5, 1.0))
    found = curves(question, scores_of(scores), plan).measures
    order = sorted(range(n), key=lambda i: -scores[i])
    everything = frozenset(range(n))

    def without(tokens: Any) -> float:
        return m(everything - frozenset(tokens))

    counts = list(range(n + 1)) if steps is None else [0, 3, 6, 9]

    def area(read: Any, sequence: list[int]) -> float:
        total = 0.0
        for low, high in itertools.pairwise(counts):
            total += (high - low) / n * (read(sequence[:low]) + read(sequence[:high])) / 2
        return total

    def probability(tokens: Any) -> float:
        return float(1 / (1 + np.exp(-without(tokens))))

    worst = order[::-1]
    assert found["auc_morf"] == pytest.approx(area(without, order))
    assert found["delta_a"] == pytest.approx(area(without, worst) - area(without, order))
    assert found["srg"] == pytest.approx(area(probability, worst) - area(probability, order))
    tops = [1, 5, 9]  # ⌈0.9⌉, ⌈4.5⌉, 9
    assert found["comprehensiveness"] == pytest.approx(
        np.mean([m(everything) - without(order[:k]) for k in tops])
    )
    assert found["sufficiency"] == pytest.approx(
        np.mean([m(everything) - m(frozenset(order[:k])) for k in tops])
    )
    loo = np.array([m(everything) - without([i]) for i in range(n)])
    rank = {int(i): r for r, i in enumerate(np.argsort(scores))}
    loo_rank = {int(i): r for r, i in enumerate(np.argsort(loo))}
    literal = 1 - 6 * sum((rank[i] - loo_rank[i]) ** 2 for i in range(n)) / (n * (n * n - 1))
    assert found["loo_correlation"] == pytest.approx(literal)

    said = m(everything) < 0.5
    flips = [k for k in range(1, 5) if (without(order[:k]) < 0.5) != said]
    assert found["flip_tokens"] == (flips[0] if flips else 5)
    assert found["flipped"] == bool(flips)
    wins = [k for k in range(1, 5) if without(order[:k]) < 0]
    if m(everything) > 0:
        assert (found["win_tokens"], found["won"]) == (wins[0] if wins else 5, bool(wins))
    else:
        assert np.isnan(found["win_tokens"]) and np.isnan(found["won"])


def test_the_truth_is_unbeaten_on_a_bag_of_words() -> None:
    weights = [3.0, -1.0, 0.5, 2.0, -2.5]
    plan = Plan(steps=None)
    truth = curves(linear(weights), scores_of(weights), plan).measures
    assert truth["loo_correlation"] == pytest.approx(1)
    assert truth["win_tokens"] == 1  # 2 − 3 < 0
    others = [
        curves(linear(weights), scores_of(one), plan).measures for one in itertools.permutations(range(5))
    ]
    assert truth["delta_a"] == pytest.approx(max(one["delta_a"] for one in others))
    assert truth["comprehensiveness"] == pytest.approx(max(one["comprehensiveness"] for one in others))
    assert truth["sufficiency"] == pytest.approx(min(one["sufficiency"] for one in others))
    assert sum(one["delta_a"] > truth["delta_a"] - 1e-9 for one in others) == 1
    reverse = curves(linear(weights), -scores_of(weights), plan).measures
    assert reverse["delta_a"] == pytest.approx(-truth["delta_a"])
    by_hand = np.array([[2, -1, -3, -3.5, -2.5, 0], [2, 4.5, 5.5, 5, 3, 0]])
    found = curves(linear(weights), scores_of(weights), plan)
    np.testing.assert_allclose([found.morf, found.lerf], by_hand)
    assert truth["delta_a"] == pytest.approx(((by_hand[1] - by_hand[0])[1:-1]).sum() / 5)


def test_random_scores_gain_nothing() -> None:
    rng = np.random.default_rng(0)
    gains = []
    for seed in range(400):
        question = linear(rng.normal(size=8), seed=seed)
        gains.append(curves(question, question.rng("random").normal(size=9), Plan()).measures["delta_a"])
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(len(gains))
    assert np.std(gains) > 0.1


@pytest.mark.parametrize(("correct", "scores", "top1"), [(True, [0, 5, 1], 1), (False, [9, -3, 1], 1)])
def test_evidence_speaks_for_the_right_answer(correct: bool, scores: list[float], top1: float) -> None:
    evidence = np.array([False, False, True, False])
    question = linear([1, 1, 1], correct=correct, evidence=evidence)
    assert curves(question, scores_of(scores), Plan()).measures["evidence_top1"] == top1
    assert curves(question, -scores_of(scores), Plan()).measures["evidence_top1"] == 0
    unknown = curves(linear([1, 1, 1]), scores_of(scores), Plan()).measures
    assert np.isnan(unknown["evidence_top1"]) and np.isnan(unknown["evidence_iou"])


def test_overlap_by_hand() -> None:
    evidence = np.array([False, True, True, False, False])
    assert evidence_overlap(np.array([3, 1, 2, 4]), evidence) == (0.0, pytest.approx(1 / 3))
    assert evidence_overlap(np.array([2, 1, 3, 4]), evidence) == (1.0, 1.0)
    assert np.isnan(evidence_overlap(np.array([3, 4]), evidence)).all()


def test_ties_are_broken_at_random_and_special_tokens_left_out() -> None:
    maskable = np.array([1, 2, 4])
    seen = {
        tuple(relevance_order(np.zeros(5), maskable, np.random.default_rng(i)).tolist()) for i in range(50)
    }
    assert len(seen) == 6
    masks = prefix_masks(np.array([4, 1, 2]), np.array([0, 1, 3]), 5)
    expected = [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 1, 0, 1]]
    assert masks.astype(int).tolist() == expected


def test_a_metric_without_contrast_has_no_winner() -> None:
    found = curves(linear([1, -2], metric=Logit(0)), scores_of([1, 2]), Plan()).measures
    assert np.isnan(found["win_tokens"])


# ------------------------------------------------------------------------------------ the model
@pytest.fixture(scope="module")
def model() -> Any:
    return load_demo_model(device="cpu")


def hosts(name: str) -> list[Any]:
    return [zoo.bridge(name, torch.float32)] + (
        [zoo.hooked(name, torch.float32)] if zoo.HAS_HOOKED_TRANSFORMER else []
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("replacement", ["mean", "zero", "resample"])
def test_masked_tokens_really_are_replaced(name: str, replacement: str) -> None:
    tokens = zoo.prompt_tokens(1, 7)[0]
    metric = LogitDiff(3, 4, pos=-2)
    for model in hosts(name):
        (question,), _ = questions(model, tokens, metric, replacement, 0, mask_decision=True)
        masks = np.zeros((2, 7), dtype=bool)
        masks[0, [1, 4]] = True
        masks[1, 5] = True
        runs = question.masked(masks)
        table = model.embed(torch.arange(model.cfg.d_vocab)[None])[0]
        new = question.replacement.float()
        if replacement == "zero":
            assert not new.any()
        elif replacement == "mean":
            torch.testing.assert_close(new, table.mean(0).expand(7, -1))
        else:  # every row is the embedding of a token of the prompt, and not always the same
            distances = (new[:, None] - table[tokens][None]).abs().amax(-1)
            assert distances.amin(1).max() < 1e-6
            assert len(new.unique(dim=0)) > 1

        def literal(value: torch.Tensor, hook: Any, new: torch.Tensor = new) -> torch.Tensor:
            value = value.clone().expand(2, -1, -1).clone()
            value[0, [1, 4]] = new[[1, 4]]
            value[1, 5] = new[5]
            return value

        with torch.no_grad():
            logits = model.run_with_hooks(tokens.expand(2, -1), fwd_hooks=[("hook_embed", literal)])[:, -2]
            plain = model(tokens[None])[0, -2]
        expected = (logits[:, 3] - logits[:, 4]).numpy()
        np.testing.assert_allclose(runs.values, expected, atol=2e-5)
        assert runs.choices.tolist() == logits.argmax(-1).tolist()
        np.testing.assert_allclose(
            runs.probabilities, logits.softmax(-1)[:, int(plain.argmax())].numpy(), atol=1e-5
        )
        assert question.full == pytest.approx(float(plain[3] - plain[4]), abs=2e-5)
        assert np.abs(runs.values - question.full).max() > 1e-3


def test_metrics_that_read_several_positions() -> None:
    """The decision is then read at the last position, apart from what the metric reads."""
    model = zoo.bridge("llama", torch.float32)
    tokens = zoo.prompt_tokens(1, 7)[0]
    (question,), _ = questions(model, tokens, SequenceLogit([4, 5]), "zero", 0)
    with torch.no_grad():
        logits = model(torch.cat([tokens, torch.tensor([4])])[None])[0]
    runs = question.masked(np.zeros((1, 7), dtype=bool))
    assert question.decision == 6
    assert runs.values[0] == pytest.approx(float(logits[6, 4] + logits[7, 5]), abs=1e-5)
    assert runs.choices[0] == logits[6].argmax()
    assert runs.probabilities[0] == pytest.approx(float(logits[6].softmax(-1).max()), abs=1e-5)


def test_padding_as_replacement(model: Any) -> None:
    (question,), shared = questions(model, "mary went to the park .", LogitDiff("mary", "john"), "pad", 0)
    pad = model.embed(torch.tensor([[model.tokenizer.pad_token_id]]))[0, 0]
    torch.testing.assert_close(question.replacement[3].float(), pad)
    assert shared.statement == "embedding of the padding token"
    assert not pad.any()  # README: in this model the replacements "pad" and "zero" are one


def test_batches_equal_single_passes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = short_cases(1)[0]
    alone = []
    (question,), _ = questions(model, case, None, "mean", 0, mask_decision=True)
    masks = np.random.default_rng(0).random((12, len(question.tokens))) < 0.4
    masks[:, 0] = False
    together = question.masked(masks)
    monkeypatch.setattr(replacement_module, "_TOKENS_AT_ONCE", 1)
    for row in masks:
        (fresh,), _ = questions(model, case, None, "mean", 0, mask_decision=True)
        alone.append(fresh.masked(row[None]))
    np.testing.assert_allclose(together.values, [one.values[0] for one in alone], atol=1e-4)
    assert together.choices.tolist() == [int(one.choices[0]) for one in alone]
    again = question.masked(masks[::-1])
    np.testing.assert_array_equal(again.values, together.values[::-1])


def test_masks_are_run_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (question,), _ = questions(model, short_cases(1)[0], None, "mean", 0)
    ran: list[int] = []
    original = Question._run

    def counted(self: Question, masks: np.ndarray, tick: Any) -> Any:
        ran.append(len(masks))
        return original(self, masks, tick)

    monkeypatch.setattr(Question, "_run", counted)
    mask = np.zeros((3, len(question.tokens)), dtype=bool)
    mask[1:, 2] = True
    question.masked(mask)
    question.masked(mask)
    assert ran == [2]  # the unmasked prompt and one mask


def test_special_tokens_are_never_masked_and_the_decision_only_if_asked_for(model: Any) -> None:
    case, text = short_cases(1)[0], "mary and john went to the park"
    (asked,), _ = questions(model, case, None, "mean", 0, mask_decision=True)
    (question,), _ = questions(model, case, None, "mean", 0)
    length = len(question.tokens)
    assert asked.maskable.tolist() == list(range(1, length))
    assert question.maskable.tolist() == list(range(1, length - 1))  # as the check of `explain`
    (early,), _ = questions(model, text, LogitDiff("mary", "john", pos=3), "mean", 0)
    assert early.maskable.tolist() == [1, 2, 4, 5, 6, 7]
    for position in (0, length - 1):
        mask = np.zeros((1, length), dtype=bool)
        mask[0, position] = True
        with pytest.raises(InputError, match=rf"never masked are the positions \[0, {length - 1}\]"):
            question.masked(mask)
    asked.masked(mask)
    scores = [METHODS[name].token_scores(question) for name in ("leave-one-out", "integrated gradients")]
    assert all(one[0] == one[-1] == 0 for one in scores)
    with pytest.raises(InputError, match="special tokens and that of the decision excepted; case 0"):
        questions(model, [torch.tensor([0, 5])], LogitDiff("mary", "john"), "mean", 0)
    questions(model, [torch.tensor([0, 5])], LogitDiff("mary", "john"), "mean", 0, mask_decision=True)


def test_the_table(model: Any) -> None:
    cases = short_cases(2) + short_cases(2, correct=True)
    methods = [ATTN_LRP, "CP_LRP", "random", Method("mine", tokens=lambda q: torch.arange(len(q.tokens)))]
    one, two = (faithfulness(model, cases, methods, seed=3, progress=False) for _ in range(2))
    assert one.methods == ("ATTN_LRP", "CP_LRP", "random", "mine")
    assert one.cases.equals(two.cases)
    np.testing.assert_array_equal(one.morf.values, two.morf.values)
    other = faithfulness(model, cases, ["random"], seed=4)
    assert not other.cases["delta_a"].equals(
        one.cases[one.cases["method"] == "random"]["delta_a"].reset_index(drop=True)
    )
    assert len(one.cases) == 16 and one.n_cases == 4
    assert set(MEASURES) < set(one.cases.columns)
    assert one.cases["correct"].tolist() == [False] * 8 + [True] * 8
    assert one.morf.dims == ("batch", "method", "masked") and one.morf.shape == (4, 4, 21)
    stored = [case.logit_gap for case in cases]  # to three decimals
    np.testing.assert_allclose(one.morf.values[:, 0, 0], stored, atol=6e-4)
    np.testing.assert_allclose(one.morf.values[:, :, -1], one.lerf.values[:, :, -1], atol=1e-6)
    # the areas are those of the curves: both ends are equal, and no case has more tokens than points
    area = (one.lerf.values - one.morf.values).sum(-1) / 20
    assert one.cases["tokens"].max() <= 20
    np.testing.assert_allclose(area.reshape(-1), one.cases["delta_a"], atol=1e-4)
    assert "mean embedding over the vocabulary" in repr(one) and "ATTN_LRP" in repr(one)
    assert "seed 3" in one.to_markdown() and "<table" in one._repr_html_()
    assert not [point for point in model.hook_dict.values() if point.fwd_hooks]


def test_prompts_and_ids(model: Any) -> None:
    text = "then mary and john went to the garden . john gave the key to"
    ids = model.to_tokens(text)[0]
    from_text = faithfulness(model, text, ATTN_LRP)
    from_ids = faithfulness(model, ids, ATTN_LRP, metric=LogitDiff("mary", "john"))
    assert from_text.n_cases == from_ids.n_cases == 1
    assert from_text.cases["metric"][0] > 0  # first choice against runner-up
    named = faithfulness(model, [text, ids.tolist()], ATTN_LRP, metric=LogitDiff("mary", "john"))
    assert named.cases["delta_a"][0] == pytest.approx(from_ids.cases["delta_a"][0], abs=1e-5)
    whole = CallableMetric(lambda logits: logits[:, -1].max(-1).values)
    free = faithfulness(model, text, [ATTN_LRP, "integrated gradients"], metric=whole)
    assert np.isnan(free.cases["won"]).all() and not np.isnan(free.cases["delta_a"]).any()
    both = faithfulness(model, [text, text], CP_LRP, metric=[LogitDiff("mary", "john"), Logit("mary")])
    assert both.cases["metric"][0] != both.cases["metric"][1]


def test_both_hosts_agree(model: Any) -> None:
    case = short_cases(1)[0]
    bridge = load_demo_model(host="TransformerBridge", device="cpu")
    tables = [faithfulness(one, case, [ATTN_LRP, "attention"]).cases for one in (model, bridge)]
    columns = ["delta_a", "comprehensiveness", "metric"]
    np.testing.assert_allclose(tables[0][columns], tables[1][columns], atol=1e-4)


def test_a_rule_set_is_its_relevance(model: Any) -> None:
    case = short_cases(2)[1]
    (question,), _ = questions(model, case, None, "mean", 0)
    for rules in PRESETS.values():
        _, relevance = run_with_relevance(
            model, case.prompt, LogitDiff(case.target, case.contrast), rules=rules
        )
        scores = relevance_method(rules).token_scores(question)
        np.testing.assert_allclose(scores, relevance.tokens().values, atol=1e-4)


def test_an_interrupted_run_keeps_what_is_finished(model: Any) -> None:
    calls = []

    def impatient(question: Question) -> np.ndarray:
        calls.append(question)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.arange(len(question.tokens))

    result = faithfulness(model, short_cases(4), impatient)
    assert result.n_cases == 2 and result.morf.shape[0] == 2
    assert "Interrupted after 2 of 4 cases." in repr(result)
    calls[:] = calls[:2]
    with pytest.raises(KeyboardInterrupt):
        faithfulness(model, short_cases(1)[0], impatient)


# ------------------------------------------------------------------------------------ tables
def test_differences_are_paired(model: Any) -> None:
    result = faithfulness(model, short_cases(4), ["random", "ATTN_LRP", "CP_LRP"])
    wide = result.cases.pivot(index="case", columns="method", values="delta_a")
    table = result.differences("random").set_index("method")
    assert table.index.tolist() == ["ATTN_LRP", "CP_LRP"]
    assert table["mean"]["CP_LRP"] == pytest.approx((wide["CP_LRP"] - wide["random"]).mean())
    by = result.summary("suite")
    assert by.columns[0] == "suite" and by["n"].max() == 4
    for call in (
        lambda: result.differences("nobody"),
        lambda: result.differences("random", "luck"),
        lambda: result.table(["luck"]),
        lambda: result.summary("weather"),
    ):
        with pytest.raises(InputError, match="received"):
            call()


# ------------------------------------------------------------------------------------ bad inputs
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(cases=[]), "at least one case"),
        (dict(steps=0), "steps ≥ 1"),
        (dict(limit=0), "limit ≥ 1"),
        (dict(fractions=(0.1, 1.5)), r"lie in \(0, 1\]"),
        (dict(fractions=()), r"lie in \(0, 1\]"),
        (dict(methods=["telepathy"]), "received 'telepathy'"),
        (dict(methods=[]), "at least one"),
        (dict(methods=["random", "random"]), "names of their own"),
        (dict(methods=lambda q: np.zeros(3)), r"returned shape \(3,\)"),
        (dict(methods=lambda q: np.full(len(q.tokens), np.nan)), "NaN or infinite"),
        (dict(metric=[LogitDiff("mary", "john")] * 3), "3 metrics for 1 cases"),
        (dict(cases=[torch.tensor([0])]), "token that may be masked"),
        (dict(cases=[["mary", "john"]]), "case 0 is a batch of 2"),
    ],
)
def test_refusals(model: Any, options: dict[str, Any], words: str) -> None:
    options = {"cases": "then mary went to the park .", "methods": ["random"]} | options
    with pytest.raises(InputError, match=words):
        faithfulness(model, **options)


def test_refusals_that_annotations_would_catch_first(model: Any) -> None:
    with pytest.raises(InputError, match="mean, zero, pad, resample; received 'magic'"):
        replacement_module.make_replacement(model, "magic", torch.tensor([3]))
    with pytest.raises(InputError, match="draws from the prompts' tokens"):
        replacement_module.make_replacement(model, "resample", torch.tensor([], dtype=torch.long))
    with pytest.raises(InputError, match="a rule set, a Method, a function"):
        as_methods([3], "tokens")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ((5.0, 10, (0.5,)), "received steps=5.0 and limit=10"),
        ((20, 2.5, (0.5,)), "received steps=20 and limit=2.5"),
        ((True, 10, (0.5,)), "whole numbers; received steps=True"),
        ((20, 10, 0.5), r"a sequence of fractions of tokens.*received 0.5"),
        ((20, 10, "ab"), "received 'ab'"),
        ((20, 10, (0.5, "x")), r"received \(0.5, 'x'\)"),
    ],
)
def test_numbers_that_are_none(plan: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_plan(*plan)
    assert as_plan(np.int64(5), np.int64(3), np.array([0.5, 1])) == Plan(5, 3, (0.5, 1.0))


def test_seeds_and_inference_mode_are_refused_before_any_work(model: Any) -> None:
    def never(question: Question) -> np.ndarray:
        raise AssertionError("work was done")

    with pytest.raises(InputError, match="0 or more; received -1"):
        faithfulness(model, "then mary went to the park .", never, seed=-1)
    for seed in (1.5, True, None):
        with pytest.raises(InputError, match="whole number, 0 or more"):
            require_seed(seed)
    with torch.inference_mode(), pytest.raises(InputError, match="Leave inference mode first"):
        faithfulness(model, "then mary went to the park .", never)


@pytest.mark.parametrize("name", ["gptj", "opt"])
def test_a_host_that_refuses_a_preset(model: Any, name: str) -> None:
    host, prompt, metric = zoo.bridge(name, torch.float32), zoo.prompt_tokens(1, 5)[0], LogitDiff(3, 7)

    def never(question: Question) -> np.ndarray:
        raise AssertionError("work was done")

    with pytest.raises(SiteError, match=r"GIM .*cannot act there"):
        faithfulness(host, prompt, [never, "GIM"], metric=metric)
    result = faithfulness(host, prompt, metric=metric, progress=False)
    own = result.cases.set_index("method")[list(MEASURES)]
    assert own.loc["GIM"].isna().all() and own["delta_a"].drop("GIM").notna().all()
    assert set(result.table().loc["GIM"]) == {"1F + 1B", "–"}
    assert "GIM cannot be applied to this model: Every edit" in repr(result)
    assert "GIM" not in {trace.name for trace in result.plot().data}
    assert "GIM" not in result.plot("delta_a").layout.yaxis.ticktext
    able = faithfulness(model, "then mary went to the park .", ["GIM", "random"])
    assert "GIM" in {trace.name for trace in able.plot().data} and not able.notes


def test_a_host_without_patterns_is_refused_early(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(model: Any) -> Any:
        raise SiteError("no patterns")

    gone = {name: replace(METHODS[name], requires=none) for name in BASELINES if "attention" in name}
    assert len(gone) == 2 and all(METHODS[name].requires is pattern_points for name in gone)
    assert inapplicable(model, list(gone.values()), refuse=False) == dict.fromkeys(gone, "no patterns")
    with pytest.raises(SiteError, match="no patterns"):
        inapplicable(model, list(gone.values()), refuse=True)
    assert inapplicable(model, as_methods(BASELINES, "tokens"), refuse=True) == {}


def test_no_padding_token_to_replace_with() -> None:
    model = zoo.bridge("gpt2", torch.float32)
    with pytest.raises(InputError, match="needs a tokenizer with a padding token"):
        faithfulness(model, zoo.prompt_tokens(1, 5)[0], "random", metric=Logit(3), replacement="pad")


# ------------------------------------------------------------------------------------ plots
def test_plots(model: Any) -> None:
    result = faithfulness(model, short_cases(3), ["ATTN_LRP", "random"])
    figure = plot_faithfulness(result.curves())
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.name]
    assert [trace.name for trace in lines] == ["ATTN_LRP", "random"] * 2
    np.testing.assert_allclose(lines[0].y, result.morf.values[:, 0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(lines[3].y, result.lerf.values[:, 1].mean(0), rtol=1e-6)
    assert sum(trace.fill == "toself" for trace in figure.data) == 4
    assert len(plot_faithfulness(result.curves(), methods=["random"]).data) == 4
    summary = result.summary()
    dots = plot_faithfulness_measure(summary, "flip_tokens", higher_is_better=False)
    means = summary[summary["measure"] == "flip_tokens"]["mean"]
    assert list(dots.data[0].x) == sorted(means, reverse=True)
    assert dots.layout.shapes[0].x0 == pytest.approx(means.iloc[1])
    with pytest.raises(InputError, match="received 'luck'"):
        plot_faithfulness_measure(summary, "luck")
    with pytest.raises(InputError, match="are missing"):
        plot_faithfulness(summary)
    with pytest.raises(InputError, match="nobody"):
        plot_faithfulness(result.curves(), methods=["nobody"])
    own = result.plot()
    assert [trace.name for trace in own.data] == [trace.name for trace in figure.data]
    least = result.plot("flip_tokens", methods=["random"])
    assert (
        list(least.layout.yaxis.ticktext) == ["random"] and "less is better" in least.layout.xaxis.title.text
    )
    for call in (lambda: result.plot("luck"), lambda: result.plot("srg", methods=["nobody"])):
        with pytest.raises(InputError, match="received"):
            call()


def test_a_saved_result_is_the_same(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "result.safetensors"
    for cases in (short_cases(2), ["then mary went to the park ."]):
        result = faithfulness(model, cases, ["ATTN_LRP", "random"])
        result.save(path)
        loaded = Faithfulness.load(path)
        pd.testing.assert_frame_equal(loaded.cases, result.cases)
        for side in ("morf", "lerf"):
            np.testing.assert_array_equal(getattr(loaded, side).values, getattr(result, side).values)
            assert repr(getattr(loaded, side)) == repr(getattr(result, side))
        assert repr(loaded) == repr(result) and loaded.seconds == result.seconds
        assert loaded.summary().equals(result.summary()) and loaded.plot() == result.plot()
    result.morf.save(path)
    with pytest.raises(InputError, match=r"written by Faithfulness\.save"):
        Faithfulness.load(path)


def test_the_notebook_table_shades_from_worst_to_best(model: Any) -> None:
    def one(question: Question) -> np.ndarray:
        return METHODS["leave-one-out"].token_scores(question)

    def two(question: Question) -> np.ndarray:
        return -one(question)

    one.__name__ = "<b>"
    html = faithfulness(model, short_cases(2), [one, two])._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;" in html and "worst (white) to best (blue)" in html
    rows = [row for row in html.split("<tr>") if "<td" in row]
    shades = [re.findall(r"rgba\(67,147,195,([\d.]+)\)", row) for row in rows]
    assert set(shades[0]) == {"0.75"} and set(shades[1]) == {"0.00"}  # best everywhere, less or more
    assert "214,96,77" not in html
