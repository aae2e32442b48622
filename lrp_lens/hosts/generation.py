"""Greedy completions of a batch of prompts: at each position the token with the largest logit.

1. Prompts of one length run together, each with its keys and values kept (`KeyValues`): a further token is one pass
   over that token alone.  Prompts of other lengths are runs of their own, so that nothing is ever padded.
2. Only the last position is unembedded.
3. A row ends behind a token that ends a text or an answer (`end_ids`), behind the token that completes a stop text, or
   at the largest number of tokens; what it kept is let go of.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.chat import turn_end
from lrp_lens.hosts.forward import require_eval, require_finite
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.token_batch import TokenBatch


@dataclass
class Rollout:
    """What a model says behind one prompt."""

    ids: list[int] = field(default_factory=list)
    """The tokens, that which ended it included."""
    top_ids: list[Tensor] = field(default_factory=list)
    """Of each token's position the ids of the largest logits, largest first, [top_k]."""
    top_logits: list[Tensor] = field(default_factory=list)
    """Their logits, [top_k]."""
    log_norms: list[float] = field(default_factory=list)
    """log Σ exp of all logits there, so that exp(logit − this) is a probability."""
    stopped: str = "length"
    """Why it ended: "end" (a token that ends texts), "stop" (a stop text) or "length"."""


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
    require_eval(model)
    longest, n_ctx = max(batch.lengths), int(model.cfg.n_ctx)
    if longest + max_new_tokens > n_ctx:
        raise InputError(
            f"Prompt and completion fit the context of {n_ctx} tokens; received a prompt of {longest} and "
            f"max_new_tokens={max_new_tokens}. Ask for at most {n_ctx - longest}."
        )
    rollouts = [Rollout() for _ in batch.lengths]
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(batch.lengths):
        by_length[length].append(row)
    for length, rows in by_length.items():
        prompts = torch.stack(
            [batch.ids[row, batch.starts[row] : batch.starts[row] + length] for row in rows]
        )
        _together(model, prompts, [rollouts[row] for row in rows], max_new_tokens, top_k, ends, stop)
    return rollouts


def _together(
    model: Any,
    tokens: Tensor,
    going: list[Rollout],
    max_new_tokens: int,
    top_k: int,
    ends: Collection[int],
    stop: Callable[[Sequence[int]], bool] | None,
) -> None:
    """Complete prompts of one length."""
    past = KeyValues(model)
    last = resolve(model).unembed_input.point
    for step in range(max_new_tokens):
        with torch.no_grad(), attached(model, [(last, _last_position)]):
            logits = (past.extend(tokens) if step else past.forward(tokens))[:, -1]
        require_finite(logits)
        chosen = logits.argmax(-1)  # of several largest, the first
        others = logits.scatter(1, chosen[:, None], -torch.inf).topk(top_k - 1, dim=-1).indices
        best = torch.cat([chosen[:, None], others], dim=1)
        top_logits, norms = logits.gather(1, best).double().cpu(), logits.double().logsumexp(-1).tolist()
        for row, rollout in enumerate(going):
            rollout.ids.append(int(chosen[row]))
            rollout.top_ids.append(best[row].cpu())
            rollout.top_logits.append(top_logits[row])
            rollout.log_norms.append(norms[row])
            if rollout.ids[-1] in ends:
                rollout.stopped = "end"
            elif stop is not None and stop(rollout.ids):
                rollout.stopped = "stop"
        kept = [row for row, rollout in enumerate(going) if rollout.stopped == "length"]
        if not kept:
            return
        if len(kept) < len(going):
            past.keep(kept)
            going = [going[row] for row in kept]
        tokens = chosen[kept, None]


def _last_position(tensor: Tensor, hook: Any) -> Tensor:
    """A hook that keeps the last position only."""
    return tensor[:, -1:]
