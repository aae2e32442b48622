"""Checkpoints: parts that a kill at any point leaves whole, that damage cannot spoil, and that no other work takes."""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lrp_lens import CP_LRP, InputError, LogitDiff, attribution_graph, compare, faithfulness
from lrp_lens.files import arrays, paths
from lrp_lens.files import tensors as tensor_files
from lrp_lens.files.checkpoints import Checkpoint
from lrp_lens.methods import Method
from lrp_lens.metrics import CallableMetric
from lrp_lens.run.identity import model_identity, spelled
from tests import zoo

KIND = "Sum/1"


def opened(folder: Any, **identity: Any) -> Checkpoint:
    return Checkpoint(folder, KIND, lambda: {"seed": 0, "prompt": [1, 2]} | identity)


def values(number: int) -> dict[str, torch.Tensor]:
    return {"values": torch.full((3,), number, dtype=torch.float64)}


# ------------------------------------------------------------------------------------ parts
def test_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "with parents"
    first = opened(folder)
    assert first.read("one") is None
    first.write("one", values(1), {"cost": (1, "ä")})
    again = opened(str(folder))
    tensors, words = again.read("one") or ({}, None)
    assert torch.equal(tensors["values"], values(1)["values"]) and words == {"cost": (1, "ä")}
    again.write("one", values(2), None)
    tensors, words = opened(folder).read("one") or ({}, 0)
    assert torch.equal(tensors["values"], values(2)["values"]) and words is None


def test_without_a_folder_nothing_is_kept_and_nothing_is_asked() -> None:
    def asked() -> dict[str, Any]:
        raise AssertionError

    nowhere = Checkpoint(None, KIND, asked)
    nowhere.write("one", values(1), {})
    assert nowhere.read("one") is None


def test_what_differs_is_named_before_any_work(tmp_path: Path) -> None:
    opened(tmp_path).write("one", values(1), {}, {"method A": "a"})
    for identity, words in (
        (dict(seed=1), "seed"),
        (dict(prompt=[2, 1], seed=1), "seed, prompt"),
        (dict(new=None), "new"),
    ):
        with pytest.raises(InputError, match=rf"one\.safetensors' was written for other {words}\."):
            opened(tmp_path, **identity)
    same = opened(tmp_path)
    with pytest.raises(InputError, match=r"written for other method A\."):
        same.read("one", {"method A": "b"})
    assert same.read("one", {"method A": "a"})


def test_parts_of_another_version_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).write("one", values(1), {})
    monkeypatch.setattr("lrp_lens.files.checkpoints.__version__", "99")
    with pytest.raises(InputError, match=r"other version of lrp_lens\."):
        opened(tmp_path)


def test_a_damaged_part_is_put_aside_and_made_again(tmp_path: Path) -> None:
    kept, path = opened(tmp_path), tmp_path / "one.safetensors"
    kept.write("one", values(1), {})
    whole = path.read_bytes()
    spoiled = bytearray(whole)
    spoiled[-1] ^= 1
    for damaged in (b"", b"no tensors", whole[:5], whole[:-1], whole + b"\0", bytes(spoiled)):
        path.write_bytes(damaged)
        again = opened(tmp_path)
        with pytest.warns(UserWarning, match=r"is damaged: .*one\.safetensors'.*'one\.damaged'"):
            assert again.read("one") is None
        assert (tmp_path / "one.damaged").read_bytes() == damaged and not path.exists()
        again.write("one", values(1), {})
        assert path.read_bytes() == whole


def test_files_of_others_stay(tmp_path: Path) -> None:
    arrays.write(tmp_path / "one.safetensors", "View/1", {"values": np.zeros(2)}, {})
    tensor_files.save_file(values(1), tmp_path / "two.safetensors")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = opened(tmp_path)
    for name in ("one", "two"):
        with pytest.raises(InputError, match="replaces files of its own only"):
            kept.read(name)
    kept.write("three", values(3), {})
    assert (
        opened(tmp_path).read("three")
        and before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()
    )


@pytest.mark.parametrize("path", [True, 3, "", "a\0b", "\ud800\ud800"])
def test_what_is_no_folder_is_refused(path: Any, tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(InputError, match=r"written to a path|no file name"):
        opened(path)
    (tmp_path / "file").write_text("")
    for wrong, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "Cannot make the folder"),
    ):
        with pytest.raises(InputError, match=words):
            opened(wrong)


# ------------------------------------------------------------------------------------ kills
def kill(*args: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half(tensors: Any, path: Path, metadata: Any) -> None:
    ORIGINAL(tensors, path, metadata=metadata)
    Path(path).write_bytes(Path(path).read_bytes()[:-7])
    kill()


ORIGINAL = tensor_files.save_file
MOMENTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "before writing": (tensor_files, "save_file", kill),
    "half written": (tensor_files, "save_file", half),
    "written": (paths.Path, "replace", kill),
}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_the_parts_that_were_finished(moment: str, tmp_path: Path) -> None:
    child = os.fork()
    if not child:  # pragma: no cover
        try:
            kept = opened(tmp_path)
            kept.write("one", values(1), {})
            where, name, deadly = MOMENTS[moment]
            setattr(where, name, deadly)
            kept.write("two", values(2), {})
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    kept = opened(tmp_path)
    assert kept.read("one") and kept.read("two") is None
    kept.write("two", values(2), {})
    assert opened(tmp_path).read("two")


ANALYSES = """
import os, signal, sys
from tests import test_checkpoints as here
from lrp_lens.files.checkpoints import Checkpoint
write, written = Checkpoint.write, []
def deadly(self, name, *args, **options):
    write(self, name, *args, **options)
    written.append(name)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.write = deadly
here.RUN[sys.argv[1]](sys.argv[2])
"""


def own(question: Any) -> np.ndarray:
    return np.cos(np.arange(len(question.tokens)))


def table(folder: Any) -> list[Any]:
    cases = [zoo.prompt_tokens(1, length)[0] for length in (5, 6, 7)]
    methods: list[Any] = [Method("own", tokens=own), "RELP"]
    found = faithfulness(
        zoo.bridge("gpt2"), cases, methods, metric=LogitDiff(3, 7), steps=3, checkpoint=folder, progress=False
    )
    return [found.cases.select_dtypes("number").to_numpy(), found.morf.values, found.lerf.values]


def comparison(folder: Any) -> list[Any]:
    found = compare(
        zoo.bridge("gpt2"), zoo.prompt_tokens(2, 5, 1), zoo.prompt_tokens(2, 5, 2), LogitDiff(3, 7),
        sites=["mlp_out", "attn_out"], methods=["RELP", "GRADIENT"], samples=0, checkpoint=folder, progress=False,
    )  # fmt: skip
    return [one.values for one in (*found.exact.values(), *found.scores.values())]


def graph(folder: Any) -> list[Any]:
    found = attribution_graph(
        zoo.bridge("gpt2"), zoo.prompt_tokens(1, 6), LogitDiff(3, 7), rules=CP_LRP, checkpoint=folder
    )
    assert not isinstance(found, list)
    return [found.relevance, found.part_values, found.node_relevance, found.sinks, found.pruned_mass]


RUN: dict[str, Callable[[Any], list[Any]]] = {"table": table, "comparison": comparison, "graph": graph}


@pytest.mark.full
@pytest.mark.parametrize("name", RUN)
def test_a_killed_process_is_gone_on_with_by_another(name: str, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", ANALYSES, name, tmp_path],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        check=False,
    )
    parts = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert killed.returncode == -signal.SIGKILL and len(parts) == 2
    for found, expected in zip(RUN[name](tmp_path), RUN[name](None), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert all(path.read_bytes() == before for path, before in parts.items())


# ------------------------------------------------------------------------------------ identity
def model(change: Callable[[Any], Any] = lambda model: None) -> Any:
    found = zoo.bridge("llama", torch.float32)
    with torch.no_grad():
        change(found)
    return found


def test_the_same_model_is_known_again() -> None:
    used = model()
    first = model_identity(used)
    used(zoo.prompt_tokens(1, 3))
    assert first == model_identity(used) == model_identity(model())


def halved(activation: Any, hook: Any) -> Any:
    return activation / 2


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.blocks[1].mlp.out.weight[3, 5].mul_(1 + 1e-6),
        lambda model: model.embed.weight[-1, -1].neg_(),
        lambda model: model.blocks[0].attn.q.weight.copy_(model.blocks[0].attn.q.weight.flip(0)),
        lambda model: model.double(),
        lambda model: model.hook_dict["blocks.0.hook_mlp_out"].add_hook(halved),
    ],
)
def test_another_model_is_told_apart(change: Callable[[Any], Any]) -> None:
    assert model_identity(model(change)) != model_identity(model())


def test_one_value_that_is_not_sampled_counts() -> None:
    one, other = torch.zeros(3 * 4096), torch.zeros(3 * 4096)
    other[1] = 1e-30
    assert spelled(one) == spelled(one.clone()) != spelled(other)


def test_architectures_and_hosts_are_told_apart() -> None:
    found = [model_identity(zoo.bridge(name))[:2] for name in ("llama", "gpt2")]
    assert found[0] != found[1]


def recursive(depth: int) -> Callable[[Any], Any]:
    def inner(x: Any) -> Any:
        return inner(x - depth) if x > 0 else x

    return inner


def adding(number: Any) -> Callable[[Any], Any]:
    return lambda x: x + number


class Scaled:
    """A user's callable: data and code."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: Any) -> Any:
        return x * self.factor


def coded(body: str) -> FunctionType:
    """A function from text, as an edited script would define it."""
    scope: dict[str, Any] = {"np": np}
    exec(f"def score(x, by=2):\n    {body}", scope)
    return scope["score"]


def class_of(body: str) -> Any:
    scope: dict[str, Any] = {"Scaled": Scaled}
    exec(f"class Other(Scaled):\n    def __call__(self, x):\n        {body}", scope)
    return scope["Other"](2.0)


BIG = np.arange(5000.0)
DIFFERENT: list[tuple[Any, Any]] = [
    (adding(1), adding(2)),
    (adding(BIG), adding(np.where(BIG == 2500, 0, BIG))),
    (adding(torch.tensor(BIG)), adding(torch.tensor(BIG).index_fill(0, torch.tensor([2500]), 0))),
    (coded("return np.sin(x)"), coded("return np.cos(x)")),
    (coded("return x + 1"), coded("return x + 2")),
    (coded("return {'a', 'b'} & x"), coded("return {'a', 'c'} & x")),
    (functools.partial(adding, 1), functools.partial(adding, 2)),
    (Scaled(1.0), Scaled(2.0)),
    (class_of("return x"), class_of("return -x")),
    (Scaled(1.0).__call__, Scaled(2.0).__call__),
    (CallableMetric(adding(1)), CallableMetric(adding(2))),
    (recursive(1), recursive(2)),
    (LogitDiff(3, 7), LogitDiff(7, 3)),
    ({"a": 1}, {"a": 2}),
    (np.array([1, None], dtype=object), np.array([2, None], dtype=object)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_values_that_differ_are_spelled_differently(one: Any, other: Any) -> None:
    assert spelled(one) != spelled(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: adding(BIG.copy()),
        lambda: recursive(3),
        lambda: coded("return np.sin(x)"),
        lambda: Scaled(2.0),
        lambda: class_of("return x"),
        lambda: Method("mine", tokens=adding(1)),
        lambda: torch.nn.Linear(3, 3).requires_grad_(False).bias.fill_(1),
    ],
)
def test_values_made_anew_are_spelled_alike(make: Callable[[], Any]) -> None:
    assert spelled(make()) == spelled(make())


def test_a_moved_function_is_the_same_function() -> None:
    assert spelled(coded("return x\n")) == spelled(coded("\n\n    return x\n"))


def test_a_table_is_not_taken_by_an_edited_function(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(metric=LogitDiff(3, 7), steps=2, checkpoint=tmp_path, progress=False)
    shared, tokens = zoo.shared("bridge", "gpt2"), zoo.prompt_tokens(1, 5)[0]
    scores = [coded(f"return np.{name}(np.arange(len(x.tokens)))") for name in ("sin", "cos")]
    first = faithfulness(shared, [tokens], [Method("mine", tokens=scores[0])], **options)
    with pytest.raises(InputError, match="other methods"):
        faithfulness(shared, [tokens], [Method("mine", tokens=scores[1])], **options)
    again = faithfulness(shared, [tokens], [Method("mine", tokens=scores[0])], **options)
    pd.testing.assert_frame_equal(first.cases, again.cases, check_exact=True)
