"""Masked prompts that share what they begin with equal those run each by itself; tables go on where they stopped."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lrp_lens.errors import InputError
from lrp_lens.hosts import prefix
from lrp_lens.masking import MEASURES, Question, faithfulness
from lrp_lens.masking import replacement as replacement_module
from lrp_lens.masking.passes import passes
from lrp_lens.masking.questions import questions
from lrp_lens.masking.replacement import masked_logits, mean_embedding
from lrp_lens.methods import Method, as_method, integrated_gradients, relevance_method
from lrp_lens.metrics import LogitDiff, SequenceLogit, SequenceLogitDiff
from lrp_lens.rules import RELP, AttentionWeights
from tests import zoo
from tests.masked_alone import masked_alone, run_alone

HOSTS = ["bridge"] + ["hooked"] * zoo.HAS_HOOKED_TRANSFORMER


# ------------------------------------------------------------------------------------ the plan
def shared_with_the_row_before(rows: np.ndarray) -> list[int]:
    same = np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1)
    return [0, *same.sum(1).tolist()]


def run(rows: np.ndarray, planned: list[Any]) -> tuple[list[list[int]], int]:
    """What each row's pass would have seen, one after the other as `KeyValues` does; and how many tokens were run."""
    seen: list[list[int]] = []
    outputs, tokens = [], 0
    for one in planned:
        before = seen
        seen = []
        for row, parent in zip(one.rows, one.parents, strict=True):
            past = before[parent][: one.start] if one.start else []
            assert len(past) == one.start
            seen.append([*past, *rows[row, one.start : one.stop].tolist()])
        tokens += len(one.rows) * (one.stop - one.start)
        outputs += [seen[index] for index in one.wanted]
    return outputs, tokens


@pytest.mark.parametrize("seed", range(12))
def test_every_row_is_run_whole_and_nothing_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, length = int(rng.integers(1, 40)), int(rng.integers(2, 12))
    rows = (
        np.sort(rng.integers(0, 2, (count, length)).view(), axis=0)
        if seed % 2
        else rng.integers(0, 2, (count, length))
    )
    rows = rows[np.lexsort(rows.T[::-1])] if seed % 3 else rows  # any order is right, sorted ones are cheap
    latest = int(rng.integers(1, length))
    for at_once, tokens, costs in (
        (count, 10**6, 0),
        (3, 10**6, 0),
        (count, count * length, 7),
        (5, 5 * length, 10**6),
    ):
        planned = list(passes(shared_with_the_row_before(rows), length, latest, at_once, tokens, costs))
        outputs, ran = run(rows, planned)
        assert outputs == rows.tolist()
        assert all(one.start <= latest for one in planned if len(one.wanted))
        assert max(len(one.rows) * (one.stop - one.start) for one in planned) <= tokens
        if seed % 3 and (at_once, costs) == (count, 0) and latest == length - 1:
            nodes = sum(len({tuple(row[:stop]) for row in rows.tolist()}) for stop in range(1, length + 1))
            assert ran == nodes


def test_cuts_are_the_cheapest_of_all() -> None:
    """The path through all cuts, by brute force."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2, (30, 8))
    rows = rows[np.lexsort(rows.T[::-1])]
    starts = np.array([-1, *shared_with_the_row_before(rows)[1:]])

    def cost(stops: list[int], per_pass: int) -> float:
        total, begin = 0.0, 0
        for stop in stops:
            total += (starts < stop).sum() * (stop - begin + 0.01 * begin) + per_pass
            begin = stop
        return total

    ways = [[one for one in range(1, 8) if chosen >> one & 1] + [8] for chosen in range(0, 256, 2)]
    for per_pass in (0, 5, 20, 100, 1000):
        found = [one.stop for one in passes(shared_with_the_row_before(rows), 8, 7, 99, 10**6, per_pass)]
        assert cost(found, per_pass) == pytest.approx(min(cost(way, per_pass) for way in ways))


# ------------------------------------------------------------------------------------ the model
@pytest.mark.parametrize("host", HOSTS)
def test_logits_are_those_of_each_prompt_alone(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = zoo.shared(host, "gpt2"), np.random.default_rng(0)
    tokens = zoo.prompt_tokens(1, 9).expand(40, -1)
    masks = torch.as_tensor(np.unique(rng.random((40, 9)) < 0.5, axis=0))
    tokens = tokens[: len(masks)]
    mean = mean_embedding(model).expand(9, -1)
    expected = torch.stack(
        [masked_alone(model, ids, mask, mean) for ids, mask in zip(tokens, masks, strict=True)]
    )
    for at_once, costs in ((4096, 0), (4096, 100), (40, 0)):
        monkeypatch.setattr(replacement_module, "_TOKENS_AT_ONCE", at_once)
        monkeypatch.setattr(replacement_module, "_PASS_COSTS", costs)
        found = torch.cat(list(masked_logits(model, tokens, masks, mean, [-1, 7])))
        torch.testing.assert_close(found, expected[:, [8, 7]], atol=1e-9, rtol=0)
        early = torch.cat(list(masked_logits(model, tokens, masks, mean, [4])))
        torch.testing.assert_close(early, expected[:, [4]], atol=1e-9, rtol=0)
        some = torch.as_tensor(rng.permutation(len(masks))[:7])  # what else is in the batch changes nothing
        alone = torch.cat(list(masked_logits(model, tokens[some], masks[some], mean, [-1, 7])))
        torch.testing.assert_close(alone, found[some], atol=1e-9, rtol=0)

    forward = prefix.KeyValues.forward

    def mistaken(self: Any, ids: torch.Tensor, after: int = 0, rows: Any = None) -> torch.Tensor:
        return forward(self, ids, after, rows if rows is None else torch.zeros_like(rows))

    monkeypatch.setattr(prefix.KeyValues, "forward", mistaken)
    wrong = torch.cat(list(masked_logits(model, tokens, masks, mean, [-1, 7])))
    assert (wrong - expected[:, [8, 7]]).abs().max() > 1e-3


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("replacement", ["mean", "resample"])
def test_the_table_is_that_of_prompts_run_one_by_one(
    host: str, replacement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every method, prompts of different lengths, an answer of one token, of two, and two answers of two."""
    model = zoo.shared(host, "gpt2")
    cases = [zoo.prompt_tokens(1, length, seed=length)[0] for length in (6, 8, 5)]
    metrics = [LogitDiff(3, 7), SequenceLogit([4, 5]), SequenceLogitDiff([4, 5], [6, 8])]

    def table() -> Any:
        return faithfulness(model, cases, metric=metrics, replacement=replacement, steps=4, progress=False)

    monkeypatch.setattr(replacement_module, "_PASS_COSTS", 2)
    fast = table()
    monkeypatch.setattr(Question, "_run", run_alone)
    slow = table()
    pd.testing.assert_frame_equal(fast.cases, slow.cases, atol=1e-9, rtol=0)
    np.testing.assert_allclose(fast.morf.values, slow.morf.values, atol=1e-9)
    np.testing.assert_allclose(fast.lerf.values, slow.lerf.values, atol=1e-9)
    assert np.nanmax(np.abs(fast.cases["delta_a"])) > 1e-2


def test_no_masked_prompt_of_a_case_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = zoo.shared("bridge", "gpt2"), []
    original = Question._run
    monkeypatch.setattr(
        Question, "_run", lambda self, masks, tick: (ran.append(masks), original(self, masks, tick))[1]
    )
    faithfulness(model, zoo.prompt_tokens(1, 8)[0], metric=LogitDiff(3, 7), progress=False)
    rows = np.concatenate(ran)
    assert len(np.unique(rows, axis=0)) == len(rows) > 50
    assert (
        len(ran) <= 3
    )  # the whole prompt; all that can be known before; curves of scores that are made of masks


# ------------------------------------------------------------------------------------ the checkpoint
def scores(question: Question) -> np.ndarray:
    return np.cos(np.arange(len(question.tokens)) + question.seed % 7)


def table(path: Path | None, **changed: Any) -> Any:
    arguments: dict[str, Any] = dict(
        model=zoo.shared("bridge", "gpt2"),
        cases=[zoo.prompt_tokens(1, length)[0] for length in (6, 7, 8, 5)],
        methods=[Method("mine", tokens=scores), "RELP", integrated_gradients(3)],
        metric=LogitDiff(3, 7),
        steps=4,
        checkpoint=path,
        progress=False,
    )
    return faithfulness(**arguments | changed)


def test_an_interrupted_table_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "table", []
    original = Question.masked

    def impatient(self: Question, masks: np.ndarray, tick: Any = None) -> Any:
        asked.append(self.seed)
        if len(set(asked)) == 3 and len(masks) > 5:  # in the middle of the third case
            raise KeyboardInterrupt
        return original(self, masks, tick)

    with monkeypatch.context() as patch:
        patch.setattr(Question, "masked", impatient)
        assert table(path).notes == ("Interrupted after 2 of 4 cases.",)
    assert sorted(one.name for one in path.iterdir()) == ["case_0.safetensors", "case_1.safetensors"]
    started: list[int] = []
    monkeypatch.setattr(
        Question,
        "masked",
        lambda self, masks, tick=None: (started.append(self.seed), original(self, masks, tick))[1],
    )
    resumed, whole = table(path), table(None)
    assert len(set(started[: len(started) // 2])) < len(set(started)) == 4  # two were not run again
    pd.testing.assert_frame_equal(resumed.cases, whole.cases, check_exact=True)
    for side in ("morf", "lerf"):
        np.testing.assert_array_equal(getattr(resumed, side).values, getattr(whole, side).values)
    assert resumed.notes == () and set(resumed.seconds) == set(whole.seconds)
    started.clear()
    pd.testing.assert_frame_equal(table(path).cases, whole.cases, check_exact=True)
    assert not started  # it was finished


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(seed=1), "seed, cases"),
        (dict(metric=LogitDiff(3, 8)), "metric"),
        (dict(replacement="zero"), "replacement"),
        (dict(steps=5), "steps, limit or fractions"),
        (dict(mask_decision=True), "mask_decision, cases"),
        (dict(methods=["RELP", "random"]), "methods"),
    ],
)
def test_a_checkpoint_of_other_inputs_is_refused(changed: dict[str, Any], words: str, finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(InputError, match=f"written for other ({words})\\."):
        table(finished, **changed)
    assert contents(finished) == before


def test_checkpoints_of_other_models_rules_and_functions_are_refused(finished: Path) -> None:
    model = zoo.bridge("gpt2")
    with torch.no_grad():
        next(model.parameters())[2, 1] += 1  # one value of one parameter
    with pytest.raises(InputError, match="written for other model"):
        table(finished, model=model)
    with (
        zoo.shared("bridge", "gpt2").hooks(fwd_hooks=[("blocks.0.hook_mlp_out", halved)]),
        pytest.raises(InputError, match="written for other model"),
    ):
        table(finished)
    for other in (
        relevance_method(RELP.replace(attention=AttentionWeights(0, 0, 1))),  # if it has another name or not
        Method("RELP", tokens=scores),
    ):
        renamed = Method("RELP", tokens=other.tokens, cost="1F + 1B")
        with pytest.raises(InputError, match="written for other methods"):
            table(finished, methods=[Method("mine", tokens=scores), renamed, integrated_gradients(3)])


def test_a_damaged_case_is_made_again(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "damaged"))
    whole = contents(folder)["case_2.safetensors"]
    (folder / "case_2.safetensors").write_bytes(whole[:-9])
    with pytest.warns(UserWarning, match="is damaged.*case_2.damaged"):
        found = table(folder)
    pd.testing.assert_frame_equal(found.cases, table(finished).cases, check_exact=True)
    assert contents(folder)["case_2.damaged"] == whole[:-9]


def halved(activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return activation / 2


def contents(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "table"
    table(path)
    return path


# ------------------------------------------------------------------------------------ several cases at once
@pytest.mark.parametrize("rules", ["RELP", "GIM"])
def test_scores_of_several_questions_are_those_of_each(monkeypatch: pytest.MonkeyPatch, rules: str) -> None:
    from lrp_lens.run import over

    model = zoo.shared("bridge", "gpt2")
    prompts = [zoo.prompt_tokens(1, length, length)[0] for length in (6, 9, 5, 8)]
    asked, _ = questions(model, prompts, LogitDiff(3, 7), "mean", 0)
    method, run, passes = as_method(rules), over.relevance_run, []
    monkeypatch.setattr(
        over, "relevance_run", lambda *given, **named: passes.append(1) or run(*given, **named)
    )
    together = method.scores_of(asked)
    assert len(passes) == 1
    for question, found in zip(asked, together, strict=True):
        alone = method.token_scores(question)
        np.testing.assert_allclose(found, alone, atol=1e-6 * np.abs(alone).max(), rtol=0)
    other = method.token_scores(asked[3])  # control
    assert np.abs(together[1][:8] - other).max() > 1e-3 * np.abs(other).max()


def test_a_table_does_not_depend_on_how_many_cases_are_scored_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = table(None)
    monkeypatch.setattr(sys.modules["lrp_lens.masking.evaluate"], "WINDOW", 1)
    alone = table(None)
    for name in MEASURES:
        np.testing.assert_allclose(together.cases[name], alone.cases[name], atol=1e-5, err_msg=name)


def test_what_is_refused_in_the_middle_leaves_the_cases_before_it(tmp_path: Path) -> None:
    """Together the cases are refused as one; alone each in its turn, and those before it are kept."""

    def refused(question: Question) -> np.ndarray:
        if len(question.tokens) == 8:
            raise InputError("not this one")
        return np.arange(len(question.tokens))

    def together(asked: list[Question]) -> list[np.ndarray]:
        return [refused(question) for question in asked]

    path = tmp_path / "table"
    with pytest.raises(InputError, match="not this one"):
        table(path, methods=[Method("mine", tokens=refused, together=together)])
    assert sorted(one.name for one in path.iterdir()) == ["case_0.safetensors", "case_1.safetensors"]
