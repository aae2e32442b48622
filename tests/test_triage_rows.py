"""Rows of a triage: what parquet gives back is what was written, whatever text they hold."""

from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest

from lrp_lens.errors import InputError
from lrp_lens.failures.triage.row import COLUMNS, TriageRow, read_rows, table, write_rows, written

HOSTILE = '</script><b onmouseover="x">\u202egnp.exe\u2069 \ud800 \x00\x1b[2J 🙃 سلام'

FULL = TriageRow(
    id=HOSTILE, number=7, fate="explained", file="a/b.jsonl", line=3, suite="gsm8k", way="pivot", checked=True,
    target=" 5", contrast=" 4", position="12", gap=1.25, metric_value=1.250001, target_rank=1, contrast_rank=2,
    verdict="input", pattern="both", confidence=0.9, stable=False, flipped=1, random_share=0.05, repair="hide 'x'",
    n_tokens=40, bos_share=0.5, segment_shares=written({HOSTILE: 0.5}), segment_relevance=written({HOSTILE: -0.5}),
    forwarded=900, seconds='{"views": 0.1}',
    seconds_total=0.1, rules="AttnLRP", content="ab", case=written({"prompt": HOSTILE}), decision="{}",
    explanation=written({"seconds": {"views": 0.1}, "metric": HOSTILE}), verification="{}", graph=b"\x00\xff",
)  # fmt: skip
BAD = TriageRow(id="b:9", number=8, fate="bad row", reason=HOSTILE, file="b", line=9)


def test_parquet_gives_back_the_rows_that_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [FULL, BAD])
    assert read_rows(tmp_path / "rows.parquet") == [FULL, BAD]
    assert all(getattr(FULL, one.name) not in ("", None, b"") for one in fields(FULL) if one.name != "reason")


def test_the_file_opens_in_pandas_with_numbers_as_numbers(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [FULL, BAD])
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert tuple(frame.columns) == COLUMNS
    assert frame["gap"].tolist()[0] == 1.25 and frame["gap"].isna().tolist() == [False, True]
    assert frame["fate"].tolist() == ["explained", "bad row"]
    assert table([FULL, BAD])["id"].tolist() == [FULL.id, "b:9"]


def test_some_columns_only(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [FULL, BAD])
    first, second = read_rows(tmp_path / "rows.parquet", ["gap"])
    assert (first.id, first.gap, first.case) == (FULL.id, 1.25, "")
    assert second.reason == BAD.reason


def test_lone_surrogates_stay_in_json_and_are_escaped_elsewhere() -> None:
    assert "\\ud800" in FULL.id and "\ud800" not in FULL.id
    assert "\\ud800" in FULL.case


def test_time_is_left_out_to_compare() -> None:
    later = replace(
        FULL, seconds='{"views": 0.3}', seconds_total=0.3, explanation=FULL.explanation.replace("0.1", "0.3")
    )
    assert later != FULL and later.without_time() == FULL.without_time()
    assert replace(later, gap=2.0).without_time() != FULL.without_time()


def test_a_row_that_is_not_explained_has_a_reason() -> None:
    with pytest.raises(InputError, match="row 'a' is 'error' without one"):
        TriageRow(id="a", number=0, fate="error")


def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"kind 'TriageRows/1'"):
        read_rows(tmp_path / "other.parquet")
    (tmp_path / "none.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="is a parquet file"):
        read_rows(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="nothing is at"):
        read_rows(tmp_path / "gone.parquet")
