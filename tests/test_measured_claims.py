"""What is said of speed and memory: claims have a benchmark, pages show what was measured; the workers measure."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import _passes
from benchmarks._worker import Worker, in_turns, used
from benchmarks.all import claims
from benchmarks.all import run as all_run
from benchmarks.evidence.store import Store
from benchmarks.peers import run as peers_run
from benchmarks.peers import tables as peer_tables
from benchmarks.scaling import run as scaling_run
from benchmarks.scaling.figure import picture
from benchmarks.scaling.tables import every_table, exponent, exponents, medians

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


# ------------------------------------------------------------------------------------------------- claims
def test_every_sentence_of_speed_has_a_benchmark() -> None:
    said = [(page, one) for page, text in PAGES.items() for one in claims.sentences_of_speed(text)]
    assert len(said) > 20
    assert [pair for pair in said if not claims.covered(*pair)] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "A pass takes 0.7 s.",
        "It needs 3 GB.",
        "It is faster than lxt.",
        "It took a ninth of the processor time.",
        "| low | 2.5× |",
        "It takes two relevance passes.",
    ],
)
def test_a_new_claim_is_noticed(sentence: str) -> None:
    assert claims.sentences_of_speed(f"Something else.\n{sentence}") == [sentence]
    assert not claims.covered("README.md", sentence)


def test_claims_stand_where_they_are_said_to_and_their_benchmarks_exist() -> None:
    for claim in claims.CLAIMS:
        assert claim.quote in PAGES[claim.page], claim
    for page, quotes in claims.NO_CLAIMS.items():
        assert all(quote in PAGES[page] for quote in quotes), page
    shown = {name for names in claims.TABLES.values() for name in names}
    assert {claim.source for claim in claims.CLAIMS} | shown == {*claims.SOURCES}
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stderr.partition("one of: ")[2].strip().split(", ")
    for source in claims.SOURCES.values():
        assert source.quick.split()[0] == source.command.split()[0] and source.quick.split()[0] in names


def test_a_quick_run_shows_its_row_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    ok = claims.Source("x", "x", r"^Usage")
    assert all_run.run_quickly(ok, 60).startswith("failed with 2: Usage: python -m benchmarks NAME")
    assert all_run.run_quickly(ok, 0) == "not run: the time is up"
    assert all_run.run_quickly(claims.Source("x", "x", ".", "peers"), 60).startswith(
        "not run: needs make"
    ) or (peers_run.PYTHON.exists())
    monkeypatch.setattr(all_run, "version", lambda name: "3.9.0")
    assert all_run.lacking(claims.SOURCES["circuits"]) == "TransformerLens 4"
    monkeypatch.setattr(all_run, "version", lambda name: "4.3.0")
    assert all_run.lacking(claims.SOURCES["circuits"]) == ""


# ------------------------------------------------------------------------------------------- what is committed
@pytest.mark.parametrize(("name", "make"), [("scaling", every_table), ("peers", peer_tables.every_table)])
def test_committed_tables_are_those_of_the_committed_rows(name: str, make: Callable[..., str]) -> None:
    store = Store(RESULTS / name)
    assert make(store.every(name), store.options(name)) + "\n" == claims.committed(name)
    page = PAGES["docs/scaling.md"].splitlines()
    rows = [line for line in claims.committed(name).splitlines() if re.match(r"\| .*\d", line)]
    assert len(rows) > 5 and all(row in page for row in rows)


def test_readme_says_what_was_measured() -> None:
    rows = Store(RESULTS / "peers").every("peers")
    assert f"<!-- peers -->{peer_tables.sentence(rows)}<!-- end of peers -->" in PAGES["README.md"]


def test_readme_says_what_a_long_prompt_takes() -> None:
    rows = Store(RESULTS / "scaling").every("scaling").query("model == 'smollm2' and tokens == 8192")
    low, graph = (rows.set_index("work").loc[name] for name in ("low", "graph"))
    said = (
        f"every view of SmolLM2-135M took {low['peak_mb'] / 1000:.1f} GB above the model and {low['cpu']:.0f} "
        f"processor seconds of one thread, its state graph {graph['peak_mb'] / 1000:.1f} GB and {graph['cpu']:.0f} "
        "seconds."
    )
    assert said in PAGES["README.md"]


def test_estimates_are_within_a_quarter_of_what_was_taken() -> None:
    rows = Store(RESULTS / "scaling").every("scaling")
    found = medians(rows[rows["estimate_mb"].notna()])
    ratios = 1000 * found["peak"] / found["estimate_mb"]
    assert len(ratios) > 40 and ratios.between(0.75, 1.25).all(), found[~ratios.between(0.75, 1.25)]
    assert found.groupby(["model", "host"])["tokens"].nunique().ge(3).sum() >= 4


def test_the_page_says_what_a_large_model_takes() -> None:
    (row,) = Store(RESULTS / "scaling").every("scaling").query("model == 'qwen2-1.5b'").to_dict("records")
    assert row["tokens"] == 1024 and row["model_mb"] + row["peak_mb"] < 12_000
    said = (
        f"at 1,024 tokens took {row['cpu']:.0f} processor seconds and {row['peak_mb'] / 1000:.2f} GB above the "
        f"model's {row['model_mb'] / 1000:.2f} GB."
    )
    assert said in PAGES["docs/scaling.md"]


def test_the_page_shows_no_other_rows() -> None:
    known = {
        line for name in claims.TABLES["docs/scaling.md"] for line in claims.committed(name).splitlines()
    }
    shown = [line for line in PAGES["docs/scaling.md"].splitlines() if re.match(r"\| .*\d", line)]
    assert shown and set(shown) <= known


def test_the_figure_is_that_of_the_committed_rows() -> None:
    drawn = picture(Store(RESULTS / "scaling").every("scaling"))
    stored = (ROOT / "assets" / "scaling.svg").read_text(encoding="utf-8")
    assert stored == drawn + "\n" and "../assets/scaling.svg" in PAGES["docs/scaling.md"]


# ---------------------------------------------------------------------------------------------- tables, by hand
def made(model: str = "m", layers: int = 0) -> pd.DataFrame:
    """Time grows as n^1.5 and memory as n; the plain pass takes half the time."""
    rows = []
    for tokens in (128, 512, 1024, 2048):
        for turn, noise in enumerate((1.0, 3.0, 1.1)):
            for work, share in (("plain", 0.5), ("low", 1.0)):
                cpu = noise * share * tokens**1.5 / 1000
                rows.append({"tokens": tokens, "work": work, "turn": turn, "cpu": cpu, "wall": cpu})
                rows[-1] |= {
                    "peak_mb": 2.0 * tokens,
                    "estimate_mb": 2.2 * tokens if work == "low" else np.nan,
                }
                rows[-1] |= {"apart": 1e-6, "refused": np.nan, "model": model, "host": "h", "layers": layers}
        rows.append(
            {"tokens": tokens, "work": "full", "turn": 0, "refused": "would take 9 GB"} | {"model": model}
        )
        rows[-1] |= {"host": "h", "layers": layers}
    return pd.DataFrame(rows)


def test_ratios_are_of_neighbours_and_exponents_of_what_was_put_in() -> None:
    found = medians(made())
    low = found[found["work"] == "low"]
    np.testing.assert_allclose(low["ratio"], 2.0)  # however busy the machine was in a turn
    np.testing.assert_allclose(low["peak"], low["tokens"] * 2e-3)
    fitted = exponents(found, "tokens").set_index("work")
    assert fitted.loc["low", "tokens"] == "512 to 2,048 (3)"  # 128 tokens do not count
    np.testing.assert_allclose(fitted.loc["low", ["time", "memory"]].astype(float), [1.5, 1.0])
    layered = pd.concat(
        [made(layers=n).query("tokens == 512").assign(cpu=lambda t, n=n: t["cpu"] * n) for n in (2, 4)]
    )
    assert exponents(medians(layered), "layers")["time"].tolist() == pytest.approx([1.0, 1.0])
    assert np.isnan(exponent([512], [1.0]))
    text = every_table(made(), [{"turns": 3}])
    for words in ("would take 9 GB", "| 2,048 | ", "2.00× · ", "1e-06 of the largest"):
        assert words in text
    assert "the peak of m on h grows with the length to the power of 1.00" in text
    two = every_table(made().query("tokens != 2048"), [])
    assert "512 to 1,024 (2)" in two and "to the power of" not in two


def test_what_would_not_fit_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scaling_run.exceeds("full", 1024, {"full": 9.0}, {}) == 9.0
    assert scaling_run.exceeds("low tokens", 1024, {"low": 3.0}, {}) == 3.0
    assert scaling_run.exceeds("graph", 1024, {}, {"graph": (512, 100.0)}) == 400.0
    assert scaling_run.exceeds("graph", 512, {}, {}) == 0.0

    class Fake:
        def __init__(self) -> None:
            self.asked: list[str] = []

        def ask(self, work: str, tokens: int) -> dict[str, object]:
            self.asked.append(work)
            found = [9000.0] if work == "ask full" else [10.0] if work == "ask low" else [1.0, 2.0]
            if work == "graph":
                return {"refused": "no room"}
            return {"cpu": 1.0, "wall": 1.0, "peak_mb": 50.0, "found": found}

    worker, before = Fake(), dict[str, tuple[int, float]]()
    rows = scaling_run.measured(worker, 256, 2, 1000.0, before)  # type: ignore[arg-type]
    assert "full" not in worker.asked and worker.asked.count("low") == 2 and worker.asked.count("graph") == 1
    told = rows.set_index(["work", "turn"])["refused"]
    assert told["full", 0] == "would take 9 GB" and told["graph", 0] == "no room" and told["low", 1] == ""
    assert before["plain"] == (256, 50.0) and "graph" not in before and rows["estimate_mb"].max() == 9000


def test_goals_are_held_against_what_was_measured() -> None:
    def row(work: str, tokens: int, turn: int, cpu: float) -> dict[str, object]:
        return {
            "work": work,
            "tokens": tokens,
            "turn": turn,
            "cpu": cpu,
            "peak_mb": 100 * cpu,
            "refused": np.nan,
        }

    rows = pd.DataFrame(
        row(work, tokens, turn, noise * seconds)
        for tokens, ours in ((512, 3.0), (1024, 1.9), (2048, 2.2))
        for turn, noise in enumerate((1.0, 5.0))
        for work, seconds in (("TransformerBridge low", ours), ("lxt checkpointing", 2.0))
    )
    time, memory = peer_tables.goals(rows)
    assert time[1:] == ["≤ 1", "0.95 (1,024), 1.10 (2,048)", "1 of 2"]  # 512 tokens are below the goal's
    assert memory[1:] == ["≤ 1.25", "0.95 (1,024), 1.10 (2,048)", "2 of 2"]
    found = [{"work": "TransformerBridge full", "found": [1.0, -4.0]}, {"work": "lxt", "found": [1.0, -3.0]}]
    assert peers_run.agreement(found) == {"lxt": pytest.approx(1 / 3)}


def test_peers_missing_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make peers"):
        peers_run.peer_versions(tmp_path / "python")


# ---------------------------------------------------------------------------------------------------- workers
def test_peak_memory_and_time_are_those_of_the_work() -> None:
    def hold(megabytes: int) -> list[float]:
        return [float(np.ones(megabytes * 125_000).sum())]

    before = used(hold, 1, 0)["peak_mb"]
    big, small = used(hold, 100, 0), used(hold, 1, 0)
    assert 90 < big["peak_mb"] - before < 120 and abs(small["peak_mb"] - before) < 20  # the mark was set back
    assert big["found"] == [100 * 125_000] and 0 < big["cpu"] < 5
    assert used(lambda tokens: 1 // 0, 1, 0)["refused"].startswith("ZeroDivisionError")


def test_workers_take_turns_and_what_fails_is_not_asked_again() -> None:
    order: list[str] = []

    class Fake:
        def ask(self, work: str, tokens: int) -> dict[str, object]:
            order.append(work)
            return {"refused": "no"} if work == "b" else {"cpu": 1.0}

    one = Fake()
    rows = in_turns([("first", one, "a"), ("second", one, "b")], 64, 3)  # type: ignore[list-item]
    assert order == ["a", "b", "a", "a"] and [row["refused"] for row in rows] == ["", "no", "", ""]


def test_a_worker_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        Worker("benchmarks.no_such_module").ask("plain", 8)


def test_the_passes_of_a_tiny_model_agree_with_each_other() -> None:
    works = _passes.Passes(_passes.loaded("llama-small", "TransformerBridge")).works()
    full, low, alone = (works[name](24) for name in ("full", "low", "low tokens"))
    np.testing.assert_allclose(low, full, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(alone, low, rtol=1e-5, atol=1e-8)
    assert not np.allclose(works["plain"](24), full, atol=1e-3)  # the rules do something
    (all_of_it,), (bounded,) = works["ask full"](4096), works["ask low"](4096)
    assert bounded < all_of_it / 2


@pytest.mark.full
def test_a_worker_process_measures_a_pass() -> None:
    worker = Worker("benchmarks._passes", "qwen3-small", "TransformerBridge")
    first, second = (worker.ask("low", tokens) for tokens in (64, 512))
    assert first["cpu"] > 0 and second["peak_mb"] > first["peak_mb"] > 0 and worker.model_mb > 50
    assert worker.ask("low", 100_000)["refused"].startswith("InputError")  # longer than the model's context
    assert worker.close() == 0
