"""Programs whose circuits are known: transformers compiled by Tracr (Lindner et al. 2301.05062), weights frozen.

`tests/fixtures/compile_tracr.py` made them.  Position embeddings carry indices, which no prompt changes; so the true
edges are those along which the tokens flow:

    xproportion  tokens → is x? (an MLP) → mean over the tokens so far (a head's v) → output
    reverse      tokens → a head's v, whose pattern looks at length - 1 - index → output
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lrp_lens import ATTN_LRP, GRADIENT, RELP
from lrp_lens.circuits import Circuit, ComponentEdges, component_edges, component_graph, run_circuits
from tests import zoo

FIXTURE = Path(__file__).parent / "fixtures" / "tracr_programs.npz"
TRUE = {
    "xproportion": {("embed", "L0 MLP"), ("L0 MLP", "L1H0 v"), ("L1H0", "logits")},
    "reverse": {("embed", "L3H0 v"), ("L3H0", "logits")},
}
METHODS = {
    "EAP": dict(rules=GRADIENT),
    "EAP-IG": dict(rules=GRADIENT, steps=5),
    "RelP": dict(rules=RELP),
    "AttnLRP": dict(rules=ATTN_LRP),
    "AttnLRP, one run": dict(rules=ATTN_LRP, corrupted=False),
}
pytestmark = pytest.mark.skipif(
    not zoo.HAS_HOOKED_TRANSFORMER, reason="models without norms: HookedTransformer only"
)


def compiled(name: str) -> tuple[object, dict, np.ndarray]:
    """The compiled model, what is known about it, and the output Tracr's own model gives for `sequence`."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    arrays = np.load(FIXTURE)
    about = json.loads(bytes(arrays["header"]))[name]

    def read(key: str) -> torch.Tensor:
        return torch.tensor(arrays[f"{name}/{key}"], dtype=torch.float64)

    tokens, positions = read("token_embed/embeddings"), read("pos_embed/embeddings")
    d_model, n_heads, d_head = tokens.shape[1], about["n_heads"], about["d_head"]
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=about["n_layers"],
            d_model=d_model,
            n_heads=n_heads,
            d_head=d_head,
            d_mlp=about["d_mlp"],
            d_vocab=len(tokens),
            d_vocab_out=len(about["columns"]),
            n_ctx=len(positions),
            act_fn="relu",
            normalization_type=None,
            attention_dir="causal" if about["causal"] else "bidirectional",
            dtype=torch.float64,
            device="cpu",
        )
    )
    state = {"embed.W_E": tokens, "pos_embed.W_pos": positions}
    state["unembed.W_U"] = torch.eye(d_model, dtype=torch.float64)[:, about["columns"]]
    state["unembed.b_U"] = torch.zeros(len(about["columns"]), dtype=torch.float64)
    for layer in range(about["n_layers"]):
        theirs, ours = f"transformer/layer_{layer}", f"blocks.{layer}"
        for part, letter in (("query", "Q"), ("key", "K"), ("value", "V")):
            weight = read(f"{theirs}/attn/{part}/w").reshape(d_model, n_heads, d_head)
            state[f"{ours}.attn.W_{letter}"] = weight.permute(1, 0, 2)
            state[f"{ours}.attn.b_{letter}"] = read(f"{theirs}/attn/{part}/b").reshape(n_heads, d_head)
        state[f"{ours}.attn.W_O"] = read(f"{theirs}/attn/linear/w").reshape(n_heads, d_head, d_model)
        state[f"{ours}.attn.b_O"] = read(f"{theirs}/attn/linear/b")
        for part, letter in (("linear_1", "in"), ("linear_2", "out")):
            state[f"{ours}.mlp.W_{letter}"] = read(f"{theirs}/mlp/{part}/w")
            state[f"{ours}.mlp.b_{letter}"] = read(f"{theirs}/mlp/{part}/b")
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    return model.eval(), about, arrays[f"{name}/output"]


def prompts(about: dict, seed: int, n: int = 24) -> torch.Tensor:
    """Random sequences of the program's letters behind BOS."""
    vocabulary = about["vocabulary"]
    letters = [index for word, index in vocabulary.items() if word not in ("BOS", "compiler_pad")]
    drawn = np.random.default_rng(seed).choice(letters, (n, len(about["sequence"]) - 1))
    return torch.tensor(np.concatenate([np.full((n, 1), vocabulary["BOS"]), drawn], axis=1))


def every_output(logits: torch.Tensor) -> torch.Tensor:
    """All outputs at once, with random weights, so that every position counts."""
    weights = torch.randn(logits.shape[1:], generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
    return (logits * weights)[:, 1:].sum((1, 2))


def auroc(scores: np.ndarray, true: np.ndarray) -> float:
    """Probability that a true edge scores above another one, ties half."""
    above, below = scores[true][:, None], scores[~true][None]
    return float(((above > below) + 0.5 * (above == below)).mean())


def true_mask(name: str, model: object) -> np.ndarray:
    return Circuit.from_edges(component_graph(model), TRUE[name]).mask


@pytest.mark.parametrize("name", TRUE)
def test_the_model_computes_the_program(name: str) -> None:
    model, about, expected = compiled(name)
    ids = torch.tensor([[about["vocabulary"][word] for word in about["sequence"]]])
    found = model(ids)[0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    words = about["sequence"][1:]
    if name == "xproportion":
        shares = [words[: i + 1].count("x") / (i + 1) for i in range(len(words))]
        np.testing.assert_allclose(found[1:, 0], shares, atol=1e-6)
    else:
        letters = [about["labels"][column].split(":")[1] for column in about["columns"]]
        assert [letters[i] for i in found[1:].argmax(1)] == words[::-1]


@pytest.mark.parametrize("name", TRUE)
def test_exactly_the_true_edges_matter(name: str) -> None:
    """Each edge corrupted on its own: those that change any output are the program's."""
    model, about, _ = compiled(name)
    graph = component_graph(model)
    edges = np.argwhere(graph.free)
    circuits = []
    for writer, reader in edges:
        mask = graph.free.copy()
        mask[writer, reader] = False
        circuits.append(Circuit(graph, mask))
    found = run_circuits(model, circuits, prompts(about, 0), prompts(about, 1), every_output)
    change = np.abs(found.values - found.full).max(1)
    matter = {
        (str(graph.writers[w]), str(graph.readers[r]))
        for (w, r), c in zip(edges, change, strict=True)
        if c > 1e-4
    }
    assert matter == TRUE[name]
    alone = run_circuits(
        model, Circuit(graph, true_mask(name, model)), prompts(about, 0), prompts(about, 1), every_output
    )
    np.testing.assert_allclose(alone.values[0], alone.full, atol=1e-6)  # and they are enough


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TRUE)
def test_the_true_edges_are_on_top(name: str, method: str) -> None:
    """AUROC of |score| for the true edges among all: 1.0 for every method and both programs."""
    model, about, _ = compiled(name)
    options = dict(METHODS[method])
    corrupted = prompts(about, 1) if options.pop("corrupted", True) else None
    edges = component_edges(model, prompts(about, 0), corrupted, every_output, **options)
    per_prompt = np.abs(edges.values).mean(0)
    true, free = true_mask(name, model), edges.graph.free
    assert auroc(per_prompt[free], true[free]) == 1.0
    mean = ComponentEdges(**{**vars_of(edges), "values": per_prompt[None]})
    assert set(mean.top(len(TRUE[name])).edges) == TRUE[name]
    assert per_prompt[true].min() > 5 * per_prompt[free & ~true].max()


def test_the_measure_sees_a_wrong_ranking() -> None:
    model, about, _ = compiled("xproportion")
    edges = component_edges(model, prompts(about, 0), prompts(about, 1), every_output, rules=GRADIENT)
    free, true = edges.graph.free, true_mask("xproportion", model)
    shuffled = np.random.default_rng(0).permutation(np.abs(edges.values).mean(0)[free])
    assert auroc(shuffled, true[free]) < 0.9


def vars_of(edges: ComponentEdges) -> dict:
    return {name: getattr(edges, name) for name in edges.__dataclass_fields__}
