"""Path integration: batches of points against separate runs, each written out."""

import pytest
import torch
from torch import Tensor

from lrp_lens import GRADIENT, LogitDiff, run_with_relevance
from lrp_lens.errors import InputError
from lrp_lens.hosts.names import Names
from lrp_lens.run import path
from tests import zoo

METRIC = LogitDiff(3, 4)


def start(embedding: Tensor) -> Tensor:
    """Somewhere else at every position but the first."""
    elsewhere = embedding.flip(-1) / 2
    elsewhere[:, 0] = embedding[:, 0]
    return elsewhere


def literally(model: object, ids: Tensor, shares: tuple[float, ...]) -> Tensor:
    """A forward and a backward pass at each point."""
    embedding = model.run_with_cache(ids, names_filter=[Names.EMBED])[1][Names.EMBED].detach()
    total = torch.zeros_like(embedding)
    for share in shares:
        leaf = (start(embedding) + share * (embedding - start(embedding))).requires_grad_(True)
        with model.hooks(fwd_hooks=[(Names.EMBED, lambda tensor, hook, leaf=leaf: leaf)]):
            value = METRIC(model(ids)).sum()
        total += torch.autograd.grad(value, leaf)[0]
    return total / len(shares)


@pytest.mark.parametrize("at_once", [1, 30, 10_000], ids=["one by one", "two at once", "all at once"])
def test_the_mean_gradient_is_that_of_separate_runs(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(path, "TOKENS_AT_ONCE", at_once)
    model, ids = zoo.bridge("gpt2"), zoo.prompt_tokens(2, 7, 3)
    shares = path.midpoints(3)
    found, difference = path.mean_gradient(
        model, ids, start, shares, lambda copies: METRIC.bind((0,) * 2 * copies, (7,) * 2 * copies, 97)
    )
    expected = literally(model, ids, shares)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert difference[:, 0].abs().max() == 0 < difference[:, 1:].abs().max()
    right_ends = literally(model, ids, (1 / 3, 2 / 3, 1.0))
    assert (found - right_ends).abs().max() > 1e-3 * found.abs().max()  # another rule is other numbers


def test_a_run_at_a_point_is_a_run_from_that_embedding() -> None:
    model, ids = zoo.bridge("gpt2"), zoo.prompt_tokens(2, 7, 3)
    embedding = model.run_with_cache(ids, names_filter=[Names.EMBED])[1][Names.EMBED].detach()
    expected = literally(model, ids, (0.25,))
    for first, end, share in ((start(embedding), embedding, 0.25), (None, start(embedding), 0.75)):
        with path.placed(model, first, end, share):
            _, cache = run_with_relevance(model, ids, METRIC, rules=GRADIENT, names_filter=[Names.EMBED])
        torch.testing.assert_close(cache.gradients[Names.EMBED], expected, rtol=1e-9, atol=1e-12)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("steps", [0, -1, True, 2.0, "5", None])
def test_bad_numbers_of_steps(steps: object) -> None:
    with pytest.raises(InputError, match="points of the path, at least 1; received"):
        path.midpoints(steps)
