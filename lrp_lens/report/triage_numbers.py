"""What the rows of a triage say together: fates and reasons, verdicts and patterns, segments, gaps.

Bars are HTML with widths in percent, so that the page needs no figure library, follows the reader's colours and can
be read without a script.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import floor, log10
from statistics import fmean, median
from typing import Any

from lrp_lens.failures.triage.row import FATES, TriageRow
from lrp_lens.failures.verification import CaseVerdict, Pattern
from lrp_lens.markup import Cell, Html, render, table
from lrp_lens.plots.palette import CATEGORIES

VERDICTS = tuple(str(one) for one in CaseVerdict)
PATTERNS = tuple(str(one) for one in Pattern)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BINS, _REASONS = 12, 12


class Numbers:
    """Counts over rows, which are taken one at a time and not kept."""

    def __init__(self) -> None:
        self.fates: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.stable: Counter[bool] = Counter()
        self.repaired = 0
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._example: dict[tuple[str, str], str] = {}
        self.verdicts: dict[str, Counter[str]] = defaultdict(Counter)
        self._patterns: dict[str, Counter[str]] = defaultdict(Counter)
        self._shares: dict[str, list[dict[str, float]]] = defaultdict(list)
        self._gaps: dict[str, list[float]] = defaultdict(list)

    def add(self, row: TriageRow) -> None:
        """Count one row."""
        self.fates[row.fate] += 1
        if row.reason:
            kind = row.fate, _NUMBER.sub("#", row.reason)
            self._reasons[kind] += 1
            self._example.setdefault(kind, row.reason)
        gap = row.metric_value if row.metric_value is not None else row.gap
        if gap is not None:
            self._gaps["explained" if row.fate == "explained" else "not explained"].append(gap)
        if row.seconds_total is not None:
            self.seconds.append(row.seconds_total)
        if row.fate != "explained":
            return
        if row.verdict:
            self.verdicts[row.suite][row.verdict] += 1
            self._patterns[row.suite][row.pattern] += 1
        if row.stable is not None:
            self.stable[row.stable] += 1
        self.repaired += bool(row.repair)
        if row.segment_shares:
            self._shares[row.suite].append(json.loads(row.segment_shares))

    @property
    def verdict(self) -> Counter[str]:
        """Verdict → rows."""
        return sum(self.verdicts.values(), Counter())

    def cards(self) -> list[dict[str, str]]:
        """The largest numbers of all."""
        rows, explained, verified = (
            sum(self.fates.values()),
            self.fates["explained"],
            sum(self.verdict.values()),
        )
        stable = sum(self.stable.values())
        found = {
            "rows read": (f"{rows:,}", f"{explained:,} explained"),
            "visible in the input": (
                _share(self.verdict["input"], verified),
                f"{self.verdict['input']} of {verified}",
            ),
            "only in the graph": (
                _share(self.verdict["graph"], verified),
                f"{self.verdict['graph']} of {verified}",
            ),
            "stable verdicts": (_share(self.stable[True], stable), f"{self.stable[True]} of {stable}"),
            "repaired by an edit": (_share(self.repaired, explained), f"{self.repaired} of {explained}"),
            "seconds a case": (
                f"{median(self.seconds):.1f}" if self.seconds else "–",
                f"median, {sum(self.seconds):,.0f} in all",
            ),
        }
        return [{"name": name, "value": value, "note": note} for name, (value, note) in found.items()]

    def coverage(self) -> Html:
        """Each fate with its rows and share; each reason once, however its numbers differ."""
        total = sum(self.fates.values())
        fates = [
            {"name": fate, "count": self.fates[fate], "share": f"{100 * self.fates[fate] / total:.1f}"}
            for fate in FATES
            if self.fates[fate]
        ]
        most = self._reasons.most_common(_REASONS)
        rows: list[list[str | Cell]] = [
            [fate, Cell(str(count), kind="n"), self._example[fate, kind]] for (fate, kind), count in most
        ]
        return render(
            "report/coverage.html",
            fates=fates,
            reasons=table(["fate", Cell("rows", kind="n"), "reason, e.g."], rows) if rows else None,
            more=len(self._reasons) - len(most),
        )

    def outcomes(self) -> Html:
        """Verdicts, one bar for each suite (figure 1 of arXiv 2604.17761)."""
        return stacked(self.verdicts, VERDICTS, "verdict")

    def patterns(self) -> Html:
        """Patterns, one bar for each suite."""
        return stacked(self._patterns, PATTERNS, "pattern")

    def segments(self) -> Html | None:
        """Mean share of each segment, one bar for each suite (figure 5); None where no case names any."""
        if not self._shares:
            return None
        names = list(dict.fromkeys(name for rows in self._shares.values() for one in rows for name in one))
        means = {
            suite: {name: fmean(one.get(name, 0.0) for one in rows) for name in names}
            for suite, rows in self._shares.items()
        }
        return stacked(means, names, "")

    def gaps(self) -> Html | None:
        """Histogram of the logit gaps (figure 4); None without any."""
        values = [one for some in self._gaps.values() for one in some]
        if not values:
            return None
        low, step = _grid(min(values), max(values))
        count = max(1, floor((max(values) - low) / step) + 1)
        bins: list[dict[str, Any]] = [
            {"low": f"{low + i * step:.3g}", "high": f"{low + (i + 1) * step:.3g}", "parts": [0, 0]}
            for i in range(count)
        ]
        for index, kind in enumerate(("explained", "not explained")):
            for one in self._gaps[kind]:
                bins[min(count - 1, floor((one - low) / step))]["parts"][index] += 1
        most = max(sum(held["parts"]) for held in bins)
        for held in bins:
            held["heights"] = [f"{100 * part / most:.2f}" for part in held["parts"]]
        return render(
            "report/histogram.html",
            bins=bins,
            colours=CATEGORIES[:2],
            median=f"{median(values):.2f}",
            count=len(values),
        )


def stacked(rows: Mapping[str, Mapping[str, int | float]], names: Sequence[str], column: str) -> Html:
    """One bar a row, its parts in the order of the names; where they are counts, each is a button that filters.

    Args:
        rows: row → name → number.
        names: of the parts.
        column: which column of the table the names are values of; "" for shares, which filter nothing.
    """
    used = [name for name in names if any(one.get(name) for one in rows.values())]
    colours = {name: CATEGORIES[names.index(name) % len(CATEGORIES)] for name in used}
    bars = []
    for row, parts in rows.items():
        total = sum(parts.values()) or 1.0
        bars.append(
            {
                "name": row,
                "total": f"{total:g}" if column else "",
                "parts": [
                    {
                        "name": name,
                        "colour": colours[name],
                        "share": f"{100 * parts[name] / total:.2f}",
                        "told": f"{parts[name]:g} ({parts[name] / total:.0%})"
                        if column
                        else f"{parts[name]:.0%}",
                        "short": (f"{parts[name]:g}" if column else f"{parts[name]:.0%}")
                        if parts[name] >= 0.06 * total
                        else "",
                    }
                    for name in used
                    if parts.get(name)
                ],
            }
        )
    return render("report/stacked.html", bars=bars, colours=list(colours.items()), column=column)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _grid(low: float, high: float) -> tuple[float, float]:
    """Where the bins begin, and their width: 1, 2 or 5 times a power of ten, at most some dozen bins.

    Example:
        >>> _grid(0.3, 9.7)
        (0.0, 1.0)
    """
    least = ((high - low) or 1.0) / _BINS
    power = 10.0 ** floor(log10(least))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= least * (1 - 1e-9))
    return floor(low / step) * step, step
