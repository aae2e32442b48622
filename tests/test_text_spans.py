"""Passages among tokens: those that have a character of them, in texts and in messages, on a real template, too."""

from typing import Any

import pytest

from lrp_lens import Case, InputError, case_segments, faithfulness, load_demo_model, load_model, tokenize
from lrp_lens.hosts.vocabulary import TextWarning
from tests.chat_model import TEMPLATE, TRIMMED, save_chat_model

pytestmark = pytest.mark.usefixtures("unchecked")  # passages are written short
SPOKEN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  32 the 👍 he\n\n"},
    {"role": "user", "content": "he 32"},
]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(
        save_chat_model(tmp_path_factory.mktemp("chat")), host="TransformerBridge", device="cpu"
    )


def said(model: Any, case: Case) -> dict[str, list[str]]:
    """The text of each span of each segment."""
    ids = tokenize(model, case.prompt).ids[0]
    spans = case_segments(model, case)
    return {name: [model.tokenizer.decode(ids[a:b]) for a, b in found] for name, found in spans.items()}


@pytest.mark.parametrize("template", [TEMPLATE, TRIMMED])
def test_passages_of_messages(chat: Any, monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setattr(chat.tokenizer, "chat_template", template)
    passages = {
        "number": "32", "rule": {"message": 0}, "thumb": {"message": 1, "regex": "👍"}, "he": {"regex": r"\bhe\b"},
        "start": {"message": -1, "characters": [0, 1]}, "none": "zzz",
    }  # fmt: skip
    found = said(chat, Case(prompt=SPOKEN, passages=passages))
    assert found == {
        "number": ["32", "32"], "rule": ["Be brief."], "thumb": ["👍"], "he": ["he", "he"],
        "start": ["he"],  # "he" is one token, and its first character is asked for
    }  # fmt: skip


def test_every_token_with_a_character_of_it_and_no_other(chat: Any) -> None:
    """A literal search over all spans of a text: one byte is one token here, "32" and "he" aside."""
    text = "a 32 he 3"
    widths = [1, 1, 2, 1, 2, 1, 1]
    edges = [0]
    for width in widths:
        edges.append(edges[-1] + width)
    for start in range(len(text)):
        for stop in range(start + 1, len(text) + 1):
            case = Case(prompt=text, passages={"x": {"characters": [start, stop]}})
            covered = [i for i, edge in enumerate(edges[:-1]) if edge < stop and edge + widths[i] > start]
            ((first, behind),) = case_segments(chat, case)["x"]
            before = tokenize(chat, text).ids.shape[1] - len(widths)
            assert list(range(first, behind)) == [before + i for i in covered]


def test_a_text_that_begins_with_bos_gets_no_second_one(chat: Any) -> None:
    """A log's prompt often comes out of a template already."""
    bos = chat.tokenizer.bos_token
    plain = Case(prompt="say 32", passages={"n": "32"})
    begun = Case(prompt=f"{bos}say 32", passages={"n": "32", "bos": {"characters": [0, len(bos)]}})
    with pytest.warns(TextWarning, match="begins with '<s>' already"):
        found, spans, batch = said(chat, begun), case_segments(chat, begun), tokenize(chat, begun.prompt)
    ids, (behind,) = batch.ids[0].tolist(), spans["n"]
    assert ids.count(chat.tokenizer.bos_token_id) == 1
    assert found == {"n": ["32"], "bos": [bos]} and said(chat, plain) == {"n": ["32"]}
    assert behind[1] == len(ids)


def test_segments_and_passages_are_one_table(chat: Any) -> None:
    at = tokenize(chat, "a 32 he").strings[0].index("32")
    case = Case(prompt="a 32 he", segments={"n": ((0, 1),), "own": ((1, 3),)}, passages={"n": "32"})
    assert at > 1 and case_segments(chat, case) == {"n": ((0, 1), (at, at + 1)), "own": ((1, 3),)}
    assert case_segments(chat, Case(prompt="a", segments={"own": ((0, 1),)})) == {"own": ((0, 1),)}


def test_evidence_may_be_a_passage() -> None:
    model = load_demo_model(device="cpu")
    fields = {
        "prompt": "then mary and john went home . john gave the key to",
        "target": "john",
        "contrast": "mary",
    }
    tables = [
        faithfulness(model, [Case(**fields, **evidence)], ["ATTN_LRP"], steps=2, limit=1).cases
        for evidence in ({"segments": {"evidence": ((2, 3),)}}, {"passages": {"evidence": "mary"}}, {})
    ]
    kept = [column for column in tables[0].columns if "evidence" in column]
    assert kept
    assert tables[0][kept].equals(tables[1][kept]) and not tables[0][kept].equals(tables[2][kept])


def test_where_nobody_can_say(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = TEMPLATE.replace("m['content']", "(m['content'] | upper)")
    monkeypatch.setattr(chat.tokenizer, "chat_template", changed)
    with pytest.raises(InputError, match="this one changes them"):
        case_segments(chat, Case(prompt=SPOKEN, passages={"n": "32"}))
    case = Case(prompt="say 32", passages={"n": "32"})
    monkeypatch.setattr(type(chat.tokenizer), "is_fast", False)
    with pytest.raises(InputError, match="by a fast tokenizer"):
        case_segments(chat, case)


@pytest.mark.real
def test_on_a_real_template(smollm2: Any) -> None:
    asked = [{"role": "user", "content": "Name three primes below 20, no commas. Use 3 lines."}]
    case = Case(prompt=asked, passages={"rule": "no commas", "numbers": "[0-9]+", "all": {"message": 0}})
    found = said(smollm2, case)
    assert found["rule"] == [" no commas"] and "".join(found["all"]) == asked[0]["content"]
    assert [one.strip() for one in found["numbers"]] == ["20", "3"]
