"""This working tree's lrp_lens against that of another commit: processor time and numbers, alternating in one process.

1. Take the package of a commit (`--old`, by default main) out of git, and import it beside the one that is here: each
   has its own modules, and both run the same model.
2. In turns, old and new: each piece of work, its processor time, and the numbers that it found.
3. Print the median of the ratios of neighbours, and the largest difference of any number, as a share of the largest.
"""

import argparse
import importlib
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.activation_patching import questions

PACKAGE = "lrp_lens"
CASES = (
    "When Mary and John went to the store, John gave a drink to",
    "The capital of Italy is the city of",
    "The keys to the cabinet near the old door",
)
Numbers = dict[str, np.ndarray]
Work = Callable[[ModuleType, Any], Numbers]


def modules() -> dict[str, ModuleType]:
    """What is imported of the package."""
    return {name: one for name, one in sys.modules.items() if name.split(".")[0] == PACKAGE}


class Version:
    """One commit's package; `active` makes it the one that imports find."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.own = str(folder), dict[str, ModuleType]()

    @contextmanager
    def active(self) -> Iterator[ModuleType]:
        """The package, with all that it imports on the way."""
        before = modules()
        for name in before:
            del sys.modules[name]
        sys.modules.update(self.own)
        sys.path.insert(0, self.folder)
        try:
            yield importlib.import_module(PACKAGE)
        finally:
            sys.path.remove(self.folder)
            self.own = modules()
            for name in self.own:
                del sys.modules[name]
            sys.modules.update(before)


def extracted(commit: str, folder: Path) -> Path:
    """The package as it was in a commit."""
    found = subprocess.run(["git", "archive", commit, PACKAGE], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


# ------------------------------------------------------------------------------------ the work
def pair(model: Any, package: ModuleType, count: int = 2) -> tuple[Any, Any, Any]:
    """Indirect objects: clean, corrupted, and the metric of this version of the package."""
    clean, corrupted, metric = questions(model, count, 15)
    return clean, corrupted, package.LogitDiff(metric.target, metric.contrast)


def patching(package: ModuleType, model: Any) -> Numbers:
    """Activation patching of the MLP outputs of two pairs."""
    clean, corrupted, metric = pair(model, package)
    found = package.patching.get_act_patch_mlp_out(model, corrupted, clean, metric, progress=False)
    return {"patched": found.double().numpy()}


def atp_star(package: ModuleType, model: Any) -> Numbers:
    """AtP* with GradDrop and the QK fix, heads' outputs and queries."""
    clean, corrupted, metric = pair(model, package)
    star = package.patching.atp_star(model, corrupted, metric)
    facets = package.patching.FACETS
    names = ("attn_head_out_by_pos", "attn_head_q_by_pos", "mlp_out")
    return {name: star.scores(clean, facets[name]).double().numpy() for name in names}


def faithfulness(package: ModuleType, model: Any) -> Numbers:
    """Three short cases with every method."""
    room = importlib.import_module(f"{PACKAGE}.masking")
    rules = importlib.import_module(f"{PACKAGE}.rules")
    methods = [*rules.PRESETS.values(), *rules.VARIANTS.values(), *room.BASELINES]
    found = room.faithfulness(model, list(CASES), methods, progress=False)
    return {name: found.cases[name].to_numpy(float) for name in room.MEASURES}


def component_edges(package: ModuleType, model: Any) -> Numbers:
    """Edges of clean against corrupted prompts, four pairs."""
    clean, corrupted, metric = pair(model, package, 4)
    room = importlib.import_module(f"{PACKAGE}.circuits")
    found = room.component_edges(model, clean, corrupted, metric, rules="RELP", progress=False)
    return {"edges": np.asarray(found.values)}


def compare(package: ModuleType, model: Any) -> Numbers:
    """Seven methods against activation patching: two pairs, every layer and position, MLP and attention outputs."""
    clean, corrupted, metric = pair(model, package)
    sites = ["mlp_out", "attn_out"]
    methods = ["ATTN_LRP", "CP_LRP", "RELP", "GIM", "GRADIENT", "IG", "RANDOM"]
    found = package.patching.compare(
        model, clean, corrupted, metric, sites=sites, methods=methods, samples=0, progress=False
    )
    kept = [(site, method) for site in sites for method in (None, "RELP", "GRADIENT")]
    return {f"{site} {method}": found.view(site, method).values for site, method in kept}


def tokens(length: int, everything: bool = False) -> Work:
    """A relevance pass under AttnLRP."""

    def work(package: ModuleType, model: Any) -> Numbers:
        size = int(model.cfg.d_vocab)
        ids = torch.randint(size, (1, length), generator=torch.Generator().manual_seed(0))
        options = {} if everything else {"names_filter": "hook_embed", "logits": "metric"}
        _, found = package.run_with_relevance(
            model, ids, package.LogitDiff(11, 22), rules="ATTN_LRP", **options
        )
        return {"tokens": found.tokens().values}

    return work


WORK: dict[str, Work] = {
    "patching": patching,
    "atp_star": atp_star,
    "faithfulness": faithfulness,
    "component_edges": component_edges,
    "compare": compare,
    "tokens_15": tokens(15),
    "tokens_64": tokens(64),
    "tokens_256": tokens(256),
    "all_views_64": tokens(64, everything=True),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="*", help=f"of {', '.join(WORK)}; all by default")
    parser.add_argument("--old", default="main", help="commit to compare with")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--host", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        new, old = Version(Path.cwd()), Version(extracted(options.old, Path(folder)))
        with new.active() as package:
            model = package.load_model(options.model, host=options.host, device="cpu")
        print(f"{options.model}, {type(model).__name__}, one thread, old: {options.old}\n")
        print("| work | old, CPU s | new, CPU s | old / new | largest difference |\n|---|---|---|---|---|")
        for name in options.work or WORK:
            seconds: dict[str, list[float]] = {"old": [], "new": []}
            found: dict[str, Numbers] = {}
            for turn in range(options.repeats + (options.repeats > 1)):
                for which, version in (("old", old), ("new", new)):
                    with version.active() as package:
                        start = time.process_time()
                        found[which] = WORK[name](package, model)
                        if turn or options.repeats == 1:  # else the first is for warming up
                            seconds[which].append(time.process_time() - start)
            ratio = statistics.median(a / b for a, b in zip(seconds["old"], seconds["new"], strict=True))
            gaps = [
                float(np.nanmax(np.abs(found["new"][part] - expected)) / np.nanmax(np.abs(expected)))
                for part, expected in found["old"].items()
            ]
            middle = {which: statistics.median(values) for which, values in seconds.items()}
            row = f"{middle['old']:.2f} | {middle['new']:.2f} | {ratio:.2f} | {max(gaps):.1e}"
            print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
