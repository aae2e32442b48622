"""Progress bars: where somebody looks on, when it takes long, and nobody else's."""

import io
import sys
from typing import Any

import pytest
import transformer_lens.patching

from lrp_lens import GRADIENT, LogitDiff, attribution_graph, compare, faithfulness, load_demo_model, progress
from lrp_lens.circuits import circuit_curve, component_edges, run_circuits
from lrp_lens.demo import demo_cases
from lrp_lens.errors import InputError
from lrp_lens.failures.explain import explain
from lrp_lens.patching import get_act_patch_mlp_out, suggest_rules

TEXT = "{} gave the key to"
CLEAN, CORRUPTED = [TEXT.format("john")] * 2, [TEXT.format("emma")] * 2
METRIC = LogitDiff("mary", "john")


class Terminal(io.StringIO):
    """Where a bar may be shown."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def model() -> Any:
    return load_demo_model(device="cpu")


def everything(model: Any, show: Any) -> dict[str, Any]:
    """Every call that has a bar, by the words in front of the bar."""
    pair = (model, CLEAN, CORRUPTED, METRIC)

    def edges() -> Any:
        return component_edges(*pair, rules=GRADIENT, steps=2, progress=show)

    quiet = component_edges(*pair, rules=GRADIENT, progress=False)
    options: dict[str, Any] = dict(sites="mlp_out", methods="GRADIENT", samples=0, ks=1, progress=show)
    four = (model, CLEAN * 2, CORRUPTED * 2, METRIC)
    return {
        "mlp_out": lambda: compare(*pair, engine="transformer_lens", **options),
        "methods": lambda: compare(*pair, engine="batched", **options),
        "mlp_out ": lambda: suggest_rules(*four, sites=["mlp_out"], progress=show),
        "mlp_out  ": lambda: get_act_patch_mlp_out(*pair[:1], CORRUPTED, CLEAN, METRIC, progress=show),
        "steps": edges,
        "circuits": lambda: run_circuits(model, quiet.top(9), *pair[1:], progress=show),
        "circuits ": lambda: circuit_curve(
            model, quiet, *pair[1:], fractions=[0.1, 1.0], n_resamples=9, progress=show
        ),
        "edges": lambda: attribution_graph(model, CLEAN[0], METRIC, progress=show),
        "faithfulness": lambda: faithfulness(model, CLEAN[0], "GRADIENT", progress=show),
    }


def test_a_bar_is_shown_when_asked_for_and_otherwise_only_where_it_is_seen_and_takes_long(
    model: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0)
    for words, call in everything(model, None).items():
        call()  # no terminal here: nothing, no bar of the host's either
        shown = capsys.readouterr()
        assert shown.out + shown.err == "", words
    for words, call in everything(model, True).items():
        call()
        assert f"{words.strip()}:" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    everything(model, False)["mlp_out"]()
    monkeypatch.setattr(progress, "PATIENCE", 3600)
    everything(model, None)["mlp_out"]()  # it is quick
    assert terminal.getvalue() == ""
    monkeypatch.setattr(progress, "PATIENCE", 0)
    everything(model, None)["mlp_out"]()
    assert "mlp_out:" in terminal.getvalue()


def test_the_host_library_keeps_its_own_bar(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = transformer_lens.patching.tqdm
    compare(model, CLEAN, CORRUPTED, METRIC, sites="mlp_out", methods="GRADIENT", samples=0, ks=1)
    assert transformer_lens.patching.tqdm is before
    assert capsys.readouterr().err == ""
    _, cache = model.run_with_cache(CLEAN)
    tokens = model.to_tokens(CORRUPTED)
    transformer_lens.patching.get_act_patch_mlp_out(model, tokens, cache, lambda logits: logits[0, -1, 0])
    assert "24/24" in capsys.readouterr().err


@pytest.mark.usefixtures("unchecked")
def test_another_answer_than_yes_or_no_is_refused_before_anything_runs(model: Any) -> None:
    for words, call in everything(model, "yes").items():
        with pytest.raises(InputError, match=r"progress is True, False or None .* received 'yes'"):
            call()
        assert words


def test_a_notebook_is_watched_and_a_process_without_stderr_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not progress.watched()
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress.watched()
    monkeypatch.setattr(progress, "notebook_tqdm", object)
    assert progress.watched()


def written(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, wait: float, **options: object) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE", wait)
    monkeypatch.setattr(progress, "LINE_EVERY", wait)
    with progress.progress_bar(None, 3, "masking", unit="prompt", **options) as bar:
        for _ in range(3):
            bar.update(1)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "wait", "show", "disabled", "shown"),
    [
        (io.StringIO, 0.0, None, "", True),
        (io.StringIO, 0.0, True, "1", True),
        (io.StringIO, 0.0, None, "1", False),
        (io.StringIO, 0.0, False, "", False),
        (io.StringIO, 60.0, None, "", False),
        (Terminal, 0.0, None, "", True),
        (Terminal, 0.0, False, "", False),
        (Terminal, 60.0, None, "", False),
    ],
)
def test_where_progress_shows(
    monkeypatch: pytest.MonkeyPatch, stream: type, wait: float, show: bool | None, disabled: str, shown: bool
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    text = written(monkeypatch, stream(), wait, show=show)
    assert ("masking" in text) == shown, text
    if shown and stream is io.StringIO:  # lines, no control characters
        assert "masking: 2 of 3" in text and "\r" not in text and "\x1b" not in text
        assert all(line.startswith("masking: ") for line in text.splitlines())
    if shown and stream is Terminal:  # the bar is wiped away
        assert "/3 [" in text and text.endswith("\r")


def test_explain_shows_its_masking(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    model, case = load_demo_model(device="cpu"), demo_cases()[0]
    explain(model, case, seeds=2, progress=False)
    assert stream.getvalue() == ""
    explain(model, case, seeds=2, progress=True)
    assert "masking: " in stream.getvalue()
