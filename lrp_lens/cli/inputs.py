"""Arguments of the commands, checked before any work is done. No model library is imported here."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_lens.errors import InputError
from lrp_lens.files import require_writable

WITH_CASES = ("smollm2", "gemma3-270m")
"""Models, besides the demo model, whose failures come with the package (`lrp_lens.demo.REAL_MODELS`)."""
DTYPES = ("float32", "bfloat16", "float16", "float64")
_MARKS = (b'<meta name="generator" content="lrp-lens">', b'"schema": "lrp_lens.')
_HEAD = 1000


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `lrp-lens explain` was asked."""

    model: str | None = None
    """What `load_model` takes; None is the demo model."""
    prompt: str | list[int] | list[dict[str, Any]] | None = None
    """Text, token ids or messages; None explains a failure of the model's own."""
    case: int | None = None
    """Which of its failures; None is one that is quick to read."""
    completion: str | None = None
    """What the model said behind the prompt."""
    position: int | str | None = None
    """Which of the completion's tokens is explained: its index, or a piece of its text."""
    target: str | None = None
    contrast: str | None = None
    rules: str | None = None
    """None is `lrp_lens.rules.DEFAULT_RULES`."""
    top_k: int = 5
    seeds: int | None = None
    """Random orders of the check; None takes what the prompt's length affords."""
    device: str | None = None
    dtype: str | None = None
    """One of DTYPES; None is float32."""
    chat: bool = False
    """The prompt is a user's message, to go through the chat template."""
    bos: bool | None = None
    """Whether a text gets BOS; None does what the model's configuration says."""
    out: str
    """Path of the HTML report."""
    json: str | None = None
    """Path of the JSON file, if any."""

    def __post_init__(self) -> None:
        require_dtype(self.dtype)
        if isinstance(self.prompt, list) and (self.chat or self.bos is not None):
            what = "--messages" if self.prompt and isinstance(self.prompt[0], dict) else "--ids"
            raise InputError(f"{what} are taken as they are; pass them without --chat and --no-bos.")
        if (self.completion is None) != (self.position is None):
            raise InputError(
                "A completion is explained at one of its tokens; pass --completion (or --completion-file) and "
                "--position together."
            )
        if self.chat and self.bos is not None:
            raise InputError("A chat template brings its own BOS; pass --chat without --no-bos.")
        if self.prompt is not None:
            if self.case is not None:
                raise InputError("--case picks a failure that comes with lrp-lens; pass it without a prompt.")
            return
        given = {
            "--model": self.model not in (None, *WITH_CASES),
            "--target": self.target is not None,
            "--contrast": self.contrast is not None,
            "--completion": self.completion is not None,
            "--chat": self.chat,
            "--no-bos": self.bos is not None,
        }
        alone = [name for name, there in given.items() if there]
        if alone:
            raise InputError(
                f"{alone[0]} needs a prompt; pass --prompt TEXT, --prompt-file FILE, --messages FILE, --ids or -. "
                f"Failures come with the demo model, {' and '.join(WITH_CASES)}."
            )


@dataclass(frozen=True, kw_only=True)
class TriageRequest:
    """What `lrp-lens triage` was asked."""

    files: tuple[str, ...]
    model: str | None = None
    """What `load_model` takes; None is the demo model."""
    task: str | None = None
    rules: str | None = None
    limit: int | None = None
    out: str
    """Folder of the rows."""
    min_gap: float = 1.0
    contrast_model: str | None = None
    columns: tuple[str, ...] = ()
    """FIELD=COLUMN each."""
    chat: bool = False
    """A prompt that is a text is a user's message, to go through the chat template."""
    allow_code_execution: bool = False
    workers: str | None = None
    """"ray" or "ray:N"; None is this process."""
    retry_errors: bool = False
    device: str | None = None
    dtype: str | None = None
    """One of DTYPES; None is float32."""

    def __post_init__(self) -> None:
        require_dtype(self.dtype)
        for one in self.columns:
            if not all(one.partition("=")):
                raise InputError(f"--column is FIELD=COLUMN, e.g. prompt=question; received {one!r}.")

    @property
    def column_of(self) -> dict[str, str]:
        """Field of a case → column."""
        return {name: column for name, _, column in (one.partition("=") for one in self.columns)}


def require_dtype(dtype: str | None) -> None:
    """Raise InputError for a type that models are not loaded in."""
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"--dtype is one of {', '.join(DTYPES)}; received {dtype!r}.")


def parse_ids(text: str) -> list[int]:
    """Token ids from "1,2,3".

    Raises:
        InputError: anything else than whole numbers from 0 on, with commas or spaces between them.

    Example:
        >>> parse_ids("1, 22 3")
        [1, 22, 3]
    """
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"--ids are token ids such as 1,22,3; received {text!r}.")
    return [int(part) for part in parts]


def parse_position(text: str | None) -> int | str | None:
    """A completion's position: an index where the text is a whole number, else a piece of text; quotes make it text.

    Example:
        >>> parse_position("-1"), parse_position("Paris"), parse_position("'32'")
        (-1, 'Paris', '32')
    """
    if text is None:
        return None
    if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else text


def read_completion(completion: str | None, completion_file: str | None) -> str | None:
    """The completion from one of its two places, None if none was given; `-` is standard input.

    Raises:
        InputError: both at once, an unreadable file, or an empty completion.
    """
    if completion is not None and completion_file is not None:
        raise InputError(
            "A completion comes from one place; pass only one of --completion and --completion-file."
        )
    text = completion if completion_file is None else _read(completion_file, "completion")
    if text == "":
        raise InputError("The completion is empty; pass what the model said.")
    return text


def _messages(path: str) -> list[dict[str, Any]]:
    """Messages from a JSON file, or standard input for -."""
    wanted = '[{"role": "user", "content": "..."}, ...]'
    try:
        found = json.loads(_read(path, "messages"))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--messages are JSON, {wanted}; {path!r} is not: {error}.") from error
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise InputError(
            f"--messages are a list with at least one message, {wanted}; {path!r} holds another thing."
        )
    return found


def read_prompt(
    source: str | None,
    prompt: str | None,
    prompt_file: str | None,
    ids: str | None = None,
    messages: str | None = None,
) -> str | list[int] | list[dict[str, Any]] | None:
    """The prompt from one of its five places, None if none was given; `-` is standard input.

    Raises:
        InputError: several places at once, an unreadable file, an empty prompt, ids that are no numbers, or messages
            that are none.
    """
    given = [one for one in (source, prompt, prompt_file, ids, messages) if one is not None]
    if len(given) > 1:
        raise InputError(
            "A prompt comes from one place; pass only one of --prompt, --prompt-file, --messages, --ids and -."
        )
    if not given:
        return None
    if messages is not None:
        return _messages(messages)
    if ids is not None:
        return parse_ids(ids)
    if source not in (None, "-"):
        raise InputError(
            f"The only bare argument is - (standard input); received {source!r}. Pass it as --prompt."
        )
    text = prompt if prompt not in (None, "-") else _read(prompt_file or "-")
    if not text:
        raise InputError("The prompt is empty; pass some text.")
    return text


def _read(path: str, what: str = "prompt") -> str:
    """A file's text, or standard input for -, without a byte-order mark and one trailing line break."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"Cannot read the {what} from {path!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"Cannot read the {what} from {path!r}: it is not UTF-8 text.") from error
    return text.replace("\r\n", "\n").removesuffix("\n")


def require_outputs(out: str, json: str | None, force: bool) -> None:
    """Raise InputError unless report and JSON can be written without loss, to two files.

    An existing file is replaced with `force`, or if it is empty or was written by lrp-lens.
    """
    for path in filter(None, (out, json)):
        target = require_writable(path)
        if target.is_file() and not force and not _ours(target):
            raise InputError(
                f"Cannot write to {path!r}: the file exists and is no report of lrp-lens; pass --force to replace it."
            )
    if json is not None and os.path.realpath(out) == os.path.realpath(json):
        raise InputError(f"--out and --json are two files; received {out!r} and {json!r}.")


def _ours(path: Path) -> bool:
    """Whether a file is empty, or begins as our reports and JSON files do."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:  # writable, but not readable
        return False
    return not head or any(mark in head for mark in _MARKS)
