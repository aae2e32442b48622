"""One method of `compare` on all sites: its scores, what they cost, and why some are missing.

1. One pass and one clean run serve every site (`Method`); a method that cannot run here is noted, and the others go on.
2. Cells that are not compared (`layers=`, `positions=`) are NaN.
3. A checkpoint keeps the scores, the cost and the reasons.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import numpy as np
from torch import Tensor

from lrp_lens.errors import RuleError, SiteError
from lrp_lens.hosts.forward import device_of
from lrp_lens.methods.chance import random_draws
from lrp_lens.methods.facets import Facet
from lrp_lens.methods.inputs import PatchingMetric
from lrp_lens.methods.method import Method
from lrp_lens.patching.activation import Options
from lrp_lens.patching.comparison import Comparison
from lrp_lens.patching.cost import Meter
from lrp_lens.patching.runs import Runs
from lrp_lens.patching.scored import Cost, Scores
from lrp_lens.run.identity import spelled


def add_scores(
    result: Comparison,
    runs: Runs,
    method: Method,
    metric_name: str,
    metric: PatchingMetric,
    facets: Sequence[Facet],
    options: Options,
) -> None:
    """Add one method's scores of every site under one metric; the exact effects are there already."""
    if method.draws:
        return _draw(result, method, metric_name, facets)
    number = list(dict.fromkeys(name for name, _ in result.exact)).index(metric_name)
    part = f"{quote(method.name, safe='')}_of_metric_{number}"
    identity = {f"method {method.name}": spelled((method.sites, method.score, method.words))}
    stored = options.checkpoint.read(part, identity)
    if stored is None:
        found, cost = _scores(runs, method, metric, facets)
        tensors = {facet.name: scores for facet, scores, _ in found if scores is not None}
        reasons = {facet.name: why for facet, _, why in found}
        options.checkpoint.write(part, tensors, {"why": reasons, "cost": asdict(cost)}, identity)
    else:
        tensors, words = stored
        found = [(facet, tensors.get(facet.name), tuple(words["why"][facet.name])) for facet in facets]
        cost = Cost(**words["cost"])
    for facet, scores, why in found:
        values = None
        if scores is not None:
            exact = result.exact[metric_name, facet.name].values
            assert exact is not None
            values = np.where(np.isnan(exact), np.nan, scores.double().cpu().numpy())
        result.add(metric_name, facet, Scores(method.name, values, cost, why, method.unsigned, method.lrp))


_Found = list[tuple[Facet, Tensor | None, tuple[str, ...]]]


def _scores(
    runs: Runs, method: Method, metric: PatchingMetric, facets: Sequence[Facet]
) -> tuple[_Found, Cost]:
    """Scores of each site [batch, layer, *axes], or why there are none; and the cost of all."""
    found: _Found = []
    with Meter(device_of(runs.model)) as meter:
        assert method.sites is not None  # `as_methods` refuses others
        try:
            passed: Any = method.sites(runs.model, runs.batch, runs.source, metric)
        except (SiteError, RuleError) as error:  # this method only; the others go on
            reason = (f"{method.name} cannot run here: {error}",)
            return [(facet, None, reason) for facet in facets], Cost(0, 0, 0.0, 0.0)
        for facet in facets:
            try:
                scores = method.score(passed, runs.source, facet).detach()
                found.append((facet, scores, method.why_missing(passed, facet)))
            except SiteError as error:
                found.append((facet, None, (str(error),)))
    scored = [facet for facet, kept, _ in found if kept is not None]
    forwards = passed.forwards_for(scored) + (method.forwards if scored else 0)
    return found, Cost(forwards, passed.backwards, meter.seconds, meter.peak_mb)


def _draw(result: Comparison, method: Method, metric_name: str, facets: Sequence[Facet]) -> None:
    """Random rankings, which cost nothing; every metric meets the same ones."""
    for facet in facets:
        exact = result.exact[metric_name, facet.name].values
        assert exact is not None
        draws = random_draws(exact.shape[1:], facet.name, result.seed, method.draws)
        first = np.broadcast_to(draws[0], exact.shape)
        scores = Scores(method.name, first, Cost(0, 0, 0.0, 0.0), unsigned=method.unsigned, draws=draws)
        result.add(metric_name, facet, scores)
