"""`lrp-lens explain`: load, explain, print, write."""

import json
import warnings
from pathlib import Path
from typing import Any

from rich.text import Text

from lrp_lens.characters import shown
from lrp_lens.cli.console import terminal
from lrp_lens.cli.inputs import Request
from lrp_lens.cli.terminal import print_explanation
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.failures.explain import explain, rule_set
from lrp_lens.failures.explanation import Explanation
from lrp_lens.files import write_text
from lrp_lens.hosts.loading import load_model
from lrp_lens.report import write_report

DEMO_SUITE = "ioi_second_pair_last"
"""Without a prompt, the first failure of this suite is explained: short, and its distractor is plain to see."""


def run(request: Request) -> Explanation:
    """Answer one request: the explanation on the terminal, the report and the JSON in files.

    Raises:
        InputError, MetricError, RuleError, SiteError: what was asked cannot be answered; see the message.
    """
    rules = rule_set(request.rules)
    errors = terminal(stderr=True)
    with errors.status("loading the model …"):
        model = _load(request.model)
    case = demo_cases(DEMO_SUITE)[0] if request.prompt is None else None
    with errors.status("explaining …"):
        explanation = explain(
            model,
            request.prompt,
            request.target,
            request.contrast,
            case=case,
            rules=rules,
            top_k=request.top_k,
            model_name=_called(request.model),
        )
    console = terminal()
    print_explanation(explanation, console)
    report = write_report(explanation, request.out)
    console.print(Text.assemble(("Report:", "bold"), f" {shown(str(report))}"), soft_wrap=True)
    if request.json is not None:
        text = json.dumps(explanation.to_json_dict(), indent=1, allow_nan=False)
        written = write_text(request.json, text + "\n")
        console.print(Text.assemble(("JSON:", "bold"), f"   {shown(str(written))}"), soft_wrap=True)
    return explanation


def _called(model: str | None) -> str:
    """What to call the model: a directory by its last name."""
    if model is None:
        return "demo model"
    return Path(model).resolve().name if Path(model).is_dir() else model


def _load(name: str | None) -> Any:
    """The demo model, a local directory or a hub model; libraries' warnings are silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name is None:
            return load_demo_model()
        try:
            return load_model(name)
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"Cannot load the model {name!r}: {reason}") from error
