"""Greedy completions of a batch of prompts, and what is kept of one of them.

1. At each position the token with the largest logit.  Prompts of one length run together, each with its keys and
   values kept (`KeyValues`): a further token is one pass over that token alone.  Prompts of other lengths are runs of
   their own, so that nothing is ever padded.
2. Only the last position is unembedded.
3. `begin` runs prompts of one length, `go_on` says what follows: who asks for the logits behind a prompt, too, runs it
   once.
4. A row ends behind a token that ends a text or an answer (`end_ids`), behind the token that completes a stop text, or
   at the largest number of tokens; what it kept is let go of.
5. A `Trunk` is one prompt with what was said behind it, by the model (`grow`) or by somebody (`teach`, one pass), and
   all its keys and values.  `Rollouts` leave it and go another way (`rollouts`).
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
from lrp_lens.hosts.branches import SharedText
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
        return logits_behind(past, before[None])[0, -1]


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
    return Begun(past, logits_behind(past, prompts)[:, -1])


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
    for row, token in zip(logits_behind(trunk.past, forced, len(ids))[0], ids, strict=True):
        note([trunk.said], row[None], trunk.prompt.new_tensor([token]), top_k)
    return trunk


def last_logits(model: Any, batch: TokenBatch) -> Float[Tensor, " d_vocab"]:
    """What the model thinks of the token behind one prompt; raises as `greedy`."""
    return begin(model, _prompt(batch, 0)).logits[0]


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
        going = _said(past, logits_behind(past, tokens)[:, -1], going, until, top_k)


def _said(
    past: KeyValues,
    logits: Float[Tensor, "rows d_vocab"],
    going: list[Rollout],
    until: Until,
    top_k: int = 0,
) -> list[Rollout]:
    """One token more for each row; those that go on."""
    note(going, logits, logits.argmax(-1), top_k)  # of several largest, the first
    kept = [row for row, rollout in enumerate(going) if not until.over(rollout)]
    if 0 < len(kept) < len(going):
        past.keep(kept)
    return [going[row] for row in kept]


def logits_behind(past: KeyValues, tokens: Tensor, count: int = 1) -> Float[Tensor, "rows count d_vocab"]:
    """Logits of the last positions of what follows each row; of whole rows, if none was run.

    Raises:
        InputError: logits that are not finite.
    """
    last = resolve(past.model).unembed_input.point
    with torch.no_grad(), attached(past.model, [(last, lambda tensor, hook: tensor[:, -count:])]):
        logits = past.extend(tokens) if past.filled else past.forward(tokens)
    require_finite(logits)
    return logits[:, -count:]


def note(
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
