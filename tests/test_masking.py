"""The check of the claim: masked tokens really are replaced, and the control really is random."""

import numpy as np
import pytest
import torch

from lrp_lens.errors import InputError
from lrp_lens.failures.masking import (
    MaskingCheck,
    MaskingStep,
    logits_with_masked_embeddings,
    masking_check,
    mean_embedding,
)
from tests import zoo

SPECIAL = np.array([True] + [False] * 6)


def step(k: int, gap: float, control: float) -> MaskingStep:
    gap, control = float(gap), float(control)
    return MaskingStep(k, k or None, "t" if k else "", gap, "x", control, 1.0, float(control < 0))


def hosts(name: str) -> list[torch.nn.Module]:
    return [zoo.bridge(name, torch.float32)] + (
        [zoo.hooked(name, torch.float32)] if zoo.HAS_HOOKED_TRANSFORMER else []
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_masked_embeddings_are_replaced_and_nothing_else(name: str) -> None:
    tokens = zoo.prompt_tokens(2, 7)
    masks = torch.zeros(2, 7, dtype=torch.bool)
    masks[0, 2] = masks[1, 5] = True
    for model in hosts(name):
        rows = torch.arange(model.cfg.d_vocab)
        embeddings = model.embed(rows[None])[0]
        baseline = mean_embedding(model, model.cfg.d_vocab)
        torch.testing.assert_close(baseline, embeddings.double().mean(0))
        logits = logits_with_masked_embeddings(model, tokens, masks, baseline)

        mean = embeddings.mean(0)

        def literal(value: torch.Tensor, hook: object, mean: torch.Tensor = mean) -> torch.Tensor:
            value = value.clone()
            value[0, 2] = mean
            value[1, 5] = mean
            return value

        expected = model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", literal)])[:, -1]
        torch.testing.assert_close(logits, expected.float(), atol=2e-5, rtol=1e-5)
        plain = logits_with_masked_embeddings(model, tokens, torch.zeros_like(masks), baseline)
        torch.testing.assert_close(plain, model(tokens)[:, -1].float(), atol=2e-5, rtol=1e-5)
        assert (plain - logits).abs().max() > 1e-3


def test_the_blamed_tokens_are_masked_in_order() -> None:
    model = zoo.bridge("gpt2", torch.float32)
    tokens = zoo.prompt_tokens(1, 7)[0]
    relevance = np.array([9.0, 0.5, -3.0, 2.0, 0.0, 1.0, -1.0])
    check = masking_check(
        model, tokens, relevance, SPECIAL, target_id=3, contrast_id=4, text_of=str, top_k=5, seeds=3
    )
    assert [one.position for one in check.steps] == [None, 3, 5, 1]
    assert [one.token for one in check.steps[1:]] == [str(int(tokens[i])) for i in (3, 5, 1)]
    assert check.steps[0].gap == check.steps[0].control and check.steps[0].control_spread == 0
    assert all(one.control_flips in (0, 1 / 3, 2 / 3, 1) for one in check.steps)
    mask = torch.zeros(1, 7, dtype=torch.bool)
    mask[0, [3, 5]] = True
    logits = logits_with_masked_embeddings(
        model, tokens[None], mask, mean_embedding(model, model.cfg.d_vocab)
    )
    assert check.steps[2].gap == pytest.approx(float(logits[0, 3] - logits[0, 4]), abs=1e-5)


def test_repeatable_and_nothing_left_behind() -> None:
    model = zoo.bridge("llama", torch.float32)
    tokens = zoo.prompt_tokens(1, 7)[0]
    before = model(tokens[None])
    arguments = dict(target_id=3, contrast_id=4, text_of=str, seeds=2)
    one, two = [masking_check(model, tokens, np.arange(7.0), SPECIAL, **arguments) for _ in range(2)]
    assert one == two
    assert torch.equal(model(tokens[None]), before)


def test_nothing_to_mask() -> None:
    model = zoo.bridge("gpt2", torch.float32)
    tokens = zoo.prompt_tokens(1, 7)[0]
    check = masking_check(model, tokens, -np.ones(7), SPECIAL, target_id=3, contrast_id=4, text_of=str)
    assert len(check.steps) == 1 and check.flip_at is None


@pytest.mark.parametrize("wrong", [dict(top_k=0), dict(seeds=0)])
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    model = zoo.bridge("gpt2", torch.float32)
    with pytest.raises(InputError, match="top_k ≥ 1 and seeds ≥ 1"):
        masking_check(
            model,
            zoo.prompt_tokens(1, 7)[0],
            np.ones(7),
            SPECIAL,
            target_id=3,
            contrast_id=4,
            text_of=str,
            **wrong,
        )


@pytest.mark.parametrize(
    ("steps", "flip_at", "words"),
    [
        (
            [(2, 2), (-1, 1)],
            1,
            "(gap -1.00); masking 1 random token does so in 0 of 3 draws (mean gap +1.00)",
        ),
        ([(2, 2), (1, 1), (-1, -0.5)], 2, "masking 2 random tokens does so in 3 of 3 draws (mean gap -0.50)"),
        ([(2, 2), (1, 1)], None, "does not flip the preference (gap +1.00)"),
        ([(2, 2)], None, "nothing to mask"),
        ([(-2, -2), (-3, -2)], 1, "no preference to flip"),
    ],
)
def test_the_verdict_in_words(steps: list[tuple[float, float]], flip_at: int | None, words: str) -> None:
    check = MaskingCheck(tuple(step(k, gap, control) for k, (gap, control) in enumerate(steps)), 3)
    assert check.flip_at == flip_at
    assert words in str(check)
    assert check.confirmed == (flip_at == 1 and steps[0][0] > 0)
