"""Edited runs against the same runs made one by one, literally, in float64."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from lrp_lens.attribution_graphs.closed_form import attribution_graph
from lrp_lens.errors import InputError, RuleError, SiteError
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import attention_edges, blame
from lrp_lens.failures.verification.criterion import Criterion
from lrp_lens.failures.verification.edits import AttentionEdge, Edit, EditedRuns, Place
from lrp_lens.failures.verification.plan import Plan
from lrp_lens.failures.verification.readings import Readings
from lrp_lens.hosts import resolve
from lrp_lens.hosts.rollout import Until
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.rules import ATTN_LRP, CP_LRP, RuleSet
from lrp_lens.run.relevance import run_with_relevance
from tests.zoo import models, prompt_tokens, shared

FACTOR = 2.5
EDITS = (
    Edit(),
    Edit(hidden=(2, 5)),
    Edit(amplified=(0, 3)),
    Edit(silenced=(Place(0, 4, 1), Place(1, 8), Place(1, 2, 3))),
    Edit(hidden=(1,), amplified=(1, 6), silenced=(Place(0, 8),)),
    Edit(cut=(AttentionEdge(0, 1, 4, 2), AttentionEdge(1, 3, 8, 0), AttentionEdge(1, 0, 8, 5))),
    Edit(hidden=(3,), cut=(AttentionEdge(1, 2, 8, 8),)),
)
NAMES = [one for one in models("hooked", "bridge") if one[1] in ("llama", "gpt2", "gemma2")]


def alone(model: Any, ids: torch.Tensor, edit: Edit, runs: EditedRuns, length: int) -> torch.Tensor:
    """Logits at the last position of one row, every edit made by hand on positions of the prompt only."""
    heads = int(model.cfg.n_heads)
    hooks: list[Any] = []

    def add(name: str, change: Any) -> None:
        def hook(value: Any, hook: Any) -> Any:
            value = value.clone()
            change(value)
            return value

        hooks.append((name, hook))

    def hide(value: Any) -> None:
        for at in edit.hidden:
            value[0, at] = runs.replacement[at]

    def amplify(value: Any) -> None:
        for at in edit.amplified:
            value[0, at] *= runs.factor

    add("hook_embed", hide)
    for layer in range(resolve(model).n_layers):
        add(f"blocks.{layer}.attn.hook_v", amplify)
        for part, name in (("z", f"blocks.{layer}.attn.hook_z"), ("mlp_out", f"blocks.{layer}.hook_mlp_out")):
            other = runs.silence.get((part, layer))

            def silence(value: Any, part: str = part, layer: int = layer, other: Any = other) -> None:
                for place in edit.silenced:
                    if place.layer == layer and (place.head is None) == (part == "mlp_out"):
                        row = value[0, place.position]
                        row = row.reshape(heads, -1)[place.head] if part == "z" else row
                        new = 0 if other is None else other[place.head or 0]
                        row.copy_(torch.zeros_like(row) + new)

            add(name, silence)

        def cut(value: Any, layer: int = layer) -> None:
            for edge in edit.cut:
                if edge.layer == layer:
                    value[0, edge.head, edge.target, edge.source] = 0

        add(f"blocks.{layer}.attn.hook_pattern", cut)
    with torch.no_grad():
        return model.run_with_hooks(ids, fwd_hooks=hooks)[0, -1]


def runs_of(host: str, name: str) -> EditedRuns:
    model = shared(host, name)
    batch = tokenize(model, prompt_tokens(1, 9))
    generator = torch.Generator().manual_seed(1)
    width = int(model.cfg.d_model)
    replacement = torch.randn(9, width, generator=generator, dtype=torch.float64)
    means = {
        ("z", 0): torch.randn(int(model.cfg.n_heads), int(model.cfg.d_head), generator=generator).double(),
        ("mlp_out", 1): torch.randn(1, width, generator=generator).double(),
    }
    return EditedRuns(model, batch, replacement, FACTOR, means)


@pytest.mark.parametrize(("host", "name"), NAMES)
def test_a_batch_of_edits_is_each_of_them_alone(host: str, name: str) -> None:
    runs = runs_of(host, name)
    found = runs.logits(EDITS)
    for row, edit in zip(found, EDITS, strict=True):
        expected = alone(runs.model, runs.batch.ids, edit, runs, 9)
        assert torch.allclose(row, expected, atol=1e-8, rtol=1e-8), edit
    changes = (found[1:] - found[:1]).abs().amax(-1)  # every edit counts
    assert (changes > 1e-3).all()


@pytest.mark.parametrize(("host", "name"), NAMES)
def test_an_answer_goes_on_from_the_edited_prompt(host: str, name: str) -> None:
    runs = runs_of(host, name)
    found = runs.answers(EDITS, Until(4))[1]
    for rollout, edit in zip(found, EDITS, strict=True):
        ids = runs.batch.ids
        for _ in range(4):  # a whole pass for each token, the edits at the prompt's positions
            following = alone(runs.model, ids, edit, runs, 9).argmax()
            ids = torch.cat([ids, following[None, None]], 1)
        assert rollout.ids == ids[0, 9:].tolist(), edit


def test_a_factor_of_one_and_an_edit_of_nothing_change_nothing() -> None:
    host, name = NAMES[0]
    runs = runs_of(host, name)
    plain = EditedRuns(runs.model, runs.batch, runs.replacement, 1.0)
    found = plain.logits([Edit(), Edit(amplified=(1, 2, 3))])
    with torch.no_grad():
        expected = runs.model(runs.batch.ids)[0, -1]
    assert torch.allclose(found, expected.expand_as(found), atol=1e-9)


def test_large_batches_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(*NAMES[0])
    whole, ticks = runs.logits(EDITS), []
    monkeypatch.setattr("lrp_lens.failures.verification.edits._TOKENS_AT_ONCE", 20)
    assert torch.allclose(runs.logits(EDITS, ticks.append), whole, atol=1e-9) and ticks == [2, 2, 2, 1]
    logits, rollouts = runs.answers(EDITS, Until(2))
    back, backwards = runs.answers(EDITS[::-1], Until(2))
    assert [one.ids for one in rollouts] == [one.ids for one in backwards][::-1]
    assert torch.allclose(logits, whole, atol=1e-9) and torch.allclose(back.flip(0), whole, atol=1e-9)


def test_the_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(*NAMES[0])
    runs.logits(EDITS)
    assert not any(point.fwd_hooks for point in runs.model.hook_dict.values())
    with torch.no_grad(), pytest.raises(InputError, match="finite"):
        EditedRuns(runs.model, runs.batch, runs.replacement * torch.nan, 2.0).logits([Edit(hidden=(1,))])
    assert not any(point.fwd_hooks for point in runs.model.hook_dict.values())


def test_a_dropped_edit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(*NAMES[0])
    port = resolve(runs.model).record_of["blocks.0.attn.hook_v"].port
    monkeypatch.setattr("lrp_lens.failures.verification.edits.dead", lambda model: {port.name: "dropped"})
    with pytest.raises(SiteError, match="no live hook point for v in layer 0"):
        runs.logits([Edit(amplified=(1,))])


def test_an_edge_is_cut_in_one_head_only() -> None:
    """Literally: what the head gathers at the target loses that source, and no other output of the layer changes."""
    runs = runs_of(*NAMES[0])
    edge, seen = AttentionEdge(0, 1, 4, 2), {}
    names = [f"blocks.0.attn.hook_{part}" for part in ("pattern", "v", "z")]
    for way, edit in (("whole", Edit()), ("cut", Edit(cut=(edge,)))):
        own = [(resolve(runs.model).record_of[name].port.point, name) for name in names]
        keep = [
            (point, lambda value, hook, name=name, way=way: seen.__setitem__((way, name), value[0]))
            for point, name in own
        ]
        with attached(runs.model, runs.hooks([edit])), attached(runs.model, keep), torch.no_grad():
            runs.model(runs.batch.ids)
    pattern, v, z = (seen["whole", name] for name in names)
    expected = z.reshape(9, 4, -1).clone()
    groups = 4 // v.shape[1]
    expected[4, 1] -= pattern[1, 4, 2] * v[2, 1 // groups]
    assert torch.allclose(seen["cut", names[2]].reshape(9, 4, -1), expected, atol=1e-10)
    assert (expected[4, 1] - z.reshape(9, 4, -1)[4, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("rules", [CP_LRP, ATTN_LRP])
def test_attention_edges_are_what_heads_copy_and_by_what_they_look(rules: RuleSet) -> None:
    """Under held patterns pattern × value · gradient of z, literally; else the unpruned graph's parts, added up."""
    asked = asked_of(*next(one for one in NAMES if one[1] == "llama"))  # no bias in its values
    found = attention_edges(asked, rules)
    expected: dict[AttentionEdge, float] = {}
    if rules is CP_LRP:
        _, cache = run_with_relevance(
            asked.model, asked.batch, asked.metric, rules=rules, names_filter=lambda name: "attn" in name
        )
        for layer in range(2):
            own = [f"blocks.{layer}.attn.hook_{part}" for part in ("v", "z")]
            v, gradient = cache.activations[own[0]][0], cache.gradients[own[1]][0].reshape(9, 4, -1)
            scores = cache.activations[f"blocks.{layer}.attn.hook_attn_scores"][0]
            pattern = scores.softmax(-1)  # where Hugging Face computes it, it is rounded to float32
            for head, target, source in product(range(4), range(9), range(9)):
                copied = pattern[head, target, source] * (
                    v[source, head * v.shape[1] // 4] @ gradient[target, head]
                )
                expected[AttentionEdge(layer, head, target, source)] = float(copied)
    else:
        graph = attribution_graph(
            asked.model, asked.batch, asked.metric, rules=rules, mass=1.0, node_threshold=0.0
        )
        layers = [one.layer for one in graph.boundaries]
        for number, (transition, target, source) in enumerate(
            zip(graph.transition, graph.target, graph.source, strict=True)
        ):
            for label, value in zip(graph.parts, graph.part_values[number], strict=True):
                head, _, how = label.partition(" ")
                if how in ("OV", "K"):
                    edge = AttentionEdge(
                        int(layers[transition + 1] or 0), int(head[1:]), int(target), int(source)
                    )
                    expected[edge] = expected.get(edge, 0.0) + float(value)
    special = asked.batch.special[0].tolist()
    assert found and list(found.values()) == sorted(found.values(), reverse=True)
    assert all(one.source < one.target and not special[one.source] for one in found)
    for edge, value in found.items():
        assert value == pytest.approx(expected[edge], abs=1e-9), edge
    allowed = {
        edge: one for edge, one in expected.items() if edge.source < edge.target and not special[edge.source]
    }
    assert next(iter(found)) == max(allowed, key=lambda one: allowed[one])


def test_where_edges_cannot_be_cut_the_verification_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of(*NAMES[0])
    plan = Plan(asked, Criterion(), draws=1, top_k=1, sizes=(1,))

    def refuse() -> Any:
        raise RuleError("rules that say nothing of attention")

    found = plan.checks(replace(blame(asked, CP_LRP), edges=refuse), "zero", True)
    assert found.cut is None and found.silence is not None
    assert found.notes == ("no attention edge was cut: rules that say nothing of attention",)
    blamed = blame(asked, CP_LRP)
    dropped = {f"blocks.{layer}.attn.hook_pattern": "dropped" for layer in range(2)}
    monkeypatch.setattr("lrp_lens.failures.verification.edits.dead", lambda model: dropped)
    found = plan.checks(blamed, "zero", True)
    assert found.cut is None and "no live hook point for pattern in layer" in found.notes[0]


def asked_of(host: str, name: str) -> Asked:
    """A question of random ids: the first choice against the last."""
    model = shared(host, name)
    batch = tokenize(model, prompt_tokens(1, 9))
    with torch.no_grad():
        order = model(batch.ids)[0, -1].argsort(descending=True)
    return Asked(model, batch, 9, int(order[0]), int(order[1]))


@pytest.mark.parametrize(("host", "name"), NAMES)
def test_every_step_and_draw_of_a_plan_is_what_it_says(host: str, name: str) -> None:
    """Each reading again, from its edit, one run at a time; and the blamed are those of the largest relevance."""
    asked = asked_of(host, name)
    blamed = blame(asked, CP_LRP)
    rows = torch.zeros(9, int(asked.model.cfg.d_model), dtype=torch.float64)
    readings = Readings(asked, rows, FACTOR, {})
    plan = Plan(asked, Criterion(), FACTOR, top_k=3, sizes=(1, 3), edge_sizes=(1, 2), draws=4)
    for check in filter(None, plan.checks(blamed, "zero", True).asked):
        sign = -1 if check.kind == "amplify" else 1
        if check.kind == "silence":
            ranked: list[Any] = sorted(blamed.places, key=lambda one: -blamed.places[one])
        elif check.kind == "cut":
            ranked = list(attention_edges(asked, CP_LRP))
        else:
            ranked = sorted(asked.maskable, key=lambda at: -sign * blamed.tokens[at])
        for step in check.steps:
            units = tuple(ranked[: step.size])
            field = {"hide": "hidden", "amplify": "amplified", "silence": "silenced", "cut": "cut"}[
                check.kind
            ]
            logits = alone(asked.model, asked.batch.ids, Edit(**{field: units}), readings.runs, 9)
            assert step.reading.gap == pytest.approx(
                float(logits[asked.target] - logits[asked.contrast]), abs=1e-7
            )
            assert step.reading.win == (int(logits.argmax()) == asked.contrast)
        assert check.positions == tuple(getattr(one, "position", one) for one in ranked[: check.control_size])
        assert len(check.control) == 4


def test_hidden_tokens_run_alike_with_a_users_hook_attached() -> None:
    """Prompts that share their beginning would call the user's function on pieces."""
    asked = asked_of(*NAMES[0])
    edits = [Edit(hidden=(one,)) for one in range(1, 7)]
    rows = torch.zeros(9, int(asked.model.cfg.d_model), dtype=torch.float64)
    plain = Readings(asked, rows, 2.0, {}).of(edits)
    lengths = set()
    point = resolve(asked.model).record_of["blocks.0.hook_resid_pre"].port.point
    with attached(asked.model, [(point, lambda value, hook: lengths.add(value.shape[1]))]):
        hooked = Readings(asked, rows, 2.0, {}).of(edits)
    assert lengths == {9}
    assert [one.gap for one in hooked] == pytest.approx([one.gap for one in plain], abs=1e-8)


def test_draws_match_in_number_and_kind() -> None:
    asked = asked_of(*NAMES[0])
    plan = Plan(asked, Criterion(), draws=30, seed=4)
    places = list(blame(asked, CP_LRP).places)
    chosen = [Place(0, 8, 2), Place(1, 8, 0), Place(1, 3), Place(0, 1, 1)]
    kinds = sorted((one.head is None, one.position == 8) for one in chosen)
    drawn = plan._drawn("silence", chosen, places)
    assert all(sorted((one.head is None, one.position == 8) for one in draw) == kinds for draw in drawn)
    assert all(len(set(draw)) == 4 and not set(draw) & set(chosen) for draw in drawn)
    assert drawn == plan._drawn("silence", chosen, places) != plan._drawn("other", chosen, places)
    edges = [AttentionEdge(1, 2, 8, 3), AttentionEdge(1, 0, 8, 3), AttentionEdge(0, 3, 5, 1)]
    every = [replace(edge, head=head) for edge in (edges[0], edges[2]) for head in range(4)]
    for cut in plan._drawn("cut", edges, every):  # the same entries of other heads
        assert sorted((one.layer, one.target, one.source) for one in cut) == [(0, 5, 1), (1, 8, 3), (1, 8, 3)]
        assert len(set(cut)) == 3 and not set(cut) & set(edges)
    few = plan._drawn("hide", [1, 2, 3], [1, 2, 3, 4])  # one other token alone: any three
    assert all(len(set(draw)) == 3 for draw in few)
