"""What a triage does to each case: one object, whose fields say what rows depend on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isnan
from typing import Any, Literal, get_args

from lrp_lens.cases import Case
from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError, did_you_mean
from lrp_lens.failures.decision import GSM8K, HumanEval, IFEval, MultipleChoice, Regex
from lrp_lens.rules import ATTN_LRP, RuleSet, as_rule_set
from lrp_lens.run.identity import spelled

Task = Literal["ifeval", "gsm8k", "humaneval", "choice", "regex"]
TASKS: tuple[Task, ...] = get_args(Task)
_PROBE: dict[str, Any] = {
    "instruction_id_list": [], "kwargs": [], "prompt": "", "answer": "#### 1", "test": "", "entry_point": "f",
}  # fmt: skip
"""A document from which every benchmark's checker can be made, to see whether it can be made at all."""


@dataclass(frozen=True, kw_only=True)
class TriageOptions:
    """How decisions are found, explained and verified.

    Raises:
        InputError: an unknown task, one whose checker cannot be made here (its package is not installed, or running
            code was not allowed), or a number out of range.
        RuleError: no preset has this name.

    Example:
        >>> TriageOptions(task="regex").checker(Case(prompt="2 + 2 =", accepted=("[45]",))).score("It is 4.")
        True
    """

    task: Task | Callable[[Case], Any] | None = None
    """Whose checker judges completions: a benchmark's by name, or a function from the case to a checker (a `Checker`,
    or a function of the completion); None: the log's options and accepted answers decide."""
    allow_code_execution: bool = False
    """HumanEval runs what a model wrote."""
    rules: RuleSet | str | None = None
    """Of explanation, graph and verification; None is ATTN_LRP, under which the verdict's criterion was chosen."""
    min_gap: float | int = 1.0
    """The logit gap above which a decision is explained; the target has to be ahead in any case."""
    max_new_tokens: int = 96
    """How long a completion is."""
    budget: int = 3_072
    """Tokens that the search for a decision may run."""
    checker_seconds: float | int = 10.0
    """Time limit of one call of a checker."""
    draws: int = 20
    """Random draws of each control."""
    thorough: bool = False
    """Whether controls and silencing run also where they do not change the verdict."""
    stability: bool = True
    """Whether the verdict is asked again under other rules and with another replacement."""
    repairs: bool = True
    """Whether changes of the prompt are run."""
    check_answers: bool = False
    """Whether every edited run's answer is regenerated and checked: slow."""
    graph: bool = True
    """Whether the pruned attribution graph is kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        named = self.task is None or callable(self.task) or self.task in TASKS
        if not named:
            raise InputError(
                f"A task is one of {', '.join(TASKS)}, or a function from a case to its checker; received "
                f"{self.task!r}.{did_you_mean(self.task, TASKS)}"
            )
        if isnan(self.min_gap) or not self.checker_seconds > 0:
            raise InputError(
                f"min_gap is a number of logits and checker_seconds a time above 0; received {self.min_gap!r} and "
                f"{self.checker_seconds!r}."
            )
        for name in ("min_gap", "checker_seconds"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name, least in (("max_new_tokens", 1), ("budget", 0), ("draws", 1), ("seed", 0)):
            require_whole(getattr(self, name), name, least)
        object.__setattr__(self, "rules", as_rule_set(ATTN_LRP if self.rules is None else self.rules))
        if self.task in ("ifeval", "gsm8k", "humaneval"):
            self._benchmark(_PROBE)

    @property
    def rule_set(self) -> RuleSet:
        """The rules."""
        return as_rule_set(self.rules)

    def checker(self, case: Case) -> Any:
        """The checker of one case, None where the task has none for it.

        Raises:
            InputError: its row lacks what the benchmark's checker needs.
        """
        if self.task is None:
            return None
        if callable(self.task):
            return self.task(case)
        if self.task == "choice":
            if case.right is None:
                raise InputError("the row does not say which of its choices is right")
            return MultipleChoice(case.choices, case.right)
        if self.task == "regex":
            if not case.accepted:
                raise InputError("the row has no accepted answers, which are the task's regular expressions")
            return Regex("|".join(f"(?:{one})" for one in case.accepted))
        alone = [{"content": case.prompt}] if isinstance(case.prompt, str) else case.prompt
        prompt = {"prompt": alone[0]["content"]} if len(alone) == 1 else {}
        return self._benchmark(prompt | dict(case.metadata) | dict(case.metadata.get("doc") or {}))

    def _benchmark(self, document: Mapping[str, Any]) -> Any:
        """The checker of a benchmark's row."""
        needed = {"gsm8k": ("answer",), "humaneval": ("prompt", "test", "entry_point")}.get(
            str(self.task), ()
        )
        if lacking := [one for one in needed if one not in document]:
            raise InputError(
                f"a row of {self.task} has {', '.join(needed)}; this one lacks {', '.join(lacking)}"
            )
        if self.task == "ifeval":
            return IFEval(document)
        if self.task == "gsm8k":
            return GSM8K(str(document["answer"]))
        prompt, test, entry_point = (str(document[one]) for one in needed)
        return HumanEval(prompt, test, entry_point, self.allow_code_execution)

    def identity(self) -> dict[str, str]:
        """By name, what rows depend on, in words that are the same in every process."""
        return {one.name: spelled(getattr(self, one.name)) for one in fields(self)}
