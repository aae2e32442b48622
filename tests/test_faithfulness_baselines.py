"""Baselines against literal definitions on the demo model, and on functions whose truth is known."""

from typing import Any

import numpy as np
import pytest
import torch

from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.masking import BASELINES, Question
from lrp_lens.masking.questions import questions
from lrp_lens.methods import METHODS, ablation_regression, attention_rollout, integrated_gradients
from lrp_lens.methods.ablation import lasso_weights
from lrp_lens.metrics import LogitDiff, LogProb
from lrp_lens.patching import FACETS, patching_pass
from tests import zoo


@pytest.fixture(scope="module")
def model() -> Any:
    return load_demo_model(device="cpu")


@pytest.fixture
def question(model: Any) -> Question:
    return questions(model, demo_cases()[3], None, "mean", 0)[0][0]


def test_leave_one_out_is_exact(model: Any, question: Question) -> None:
    case = demo_cases()[3]
    target, contrast = (model.to_single_token(one) for one in (case.target, case.contrast))
    mean = model.embed(torch.arange(model.cfg.d_vocab)[None])[0].mean(0)

    def gap(position: int | None) -> float:
        def hide(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value = value.clone()
            if position is not None:
                value[:, position] = mean
            return value

        with torch.no_grad():
            logits = model.run_with_hooks(question.tokens[None], fwd_hooks=[("hook_embed", hide)])[0, -1]
        return float(logits[target] - logits[contrast])

    last = len(question.tokens) - 1
    expected = [0.0] + [gap(None) - gap(position) for position in range(1, last)] + [0.0]
    scores = METHODS["leave-one-out"].token_scores(question)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.abs(scores).max() > 0.1


@pytest.mark.parametrize("replacement", ["mean", "resample"])
def test_integrated_gradients_are_complete(model: Any, replacement: str) -> None:
    case = min(demo_cases(correct=True), key=lambda one: len(one.prompt.split()))
    (question,), _ = questions(model, case, None, replacement, 0)
    masks = np.zeros((1, len(question.tokens)), dtype=bool)
    masks[0, question.maskable] = True
    difference = question.full - question.masked(masks).values[0]
    errors = [
        abs(integrated_gradients(steps).token_scores(question).sum() - difference) / abs(difference)
        for steps in (2, 200)
    ]
    assert errors[1] < 0.02 and errors[1] < errors[0]
    assert integrated_gradients(3).token_scores(question)[0] == 0


def test_integrated_gradients_by_hand() -> None:
    """Two points of the midpoint rule, each a plain gradient at an interpolated embedding, in float64."""
    model = zoo.bridge("gpt2")
    tokens = zoo.prompt_tokens(1, 5)[0]
    (question,), _ = questions(model, tokens, LogProb(4), "zero", 0, mask_decision=True)
    embedding = model.embed(tokens[None]).detach()
    total = torch.zeros_like(embedding)
    for fraction in (0.25, 0.75):
        leaf = (fraction * embedding).requires_grad_(True)

        def place(value: torch.Tensor, hook: Any, leaf: torch.Tensor = leaf) -> torch.Tensor:
            return leaf

        logits = model.run_with_hooks(tokens[None], fwd_hooks=[("hook_embed", place)])
        (gradient,) = torch.autograd.grad(logits[0, -1].log_softmax(-1)[4], leaf)
        total += gradient / 2
    expected = (total * embedding).sum(-1)[0].numpy()
    np.testing.assert_allclose(integrated_gradients(2).token_scores(question), expected, atol=1e-9)


def test_attention_by_hand(model: Any, question: Question) -> None:
    _, cache = model.run_with_cache(question.tokens[None])
    patterns = torch.stack([cache["pattern", layer][0].mean(0) for layer in range(model.cfg.n_layers)])
    scores = METHODS["attention"].token_scores(question)
    np.testing.assert_allclose(scores, patterns.mean(0)[-1].detach(), atol=1e-6)
    product = torch.eye(len(question.tokens))
    for pattern in patterns:
        product = (0.5 * pattern + 0.5 * torch.eye(len(pattern))) @ product
    rollout = METHODS["attention rollout"].token_scores(question)
    np.testing.assert_allclose(rollout, product[-1].detach(), atol=1e-6)
    assert rollout.sum() == pytest.approx(1, abs=1e-5)


def test_both_rollouts_are_the_papers_on_a_model_with_attention_sinks() -> None:
    """Rows of pattern + identity are normalised (Abnar & Zuidema, section 3); a sink's share carries no value."""
    model, tokens = zoo.bridge("gpt_oss"), zoo.prompt_tokens(1, 9)
    (asked,), _ = questions(model, [tokens[0]], LogitDiff(3, 7), "mean", 0)
    _, cache = model.run_with_cache(tokens)
    product = torch.eye(9, dtype=torch.float64)
    for layer in range(2):
        pattern = cache["pattern", layer][0].detach().double().mean(0)
        assert pattern[-1].sum() < 0.999  # the sink takes the rest
        mixed = pattern + torch.eye(9)
        product = (mixed / mixed.sum(-1, keepdim=True)) @ product
    by_token = METHODS["attention rollout"].token_scores(asked)
    passed = patching_pass(model, tokens, LogitDiff(3, 7), parts=["z"])
    by_stream = attention_rollout(passed, FACETS["resid_pre"])[0, 0]
    np.testing.assert_allclose(by_token, product[-1], atol=1e-6)
    np.testing.assert_allclose(by_stream, product[-1], atol=1e-6)
    assert by_token.sum() == pytest.approx(1, abs=1e-6)


def test_random_is_seeded_and_differs_between_cases(model: Any) -> None:
    cases = [demo_cases()[0]] * 2
    one, two = (questions(model, cases, None, "mean", seed)[0] for seed in (0, 0))
    random = METHODS["random"]
    np.testing.assert_array_equal(random.token_scores(one[0]), random.token_scores(two[0]))
    assert (random.token_scores(one[0]) != random.token_scores(one[1])).all()
    other = questions(model, cases, None, "mean", 1)[0]
    assert (random.token_scores(one[0]) != random.token_scores(other[0])).all()


def test_lasso_recovers_a_linear_truth() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([5.0, 0, -3.0, 0, 0, 1.0, 0, 0])
    kept = rng.random((400, 8)) < 0.5
    weights = lasso_weights(kept, kept @ truth + 7.0, 1e-4)
    np.testing.assert_allclose(weights, truth, atol=1e-3)
    # fewer ablations than tokens: still the right ones, because few matter
    truth = np.zeros(60)
    truth[[3, 17, 40]] = [4.0, -2.0, 3.0]
    kept = rng.random((40, 60)) < 0.5
    found = lasso_weights(kept, kept @ truth, 0.01)
    assert set(np.argsort(-np.abs(found))[:3]) == {3, 17, 40}
    assert np.sign(found[[3, 17, 40]]).tolist() == [1, -1, 1]
    np.testing.assert_allclose(
        lasso_weights(kept, 10 * (kept @ truth), 0.01), 10 * found, rtol=1e-5, atol=1e-5
    )
    assert not lasso_weights(kept, np.ones(40), 0.01).any()
    kept[:, 0] = True  # never masked: no variance
    assert lasso_weights(kept, kept @ truth, 0.01)[0] == 0


def test_ablation_regression_runs_its_masks(question: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[np.ndarray] = []
    original = Question.masked

    def spy(self: Question, masks: np.ndarray) -> Any:
        asked.append(masks)
        return original(self, masks)

    monkeypatch.setattr(Question, "masked", spy)
    scores = ablation_regression(ablations=50, keep=0.75).token_scores(question)
    (masks,) = asked
    assert masks.shape == (50, len(question.tokens))
    share = 3 * np.sqrt(0.25 * 0.75 / masks[:, 1:-1].size)  # three standard errors
    assert masks[:, 1:-1].mean() == pytest.approx(0.25, abs=share) and not masks[:, [0, -1]].any()
    weights = lasso_weights(~masks[:, 1:-1], original(question, masks).values, 0.01)
    np.testing.assert_allclose(scores, np.concatenate([[0], weights, [0]]), atol=1e-8)


def test_surrogates_see_what_leave_one_out_sees(question: Question) -> None:
    loo = METHODS["leave-one-out"].token_scores(question)
    scores = ablation_regression(ablations=512, keep=0.95).token_scores(question)
    assert np.corrcoef(loo, scores)[0, 1] > 0.6


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: integrated_gradients(0), "points of the path, at least 1; received 0"),
        (lambda: ablation_regression(1), "ablations ≥ 2"),
        (lambda: ablation_regression(keep=1.0), "0 < keep < 1"),
        (lambda: ablation_regression(penalty=0.0), "penalty > 0"),
    ],
)
def test_refusals(build: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build()


def test_nothing_left_behind(model: Any, question: Question) -> None:
    before = model(question.tokens[None])
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in BASELINES:
        METHODS[name].token_scores(question)
    assert trainable == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [point for point in model.hook_dict.values() if point.fwd_hooks]
    assert torch.equal(model(question.tokens[None]), before)


def test_metrics_at_other_positions(model: Any) -> None:
    text = "then mary and john went to the park . john gave the key to"
    (question,), _ = questions(model, text, LogitDiff("mary", "john", pos=5), "mean", 0)
    assert question.decision == 5
    for name in ("attention", "leave-one-out", "integrated gradients"):
        scores = METHODS[name].token_scores(question)
        assert np.abs(scores[6:]).max() < 1e-5 and np.abs(scores[1:6]).max() > 1e-3
