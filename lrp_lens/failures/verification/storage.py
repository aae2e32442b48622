"""A verification from its JSON form: what `Verification.to_dict` wrote, read back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Choice
from lrp_lens.failures.verification.check import DEEDS, Check, Reading, Step
from lrp_lens.failures.verification.criterion import CaseVerdict, Criterion, Pattern
from lrp_lens.failures.verification.result import SCHEMA, Repair, Variant, Verification

_PLAIN = ("prompt", "rules", "replacement", "factor", "seconds")


def from_dict(values: Mapping[str, Any]) -> Verification:
    """See Verification.from_dict."""
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, Mapping) else type(values).__name__
        raise InputError(
            f"A verification is read from what its to_dict() returned, with the schema {SCHEMA!r}; received {found!r}."
        )
    try:
        return Verification(
            **{name: values[name] for name in _PLAIN} | _checks(values["checks"]) | _rest(values)
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"A verification of the schema {SCHEMA!r} has other entries ({type(error).__name__}: {error}). Write it "
            "anew with to_dict()."
        ) from error


def _rest(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "token_strings": tuple(values["tokens"]),
        "target": Choice(**values["target"]),
        "contrast": Choice(**values["contrast"]),
        "criterion": Criterion(**values["criterion"]),
        "variants": tuple(map(_variant, values["variants"])),
        "repairs": tuple(
            Repair(**{**one, "reading": Reading(**one["reading"])}) for one in values["repairs"]
        ),
        "notes": tuple(values["notes"]),
    }


def _checks(values: Any) -> dict[str, Check | None]:
    """Kind → check; None for one that was not run."""
    kinds = {one.name for one in fields(Verification)} & DEEDS.keys()
    return dict.fromkeys(kinds) | {one["kind"]: _check(one) for one in values}


def _check(values: Mapping[str, Any]) -> Check:
    steps = tuple(
        Step(one["size"], tuple(one["units"]), tuple(one["positions"]), Reading(**one["reading"]))
        for one in values["steps"]
    )
    control = tuple(Reading(**one) for one in values["control"])
    return Check(
        values["kind"], values["event"], steps, control, values["control_size"], values["population"]
    )


def _variant(values: Mapping[str, Any]) -> Variant:
    overlap = values["overlap"]
    return Variant(
        values["rules"],
        values["replacement"],
        CaseVerdict(values["verdict"]),
        Pattern(values["pattern"]),
        tuple(values["positions"]),
        float("nan") if overlap is None else overlap,
    )
