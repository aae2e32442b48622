"""Sample logs of lm-evaluation-harness 0.4 (`--log_samples`): `samples_<task>_<date>.jsonl`.

1. A line is one document under one filter.  Numbers come as strings ("-1.2", "False"), requests as
   {"gen_args_0": {"arg_0": prompt, "arg_1": continuation or generation options}, ...}.
2. A document becomes a case once: its first line that can be read, or that of the filter that is asked for.  Its other
   filters' lines say what they scored.
3. Multiple choice is one request for each option: the continuations are the options, leading space included; the
   model's choice is the one of the largest log-likelihood, and the decision is known.  Options with prompts of
   their own (Winogrande's: the likelihood of one continuation behind each) compare prompts, not answers: there is no
   place at which the model decided between two tokens, so they are no case.
4. A generation's answer is the completion; where it went wrong has to be found.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.logs.choice import decision
from lrp_lens.failures.logs.lines import json_lines
from lrp_lens.failures.logs.reader import NotACaseError, Reader, Record
from lrp_lens.failures.logs.values import as_json, clipped, first_verdict, messages, number, plain, text

KEYS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps"}
"""What every line has, in all versions."""

_FILE_NAME = re.compile(r"samples_(?P<task>.+)_\d{4}-\d{2}-\d{2}T.*")
_NO_ANSWERS: tuple[set[str], ...] = ({"instruction_id_list", "kwargs"}, {"entry_point", "test"})
"""Fields of documents (IFEval, HumanEval) that a program checks: their target is no answer."""


class LmEvalReader(Reader):
    """One file of samples."""

    format: ClassVar[str] = "lm_eval"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        named = _FILE_NAME.fullmatch(Path(self.name).name)
        self.task = named["task"] if named else Path(self.name).name.partition(".")[0]
        self.seen: dict[tuple[str, str], str] = {}

    def records(self) -> Iterator[Record]:
        """One for each line."""
        return json_lines(self.source)

    def case(self, values: Any) -> Case:
        """The case of a line."""
        missing = sorted(KEYS - set(values)) if isinstance(values, Mapping) else sorted(KEYS)
        if missing:
            raise InputError(f"a sample has the fields {sorted(KEYS)}; missing here: {missing}")
        name = text(values["doc_id"], "doc_id")
        key = (name, str(values.get("doc_hash") or values.get("prompt_hash") or ""))
        filtered = str(values.get("filter", "none"))
        self._require_wanted(key, filtered, values)
        fields = _requested(values)
        case = Case(id=f"{self.task}/{name}", suite=self.task, **fields)
        self.seen[key] = filtered
        return case

    def _require_wanted(self, key: tuple[str, str], filtered: str, values: Mapping[str, Any]) -> None:
        """Whether this line is the one of its document that becomes a case."""
        wanted, scored = self.options.filter, clipped(_scores(values), 200)
        if wanted is not None and filtered != wanted:
            raise NotACaseError(
                "filter", f"filter {filtered!r}, where {wanted!r} is asked for; it scored {scored}"
            )
        if key in self.seen:
            same = self.seen[key] == filtered
            raise NotACaseError(
                "duplicate" if same else "filter",
                f"document {key[0]} was read with filter {self.seen[key]!r}; filter {filtered!r} scored {scored}",
            )


def _requested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a case that depend on the kind of requests."""
    requests = _requests(values["arguments"])
    scores = _scores(values)
    said = first_verdict(scores.values())
    metadata = {name: values[name] for name in ("doc", "target", "filter", "doc_hash", "prompt_hash", "target_hash")
                if name in values}  # fmt: skip
    metadata |= {"log": LmEvalReader.format, "scores": scores, "filtered_resps": values["filtered_resps"]}
    if len(requests[0]) < 2:
        raise InputError("the log scores the likelihood of the text itself: there is no answer to explain")
    if not isinstance(requests[0][1], str):
        return _generation(values, requests, said, metadata)
    if len(requests) == 1:
        return {
            "prompt": _prompt(requests[0][0]),
            "accepted": (requests[0][1],),
            "correct": said,
            "metadata": plain(metadata),
        }
    return _choice(values, requests, metadata)


def _generation(
    values: Mapping[str, Any], requests: list[list[Any]], said: bool | None, metadata: dict[str, Any]
) -> dict[str, Any]:
    """A completion, and the answers that are accepted."""
    answers = _flat(values["resps"])
    if not answers or not isinstance(answers[0], str):
        raise NotACaseError("no answer", f"resps hold no text: {clipped(values['resps'])}")
    doc = values["doc"] if isinstance(values["doc"], Mapping) else {}
    checked = any(fields <= set(doc) for fields in _NO_ANSWERS)
    metadata |= {"generation": requests[0][1], "resps": values["resps"] if len(answers) > 1 else None}
    return {
        "prompt": _prompt(requests[0][0]),
        "completion": answers[0],
        "accepted": () if checked else _targets(values["target"]),
        "correct": said,
        "metadata": plain({name: one for name, one in metadata.items() if one is not None}),
    }


def _choice(values: Mapping[str, Any], requests: list[list[Any]], metadata: dict[str, Any]) -> dict[str, Any]:
    """Options, the chosen and the right one."""
    found = values["filtered_resps"]
    if not isinstance(found, list) or len(found) != len(requests):
        raise InputError(f"there is one answer for each of {len(requests)} requests, got {clipped(found)}")
    half = len(requests) // 2
    options = [request[1] for request in requests]
    if len(requests) % 2 == 0 and half > 1 and options[:half] == options[half:]:  # then without the prompt
        requests, options, found = requests[:half], options[:half], found[:half]
    if any(request[0] != requests[0][0] for request in requests):
        raise InputError("each option has a prompt of its own: the log compares prompts, not answers")
    scores = [
        number(_flat(one)[0] if _flat(one) else None, f"filtered_resps[{index}]")
        for index, one in enumerate(found)
    ]
    chosen, right = scores.index(max(scores)), _right(values["target"], options)
    return {
        "prompt": _prompt(requests[0][0]),
        "choices": tuple(options),
        "chosen": chosen,
        "right": right,
        "correct": None if right is None else chosen == right,
        "metadata": plain(metadata | {"log_likelihoods": scores}),
        **decision(options, chosen, right, scores),
    }


def _requests(arguments: Any) -> list[list[Any]]:
    """The arguments of each request, in order."""
    if isinstance(arguments, Mapping):
        arguments = [arguments[name] for name in sorted(arguments, key=_number)]
    requests = [
        [one[name] for name in sorted(one, key=_number)] if isinstance(one, Mapping) else one
        for one in (arguments if isinstance(arguments, list) else [])
    ]
    if not requests or not all(isinstance(one, list) and one for one in requests):
        raise InputError(f"arguments are those of at least one request, got {clipped(arguments)}")
    return requests


def _number(name: str) -> int:
    """The number at the end of gen_args_3."""
    digits = name.rpartition("_")[2]
    if not (digits.isascii() and digits.isdigit()):
        raise InputError(f"arguments are numbered, gen_args_0 and arg_0, got {clipped(name)}")
    return int(digits)


def _prompt(given: Any) -> str | list[dict[str, str]]:
    """A text; messages, where the log has those that a server was sent (as JSON, in a list of one)."""
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str):
        return messages(as_json(given[0], "the prompt"))
    if isinstance(given, str):
        return given
    return messages(given)


def _scores(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metric → value."""
    names = values.get("metrics", ())
    return (
        {one: plain(values[one]) for one in names if isinstance(one, str) and one in values} if names else {}
    )


def _flat(found: Any) -> list[Any]:
    """What is in lists in lists."""
    if not isinstance(found, list):
        return [found]
    return [one for inner in found for one in _flat(inner)]


def _targets(target: Any) -> tuple[str, ...]:
    """The accepted answers: a list comes as Python writes it."""
    if isinstance(target, str) and target.startswith("["):
        try:
            found: Any = ast.literal_eval(target)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        if isinstance(found, list) and found and all(isinstance(one, str | int | float) for one in found):
            return tuple(str(one) for one in found)
    said = text(target, "the target")
    return (said,) if said.strip() else ()


def _right(target: Any, options: Sequence[str]) -> int | None:
    """The index of the right option: as a number, or by its text."""
    said = text(target, "the target").strip()
    same = [index for index, one in enumerate(options) if one.strip() == said]
    if len(same) == 1:
        return same[0]
    return int(said) if said.isascii() and said.isdigit() and int(said) < len(options) else None
