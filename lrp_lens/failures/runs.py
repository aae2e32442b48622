"""The same cases in several triages: across models, sizes, checkpoints or rules.

1. A case is common if every run has a row with its id and the same prompt; only common cases are compared.
2. Logit gaps, segment shares and verdicts come from the rows; a gap that a run does not know does not count.
3. The relevance profile of a case is that of the prediction token through the layers (run_rows.py).
4. Where two runs keep graphs of the same prompt over the same layers, their difference is taken node by node
   (run_graphs.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.attribution_graphs.arrays import GraphDifference
from lrp_lens.attribution_graphs.arrays.clusters import (
    PrincipalComponents,
    ProfileClusters,
    cluster_profiles,
    principal_components,
)
from lrp_lens.characters import shown
from lrp_lens.errors import InputError
from lrp_lens.failures.run_graphs import difference_of, graph_changes, mean_composition
from lrp_lens.failures.run_rows import profiles_of, rows_of, together
from lrp_lens.failures.triage.row import FATES
from lrp_lens.failures.verification.criterion import CaseVerdict
from lrp_lens.files import AnyPath
from lrp_lens.markup import Html, frame, told
from lrp_lens.views import View
from lrp_lens.views.statistics.intervals import mean_interval, paired_differences
from lrp_lens.views.table import table_of

Figure = Literal[
    "verdicts", "gaps", "pairs", "segments", "relevance", "profiles", "clusters", "directions", "steps",
]  # fmt: skip
_NAN = float("nan")
_OUTCOMES = (*(str(one) for one in CaseVerdict), *FATES)


@dataclass(frozen=True, eq=False, repr=False)
class RunComparison:
    """What several runs found of the same cases."""

    runs: tuple[str, ...]
    """Their names, in the order given."""
    cases: pd.DataFrame
    """One row per case and run: case, run, outcome (the verdict, or the fate of a case that was not explained),
    pattern, gap (logits), target, contrast."""
    segments: pd.DataFrame
    """One row per case, run and segment: case, run, segment, share (of Σ|R| without special tokens), relevance (ΣR in
    logits; NaN where a row does not say it)."""
    profiles: Mapping[str, View]
    """Run → the profiles of its explained cases, dims (batch, layer), the largest |R| of each being 1; batch is the
    case.  A run that explained none has no entry."""
    folders: tuple[Path, ...]
    """Where each run's rows are, whose graphs are read when they are asked for."""
    notes: tuple[str, ...] = ()
    """Which rows were not compared."""

    @property
    def n_cases(self) -> int:
        """How many cases are common."""
        return len(self.cases) // len(self.runs)

    def gaps(self, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """Mean logit gap of each run, and how far it differs from the first one's, case by case.

        Returns:
            Columns run, mean, low, high, n (95 % bootstrap); difference, difference_low, difference_high (paired, BCa)
            and p (sign flips, Holm), NaN for the first run.
        """
        wide = self.cases.pivot(index="case", columns="run", values="gap")[list(self.runs)]
        found = paired_differences(wide, self.runs[0], resamples=resamples, seed=seed).set_index("method")
        rows = []
        for run in self.runs:
            own = mean_interval(wide[run].to_numpy(dtype=np.float64), resamples=resamples, seed=seed)
            other = found.loc[run, ["mean", "low", "high", "p_holm"]] if run in found.index else [_NAN] * 4
            rows.append((run, *own, *other))
        names = ["run", "mean", "low", "high", "n", "difference", "difference_low", "difference_high", "p"]
        return table_of({name: [row[i] for row in rows] for i, name in enumerate(names)})

    def segment_shares(self, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """Mean share of each segment in each run: run, segment, mean, low, high, n (95 % bootstrap)."""
        return self._by_segment("share", resamples, seed)

    def segment_relevance(self, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """Mean ΣR of each segment in each run, towards the wrong token: the columns of `segment_shares`, in logits."""
        return self._by_segment("relevance", resamples, seed)

    def _by_segment(self, column: str, resamples: int, seed: int) -> pd.DataFrame:
        rows = [
            (
                run,
                segment,
                *mean_interval(some[column].to_numpy(dtype=np.float64), resamples=resamples, seed=seed),
            )
            for (run, segment), some in self.segments.groupby(["run", "segment"], sort=False)
        ]
        names = ["run", "segment", "mean", "low", "high", "n"]
        return table_of({name: [row[i] for row in rows] for i, name in enumerate(names)})

    def transitions(self, first: str | None = None, second: str | None = None) -> pd.DataFrame:
        """How many cases have which outcome in one run (rows) and in another (columns), the same ones in both.

        Args:
            first: a run; None takes the first.
            second: another; None takes the last.

        Raises:
            InputError: no such run.
        """
        pair = self._pair(first, second)
        by_run = self.cases.pivot(index="case", columns="run", values="outcome")
        either = {outcome for run in pair for outcome in by_run[run]}
        names = [one for one in _OUTCOMES if one in either]
        counts = [
            [int(((by_run[pair[0]] == a) & (by_run[pair[1]] == b)).sum()) for b in names] for a in names
        ]
        return pd.DataFrame(counts, pd.Index(names, name=pair[0]), pd.Index(names, name=pair[1]))

    def graph_changes(self, first: str | None = None, second: str | None = None) -> pd.DataFrame:
        """Where the graph of each case changed most from one run to another, second − first.

        Args:
            first: a run; None takes the first.
            second: another; None takes the last.

        Returns:
            A row for each common case of which both keep a graph, largest change first: case, gap (how the logit gap
            changed), boundary and token (the node that changed most), change (of its relevance), edges (how many
            either keeps), reason (why two graphs cannot be compared; "" where they can).

        Raises:
            InputError: no such run.
        """
        before, after = (self.folders[self.runs.index(run)] for run in self._pair(first, second))
        return graph_changes(before, after, set(self.cases["case"]))

    def composition(self, run: str | None = None) -> View:
        """What the prediction token's relevance consists of through the layers, mean over the cases of one run.

        Args:
            run: which; None takes the first.

        Returns:
            Dims (layer, component), as `lrp_lens.attribution_graphs.arrays.composition`.

        Raises:
            InputError: no such run, or one that keeps no graph.
        """
        return mean_composition(
            self.folders[self.runs.index(self._pair(run, None)[0])], set(self.cases["case"])
        )

    def graph_difference(
        self, case: str, first: str | None = None, second: str | None = None
    ) -> GraphDifference:
        """The graphs of one case in two runs side by side, second − first.

        Args:
            case: its id.
            first: a run; None takes the first.
            second: another; None takes the last.

        Raises:
            InputError: no such run or common case, no graph of it in one of them, or graphs of different layers or
                numbers of tokens.
        """
        before, after = (self.folders[self.runs.index(run)] for run in self._pair(first, second))
        if case not in set(self.cases["case"]):
            raise InputError(f"A compared case is in every run; {case!r} is not. See `cases`.")
        return difference_of(case, before, after)

    def _pair(self, first: str | None, second: str | None) -> tuple[str, str]:
        """Two runs by name."""
        pair = first or self.runs[0], second or self.runs[-1]
        for one in pair:
            if one not in self.runs:
                raise InputError(f"The runs here are {', '.join(self.runs)}; received {one!r}.")
        return pair

    def all_profiles(self) -> View:
        """The profiles of all runs in one matrix, dims (batch, layer); batch is "run: case".

        Raises:
            InputError: no profile, or runs of models with different layers; those are compared one by one.
        """
        return together(self.profiles)

    def clusters(self, clusters: int = 3, *, seed: int = 0) -> ProfileClusters:
        """k-means of all profiles; see `cluster_profiles`."""
        return cluster_profiles(self.all_profiles(), clusters, seed=seed)

    def principal_components(self, components: int = 2) -> PrincipalComponents:
        """PCA of all profiles; see `principal_components`."""
        return principal_components(self.all_profiles(), components)

    def plot(self, what: Figure = "verdicts") -> Any:
        """A figure: "verdicts" (first run against last); "gaps" (means) or "pairs" (each case, against the first run);
        "segments" (shares of Σ|R|) or "relevance" (ΣR of segments); "profiles" (mean of each run), "clusters",
        "directions" (two principal components) or "steps" (where the mean profiles move most).

        Raises:
            InputError: another word, or nothing to draw.
        """
        from lrp_lens.report.runs import figure_of

        return figure_of(self, what)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write tables and figures as one HTML file, and return its absolute path.

        Raises:
            InputError: the file cannot be written.
        """
        from lrp_lens.report.runs import write_comparison

        return write_comparison(self, path)

    def _repr_html_(self) -> Html:
        return told(repr(self), frame(self.gaps().round(3), border=0))

    def __repr__(self) -> str:
        lines = [f"RunComparison of {self.n_cases} cases in {len(self.runs)} runs"]
        for run, some in self.cases.groupby("run", sort=False):
            counts = ", ".join(f"{name} {count}" for name, count in some["outcome"].value_counts().items())
            lines.append(f"  {run}: mean gap {some['gap'].mean():+.2f}; {counts}")
        return shown("\n".join([*lines, *(f"  note: {one}" for one in self.notes)]))


def compare_runs(*folders: AnyPath, names: Sequence[str] | None = None) -> RunComparison:
    """Compare what triages of the same cases found.

    Args:
        folders: two or more folders that triage wrote.
        names: what to call them; None takes the folders' last names, or their paths where those are the same.

    Returns:
        The comparison of their common cases; `print` it.

    Raises:
        InputError: fewer than two folders, no rows in one, names that do not fit, or no common case.

    Example:
        comparison = compare_runs("runs/smollm2-135m", "runs/smollm2-360m")
        comparison.transitions()
    """
    if len(folders) < 2:
        raise InputError(
            f"Runs are compared with each other; received {len(folders)}. Pass two folders or more."
        )
    called = _names(folders, names)
    found = [rows_of(folder) for folder in folders]
    common = [
        case
        for case in found[0]
        if all(case in one and one[case].prompt == found[0][case].prompt for one in found)
    ]
    if not common:
        raise InputError(
            f"Runs are compared by their common cases, the same id and the same prompt; {', '.join(called)} have "
            f"{', '.join(str(len(one)) for one in found)} cases and none in common. Triage the same log with each."
        )
    held = [(run, case, own[case]) for run, own in zip(called, found, strict=True) for case in common]
    columns = ("outcome", "pattern", "gap", "target", "contrast")
    cases = {"case": [case for _, case, _ in held], "run": [run for run, _, _ in held]}
    shares = [
        (case, run, segment, share, one.relevances.get(segment, _NAN))
        for run, case, one in held
        for segment, share in one.shares.items()
    ]
    names_of = ("case", "run", "segment", "share", "relevance")
    missing = {run: len(own) - len(common) for run, own in zip(called, found, strict=True)}
    return RunComparison(
        called,
        table_of(cases | {name: [getattr(one, name) for _, _, one in held] for name in columns}),
        table_of({name: [row[i] for row in shares] for i, name in enumerate(names_of)}),
        profiles_of(held),
        tuple(Path(one) for one in folders),
        tuple(f"{run}: {count} of its cases are not in every run" for run, count in missing.items() if count),
    )


def _names(folders: Sequence[AnyPath], names: Sequence[str] | None) -> tuple[str, ...]:
    paths = [fspath(one) for one in folders]
    last = [Path(one).resolve().name for one in paths]
    called = tuple(names) if names is not None else tuple(last if len(set(last)) == len(last) else paths)
    if len(called) != len(folders) or len(set(called)) < len(called):
        raise InputError(
            f"Runs have a name each, no two the same; received {list(called)} for {len(folders)} folders. Pass "
            "names=…, or every folder once."
        )
    return called
