"""The component graph of a transformer: what writes to the residual stream, what reads it, and which pairs connect.

1. Writers: the token embedding (and learned position embeddings), each head, each MLP, and per sublayer its output
   biases.  Readers: q, k and v of each head, each MLP, and the logits.
2. Writers stand in the order of the forward pass, so those that feed a reader are the first `stop` of them.  In a
   parallel block (GPT-NeoX, GPT-J, Phi) attention and MLP do not feed each other.
3. With grouped queries k and v belong to a group of heads: one reader for each key-value head.
4. Biases and position embeddings are the same for every prompt: fixed writers, part of every circuit.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.reads import input_weights
from lrp_lens.hosts.sites import BiasSite
from lrp_lens.hosts.writes import post_norm

FIXED = ("pos_embed", "bias")
"""Kinds of writers that no prompt changes."""


@dataclass(frozen=True)
class ComponentNode:
    """One writer or one reader.

    Example:
        >>> str(ComponentNode("head", 3, 1)), str(ComponentNode("q", 3, 1)), str(ComponentNode("mlp", 0))
        ('L3H1', 'L3H1 q', 'L0 MLP')
    """

    kind: str
    """Writers: embed, pos_embed, head, mlp, bias.  Readers: q, k, v, mlp, logits."""
    layer: int | None = None
    head: int | None = None
    """Head; of k and v under grouped queries, the key-value head."""
    name: str = ""
    """Label where kind, layer and head do not give it: `L0 b_O`, `L0KV1 k`."""

    def __str__(self) -> str:
        if self.name:
            return self.name
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        if self.kind in "qkv":
            return f"L{self.layer}H{self.head} {self.kind}"
        return f"L{self.layer} MLP" if self.kind == "mlp" else self.kind


@dataclass(frozen=True)
class ComponentGraph:
    """Writers, readers and which of them connect."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    parallel: bool = False
    """Attention and MLP of a layer read the same stream."""
    mlp: bool = True
    """Whether the blocks have MLPs."""
    positions: bool = False
    """Whether learned position embeddings are added to the stream."""
    biases: frozenset[tuple[int, str]] = frozenset()
    """(layer, "b_O" or "b_out") of the output biases that are not 0."""
    d_model: int = 0

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.n_key_value_heads) < 1:
            raise InputError(f"A component graph has at least one layer and one head; received {self!r}.")
        if self.n_heads % self.n_key_value_heads:
            raise InputError(
                f"Query heads divide evenly among key-value heads; received {self.n_heads} and "
                f"{self.n_key_value_heads}."
            )

    @cached_property
    def _laid_out(self) -> tuple[tuple[ComponentNode, ...], tuple[ComponentNode, ...], tuple[int, ...]]:
        writers = [ComponentNode("embed")] + [ComponentNode("pos_embed")] * self.positions
        readers: list[ComponentNode] = []
        stops: list[int] = []

        def read(parts: Iterable[ComponentNode], stop: int) -> None:
            found = list(parts)
            readers.extend(found)
            stops.extend([stop] * len(found))

        for layer in range(self.n_layers):
            start = len(writers)
            for part in "qkv":
                read(self._heads(layer, part), start)
            writers += [ComponentNode("head", layer, head) for head in range(self.n_heads)]
            writers += self._bias(layer, "b_O")
            if self.mlp:
                read([ComponentNode("mlp", layer)], start if self.parallel else len(writers))
                writers += [ComponentNode("mlp", layer), *self._bias(layer, "b_out")]
        read([ComponentNode("logits")], len(writers))
        return tuple(writers), tuple(readers), tuple(stops)

    def _heads(self, layer: int, part: str) -> list[ComponentNode]:
        if part == "q" or self.n_key_value_heads == self.n_heads:
            return [ComponentNode(part, layer, head) for head in range(self.n_heads)]
        heads = range(self.n_key_value_heads)
        return [ComponentNode(part, layer, head, f"L{layer}KV{head} {part}") for head in heads]

    def _bias(self, layer: int, label: str) -> list[ComponentNode]:
        return [ComponentNode("bias", layer, None, f"L{layer} {label}")] * ((layer, label) in self.biases)

    @property
    def writers(self) -> tuple[ComponentNode, ...]:
        """In the order of the forward pass."""
        return self._laid_out[0]

    @property
    def readers(self) -> tuple[ComponentNode, ...]:
        """In the order of the forward pass; of each layer all q, then all k, then all v, then the MLP."""
        return self._laid_out[1]

    @property
    def stops(self) -> tuple[int, ...]:
        """For each reader, how many writers stand before it."""
        return self._laid_out[2]

    @cached_property
    def connected(self) -> np.ndarray:
        """Whether a writer feeds a reader, bool [writer, reader]."""
        return np.arange(len(self.writers))[:, None] < np.array(self.stops)[None]

    @cached_property
    def free(self) -> np.ndarray:
        """Edges that a circuit has or has not: those of writers that depend on the prompt, bool [writer, reader]."""
        chosen = np.array([writer.kind not in FIXED for writer in self.writers])
        return self.connected & chosen[:, None]

    @property
    def n_edges(self) -> int:
        """Number of edges a circuit can have."""
        return int(self.free.sum())

    @cached_property
    def feeds(self) -> np.ndarray:
        """Whether what a reader reads goes into a writer's output, bool [reader, writer]: q of a head into the head."""
        table = np.zeros((len(self.readers), len(self.writers)), dtype=bool)
        group = self.n_heads // self.n_key_value_heads
        at = {(writer.kind, writer.layer, writer.head): i for i, writer in enumerate(self.writers)}
        for index, reader in enumerate(self.readers):
            if reader.kind == "mlp":
                table[index, at["mlp", reader.layer, None]] = True
            elif reader.kind != "logits":
                size = 1 if reader.kind == "q" else group
                first = (reader.head or 0) * size
                for head in range(first, first + size):
                    table[index, at["head", reader.layer, head]] = True
        return table

    def writer(self, label: str) -> int:
        """Index of a writer by its label, e.g. "L3H1"."""
        return _index(self.writers, label, "writer")

    def reader(self, label: str) -> int:
        """Index of a reader by its label, e.g. "L3H1 q"."""
        return _index(self.readers, label, "reader")

    def same_components(self, other: "ComponentGraph") -> bool:
        """Whether both have the same components and, where both know it, the same width; fixed writers aside."""
        if self.d_model and other.d_model and self.d_model != other.d_model:
            return False
        neutral = dict(positions=False, biases=frozenset(), d_model=0)
        return replace(self, **neutral) == replace(other, **neutral)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return (
            f"{self.n_layers} layers of {self.n_heads} heads: {len(self.writers)} writers, "
            f"{len(self.readers)} readers, {self.n_edges} edges"
        )


def _index(components: tuple[ComponentNode, ...], label: str, what: str) -> int:
    for index, component in enumerate(components):
        if str(component) == label:
            return index
    raise InputError(
        f"A {what} of this graph is named like {components[0]}, {components[len(components) // 2]} or "
        f"{components[-1]}; there is no {label!r}."
    )


def component_graph(model: Any) -> ComponentGraph:
    """The component graph of a model.

    Raises:
        InputError: if it is no transformer_lens model.
        SiteError: if the host does not give weights per head.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> print(component_graph(load_demo_model(device="cpu")))
        4 layers of 4 heads: 21 writers, 53 readers, 479 edges
    """
    sites = resolve(model)
    biases = set()
    for layer in range(sites.n_layers):
        for label, after in (("b_O", "attention"), ("b_out", "mlp")):
            norm = post_norm(sites, layer, after)  # type: ignore[arg-type]
            labels = {label} | ({f"{norm.label} bias"} if norm is not None else set())
            for site in sites.of(BiasSite):
                bias = site.bias() if site.layer == layer and site.label in labels else None
                if bias is not None and bool(bias.any()):
                    biases.add((layer, label))
    alibi_or_rotary = getattr(model.cfg, "positional_embedding_type", None) in ("rotary", "alibi")
    return ComponentGraph(
        n_layers=sites.n_layers,
        n_heads=sites.n_heads,
        n_key_value_heads=input_weights(model, 0, "k").shape[0],
        parallel=sites.parallel,
        mlp=not getattr(model.cfg, "attn_only", False),
        positions=Names.POS_EMBED in sites.record_of and not alibi_or_rotary,
        biases=frozenset(biases),
        d_model=int(model.cfg.d_model),
    )
