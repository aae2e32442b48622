"""Explanations of chat prompts, for the tests of pages: a short one of the demo model, a long one of synthetic views.

The demo model has no chat template and 128 positions, so the shape is written out (SmolLM2's: every turn between two
special tokens), and the long prompt's views are drawn at random, few tokens heavy and most of them light.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from lrp_lens import Explanation, explain, load_demo_model
from lrp_lens.views import View

CHAT = (  # BOS comes before it
    "system then mary and john went to the park . <unk> "
    "<bos> user mary gave the key to john . <unk> <bos> then mary and john went to the park . john gave the key to"
)
HEAVY = 24
"""Tokens of the long prompt that carry most of the relevance."""


@cache
def chat_explanation() -> Explanation:
    """About 40 tokens, several of them special, of the demo model."""
    return explain(load_demo_model(device="cpu"), CHAT)


@cache
def long_explanation(tokens: int = 300, layers: int = 30, heads: int = 9) -> Explanation:
    """The same, as if a model of 30 layers had read 300 tokens: markup, formulas, line breaks and pieces among them."""
    random = np.random.default_rng(0)
    said = [*[" word"] * 14, *[" un", "like", "ly"] * 2, " $x$", " <b>"]
    turn = ["<|im_start|>", "user", "\n", *said, "<|im_end|>", "\n"]
    words = tuple((turn * (tokens // len(turn) + 1))[:tokens])
    special = np.array([one.startswith("<|") for one in words])
    special[-1] = False
    weight = np.full(tokens, 0.002)
    weight[np.append(random.choice(np.flatnonzero(~special)[:-1], HEAVY - 1, replace=False), tokens - 1)] = (
        1.0
    )
    weight[special] = 3.0
    short = chat_explanation()
    ends = short.tokens.towards

    def view(values: np.ndarray, dims: tuple[str, ...], name: str, **labels: tuple[str, ...]) -> View:
        at, pieces = (special, words) if "position" in dims else (None, None)
        return View(values, dims, labels, name, special=at, towards=ends, pieces=pieces)

    stream = random.normal(size=(layers + 1, tokens)) * weight
    names = tuple(f"L{i}{part}" for i in range(layers) for part in (*[f"H{j}" for j in range(heads)], " MLP"))
    kinds = ["bias", "softmax"] * layers
    ledger = pd.DataFrame(
        {
            "layer": [pd.NA, *np.repeat(range(layers), 2)],
            "name": ["tokens", *["b_out", "softmax"] * layers],
            "kind": ["tokens", *kinds],
            "amount": [12.75, *(-0.21 * np.arange(2 * layers) / layers)],
        }
    )
    ledger["share"] = ledger["amount"] / ledger["amount"].sum()
    return replace(
        short,
        prompt="".join(words),
        token_strings=words,
        tokens=view(stream[0], ("position",), "tokens", position=words),
        layers=view(
            stream,
            ("layer", "position"),
            "layers",
            layer=("embed", *[f"L{i}" for i in range(layers)]),
            position=words,
        ),
        heads=view(random.normal(size=(layers, heads)), ("layer", "head"), "heads"),
        components=view(12 * random.normal(size=len(names)), ("component",), "components", component=names),
        ledger=ledger,
    )
