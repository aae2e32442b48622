"""IFEval and GSM8K as lm-evaluation-harness scores them: its own functions, called on one completion.

The package is the extra `lrp-lens[harness]`.  IFEval's sentence counts need NLTK's `punkt_tab` data, which the harness
downloads where there is a network; without it such a constraint is a checker that raises, with its reason.
"""

import contextlib
import functools
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from lrp_lens.errors import InputError
from lrp_lens.extras import require_extra
from lrp_lens.failures.decision.checker import Checker, Spans
from lrp_lens.failures.decision.constraints import Instruction, instructions
from lrp_lens.failures.decision.texts import Number


def _harness(module: str, needs: Sequence[str] = ()) -> Any:
    """A module of the harness; what it prints while it is imported is not shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return require_extra(
            "harness",
            module,
            *needs,
            use="IFEval and GSM8K are scored as lm-evaluation-harness does",
            otherwise="pass a checker of your own",
        )


@final
@dataclass(frozen=True)
class IFEval(Checker):
    """A row of IFEval: strict scoring, graded by the share of the constraints that are kept.

    Args:
        row: `instruction_id_list`, `kwargs` and `prompt` (and `key`), as the data set has them.

    Raises:
        InputError: the harness is not installed, a field is missing, or a constraint is none of IFEval's.
    """

    row: Mapping[str, Any]

    def __post_init__(self) -> None:
        lacking = [one for one in ("instruction_id_list", "kwargs", "prompt") if one not in self.row]
        if lacking or len(self.row["instruction_id_list"]) != len(self.row["kwargs"]):
            raise InputError(
                "A row of IFEval has instruction_id_list, kwargs (one for each) and prompt; received the fields "
                f"{sorted(self.row)}, lacking {lacking}."
            )
        _harness("lm_eval.tasks.ifeval.utils", ("nltk", "langdetect", "immutabledict"))
        known = _harness("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT
        if unknown := [one for one in self.row["instruction_id_list"] if one not in known]:
            raise InputError(f"IFEval has the constraints {sorted(known)}; received {unknown}.")

    def kept(self, completion: str) -> tuple[bool, ...]:
        """Whether each constraint is kept."""
        utils = _harness("lm_eval.tasks.ifeval.utils")
        document = {"key": 0} | dict(self.row)
        return tuple(
            bool(one) for one in utils.process_results(document, [completion])["inst_level_strict_acc"]
        )

    def score(self, completion: str) -> float:
        kept = self.kept(completion)
        return sum(kept) / len(kept)

    def already(self, prefix: str) -> bool | None:
        lost = any(one.constraint.lost(prefix, one.options) for one in self._instructions)
        return False if lost else None

    def spans(self, completion: str, failed: str) -> Spans | None:
        """Where the constraints are kept that `failed` broke; None where none of them says."""
        found = [
            span for one in self._broken(failed) for span in one.constraint.spans(completion, one.options)
        ]
        return tuple(found) or None

    def wanted(self, failed: str) -> tuple[str, ...]:
        return tuple(text for one in self._broken(failed) for text in one.constraint.wanted(one.options))

    @property
    def at_end(self) -> bool:  # type: ignore[override]  # of each row its own
        """Whether all constraints are decided at the end."""
        return all(one.constraint.at_end for one in self._instructions)

    @property
    def _instructions(self) -> tuple[Instruction, ...]:
        return instructions(self.row["instruction_id_list"], self.row["kwargs"])

    def _broken(self, failed: str) -> list[Instruction]:
        return [one for one, kept in zip(self._instructions, self.kept(failed), strict=True) if not kept]


@final
@dataclass(frozen=True)
class GSM8K(Checker):
    """A row of GSM8K: the harness's filter (by default its last number) and its exact match.

    Args:
        answer: the data set's answer, whose number stands behind `####`.
        filter: "flexible-extract" (the last number) or "strict-match" (the number behind `####`).

    Raises:
        InputError: the harness is not installed, the answer has no number, or no filter has this name.
    """

    answer: str
    filter: str = "flexible-extract"

    def __post_init__(self) -> None:
        known = [one["name"] for one in _gsm8k()["filter_list"]]
        if self.filter not in known:
            raise InputError(f"The harness filters GSM8K by {known}; received {self.filter!r}.")
        _number_behind(self.answer)

    def score(self, completion: str) -> bool:
        (own,) = (one for one in _gsm8k()["filter_list"] if one["name"] == self.filter)
        steps = [one for one in own["filter"] if one["function"] == "regex"]
        said = [[completion]]
        for step in steps:
            options = {name: value for name, value in step.items() if name != "function"}
            said = _harness("lm_eval.filters.extraction").RegexFilter(**options).apply(said, [{}])
        (metric,) = _gsm8k()["metric_list"]
        options = {
            name: value
            for name, value in metric.items()
            if name not in ("metric", "aggregation", "higher_is_better")
        }
        found = _harness("lm_eval.api.metrics").exact_match_hf_evaluate(
            predictions=said[0], references=[self.answer], **options
        )
        return bool(found["exact_match"])

    def spans(self, completion: str, failed: str) -> Spans | None:
        return _number_behind(self.answer).spans(completion, failed)

    def wanted(self, failed: str) -> tuple[str, ...]:
        return _number_behind(self.answer).wanted(failed)


def _number_behind(answer: str) -> Number:
    """The number behind `####`."""
    try:
        return Number(float(answer.rpartition("####")[2].strip().replace(",", "")))
    except ValueError as error:
        raise InputError(f"GSM8K's answers end in a number, as in '#### 42'; received {answer!r}.") from error


@functools.cache
def _gsm8k() -> Any:
    """The harness's definition of the task."""
    _harness("lm_eval")
    definition = importlib.resources.files("lm_eval").joinpath("tasks/gsm8k/gsm8k.yaml")
    return _harness("yaml").safe_load(definition.read_text(encoding="utf-8"))
