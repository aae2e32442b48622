"""RelevanceCache: ActivationCache's twin, with relevance, activation and gradient at each hook point.

1. `activations[name]` and `gradients[name]` are what one forward and one backward pass left there.
2. `cache[name]` is relevance: activation ⊙ gradient, formed on access in float32 at least.
3. Names are HookedTransformer's on every host; `("z", 5)` and `("resid_pre", 3)` work as in ActivationCache.
4. Views reduce relevance to tokens, layers, heads, ... (`lrp_lens.run.reductions`); the ledger says where it went.
5. A pass in low memory keeps `sums[name]` in place of 1 and 2, relevance summed over the last axis, from which all
   views but single neurons are made.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_lens.characters import shown
from lrp_lens.errors import InputError
from lrp_lens.files import AnyPath
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.markup import Html, render
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.run import cache_storage, reductions
from lrp_lens.run.absorbed import Absorbed, answered
from lrp_lens.run.balance import Balance
from lrp_lens.run.conservation import caution
from lrp_lens.run.ledger import Ledger
from lrp_lens.run.tensors_by_name import Key, TensorsByName
from lrp_lens.views import View

_EXAMPLES_SHOWN = 4


class RelevanceCache(Mapping[str, Tensor]):
    """Relevance of every recorded activation of one pass.

    Example:
        _, rel = run_with_relevance(model, prompt, LogitDiff(" Mary", " John"))
        rel["blocks.5.attn.hook_z"], rel["z", 5], rel.tokens(), rel.heads(), rel.ledger()
    """

    __eq__, __hash__ = object.__eq__, object.__hash__  # a Mapping's would compare tensors

    def __init__(
        self,
        activations: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        *,
        metric_value: Tensor,
        metric_text: str,
        rules_text: str,
        batch: TokenBatch,
        n_layers: int,
        towards: tuple[str, str] | None,
        metric: Any = None,
        rules: Any = None,
        balance: Balance | Absorbed | None = None,
        finished_ledger: Ledger | None = None,
        conserving: str | None = None,
        finished_cautions: tuple[str, ...] = (),
        sums: Mapping[str, Tensor] | None = None,
        memory: str = "full",
        memory_text: str = "",
    ) -> None:
        self.sums = TensorsByName(sums or {}, n_layers, "sum of relevance")
        """Relevance summed over the last axis, [batch, pos] or [batch, pos, head]: of a pass in low memory."""
        self.activations = TensorsByName(activations, n_layers, "activation", self.sums)
        """What the model computed, [batch, pos, ...]; two rows for each prompt where a metric appends two answers."""
        self.gradients = TensorsByName(gradients, n_layers, "gradient", self.sums)
        """Gated gradient of the metric, same shapes."""
        self.memory, self.memory_text = memory, memory_text
        """How the pass went, "full" or "low" (block by block), and why."""
        self.metric_value = metric_value
        """The metric, [batch]."""
        self.metric_text, self.rules_text = metric_text, rules_text
        self.batch = batch
        """The rows of tokens that were run, answers that the metric appended included."""
        self.n_layers = n_layers
        self.towards = towards
        """Words for the sign: positive pushes towards the first, negative towards the second."""
        self.metric, self.rules = metric, rules
        """The bound metric and the rule set (None after loading from a file)."""
        self._balance, self._ledger = balance, finished_ledger
        self._conserving, self._cautions = conserving, finished_cautions

    def __getitem__(self, key: Key) -> Tensor:
        """Relevance at a hook point: activation ⊙ gradient, in float32 at least.

        AttnLRP's shares act at q, k and v, so scores and patterns (kept on request) show what they would receive
        before the half rules: halve them to compare with z.
        """
        activation = self.activations[key]
        wide = accumulation_dtype(activation.dtype)
        return activation.to(wide) * self.gradients[key].to(wide)

    def __contains__(self, key: object) -> bool:
        return key in self.activations

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    @property
    def token_ids(self) -> Tensor:
        """Token ids of each row that was run, [row, pos]."""
        return self.batch.ids

    @property
    def token_strings(self) -> tuple[tuple[str, ...], ...]:
        """Text of each token of each example, its answers behind the prompt; "" at padding."""
        return self.batch.shown.strings

    @property
    def special(self) -> Tensor:
        """True at BOS, EOS and padding, [batch, pos]."""
        return self.batch.shown.special

    @property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """Of each token, the word for the answer that it belongs to (answer, target, contrast); "" in the prompt."""
        return self.batch.shown.answers

    @property
    def single(self) -> bool:
        """Whether one prompt was given, so that views have no batch axis."""
        return self.batch.single

    @property
    def balance(self) -> Balance | None:
        """Every operation's tensors; None after a selection, a pass in low memory, or loading from a file."""
        return self._balance if isinstance(self._balance, Balance) else None

    @property
    def cautions(self) -> tuple[str, ...]:
        """Of each example, a sentence where its tokens account for less than half or more than twice of the metric."""
        if not self._cautions and self._conserving is not None and self.holds(Names.EMBED):
            tokens = self.sum_to_positions(Names.EMBED).double().tolist()
            used = self.rules_text.splitlines()[0].removeprefix("RuleSet ")
            self._cautions = tuple(
                caution(metric, own, self._conserving, used)
                for metric, own in zip(self.metric_value.double().tolist(), tokens, strict=True)
            )
        return self._cautions

    def __repr__(self) -> str:
        cautions = [f"caution: {one}" for one in self.cautions[:_EXAMPLES_SHOWN] if one]
        return shown(f"RelevanceCache({', '.join([*self._facts(), *cautions])})")

    def _repr_html_(self) -> Html:
        """The same facts, and the token heat map of the first prompts; everything from the prompt is escaped."""
        from lrp_lens.plots.tokens_html import token_heatmap_html  # plotly on demand

        parts = []
        if self.holds(Names.EMBED):
            tokens = self.tokens()
            parts.append(
                token_heatmap_html(tokens if self.single else tokens.select(batch=slice(_EXAMPLES_SHOWN)))
            )
        more = self.batch.n_examples - _EXAMPLES_SHOWN
        if more > 0 and parts:
            parts.append(render("markup/small.html", line=f"and {more} more prompts"))
        return render("markup/result.html", title="RelevanceCache", lines=self._facts(), parts=parts)

    def plot(self, **options: Any) -> Any:
        """The heat map of its tokens; options are those of `tokens().plot`."""
        return self.tokens().plot(**options)

    def _facts(self) -> tuple[str, ...]:
        """Hook points, prompts, metric with its value, rules."""
        batch, length = self.batch.n_examples, self.batch.width
        value = ", ".join(f"{number:.4g}" for number in self.metric_value[:_EXAMPLES_SHOWN].tolist())
        more = ", ..." if batch > _EXAMPLES_SHOWN else ""
        kept = f"{len(self)} hook points"
        if self.sums:
            kept = f"low memory: sums at {len(self.sums)} hook points"
        elif self.memory == "low":
            kept += " (low memory)"
        return (
            kept,
            f"{batch} prompt{'s' if batch > 1 else ''} of {length} tokens",
            f"metric {self.metric_text} = {value}{more}",
            f"rules {self.rules_text.splitlines()[0].removeprefix('RuleSet ')}",
        )

    def holds(self, key: Key) -> bool:
        """Whether a hook point's relevance is known, in full or summed."""
        return key in self.activations or key in self.sums

    def summed(self, key: Key) -> Tensor:
        """Relevance summed over the last axis, [row, pos] or, at q, k, v and z, [row, pos, head].

        Raises:
            UnknownNameError: if the hook point was not recorded.
        """
        if key in self.sums:
            return self.sums[key]
        relevance = self[key]
        return relevance.sum(-1) if relevance.ndim > 2 else relevance

    def sum_to_positions(self, key: Key) -> Tensor:
        """Relevance summed over everything but batch and position, [batch, pos]; answers behind the prompt."""
        summed = self.summed(key)
        return self.batch.per_position(summed.flatten(2).sum(-1) if summed.ndim > 2 else summed)

    def tokens(self) -> View:
        """Relevance of each input token, [pos] or [batch, pos]; position embeddings are apart in `positions()`."""
        return reductions.tokens(self)

    def positions(self) -> View:
        """Relevance of each learned position embedding, [pos] or [batch, pos]; 0 for rotary models and ALiBi."""
        return reductions.positions(self)

    def layers(self, mid: bool = False) -> View:
        """Relevance of the residual stream per layer and position, [layer, pos] or [batch, layer, pos].

        Rows: the embedding, then the stream after each block (with `mid`, also after each attention).
        """
        return reductions.layers(self, mid)

    def heads(self, by_position: bool = False) -> View:
        """Relevance of each head's output z, [layer, head], or [layer, head, pos] with `by_position`."""
        return reductions.heads(self, by_position)

    def neurons(self, layer: int, by_position: bool = False) -> View:
        """Relevance of each MLP neuron of a layer, [neuron], or [pos, neuron] with `by_position`."""
        return reductions.neurons(self, layer, by_position)

    def components(self) -> View:
        """Total relevance (all paths) of embedding, positions, each head, each MLP and each bias, [component].

        Components of different layers share paths, so this does not sum to the metric; `tokens()` and `ledger()` do.
        """
        return reductions.components(self)

    def segments(self, segments: Mapping[str, Any] | None = None) -> View:
        """Token relevance summed over named parts of the prompt, [segment]: `tokens().by(segments)`.

        Args:
            segments: name → (start, stop), or a list of such spans; None takes the messages of a chat, what its
                template writes, the completion and the metric's answers (`batch.named_spans`).

        Raises:
            InputError: spans that do not fit or overlap; None where nothing has a name, or the prompts' differ.
        """
        return reductions.segments(self, segments)

    def ledger(self) -> Ledger:
        """Where the metric went: tokens, positions and every named sink, overall and per layer.

        Raises:
            InputError: if `names_filter` left out what the balance needs.
            RuleError: if a rule does not say what it takes.
        """
        if self._ledger is None:
            if self._balance is None:
                raise InputError(
                    "A ledger balances every operation, so it needs all default hook points; this pass kept a "
                    "selection (or was saved under rules that do not say what they take). Run run_with_relevance "
                    "without names_filter."
                )
            positions = self.sum_to_positions(Names.POS_EMBED) if self.holds(Names.POS_EMBED) else None
            title = f"{self.rules_text.splitlines()[0]}, {self.metric_text}"
            tokens = self.sum_to_positions(Names.EMBED)
            whole = self._balance
            whole = whole.everywhere(self.metric_value) if isinstance(whole, Balance) else whole
            closed = whole.close(self.metric_value, tokens, positions, title)
            self._ledger = replace(closed, towards=self.towards)
        return self._ledger

    def to(self, device: str | torch.device) -> "RelevanceCache":
        """Move every tensor to a device; returns the cache itself, as ActivationCache does."""
        for owner in (self.activations, self.gradients, self.sums):
            owner._tensors = {name: tensor.to(device) for name, tensor in owner._tensors.items()}
        self.metric_value = self.metric_value.to(device)
        self.batch = replace(self.batch, ids=self.batch.ids.to(device), special=self.batch.special.to(device))
        if isinstance(self._balance, Balance):
            self._balance = self._balance.to(device)
        return self

    def save(self, path: AnyPath) -> None:
        """Write to one safetensors file, metadata and ledger in its header; nothing is pickled."""
        whole = self._balance
        complete = self._ledger is not None or (whole is not None and answered(whole.rules, whole.sites))
        cache_storage.save(self, self.ledger() if complete else None, path)

    @classmethod
    def load(cls, path: AnyPath) -> "RelevanceCache":
        """Read a cache written by `save`.

        Raises:
            InputError: if the file does not exist, is not such a cache, or was changed.
        """
        return cls(**cache_storage.load(path))
