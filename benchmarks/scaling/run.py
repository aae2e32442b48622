"""The command: a worker for each model and host, a file of results for each length, then tables and figure."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks._page import PAGE, block, pasted
from benchmarks._passes import HOSTS, Passes, loaded
from benchmarks._results import tell
from benchmarks._worker import ROOT, Worker, apart, in_turns, machine
from benchmarks.evidence.store import Store
from benchmarks.scaling.figure import picture
from benchmarks.scaling.tables import every_table
from lrp_lens.hosts.loading import HAS_HOOKED_TRANSFORMER

RESULTS, PICTURE = ROOT / "benchmarks" / "results" / "scaling", ROOT / "assets" / "scaling.svg"
MODELS = ("smollm2", "gpt2", "llama", "qwen3")
WORKS = ("plain", "full", "low", "low tokens", "graph")
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)
LAYERS, AT = (2, 4, 8, 16), 512
"""Layers of the Llama whose growth is fitted, and the length."""
QUICK = {"models": ["llama-small", "gpt2-small"], "tokens": [64, 128, 256], "turns": 1}
OFTEN = 256
"""Longer prompts are measured once."""


def exceeds(
    work: str, tokens: int, needed: Mapping[str, float], before: Mapping[str, tuple[int, float]]
) -> float:
    """MB that a piece of work would take: as `estimate` said, or grown with the square of the length; 0 if unknown."""
    if work in ("full", "low", "low tokens"):
        return needed.get("low" if work == "low tokens" else work, 0.0)
    last, peak = before.get(work, (tokens, 0.0))
    return peak * (tokens / last) ** 2


def measured(
    worker: Worker,
    tokens: int,
    turns: int,
    most_mb: float,
    before: dict[str, tuple[int, float]],
    works: Sequence[str] = WORKS,
) -> pd.DataFrame:
    """The rows of one length; `before` has the last length and peak of each piece of work, and gets the new ones."""
    needed = {}
    for way in ("full", "low"):
        answer = worker.ask(f"ask {way}", tokens)
        needed |= {way: answer["found"][0]} if "found" in answer else {}
    rows, asked = [], []
    for work in works:
        would = exceeds(work, tokens, needed, before)
        if would > most_mb:
            rows.append(
                {"tokens": tokens, "work": work, "turn": 0, "refused": f"would take {would / 1e3:.3g} GB"}
            )
        else:
            asked.append((work, worker, work))
    rows += in_turns(asked, tokens, turns if tokens <= OFTEN else 1)
    found = {row["work"]: row.pop("found", None) for row in rows}
    for row in rows:
        row["estimate_mb"] = needed.get(row["work"])
        if row["work"] == "low" and found.get("full") and found["low"]:
            row["apart"] = apart(found["low"], found["full"])
        if not row["refused"]:
            before[row["work"]] = (tokens, row["peak_mb"])
    columns = ["tokens", "work", "turn", "cpu", "wall", "peak_mb", "estimate_mb", "apart", "refused"]
    return pd.DataFrame(rows, columns=columns)


def subjects(
    models: Sequence[str], hosts: Sequence[str], layers: Sequence[int]
) -> Iterator[tuple[str, str, int]]:
    """Model, host and layers (0: as many as it has)."""
    for host in hosts:
        yield from ((model, host, 0) for model in models)
    for host in hosts:
        yield from (("llama", host, count) for count in layers)


def _rows(
    worker: Worker,
    tokens: int,
    options: argparse.Namespace,
    before: dict[str, tuple[int, float]],
    subject: Mapping[str, Any],
) -> pd.DataFrame:
    """`measured`, with whom it is of."""
    print(f"{', '.join(map(str, subject.values()))}: {tokens} tokens", flush=True)
    rows = measured(worker, tokens, options.turns, options.most_gb * 1e3, before, options.works)
    return rows.assign(**subject, model_mb=worker.model_mb)


def measure(options: argparse.Namespace, store: Store) -> None:
    """Everything that is not there yet."""
    head = {"rules": "ATTN_LRP", "threads": options.threads, "turns": options.turns, "machine": machine()}
    head |= {name: version(name) for name in ("torch", "transformer_lens", "transformers")}
    for model, host, layers in subjects(options.models, options.hosts, options.layers):
        extra = ["--layers", str(layers)] if layers else []
        worker = Worker("benchmarks._passes", model, host, *extra, threads=options.threads)
        before: dict[str, tuple[int, float]] = {}
        for tokens in [options.at] if layers else options.tokens:
            subject = {"model": model, "host": host, "layers": layers}
            make = partial(_rows, worker, tokens, options, before, subject)
            rows = store.rows(("scaling", *map(str, subject.values()), str(tokens)), head, make)
            done = rows[rows["refused"].isna()]
            before |= {work: (tokens, peak) for work, peak in zip(done["work"], done["peak_mb"], strict=True)}
        worker.close()


def asked_again(options: argparse.Namespace) -> None:
    """What `estimate` says now of what was measured, in place of what it said then."""
    files: dict[tuple[str, str, int], list[Path]] = {}
    for path in sorted(options.out.glob("scaling--*.csv")):
        first = pd.read_csv(path, skiprows=1).iloc[0]
        if first["model"] in options.models and first["host"] in options.hosts:
            files.setdefault((first["model"], first["host"], int(first["layers"])), []).append(path)
    for (model, host, layers), paths in files.items():
        passes = Passes(loaded(model, host, layers or None))  # type: ignore[arg-type]
        for path in paths:
            head, rows = path.read_text(encoding="utf-8").partition("\n")[0], pd.read_csv(path, skiprows=1)
            for way in ("full", "low"):
                if way in set(rows["work"]):
                    rows.loc[rows["work"] == way, "estimate_mb"] = passes.needed(int(rows["tokens"][0]), way)[
                        0
                    ]
            path.write_text(f"{head}\n{rows.to_csv(index=False, float_format='%.5g')}", encoding="utf-8")


def main() -> None:
    """Measure what is missing, then print and write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--hosts", nargs="+", default=list(HOSTS), choices=HOSTS)
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument(
        "--works", nargs="+", default=list(WORKS), choices=WORKS, help="of long prompts perhaps only some"
    )
    parser.add_argument(
        "--layers", nargs="*", type=int, default=list(LAYERS), help="of the Llama whose growth is fitted"
    )
    parser.add_argument("--at", type=int, default=AT, help="tokens at which layers are varied")
    parser.add_argument(
        "--turns", type=int, default=2, help=f"up to {OFTEN} tokens; longer prompts are measured once"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--most-gb", type=float, default=8.0, help="memory above the model that a pass may take"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two tiny models at three short lengths; keeps nothing"
    )
    parser.add_argument(
        "--tables", action="store_true", help="print the tables of what there is; measure nothing"
    )
    parser.add_argument(
        "--estimates", action="store_true", help="ask `estimate` again of what there is; measure nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if options.quick:
        options.layers = []
        vars(options).update(QUICK)
        options.out = options.out / "quick" if options.out == RESULTS else options.out
    if not HAS_HOOKED_TRANSFORMER:
        options.hosts = [host for host in options.hosts if host != "HookedTransformer"]
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.out)
    if options.estimates:
        asked_again(options)
    elif not options.tables:
        measure(options, store)
    rows = store.every("scaling")
    text = tell(rows, options.out, lambda found: every_table(found, store.options("scaling")))
    if not text:
        return
    drawn = PICTURE if options.out == RESULTS else options.out / PICTURE.name
    drawn.write_text(picture(rows) + "\n", encoding="utf-8")
    if options.out == RESULTS:
        pasted(PAGE, "scaling", block(text))
