"""Weights that accelerate keeps on disk: the same numbers, all left as it was found; what cannot be is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrp_lens import (
    InputError,
    LogitDiff,
    SiteError,
    attribution_graph,
    component_edges,
    decompose,
    estimate,
    load_model,
    run_with_relevance,
)
from lrp_lens.hosts import offload, resolve
from lrp_lens.hosts.reads import input_weights
from lrp_lens.hosts.scope import modules_of
from lrp_lens.hosts.writes import output_weights
from lrp_lens.run.estimate import weights
from lrp_lens.run.identity import model_identity
from tests import zoo

METRIC = LogitDiff(3, 7)
pytestmark = pytest.mark.filterwarnings("ignore")
EXCEPT = {"rotary_emb", "drop"}  # no weights, and transformers does not run them from disk


def parts_of(name: str) -> list[str]:
    """The names of a device_map, as fine as blocks."""
    model = zoo.hugging_face(name)
    base = model.base_model_prefix
    inside = dict(model.base_model.named_children())
    blocks = {one: part for one, part in inside.items() if isinstance(part, torch.nn.ModuleList)}
    found = [f"{base}.{one}" for one in inside if one not in blocks]
    found += [f"{base}.{one}.{index}" for one, part in blocks.items() for index in range(len(part))]
    return [*found, *(one for one, _ in model.named_children() if one != base)]


def saved(name: str, folder: Path, dtype: torch.dtype = torch.float64) -> Path:
    zoo.hugging_face(name, dtype).save_pretrained(folder)
    return folder


def on_disk(name: str, *words: str) -> dict[str, str]:
    """A map with the parts whose name has one of the words on disk, the rest on the CPU."""
    chosen = {part for part in parts_of(name) if any(word in part for word in words)}
    chosen = {part for part in chosen if part.rpartition(".")[2] not in EXCEPT}
    assert chosen
    return {part: "disk" if part in chosen else "cpu" for part in parts_of(name)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A Llama in memory, and the same with everything on disk."""
    folder = saved("llama", tmp_path_factory.mktemp("llama"))
    with zoo._quietly():
        whole = load_model(folder, host="TransformerBridge", dtype=torch.float64, device="cpu")
        return whole, load_model(
            folder, dtype=torch.float64, device_map=on_disk("llama", "layers", "norm", "head")
        )


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=1e-12)


def require_equal(divided: Any, whole: Any, tokens: torch.Tensor) -> None:
    for memory in ("low", "full"):
        _, found = run_with_relevance(divided, tokens, METRIC, memory=memory)
        _, expected = run_with_relevance(whole, tokens, METRIC, memory=memory)
        for view in ("tokens", "layers", "heads"):
            close(getattr(found, view)().values, getattr(expected, view)().values)
        close(found.ledger().relative_remainder, expected.ledger().relative_remainder)
        assert found.ledger().relative_remainder <= found.ledger().rounding


def test_views_and_ledger_are_those_of_the_undivided_model(pair: tuple[Any, Any]) -> None:
    whole, divided = pair
    away = offload.offloaded(modules_of(divided))
    assert len(away) > 15 and not offload.offloaded(modules_of(whole))
    require_equal(divided, whole, zoo.prompt_tokens(2, 9))
    assert offload.offloaded(modules_of(divided)) == away  # everything is away again


def test_what_reads_weights_reads_those(pair: tuple[Any, Any]) -> None:
    whole, divided = pair
    close(output_weights(divided, 1), output_weights(whole, 1))
    for part in "qkv":
        close(input_weights(divided, 0, part), input_weights(whole, 0, part))
    for one, other in zip(resolve(divided).sites, resolve(whole).sites, strict=True):
        for name in ("gain", "bias"):
            if hasattr(one, name) and getattr(other, name)() is not None:
                close(getattr(one, name)(), getattr(other, name)())
    assert model_identity(divided) == model_identity(whole)
    assert [name for name, _ in offload.named_weights(divided)] == [n for n, _ in divided.named_parameters()]


def test_every_analysis_runs_on_it(pair: tuple[Any, Any]) -> None:
    whole, divided = pair
    tokens = zoo.prompt_tokens(1, 7)
    graphs = [attribution_graph(one, tokens, METRIC, progress=False) for one in (divided, whole)]
    close(graphs[0].node_relevance, graphs[1].node_relevance)
    edges = [component_edges(one, tokens, metric=METRIC) for one in (divided, whole)]
    close(edges[0].scores, edges[1].scores)
    parts = [decompose(one, tokens, METRIC) for one in (divided, whole)]
    close(parts[0].total, parts[1].total)


def test_a_pass_goes_block_by_block_and_leaves_all_as_it_was(pair: tuple[Any, Any]) -> None:
    _, divided = pair
    before = [(name, one.requires_grad, one.is_meta) for name, one in divided.named_parameters()]
    assert any(asks for _, asks, _ in before)
    _, found = run_with_relevance(divided, zoo.prompt_tokens(1, 7), METRIC)
    assert found.memory == "low" and "weights are offloaded" in found.memory_text
    assert before == [(name, one.requires_grad, one.is_meta) for name, one in divided.named_parameters()]


def test_estimate_counts_what_is_brought_in(pair: tuple[Any, Any]) -> None:
    """In the graph of a pass in full are all weights, in that of one in low memory those of a block."""
    whole, divided = pair
    need, other = estimate(divided, 64), estimate(whole, 64)
    block = sum(one.nbytes for one in whole.blocks[0].parameters())
    in_full = need.full.peak - other.full.peak
    assert 0 < need.low.peak - other.low.peak < min(in_full, 1.5 * block)
    assert need.model < other.model == weights(whole) == weights(divided, elsewhere=True)


def test_without_bringing_them_in_it_does_not_work(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, divided = pair

    @contextmanager
    def nothing(parts: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(offload, "weights_present", nothing)
    with pytest.raises(SiteError, match="'meta', and accelerate does not bring in"):
        resolve(divided).norms[1]["ln1"].norm.gain.sum()
    with pytest.raises(SiteError, match="Keep its layer in memory"):
        run_with_relevance(divided, zoo.prompt_tokens(1, 7), METRIC)


ON_DISK = ("qwen3", "gemma2", "gemma3", "olmo2", "mistral", "mixtral", "qwen3_moe")


@pytest.mark.full
@pytest.mark.zoo
@pytest.mark.parametrize("name", ON_DISK)
def test_other_architectures_with_blocks_on_disk(name: str, tmp_path: Path) -> None:
    folder, away = saved(name, tmp_path / "model"), tmp_path / "away"  # transformers writes mixtures anew
    with zoo._quietly():
        whole = load_model(folder, host="TransformerBridge", dtype=torch.float64, device="cpu")
        divided = load_model(
            folder, dtype=torch.float64, device_map=on_disk(name, "layers"), offload_folder=away
        )
    for one in (whole, divided):
        one.original_model.config._experts_implementation = "eager"  # grouped products know no float64
    require_equal(divided, whole, zoo.prompt_tokens(1, 7))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("gpt2", InputError, "fused q, k and v when it is built"),
        ("neox", SiteError, "takes a fused q, k and v apart"),
        ("gptj", SiteError, "'meta', and accelerate does not bring in"),
    ],
)
def test_what_cannot_be_offloaded_is_refused(
    name: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    """The bridge of 4.3 runs these, but its parts of a fused q, k and v cannot be read."""
    folder = saved(name, tmp_path)
    where = on_disk(name, ".h.", "layers")
    with zoo._quietly():
        if not zoo.HAS_HOOKED_TRANSFORMER:
            error, says = (
                SiteError,
                "does not bring in what TransformerBridge makes it of .* Keep its layer in memory",
            )
        with pytest.raises(error, match=says):
            run_with_relevance(
                load_model(folder, dtype=torch.float64, device_map=where), zoo.prompt_tokens(1, 7), METRIC
            )


def test_what_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    for options, says in (
        ({"host": "HookedTransformer"}, "needs TransformerBridge|has no HookedTransformer"),
        ({"fold_ln": True}, "needs TransformerBridge|has no HookedTransformer"),
        ({"device": "cpu"}, "Leave it out"),
        ({"device_map": {}}, "'auto', or part → device"),
        ({"device_map": "nowhere"}, "transformers does not take 'nowhere'"),
    ):
        with zoo._quietly(), pytest.raises(InputError, match=says):
            load_model(folder, **({"device_map": {"": "cpu"}} | options))
    with pytest.raises(InputError, match=r"local directory with config.json; 'gpt2' is none"):
        load_model("gpt2", device_map="auto")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
