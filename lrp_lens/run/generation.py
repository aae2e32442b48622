"""generate: what the model says, and at each position what it nearly said.

1. The greedy completion, with the keys and values of what was run kept (`lrp_lens.hosts.generation`).
2. Of each position the largest logits with their gaps to the token that was said: a small gap is a near miss.
3. The result is a completion that `explain` takes, with any of its positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from lrp_lens.characters import shown
from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.generation import end_ids, greedy
from lrp_lens.hosts.rollout import Rollout
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import token_strings
from lrp_lens.markup import Html, captioned
from lrp_lens.run.relevance import Prompt

_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Generation:
    """A completion, token by token, and what else the model had in mind."""

    prompt: str
    """The prompt as the model saw it, special tokens included."""
    text: str
    """What was said, without special tokens."""
    ids: tuple[int, ...]
    """Token ids, that which ended the completion included."""
    tokens: tuple[str, ...]
    """Text of each token."""
    top_ids: Int[np.ndarray, "position top"]
    """The largest logits' token ids, largest first; the first is the token that was said."""
    top_tokens: tuple[tuple[str, ...], ...]
    """Their texts."""
    top_logits: Float[np.ndarray, "position top"]
    """Their logits."""
    top_probabilities: Float[np.ndarray, "position top"]
    """Their probabilities."""
    stopped: str
    """Why it ended: "end" (a token that ends texts), "stop" (a stop text) or "length" (max_new_tokens)."""

    @property
    def gaps(self) -> Float[np.ndarray, "position top"]:
        """How far each alternative's logit is behind that of the token that was said, ≥ 0."""
        return self.top_logits[:, :1] - self.top_logits

    def to_dataframe(self) -> pd.DataFrame:
        """One row per alternative: position, rank (1 was said), token, id, logit, gap, probability."""
        positions, ranks = np.indices(self.top_ids.shape)
        return pd.DataFrame(
            {
                "position": positions.ravel(),
                "rank": 1 + ranks.ravel(),
                "token": [token for row in self.top_tokens for token in row],
                "id": self.top_ids.ravel(),
                "logit": self.top_logits.ravel(),
                "gap": self.gaps.ravel(),
                "probability": self.top_probabilities.ravel(),
            }
        )

    def __len__(self) -> int:
        return len(self.ids)

    def _alternatives(self, position: int) -> str:
        """The next alternatives at a position with their gaps, in words."""
        rows = list(zip(self.top_tokens[position], self.gaps[position], strict=True))[1 : 1 + _SHOWN]
        return ", ".join(f"{token!r} −{gap:.2f}" for token, gap in rows)

    def __repr__(self) -> str:
        lines = [f"Generation ({len(self)} tokens, stopped: {self.stopped}): {self.text!r}"]
        for position, token in enumerate(self.tokens):
            probability = self.top_probabilities[position, 0]
            lines.append(
                f"  {position:>3} {token!r} p = {probability:.3f}; then {self._alternatives(position)}"
            )
        return shown("\n".join(lines))

    def _repr_html_(self) -> Html:
        """The same as a table, the nearest misses shaded; everything from the model is escaped."""
        from lrp_lens.plots.cells import html_table, shaded_cell, word_cell  # on demand

        rows = []
        for position, token in enumerate(self.tokens):
            gap = float(self.gaps[position, 1])
            rows.append(
                [
                    word_cell(str(position)),
                    word_cell(token),
                    word_cell(self._alternatives(position)),
                    shaded_cell(f"{self.top_probabilities[position, 0]:.3f}", float("nan")),
                    shaded_cell(f"{gap:.2f}", -1 / (1 + gap)),
                ]
            )
        table = html_table(["", "token", "then, with gaps"], ["probability", "gap"], rows)
        return captioned(table, f"{self.text!r} ({len(self)} tokens, stopped: {self.stopped})")


def generate(
    model: Any,
    prompt: Prompt,
    max_new_tokens: int = 50,
    *,
    top_k: int = 10,
    stop: str | Sequence[str] = (),
    prepend_bos: bool | None = None,
) -> Generation | list[Generation]:
    """The greedy completion of a prompt, and the alternatives at each of its positions.

    Deterministic: the token with the largest logit, always.  It ends with EOS, or with what the chat template writes
    behind an answer.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode; it is left as it was found.
        prompt: as `run_with_relevance` takes it: text, messages, token ids, or several.
        max_new_tokens: how many tokens at most.
        top_k: how many of the largest logits are kept at each position, at least 2.
        stop: a text or texts that end the completion, too; what completes the text is the last token.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.

    Returns:
        The completion; a list of them for several prompts.

    Raises:
        InputError: as `tokenize`; train mode, a number below 1, an empty stop text, or more tokens than the context
            holds.

    Example:
        >>> from lrp_lens import generate, load_demo_model
        >>> said = generate(load_demo_model(device="cpu"), "then mary and john went to the", 3, top_k=5)
        >>> len(said.ids), said.top_ids.shape, bool((said.gaps >= 0).all())
        (3, (3, 5), True)
    """
    count = vocabulary_size(model)
    for name, value, least, most in (("max_new_tokens", max_new_tokens, 1, None), ("top_k", top_k, 2, count)):
        if not is_whole(value) or value < least or (most is not None and value > most):
            upto = "" if most is None else f" to {most}, the vocabulary"
            raise InputError(f"{name} is a whole number from {least}{upto}; received {value!r}.")
    stops = (stop,) if isinstance(stop, str) and stop else tuple(stop)
    if (isinstance(stop, str) and not stop) or not all(isinstance(one, str) and one for one in stops):
        raise InputError(
            f"A stop is a text of at least one character, or a list of these; received {stop!r}."
        )
    batch = tokenize(model, prompt, None, prepend_bos)

    def enough(ids: Sequence[int]) -> bool:
        text = "".join(token_strings(model, ids))
        return any(one in text for one in stops)

    rollouts = greedy(model, batch, max_new_tokens, top_k, end_ids(model), enough if stops else None)
    said = [_generation(model, batch, row, rollout) for row, rollout in enumerate(rollouts)]
    return said[0] if batch.single else said


def _generation(model: Any, batch: TokenBatch, row: int, rollout: Rollout) -> Generation:
    top_ids, top_logits = torch.stack(rollout.top_ids).numpy(), torch.stack(rollout.top_logits).numpy()
    norms = np.array(rollout.log_norms)[:, None]
    return Generation(
        prompt="".join(batch.strings[row]),
        text=spoken_text(model, rollout.ids),
        ids=tuple(rollout.ids),
        tokens=token_strings(model, rollout.ids),
        top_ids=top_ids,
        top_tokens=tuple(token_strings(model, one.tolist()) for one in rollout.top_ids),
        top_logits=top_logits,
        top_probabilities=np.exp(top_logits - norms),
        stopped=rollout.stopped,
    )


def spoken_text(model: Any, ids: Sequence[int]) -> str:
    """The text of a completion, without special tokens."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return "".join(token_strings(model, ids))
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
