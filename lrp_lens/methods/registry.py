"""The methods by name, and the one place where what a user gives becomes a method.

1. Every family of methods is a file of this room with a tuple METHODS.
2. A name is found in any spelling ("attn-lrp", "Leave one out"), and under its aliases ("IG").
3. Rule sets become methods; a function question → scores [pos] is a method that scores tokens.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from lrp_lens.errors import InputError, bare_name, did_you_mean
from lrp_lens.methods import ablation, atp_star, attention, chance, integrated, relevance
from lrp_lens.methods.method import Method
from lrp_lens.methods.relevance import relevance_method
from lrp_lens.rules import RuleSet

_FAMILIES = (relevance, atp_star, chance, attention, integrated, ablation)

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for family in _FAMILIES for method in family.METHODS}
)
"""Name → method.  GRADIENT is attribution patching (AtP), and gradient × input of tokens."""

_SPELLED = {bare_name(name): method for method in METHODS.values() for name in (method.name, *method.aliases)}

MethodLike = Method | RuleSet | str | Callable[..., Any]

Ability = Literal["sites", "tokens"]


def as_method(method: Any) -> Method:
    """A method from itself, a name in any spelling, a rule set, or a function that scores tokens.

    Raises:
        InputError: for anything else; a typo is met with the nearest names.

    Example:
        >>> as_method("IG") is as_method("Integrated gradients"), as_method("attn-lrp").name
        (True, 'ATTN_LRP')
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, RuleSet):
        return relevance_method(method)
    if isinstance(method, str):
        found = _SPELLED.get(bare_name(method))
        if found is not None:
            return found
    elif callable(method):
        return Method(getattr(method, "__name__", repr(method)), tokens=method)
    known = [name for one in METHODS.values() for name in (one.name, *one.aliases)]
    raise InputError(
        f"A method is a rule set, a Method, a function that scores tokens, or one of {', '.join(METHODS)}; received "
        f"{method!r}.{did_you_mean(method, known)}"
    )


def as_methods(methods: Any, ability: Ability) -> tuple[Method, ...]:
    """Methods that can do what is asked of them, from one or several of what `as_method` takes.

    Args:
        methods: one, or several.
        ability: "sites" or "tokens".

    Raises:
        InputError: what is no method, two of one name, none at all, or one without this ability.
    """
    single = isinstance(methods, Method | RuleSet | str) or callable(methods)
    if not (single or isinstance(methods, Iterable)):
        raise InputError(f"methods is a list of methods, or one; received {methods!r}.")
    found = tuple(as_method(one) for one in ([methods] if single else methods))
    names = [one.name for one in found]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"Methods have names of their own, and there is at least one; received {names}. Rename a rule set."
        )
    for one in found:
        if getattr(one, ability) is None:
            able = [name for name, other in METHODS.items() if getattr(other, ability) is not None]
            place, other, other_place = (
                ("compare", "tokens", "faithfulness")
                if ability == "sites"
                else ("faithfulness", "sites", "compare")
            )
            raise InputError(
                f"{place} needs scores of {ability}; {one.name} has scores of {other} only, for {other_place}. Take "
                f"it out, or pass a Method with {ability}=; those with scores of {ability} are {', '.join(able)}."
            )
    return found


def spelled(name: str, among: Iterable[str]) -> str:
    """The one of these names that a name in another spelling, or an alias, means; itself if there is none.

    Example:
        >>> spelled("IG", ["RELP", "integrated gradients"]), spelled("relp", ["RELP"]), spelled("mine", ["RELP"])
        ('integrated gradients', 'RELP', 'mine')
    """
    known = list(among)
    if name in known:
        return name
    registered = _SPELLED.get(bare_name(name))
    wanted = {bare_name(name)} | ({bare_name(registered.name)} if registered else set())
    return next((one for one in known if bare_name(one) in wanted), name)
