"""The command: parts × models × tasks, then the tables."""

import argparse
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks._page import README, pasted
from benchmarks.evidence import ablation, parts, tables
from benchmarks.evidence.decision import MODELS, REPLACEMENTS, decide, decision_table, facts
from benchmarks.evidence.front import front
from benchmarks.evidence.methods import RULES
from benchmarks.evidence.recommendations import recommendation_table
from benchmarks.evidence.store import Store
from benchmarks.evidence.tasks import BLIMP, TASKS, prompts
from lrp_lens import load_model

PARTS = ("tokens", "shares", "heads", "missed", "components", "circuits", "stability")
RESULTS = Path(__file__).parent.parent / "results" / "evidence"
DATA = Path(__file__).parents[2].parent / "shared" / "data"
COUNTS = {
    "tokens": 10, "shares": 10, "heads": 4, "missed": 4, "components": 32, "circuits": 32, "stability": 100,
}  # fmt: skip
"""Cases of a task: right answers and failures each (twice); prompts; pairs of one group; pairs; judged pairs; pairs
that edges are scored on."""
QUICK = dict.fromkeys(PARTS, 2)


def measure(options: argparse.Namespace, store: Store) -> None:
    """Every part of every task that is not in the store."""
    names = dict.fromkeys(
        [*MODELS, *options.models]
    )  # all tokenizers choose the prompts, whoever is measured
    models: dict[str, Any] = {name: load_model(name, device="cpu") for name in names}
    for name in options.models:
        ask_rules(store, name, models[name])
    tokenizers = [model.tokenizer for model in models.values()]
    counts = (QUICK if options.quick else COUNTS) | dict(options.count)
    data = options.data if options.data.exists() else None
    blimp = [f"BLiMP {name}" for name in BLIMP] if data else []
    for task in sorted([*TASKS, *blimp], key="arithmetic".__eq__):  # the longest prompts last
        halves = prompts(task, tokenizers, data)
        for name in options.models:
            asked = parts.Task(models[name], halves, options.half)
            for part in options.parts:
                count = counts[part]
                keys = (part, name, task, options.half)
                if part == "tokens":
                    for replacement in REPLACEMENTS:
                        made = partial(
                            parts.tokens, asked, replacement=replacement, count=count, seed=options.seed
                        )
                        _rows(store, (*keys, replacement), options, count, made, checkpointed=True)
                elif part == "shares":
                    _rows(store, keys, options, count, partial(parts.shares, asked, count=count))
                elif part == "heads":
                    _rows(store, keys, options, count, partial(ablation.heads, asked, count=count))
                elif part == "missed" and task not in blimp:
                    made = partial(parts.missed, asked, count=count, seed=options.seed)
                    _rows(store, keys, options, count, made)
                elif part == "components" and task not in blimp:
                    made = partial(parts.components, asked, count=count)
                    _rows(store, keys, options, count, made, checkpointed=True)
                elif part == "circuits" and task == "indirect objects":
                    scored = counts["stability"]
                    made = partial(parts.circuits, asked, count=scored, judged=count)
                    _rows(store, keys, options, count, made, scored=scored)
                elif part == "stability" and task == "indirect objects":
                    made = partial(parts.circuit_stability, asked, count=count)
                    _rows(store, keys, options, count, made)


def ask_rules(store: Store, name: str, model: Any = None) -> None:
    """Keep what the rule sets say of themselves on a model; it is loaded if that is not known and it is not given."""

    def table() -> pd.DataFrame:
        found = facts(model or load_model(name, device="cpu"), RULES)
        found.insert(0, "model", name)
        return found

    store.rows(("rules", name), {}, table)


def part_count(text: str) -> tuple[str, int]:
    """ "tokens=5" → ("tokens", 5).

    Raises:
        argparse.ArgumentTypeError: no part, or a number below 2 (a comparison takes no single pair).
    """
    part, _, number = text.partition("=")
    if part not in PARTS or not number.isdecimal() or int(number) < 2:
        raise argparse.ArgumentTypeError(
            f"A count is part=number, with one of {', '.join(PARTS)} and a number of at least 2; received {text!r}."
        )
    return part, int(number)


def _rows(
    store: Store, keys: tuple[str, ...], options: argparse.Namespace, count: int, made: Callable[..., pd.DataFrame],
    *, scored: int = COUNTS["stability"], checkpointed: bool = False,
) -> None:  # fmt: skip
    names = dict(zip(("part", "model", "task", "half", "replacement"), keys, strict=False))
    print(f"{', '.join(keys)}", flush=True)
    checkpoint = store.path(*keys).with_suffix(".checkpoint")

    def table() -> pd.DataFrame:
        rows = made(checkpoint=checkpoint) if checkpointed else made()
        for position, (name, key) in enumerate(list(names.items())[1:]):
            rows.insert(position, name, key)
        return rows

    head = {"count": count, "seed": options.seed}
    if scored != COUNTS["stability"]:  # else it need not be said
        head["scored"] = scored
    store.rows(keys, head, table)
    shutil.rmtree(checkpoint, ignore_errors=True)


def show(store: Store, reference: str) -> str:
    """All tables that there are rows for."""
    makers: dict[str, list[tuple[str, Any]]] = {
        "tokens": [
            ("Tokens: does masking what a method blames change the preference?", tables.token_table),
            (
                "Tokens: paired differences",
                lambda rows: tables.token_differences(rows, reference, RULES),
            ),
            ("Tokens: ΔA by task", tables.task_table),
        ],
        "shares": [("Tokens: how much of the metric they hold together", tables.share_table)],
        "components": [
            ("Components: agreement with activation patching", tables.component_table),
            (
                "Components: paired differences",
                lambda rows: tables.component_differences(rows, "RELP", RULES),
            ),
            ("Components: ranks", partial(tables.component_table, statistic="spearman")),
            ("Components: signs", partial(tables.component_table, statistic="sign_agreement")),
            ("Components: slope", partial(tables.component_table, statistic="scale")),
        ],
        "heads": [("Heads: agreement with ablation", tables.head_table)],
        "missed": [("Heads that a method may have missed", tables.missed_table)],
        "circuits": [("Circuits of component edges", tables.circuit_table)],
        "stability": [("Are circuits the same with other prompts?", tables.stability_table)],
    }
    found = {part: store.every(part) for part in makers}
    decision = decide(found["tokens"], store.every("rules"))
    said = [
        f"## Recommended rule sets\n\n{recommendation_table(found, decision)}",
        f"## The default rule set\n\n{decision_table(decision, found['tokens'])}",
    ]
    for part, made in makers.items():
        rows = found[part]
        if len(rows):
            how = "; ".join(map(str, store.options(part)))
            count = store.options(part)[0]["count"]
            command = f"`python -m benchmarks evidence --parts {part} --count {part}={count}`"
            said += [f"## {title}\n\n{make(rows)}\n\nMade by {command}: {how}." for title, make in made]
    return "\n\n".join(said)


def main() -> None:
    """Measure what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--half", default="held out", choices=("development", "held out"))
    parser.add_argument(
        "--quick", action="store_true", help="two cases of each task, into a folder of their own"
    )
    parser.add_argument(
        "--count", nargs="+", default=[], type=part_count, metavar="part=number",
        help="other numbers of cases; a file remembers its own",
    )  # fmt: skip
    parser.add_argument(
        "--tables", action="store_true", help="print the tables of what there is; measure nothing"
    )
    parser.add_argument(
        "--reference", default="ATTN_LRP", help="rule set that paired differences are taken to"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the benchmark data, for BLiMP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    folder = options.out or (RESULTS.with_name("evidence-quick") if options.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    if not options.tables:
        measure(options, store)
    elif len(rows := store.every("tokens")):
        for name in rows["model"].unique():
            ask_rules(store, name)
    text = show(store, options.reference)
    (folder / "tables.md").write_text(text + "\n", encoding="utf-8")
    if folder.resolve() == RESULTS.resolve():
        for mark, said in front(store).items():
            pasted(README, mark, said)
    print(text)
