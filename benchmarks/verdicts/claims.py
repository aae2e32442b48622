"""Claims about failures of the demo model, its own and planted ones, and the checks of each."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.failures.verification import CaseVerdict, Check, Criterion
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import Blame, blame
from lrp_lens.failures.verification.check import Event, Kind
from lrp_lens.failures.verification.edits import AttentionEdge, Place
from lrp_lens.failures.verification.plan import EDGES, Checks, Plan
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import attached
from lrp_lens.methods.facets import record_name
from lrp_lens.rules import as_rule_set

CAUSES: dict[Kind, tuple[str, ...]] = {
    "hide": ("distractor", "memory_cue"),
    "amplify": ("evidence", "fact"),
    "cut": ("distractor", "memory_cue"),
}
"""Check → the segments that a right claim names; of an edge, those that it reads."""
TOKENS: tuple[Kind, ...] = ("hide", "amplify")
"""The checks of tokens: the criterion is chosen for them."""
PLANTED: dict[type, Kind] = {Place: "silence", AttentionEdge: "cut"}
"""What was planted → the check that is to find it."""
EVENTS: tuple[Event, ...] = ("flip", "win")


@dataclass(frozen=True)
class Claim:
    """The checks of one claim about one failure."""

    suite: str
    half: int
    """0: the criterion is chosen here; 1: it is judged here."""
    source: str
    """relevance or shuffled."""
    planted: Place | AttentionEdge | None
    """Where the cause was planted; None for a failure of the model's own."""
    causes: dict[str, frozenset[int]]
    """Check → positions of the known cause."""
    edges: tuple[AttentionEdge, ...]
    """The attention edges that are cut, the most blamed first."""
    checks: dict[Event, Checks]
    """Event → the checks (silence and cut are not run where tokens pass and no random draw does the same)."""

    def passes(self, kind: Kind, criterion: Criterion) -> bool:
        """Whether a check passes."""
        return criterion.passes(self.check(kind, criterion.event))

    def check(self, kind: Kind, event: Event) -> Check | None:
        """One check."""
        found: Check | None = getattr(self.checks[event], kind)
        return found

    def right(self, kind: Kind, event: Event) -> bool:
        """Whether most of what the check names is the known cause; of places and edges, whether the planted one is."""
        check = self.check(kind, event)
        if check is None:
            return False
        if self.planted is not None:
            return kind == PLANTED[type(self.planted)] and str(self.planted) in check.units
        if kind == "silence":
            return False
        known, named = self.causes[kind], check.positions
        if kind == "cut":
            named = tuple(one.source for one in self.edges[: check.control_size])
        return sum(at in known for at in named) > len(named) / 2

    def verdict(self, criterion: Criterion) -> CaseVerdict:
        """Of the whole case."""
        return criterion.verdict(*self.checks[criterion.event].asked)


def shuffled(blamed: Blame, asked: Asked, seed: int) -> Blame:
    """The same scores on other tokens and places."""
    rng, tokens = np.random.default_rng(seed), blamed.tokens.copy()
    tokens[asked.maskable] = rng.permutation(tokens[asked.maskable])
    values = rng.permutation(list(blamed.places.values())).tolist()
    places = dict(zip(blamed.places, values, strict=True))

    def edges() -> dict[AttentionEdge, float]:
        """The scores of the edges that the graph keeps, at as many of all edges."""
        own, free = list(blamed.edges().values()), np.array(asked.maskable)
        layers, heads = resolve(asked.model).n_layers, int(asked.model.cfg.n_heads)
        every = [
            (at, before) for at in [*free.tolist(), asked.length - 1] for before in free[free < at].tolist()
        ]
        chosen = rng.permutation(layers * heads * len(every))[: len(own)]
        return {
            AttentionEdge(*divmod(int(which), heads), *every[int(pair)]): value
            for (which, pair), value in zip(zip(*divmod(chosen, len(every)), strict=True), own, strict=False)
        }

    return replace(blamed, tokens=tokens, places=places, edges=functools.cache(edges))


def claims(
    asked: Asked,
    case: Case,
    half: int,
    rules: Any,
    planted: Place | AttentionEdge | None,
    draws: int,
    factor: float,
    seed: int,
) -> Iterator[Claim]:
    """The claim of relevance, and the control."""
    spans = {name: {at for span in own for at in range(*span)} for name, own in case.segments.items()}
    causes = {
        kind: frozenset().union(*(spans.get(name, set()) for name in names)) for kind, names in CAUSES.items()
    }
    blamed = blame(asked, rules)
    sources = {"relevance": blamed} | ({"shuffled": shuffled(blamed, asked, seed)} if planted is None else {})
    for source, own in sources.items():
        checks = {
            event: Plan(asked, Criterion(event, 0.0), factor, draws=draws, seed=seed).checks(
                own, "mean", False
            )
            for event in EVENTS
        }
        cut = any(
            one.cut is not None for one in checks.values()
        )  # else not needed, or the graph cannot be made
        edges = tuple(own.top_edges(max(EDGES))) if cut else ()
        yield Claim(case.suite, half, source, planted, causes, edges, checks)


def plant(model: Any, asked: Asked, seed: int, edge: bool) -> tuple[Place | AttentionEdge, list[Any]] | None:
    """What writes the wrong answer at the decision until it leads as the right one did, and its hook.

    A head or an MLP there; or, with `edge`, what a head has in store at the token that it reads most from there.
    """
    rng, sites = np.random.default_rng(seed), resolve(model)
    layer, head = int(rng.integers(1, sites.n_layers)), int(rng.integers(model.cfg.n_heads))
    place = Place(layer, asked.length - 1, head if edge or rng.random() < 0.5 else None)
    part = "mlp_out" if place.head is None else "v" if edge else "z"
    planted: Place | AttentionEdge = place
    if edge:
        pattern = sites.record_of[record_name("pattern", layer)].port
        assert pattern is not None and place.head is not None
        read: list[torch.Tensor] = []
        with (
            torch.no_grad(),
            attached(model, [(pattern.point, lambda value, hook: read.append(value[0, head, -1]))]),
        ):
            forward(model, asked.batch.ids, None)
        source = max(asked.maskable, key=lambda at: float(read[0][at]))
        planted, place = AttentionEdge(layer, head, place.position, source), replace(place, position=source)
    point = sites.record_of[record_name(part, layer)].port
    assert point is not None
    at = (
        (..., place.position, slice(None))
        if place.head is None
        else (..., place.position, place.head, slice(None))
    )
    direction = model.W_U[:, asked.target] - model.W_U[:, asked.contrast]
    if place.head is not None:
        direction = model.W_O[layer, place.head] @ direction
    direction = (direction / direction.norm()).detach()
    with torch.no_grad():
        logits = forward(model, asked.batch.ids, None)[0, -1]
    before = logits[asked.contrast] - logits[asked.target]
    for size in 2.0 ** np.arange(-2, 9):

        def write(value: Any, hook: Any = None, size: float = size) -> Any:
            value = value.clone()
            value[at] += size * direction
            return value

        hooks = [(point.point, write)]
        with torch.no_grad(), attached(model, hooks):
            logits = forward(model, asked.batch.ids, None)[0, -1]
        lead = logits[asked.target] - logits[asked.contrast]
        if logits.argmax() == asked.target and lead > before:
            return planted, hooks
    return None


def collect(limit: int, rules_name: str, draws: int, factor: float) -> list[Claim]:
    """Every claim about the model's own failures and the planted ones."""
    model, rules = load_demo_model(device="cpu"), as_rule_set(rules_name)
    found: list[Claim] = []
    for correct in (False, True):
        seen: dict[str, int] = {}
        for index, case in enumerate(demo_cases(correct=correct)):
            number = seen[case.suite] = seen.get(case.suite, -1) + 1
            if number >= limit:
                continue
            if not correct:
                asked = Asked.of(model, case, None, 1, None)
                found += claims(asked, case, number % 2, rules, None, draws, factor, index)
                continue
            swapped = replace(case, target=case.contrast, contrast=case.target, correct=False)
            asked = Asked.of(model, swapped, None, 1, None)
            for edge in (False, True):
                made = plant(model, asked, index, edge)
                if made is not None:
                    with attached(model, made[1]):
                        found += claims(asked, swapped, number % 2, rules, made[0], draws, factor, index)
    return found
