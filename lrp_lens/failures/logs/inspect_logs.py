"""Logs of Inspect (`inspect_ai` 0.3): `.json` read here, `.eval` through inspect_ai.

1. A log is one document with `eval` (task, model) and `samples`; samples are read one at a time.
2. Long texts stand in a sample's `attachments` and are put back in their places.
3. The prompt is the messages before the model's last; that one is the completion.  There are no token ids: the messages
   go through the tokenizer's template again.
4. A score "C" or 1 is right, "I", "N" or 0 wrong, anything else nobody's verdict.  Options have letters, and the letter
   in the score is the model's choice.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.extras import require_extra
from lrp_lens.failures.logs.documents import members
from lrp_lens.failures.logs.lines import undecoded
from lrp_lens.failures.logs.reader import NotACaseError, Reader, Record
from lrp_lens.failures.logs.values import (
    clipped,
    content_text,
    first_line,
    messages,
    plain,
    text,
    texts,
    verdict,
)

_ATTACHMENT = "attachment://"


class InspectReader(Reader):
    """One log, in either form."""

    format: ClassVar[str] = "inspect"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.task, self.model = Path(self.name).name, ""

    @classmethod
    def require(cls, source: Any) -> None:
        """Raise InputError for an `.eval` without inspect_ai, too."""
        super().require(source)
        if Path(source).suffix == ".eval":
            _library()

    def records(self) -> Iterator[Record]:
        """One for each sample."""
        return _packed(self) if Path(self.source).suffix == ".eval" else self._document()

    def know(self, eval_spec: Any) -> None:
        """What the log's head says."""
        if isinstance(eval_spec, Mapping):
            self.task = str(eval_spec.get("task") or self.task)
            self.model = str(eval_spec.get("model") or "")

    def case(self, values: Any) -> Case:
        """The case of a sample."""
        if not isinstance(values, Mapping) or "id" not in values:
            raise InputError(f"a sample has an id, got {clipped(values)}")
        sample = _attached(values, values.get("attachments") or {})
        said = _said(sample)
        epoch = sample.get("epoch", 1)
        name = f"{self.task}/{text(sample['id'], 'the id')}" + (f"/epoch {epoch}" if epoch != 1 else "")
        scores = _scores(sample)
        options, answer = _letters(sample), next((one.get("answer") for one in scores.values()), None)
        targets = texts(sample.get("target", ""), "the target")
        kept = {
            name: sample.get(name) for name in ("metadata", "uuid", "choices", "model_usage", "total_time")
        }
        return Case(
            prompt=_prompt(sample),
            id=name,
            suite=self.task,
            completion=said,
            accepted=tuple(one for one in targets if one.strip()),
            choices=options,
            chosen=_index(options, answer),
            right=_index(options, targets[0]) if len(targets) == 1 else None,
            correct=next(
                (one for one in (verdict(one.get("value")) for one in scores.values()) if one is not None),
                None,
            ),
            metadata=plain(
                {"log": self.format, "model": self.model, "epoch": epoch, "scores": scores} | kept
            ),
        )

    def _document(self) -> Iterator[Record]:
        for member in members(self.source, {"samples"}):
            if member.key == "eval":
                self.know(member.value)
            if member.key == "samples" and member.number:
                fault = "not UTF-8" if undecoded(member.value) else ""
                yield Record(member.number, member.value, fault)


def _library() -> Any:
    """inspect_ai.log."""
    return require_extra(
        "inspect",
        "inspect_ai.log",
        use="logs that end in .eval are read",
        otherwise="convert them with `inspect log convert --to json` (inspect_ai takes Python 3.11 or later)",
    )


def _packed(reader: InspectReader) -> Iterator[Record]:
    """The samples of an `.eval`, which only inspect_ai unpacks."""
    log = _library()
    reader.know(log.read_eval_log(str(reader.source), header_only=True).eval.model_dump(mode="json"))
    found = log.read_eval_log_samples(
        str(reader.source), all_samples_required=False, resolve_attachments=True
    )
    for number, sample in enumerate(found, start=1):
        yield Record(number, sample.model_dump(mode="json", exclude_none=True))


def _attached(value: Any, attachments: Mapping[str, Any]) -> Any:
    """The value with attachments in their places."""
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        found = attachments.get(value.removeprefix(_ATTACHMENT))
        if not isinstance(found, str):
            raise InputError(f"the sample's attachments do not hold {clipped(value)}")
        return found
    if isinstance(value, Mapping):
        kept = {name: one for name, one in value.items() if name not in ("attachments", "events", "store")}
        return {name: _attached(one, attachments) for name, one in kept.items()}
    return [_attached(one, attachments) for one in value] if isinstance(value, list) else value


def _said(sample: Mapping[str, Any]) -> str:
    """What the model said at last."""
    output = sample.get("output")
    options = output.get("choices") if isinstance(output, Mapping) else None
    if not options:
        raise NotACaseError(
            "no answer", f"the sample ended without an answer: {first_line(sample.get('error'))}"
        )
    message = (
        options[0].get("message") if isinstance(options, list) and isinstance(options[0], Mapping) else None
    )
    if not isinstance(message, Mapping):
        raise InputError(f"output.choices[0] has a message, got {clipped(options)}")
    if message.get("tool_calls"):
        raise InputError("the model's last answer calls tools, which a template writes in its own way")
    return content_text(message.get("content"), "output.choices[0].message.content")


def _prompt(sample: Mapping[str, Any]) -> str | list[dict[str, str]]:
    """The messages before the model's last, or the input."""
    found = sample.get("messages") or []
    roles = [one.get("role") if isinstance(one, Mapping) else None for one in found]
    last = len(roles) - 1 - roles[::-1].index("assistant") if "assistant" in roles else len(roles)
    given = found[:last] or sample.get("input")
    return messages([{"role": "user", "content": given}] if isinstance(given, str) else given)


def _scores(sample: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Scorer → score."""
    found = sample.get("scores")
    return (
        {name: one for name, one in found.items() if isinstance(one, Mapping)}
        if isinstance(found, Mapping)
        else {}
    )


def _letters(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """The letters of the options, A, B, ..."""
    count = len(sample.get("choices") or ())
    return tuple(chr(ord("A") + index) for index in range(count)) if 2 <= count <= 26 else ()


def _index(options: tuple[str, ...], letter: Any) -> int | None:
    said = letter.strip() if isinstance(letter, str) else ""
    return options.index(said) if said in options else None
