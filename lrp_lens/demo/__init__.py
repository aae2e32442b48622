"""A small transformer trained on a synthetic corpus, with its real failures, and some of real language models.

`tools/demo_model` made the former, `tools/real_failures.py` found the latter.
"""

from lrp_lens.demo.loader import (
    DEMO_CHECKPOINT,
    REAL_MODELS,
    DemoPrompt,
    demo_cases,
    demo_prompts,
    load_demo_model,
    real_cases,
)

__all__ = [
    "DEMO_CHECKPOINT",
    "REAL_MODELS",
    "DemoPrompt",
    "demo_cases",
    "demo_prompts",
    "load_demo_model",
    "real_cases",
]
