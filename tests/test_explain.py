"""explain: one preference, every view of it, and a check that can fail."""

import numpy as np
import pytest
import torch

from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError, MetricError, RuleError
from lrp_lens.failures.explain import explain
from lrp_lens.hosts.loading import HAS_HOOKED_TRANSFORMER
from lrp_lens.masking import Question
from lrp_lens.rules import CP_LRP, PRESETS, as_rule_set


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_demo_model(device="cpu")


@pytest.fixture(scope="module")
def explanation(model: torch.nn.Module):
    return explain(model, case=demo_cases()[0], seeds=3)


def test_the_two_tokens(explanation) -> None:
    case = demo_cases()[0]
    assert (explanation.target.text, explanation.contrast.text) == (case.target, case.contrast)
    assert explanation.target.rank == 1 and explanation.contrast.rank == case.answer_rank
    assert explanation.metric_value == pytest.approx(case.logit_gap, abs=6e-4)  # stored to three decimals
    assert explanation.metric_value == pytest.approx(explanation.target.logit - explanation.contrast.logit)
    probabilities = [one.probability for one in explanation.candidates]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1
    assert explanation.candidates[0] == explanation.target
    assert explanation.roles == ("target (wrong)", "contrast (right)")


def test_the_views(explanation, model: torch.nn.Module) -> None:
    n = len(explanation.token_strings)
    assert explanation.token_strings[0] == "<bos>" and n == len(explanation.prompt.split()) + 1
    assert explanation.tokens.shape == (n,) and explanation.tokens.dims == ("position",)
    assert explanation.tokens.special.tolist() == [True] + [False] * (n - 1)
    assert explanation.layers.dims == ("layer", "position") and explanation.layers.shape[1] == n
    assert explanation.heads.shape == (model.cfg.n_layers, model.cfg.n_heads)
    words = (explanation.target.text, explanation.contrast.text)
    views = (explanation.tokens, explanation.layers, explanation.heads, explanation.components)
    assert all(view.towards == words for view in views)
    np.testing.assert_allclose(explanation.layers.values[0], explanation.tokens.values, atol=1e-5)


def test_the_ledger_adds_up(explanation) -> None:
    assert explanation.ledger["amount"].sum() == pytest.approx(explanation.metric_value, abs=2e-5)
    assert abs(explanation.remainder) < 2e-5


def test_tables(explanation) -> None:
    assert explanation.top_heads(3)["label"].str.fullmatch(r"L\dH\d").all()
    mlps = explanation.top_mlps(9)
    assert mlps["component"].tolist() and mlps["component"].str.fullmatch(r"L\d MLP").all()
    assert mlps["value"].abs().is_monotonic_decreasing
    assert not explanation.top_tokens(3)["special"].any()


def test_the_check_masks_what_the_claim_names(explanation) -> None:
    steps = explanation.masking.steps
    assert steps[0].gap == pytest.approx(explanation.metric_value, abs=1e-4)
    assert steps[0].first_choice == explanation.target.text
    never = explanation.tokens.special.copy()
    never[-1] = True  # the answer is read there
    order = np.argsort(-np.where(never, -np.inf, explanation.tokens.values))
    assert [step.positions for step in steps[1:]] == [(at,) for at in order[: len(steps) - 1].tolist()]
    assert f"{steps[1].text!r} (position {steps[1].where}" in explanation.claim()


def test_right_and_wrong_only_where_a_case_knows(model: torch.nn.Module) -> None:
    known = explain(model, demo_cases(correct=True)[0], seeds=1)
    assert known.roles == ("target (right)", "contrast (wrong)") and known.to_json_dict()["correct"] is True
    failure = demo_cases()[0]
    assert explain(model, failure, seeds=1).to_json_dict()["correct"] is False
    asked = explain(model, failure.prompt, failure.contrast, failure.target, seeds=1)  # at rank 2 or below
    assert asked.target.rank > 1 and asked.roles == ("target", "contrast")
    assert asked.to_json_dict()["correct"] is None and "wrong" not in repr(asked)


def test_token_ids_are_prompts(model: torch.nn.Module) -> None:
    case = demo_cases()[0]
    ids = model.to_tokens(case.prompt)[0]
    text = explain(model, case.prompt, seeds=1)
    for prompt in (ids, ids[None], ids.tolist()):
        given = explain(model, prompt, seeds=1)
        assert given.masking == text.masking and given.prompt == "".join(given.token_strings)
        np.testing.assert_array_equal(given.tokens.values, text.tokens.values)


def test_bos_can_be_kept_away(model: torch.nn.Module) -> None:
    prompt = demo_cases()[0].prompt
    assert (
        explain(model, prompt, seeds=1).token_strings
        == explain(model, prompt, seeds=1, prepend_bos=True).token_strings
    )
    bare = explain(model, prompt, seeds=1, prepend_bos=False)
    assert bare.token_strings == explain(model, prompt, seeds=1).token_strings[1:]
    assert bare.masking.maskable == len(bare.token_strings) - 1


def test_one_forward_finds_the_tokens_and_the_relevance(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is unembedded but the last position, and no prompt is run twice."""
    shapes: list[tuple[int, ...]] = []
    handle = model.unembed.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.shape[:2]))
    )
    try:
        check = explain(model, demo_cases()[0].prompt, seeds=2).masking
    finally:
        handle.remove()
    assert all(read == 1 for _, read in shapes) and shapes[0] == (1, 1)
    distinct = 1 + (len(check.steps) - 1) * 3
    assert distinct - 3 <= sum(rows for rows, _ in shapes) <= distinct


def test_interruption_leaves_nothing_behind(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = model.to_tokens(demo_cases()[0].prompt)
    before = model(tokens)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Question, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explain(model, tokens, seeds=1)
    monkeypatch.undo()
    assert torch.equal(model(tokens), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_tokens_are_chosen_where_none_are_given(model: torch.nn.Module) -> None:
    prompt = demo_cases()[0].prompt
    chosen = explain(model, prompt, seeds=1)
    assert (chosen.target, chosen.contrast) == chosen.candidates[:2]
    assert chosen.notes == (
        "target: the model's first choice",
        "contrast: the model's best choice besides the target",
        *filter(None, chosen.tokens.cautions),
    )
    second = chosen.contrast.text
    other = explain(model, prompt, second, seeds=1)
    assert other.contrast == chosen.target
    assert f"the model's first choice is {chosen.target.text!r}, not the target" in other.notes
    assert not other.masking.overtaken and "ahead" not in str(other.masking)


def test_rule_sets_by_name(model: torch.nn.Module) -> None:
    assert explain(model, case=demo_cases()[0], rules="cp-lrp", seeds=1).rules == CP_LRP.name
    assert all(as_rule_set(name.lower().replace("_", "-")) is rules for name, rules in PRESETS.items())
    assert as_rule_set(CP_LRP) is CP_LRP
    with pytest.raises(RuleError, match=r"ATTN_LRP, CP_LRP, .*received 'magic'"):
        as_rule_set("magic")


@pytest.mark.skipif(not HAS_HOOKED_TRANSFORMER, reason="one host only")
def test_hosts_agree() -> None:
    case = demo_cases()[0]
    hosts = [load_demo_model(host=host, device="cpu") for host in ("HookedTransformer", "TransformerBridge")]
    one, two = [explain(host, case=case, seeds=2) for host in hosts]
    np.testing.assert_allclose(one.tokens.values, two.tokens.values, atol=1e-4)
    np.testing.assert_allclose(one.heads.values, two.heads.values, atol=1e-4)
    gaps = [[step.gap for step in masking.steps] for masking in (one.masking, two.masking)]
    np.testing.assert_allclose(gaps[0], gaps[1], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(), InputError, "needs a prompt"),
        (dict(prompt=""), InputError, "needs a prompt"),
        (dict(prompt="  "), InputError, "of which this tokenizer makes none"),
        (dict(prompt="lucy", case=demo_cases()[0]), InputError, "either the case or those"),
        (dict(prompt=demo_cases()[0], target="lucy"), InputError, "either the case or those"),
        (dict(prompt="lucy went", target="john", contrast="john"), InputError, "both are 'john'"),
        (dict(prompt="lucy went", target="zebra"), MetricError, "zebra"),
        (dict(prompt="lucy went", target="john zebra"), MetricError, "'john zebra' does not"),
        (dict(prompt="lucy went", target="john lucy", contrast="john"), MetricError, "one begins the other"),
        (dict(prompt="lucy went", top_k=0), InputError, "top_k ≥ 1"),
        (dict(prompt=torch.ones(2, 3, dtype=torch.long)), InputError, "one prompt; received a batch of 2"),
        (dict(prompt=[]), InputError, "at least one"),
        (dict(prompt=[1, 10**6]), InputError, "the vocabulary; received 1000000"),
    ],
)
def test_what_cannot_be_explained(
    model: torch.nn.Module, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explain(model, **arguments)


def test_the_right_token_is_already_first(model: torch.nn.Module) -> None:
    case = demo_cases()[0]
    with pytest.raises(InputError, match="first choice already is"):
        explain(model, case.prompt, contrast=case.target)


def test_unknown_words_are_mentioned(model: torch.nn.Module) -> None:
    notes = explain(model, "lucy saw a zebra", seeds=1).notes
    (said,) = [note for note in notes if "words the model does not know, at positions" in note]
    assert said.endswith("4")


def test_what_the_tokens_do_not_hold_is_a_note(model: torch.nn.Module) -> None:
    asked = ("then mary and john went to the park . john gave the key to", "mary", "john")
    lossy = explain(model, *asked, seeds=1, rules="ATTN_LRP")
    (said,) = lossy.tokens.cautions
    assert said.startswith("the tokens hold 29 % of the metric") and said in lossy.notes
    assert repr(lossy).count(said) == 1 and f"\n  caution: {said}" in repr(lossy)
    assert all(f"\n  note: {note}" in repr(lossy) for note in lossy.notes if note != said)
    kept = explain(model, *asked, seeds=1)
    assert kept.tokens.cautions == ("",) and not any("of the metric" in note for note in kept.notes)
    assert "caution" not in repr(kept)


def test_nothing_is_left_in_the_model(model: torch.nn.Module) -> None:
    tokens = model.to_tokens(demo_cases()[0].prompt)
    before = model(tokens)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    explain(model, case=demo_cases()[0], seeds=1)
    assert torch.equal(model(tokens), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())
