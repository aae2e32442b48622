"""A small transformer trained on a synthetic corpus, with its real failures.  `tools/demo_model` made them."""

from lrp_lens.demo.loader import DEMO_CHECKPOINT, DemoPrompt, demo_cases, demo_prompts, load_demo_model

__all__ = ["DEMO_CHECKPOINT", "DemoPrompt", "demo_cases", "demo_prompts", "load_demo_model"]
