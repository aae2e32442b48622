"""Rows of a triage, for the tests of its report: real ones of the demo model, and copies with other numbers."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lrp_lens import LogitDiff, attribution_graph, demo_cases, explain, load_demo_model, verify
from lrp_lens.failures.triage.folder import Folder
from lrp_lens.failures.triage.row import TriageRow, written

SUITES = ("override_four_facts", "ioi_second_pair_last")
EVIL = "</script><img src=x onerror=window.broken=1>\u202eשלום\x1b\ud800'\"&👩🏽‍🔬"


def write_folder(path: Path, rows: Iterable[TriageRow]) -> Path:
    """A folder as triage leaves it."""
    with Folder(path) as folder:
        folder.require_same({})
        for row in rows:
            folder.keep(row)
    return path


@cache
def real_rows() -> tuple[TriageRow, ...]:
    """Explained and verified cases, with their graphs."""
    model = load_demo_model(device="cpu")
    rows = []
    for number, suite in enumerate(SUITES):
        case = demo_cases(suite)[0]
        explanation = explain(model, case=case, seeds=5)
        found = verify(model, case, draws=6)
        graph = (
            attribution_graph(model, str(case.prompt), LogitDiff(case.target, case.contrast))
            .detached()
            .prune(mass=0.8)
        )
        with TemporaryDirectory() as folder:
            graph.save(f"{folder}/graph.safetensors")
            data = Path(folder, "graph.safetensors").read_bytes()
        rows.append(
            TriageRow(
                id=f"{suite}:0",
                number=number,
                fate="explained",
                file="demo.jsonl",
                line=number + 1,
                suite=suite,
                way="given",
                checked=True,
                target=case.target,
                contrast=case.contrast,
                gap=explanation.metric_value,
                metric_value=explanation.metric_value,
                target_rank=explanation.target.rank,
                contrast_rank=explanation.contrast.rank,
                verdict=str(found.verdict),
                pattern=str(found.pattern),
                confidence=found.confidence,
                stable=found.stable,
                flipped=found.hide.first("flip"),
                repair=str(found.repair or ""),
                n_tokens=len(explanation.token_strings),
                bos_share=0.25,
                segment_shares=written({"evidence": 0.25, "distractor": 0.5, "(rest)": 0.25}),
                seconds=written({"explain": 0.5, "verify": 1.0}),
                seconds_total=1.5,
                rules=explanation.rules,
                case=written(case.to_dict()),
                explanation=written(explanation.to_json_dict()),
                verification=written(found.to_dict()),
                graph=data,
            )
        )
    return tuple(rows)


def many_rows(count: int = 500) -> Iterator[TriageRow]:
    """So many rows: four in five explained, the others of every kind; then one of hostile text."""
    random, real = np.random.default_rng(0), real_rows()
    for number in range(count - 1):
        row = real[number % len(real)]
        gap = float(random.gamma(2.0, 2.0))
        if number % 5 == 4:
            few = TriageRow(
                id=f"other:{number}",
                number=number,
                fate="excluded",
                reason=f"the logit gap is {gap:.2f}, not above 9",
            )
            kinds = (
                replace(few, gap=gap, case=row.case, target="a", contrast="b", suite=row.suite),
                replace(few, fate="bad row", reason="a row needs a prompt", file="demo.jsonl", line=number),
                replace(
                    few, fate="not a failure", reason="the answer is accepted", case=row.case, suite=row.suite
                ),
            )
            yield kinds[number // 5 % len(kinds)]
            continue
        verdict = ("input", "graph", "none")[int(random.choice(3, p=[0.6, 0.25, 0.15]))]
        pattern = "neither" if verdict != "input" else ("overweighted irrelevant tokens", "both")[number % 2]
        yield replace(
            row,
            id=f"{row.suite}:{number}",
            number=number,
            gap=gap,
            metric_value=gap,
            verdict=verdict,
            pattern=pattern,
            confidence=float(random.uniform(0.6, 0.95)),
            stable=bool(number % 3),
            seconds_total=float(random.uniform(1, 9)),
        )
    yield hostile_row(count - 1)


def hostile_row(number: int = 0) -> TriageRow:
    """A row whose every text is markup and characters without a picture."""
    row = real_rows()[0]
    explained, found = json.loads(row.explanation), json.loads(row.verification)
    explained["claim"], explained["notes"] = EVIL, [EVIL]
    explained["target"]["text"] = explained["contrast"]["text"] = EVIL
    explained["views"]["tokens"]["labels"]["position"][3] = EVIL
    found["prompt"] = found["target"]["text"] = EVIL
    found["repairs"] = [{**one, "words": EVIL, "prompt": EVIL} for one in found["repairs"]]
    case = {**json.loads(row.case), "prompt": EVIL}
    texts = dict.fromkeys(("id", "suite", "file", "target", "contrast", "position", "repair", "rules"), EVIL)
    return replace(
        row,
        number=number,
        explanation=written(explained),
        verification=written(found),
        case=written(case),
        **texts,
    )
