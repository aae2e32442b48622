"""Greedy completions of a batch of prompts, and what follows if another token is said.

1. At each position the token with the largest logit.  Prompts of one length run together, each with its keys and
   values kept (`KeyValues`): a further token is one pass over that token alone.  Prompts of other lengths are runs of
   their own, so that nothing is ever padded.
2. Only the last position is unembedded.
3. `begin` runs prompts of one length, `go_on` says what follows: who asks for the logits behind a prompt, too, runs it
   once.
4. A row ends behind a token that ends a text or an answer (`end_ids`), behind the token that completes a stop text, or
   at the largest number of tokens; what it kept is let go of.
5. A `Trunk` is one prompt with what was said behind it, by the model (`grow`) or by somebody (`teach`, one pass), and
   all its keys and values.  `roll_out` says another token at some of its positions and goes on greedily: such rollouts
   run together, and what they share with the trunk is never run again, nor copied (`branches`).  Where that way is not
   the model's, each joins, with a copy, where the others' length reaches its own: rows of one length need no padding.
   So every rollout is what the model says alone.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.branches import Branches, SharedText
from lrp_lens.hosts.chat import turn_end
from lrp_lens.hosts.forward import require_eval, require_finite
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.rollout import Rollout, Until
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.token_batch import TokenBatch


class Begun(NamedTuple):
    """Prompts of one length that were run."""

    past: KeyValues
    logits: Float[Tensor, "rows d_vocab"]
    """Behind each prompt."""


class Fork(NamedTuple):
    """Where a completion goes another way."""

    at: int
    """How many of its tokens are kept."""
    token: int
    """What is said behind them."""


@dataclass(frozen=True, eq=False)
class Trunk:
    """A prompt with what was said behind it, and its keys and values."""

    model: Any
    prompt: Int[Tensor, "1 pos"]
    """Token ids, without padding."""
    said: Rollout
    past: KeyValues
    """Of the prompt and of all that was said but the last token."""
    _shared: dict[int, SharedText | None] = field(default_factory=dict)

    def shared(self, reach: int) -> SharedText | None:
        """The same as `Branches` read it, for rows of so many positions; None if that is not this model's way."""
        if reach not in self._shared:
            text, noted = SharedText.of(self.model, self.past, reach), self.said.top_logits[-1]
            if text is not None:
                last = self.said.ids[-2] if len(self.said.ids) > 1 else int(self.prompt[0, -1])
                again = text.said_again(last)
                off = (again[self.said.top_ids[-1]].to(noted) - noted).abs().max() / noted.abs().max()
                text = text if float(off) < max(1e-3, 16 * torch.finfo(again.dtype).eps) else None
            self._shared[reach] = text
        return self._shared[reach]

    def logits(self, at: int) -> Float[Tensor, " d_vocab"]:
        """What the model thinks of the completion's token `at`, from one pass over the token before it."""
        after = self.prompt.shape[1] + at - 1
        past = KeyValues(self.model)
        if after:
            past.join(self.past, after, 1)
        before = self.prompt[0, -1:] if at == 0 else self.prompt.new_tensor(self.said.ids[at - 1 : at])
        return _last_logits(past, before[None])[0, -1]


def end_ids(model: Any) -> frozenset[int]:
    """The tokens that end a text: EOS, and what the chat template writes behind an answer, if it is a special token."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return frozenset()
    ends = {getattr(tokenizer, "eos_token_id", None)}
    behind = turn_end(tokenizer)
    first = tokenizer(behind, add_special_tokens=False)["input_ids"][:1] if behind else []
    ends |= set(first) & set(tokenizer.all_special_ids)
    return frozenset(int(one) for one in ends if one is not None)


def greedy(
    model: Any,
    batch: TokenBatch,
    max_new_tokens: int,
    top_k: int,
    ends: Collection[int] = (),
    stop: Callable[[Sequence[int]], bool] | None = None,
) -> list[Rollout]:
    """The greedy completion of each prompt of a batch.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        batch: prompts, without answers.
        max_new_tokens: how many tokens at most.
        top_k: how many of the largest logits are kept at each position.
        ends: ids behind which a row ends.
        stop: whether these tokens, all that the row has said so far, are enough.

    Raises:
        InputError: train mode, logits that are not finite, or a prompt that leaves no room for so many tokens.
    """
    require_room(model, batch, max_new_tokens)
    rollouts = [Rollout() for _ in batch.lengths]
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(batch.lengths):
        by_length[length].append(row)
    for rows in by_length.values():
        begun = begin(model, torch.cat([_prompt(batch, row) for row in rows]))
        _together(begun, [rollouts[row] for row in rows], Until(max_new_tokens, ends, stop), top_k)
    return rollouts


def begin(model: Any, prompts: Int[Tensor, "rows pos"]) -> Begun:
    """Run prompts of one length, without padding, to the logits behind them; `go_on` says more.

    Raises:
        InputError: train mode, or logits that are not finite.
    """
    require_eval(model)
    past = KeyValues(model)
    return Begun(past, _last_logits(past, prompts)[:, -1])


def go_on(begun: Begun, until: Until) -> list[Rollout]:
    """The greedy completion of each prompt that was run; once, as what was kept of it is used up.

    Raises:
        InputError: logits that are not finite.
    """
    rollouts = [Rollout() for _ in begun.logits]
    _together(begun, rollouts, until)
    return rollouts


def grow(model: Any, batch: TokenBatch, until: Until, top_k: int) -> Trunk:
    """The greedy completion of one prompt, with its keys and values; raises as `greedy`."""
    require_room(model, batch, until.max_new_tokens)
    prompt = _prompt(batch, 0)
    begun = begin(model, prompt)
    trunk = Trunk(model, prompt, Rollout(), begun.past)
    _together(begun, [trunk.said], until, top_k)
    return trunk


def teach(model: Any, batch: TokenBatch, ids: Sequence[int], top_k: int) -> Trunk:
    """A completion that is given, behind one prompt; from one pass.  Raises as `greedy`."""
    require_room(model, batch, len(ids))
    trunk = Trunk(model, _prompt(batch, 0), Rollout(stopped="given"), KeyValues(model))
    forced = torch.cat([trunk.prompt, trunk.prompt.new_tensor(ids)[None, :-1]], dim=1)
    for row, token in zip(_last_logits(trunk.past, forced, len(ids))[0], ids, strict=True):
        _note([trunk.said], row[None], trunk.prompt.new_tensor([token]), top_k)
    return trunk


def last_logits(model: Any, batch: TokenBatch) -> Float[Tensor, " d_vocab"]:
    """What the model thinks of the token behind one prompt; raises as `greedy`."""
    return begin(model, _prompt(batch, 0)).logits[0]


def roll_out(trunk: Trunk, forks: Sequence[Fork], until: Until) -> tuple[list[Rollout], int]:
    """What the model says if it says another token first: one rollout for each fork, in this order.

    Args:
        trunk: whose tokens before each fork are kept.
        forks: positions and tokens, any number; the largest batch is all of them.
        until: where rollouts end; of `max_new_tokens` those of the trunk count, too.

    Returns:
        The rollouts, whose ids begin with the trunk's, and how many tokens were run.

    Raises:
        InputError: logits that are not finite.
    """
    rollouts = [Rollout([*trunk.said.ids[: fork.at], fork.token]) for fork in forks]
    going = [one for one in rollouts if not until.over(one)]
    reach = trunk.prompt.shape[1] + max(until.max_new_tokens, len(trunk.said.ids))
    text = trunk.shared(reach) if going else None
    return rollouts, _joined(trunk, going, until) if text is None else _branched(trunk, text, going, until)


def _branched(trunk: Trunk, text: SharedText, going: list[Rollout], until: Until) -> int:
    """Say what follows in all rows at once, each at its own place; how many tokens were run."""
    said = [len(one.ids) for one in going]
    rows = Branches(text, [trunk.prompt.shape[1] + one - 1 for one in said], until.max_new_tokens - min(said))
    while going:
        tokens = trunk.prompt.new_tensor([one.ids[-1:] for one in going])
        going = _said(rows, rows.extend(tokens)[:, -1], going, until)
    return rows.forwarded


def _joined(trunk: Trunk, going: list[Rollout], until: Until) -> int:
    """The same with copies of the keys and values: a row joins where the length of the others reaches its own."""
    waiting, past = sorted(going, key=lambda one: len(one.ids)), KeyValues(trunk.model)
    going = []
    while going or waiting:
        if not going:
            past.keep([])
        length = len((going or waiting)[0].ids)
        joining = [one for one in waiting if len(one.ids) == length]
        if joining:
            past.join(trunk.past, trunk.prompt.shape[1] + length - 1, len(joining))
            waiting, going = waiting[len(joining) :], going + joining
        tokens = trunk.prompt.new_tensor([one.ids[-1:] for one in going])
        going = _said(past, _last_logits(past, tokens)[:, -1], going, until)
    return past.forwarded


def require_room(model: Any, batch: TokenBatch, count: int) -> None:
    """A model that can be run, and a context that holds prompt and completion.

    Raises:
        InputError: train mode, or a prompt that leaves no room for so many tokens.
    """
    require_eval(model)
    longest, n_ctx = max(batch.lengths), int(model.cfg.n_ctx)
    if longest + count > n_ctx:
        raise InputError(
            f"Prompt and completion fit the context of {n_ctx} tokens; received a prompt of {longest} and "
            f"max_new_tokens={count}. Ask for at most {n_ctx - longest}."
        )


def _prompt(batch: TokenBatch, row: int) -> Int[Tensor, "1 pos"]:
    """The tokens of one row without padding."""
    return batch.ids[row : row + 1, batch.starts[row] : batch.starts[row] + batch.lengths[row]]


def _together(begun: Begun, going: list[Rollout], until: Until, top_k: int = 0) -> None:
    """Complete prompts of one length that were run."""
    past, logits = begun
    going = _said(past, logits, going, until, top_k)
    while going:
        tokens = torch.tensor([one.ids[-1:] for one in going], device=logits.device)
        going = _said(past, _last_logits(past, tokens)[:, -1], going, until, top_k)


def _said(
    past: KeyValues | Branches,
    logits: Float[Tensor, "rows d_vocab"],
    going: list[Rollout],
    until: Until,
    top_k: int = 0,
) -> list[Rollout]:
    """One token more for each row; those that go on."""
    _note(going, logits, logits.argmax(-1), top_k)  # of several largest, the first
    kept = [row for row, rollout in enumerate(going) if not until.over(rollout)]
    if 0 < len(kept) < len(going):
        past.keep(kept)
    return [going[row] for row in kept]


def _last_logits(past: KeyValues, tokens: Tensor, count: int = 1) -> Float[Tensor, "rows count d_vocab"]:
    """Logits of the last positions of what follows each row; of whole rows, if none was run."""
    last = resolve(past.model).unembed_input.point
    with torch.no_grad(), attached(past.model, [(last, lambda tensor, hook: tensor[:, -count:])]):
        logits = past.extend(tokens) if past.filled else past.forward(tokens)
    require_finite(logits)
    return logits[:, -count:]


def _note(
    going: Sequence[Rollout], logits: Float[Tensor, "rows d_vocab"], said: Int[Tensor, " rows"], top_k: int
) -> None:
    """Append the tokens that were said, and what else was likely there."""
    for rollout, token in zip(going, said.tolist(), strict=True):
        rollout.ids.append(token)
    if not top_k:
        return
    others = logits.scatter(1, said[:, None], -torch.inf).topk(top_k - 1, dim=-1).indices
    best = torch.cat([said[:, None], others], dim=1)
    top_logits, norms = logits.gather(1, best).double().cpu(), logits.double().logsumexp(-1).tolist()
    for row, rollout in enumerate(going):
        rollout.top_ids.append(best[row].cpu())
        rollout.top_logits.append(top_logits[row])
        rollout.log_norms.append(norms[row])
