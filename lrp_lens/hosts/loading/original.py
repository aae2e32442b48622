"""The Hugging Face model that a host is made from: a directory, and its weights where they are read already."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lrp_lens.errors import InputError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class Original:
    """A Hugging Face model in a local directory."""

    directory: Path
    """With config.json and, if there is one, the tokenizer."""
    model: PreTrainedModel | None = None
    """The weights, where they do not come from the directory."""
    called: str | None = None
    """What the user calls it, where that is not the directory's name."""

    @property
    def name(self) -> str:
        """What results call it."""
        return self.called or self.directory.name

    @property
    def has_tokenizer(self) -> bool:
        """Whether the directory holds one."""
        return any((self.directory / name).is_file() for name in _TOKENIZER_FILES)

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, None where there is none."""
        if not self.has_tokenizer:
            return None
        return AutoTokenizer.from_pretrained(self.directory, local_files_only=True, **self._said_of_bos())

    def _said_of_bos(self) -> dict[str, bool]:
        """That BOS comes first, where the tokenizer's file says so, as an argument: transformers does not keep what it
        reads, and HookedTransformer, which asks, would read a large tokenizer a second time.
        """
        path = self.directory / "tokenizer_config.json"
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {"add_bos_token": True} if said.get("add_bos_token") and said.get("bos_token") else {}

    def weights(self, dtype: torch.dtype, **placed: Any) -> PreTrainedModel:
        """The Hugging Face model in eval mode, with plain attention; on the CPU, or placed as transformers is told.

        Raises:
            InputError: weights that are missing or broken.
        """
        model = self.model
        if model is None:
            try:
                model = AutoModelForCausalLM.from_pretrained(
                    self.directory, dtype=dtype, local_files_only=True, attn_implementation="eager", **placed
                )
            except OSError as error:
                raise self.unreadable(error) from error
        model.config.architectures = [type(model).__name__]
        return model.eval().requires_grad_(True)  # TransformerLens's converters switch it off

    def unreadable(self, error: OSError) -> InputError:
        """The error that says so."""
        return InputError(f"transformers cannot load the weights in {str(self.directory)!r}: {error}")


@contextmanager
def read_from_hub(name: str) -> Iterator[None]:
    """While a model on the hub is read.

    Raises:
        InputError: the hub has no such model, or cannot be reached and the model is not in its cache.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The hub gave no model {name!r}: {error} Check the spelling and the connection, or pass a local directory,"
            " a GGUF file, 'smollm2' or 'gemma3-270m'."
        ) from error
