"""What a case may hold: text where text belongs, names for segments, spans in order, options that are there."""

from collections.abc import Iterable, Mapping
from typing import Any

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError

Span = tuple[int, int]


def check_types(values: Mapping[str, Any]) -> None:
    """Text where text belongs, whole numbers for the rank and the options, and names for segments and metadata."""
    for name in ("prompt", "id", "target", "contrast", "suite", "completion"):
        value = values.get(name, "")
        messages = name == "prompt" and isinstance(value, list | tuple)
        if not (messages and all(isinstance(one, Mapping) for one in value)) and not isinstance(value, str):
            raise InputError(
                f"the {name} of a case is text{' or messages' * (name == 'prompt')}, got {value!r}"
            )
    for name in ("accepted", "choices"):
        value = values.get(name, ())
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise InputError(f"the {name} of a case are a list of texts, got {value!r}")
    for name in ("chosen", "right"):
        value = values.get(name)
        if value is not None and not is_whole(value):
            raise InputError(f"{name} is the index of one of the choices, from 0, got {value!r}")
    segments, rank = values.get("segments", {}), values.get("answer_rank", 0)
    if not isinstance(segments, Mapping):
        raise InputError(
            f"the segments of a case have names, got {segments!r}: write {{'evidence': [(start, stop)]}}"
        )
    if not isinstance(rank, int):
        raise InputError(f"answer_rank counts from 1 (0 if not known), got {rank!r}")
    if not isinstance(values.get("position"), int | str | None):
        raise InputError(f"the position of a case is a token's index or text, got {values['position']!r}")
    if not isinstance(values.get("correct", False), bool | None):
        raise InputError(f"correct is True, False, or None if nobody has judged, got {values['correct']!r}")
    metadata = values.get("metadata", {})
    if not isinstance(metadata, Mapping) or not all(isinstance(name, str) for name in metadata):
        raise InputError(f"the metadata of a case have names, got {metadata!r}")


def check_choices(choices: tuple[str, ...], chosen: int | None, right: int | None) -> None:
    """At least two options that differ, and indexes among them."""
    if choices and len(set(choices)) < 2:
        raise InputError(f"a choice is between different options, got choices={choices!r}")
    for name, index in (("chosen", chosen), ("right", right)):
        if index is not None and not 0 <= index < len(choices):
            raise InputError(f"{name} is the index of one of the {len(choices)} choices, got {index}")


def check_spans(name: str, spans: Any) -> tuple[Span, ...]:
    """The spans as tuples, in order and without overlap."""
    checked, end = [], 0
    if isinstance(spans, str) or not isinstance(spans, Iterable):
        raise InputError(
            f"segment {name!r} needs (start, stop) token positions, got {spans!r}: write {{{name!r}: [(start, stop)]}}"
        )
    for span in spans:
        try:
            start, stop = (int(edge) for edge in span)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"segment {name!r} needs (start, stop) token positions, got {span!r}: write"
                f" {{{name!r}: [(start, stop)]}}"
            ) from error
        if not end <= start < stop:
            raise InputError(
                f"the spans of segment {name!r} must be non-empty, in order and without overlap, got"
                f" {tuple(span)} after position {end}"
            )
        checked.append((start, stop))
        end = stop
    return tuple(checked)
