"""Undecided cases are refused before any work, with the way to a decision."""

from lrp_lens.cases.case import Case
from lrp_lens.errors import InputError


def require_decided(case: Case) -> Case:
    """The case, if it says what is compared and where.

    Raises:
        InputError: an undecided case; the message names `find_decision`.

    Example:
        >>> require_decided(Case(prompt="2 + 2 =", completion=" 5", id="sum"))
        Traceback (most recent call last):
        lrp_lens.errors.InputError: An analysis compares two tokens at one place; case 'sum' names neither target and
        contrast nor a position in its completion. `find_decision` finds them: pass the case that it returns.
    """
    if not case.decided:
        what = f"case {case.id!r}" if case.id else "this case"
        raise InputError(
            f"An analysis compares two tokens at one place; {what} names neither target and contrast nor a position in "
            "its completion. `find_decision` finds them: pass the case that it returns."
        )
    return case
