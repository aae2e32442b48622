"""`lrp-lens explain`: load, explain, print, write."""

from pathlib import Path
from typing import Any

from rich.text import Text

from lrp_lens.cases import Case
from lrp_lens.characters import shown
from lrp_lens.cli.console import terminal
from lrp_lens.cli.inputs import Request
from lrp_lens.cli.loading import loaded
from lrp_lens.cli.terminal import print_explanation
from lrp_lens.demo import demo_cases, real_cases
from lrp_lens.errors import InputError
from lrp_lens.failures.explain import explain
from lrp_lens.failures.explanation import Explanation
from lrp_lens.report import write_json, write_report
from lrp_lens.rules import DEFAULT_RULES, as_rule_set

DEMO_SUITE = "ioi_second_pair_last"
"""Of the demo model the first failure of this suite is explained: short, and its distractor is plain to see."""


def run(request: Request) -> Explanation:
    """Answer one request: the explanation on the terminal, the report and the JSON in files.

    Raises:
        InputError, MetricError, RuleError, SiteError: what was asked cannot be answered; see the message.
    """
    rules = DEFAULT_RULES if request.rules is None else as_rule_set(request.rules)
    case = _case(request) if request.prompt is None else None
    errors = terminal(stderr=True)
    with errors.status("loading the model …"):
        model = loaded(request.model, request.device, request.dtype)
    prompt: Any = request.prompt
    if request.chat:
        prompt = [{"role": "user", "content": prompt}]
    explanation = explain(
        model,
        prompt,
        request.target,
        request.contrast,
        completion=request.completion,
        position=request.position,
        case=case,
        rules=rules,
        top_k=request.top_k,
        seeds=request.seeds,
        prepend_bos=request.bos,
        model_name=_called(request.model),
    )
    console = terminal()
    print_explanation(explanation, console)
    report = write_report(explanation, request.out)
    console.print(Text.assemble(("Report:", "bold"), f" {shown(str(report))}"), soft_wrap=True)
    if request.json is not None:
        written = write_json(explanation.to_json_dict(), request.json)
        console.print(Text.assemble(("JSON:", "bold"), f"   {shown(str(written))}"), soft_wrap=True)
    return explanation


def _case(request: Request) -> Case:
    """A failure of the model's own: `demo_cases()[N]` or `real_cases(model)[N]`."""
    cases = demo_cases() if request.model is None else real_cases(request.model)
    number = request.case
    if number is None:
        return demo_cases(DEMO_SUITE)[0] if request.model is None else cases[0]
    if not 0 <= number < len(cases):
        raise InputError(f"--case is one of 0 to {len(cases) - 1} for this model; received {number}.")
    return cases[number]


def _called(model: str | None) -> str:
    """What to call the model: a directory or a file by its last name."""
    if model is None:
        return "demo model"
    return Path(model).resolve().name if Path(model).exists() else model
