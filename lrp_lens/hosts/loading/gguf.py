"""GGUF: one file with weights, often quantised, configuration and tokenizer, as llama.cpp writes it.

1. The header is read with the package `gguf` (pure Python): what is no GGUF file, or ends too early, is refused here.
2. transformers' reader makes a Hugging Face model of it, weights dequantised: the model that users of the file run.
3. Nothing may be lost on the way. Each number of the file must have its place in the model (renaming, transposing and
   stacking keep the count), each weight of the model must come from the file, and rotary scaling and soft-caps that
   the header states must be in the configuration; transformers drops some without a word.
4. The tokenizer is saved as what it is, a `tokenizers` pipeline, under the generic class: others rebuild theirs from
   the vocabulary.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lrp_lens.errors import InputError
from lrp_lens.extras import require_extra
from lrp_lens.hosts.loading.original import Original

MAGIC = b"GGUF"
_QUANTISER = ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method")
_SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@contextmanager
def opened(path: Path, dtype: torch.dtype) -> Iterator[Original]:
    """A GGUF file as a Hugging Face model: the weights in memory, the rest in a folder that goes away again.

    Raises:
        InputError: as `read`.
    """
    model, tokenizer = read(path, dtype)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / path.stem
        model.config.save_pretrained(directory)
        _save_tokenizer(tokenizer, directory)
        yield Original(directory, model)


def convert(path: Path, directory: Path) -> None:
    """Write a GGUF file as a Hugging Face directory, weights in float32, which holds every GGUF type exactly.

    Raises:
        InputError: as `read`.
        OSError: the directory cannot be written.
    """
    model, tokenizer = read(path, torch.float32)
    model.save_pretrained(directory)
    _save_tokenizer(tokenizer, directory)


def read(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model, on the CPU and in eval mode, and the tokenizer, if there is one in the file.

    Raises:
        InputError: no GGUF file, a broken or truncated one, an architecture, a quantisation or a tokenizer that
            transformers cannot read, or something in the file that it leaves out; or the package `gguf` is missing.
    """
    fields, sizes = _header(path)
    where = {"gguf_file": str(path.resolve()), "local_files_only": True}
    architecture = fields.get("general.architecture")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path.parent, **where, dtype=dtype, attn_implementation="eager", output_loading_info=True
        )
        has_tokenizer = "tokenizer.ggml.tokens" in fields
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **where) if has_tokenizer else None
    except Exception as error:  # whatever kind its many readers raise
        raise InputError(
            f"a GGUF file must hold a language model that transformers can read; {str(path)!r}, of the architecture"
            f" {architecture!r}, it cannot ({_short(error)}). Pass the model as a Hugging Face directory instead"
        ) from error
    _refuse_losses(path, model, report, fields, sizes)
    model.config.architectures = [type(model).__name__]
    for name in _QUANTISER:  # plain weights now
        for owner in (model, model.config):
            owner.__dict__.pop(name, None)
    return model.eval(), tokenizer


def require_reader(path: str | Path) -> None:
    """Refuse a GGUF file where the package that reads it is missing.

    Raises:
        InputError: with the command that installs it.
    """
    require_extra(
        "gguf",
        "gguf",
        use=f"a GGUF file such as {str(path)!r} is read",
        otherwise="`make models` in a clone of lrp_lens",
    )


def _header(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The short metadata of a file, and how many numbers each of its tensors holds."""
    require_reader(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise InputError(
            f"a model file must be readable; {str(path)!r} is not ({error.strerror}): check its permissions"
        ) from error
    if start != MAGIC:
        raise InputError(
            f"a model file is in the GGUF format, and begins with {MAGIC!r}; {str(path)!r}"
            f" {f'begins with {start!r}' if start else 'is empty'}. Other weights are loaded by the directory they are"
            " in, with config.json"
        )
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        sizes = {one.name: int(one.n_elements) for one in reader.tensors}
        fields = {
            name: None if name.startswith("tokenizer.") else field.contents()
            for name, field in reader.fields.items()
        }
    except Exception as error:  # from wherever the reader ran off the end
        raise InputError(
            f"a GGUF file must be whole; {str(path)!r} ({path.stat().st_size:,} bytes) is broken or cut off"
            f" ({_short(error)}): get it again"
        ) from error
    if (fields.get("split.count") or 1) > 1:
        raise InputError(
            f"a model is read from one GGUF file; {str(path)!r} is one of {fields['split.count']}: join them"
            " (`llama-gguf-split --merge`)"
        )
    return fields, sizes


def _refuse_losses(
    path: Path,
    model: PreTrainedModel,
    report: Mapping[str, Any],
    fields: Mapping[str, Any],
    sizes: Mapping[str, int],
) -> None:
    """Step 3 above."""
    faults = []
    if missing := sorted(report["missing_keys"]):
        faults.append(f"the file lacks {', '.join(missing[:3])}")
    config = model.config
    twice = sizes.get("output.weight", 0) if config.tie_word_embeddings else 0
    written, held = sum(sizes.values()) - twice, sum(one.numel() for one in model.parameters())
    if written != held:
        scaled = " (rope_freqs.weight, Llama 3's rotary scaling, is among them)"
        faults.append(
            f"of {written:,} numbers in its tensors{scaled if 'rope_freqs.weight' in sizes else ''} the model has"
            f" {held:,}"
        )
    prefix = f"{fields['general.architecture']}."
    scaling = fields.get(f"{prefix}rope.scaling.type") or "none"
    rotary = set(_rotary_types(getattr(config, "rope_parameters", None) or {}))
    if scaling != "none" and rotary <= {"default"}:
        faults.append(f"its rotary scaling ({scaling}) is left out")
    for name in _SOFT_CAPS:
        said = fields.get(prefix + name)
        if said is not None and said != getattr(config, name, None):
            faults.append(f"its {name} ({said}) is left out")
    if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
        faults.append("some weights are no finite numbers")
    if faults:
        raise InputError(
            f"every weight of a GGUF file must arrive in the model; with transformers' reader, of {str(path)!r}"
            f" {'; '.join(faults)}. Pass the model as a Hugging Face directory instead, or get the file again"
        )


def _rotary_types(parameters: Mapping[str, Any]) -> Iterator[str]:
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _rotary_types(value)
        elif name == "rope_type":
            yield value


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase | None, directory: Path) -> None:
    """Step 4 above; in short lines, since a large vocabulary is read each time the model is loaded."""
    if tokenizer is None:
        return
    tokenizer.save_pretrained(directory)
    pipeline, settings = directory / "tokenizer.json", directory / "tokenizer_config.json"
    said = json.loads(settings.read_text(encoding="utf-8"))
    said |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(tokenizer.init_kwargs.get("add_bos_token", False)),
        "padding_side": tokenizer.padding_side,
    }
    for file, words in ((settings, said), (pipeline, json.loads(pipeline.read_text(encoding="utf-8")))):
        file.write_text(json.dumps(words, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
