"""The page and the figures of a comparison of runs."""

from os import PathLike
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from lrp_lens.errors import InputError
from lrp_lens.failures.runs import RunComparison
from lrp_lens.files import require_writable, write_text
from lrp_lens.markup import Cell, Html, render, table
from lrp_lens.plots.runs import plot_run_means, plot_run_profiles, plot_transitions
from lrp_lens.report.page import Section, figure_block, page_html


def figure_of(comparison: RunComparison, what: str) -> go.Figure:
    """See RunComparison.plot."""
    if what == "verdicts":
        return plot_transitions(comparison.transitions())
    if what == "gaps":
        return plot_run_means(comparison.gaps(), units="mean logit gap, interval of 95 %")
    if what == "segments":
        return plot_run_means(comparison.segment_shares(), units="mean share of Σ|R|, interval of 95 %")
    if what == "profiles":
        return plot_run_profiles(dict(comparison.profiles))
    raise InputError(f"A comparison draws 'verdicts', 'gaps', 'segments' or 'profiles'; received {what!r}.")


def write_comparison(comparison: RunComparison, path: str | PathLike[str]) -> Path:
    """See RunComparison.save."""
    require_writable(path)
    return write_text(path, comparison_html(comparison))


def comparison_html(comparison: RunComparison) -> Html:
    """Tables and figures as one self-contained HTML page.

    Args:
        comparison: what `compare_runs` returned.
    """
    first, last = comparison.runs[0], comparison.runs[-1]
    parts: list[tuple[str, str, go.Figure | None, pd.DataFrame]] = [
        (
            f"Verdicts: {first} (rows) and {last} (columns)",
            "verdicts",
            figure_of(comparison, "verdicts"),
            comparison.transitions().reset_index(),
        ),
        ("How far the wrong token is ahead", "gaps", figure_of(comparison, "gaps"), comparison.gaps()),
    ]
    if len(comparison.segments):
        shares = comparison.segment_shares()
        parts.append(
            ("Which segments relevance falls on", "segments", figure_of(comparison, "segments"), shares)
        )
    if comparison.profiles:
        means = {
            run: [f"{one:.2f}" for one in view.values.mean(axis=0)]
            for run, view in comparison.profiles.items()
        }
        longest = max(map(len, means.values()))
        rows = pd.DataFrame({run: own + [""] * (longest - len(own)) for run, own in means.items()})
        figure = figure_of(comparison, "profiles")
        parts.append(("The prediction token through the layers", "profiles", figure, rows))
    sections = [
        Section(title, render("report/run_part.html", figure=figure_block(figure, name), table=_table(rows)))
        for title, name, figure, rows in parts
    ]
    lead = render(
        "report/runs_lead.html",
        runs=comparison.runs,
        cases=comparison.n_cases,
        notes=comparison.notes,
    )
    return page_html("lrp-lens: " + " and ".join(comparison.runs), lead, sections)


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
        return "" if value != value else f"{value:.3g}"
    return str(value)
