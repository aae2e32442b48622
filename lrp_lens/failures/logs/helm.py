"""Logs of HELM 0.5: `scenario_state.json` of a run, and `display_predictions.json` beside it for the scores.

1. A request state is one instance, asked once: what was sent, what came back, the references and which are correct.
2. Multiple choice asked jointly maps letters to references; the first token of the answer is the decision.  Asked
   separately, it is one request for each option, which are put together again (`helm_options`).
3. The instance's own text inside the prompt is the passage `instance`; around it stand instructions and examples.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lrp_lens.cases import Case, Passage
from lrp_lens.errors import InputError
from lrp_lens.failures.logs.choice import decision
from lrp_lens.failures.logs.documents import members
from lrp_lens.failures.logs.helm_options import OpenChoice
from lrp_lens.failures.logs.lines import undecoded
from lrp_lens.failures.logs.reader import NotACaseError, Reader, Record
from lrp_lens.failures.logs.values import clipped, first_line, first_verdict, messages, plain, text

_STATES, _PREDICTIONS = "request_states", "display_predictions.json"
_EXACT = ("exact_match", "quasi_exact_match", "final_number_exact_match", "quasi_prefix_exact_match")
"""Which of several scores is the verdict."""


class HelmReader(Reader):
    """One run."""

    format: ClassVar[str] = "helm"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.run = Path(self.source).resolve().parent.name
        self.scores: dict[tuple[str, str], Mapping[str, Any]] = {}
        self.open_choice = OpenChoice()

    def records(self) -> Iterator[Record]:
        """One for each request state."""
        beside = Path(self.source).with_name(_PREDICTIONS)
        if beside.is_file():
            for member in members(beside):
                self._know(member.value)
        for member in members(self.source, {_STATES}):
            if member.key == _STATES and member.number:
                yield Record(member.number, member.value, "not UTF-8" if undecoded(member.value) else "")

    def case(self, values: Any) -> Case:
        """The case of a request state."""
        state = values if isinstance(values, Mapping) else {}
        instance, request = _part(state, "instance"), _part(state, "request")
        references = [one for one in instance.get("references") or [] if isinstance(one, Mapping)]
        right = ["correct" in (one.get("tags") or ()) for one in references]
        accepted = tuple(_output(one) for one, yes in zip(references, right, strict=True) if yes)
        name, changed = _key(instance)
        mapping, scores = state.get("output_mapping") or {}, self.scores.get((name, changed), {})
        fields: dict[str, Any] = {
            "accepted": accepted,
            "correct": first_verdict(scores[one] for one in (*_EXACT, *scores) if one in scores),
        }
        said = _said(state)
        if state.get("reference_index") is not None:
            key = (name, changed, str(state.get("train_trial_index")), str(request.get("random")))
            fields |= self.open_choice.take(key, state, [_output(one) for one in references], right)
        else:
            asked = request.get("messages")
            fields["prompt"] = messages(asked) if asked else text(request.get("prompt"), "the prompt")
            options = _options(mapping, said, accepted)
            fields |= {"completion": said} | options
            if options and options["chosen"] is not None and options["right"] is not None:
                fields["correct"] = options["chosen"] == options["right"]
        kept = {one: request.get(one) for one in ("model", "temperature", "max_tokens", "stop_sequences")}
        kept |= {"split": instance.get("split"), "perturbation": instance.get("perturbation")}
        kept |= {"log": self.format, "scores": scores, "output_mapping": mapping} | fields.pop("metadata", {})
        return Case(
            id=f"{self.run}/{name}" + (f"/{changed}" if changed else ""),
            suite=self.run,
            passages=_instance(fields["prompt"], _part(instance, "input").get("text")),
            metadata=plain(kept),
            **fields,
        )

    def _know(self, prediction: Any) -> None:
        if isinstance(prediction, Mapping) and isinstance(prediction.get("stats"), Mapping):
            name = str(prediction.get("instance_id"))
            self.scores[name, _perturbation(prediction)] = prediction["stats"]


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    if not isinstance(found, Mapping):
        raise InputError(f"a request state has instance, request and result; {name} is {clipped(found)}")
    return found


def _said(state: Mapping[str, Any]) -> str:
    """The first completion."""
    result = state.get("result")
    found = result.get("completions") if isinstance(result, Mapping) else None
    if not found or result is None or result.get("success") is False:
        reason = result.get("error") if isinstance(result, Mapping) else "it was never sent"
        raise NotACaseError("no answer", f"the request has no completion: {first_line(reason)}")
    return text(found[0].get("text"), "a completion's text")


def _output(reference: Mapping[str, Any]) -> str:
    return text(_part(reference, "output").get("text"), "a reference's text")


def _perturbation(holder: Mapping[str, Any]) -> str:
    found = holder.get("perturbation")
    return str(found.get("name") or "") if isinstance(found, Mapping) else ""


def _key(instance: Mapping[str, Any]) -> tuple[str, str]:
    """The instance's id, and the name of its perturbation."""
    return text(instance.get("id"), "an instance's id"), _perturbation(instance)


def _options(mapping: Any, said: str, accepted: tuple[str, ...]) -> dict[str, Any]:
    """The options of a joint multiple choice, as they stand behind the prompt, and the decision."""
    if not isinstance(mapping, Mapping) or len(mapping) < 2:
        return {}
    letters, answer = list(mapping), said.strip()
    before = said[: len(said) - len(said.lstrip())] if answer in letters else " "
    choices = tuple(before + one for one in letters)
    chosen = letters.index(answer) if answer in letters else None
    right = next((index for index, one in enumerate(letters) if mapping[one] in accepted), None)
    found = decision(choices, chosen, right)
    return {"choices": choices, "chosen": chosen, "right": right} | (found and found | {"position": 0})


def _instance(prompt: str | list[dict[str, str]], own: Any) -> dict[str, tuple[Passage, ...]]:
    """Where the instance's text stands: its last place in the prompt."""
    told = (
        [(None, prompt)] if isinstance(prompt, str) else [(i, one["content"]) for i, one in enumerate(prompt)]
    )
    for index, one in reversed(told):
        at = one.rfind(own) if isinstance(own, str) and own.strip() else -1
        if at >= 0:
            return {"instance": (Passage(message=index, characters=(at, at + len(own))),)}
    return {}
