"""The command: prompts of each task in turn, a row each, then the tables."""

import argparse
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks._results import lines_in_order, opened, tell, with_result_options
from benchmarks.decisions.rows import Settings, row
from benchmarks.decisions.tables import every_table
from benchmarks.evidence.store import Store
from lrp_lens import load_model
from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.decision import GSM8K, Checker, IFEval, Number

TASKS = {"IFEval": "ifeval.jsonl", "GSM8K": "gsm8k.jsonl"}
RESULTS = Path(__file__).parent.parent / "results" / "decisions"


def has_harness() -> bool:
    """Whether lm-evaluation-harness is installed."""
    return importlib.util.find_spec("lm_eval") is not None


def prompts(task: str, data: Path, seed: int = 0) -> Iterator[tuple[Case, Checker]]:
    """The prompts of a task, in an order that a seed gives, with what checks them.

    Raises:
        InputError: IFEval without the harness, or no data.
    """
    path = data / TASKS[task]
    if not path.is_file():
        raise InputError(
            f"{task} is read from {TASKS[task]} in the folder of --data; there is none in {data.name!r}."
        )
    for index, line in lines_in_order(path, seed):
        found = json.loads(line)
        asked = found["prompt"] if task == "IFEval" else found["question"]
        messages = [{"role": "user", "content": asked}]
        if task == "GSM8K":
            checker: Checker = (
                GSM8K(found["answer"])
                if has_harness()
                else Number(float(found["answer"].rpartition("####")[2].strip().replace(",", "")))
            )
            yield Case(prompt=messages, id=str(index), suite=task), checker
        elif len(found["instruction_id_list"]) == 1:
            yield (
                Case(prompt=messages, id=str(found["key"]), suite=found["instruction_id_list"][0]),
                IFEval(found),
            )


def measure(model: Any, name: str, task: str, options: argparse.Namespace, store: Store) -> Iterator[int]:
    """Prompts of a task until there are enough failures; how many there are after each prompt.

    Raises:
        InputError: as `prompts`.
        ValueError: rows that were made with other settings.
    """
    settings = Settings(max_new_tokens=options.max_new_tokens, budget=options.budget, draws=options.draws)
    head = asdict(settings) | {"checker": "harness" if has_harness() else "last number"}
    keys, failures = ("decisions", name, task), 0
    there = store.known(keys, head)
    known = {} if there is None else dict(zip(there["case"].astype(str), there["failure"], strict=True))
    for number, (case, checker) in enumerate(prompts(task, options.data, settings.seed)):
        if failures >= options.failures or number >= options.limit:
            return
        if case.id not in known:
            made = row(model, case, checker, settings)
            store.add(keys, head, {"model": name, "task": task} | made)
            known[case.id] = made["failure"]
        failures += int(known[case.id])
        print(f"{task} {case.id}: {failures} failures of {number + 1}", flush=True)
        yield failures


def main() -> None:
    """Measure what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--failures", type=int, default=60, help="of each task")
    parser.add_argument("--limit", type=int, default=1000, help="prompts of each task at most")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--budget", type=int, default=3072, help="tokens that a search may run")
    parser.add_argument("--draws", type=int, default=20)
    options = with_result_options(parser, RESULTS).parse_args()
    store = opened(options)
    if not options.tables:
        model = load_model(options.model, device="cpu")
        running = {task: measure(model, options.model, task, options, store) for task in options.tasks}
        while running:  # in turn, so that a run that is stopped early has some of each
            for task, one in list(running.items()):
                try:
                    if next(one, None) is None:
                        del running[task]
                except InputError as missing:  # of the harness, or of the data: the other task needs neither
                    print(f"{task}: {missing}")
                    del running[task]
    tell(store.every("decisions"), options.out, every_table)
