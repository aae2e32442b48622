"""An explanation on the terminal: question, heat map, heads and MLPs, ledger, check."""

import pandas as pd
from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lrp_lens.characters import shown, signed
from lrp_lens.failures.explanation import Choice, Explanation
from lrp_lens.plots import token_heatmap_text
from lrp_lens.views.statistics.verdict import Outcome

_TOP = 5
_END_OF_PROMPT = 400  # characters
_BAR = 12
_COLOURS = {
    Outcome.SUPPORTED: "green",
    Outcome.CONTRADICTED: "red",
    Outcome.NOT_SUPPORTED: "yellow",
    Outcome.UNDECIDED: "yellow",
}


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Print the whole explanation on a `terminal`; everything from model and prompt is text, never markup."""
    words = [(repr(explanation.target.text), "bold blue"), (repr(explanation.contrast.text), "bold red")]
    first, second = words if explanation.metric_value >= 0 else reversed(words)
    heading = Text.assemble(("Why ", "bold"), first, (" and not ", "bold"), second, ("?", "bold"))
    console.print()
    console.print(heading)
    source = " · ".join(filter(None, (explanation.title, explanation.model_name, explanation.rules)))
    console.print(Text(shown(source), style="dim"))
    _title(console, "Prompt")
    console.print(Padding(_prompt(shown(explanation.prompt)), (0, 2)))
    if explanation.position is not None:
        console.print(Padding(_completion(explanation), (0, 2)))
    console.print(_choices(explanation))
    for note in (
        one for one in explanation.notes if one not in explanation.tokens.cautions
    ):  # said with the words
        console.print(Padding(Text(note, style="dim"), (0, 2)))
    _title(console, "Which words did it")
    console.print(Padding(token_heatmap_text(explanation.tokens), (0, 2)))
    console.print(Padding(Text(explanation.claim()), (1, 2, 0, 2)))
    if explanation.segments is not None:
        console.print(Padding(Text(explanation.shares()), (0, 2)))
    heads, mlps = explanation.top_heads(_TOP), explanation.top_mlps(_TOP)
    tables = [_bars("Top heads", heads, "label"), _bars("Top MLPs", mlps, "component")]
    console.print(Padding(Columns(tables, padding=(0, 4)), (1, 0, 0, 2)))
    console.print(Padding(_ledger(explanation), (1, 2, 0, 2)))
    _title(console, "Check: mask those words and look again")
    console.print(Padding(_masking(explanation), (0, 2)))
    check = explanation.masking
    outcome = check.verdict.outcome
    said = " ".join(filter(None, (f" {check.verdict.reading}", check.overtakes)))
    answer = Text.assemble((f"{outcome.value.capitalize()}.", f"bold {_COLOURS[outcome]}"), said)
    console.print(Padding(answer, (1, 2, 0, 2)))
    console.print()


def _prompt(text: str) -> Text:
    """Both ends of a long prompt: the words below hold all of it."""
    left_out = len(text) - 2 * _END_OF_PROMPT
    if left_out <= _END_OF_PROMPT:
        return Text(text)
    middle = (f"\n… {left_out:,} characters …\n", "dim")
    return Text.assemble(text[:_END_OF_PROMPT], middle, text[-_END_OF_PROMPT:])


def _title(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold underline"))


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        padding=(0, 1),
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        words = column in ("", "token", "kind", "word masked", "says now")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table


def _completion(explanation: Explanation) -> Text:
    """What the model said, the token in question marked."""
    said, at = explanation.completion, explanation.position or 0
    before, after = "".join(said[:at]), "".join(said[at + 1 :])
    return Text.assemble(("completion: ", "dim"), shown(before), (shown(said[at]), "reverse"), shown(after))


def _choices(explanation: Explanation) -> Padding:
    table = _table("", "token", "logit", "probability", "rank")
    rows: list[tuple[str, Choice, str]] = [
        (explanation.roles[0], explanation.target, "blue"),
        (explanation.roles[1], explanation.contrast, "red"),
    ]
    for words, choice, colour in rows:
        table.add_row(
            words,
            Text(repr(choice.text), style=f"bold {colour}"),
            f"{choice.logit:.2f}",
            f"{choice.probability:.3f}",
            str(choice.rank),
        )
    table.add_row("preference", "", signed(explanation.metric_value), "", "")
    return Padding(table, (1, 2, 0, 2))


def _bars(title: str, rows: pd.DataFrame, column: str) -> Table:
    """Label, value and a bar; blue towards the target, red towards the contrast."""
    table = _table("", "logits", "", title=title)
    longest = float(rows["value"].abs().max()) if len(rows) else 0.0
    for label, value in zip(rows[column], rows["value"], strict=True):
        length = 0 if longest == 0 else max(1, round(_BAR * abs(value) / longest))
        table.add_row(
            Text(str(label)), signed(value), Text("█" * length, style="blue" if value >= 0 else "red")
        )
    return table


def _ledger(explanation: Explanation) -> Table:
    """One row per kind; the last row is what they add up to."""
    table = _table("kind", "logits", "share", "entries", title="Ledger: where every logit went")
    for kind, rows in explanation.ledger.groupby("kind", sort=False):
        amount = float(rows["amount"].sum())
        rest = kind == "remainder"
        if amount or rest:
            shown = signed(amount, "+.0e") if rest else signed(amount, "+.3f")
            share = "" if rest else _share(amount, explanation)
            table.add_row(Text(str(kind)), shown, share, str(len(rows)))
    total = float(explanation.ledger["amount"].sum())
    table.add_row(Text("metric", style="bold"), signed(total, "+.3f"), _share(total, explanation), "")
    return table


def _share(amount: float, explanation: Explanation) -> str:
    value = explanation.metric_value
    return f"{100 * amount / value:.0f} %" if value else ""


def _masking(explanation: Explanation) -> Table:
    table = _table("k", "word masked", "gap", "gap, random", "says now")
    for step in explanation.masking.steps:
        word = f"{step.text!r} at {step.where}" if step.positions else ""
        flipped = "bold red" if step.gap < 0 else ""
        table.add_row(
            str(step.masked),
            Text(word),
            Text(signed(step.gap), style=flipped),
            step.control_words,
            Text(repr(step.first_choice)),
        )
    return table
