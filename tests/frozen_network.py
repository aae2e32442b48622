"""A transformer with everything nonlinear frozen: states are linear in each other, so every edge is known by hand.

x_mid[j] = x[j] + Σ_h P_h[j, i] W_h x[i] + b_attn        x[j] = (1 + M) x_mid[j] + b_mlp
metric = w · x_last[target]
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lrp_lens.attribution_graphs.arrays import AttributionGraph, Boundary
from lrp_lens.views import View

WORDS = (
    " Mary",
    " and",
    " John",
    " went",
    " to",
    " the",
    " store",
    "\n",
    " gave",
    " a",
    " <b>drink</b>",
    " to",
)


def tokens_of(positions: int) -> tuple[str, ...]:
    return ("<bos>", *(WORDS[i % len(WORDS)] for i in range(positions - 1)))


@dataclass
class FrozenNetwork:
    positions: int = 6
    layers: int = 2
    heads: int = 2
    width: int = 4
    mid: bool = True
    seed: int = 0
    targets: tuple[int, ...] = (-1,)
    sharpness: float = 1.5
    strength: float = 1.0
    boundaries: list[Boundary] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        n, d, heads = self.positions, self.width, self.heads
        self.targets = tuple(one % n for one in self.targets)
        self.boundaries = [Boundary("embedding", "embed", None)]
        self.states = [rng.normal(size=(n, d))]
        self.jacobians: list[np.ndarray] = []  # [part, target, source, d, d]
        self.biases: list[np.ndarray] = []  # [n, d]
        eye = np.eye(n)[:, :, None, None]
        for layer in range(self.layers):
            scores = self.sharpness * rng.normal(size=(heads, n, n)) + 2.0 * (np.arange(n) == 0)
            scores[:, ~np.tri(n, dtype=bool)] = -np.inf
            pattern = np.exp(scores - scores.max(axis=-1, keepdims=True))
            pattern /= pattern.sum(axis=-1, keepdims=True)
            values = rng.normal(size=(heads, d, d)) * self.strength / np.sqrt(d * heads)
            attention = np.zeros((2 + heads, n, n, d, d))
            attention[0] = eye * np.eye(d)
            attention[2:] = pattern[..., None, None] * values[:, None, None]
            block = np.zeros((2 + heads, n, n, d, d))
            block[0] = eye * np.eye(d)
            block[1] = eye * rng.normal(size=(d, d)) * self.strength / (2 * np.sqrt(d))
            b_attn, b_mlp = 0.1 * rng.normal(size=(2, n, d))
            if self.mid:
                self._step(attention, b_attn, Boundary(f"mid of {layer}", f"L{layer} mid", layer, mid=True))
                self._step(block, b_mlp, Boundary(f"after {layer}", f"L{layer}", layer))
            else:
                whole = block.sum(axis=0)[np.arange(n), np.arange(n)]
                both = np.einsum("jab,pjibc->pjiac", whole, attention)
                self._step(
                    both,
                    np.einsum("jab,jb->ja", whole, b_attn) + b_mlp,
                    Boundary("after", f"L{layer}", layer),
                )
        top = np.zeros((n, d))
        top[list(self.targets)] = rng.normal(size=(len(self.targets), d))
        self.gradients = [top]
        for jacobian in reversed(self.jacobians):
            self.gradients.insert(0, np.einsum("pjiab,ja->ib", jacobian, self.gradients[0]))

    def _step(self, jacobian: np.ndarray, bias: np.ndarray, boundary: Boundary) -> None:
        self.states.append(np.einsum("pjiab,ib->ja", jacobian, self.states[-1]) + bias)
        self.jacobians.append(jacobian)
        self.biases.append(bias)
        self.boundaries.append(boundary)

    def parts(self, transition: int) -> np.ndarray:
        """[target, source, part]"""
        g, x = self.gradients[transition + 1], self.states[transition]
        return np.einsum("ja,pjiab,ib->jip", g, self.jacobians[transition], x)

    def matrix(self, source: int, target: int) -> np.ndarray:
        """Eq. 11 of the paper, for any two boundaries: x_i · (dx_j/dx_i)ᵀ g_j."""
        through = np.eye(self.positions)[:, :, None, None] * np.eye(self.width)
        for jacobian in self.jacobians[source:target]:
            through = np.einsum("jkab,kibc->jiac", jacobian.sum(axis=0), through)
        return np.einsum("ja,jiab,ib->ji", self.gradients[target], through, self.states[source])

    def refine(self, *, source: tuple[int, int] | None, target: tuple[int, int], into: str) -> Any:
        if source is None:
            boundary, position = target
            values = self.states[boundary][position] * self.gradients[boundary][position]
            return View(
                values, ("component",), {"component": tuple(f"d{i}" for i in range(self.width))}, into
            )
        values = self.parts(source[0])[target[1], source[1]]
        return View(values, ("component",), {"component": self.part_labels()}, into)

    def part_labels(self) -> tuple[str, ...]:
        return ("residual", "MLP", *(f"H{head} OV" for head in range(self.heads)))

    def graph(self, **changes: Any) -> AttributionGraph:
        node = np.array([(x * g).sum(axis=1) for x, g in zip(self.states, self.gradients, strict=True)])
        parts = np.array([self.parts(t) for t in range(len(self.jacobians))])
        edges = np.array([self.matrix(t, t + 1) for t in range(len(self.jacobians))])
        transition, target, source = np.nonzero(edges)
        total = np.abs(edges).sum(axis=(1, 2))
        sinks = np.array([(b * g).sum(axis=1) for b, g in zip(self.biases, self.gradients[1:], strict=True)])
        given = dict(
            boundaries=tuple(self.boundaries),
            token_strings=tokens_of(self.positions),
            special=np.arange(self.positions) == 0,
            node_relevance=node,
            transition=transition,
            target=target,
            source=source,
            relevance=edges[transition, target, source],
            part_values=parts[transition, target, source],
            parts=self.part_labels(),
            sinks=np.stack([0.25 * sinks, 0.75 * sinks], axis=1),
            sink_kinds=("bias", "softmax"),
            pruned=np.zeros_like(sinks),
            pruned_mass=np.zeros(len(edges)),
            total_mass=total,
            metric_value=float(node[-1].sum()),
            metric_text="LogitDiff(' Mary', ' John')",
            rules_text="frozen",
            towards=(" Mary", " John"),
            target_positions=self.targets,
            made_by=self,
        )
        return AttributionGraph(**(given | changes))
