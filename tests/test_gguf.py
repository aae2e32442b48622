"""GGUF files: both hosts give the logits of the same weights in a directory; nothing is read by halves."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lrp_lens.cli import app
from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import HAS_HOOKED_TRANSFORMER, load_model

gguf = pytest.importorskip("gguf")  # the extra lrp-lens[gguf]
from tests.gguf_files import WORDS, tiny_llama, write_gguf  # noqa: E402  (imports gguf)

HOSTS = ("HookedTransformer",) * HAS_HOOKED_TRANSFORMER + ("TransformerBridge",)
TOKENS = torch.tensor([[0, 7, 3, 11, 50, 9, 96, 97]])
TEXT = "if a b then a"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.gguf and, in the directory "same", the same weights and tokenizer."""
    folder = tmp_path_factory.mktemp("gguf")
    model = tiny_llama()
    write_gguf(folder / "tiny.gguf", model)
    model.save_pretrained(folder / "same")
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS)


@pytest.mark.parametrize("host", HOSTS)
def test_logits_are_those_of_the_same_weights_in_a_directory(files: Path, host: str) -> None:
    model = load_model(files / "tiny.gguf", host=host, device="cpu")
    same = load_model(files / "same", host=host, device="cpu")
    assert type(model).__name__ == host and not model.training
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(model), logits(same), atol=1e-6, rtol=1e-6)
    ids = model.to_tokens(TEXT, prepend_bos=True)
    expected = ["<s>", "i", "f", "Ġa", "Ġb", "Ġ", "t", "h", "e", "n", "Ġa"]
    assert [WORDS[one] for one in ids[0].tolist()] == expected
    assert model.tokenizer.decode(ids[0, 1:]) == TEXT


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_quantised_weights_are_dequantised(tmp_path: Path, host: str, kind: str) -> None:
    """The model is the quantised one: the original lies far away, its dequantised copy does not."""
    model, untouched = tiny_llama(), tiny_llama()
    write_gguf(tmp_path / "q.gguf", model, quantised=gguf.GGMLQuantizationType[kind])
    loaded = load_model(tmp_path / "q.gguf", host=host, dtype=torch.float64, device="cpu")
    assert {one.dtype for one in loaded.parameters()} == {torch.float64}
    found = logits(loaded)
    torch.testing.assert_close(found, model.double()(TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert (found - untouched.double()(TOKENS).logits).abs().max() > 1e-3


@pytest.mark.parametrize("host", HOSTS)
def test_a_file_without_tokenizer(tmp_path: Path, host: str) -> None:
    model = tiny_llama()
    write_gguf(tmp_path / "bare.gguf", model, tokenizer=False)
    loaded = load_model(tmp_path / "bare.gguf", host=host, device="cpu")
    torch.testing.assert_close(logits(loaded), model(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_a_string_a_capital_suffix_and_no_suffix(files: Path, tmp_path: Path) -> None:
    """The content decides, and nothing is written beside the file."""
    whole = (files / "tiny.gguf").read_bytes()
    for name in ("TINY.GGUF", "my-Llama-2-7b.gguf", "weights"):
        (tmp_path / name).write_bytes(whole)
        model = load_model(str(tmp_path / name), device="cpu")
        assert type(model).__name__ == HOSTS[0]
        (tmp_path / name).unlink()
        assert not list(tmp_path.iterdir())
        assert model.to_tokens("a b").shape[1] >= 2


def test_what_is_cut_off_is_refused_wherever_it_is_cut(files: Path, tmp_path: Path) -> None:
    whole = (files / "tiny.gguf").read_bytes()
    cuts = [*range(0, 40, 3), *range(40, len(whole) - 1, len(whole) // 40), len(whole) - 1]
    for cut in cuts:
        (tmp_path / "cut.gguf").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"cut\.gguf'.*(is empty|begins with|broken or cut off).*"):
            load_model(tmp_path / "cut.gguf")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.gguf", b"", r"must|format.*is empty"),
        (
            "model.gguf",
            b"version https://git-lfs.github.com/spec/v1\n",
            r"begins with b'GGUF'; .* begins with b'vers'",
        ),
        ("model.gguf", b"GGUF" + bytes(range(256)) * 20, "broken or cut off"),
        ("model.gguf", b"GGUF" + b"\xff" * 3000, "broken or cut off"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", r"loaded by the directory they are in"),
    ],
)
def test_what_is_no_gguf_file(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_model(tmp_path / name)


def test_a_file_that_may_not_be_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may read everything, the refusal is the operating system's words, not its deed."""
    opened = Path.open

    def refused(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "tiny.gguf":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(
        InputError, match=r"must be readable; '.*tiny\.gguf' is not \(Permission denied\): check"
    ):
        load_model(str(files / "tiny.gguf"))


def test_no_such_file(tmp_path: Path) -> None:
    for name in (tmp_path / "missing.gguf", "missing.gguf", "./missing.gguf"):
        with pytest.raises(InputError, match=r"no such model file: .*missing\.gguf"):
            load_model(name)


def test_a_directory_with_a_gguf_file_in_it(files: Path) -> None:
    with pytest.raises(InputError, match=r"holds .*tiny\.gguf.* by its own path"):
        load_model(files)


LOST = "every weight of a GGUF file must arrive"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architecture": "mamba9"}, r"architecture 'mamba9'.*not supported.*Hugging Face directory"),
        ({"architecture": "clip"}, "architecture 'clip'"),
        ({"leave_out": "blk.1.ffn_up.weight"}, f"{LOST}.*the file lacks model.layers.1.mlp.up_proj.weight"),
        ({"extra": {"rope_freqs.weight": np.ones(4, np.float32)}}, f"{LOST}.*rope_freqs.weight, Llama 3's"),
        ({"extra": {"blk.0.attn_q.bias": np.ones(32, np.float32)}}, f"{LOST}.*of [0-9,]+ numbers"),
        ({"also": {"llama.rope.scaling.type": "linear"}}, rf"{LOST}.*rotary scaling \(linear\)"),
    ],
    ids=["unknown", "no language model", "a tensor missing", "Llama 3 scaling", "a bias", "rotary scaling"],
)
def test_what_transformers_would_leave_out_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    write_gguf(tmp_path / "odd.gguf", tiny_llama(), **options)
    with pytest.raises(InputError, match=words):
        load_model(tmp_path / "odd.gguf")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    model = tiny_llama()
    model.model.norm.weight.data[3] = torch.nan
    write_gguf(tmp_path / "nan.gguf", model)
    with pytest.raises(InputError, match="no finite numbers"):
        load_model(tmp_path / "nan.gguf")


def test_one_of_several_files(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a-00001-of-00003.gguf", "llama")
    writer.add_uint16("split.count", 3)
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    with pytest.raises(InputError, match="is one of 3: join them"):
        load_model(tmp_path / "a-00001-of-00003.gguf")


def test_without_the_package(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"run `pip install 'lrp-lens\[gguf\]'`, or `make models`"):
        load_model(files / "tiny.gguf")


def test_the_command_takes_a_file(files: Path, tmp_path: Path) -> None:
    arguments = [*f"explain --seeds 1 --top-k 1 --out {tmp_path / 'page.html'} --prompt".split(), TEXT]
    done = CliRunner().invoke(app, [*arguments, "--model", str(files / "tiny.gguf")])
    assert done.exit_code == 0, done.output
    assert "tiny.gguf" in (tmp_path / "page.html").read_text()
    done = CliRunner().invoke(app, [*arguments, "--model", str(tmp_path / "no.gguf")])
    assert done.exit_code == 2 and "no such model file" in done.output and len(done.output.splitlines()) == 1
