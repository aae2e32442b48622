"""The fold-out of one row of a triage: the words, the verdict with its evidence, the graph, the way and the cost.

1. It is finished HTML from templates, which escape whatever a prompt or a model says.
2. Packed (zlib, base64) it travels as a JSON string, inert until a reader unfolds the row.
"""

import base64
import json
import zlib

from lrp_lens.failures.explanation_json import view_from_json
from lrp_lens.failures.triage.row import TriageRow
from lrp_lens.failures.verification import Verification
from lrp_lens.markup import Html, render
from lrp_lens.plots import Palette
from lrp_lens.plots.graph_page import graph_part
from lrp_lens.plots.tokens_html import token_heatmap_html
from lrp_lens.report.verification import evidence

EDGES = 150
"""Edges of a graph that the page holds, the strongest of each layer."""


def case_html(row: TriageRow, *, palette: Palette = "default") -> Html:
    """Everything about one row.

    Args:
        row: of any fate; what was not made is left out.
        palette: "default" (blue pushes towards the target) or "lrp" (red does).
    """
    explained = json.loads(row.explanation) if row.explanation else None
    verification = Verification.from_dict(json.loads(row.verification)) if row.verification else None
    graph = row.attribution_graph()
    prompt = "" if explained or not row.case else json.loads(row.case)["prompt"]
    return render(
        "report/triage_case.html",
        fate=row.fate,
        reason=row.reason,
        prompt=prompt
        if isinstance(prompt, str)
        else "\n".join(f"{one['role']}: {one['content']}" for one in prompt),
        claim=explained["claim"] if explained else "",
        words=None
        if explained is None
        else token_heatmap_html(view_from_json(explained["views"]["tokens"]), palette=palette, style=False),
        evidence=None if verification is None else evidence(verification, palette=palette),
        graph=None if graph is None else graph_part(graph, max_edges=EDGES, palette=palette),
        edges=0 if graph is None else len(graph.relevance),
        facts=_facts(row),
        notes=explained["notes"] if explained else (),
    )


def packed(html: str) -> str:
    """Text for the page's script to unpack.

    Example:
        >>> import base64, zlib
        >>> zlib.decompress(base64.b64decode(packed("<b>é</b>"))).decode()
        '<b>é</b>'
    """
    return base64.b64encode(zlib.compress(html.encode(), 9)).decode()


def _facts(row: TriageRow) -> list[tuple[str, str]]:
    """How the decision was found, and what it cost."""
    decision = json.loads(row.decision) if row.decision else {}
    tried = [
        f"{one['way']}: {one['forwarded']} tokens, {'found' if one['found'] else one['reason'] or 'not found'}"
        for one in decision.get("attempts", ())
    ]
    seconds = json.loads(row.seconds) if row.seconds else {}
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    checked = {True: "the contrast is known to be right", False: "the contrast is not checked", None: ""}[
        row.checked
    ]
    facts = {
        "where": f"{row.file}, line {row.line}" if row.file else "",
        "decision": " · ".join(filter(None, (row.way, checked, *tried))),
        "completion": str(decision.get("completion") or ""),
        "decided token": row.position,
        "accepted instead": str(decision.get("accepted") or ""),
        "rules": row.rules,
        "tokens": "" if row.n_tokens is None else f"{row.n_tokens} up to the decision",
        "BOS": "" if row.bos_share is None else f"{row.bos_share:.0%} of Σ|R|",
        "tokens run for the decision": "" if row.forwarded is None else f"{row.forwarded:,}",
        "seconds": ""
        if row.seconds_total is None
        else f"{row.seconds_total:.2f}" + (f": {parts}" if parts else ""),
    }
    return [(name, told) for name, told in facts.items() if told]
