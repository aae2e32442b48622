"""Arguments of the commands, checked before any work is done. No model library is imported here."""

import sys
from dataclasses import dataclass
from pathlib import Path

from lrp_lens.errors import InputError


@dataclass(frozen=True)
class Request:
    """What `lrp-lens explain` was asked."""

    model: str | None
    """Hub name or directory; None is the demo model."""
    prompt: str | None
    """None explains a failure of the demo model."""
    target: str | None
    contrast: str | None
    rules: str
    top_k: int
    out: str
    """Path of the HTML report."""
    json: str | None
    """Path of the JSON file, if any."""

    def __post_init__(self) -> None:
        if self.prompt is not None:
            return
        if self.model is not None:
            raise InputError("--model needs a prompt; pass --prompt TEXT, --prompt-file FILE or -.")
        if self.target is not None or self.contrast is not None:
            raise InputError(
                "--target and --contrast need a prompt; pass --prompt TEXT, --prompt-file FILE or -."
            )


def read_prompt(source: str | None, prompt: str | None, prompt_file: str | None) -> str | None:
    """The prompt from one of its three places, None if none was given; `-` is standard input.

    Raises:
        InputError: several places at once, an unreadable file, or an empty prompt.
    """
    given = [one for one in (source, prompt, prompt_file) if one is not None]
    if len(given) > 1:
        raise InputError("A prompt comes from one place; pass only one of --prompt, --prompt-file and -.")
    if not given:
        return None
    if source not in (None, "-"):
        raise InputError(
            f"The only bare argument is - (standard input); received {source!r}. Pass it as --prompt."
        )
    text = prompt if prompt not in (None, "-") else _read(prompt_file or "-")
    if text is None or not text.strip():
        raise InputError("The prompt is empty; pass at least one word.")
    return text


def _read(path: str) -> str:
    """A file's text, or standard input for -, without a byte-order mark and one trailing line break."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"Cannot read the prompt from {path!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read the prompt from {path!r}: it is not UTF-8 text.") from error
    return text.replace("\r\n", "\n").removesuffix("\n")
