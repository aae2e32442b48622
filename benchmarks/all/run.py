"""The command: the list of claims; with --quick each of their benchmarks, small."""

import argparse
import re
import subprocess
import sys
import time
from importlib.metadata import version

from benchmarks._worker import ROOT
from benchmarks.all.claims import CLAIMS, SOURCES, Source
from benchmarks.peers.run import PYTHON
from benchmarks.scaling.tables import table
from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import packages

SHOWN = 8
"""Lines of a benchmark's output, at most."""


def lacking(source: Source) -> str:
    """What a benchmark needs and this machine has not, "" if nothing."""
    if source.needs == "TransformerLens 4" and version("transformer_lens") < "4":
        return "TransformerLens 4"
    if source.needs in ("models", "peers"):
        try:
            packages.installed_parts(packages.MODELS["smollm2"])
        except InputError:
            return "make models"
    if source.needs == "peers" and not PYTHON.exists():
        return "make peers"
    return ""


def run_quickly(source: Source, seconds: float) -> str:
    """What a benchmark printed of interest, or why it did not."""
    missing = lacking(source)
    if missing:
        return f"not run: needs {missing}"
    if seconds <= 0:
        return "not run: the time is up"
    command = [sys.executable, "-m", "benchmarks", *source.quick.split()]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "stopped: the time is up"
    lines = [line for line in done.stdout.splitlines() if re.match(source.shows, line)]
    if done.returncode or not lines:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return f"failed with {done.returncode}: {told[-1] if told else 'nothing printed'}"
    return "\n".join(lines[:SHOWN])


def main() -> int:
    """Print the list; 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="run each benchmark at a small size")
    parser.add_argument(
        "--only", nargs="+", choices=list(SOURCES), default=list(SOURCES), help="benchmarks to run"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="for all of them")
    options = parser.parse_args()
    rows = [
        [claim.page, claim.quote.strip("| ").replace("|", "·"), SOURCES[claim.source].command]
        for claim in CLAIMS
    ]
    print(table(["page", "claim", "python -m benchmarks"], rows))
    if not options.quick:
        return 0
    end, failed = time.monotonic() + options.seconds, False
    for name in options.only:
        began = time.monotonic()
        shown = run_quickly(SOURCES[name], end - began)
        failed |= shown.startswith(("failed", "stopped"))
        print(f"\n{SOURCES[name].quick} ({time.monotonic() - began:.0f} s)\n{shown}", flush=True)
    return int(failed)
