"""The page and the figures of a comparison of runs."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.files import require_writable, write_text
from lrp_lens.markup import Cell, Html, render, table
from lrp_lens.plots.graph_profiles import plot_composition
from lrp_lens.plots.profile_steps import plot_profile_steps
from lrp_lens.plots.run_pairs import plot_gap_pairs, plot_scores
from lrp_lens.plots.runs import plot_run_means, plot_run_profiles, plot_transitions
from lrp_lens.report.page import Section, figure_block, page_html

if TYPE_CHECKING:
    from lrp_lens.failures.runs import RunComparison
    from lrp_lens.views import View


_CLUSTERS = 3
"""Groups of profiles, as in arXiv 2604.17761, appendix I."""
_GRAPHS = 20
"""Cases whose graphs are listed."""


def figure_of(comparison: "RunComparison", what: str) -> go.Figure:
    """See RunComparison.plot."""
    if what == "verdicts":
        return plot_transitions(comparison.transitions())
    if what == "gaps":
        return plot_run_means(comparison.gaps(), units="mean logit gap, interval of 95 %")
    if what == "segments":
        return plot_run_means(comparison.segment_shares(), units="mean share of Σ|R|, interval of 95 %")
    if what == "relevance":
        means = comparison.segment_relevance().dropna(subset=["mean"])
        return plot_run_means(means, units="mean ΣR in logits, interval of 95 %")
    if what == "pairs":
        gaps = comparison.cases.pivot(index="case", columns="run", values="gap")[list(comparison.runs)]
        return plot_gap_pairs(gaps)
    if what == "profiles":
        return plot_run_profiles(dict(comparison.profiles))
    if what == "clusters":
        different = len(np.unique(comparison.all_profiles().values, axis=0))
        return comparison.clusters(min(_CLUSTERS, different)).plot()
    if what == "directions":
        found = comparison.principal_components(2)
        runs = [run for run, view in comparison.profiles.items() for _ in view.values]
        return plot_scores(found.scores, runs, found.explained_variance.tolist())
    if what == "steps":
        return plot_profile_steps(_mean_profiles(comparison))
    raise InputError(
        "A comparison draws 'verdicts', 'gaps', 'pairs', 'segments', 'relevance', 'profiles', 'clusters', "
        f"'directions' or 'steps'; received {what!r}."
    )


def _mean_profiles(comparison: "RunComparison") -> "View":
    """The mean profile of each run, dims (batch, layer); batch is the run."""
    layers = comparison.all_profiles().labels["layer"]
    runs, views = tuple(comparison.profiles), comparison.profiles.values()
    values = np.stack([view.values.mean(axis=0) for view in views])
    first = next(iter(views))
    return replace(first, values=values, labels={"batch": runs, "layer": layers}, name="mean profiles")


def write_comparison(comparison: "RunComparison", path: str | PathLike[str]) -> Path:
    """See RunComparison.save."""
    require_writable(path)
    return write_text(path, comparison_html(comparison))


def comparison_html(comparison: "RunComparison") -> Html:
    """Tables and figures as one self-contained HTML page.

    Args:
        comparison: what `compare_runs` returned.
    """
    parts = [_verdicts(comparison), _gaps(comparison)]
    if len(comparison.segments):
        words = (
            "The share of Σ|R| on each named part of the prompt, special tokens left out: mean over cases."
        )
        figures = {"segments": figure_of(comparison, "segments")}
        parts.append(_part("Which segments relevance falls on", words, figures, comparison.segment_shares()))
    if len(comparison.segments) and comparison.segments["relevance"].notna().any():
        words = (
            "ΣR of each named part in logits, special tokens left out: mean over cases. Above 0 it speaks for the "
            "wrong token, below for its contrast."
        )
        figures, rows = {"relevance": figure_of(comparison, "relevance")}, comparison.segment_relevance()
        parts.append(_part("For which token segments speak", words, figures, rows))
    if comparison.profiles:
        parts.append(_profiles(comparison))
    parts += [*_compositions(comparison), *_graphs(comparison)]
    lead = render(
        "report/runs_lead.html",
        runs=comparison.runs,
        cases=comparison.n_cases,
        notes=comparison.notes,
    )
    return page_html("lrp-lens: " + " and ".join(comparison.runs), lead, parts)


def _part(title: str, words: str, figures: Mapping[str, go.Figure], rows: pd.DataFrame) -> Section:
    """One card: what it shows in a sentence, figures by name, and their numbers."""
    boxes = [figure_block(figure, name) for name, figure in figures.items()]
    return Section(title, render("report/run_part.html", words=words, figures=boxes, table=_table(rows)))


def _verdicts(comparison: "RunComparison") -> Section:
    """The first run against each other one."""
    first, *others = comparison.runs
    tables = {other: comparison.transitions(first, other) for other in others}
    same = [f"{np.trace(rows.to_numpy())} in {other}" for other, rows in tables.items()]
    words = f"Of {comparison.n_cases} cases so many have the outcome that they have in {first}: {', '.join(same)}."
    figures = {f"verdicts-{place}": plot_transitions(rows) for place, rows in enumerate(tables.values())}
    rows = [
        (other, before, after, int(count))
        for other, counts in tables.items()
        for before, line in counts.iterrows()
        for after, count in line.items()
        if count
    ]
    names = ("run", f"in {first}", "there", "cases")
    numbers = pd.DataFrame(rows, columns=list(names))
    return _part(f"Verdicts: {first} (rows) and {' and '.join(others)} (columns)", words, figures, numbers)


def _gaps(comparison: "RunComparison") -> Section:
    first, rows = comparison.runs[0], comparison.gaps()
    said = []
    for row in rows.to_dict("records"):
        names = ("difference", "difference_low", "difference_high")
        if isfinite(row["difference"]):
            mean, low, high = (signed(float(row[name]), "+.2f") for name in names)
            said.append(f"{row['run']} {mean} (95 % interval {low} to {high})")
    words = "Logit of the wrong token minus logit of its contrast, mean over cases."
    if said:
        words += f" Case by case against {first}: {'; '.join(said)}."
    return _part("How far the wrong token is ahead", words, _drawn(comparison, ("gaps", "pairs")), rows)


def _profiles(comparison: "RunComparison") -> Section:
    means = {
        run: [f"{one:.2f}" for one in view.values.mean(axis=0)] for run, view in comparison.profiles.items()
    }
    layers = [view.axis_labels("layer") for view in comparison.profiles.values()]
    longest = max(layers, key=len)
    columns = {run: own + [""] * (len(longest) - len(own)) for run, own in means.items()}
    rows = pd.DataFrame({"layer": list(longest)} | columns)
    words = (
        "Relevance of the residual stream at the position that predicts, from the embedding to the last layer; the "
        "largest |R| of each case is 1, mean over cases."
    )
    figures = _drawn(comparison, ("profiles", "clusters", "directions", "steps"))
    return _part("The prediction token through the layers", words, figures, rows)


def _drawn(comparison: "RunComparison", names: Sequence[str]) -> dict[str, go.Figure]:
    """The figures that there is enough for: models of different depth have no profiles in common, say."""
    figures = dict[str, go.Figure]()
    for name in names:
        with suppress(InputError):
            figures[name] = figure_of(comparison, name)
    return figures


def _compositions(comparison: "RunComparison") -> list[Section]:
    """What the prediction token's relevance consists of, in each run that keeps graphs."""
    parts = []
    for place, run in enumerate(comparison.runs):
        try:
            view = comparison.composition(run)
        except InputError:
            continue
        rows = pd.DataFrame(view.values, columns=list(view.axis_labels("component")))
        rows.insert(0, "layer", view.axis_labels("layer"))
        words = (
            "Relevance of the position that predicts, behind each layer: what it keeps of itself, what it takes from "
            f"BOS and from other tokens, and what no token holds; {', '.join(view.notes)}."
        )
        figures = {f"composition-{place}": plot_composition(view)}
        parts.append(_part(f"What the prediction consists of: {run}", words, figures, rows))
    return parts


def _graphs(comparison: "RunComparison") -> list[Section]:
    """Where each other run's graphs differ from the first's, where both keep any."""
    first, *others = comparison.runs
    parts = []
    for other in others:
        rows = comparison.graph_changes(first, other)
        if not len(rows):
            continue
        compared = rows[rows["reason"] == ""].drop(columns="reason")
        count = "1 case" if len(compared) == 1 else f"{len(compared)} cases"
        words = (
            f"The node of each case's attribution graph whose relevance changed most from {first} to {other}, at which "
            f"token and behind which layer; beside it how the logit gap changed. {count}"
        )
        words += f", the {_GRAPHS} largest changes." if len(compared) > _GRAPHS else "."
        if len(compared) < len(rows):
            reason = rows.loc[rows["reason"] != "", "reason"].iloc[0]
            words += f" Graphs of {len(rows) - len(compared)} more are not compared: {reason}"
        title = f"Graphs: {first} and {other}"
        named = {"gap": "gap change", "boundary": "behind", "change": "relevance change"}
        parts.append(_part(title, words, {}, compared.head(_GRAPHS).rename(columns=named)))
    return parts


def _table(rows: pd.DataFrame) -> Html:
    numbers = [pd.api.types.is_numeric_dtype(rows[name]) for name in rows]
    head: list[str | Cell] = [
        Cell(str(name), kind="n" if number else "") for name, number in zip(rows, numbers, strict=True)
    ]
    cells: list[list[str | Cell]] = [
        [Cell(_told(one), kind="n" if number else "") for one, number in zip(row, numbers, strict=True)]
        for row in rows.itertuples(index=False, name=None)
    ]
    return table(head, cells)


def _told(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else signed(value, ".3g")
    return str(value)
