"""The command: four workers, a file of results for each length, then tables and goals."""

import argparse
import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks._page import PAGE, README, block, pasted
from benchmarks._passes import HOSTS
from benchmarks._results import tell
from benchmarks._worker import ROOT, Worker, apart, in_turns, machine
from benchmarks.evidence.store import Store
from benchmarks.peers.tables import every_table, sentence
from lrp_lens.hosts.loading import HAS_HOOKED_TRANSFORMER, packages

RESULTS = ROOT / "benchmarks" / "results" / "peers"
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
TOKENS = (128, 256, 512, 1024, 2048)
OURS = ("plain", "full", "full tokens", "low", "low tokens")
THEIRS = {
    "lxt": ("lxt", "lxt checkpointing"),
    "captum": ("plain", "captum gradient × activation", "captum integrated gradients"),
}
SHORT = {"captum integrated gradients": 256}
"""Longest prompt of what takes many passes."""
OFTEN = 256
"""Longer prompts are measured once."""
VERSIONS = "import json, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in %r}))"


def peer_versions(python: Path) -> dict[str, str]:
    """What is installed there.

    Raises:
        SystemExit: if there is no such Python, or it lacks a peer; says what to do.
    """
    try:
        asked = VERSIONS % (("lxt", "captum", "transformers", "torch"),)
        found = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"lxt and captum run in an environment of their own, and {python} has them not. Run `make peers`, or "
            "install peers.txt into another environment and name its Python by --python."
        ) from error
    return dict(json.loads(found.stdout))


def agreement(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How far apart two rows of tokens are, of the largest: AttnLRP here and in lxt, plain gradients here and there."""
    found = {row["work"]: row["found"] for row in rows if row.get("found")}
    distances = {}
    for one, other in (("TransformerBridge full", "lxt"), ("TransformerBridge plain", "captum plain")):
        if one in found and other in found:
            distances[other] = apart(found[one], found[other])
    return distances


def named(worker: str, work: str) -> str:
    """How a piece of work is called in the results."""
    return work if work.startswith(worker) else f"{worker} {work}"


def measured(workers: dict[str, Worker], tokens: int, turns: int) -> pd.DataFrame:
    """The rows of one length."""
    asked = [
        (named(name, work), worker, work)
        for name, worker in workers.items()
        for work in THEIRS.get(name, OURS)
        if tokens <= SHORT.get(work, tokens)
    ]
    rows = in_turns(asked, tokens, turns if tokens <= OFTEN else 1)
    distances = agreement(rows)
    rows = [row | {"apart": distances.get(row["work"])} for row in rows]
    return pd.DataFrame(
        rows, columns=["tokens", "work", "turn", "cpu", "wall", "peak_mb", "apart", "refused"]
    )


def main() -> None:
    """Measure what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--hosts", nargs="+", default=list(HOSTS), choices=HOSTS, help="lrp_lens' hosts")
    parser.add_argument(
        "--turns", type=int, default=2, help=f"up to {OFTEN} tokens; longer prompts are measured once"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", type=Path, default=PYTHON, help="the peers' Python")
    parser.add_argument("--quick", action="store_true", help="64 tokens, one turn; keeps nothing")
    parser.add_argument(
        "--tables", action="store_true", help="print the tables of what there is; measure nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.turns = [64], 1
        options.out = options.out / "quick" if options.out == RESULTS else options.out
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.out)
    if not options.tables:
        head = {
            "machine": machine(),
            "threads": options.threads,
            "turns": options.turns,
            "torch": torch.__version__,
        }
        head |= {name: version(name) for name in ("transformer_lens", "transformers")}
        head |= {f"peers' {name}": one for name, one in peer_versions(options.python).items()}
        hosts = [host for host in options.hosts if HAS_HOOKED_TRANSFORMER or host == "TransformerBridge"]
        with packages.opened(packages.MODELS["smollm2"], torch.float32) as original:
            workers = {
                host: Worker("benchmarks._passes", "smollm2", host, threads=options.threads) for host in hosts
            } | {
                peer: Worker(
                    "benchmarks._peer_passes", str(original.directory), peer, python=options.python,
                    threads=options.threads,
                )
                for peer in THEIRS
            }  # fmt: skip
            for tokens in options.tokens:
                print(f"{tokens} tokens", flush=True)
                store.rows(
                    ("peers", str(tokens)),
                    head,
                    lambda tokens=tokens: measured(workers, tokens, options.turns),
                )
            for worker in workers.values():
                worker.close()
    rows = store.every("peers")
    text = tell(rows, options.out, lambda found: every_table(found, store.options("peers")))
    if text and options.out == RESULTS:
        pasted(PAGE, "peers", block(text))
        pasted(README, "peers", sentence(rows))
