"""Rows that leave a text and read its keys in place, against whole passes, on every architecture that has this way."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lrp_lens import InputError, tokenize
from lrp_lens.hosts import branches
from lrp_lens.hosts.branches import Branches, SharedText
from lrp_lens.hosts.generation import Trunk, grow
from lrp_lens.hosts.rollout import Until
from lrp_lens.hosts.rollouts import Fork
from tests import zoo
from tests.rolled import roll_out

LEARNED = {"gpt2", "opt"}
"""Architectures that add a vector for each position, as most native ones do: their rows go the other way."""
PROMPT, STEPS = 5, 6
TWO = [("bridge", "llama"), *([("hooked", "qwen3")] if zoo.HAS_HOOKED_TRANSFORMER else [("bridge", "qwen3")])]


def grown(model: Any) -> Trunk:
    return grow(model, tokenize(model, zoo.prompt_tokens(1, PROMPT)[0]), Until(STEPS), 4)


def whole(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0, -1]


def as_whole_passes(model: Any, tolerance: float) -> None:
    """Rows that leave at different places; they end, and others join; windows are shorter than the text."""
    trunk = grown(model)
    text = trunk.shared(PROMPT + 2 * STEPS)
    assert text is not None, "the fast way is not gone"
    said = [*trunk.prompt[0].tolist(), *trunk.said.ids]
    rows = [said[:start] for start in (PROMPT + STEPS - 1, 1, PROMPT + 2)]
    running = Branches(text, 3, 4)
    running.join([len(one) for one in rows])
    for step, tokens in enumerate(([11, 12, 13], [14, 15, 16], [17, 18], [19, 20, 21], [22])):
        if step == 2:
            running.leave(0)
            rows = [rows[2], rows[1]]  # the last one takes its place
        if step == 3:  # another takes the place of one that said more
            rows.append(said[: PROMPT + 1])
            running.join([PROMPT + 1])
        if step == 4:
            running.leave(0)
            running.leave(1)
            rows = [rows[2]]
        rows = [[*one, token] for one, token in zip(rows, tokens, strict=True)]
        logits = running.extend(torch.tensor(tokens)[:, None])[:, 0]
        wanted = torch.stack([whole(model, one) for one in rows])
        torch.testing.assert_close(logits, wanted, atol=tolerance, rtol=tolerance)
    assert running.forwarded == 3 + 3 + 2 + 3 + 1


@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_every_row_is_a_whole_pass(host: str, name: str) -> None:
    model = zoo.shared(host, name)
    if name in LEARNED or (host == "native" and model.cfg.positional_embedding_type == "standard"):
        assert grown(model).shared(PROMPT + STEPS) is None, "positions are added to the stream"
    else:
        as_whole_passes(model, 3e-5)


@pytest.mark.parametrize(("host", "name"), [*TWO, ("bridge", "gemma3"), ("bridge", "gpt_oss")])
def test_in_float64_they_are_equal(host: str, name: str) -> None:
    """Where the hosts do not cast to float32 on the way."""
    with zoo.float64_throughout():
        as_whole_passes(zoo.BUILD[host](name), 1e-10)


@pytest.mark.parametrize(
    ("name", "field"),
    [("llama", "rotary"), ("gemma2", "softcap"), ("gemma3", "window"), ("gpt_oss", "sink"), ("qwen3", "query_norm"),
     ("qwen3", "key_norm"), ("bloom", "slopes")],
)  # fmt: skip
def test_an_attention_of_another_kind_is_not_gone(
    name: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without one part of the geometry the last token, said again, has other logits."""
    model = zoo.shared("bridge", name)
    geometry, trunk = branches.score_geometry, grown(model)

    def other(*args: Any) -> Any:
        found = geometry(*args)
        if field == "rotary":
            cos, sin = found.rotary
            return replace(found, rotary=(cos.roll(1, 0), sin))
        missing = torch.zeros_like(found.slopes) if field == "slopes" else None
        return replace(found, **{field: missing})

    assert grown(model).shared(PROMPT + STEPS) is not None
    monkeypatch.setattr(branches, "score_geometry", other)
    assert trunk.shared(PROMPT + STEPS) is None
    forks = [Fork(2, 11), Fork(4, 12)]
    found, _ = roll_out(trunk, forks, Until(STEPS))  # the other way is gone
    monkeypatch.undo()
    assert [one.ids for one in found] == [one.ids for one in roll_out(grown(model), forks, Until(STEPS))[0]]


@pytest.mark.parametrize(("host", "name"), TWO)
def test_hooks_of_the_users_are_part_of_the_model(host: str, name: str) -> None:
    """A hook at a pattern would see one key of many: with hooks attached the other way is gone."""
    model = zoo.shared(host, name)
    plain = [one.ids for one in roll_out(grown(model), [Fork(1, 11)], Until(STEPS))[0]]

    def first(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(pattern).index_fill(-1, torch.tensor([0]), 1.0)

    with model.hooks(
        fwd_hooks=[("blocks.0.attn.hook_pattern", first), ("blocks.1.attn.hook_pattern", first)]
    ):
        trunk = grown(model)
        assert SharedText.of(model, trunk.past, PROMPT + STEPS) is None
        (rollout,), _ = roll_out(trunk, [Fork(1, 11)], Until(STEPS))
        ids = [*trunk.prompt[0].tolist(), *rollout.ids[:2]]
        for token in rollout.ids[2:]:
            assert token == int(whole(model, ids).argmax())
            ids.append(token)
    assert rollout.ids != plain[0], "the hook changes nothing: choose another"


def test_a_rotary_table_that_ends_too_early_is_not_read() -> None:
    model = zoo.shared("bridge", "llama")
    trunk = grown(model)
    assert SharedText.of(model, trunk.past, PROMPT + STEPS) is not None
    geometry = branches.score_geometry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branches, "score_geometry", lambda *args: geometry(*args[:3], args[3] - 1))
        assert SharedText.of(model, trunk.past, PROMPT + STEPS) is None


def test_a_token_that_breaks_the_model_is_refused() -> None:
    """Logits of one rollout are no numbers: no completion is made of them."""
    model = zoo.BUILD["bridge"]("llama")
    trunk = grown(model)
    assert trunk.shared(PROMPT + STEPS) is not None
    token = next(one for one in range(11, 90) if one not in trunk.said.ids)
    with torch.no_grad():
        model.original_model.get_input_embeddings().weight[token] = torch.nan
    with pytest.raises(InputError, match="finite logits"):
        roll_out(trunk, [Fork(1, token), Fork(2, 90)], Until(STEPS))
