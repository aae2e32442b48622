"""An explanation comes back from its JSON as it was, whatever its tokens hold."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.failures.explain import explain
from lrp_lens.failures.explanation import Explanation
from lrp_lens.views import View


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return explain(load_demo_model(device="cpu"), case=demo_cases()[0], seeds=5)


def there_and_back(explanation: Explanation) -> Explanation:
    return Explanation.from_json_dict(json.loads(json.dumps(explanation.to_json_dict())))


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, View):
        for name in (field.name for field in fields(View)):
            assert_same(getattr(one, name), getattr(other, name))
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert type(one) is type(other) and one == other


def test_every_field_comes_back_exactly(explanation: Explanation) -> None:
    again = there_and_back(explanation)
    for name in (one.name for one in fields(Explanation)):
        if name != "masking":
            assert_same(getattr(explanation, name), getattr(again, name))
    assert again.masking.to_dict() == explanation.masking.to_dict()
    assert again.to_json_dict() == explanation.to_json_dict()
    assert repr(again) == repr(explanation) and again.top_words().equals(explanation.top_words())


def test_a_file_comes_back(explanation: Explanation, tmp_path: Path) -> None:
    page, numbers = explanation.save(tmp_path / "one")
    assert Explanation.load(numbers).to_json_dict() == explanation.to_json_dict()
    (tmp_path / "other.json").write_text('{"schema": "of something else"}')
    for path, words in (
        (page, "is read as JSON, and is none"),
        (tmp_path / "none.json", "Cannot read .*none.json"),
        (tmp_path, "Cannot read"),
        (tmp_path / "other.json", "received 'of something else'"),
    ):
        with pytest.raises(InputError, match=words):
            Explanation.load(path)


def test_a_chat_with_hostile_tokens_and_missing_values(explanation: Explanation) -> None:
    tokens, count = explanation.tokens, len(explanation.tokens)
    strings = tuple(f"\ud800</script>\u202e{at}" for at in range(count))
    values = tokens.values.copy()
    values[1] = np.nan
    odd = replace(
        tokens,
        values=values,
        labels={"position": strings},
        pieces=strings,
        spans={"message": {"user": ((1, 3), (4, 5))}},
        answer=np.array(["", "answer"] + [""] * (count - 2)),
        cautions=("mind",),
    )
    changed = replace(explanation, tokens=odd, segments=tokens.by({"user": (1, 3)}), correct=None, position=2)
    again = there_and_back(changed)
    assert_same(odd, again.tokens)
    assert_same(changed.segments, again.segments)
    assert (again.correct, again.position) == (None, 2)


@pytest.mark.parametrize("plain", [{"schema": "lrp_lens.explanation/1"}, {}])
def test_another_form_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"has the schema 'lrp_lens.explanation/4'; received"):
        Explanation.from_json_dict(plain)
