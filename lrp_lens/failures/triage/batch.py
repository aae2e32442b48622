"""triage_batch: cases → rows.  For each case:

1. An answer that its log calls right is no failure.
2. `find_decision`: the token that went wrong and its contrast; without a usable one the reason is kept.
3. `explain`, and the pruned attribution graph of the same decision.
4. `verify`: verdict and pattern by interventions, stability, repairs.

Whatever fails (a prompt longer than the context, logits that are no numbers, tokens outside the vocabulary, a checker
that raises or hangs) is that row's fate, with the part in which it happened and the reason; what was found before is
kept, and the next case begins.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from time import perf_counter
from typing import Any, final

import numpy as np

from lrp_lens.attribution_graphs.closed_form.attribution_graph import attribution_graph
from lrp_lens.cases import Case
from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.failures.decision import Checker, Decision, find_decision, judge
from lrp_lens.failures.decision.checker import as_checker
from lrp_lens.failures.explain import explain
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.logs.log import content_of
from lrp_lens.failures.logs.values import told
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.row import TriageRow, written
from lrp_lens.failures.verification.verify import verify
from lrp_lens.hosts.text_spans import case_segments
from lrp_lens.metrics import LogitDiff

_EDGES = 300
"""Edges of a transition that are kept at most, so that a row stays small."""


def triage_batch(
    model: Any, cases: Iterable[Case], options: TriageOptions | None = None, contrast_model: Any = None
) -> list[TriageRow]:
    """Find, explain and verify the decision of each case.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer, in eval mode.
        cases: failures, decided or not.
        options: what is done; None takes the defaults.
        contrast_model: a second model, which knows better.

    Returns:
        A row for each case, in order.

    Example:
        >>> from lrp_lens import demo_cases, load_demo_model
        >>> options = TriageOptions(stability=False, repairs=False, draws=5)
        >>> (row,) = triage_batch(load_demo_model(device="cpu"), demo_cases("key_value_ten_facts")[:1], options)
        >>> row.fate, row.verdict, row.gap > 1
        ('explained', 'input', True)
    """
    options = options or TriageOptions()
    return [
        replace(_CaseWork(model, case, options, contrast_model).row(), number=number)
        for number, case in enumerate(cases)
    ]


@dataclass(eq=False)
class _CaseWork:
    """One case on its way."""

    model: Any
    case: Case
    options: TriageOptions
    contrast_model: Any
    seconds: dict[str, float] = field(default_factory=dict)
    checker: Any = None
    decision: Decision | None = None
    explanation: Explanation | None = None

    def row(self) -> TriageRow:
        """What became of it."""
        found = _as_read(self.case) | {"fate": "explained"}
        parts: dict[str, Callable[[], Mapping[str, Any]]] = {
            "decision": self._decide, "explanation": self._explain, "graph": self._draw, "verification": self._verify,
        }  # fmt: skip
        for name, part in parts.items():
            start = perf_counter()
            try:
                found |= part()
            except (
                Exception
            ) as error:  # whatever a case holds, and whatever its checker does, costs itself only
                found |= {"fate": "error", "reason": f"{name}: {told(error)}"}
            self.seconds.setdefault(name, perf_counter() - start)
            if found["fate"] != "explained":
                break
        return TriageRow(
            **found, seconds=written(self.seconds), seconds_total=float(sum(self.seconds.values()))
        )

    def _decide(self) -> dict[str, Any]:
        """The decision, or why there is none."""
        if self.case.correct:
            return {"fate": "not a failure", "reason": "the log says that the answer is right"}
        self.checker = None if self.case.decided else self.options.checker(self.case)
        made = find_decision(
            self.model,
            self.case,
            self.checker,
            self.contrast_model,
            max_new_tokens=self.options.max_new_tokens,
            budget=self.options.budget,
            min_gap=self.options.min_gap,
            checker_seconds=self.options.checker_seconds,
        )
        found: dict[str, Any] = {"decision": written(made.to_dict()), "forwarded": made.forwarded}
        if made.way is not None:
            self.decision = made
            found |= {
                "case": written(made.case.to_dict()),
                "way": made.way,
                "checked": made.checked,
                "target": made.target,
                "contrast": made.contrast,
                "position": "" if made.position is None else str(made.position),
                "gap": _number(made.gap),
            }
        reason = made.excluded
        if not reason and not made.gap > 0:
            reason = f"the contrast is ahead of the target already (gap {signed(made.gap)})"
        if reason:
            found |= {"fate": "not a failure" if made.right else "excluded", "reason": reason}
        return found

    def _explain(self) -> dict[str, Any]:
        """The preference explained."""
        assert self.decision is not None
        made = explain(self.model, case=self.decision.case, rules=self.options.rule_set, progress=False)
        self.explanation, magnitude = made, np.abs(made.tokens.values.astype(float))
        special = np.zeros(len(magnitude), bool) if made.tokens.special is None else made.tokens.special
        whole = float(magnitude.sum())
        return {
            "explanation": written(made.to_json_dict()),
            "target": made.target.text,
            "contrast": made.contrast.text,
            "metric_value": made.metric_value,
            "target_rank": made.target.rank,
            "contrast_rank": made.contrast.rank,
            "n_tokens": len(made.token_ids),
            "bos_share": float(magnitude[0]) / whole if special[0] and whole else None,
            "rules": made.rules,
        } | self._segments(np.where(special, 0, made.tokens.values.astype(float)))

    def _segments(self, relevance: np.ndarray) -> dict[str, str]:
        """Of every named part, messages and completion included: its share of Σ|R|, and its ΣR."""
        assert self.decision is not None and self.explanation is not None
        named = dict(((self.explanation.tokens.spans or {}).get("message")) or {})
        named |= case_segments(self.model, self.decision.case)
        whole = float(np.abs(relevance).sum())

        def summed(values: np.ndarray) -> dict[str, float]:
            return {
                name: float(sum(values[start:stop].sum() for start, stop in spans))
                for name, spans in named.items()
                if whole
            }

        shares = {name: one / whole for name, one in summed(np.abs(relevance)).items()}
        return {
            "segment_shares": written(shares or None),
            "segment_relevance": written(summed(relevance) or None),
        }

    def _draw(self) -> dict[str, Any]:
        """The pruned graph, as the bytes of its file; where the rules do not answer its questions, why not."""
        if not self.options.graph:
            return {}
        assert self.explanation is not None
        made = self.explanation
        graph: Any = attribution_graph(
            self.model,
            list(made.token_ids),
            LogitDiff(made.target.id, made.contrast.id),
            rules=self.options.rule_set,
            max_edges=_EDGES,
            progress=False,
        )
        return {"graph": graph.subgraph().to_bytes()}

    def _verify(self) -> dict[str, Any]:
        """The verdict."""
        options = self.options
        asked = self.checker if options.check_answers else None
        guarded = None if asked is None else _Guarded(as_checker(asked), options.checker_seconds)
        made = verify(
            self.model,
            self.explanation,  # type: ignore[arg-type]  # made before
            rules=options.rule_set,
            checker=guarded,
            draws=options.draws,
            thorough=options.thorough,
            stability=options.stability,
            repairs=options.repairs,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            progress=False,
        )
        flipped = made.hide.first("flip")
        return {
            "verification": written(made.to_dict()),
            "verdict": made.verdict.value,
            "pattern": made.pattern.value,
            "confidence": made.confidence,
            "stable": made.stable,
            "flipped": flipped,
            "random_share": _number(made.hide.random_share("flip")[0]),
            "repair": "" if made.repair is None else str(made.repair),
        }


def lost_row(case: Case, processes: int) -> TriageRow:
    """The row of a case that nobody came back from.

    Args:
        case: as it was read.
        processes: how many ended while they worked on it.

    Example:
        >>> lost_row(Case(prompt="2 + 2 =", id="sum"), 3).reason
        'worker: 3 processes that worked on it ended before it was done, killed or out of memory'
    """
    reason = (
        f"worker: {processes} processes that worked on it ended before it was done, killed or out of memory"
    )
    return TriageRow(**_as_read(case), fate="error", reason=reason)


def _as_read(case: Case) -> dict[str, Any]:
    """What a row says of a case before anything is found."""
    told = {"id": case.id, "number": 0, "suite": case.suite, "content": content_of(case)}
    return told | {"case": written(case.to_dict())}


@final
@dataclass(frozen=True)
class _Guarded(Checker):
    """A checker under its time limit, for answers that are checked outside a search."""

    checker: Checker
    seconds: float | int

    def score(self, completion: str) -> float:
        said = judge(self.checker, completion, self.seconds)
        if said.failure:
            raise InputError(f"an answer could not be checked: {said.failure}")
        return said.score


def _number(value: float) -> float | None:
    return float(value) if isfinite(value) else None
