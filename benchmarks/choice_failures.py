"""Wrong choices of a model through triage, a hundred of a small language model: what it costs, and what it says.

1. The prompts of `benchmarks.evidence`, their development halves, and BLiMP's minimal pairs where the data is there: of
   each task in turn the next one at which the model gives the wrong answer more than one logit.  Of the demo model
   (`--model demo`) its own failures, which the package holds, of each suite in turn.
2. Each is a case that says what was chosen and what is right, as a log of multiple choice does, and goes through the
   core of `lrp-lens triage` (`triage_batch`) under its default options: decision, explanation, graph, verification,
   stability, repairs.
3. Processor seconds of each case are measured; the run goes on where it stopped, a row at a time.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._results import opened, tell, with_result_options
from benchmarks.decisions.tables import share, verdicts
from benchmarks.evidence.cases import MIN_GAP, answered
from benchmarks.evidence.ranking import markdown
from benchmarks.evidence.store import Store
from benchmarks.evidence.tasks import BLIMP, TASKS, Prompt, prompts
from lrp_lens import demo_cases, load_demo_model, load_model
from lrp_lens.cases import Case
from lrp_lens.failures.triage import TriageRow
from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.options import TriageOptions

RESULTS = Path(__file__).parent / "results" / "choice_failures"
DEMO = "demo"
_TOGETHER = 12


def wrong_choices(model: Any, tasks: dict[str, list[Prompt]]) -> Iterator[Case]:
    """The failures of each task in turn, as cases of two options, the right one first."""
    running = {task: _failures(model, asked) for task, asked in tasks.items()}
    while running:
        for task, one in list(running.items()):
            found = next(one, None)
            if found is None:
                del running[task]
            else:
                yield found


def _failures(model: Any, asked: list[Prompt]) -> Iterator[Case]:
    for start in range(0, len(asked), _TOGETHER):
        for number, one in enumerate(answered(model, asked[start : start + _TOGETHER]), start=start):
            if one.difference < -MIN_GAP:
                yield _as_choice(
                    one.case(), one.prompt.right, one.prompt.wrong, f"{one.prompt.task} {number}"
                )


def demo_failures() -> Iterator[Case]:
    """The demo model's failures, of each suite in turn, as such cases."""
    suites = dict[str, list[Case]]()
    for case in demo_cases():
        suites.setdefault(case.suite, []).append(case)
    for number, some in enumerate(zip_longest(*suites.values())):
        for case in some:
            if case is not None:
                yield _as_choice(case, case.contrast, case.target, f"{case.suite} {number}")


def _as_choice(case: Case, right: str, wrong: str, name: str) -> Case:
    """The case as a log of multiple choice tells it: the wrong one of two options was chosen."""
    return replace(case, target="", contrast="", choices=(right, wrong), right=0, chosen=1, id=name)


def measured(case: Case, row: TriageRow, seconds: float) -> dict[str, Any]:
    """The numbers of a row; no text of a prompt."""
    return {
        "case": case.id,
        "task": case.suite,
        "fate": row.fate,
        "tokens": row.n_tokens,
        "gap": row.gap,
        "verdict": row.verdict or np.nan,
        "pattern": row.pattern or np.nan,
        "confidence": row.confidence,
        "stable": row.stable,
        "flipped": row.flipped,
        "repaired": bool(row.repair),
        "seconds": seconds,
    }


def every_table(rows: pd.DataFrame) -> str:
    """All tables of the runs."""
    made = {"Cost": cost(rows)}
    for model, own in rows.groupby("model", sort=False):
        made |= {f"Verdicts, {model}": verdicts(own), f"Patterns and stability, {model}": patterns(own)}
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in made.items())


def cost(rows: pd.DataFrame) -> str:
    """Processor seconds a case, minutes of all and of a hundred, of each model."""
    lines = []
    for model, own in rows.groupby("model", sort=False):
        seconds = own["seconds"].to_numpy(dtype=np.float64)
        told = [f"{one:.1f}" for one in (*np.quantile(seconds, [0.5, 0.9]), seconds.max())]
        minutes = [f"{one / 60:.1f}" for one in (seconds.sum(), 100 * seconds.mean())]
        lines.append([str(model), str(len(own)), f"{own['tokens'].median():.0f}", *told, *minutes])
    header = [
        "model",
        "cases",
        "tokens (median)",
        "seconds (median)",
        "nine in ten below",
        "largest",
        "minutes in all",
        "minutes a hundred",
    ]
    return markdown(lines, header)


def patterns(rows: pd.DataFrame) -> str:
    """Patterns of the verified cases; how many verdicts are stable, how many cases a change of text repaired."""
    known = rows[rows["verdict"].notna()]
    lines = [[str(name), str(count)] for name, count in known["pattern"].value_counts().items()]
    lines.append(["verdict stable", share(known["stable"].astype(bool))])
    lines.append(["a change of the prompt made the right answer the first choice", share(known["repaired"])])
    return markdown(lines, ["of the verified", "cases"])


def main() -> None:
    """Measure what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help=f"a language model, or {DEMO!r}")
    parser.add_argument("--cases", type=int, default=100)
    options = with_result_options(parser, RESULTS).parse_args()
    store, keys = opened(options), ("choices", options.model)
    if not options.tables:
        measure(options, store, keys)
    tell(store.every("choices"), options.out, every_table)


def measure(options: argparse.Namespace, store: Store, keys: tuple[str, ...]) -> None:
    """The first cases, those left out that have a row."""
    model, cases = _asked(options)
    asked, head = TriageOptions(), {"options": TriageOptions().identity()}
    there = store.known(keys, head)
    known = set() if there is None else set(there["case"])
    for case in islice(cases, options.cases):
        if case.id not in known:
            start = time.process_time()
            (row,) = triage_batch(model, [case], asked)
            seconds = time.process_time() - start
            store.add(keys, head, {"model": options.model} | measured(case, row, seconds))
            print(f"{case.id}: {row.fate} {row.verdict} {seconds:.1f} s", flush=True)


def _asked(options: argparse.Namespace) -> tuple[Any, Iterator[Case]]:
    """The model, and its failures."""
    if options.model == DEMO:
        return load_demo_model(device="cpu"), demo_failures()
    model = load_model(options.model, device="cpu")
    names = [*TASKS, *(f"BLiMP {name}" for name in BLIMP if options.data.exists())]
    tasks = {task: prompts(task, [model.tokenizer], options.data)["development"] for task in names}
    return model, wrong_choices(model, tasks)


if __name__ == "__main__":
    main()
