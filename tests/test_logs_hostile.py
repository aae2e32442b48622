"""Hostile logs: every row ends with a fate, nothing is fatal, nothing stands in memory; and the log that counts."""

import gzip
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrp_lens import InputError, read_cases
from lrp_lens.failures.logs.documents import members
from tests.benchmark_logs import (
    LM_EVAL_GENERATION,
    USER,
    fates,
    inspect_log,
    inspect_sample,
    lm_eval_choice,
    lm_eval_generation,
    write_json,
    write_lines,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("unchecked")  # rows are whatever users have


# ------------------------------------------------------------------------------------ hostile files
def test_hostile_lines_cost_themselves_only(tmp_path: Path) -> None:
    good = lm_eval_generation(0, "2 + 3?", "It is 6", 5, "none", 0.0)
    nan = lm_eval_choice(1, "x", ["a", "b"], [float("nan"), -1.0], 0)
    huge = json.dumps(good | {"doc_id": 2})[:-1] + ', "n": ' + "9" * 5000 + "}"
    nested = json.dumps(good | {"doc_id": 9})[:-1] + ', "n": ' + "[" * 9_000 + "]" * 9_000 + "}"
    deep = good | {"doc_id": 4, "arguments": {"gen_args_0": {"arg_0": {"arg_0": "x"}, "arg_1": {}}}}
    odd = good | {"doc_id": 5, "arguments": {"first": {"arg_0": "x"}}}
    surrogate = json.dumps(lm_eval_generation(6, "half \ud800 a character", "y", 5, "none", 0.0))
    rows: list[Any] = [
        b"\xef\xbb\xbf" + json.dumps(good).encode(), nan, huge, nested, deep, odd, surrogate, b'{"doc_id": "\xff"}',
        "{", "[1]", "null", "", json.dumps(good), good | {"doc_hash": "other"}, json.dumps(good)[:-9], b"\x00" * 40,
        lm_eval_choice(8, "x", ["a", "b"], [float("-inf"), -1.0], 0) | {"metrics": 3},
    ]  # fmt: skip
    log = read_cases(write_lines(tmp_path / LM_EVAL_GENERATION, rows))
    cases = list(log)
    wanted = {1: "case", 3: "bad", 2: "bad", 4: "bad", 5: "bad", 6: "bad", 7: "case", 8: "bad", 9: "bad", 10: "bad",
              11: "bad", 13: "duplicate", 14: "duplicate", 15: "bad", 16: "bad", 17: "bad"}  # fmt: skip
    assert dict(fates(log)) == wanted  # line 12 is blank
    reasons = {row.line: row.reason for row in log.rows}
    for line, words in (
        (2, "filtered_resps[0] is a number, got 'nan'"), (3, "no JSON: Exceeds the limit"), (4, "nested deeper"),
        (5, "messages, got"), (6, "numbered"), (8, "byte 12 of the line is 0xff"), (9, "no JSON"), (10, "missing here"),
        (13, "document 0 was read"), (14, "the same case as"), (15, "no JSON"), (17, "TypeError"),
    ):  # fmt: skip
        assert words in reasons[line], (line, reasons[line])
    assert cases[1].prompt == "half \ud800 a character"
    assert len({case.id for case in cases}) == len(cases)
    assert len(log.to_dataframe()) == 16 and log.coverage()["rows"].sum() == 16


def test_files_that_end_in_the_middle(tmp_path: Path) -> None:
    whole = json.dumps(inspect_log([inspect_sample(i, USER, f"{i}") for i in range(3)]))
    cut = tmp_path / "cut.json"
    cut.write_text(whole[: whole.index('"uuid": "u1"')])
    packed = tmp_path / "rows.jsonl.gz"
    numbers = np.random.default_rng(0).integers(0, 2**62, 3000)
    packed.write_bytes(gzip.compress(b"".join(b'{"prompt": "%d"}\n' % i for i in numbers))[:-500])
    table = tmp_path / "rows.parquet"
    table.write_bytes(b"PAR1 no table")
    other = write_lines(tmp_path / "rows.jsonl", [{"prompt": "still read"}])
    log = read_cases([cut, packed, table, other])
    said = [case.completion or case.prompt for case in log]
    assert said[0] == "0" and said[-1] == "still read" and len(said) > 1000
    bad = {Path(row.file).name: row for row in log.rows if row.fate == "bad"}
    assert sorted(bad) == ["cut.json", "rows.jsonl.gz", "rows.parquet"]
    assert all(row.reason.startswith("nothing is read from here on") for row in bad.values())
    assert bad["cut.json"].line == 2 and bad["rows.jsonl.gz"].line == len(said) - 1


def test_hostile_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'\xef\xbb\xbfprompt,completion,messages\r\n"two\nlines",x,\r\nshort\r\n\xff,x,\r\n\r\n,,"[{"\r\n'
        + b"z" * 200_000 + b",x,\r\n"
    )  # fmt: skip
    log = read_cases(path)
    cases = list(log)
    assert [(len(case.prompt), case.id) for case in cases] == [(9, "a.csv:2"), (200_000, "a.csv:8")]
    assert fates(log) == [(2, "case"), (4, "bad"), (5, "bad"), (7, "bad"), (8, "case")]
    assert __import__("csv").field_size_limit() == 131_072  # left as it was
    path.write_bytes(b"")
    assert fates(read_cases(path)) == [(0, "empty")]
    invalid = tmp_path / "b.json"
    invalid.write_bytes(
        b'[{"prompt": "\xff"}, {"prompt": "a"}, {"prompt": tru}, {"prompt": "b"}' + b" " * 40 + b"]"
    )
    log = read_cases(invalid)
    assert [case.prompt for case in log] == ["a"]
    assert [row.reason[:40] for row in log.rows if row.fate == "bad"] == [
        "not UTF-8", "nothing is read from here on: no JSON at",
    ]  # fmt: skip


def test_an_iterator_that_fails() -> None:
    def rows() -> Iterator[Any]:
        yield {"prompt": "a"}
        raise OSError("the disk is gone")

    log = read_cases(rows())
    assert repr(log) == "CaseLog of 1 sources, not read yet: go through it, or call coverage()"
    assert len(list(log)) == 1 and "OSError: the disk is gone" in log.rows[1].reason
    with pytest.raises(InputError, match="can be gone through once, and was"):
        list(log)
    assert len(log.rows) == 2  # what became of them is kept


def test_a_column_function_that_fails() -> None:
    log = read_cases([{"prompt": "a"}], columns={"id": lambda row: row["name"]})
    assert list(log) == [] and log.rows[0].reason == "KeyError: 'name'"


# ------------------------------------------------------------------------------------ the log
def test_ids_are_unique_and_stable(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "x"},
        {"id": "a", "prompt": "y"},
        {"id": "a", "prompt": "x"},
        {"prompt": "x"},
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    first, second, third = [case.id for case in read_cases(path)]
    assert first == "a" and second.startswith("a#") and len(second) == 10 and third == "a.jsonl:4"
    assert [case.id for case in read_cases(path)] == [first, second, third]
    assert [case.id for case in read_cases([path, path])] == [first, second, third]
    log = read_cases([path, path])
    assert [row.fate for row in log.rows] == ["case", "case", "duplicate", "case"] + ["duplicate"] * 4
    assert log.rows[2].reason == f"the same case as {path}:1" and log.rows[2].id == "a"


def test_the_log_counts_what_it_read(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "a"}, {"id": 1}, {"prompt": "b"}, "{"])
    log = read_cases([path])
    reading = iter(log)
    next(reading)
    assert repr(log) == "CaseLog of 1 rows so far: 1 case"
    assert len(log.rows) == 4  # read anew, and to the end
    next(reading)
    assert log.coverage().values.tolist() == [
        [str(path), "case", 2, 1, ""],
        [str(path), "bad", 2, 2, log.rows[1].reason],
    ]
    assert repr(log).splitlines()[0] == "CaseLog of 4 rows: 2 cases, 2 bad"
    assert f"{path}:2: bad: a row needs a prompt" in repr(log)
    assert log.to_dataframe().columns.tolist() == ["file", "line", "fate", "reason", "id"]
    assert [(row.line, case is None) for row, case in log.read()] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
    ]


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("nowhere.jsonl", {}, "no file or folder 'nowhere.jsonl'"),
        ([], {}, "at least one path or row"),
        (3, {}, "from paths or rows, got int"),
        (b"a", {}, "from paths or rows, got bytes"),
        (["tests", 3], {}, "no file or folder 3"),
        ("README.md", {}, "cannot tell the format"),
        ("pyproject.toml", {"format": "lm-eval"}, "Did you mean 'lm_eval'"),
        ([{"prompt": "a"}], {"columns": {"promt": "q"}}, "Did you mean 'prompt'"),
        ([{"prompt": "a"}], {"passages": ["a"]}, "have names"),
    ],
)
def test_wrong_calls(
    source: Any, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    with pytest.raises(InputError, match=words):
        read_cases(source, **options)


def test_an_empty_folder_and_a_format_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        read_cases(tmp_path)
    path = write_lines(tmp_path / "rows.txt", [{"prompt": "a"}])
    assert [case.prompt for case in read_cases(path, "jsonl")] == ["a"]
    assert [row.fate for row in read_cases(tmp_path).rows] == ["no log"]
    for name, value in (("x.json", [1]), ("y.json", {"a": 1}), ("z.json", 3)):
        with pytest.raises(InputError, match="cannot tell"):
            read_cases(write_json(tmp_path / name, value))


@pytest.mark.parametrize("kind", ["jsonl", "inspect", "rows"])
def test_rows_do_not_stand_in_memory(tmp_path: Path, kind: str) -> None:
    """300 rows of 20 kB are read in a small part of their 6 MB."""
    big = "x" * 20_000
    if kind == "rows":
        source: Any = ({"id": str(i), "prompt": f"{i} {big}"} for i in range(300))
    elif kind == "jsonl":
        source = write_lines(tmp_path / "a.jsonl", ({"prompt": f"{i} {big}"} for i in range(300)))
    else:
        source = tmp_path / "a.json"
        head = json.dumps(inspect_log([]))
        samples = (json.dumps(inspect_sample(i, USER, f"{i} {big}")) for i in range(300))
        source.write_text(head.replace('"samples": []', f'"samples": [{",".join(samples)}]'))
    tracemalloc.start()
    count = sum(1 for _ in read_cases(source))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 300 and peak < 1.5e6, peak


# ------------------------------------------------------------------------------------ documents
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["eval", "samples", "a"]), JSON),
    st.integers(1, 9),
    st.sampled_from([None, 2]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_members_are_those_of_json(tmp_path: Path, document: Any, chunk: int, indent: int | None) -> None:
    """Read in pieces of a few characters, against json.loads of the whole."""
    path = tmp_path / "document.json"
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=False), encoding="utf-8", newline="")
    whole = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {
        key: [] for key, value in whole.items() if key == "samples" and isinstance(value, list)
    }
    for member in members(path, {"samples"}, chunk=chunk):
        if member.number:
            assert member.number == len(found[member.key]) + 1
            found[member.key].append(member.value)
        else:
            found[member.key] = member.value
    assert found == whole


@pytest.mark.parametrize(
    "text", ["", "3", "{", '{"a"', '{"a": 1', '{"a": 1 "b": 2}', '{"a": }', "[1, 2", "[1 2]", '{"a": [1}']
)
@pytest.mark.parametrize("chunk", [1, 100])
def test_documents_that_are_none(tmp_path: Path, text: str, chunk: int) -> None:
    path = tmp_path / "document.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no JSON"):
        list(itertools.islice(members(path, {"a"}, chunk=chunk), 9))
