"""A small transformer trained on a synthetic corpus, with its corpus and its real failures."""

from lrp_lens.demo.loader import DEMO_CHECKPOINT, demo_cases, load_demo_model

__all__ = ["DEMO_CHECKPOINT", "demo_cases", "load_demo_model"]
