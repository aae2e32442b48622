"""What relevance blames for a decision: tokens, heads and MLPs at their positions, and attention edges.

1. `blame`: one relevance pass.  Tokens by their relevance, heads (z) and MLPs by theirs at each position.
2. `attention_edges`: the attribution graph of the same metric under the same rules.  Of its edges between two tokens
   each head's parts: OV, what it copied, and K, by what it was looked at, where the rules hand relevance to keys.  Both
   go if the entry of the pattern is cut, so they are added up.  The query's part (Q) belongs to all entries of a row
   together and to none of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.attribution_graphs.closed_form.attribution_graph import attribution_graph
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.edits import AttentionEdge, Place
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.names import Names
from lrp_lens.methods.facets import record_name
from lrp_lens.methods.missing import missing_parts
from lrp_lens.rules import RuleSet
from lrp_lens.run.relevance import run_with_relevance


@dataclass(frozen=True, eq=False)
class Blame:
    """What relevance blames, positive towards the target."""

    tokens: Float[np.ndarray, " pos"]
    places: dict[Place, float]
    """Each head and MLP at each position."""
    means: dict[tuple[str, int], Tensor]
    """(part, layer) → mean output over the prompt's positions, [d_head] of each head or [d_model]."""
    pieces: Any = field(repr=False)
    """The view of the tokens, for words."""
    logits: Float[Tensor, " d_vocab"] = field(repr=False)

    edges: Callable[[], Mapping[AttentionEdge, float]] = dict
    """Attention edges, as `attention_edges` finds them; asked for only where they are needed, as that makes a graph."""

    def supporters(self, positions: Sequence[int], count: int, sign: int) -> list[int]:
        """The positions with the largest relevance of this sign, at most `count`, one at least left for a control."""
        most = min(count, max(len(positions) - 1, 1))
        ranked = sorted(positions, key=lambda at: -sign * self.tokens[at])
        return [at for at in ranked if sign * self.tokens[at] > 0][:most]

    def top_places(self, count: int) -> list[Place]:
        """The places with the largest relevance towards the target."""
        ranked = sorted(self.places, key=lambda one: -self.places[one])[:count]
        return [one for one in ranked if self.places[one] > 0]

    def top_edges(self, count: int) -> list[AttentionEdge]:
        """The attention edges with the largest relevance towards the target; raises as `attention_edges`."""
        edges = self.edges()
        ranked = sorted(edges, key=lambda one: -edges[one])[:count]
        return [one for one in ranked if edges[one] > 0]


def blame(asked: Asked, rules: RuleSet) -> Blame:
    """One relevance pass of the case; attention edges are found when they are asked for.

    Raises:
        RuleError, SiteError, InputError: as `run_with_relevance`.
    """
    sites = resolve(asked.model)
    missing = missing_parts(sites, dead(asked.model), rules)
    parts = [
        (part, layer)
        for layer in range(sites.n_layers)
        for part in ("z", "mlp_out")
        if record_name(part, layer) not in missing
    ]
    names = [Names.EMBED, *(record_name(*one) for one in parts)]
    rows, cache = run_with_relevance(
        asked.model, asked.batch, asked.metric, rules=rules, names_filter=names, logits="metric"
    )
    heads, length = int(asked.model.cfg.n_heads), asked.length
    places: dict[Place, float] = {}
    means: dict[tuple[str, int], Tensor] = {}
    for part, layer in parts:
        name, width = record_name(part, layer), heads if part == "z" else 1
        relevance = cache[name].reshape(length, width, -1).double().sum(-1).cpu().numpy()
        means[part, layer] = cache.activations[name].reshape(length, width, -1).mean(0)
        for position in range(length):
            for head in range(width):
                place = Place(layer, position, head if part == "z" else None)
                places[place] = float(relevance[position, head])
    view = cache.tokens()
    view = view.select(batch=0) if "batch" in view.dims else view
    tokens, logits = np.asarray(view.values, dtype=np.float64), rows[0, 0].float()
    return Blame(
        tokens, places, means, view, logits, functools.cache(functools.partial(attention_edges, asked, rules))
    )


def attention_edges(asked: Asked, rules: RuleSet) -> dict[AttentionEdge, float]:
    """The entries of attention patterns that the attribution graph keeps, with their relevance, largest first.

    Entries that read a special token are left out, as special tokens are never hidden; so are those at which a token
    reads itself.

    Raises:
        RuleError: rules that do not say how relevance goes through attention (`attribution_graph`).
        SiteError: an attention whose pattern cannot be recomputed, or has no live hook point.
    """
    graph = attribution_graph(asked.model, asked.batch, asked.metric, rules=rules, progress=False)
    assert isinstance(graph, AttributionGraph)  # of one prompt
    parts = graph.parts_table
    parts = parts[
        parts["move"] & parts["mechanism"].isin(["OV", "K"]) & ~graph.special[parts["source_position"]]
    ]
    columns = ["layer", "head", "target_position", "source_position", "relevance"]
    found: dict[AttentionEdge, float] = {}
    for *at, value in parts[columns].to_numpy(dtype=np.float64).tolist():
        edge = AttentionEdge(*map(int, at))
        found[edge] = found.get(edge, 0.0) + value
    return dict(sorted(found.items(), key=lambda one: -one[1]))
