"""generate: the greedy completion, equal to a loop that keeps nothing, with what was nearly said at each position."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_lens import Generation, InputError, generate, tokenize
from lrp_lens.hosts.branches import Branches
from lrp_lens.hosts.generation import end_ids, greedy, grow, teach
from lrp_lens.hosts.loading import load_model
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.rollout import Until
from lrp_lens.hosts.rollouts import Fork
from tests import zoo
from tests.chat_model import TEMPLATE, chat_tokenizer, save_chat_model
from tests.rolled import roll_out

TWO = [("bridge", "llama"), *([("hooked", "gpt2")] if zoo.HAS_HOOKED_TRANSFORMER else [("bridge", "gpt2")])]
HOSTS = ["TransformerBridge", *(["HookedTransformer"] if zoo.HAS_HOOKED_TRANSFORMER else [])]
MESSAGES = [{"role": "user", "content": "2+3?"}]
STEPS = 6


def literal(model: Any, ids: Tensor, steps: int) -> tuple[list[int], Tensor]:
    """Run everything again for each token, keep nothing; the tokens, and all logits at each [step, d_vocab]."""
    said, rows = [], []
    for _ in range(steps):
        with torch.no_grad():
            logits = model(torch.cat([ids, torch.tensor(said, dtype=torch.long)])[None])[0, -1]
        said.append(int(logits.argmax()))
        rows.append(logits)
    return said, torch.stack(rows)


@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_it_is_the_literal_greedy_loop(host: str, name: str) -> None:
    """Every architecture on every host: prompts of two lengths, sliding windows shorter than the completion."""
    model = zoo.shared(host, name)
    prompts = [*zoo.prompt_tokens(2, 5), zoo.prompt_tokens(1, 8, seed=4)[0]]
    for prompt, said in zip(prompts, generate(model, prompts, STEPS, top_k=4), strict=True):
        ids, logits = literal(model, prompt, STEPS)
        assert list(said.ids) == ids and said.stopped == "length"
        best = logits.double().sort(-1, descending=True)
        np.testing.assert_allclose(said.top_logits, best.values[:, :4].numpy(), atol=3e-5)
        np.testing.assert_array_equal(said.top_ids, best.indices[:, :4].numpy())
        wanted = logits.double().softmax(-1).gather(1, torch.tensor(said.top_ids))
        np.testing.assert_allclose(said.top_probabilities, wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_forks_are_the_literal_loop_behind_another_token(host: str, name: str) -> None:
    """Forks at several positions run together, some join late, one ends at once; each is what a loop says alone."""
    model, prompt = zoo.shared(host, name), zoo.prompt_tokens(1, 5)[0]
    trunk = grow(model, tokenize(model, prompt), Until(STEPS), 4)
    ids, logits = literal(model, prompt, STEPS)
    assert trunk.said.ids == ids and trunk.past.forwarded == len(prompt) + STEPS - 1
    forks = [Fork(3, 11), Fork(0, 12), Fork(5, 13), Fork(0, 14), Fork(3, 15), Fork(2, 16)]
    rollouts, forwarded = roll_out(trunk, forks, Until(STEPS, {14}))
    wanted = []
    for fork in forks:
        kept = [*ids[: fork.at], fork.token]
        rest = (
            literal(model, torch.cat([prompt, torch.tensor(kept)]), STEPS - len(kept))[0]
            if fork.token != 14 and len(kept) < STEPS
            else []
        )
        rest = rest[: rest.index(14) + 1] if 14 in rest else rest
        wanted.append(kept + rest)
    assert [one.ids for one in rollouts] == wanted
    assert [one.stopped for one in rollouts] == ["end" if one[-1] == 14 else "length" for one in wanted]
    # one token of each rollout is not run: the last one
    assert forwarded == sum(len(one) - fork.at - 1 for one, fork in zip(wanted, forks, strict=True))
    for at in (0, 1, STEPS - 1):
        torch.testing.assert_close(trunk.logits(at), logits[at], atol=3e-5, rtol=0)
    again, cost = roll_out(trunk, forks, Until(STEPS, {14}), most=2)  # in the place of those that ended
    assert [one.ids for one in again] == wanted and cost == forwarded


@pytest.mark.parametrize(("host", "name"), TWO)
def test_a_completion_that_is_given_takes_one_pass(host: str, name: str) -> None:
    model, prompt, said = zoo.shared(host, name), zoo.prompt_tokens(1, 5)[0], [7, 7, 9, 4]
    trunk = teach(model, tokenize(model, prompt), said, 4)
    assert trunk.said.ids == said and trunk.said.stopped == "given" and trunk.past.forwarded == 5 + 3
    with torch.no_grad():
        logits = model(torch.cat([prompt, torch.tensor(said)])[None])[0, 4:-1].double()
    best = [row.topk(4).indices.tolist() for row in logits]
    for at, token in enumerate(said):
        others = [one for one in logits[at].topk(5).indices.tolist() if one != token][:3]
        assert trunk.said.top_ids[at].tolist() == [token, *others]
        torch.testing.assert_close(trunk.said.top_logits[at], logits[at, [token, *others]], atol=3e-5, rtol=0)
    assert any(best[at][0] != token for at, token in enumerate(said)), (
        "all are greedy: choose another completion"
    )
    (rollout,), _ = roll_out(trunk, [Fork(2, 11)], Until(STEPS))
    assert rollout.ids == [
        7,
        7,
        11,
        *literal(model, torch.cat([prompt, torch.tensor([7, 7, 11])]), STEPS - 3)[0],
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_fork_that_saw_other_keys_would_be_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control, of both ways: rows with the trunk's keys of one position too few say something else."""
    model, prompt = zoo.shared("bridge", name), zoo.prompt_tokens(1, 5)[0]
    trunk = grow(model, tokenize(model, prompt), Until(12), 4)
    forks = [Fork(at, token) for at in (2, 3, 4) for token in (11, 12, 13)]
    right = [one.ids for one in roll_out(trunk, forks, Until(12))[0]]
    join, start = KeyValues.join, Branches.join
    monkeypatch.setattr(
        KeyValues, "join", lambda self, other, after, copies: join(self, other, after - 1, copies)
    )
    monkeypatch.setattr(Branches, "join", lambda self, starts: start(self, [one - 1 for one in starts]))
    assert [one.ids for one in roll_out(trunk, forks, Until(12))[0]] != right


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module", params=HOSTS)
def model(request: pytest.FixtureRequest, directory: Path) -> Any:
    return load_model(directory, host=request.param, device="cpu")


def test_messages_and_the_views_of_what_was_said(model: Any) -> None:
    generate(model, MESSAGES, 1)  # TransformerBridge attaches hooks of its own at the first pass
    state = [(part.training, len(part._forward_hooks)) for part in model.modules()]
    said = generate(model, MESSAGES, 5, top_k=3)
    assert [(part.training, len(part._forward_hooks)) for part in model.modules()] == state
    assert isinstance(said, Generation) and said.prompt == "<s>user\n2+3?<e>\n<s>assistant\n"
    assert list(said.ids) == literal(model, tokenize(model, MESSAGES).ids[0], len(said))[0]
    assert said.text == model.tokenizer.decode(said.ids, skip_special_tokens=True)
    frame = said.to_dataframe()
    assert len(frame) == 3 * len(said) and frame[frame["rank"] == 1]["id"].tolist() == list(said.ids)
    assert (frame["gap"] >= 0).all() and (frame[frame["rank"] == 1]["gap"] == 0).all()
    lines = repr(said).splitlines()
    assert len(lines) == 1 + len(said) and f"−{said.gaps[0, 1]:.2f}" in lines[1]
    page = said._repr_html_()
    assert page.count("<tr>") == 1 + len(said) and "<s>" not in page
    again = generate(model, MESSAGES, 5, top_k=3)
    assert isinstance(again, Generation) and again.to_dataframe().equals(frame)


def test_it_ends_where_the_model_or_a_text_ends_it(model: Any) -> None:
    """The end is forced by naming what the model says anyway."""
    free = generate(model, MESSAGES, 8)
    assert isinstance(free, Generation) and free.stopped == "length"
    third, first = free.ids[2], free.ids.index(free.ids[2])
    (rollout,) = greedy(model, tokenize(model, MESSAGES), 8, 2, {third})
    assert rollout.stopped == "end" and rollout.ids == list(free.ids[: first + 1])
    stop = free.tokens[2]
    stopped = generate(model, MESSAGES, 8, stop=["never said", stop])
    assert isinstance(stopped, Generation) and stopped.stopped == "stop"
    assert stopped.ids == free.ids[: 1 + next(i for i, one in enumerate(free.tokens) if stop in one)]


def test_what_ends_a_text() -> None:
    """EOS, and what the template writes behind an answer where that is a special token."""
    tokenizer = chat_tokenizer()
    assert end_ids(SimpleNamespace(tokenizer=tokenizer)) == {1}
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    tokenizer.chat_template = TEMPLATE.replace("<e>", "<turn>")
    assert end_ids(SimpleNamespace(tokenizer=tokenizer)) == {1, turn}
    tokenizer.chat_template = TEMPLATE.replace("<e>", "")  # a line break ends a turn: no special token
    assert end_ids(SimpleNamespace(tokenizer=tokenizer)) == {1}
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    assert end_ids(SimpleNamespace(tokenizer=tokenizer)) == {1}
    tokenizer.chat_template = None
    assert end_ids(SimpleNamespace(tokenizer=tokenizer)) == {1}
    assert end_ids(SimpleNamespace(tokenizer=None)) == frozenset()


def test_rows_that_end_leave_the_others_as_they_are(model: Any) -> None:
    """One of three prompts of a length ends early: the others go on as they would alone."""
    prompts = torch.stack([tokenize(model, text).ids[0] for text in ("1+1?", "2+5?", "9-3=")])
    batch = tokenize(model, prompts)
    alone = [greedy(model, tokenize(model, row), 6, 2)[0] for row in prompts]
    ends = {alone[1].ids[0]} - {one for other in (alone[0], alone[2]) for one in other.ids}
    together = greedy(model, batch, 6, 2, ends)
    if ends:
        assert together[1].ids == alone[1].ids[:1] and together[1].stopped == "end"
    for row in (0, 2):
        assert together[row].ids == alone[row].ids
        torch.testing.assert_close(
            torch.stack(together[row].top_logits), torch.stack(alone[row].top_logits), atol=1e-4, rtol=0
        )
    assert ends, "the three completions begin alike: choose other prompts"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(max_new_tokens=0), "max_new_tokens is a whole number from 1; received 0"),
        (dict(max_new_tokens=2.0), "received 2.0"),
        (dict(top_k=1), "top_k is a whole number from 2 to"),
        (dict(top_k=10**6), "the vocabulary; received 1000000"),
        (dict(stop=""), "at least one character"),
        (dict(stop=["a", ""]), "at least one character"),
        (dict(max_new_tokens=300), r"received a prompt of \d+ and max_new_tokens=300. Ask for at most"),
        (dict(prompt=""), "at least one token"),
    ],
)
def test_what_cannot_be_said(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        generate(model, **{"prompt": MESSAGES} | options)


def test_train_mode_is_refused_and_kept(model: Any) -> None:
    own = zoo.BUILD["bridge"]("llama")
    own.train()
    with pytest.raises(InputError, match="train mode"):
        generate(own, zoo.prompt_tokens(1, 4), 2)
    assert own.training


def test_padding_on_the_left_in_float64_is_refused_where_it_gives_nan() -> None:
    """Transformers takes softmax in float32; HookedTransformer does not, and in float32 there is no overflow."""
    from lrp_lens import LogitDiff, run_with_relevance

    prompts = [torch.tensor([5, 6, 7, 8]), torch.tensor([9, 10])]
    with pytest.raises(InputError, match="Padding on the left gives NaN here"):
        run_with_relevance(zoo.shared("bridge", "llama"), prompts, LogitDiff(3, 4), padding_side="left")
    single = zoo.shared("bridge", "llama", torch.float32)
    left, right = (
        run_with_relevance(single, prompts, LogitDiff(3, 4), padding_side=side)[1].metric_value
        for side in ("left", "right")
    )
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
