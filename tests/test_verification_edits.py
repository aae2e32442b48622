"""Edited runs against the same runs made one by one, literally, in float64."""

from typing import Any

import pytest
import torch

from lrp_lens.errors import InputError, SiteError
from lrp_lens.failures.verification import Edit, EditedRuns, Place
from lrp_lens.failures.verification.asked import Asked, Readings, blame
from lrp_lens.failures.verification.criterion import Criterion
from lrp_lens.failures.verification.plan import Plan
from lrp_lens.hosts import resolve
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.rules import CP_LRP
from tests.zoo import models, prompt_tokens, shared

FACTOR = 2.5
EDITS = (
    Edit(),
    Edit(hidden=(2, 5)),
    Edit(amplified=(0, 3)),
    Edit(silenced=(Place(0, 4, 1), Place(1, 8), Place(1, 2, 3))),
    Edit(hidden=(1,), amplified=(1, 6), silenced=(Place(0, 8),)),
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
    found = runs.answers(EDITS, 4)
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
    assert torch.allclose(runs.logits(EDITS, ticks.append), whole, atol=1e-9) and ticks == [2, 2, 1]
    assert [one.ids for one in runs.answers(EDITS, 2)] == [one.ids for one in runs.answers(EDITS[::-1], 2)][
        ::-1
    ]


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
    plan = Plan(asked, Criterion(), FACTOR, top_k=3, sizes=(1, 3), draws=4)
    _, checks = plan.checks(blamed, "zero", True)
    for check in filter(None, checks):
        sign = -1 if check.kind == "amplify" else 1
        if check.kind == "silence":
            ranked: list[Any] = sorted(blamed.places, key=lambda one: -blamed.places[one])
        else:
            ranked = sorted(asked.maskable, key=lambda at: -sign * blamed.tokens[at])
        for step in check.steps:
            units = tuple(ranked[: step.size])
            field = {"hide": "hidden", "amplify": "amplified", "silence": "silenced"}[check.kind]
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
    few = plan._drawn("hide", [1, 2, 3], [1, 2, 3, 4])  # one other token alone: any three
    assert all(len(set(draw)) == 3 for draw in few)
