"""Options that several commands have, and names that their help tells; no model library is imported for them."""

from typing import Annotated

import typer

DEFAULT_REPORT = "lrp-lens-report.html"
DEFAULT_TRIAGE = "lrp-lens-triage"
RULES = ("relp-frozen-pattern", "relp", "cp-lrp", "attn-lrp", "gim", "gradient")
"""Names of `lrp_lens.rules.PRESETS` as the help tells them, `DEFAULT_RULES` first; a test compares."""
TASKS = ("ifeval", "gsm8k", "humaneval", "choice", "regex")
"""`lrp_lens.failures.triage.options.TASKS`; a test compares."""

DEVICE = Annotated[str | None, typer.Option(help="Where the model runs, e.g. cpu or cuda.")]
DTYPE = Annotated[
    str | None, typer.Option(help="Numbers of the model: float32 (default), bfloat16, float16 or float64.")
]
CHAT = Annotated[
    bool,
    typer.Option(
        "--chat", help="A prompt that is a text is a user's message: use the model's chat template."
    ),
]
FOLDER = Annotated[str, typer.Argument(metavar="DIR", help="A folder that lrp-lens triage wrote.")]
FORCE = Annotated[
    bool, typer.Option("--force", help="Replace an existing file even if it is no report of lrp-lens.")
]
