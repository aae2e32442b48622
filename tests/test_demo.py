"""The demo model: its corpus, its training script, its checkpoint, its real failures."""

import json
import random
import re
import signal
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
import torch
import typer
from safetensors import safe_open
from typer.testing import CliRunner

from lrp_lens.cases import Case
from lrp_lens.demo import (
    DEMO_CHECKPOINT,
    REAL_MODELS,
    demo_cases,
    demo_prompts,
    load_demo_model,
    real_cases,
)
from lrp_lens.demo.loader import PROMPTS_FILE
from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import HAS_HOOKED_TRANSFORMER, load_model
from tests.conftest import REAL_HOSTS
from tools import real_failures
from tools.demo_model import batches, corpus, draw_prompts, evaluation, find_cases, further, tasks, training
from tools.demo_model.corpus import SECOND_MIXTURE, draw_document, is_held_out
from tools.demo_model.export import CONTEXT_LENGTH, demo_config
from tools.demo_model.suites import HARD_SUITES, SUITES, TRAINING_SUITES, held_out_prompts
from tools.demo_model.vocabulary import CAPITALS, TOKEN_IDS, UPPER_CASE, WORDS

HOSTS = ("HookedTransformer",) * HAS_HOOKED_TRANSFORMER + ("TransformerBridge",)
GENERATORS = [getattr(tasks, name) for name in tasks.__all__]


@pytest.fixture(scope="module")
def original():
    return evaluation.load_for_evaluation()


@pytest.fixture(scope="module", params=HOSTS)
def model(request):
    return load_demo_model(host=request.param, device="cpu")


# ---------------------------------------------------------------------------------------- the corpus
@pytest.mark.parametrize("generator", GENERATORS, ids=tasks.__all__)
def test_episodes_know_their_evidence(generator):
    rng = random.Random(0)
    for _ in range(150):
        episode = generator(rng)
        assert set(episode.words) <= set(WORDS)
        for answer in episode.answers:
            positions = [
                position
                for spans in answer.segments.values()
                for start, stop in spans
                for position in range(start, stop)
            ]
            assert len(set(positions)) == len(positions), "segments overlap"
            assert max(positions) < answer.position
            assert "evidence" in answer.segments
            assert answer.foil != episode.answer_word(answer)


def evidence_words(prompt):
    return [word for start, stop in prompt.segments["evidence"] for word in prompt.words[start:stop]]


def test_evidence_contains_what_the_answer_is_read_from():
    for suite in TRAINING_SUITES + HARD_SUITES:
        for prompt in held_out_prompts(suite, 12):
            evidence = evidence_words(prompt)
            if "upper_case" in suite.name:
                assert evidence == "answer in upper case .".split()
                ((start, stop),) = prompt.segments["distractor"]
                assert [UPPER_CASE[word] for word in prompt.words[start:stop]] == [prompt.answer]
            elif "agreement" in suite.name:
                assert len(evidence) == 2
            elif suite.name == "capital_fact":
                assert [CAPITALS[country] for country in evidence] == [prompt.answer]
            elif suite.name == "word_list" and prompt.answer in (",", "and"):
                assert evidence[:2] == ["list", "the"]
            else:
                assert prompt.answer in evidence


def test_stale_facts_are_the_distractor_of_updated_ones():
    for prompt in held_out_prompts(SUITES["facts_updated_four_times"], 50):
        key = prompt.words[-6:-4]
        assert prompt.words[-4:] == ("?", "answer", ":", "the")
        for _, stop in prompt.segments["distractor"] + prompt.segments["evidence"]:
            assert prompt.words[stop - 6 : stop - 4] == key
        when = prompt.words[prompt.words.index("question") + 4]
        stale = [start for start, _ in prompt.segments["distractor"]]
        ((fresh, _),) = prompt.segments["evidence"]
        assert fresh > max(stale) if when == "now" else fresh < min(stale)


def test_no_training_document_begins_with_a_held_out_prompt(monkeypatch):
    def beginnings():
        rng = random.Random(5)
        for _ in range(600):
            ids = draw_document(rng, ((tasks.agreement, 1.0),)).token_ids
            yield from (tuple(WORDS[index] for index in ids[1:stop]) for stop in range(3, 20))

    held_out = {prompt.words for prompt in held_out_prompts(SUITES["agreement"], 400)}
    assert not held_out.intersection(beginnings())
    monkeypatch.setattr(corpus, "is_held_out", lambda episode: False)
    assert held_out.intersection(beginnings())
    rng = random.Random(1)
    assert 0.05 < sum(is_held_out(tasks.indirect_object(rng)) for _ in range(1000)) / 1000 < 0.15


def test_documents_fit_and_start_with_bos():
    rng = random.Random(1)
    for _ in range(200):
        document = draw_document(rng, SECOND_MIXTURE)
        assert document.token_ids[0] == TOKEN_IDS["<bos>"]
        assert len(document.token_ids) <= 112
        assert all(0 < position < len(document.token_ids) for position, _ in document.answers)


def test_prompts_are_reproducible_different_and_short_enough():
    for suite in HARD_SUITES:
        prompts = [prompt.text for prompt in held_out_prompts(suite, 15)]
        assert prompts == [prompt.text for prompt in held_out_prompts(suite, 15)]
        assert len(set(prompts)) == 15
        assert max(len(text.split()) for text in prompts) < CONTEXT_LENGTH


# ---------------------------------------------------------------------------------------- training
def weights_of(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)


def train(folder, *options):
    app = typer.Typer()
    app.command()(training.main)
    sizes = ["--steps", "6", "--second-steps", "4", "--batch-tokens", "512", "--evaluate-every", "0"]
    return CliRunner().invoke(app, ["--out", str(folder), *sizes, *options])


@pytest.fixture
def interrupts():
    """A function that sets what Ctrl-C does, whatever the suite was started with; reset afterwards."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def interrupted_train(folder, monkeypatch, *options):
    """Train; after step 7 of 10 the process gets what Ctrl-C sends."""
    advance = training.Training.advance

    def interrupted(run):
        if run.total == 7:
            signal.raise_signal(signal.SIGINT)
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "advance", interrupted)
        return train(folder, *options)


def test_an_interrupted_training_run_ends_with_the_same_weights(tmp_path, monkeypatch, interrupts):
    assert train(tmp_path / "whole", "--keep-every", "5").exit_code == 0
    interrupts(signal.default_int_handler)
    stopped = interrupted_train(tmp_path / "parts", monkeypatch)
    assert stopped.exit_code == 130
    assert "stopped after step 8 of 10" in stopped.output
    assert not (tmp_path / "parts" / "checkpoint").exists()
    assert train(tmp_path / "parts", "--resume").exit_code == 0
    whole, parts = weights_of(tmp_path / "whole/checkpoint"), weights_of(tmp_path / "parts/checkpoint")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    kept = weights_of(tmp_path / "whole/steps/000005")
    assert not torch.equal(kept["lm_head.weight"], whole["lm_head.weight"])
    assert not any("bias" in name for name in whole)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_training_run_started_with_interrupts_ignored_ignores_them(tmp_path, monkeypatch, interrupts):
    """As `nohup` and a shell's `&` start it: Ctrl-C in that terminal is meant for another program."""
    interrupts(signal.SIG_IGN)
    assert interrupted_train(tmp_path / "run", monkeypatch).exit_code == 0
    assert (tmp_path / "run" / "checkpoint").exists()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_training_learns_and_logs(tmp_path):
    assert train(tmp_path / "run", "--evaluate-every", "5", "--evaluate-prompts", "4").exit_code == 0
    entries = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [5, 10]
    assert entries[0]["accuracy"].keys() == {suite.name for suite in TRAINING_SUITES}
    run = training.Training(training.stages(30, 0), batch_tokens=512)
    losses = [run.advance() for _ in range(30)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_training_refuses_to_mix_runs(tmp_path):
    assert "nothing to resume" in train(tmp_path / "run", "--resume").output
    assert train(tmp_path / "run").exit_code == 0
    assert "already holds a run" in train(tmp_path / "run").output
    other_seed = train(tmp_path / "run", "--resume", "--seed", "1")
    assert other_seed.exit_code == 2
    assert "can only be resumed" in other_seed.output


@pytest.mark.full
def test_training_further_keeps_checkpoints_and_spares_the_cases(tmp_path, monkeypatch):
    """From the weights that ship; the cases that a reader follows from one to the next are never trained on."""
    drawn, draw = [], batches.draw_document
    monkeypatch.setattr(batches, "draw_document", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    monkeypatch.setattr(batches, "POOL", 64)
    suite = "upper_case_six_facts"
    kept = further.train_further(suite, tmp_path / "one", keep=(0, 1, 3), batch_tokens=512)
    assert list(kept) == [0, 1, 3] and all(load_model(folder, device="cpu") for folder in kept.values())
    shipped, *later = (weights_of(folder) for folder in (DEMO_CHECKPOINT, *kept.values()))
    assert all(torch.equal(shipped[name], later[0][name]) for name in shipped)
    head = [one["lm_head.weight"] for one in later]
    assert not torch.equal(head[0], head[1]) and not torch.equal(head[1], head[2])
    again = further.train_further(suite, tmp_path / "two", keep=(3,), batch_tokens=512)
    assert torch.equal(weights_of(again[3])["lm_head.weight"], head[2])
    words = {index: word for word, index in TOKEN_IDS.items()}
    texts = [" ".join(words[one] for one in document.token_ids) for document in drawn]
    prompts = [case.prompt for case in demo_cases(suite, correct=None)]
    assert any(text.count("in upper case") for text in texts) and len(prompts) == 40
    assert not any(prompt in text for prompt in prompts for text in texts)
    with pytest.raises(InputError, match="'no such' is no suite"):
        further.train_further("no such", tmp_path / "three")


# ---------------------------------------------------------------------------------------- the checkpoint
def test_checkpoint_is_small_float16_and_without_biases():
    files = list(DEMO_CHECKPOINT.iterdir())
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    weights = weights_of(DEMO_CHECKPOINT)
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert not any("bias" in name for name in weights)
    assert 0.9e6 < sum(weight.numel() for weight in weights.values()) < 1.1e6
    config = json.loads((DEMO_CHECKPOINT / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] == demo_config().hidden_size


def test_every_host_says_the_same(model, original):
    prompts = [case.prompt for case in demo_cases(correct=None)[::7]]
    for prompt in prompts:
        tokens = model.to_tokens(prompt)
        with torch.no_grad():
            expected = original(input_ids=tokens).logits
            torch.testing.assert_close(model(tokens), expected, atol=2e-4, rtol=1e-4)


def test_every_bias_is_zero(model):
    biases = [
        parameter
        for name, parameter in model.named_parameters()
        if re.search(r"(^|[._])b(_[A-Za-z]+)?$|bias", name)
    ]
    assert all(not bias.any() for bias in biases)
    if type(model).__name__ == "HookedTransformer":
        assert len(biases) >= 6 * model.cfg.n_layers


def test_tokenizer_round_trips(model):
    assert model.to_tokens("mary gave").tolist() == [[0, TOKEN_IDS["mary"], TOKEN_IDS["gave"]]]
    assert model.to_tokens("mary gave", prepend_bos=False).tolist() == [
        [TOKEN_IDS["mary"], TOKEN_IDS["gave"]]
    ]
    for word in WORDS[3:]:
        assert model.to_single_token(word) == TOKEN_IDS[word]
        assert model.to_string(torch.tensor([TOKEN_IDS[word]])) == word
    for case in demo_cases(correct=None):
        tokens = model.to_tokens(case.prompt)
        assert model.to_string(tokens[0]) == f"<bos> {case.prompt}"
        assert model.to_str_tokens(case.prompt) == ["<bos>", *case.prompt.split()]


def test_tokenizer_special_words(model):
    assert (model.tokenizer.bos_token_id, model.tokenizer.pad_token_id, model.tokenizer.unk_token_id) == (
        0,
        1,
        2,
    )
    assert model.to_tokens("mary saw xyzzy").tolist()[0][-1] == 2
    assert len(model.tokenizer) == len(WORDS) == model.cfg.d_vocab
    right = model.to_tokens(["mary gave the", "john"]).tolist()
    left = model.to_tokens(["mary gave the", "john"], padding_side="left").tolist()
    assert right[1] == [0, TOKEN_IDS["john"], 1, 1]
    assert left[1] == [1, 1, 0, TOKEN_IDS["john"]]


def test_demo_model_is_quiet_and_ready(capsys):
    model = load_demo_model(device="cpu")
    assert type(model).__name__ == HOSTS[0]
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


# ---------------------------------------------------------------------------------------- accuracy
def test_the_model_is_good_at_what_it_was_trained_on(original):
    found = evaluation.accuracies(original, count=60)
    assert min(found.values()) > 0.9, found


def test_table_lists_every_suite(original):
    lines = evaluation.table(original, count=5).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == list(SUITES)


# ---------------------------------------------------------------------------------------- the cases
def test_enough_failures_and_as_many_correct_cases():
    failures = Counter(case.suite for case in demo_cases())
    correct = Counter(case.suite for case in demo_cases(correct=True))
    assert len(failures) >= 5
    assert min(failures.values()) >= 10
    assert failures == correct
    assert len(demo_cases(correct=None)) == 2 * len(demo_cases())
    assert set(failures) <= set(SUITES)


def last_logits(model, cases):
    """Each case with the logits behind its prompt; prompts of one length run together."""
    by_length = defaultdict(list)
    for case in cases:
        by_length[len(case.prompt.split())].append(case)
    for together in by_length.values():
        with torch.no_grad():
            logits = model(model.to_tokens([case.prompt for case in together]))[:, -1]
        yield from zip(together, logits, strict=True)


def test_every_case_is_what_it_says(model):
    for case, logits in last_logits(model, demo_cases(correct=None)):
        target, contrast = model.to_single_token(case.target), model.to_single_token(case.contrast)
        assert logits.argmax() == target
        gap = (logits[target] - logits[contrast]).item()
        assert gap == pytest.approx(case.logit_gap, abs=6e-4)  # stored to three decimals
        rank = int((logits > logits[model.to_single_token(case.answer)]).sum()) + 1
        assert rank == case.answer_rank
        if case.correct:
            assert rank == 1
            assert logits.topk(2).indices[1] == contrast
        else:
            assert 1 < rank <= 10
            assert case.logit_gap > 1


def test_segments_of_cases_are_disjoint_and_hold_the_answer():
    for case in demo_cases(correct=None):
        words = ["<bos>", *case.prompt.split()]
        spans = sorted(span for spans in case.segments.values() for span in spans)
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
        assert spans[0][0] >= 1
        assert spans[-1][1] <= len(words)
        assert {"evidence", "distractor"} <= set(case.segments)
        evidence = [word for start, stop in case.segments["evidence"] for word in words[start:stop]]
        if "upper" in case.suite:
            assert evidence == "answer in upper case .".split()
        elif "agreement" not in case.suite:
            assert case.answer in evidence


def test_cases_come_from_the_script(original):
    for suite in HARD_SUITES[:2]:
        cases = demo_cases(suite.name, correct=None)
        if cases:
            found = find_cases.find_cases(original, suite, most=10, prompts=200)
            assert [case.prompt for case in found[:10]] == [case.prompt for case in cases[:10]]


def test_prompts_come_from_the_script(unchecked):
    prompts = demo_prompts(1000)
    assert draw_prompts.drawn(1000) == json.loads(PROMPTS_FILE.read_text())
    assert len({prompt.text for prompt in prompts}) == 1000
    assert demo_prompts(7) == prompts[:7]
    for wrong in (0, 1001, True, 2.0):
        with pytest.raises(InputError, match=f"1 to 1000 demo prompts to be had, got count={wrong!r}"):
            demo_prompts(wrong)


@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_cases_are_mistakes_of_several_tasks(name):
    cases = real_cases(name)
    assert len({case.suite for case in cases}) >= 3 and len(cases) >= 10
    assert len({str(case.prompt) for case in cases}) == len(cases)
    for case in cases:
        assert not case.correct and case.logit_gap > 1 and 1 < case.answer_rank <= 10
        assert case.segments["evidence"] and case.target != case.contrast
        assert case.completion.endswith(case.target) if case.completion else isinstance(case.prompt, str)
        assert real_cases(name, case.suite)[0].suite == case.suite
    assert sum(case.suite == cases[0].suite for case in cases) <= real_failures.MOST


def test_no_real_cases_of_others():
    with pytest.raises(InputError, match="real cases of 'smollm2' and 'gemma3-270m', got model='gpt2'"):
        real_cases("gpt2")
    with pytest.raises(InputError, match=r"no real cases in a suite 'ioi'; the suites are \['reading"):
        real_cases("smollm2", "ioi")


@pytest.mark.parametrize("smollm2", REAL_HOSTS, indirect=True)
def test_smollm2_still_makes_these_mistakes(smollm2):
    assert_still_made(smollm2, "smollm2")


@pytest.mark.parametrize("gemma3_270m", REAL_HOSTS, indirect=True)
def test_gemma_still_makes_these_mistakes(gemma3_270m):
    assert_still_made(gemma3_270m, "gemma3-270m")


def assert_still_made(model, name):
    for case in real_cases(name):
        found = real_failures.what_it_says(model, case)
        assert found.logit_gap == pytest.approx(case.logit_gap, abs=3e-3), case  # stored to three decimals
        assert found.answer_rank == case.answer_rank


def test_unknown_suite_lists_the_suites():
    with pytest.raises(InputError, match=r"no demo cases in a suite 'ioi'; the suites are \['ioi_second"):
        demo_cases("ioi")


def test_one_suite_at_a_time():
    suite = demo_cases()[0].suite
    assert {case.suite for case in demo_cases(suite, correct=None)} == {suite}
    assert all(case.correct for case in demo_cases(suite, correct=True))


# ---------------------------------------------------------------------------------------- Case
FIELDS = dict(prompt="mary saw john", target="john", contrast="mary")


def test_case_round_trips_and_can_be_hashed():
    case = Case(**FIELDS, segments={"evidence": ((1, 2), (3, 4))}, logit_gap=1.5, answer_rank=2)
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case
    assert len({case, Case.from_dict(case.to_dict())}) == 1
    assert case.answer == "mary"
    for other in demo_cases(correct=None):
        assert Case.from_dict(other.to_dict()) == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "that is not empty, got ''"),
        ({"contrast": "john"}, "two different tokens, got target='john' and contrast='john'"),
        ({"target": ""}, "two different tokens"),
        ({"answer_rank": -1}, "counts from 1"),
        ({"segments": {"evidence": ((2, 2),)}}, r"segment 'evidence' must be non-empty.*got \(2, 2\)"),
        ({"segments": {"evidence": ((3, 4), (1, 2))}}, r"got \(1, 2\) after position 4"),
        ({"segments": {"evidence": ((-1, 2),)}}, "must be non-empty, in order"),
    ],
)
def test_impossible_cases_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Case(**FIELDS | changes)


def test_from_dict_names_the_fields():
    with pytest.raises(InputError, match=r"missing here: \['contrast'\], unknown here: \['kind'\]"):
        Case.from_dict({"prompt": "a", "target": "b", "kind": 1})
    with pytest.raises(InputError, match=r"segment 'evidence' needs \(start, stop\)"):
        Case.from_dict(FIELDS | {"segments": {"evidence": [3]}})
