"""Files: nothing half written, nothing overwritten by an error, and nothing read that is not what was written."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lrp_lens import (
    AttributionGraph,
    Circuit,
    ComponentEdges,
    Decomposition,
    Faithfulness,
    InputError,
    LogitDiff,
    RelevanceCache,
    View,
    component_edges,
    decompose,
    faithfulness,
    run_with_relevance,
)
from lrp_lens.circuits.interchange import save_importances
from lrp_lens.files import replacing, require_writable, write_text
from lrp_lens.patching import Comparison
from lrp_lens.patching.compare import compare
from lrp_lens.report import write_report
from tests import zoo
from tests.frozen_network import FrozenNetwork
from tests.test_report import example

METRIC = LogitDiff(3, 7)
SAVED = (
    View,
    RelevanceCache,
    Decomposition,
    AttributionGraph,
    ComponentEdges,
    Circuit,
    Comparison,
    Faithfulness,
)


@pytest.fixture(scope="module")
def results() -> dict[type, Any]:
    """One result of every class that saves itself."""
    model = zoo.bridge("gpt2")
    tokens, other = zoo.prompt_tokens(2, 6), zoo.prompt_tokens(2, 6, seed=1)
    edges = component_edges(model, tokens, other, METRIC)
    cache = run_with_relevance(model, tokens, METRIC)[1]
    sites, methods = ["attn_head_out_all_pos"], ["GRADIENT"]
    return {
        View: cache.tokens(),
        RelevanceCache: cache,
        Decomposition: decompose(model, tokens, METRIC),
        AttributionGraph: FrozenNetwork(positions=4, layers=1).graph(),
        ComponentEdges: edges,
        Circuit: edges.top(3),
        Comparison: compare(model, tokens, other, METRIC, sites=sites, methods=methods, samples=10),
        Faithfulness: faithfulness(model, tokens[0], ["GRADIENT"], metric=METRIC, steps=2, progress=False),
    }


def bad_paths(tmp_path: Path) -> list[tuple[Any, str]]:
    locked = tmp_path / "locked"
    locked.mkdir(exist_ok=True)
    return [
        (tmp_path / "none" / "x", "there is no directory"),
        (tmp_path, "it is a directory"),
        ("", "it is no file name"),
        ("a\0b", "it is no file name"),
        ("\ud800\ud800", "it is no file name"),
        (tmp_path / ("x" * 300), "File name too long|Cannot write"),
    ]


def test_a_bad_path_is_one_error(results: dict[type, Any], tmp_path: Path) -> None:
    writers: list[Callable[[Any], Any]] = [result.save for result in results.values()]
    graph = results[AttributionGraph]
    writers += [
        lambda path: write_report(example(), path),
        lambda path: save_importances(results[ComponentEdges], path),
        lambda path: graph.to_neuronpedia(slug="s", scan="m", probability=0.5, path=path or ""),
    ]
    for write in writers:
        for path, words in bad_paths(tmp_path):
            with pytest.raises(InputError, match=words):
                write(path)
    assert [one.name for one in tmp_path.iterdir()] == ["locked"]


def test_what_is_loaded_is_what_was_saved(results: dict[type, Any], tmp_path: Path) -> None:
    assert set(results) == set(SAVED)
    for kind, result in results.items():
        path = tmp_path / f"{kind.__name__}.safetensors"
        path.write_text("older")
        result.save(path)
        assert repr(kind.load(path)) == repr(result)
    assert len(list(tmp_path.iterdir())) == len(SAVED)


def changed_files(path: Path) -> list[tuple[str, bytes]]:
    """The same file, damaged in many ways; each with the reason."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors, target = load_file(path), path.with_name("changed")

    def with_(tensors: dict[str, Any], header: str | None) -> bytes:
        save_file(tensors, target, metadata={} if header is None else {"lrp_lens": header})
        return target.read_bytes()

    header = metadata["lrp_lens"]
    content = json.loads(header)
    first = next(name for name, one in tensors.items() if one.numel())
    one = tensors[first].clone()
    flat = one.flatten()
    flat[0] = ~flat[0] if flat.dtype == zoo.torch.bool else flat[0] + 1
    words = {**content, "words": {**content["words"], "added": 1}}
    raw = path.read_bytes()
    return [
        ("value", with_(tensors | {first: flat.reshape(one.shape)}, header)),
        ("shape", with_(tensors | {first: one.flatten().clone()[None, None, None]}, header)),
        ("gone", with_({name: tensor for name, tensor in tensors.items() if name != first}, header)),
        ("more", with_(tensors | {"extra": one.clone()}, header)),
        ("words", with_(tensors, json.dumps(words))),
        ("junk", with_(tensors, "{'no': json")),
        ("list", with_(tensors, "[1, 2]")),
        ("kind", with_(tensors, json.dumps({**content, "kind": 3}))),
        ("no header", with_(tensors, None)),
        ("cut", raw[: len(raw) // 2]),
        ("text", b"hello"),
        ("empty", b""),
    ]


def test_a_changed_file_is_refused(results: dict[type, Any], tmp_path: Path) -> None:
    path = tmp_path / "result"
    for kind, result in results.items():
        result.save(path)
        for reason, content in changed_files(path):
            path.write_bytes(content)
            with pytest.raises(InputError, match=f"A saved {kind.__name__}") as caught:
                kind.load(path)
            assert str(path) in str(caught.value), reason
        for place in (tmp_path, tmp_path / "none", "", "a\0b"):
            with pytest.raises(InputError, match=f"A saved {kind.__name__}"):
                kind.load(place)


def test_parts_that_do_not_fit_are_refused_without_a_checksum(
    results: dict[type, Any], tmp_path: Path
) -> None:
    """A file made by another program, with a good checksum, is checked like anything built by hand."""
    from dataclasses import replace

    from lrp_lens.files import tensors as files
    from lrp_lens.run.cache_storage import KIND

    parts: Decomposition = results[Decomposition]
    for changes in (
        {"direct": parts.direct[:, 1:]},
        {"total": parts.total * np.nan},
        {"special": parts.special[:, 1:]},
        {"frozen": parts.frozen[:, 1:]},
        {"metric": parts.metric[:1]},
        {"components": (*parts.components[:-1], parts.components[0])},
        {"token_strings": parts.token_strings[:1]},
        {"residuals": {"none": parts.metric}},
    ):
        with pytest.raises(InputError, match=r"[Dd]ecomposition"):
            replace(parts, **changes)
    path = tmp_path / "cache"
    results[RelevanceCache].save(path)
    tensors, words = files.read(path, KIND)
    embed = "gradient/hook_embed"
    for more, said in (
        ({embed: 2 * tensors[embed]}, {}),
        ({embed: tensors[embed][:1]}, {}),
        ({embed: tensors[embed] * np.nan}, {}),
        ({"tokens": tensors["tokens"][:, 1:]}, {}),
        ({"metric_value": tensors["metric_value"] + 1}, {}),
        ({"gradient/extra": tensors[embed]}, {}),
        ({}, {"batch": words["batch"] | {"strings": [["a"]]}}),
        ({}, {"batch": words["batch"] | {"lengths": [1]}}),
        ({}, {"ledger": {"rows": []}}),
        ({}, {"towards": 3}),
    ):
        files.write(path, KIND, {**tensors, **more}, {**words, **said})
        with pytest.raises(InputError, match="RelevanceCache"):
            RelevanceCache.load(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_text(path, "first")
    path.chmod(0o640)
    with pytest.raises(KeyboardInterrupt), replacing(path):
        raise KeyboardInterrupt
    with pytest.raises(InputError, match=r"Cannot write to .*No space left"), replacing(path):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    assert write_text(path, "second ∅") == path.resolve() and path.read_text(encoding="utf-8") == "second ∅"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to(path)
    write_text(tmp_path / "link", "third")
    assert (tmp_path / "link").is_symlink() and path.read_text() == "third"
    mask = os.umask(0o077)
    try:
        assert stat.S_IMODE(write_text(tmp_path / "new", "").stat().st_mode) == 0o600
    finally:
        os.umask(mask)
    assert require_writable(path) == path
    write_text("/dev/null", "gone")
