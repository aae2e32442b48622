"""TokenBatch: token ids of a batch of prompts, padded to one length, with the answers that a metric appends.

1. A prompt is one row.  A metric of an answer of several tokens is read while the answer is forced: its tokens, all
   but the last, stand behind the prompt, and each position predicts the next (teacher forcing).
2. Two answers that part are two rows of one example, which share the prompt.  Attention looks back only, so the
   prompt's activations are the same in both rows; a metric is a sum over rows, so relevance adds up over them.
3. For views, tables and graphs the rows of an example are laid out on one axis of positions: the prompt once, then the
   tokens of each answer (`per_position`, `shown`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TEMPLATE, COMPLETION = "template", "completion"
"""Names of the stretches that no message has: what a chat template writes, and what the model has said so far."""


class Segment(NamedTuple):
    """A stretch of a prompt with a name: a message, what the template writes around it, a completion."""

    name: str
    """"system", "user 1", "assistant 1", ...; "template" for what the template writes, "completion", or "prompt"."""
    role: str
    """The message's role; else as the name."""
    start: int
    stop: int
    """Exclusive."""


class Branch(NamedTuple):
    """What is appended to a prompt for one row."""

    role: str
    """Word for these tokens: answer, target or contrast."""
    ids: tuple[int, ...]
    """Token ids, none if the metric reads the prompt's own positions."""


class Shown(NamedTuple):
    """The tokens of each example on one axis: the prompt, then its answers."""

    strings: tuple[tuple[str, ...], ...]
    """Text of each token, "" at padding."""
    special: Bool[Tensor, "batch pos"]
    """BOS, EOS and padding."""
    pieces: tuple[tuple[str, ...], ...] | None
    """What each token adds to the text of those before it; None where that is not known."""
    answers: tuple[tuple[str, ...], ...]
    """Per token "" in the prompt, else the word for its answer: answer, target or contrast."""


class Places(NamedTuple):
    """Where the tokens of one example stand: a token sees those of the prompt and of its own answer before it."""

    depth: Int[Tensor, " position"]
    """Position in its row, from 0."""
    branch: Int[Tensor, " position"]
    """0 in the prompt, else 1 + the row."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids of a batch, one row each; several rows may belong to one example."""

    ids: Int[Tensor, "row pos"]
    starts: tuple[int, ...]
    """Column of the first real token of each row."""
    lengths: tuple[int, ...]
    """Number of real tokens of each row, answers included."""
    strings: tuple[tuple[str, ...], ...]
    """Token strings, "" at padding."""
    special: Bool[Tensor, "row pos"]
    """BOS, EOS and padding."""
    single: bool
    """Whether the caller gave one prompt, so that views have no batch axis."""
    examples: tuple[int, ...] | None = None
    """Example of each row, ascending; None before answers were appended, when each row is one."""
    forced: tuple[int, ...] = ()
    """Number of answer tokens at the end of each row; empty for none."""
    roles: tuple[str, ...] = ()
    """Word for each row's answer; empty for none."""
    pieces: tuple[tuple[str, ...], ...] = ()
    """What each token adds to the text of the row before it (see `hosts.pieces`), "" at padding; () where not known."""
    segments: tuple[tuple[Segment, ...], ...] = ()
    """Of each row, the named stretches of its prompt in order, counted in tokens from its first real one; together
    they are the prompt.  Empty where nothing has a name: no messages, no completion."""

    @property
    def real(self) -> Bool[Tensor, "row pos"]:
        """False at padding."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        start = torch.tensor(self.starts, device=self.ids.device)[:, None]
        return (columns >= start) & (
            columns < start + torch.tensor(self.lengths, device=self.ids.device)[:, None]
        )

    @property
    def left_mask(self) -> Bool[Tensor, "row pos"] | None:
        """The attention mask where padding stands on the left; padding on the right is out of causal sight."""
        return self.real if any(self.starts) else None

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Number of real tokens of each row without the answer."""
        forced = self.forced or (0,) * len(self.lengths)
        return tuple(length - answer for length, answer in zip(self.lengths, forced, strict=True))

    @property
    def n_examples(self) -> int:
        """Number of prompts."""
        return len(self.lengths) if self.examples is None else self.examples[-1] + 1

    @property
    def branches(self) -> bool:
        """Whether an example has several rows."""
        return self.n_examples < len(self.lengths)

    @property
    def first_rows(self) -> list[int]:
        """The first row of each example."""
        return [self.rows_of(example)[0] for example in range(self.n_examples)]

    def rows_of(self, example: int) -> tuple[int, ...]:
        """The rows of one example."""
        if self.examples is None:
            return (example,)
        return tuple(row for row, other in enumerate(self.examples) if other == example)

    @cached_property
    def columns(self) -> Int[Tensor, "row pos"]:
        """Where each token stands on its example's one axis of positions; -1 at padding.

        Without branches the axis is the row itself, padding included.  On the CPU.
        """
        n_rows, width = self.ids.shape
        if not self.branches:
            return torch.arange(width).expand(n_rows, width)
        columns = torch.full((n_rows, width), -1, dtype=torch.long)
        totals = [self._total(example) for example in range(self.n_examples)]
        for example, total in enumerate(totals):
            first = max(totals) - total if any(self.starts) else 0
            behind = 0
            for row in self.rows_of(example):
                start, prompt, forced = self.starts[row], self.prompt_lengths[row], self.forced[row]
                columns[row, start : start + prompt] = torch.arange(first, first + prompt)
                own = first + prompt + behind
                columns[row, start + prompt : start + prompt + forced] = torch.arange(own, own + forced)
                behind += forced
        return columns

    def _total(self, example: int) -> int:
        rows = self.rows_of(example)
        return self.prompt_lengths[rows[0]] + sum(self.forced[row] for row in rows)

    @property
    def width(self) -> int:
        """Number of positions on the examples' axis."""
        return max(map(self._total, range(self.n_examples))) if self.branches else int(self.ids.shape[1])

    def per_position(self, values: Float[Tensor, "row pos ..."]) -> Float[Tensor, "batch position ..."]:
        """Sum of the rows of each example, token by token on its one axis of positions."""
        if not self.branches:
            return values
        columns = self.columns.to(values.device)
        kept = columns >= 0
        example = torch.tensor(self.examples, device=values.device)[:, None].expand_as(columns)
        place = (example * self.width + columns)[kept]
        flat = values.new_zeros(self.n_examples * self.width, *values.shape[2:]).index_add(
            0, place, values[kept]
        )
        return flat.reshape(self.n_examples, self.width, *values.shape[2:])

    def first_of_position(self, values: Float[Tensor, "row pos ..."]) -> Float[Tensor, "batch position ..."]:
        """What stands at each position, from the first row that holds it (rows of an example agree in the prompt)."""
        if not self.branches:
            return values
        shape = (self.n_examples, self.width, *values.shape[2:])
        found = values.new_zeros(shape)
        columns = self.columns.to(values.device)
        for row in reversed(range(len(self.lengths))):
            kept = columns[row] >= 0
            found[(self.examples or ())[row], columns[row, kept]] = values[row, kept]
        return found

    def per_example(self, values: Float[Tensor, "row ..."]) -> Float[Tensor, "batch ..."]:
        """Sum of the rows of each example."""
        if not self.branches:
            return values
        example = torch.tensor(self.examples, device=values.device)
        return values.new_zeros(self.n_examples, *values.shape[1:]).index_add(0, example, values)

    @cached_property
    def shown(self) -> Shown:
        """The tokens of each example on its one axis of positions."""
        answers = [[""] * self.width for _ in range(self.n_examples)]
        if not self.branches:
            for row, forced in enumerate(self.forced):
                end = self.starts[row] + self.lengths[row]
                answers[row][end - forced : end] = [self.roles[row]] * forced
            pieces = self.pieces or None
            return Shown(self.strings, self.special, pieces, tuple(map(tuple, answers)))
        strings, pieces_of = ([[""] * self.width for _ in range(self.n_examples)] for _ in range(2))
        special = torch.ones(self.n_examples, self.width, dtype=torch.bool)
        for row, columns in enumerate(self.columns.tolist()):
            example, end = (self.examples or ())[row], self.starts[row] + self.lengths[row]
            for place, column in enumerate(columns):
                if column >= 0:
                    strings[example][column] = self.strings[row][place]
                    pieces_of[example][column] = self.pieces[row][place] if self.pieces else ""
                    special[example, column] = bool(self.special[row, place])
                    if place >= end - self.forced[row]:
                        answers[example][column] = self.roles[row]
        return Shown(
            tuple(map(tuple, strings)),
            special.to(self.special.device),
            tuple(map(tuple, pieces_of)) if self.pieces else None,
            tuple(map(tuple, answers)),
        )

    @cached_property
    def named_spans(self) -> tuple[tuple[Segment, ...], ...]:
        """Of each example, the named stretches on its one axis of positions, answers behind the prompt included.

        Empty for an example of which nothing has a name.
        """
        found = []
        for example, row in enumerate(self.first_rows):
            first = int(self.columns[row, self.starts[row]])
            named = [
                one._replace(start=first + one.start, stop=first + one.stop)
                for one in (self.segments[row] if self.segments else ())
            ]
            for at, word in enumerate(self.shown.answers[example] if named else ()):
                if word and named[-1].name == word and named[-1].stop == at:
                    named[-1] = named[-1]._replace(stop=at + 1)
                elif word:
                    named.append(Segment(word, word, at, at + 1))
            found.append(tuple(named))
        return tuple(found)

    def example(self, index: int) -> "TokenBatch":
        """One example as a batch of its own, without padding on the left."""
        rows = self.rows_of(index)
        width = max(self.lengths[row] for row in rows)
        spans = [range(self.starts[row], self.starts[row] + self.lengths[row]) for row in rows]
        ids, special = self.ids.new_zeros(len(rows), width), self.special.new_ones(len(rows), width)
        strings = []
        for line, (row, span) in enumerate(zip(rows, spans, strict=True)):
            ids[line, : len(span)] = self.ids[row, span.start : span.stop]
            special[line, : len(span)] = self.special[row, span.start : span.stop]
            strings.append(self.strings[row][span.start : span.stop] + ("",) * (width - len(span)))
        return TokenBatch(
            ids=ids,
            starts=(0,) * len(rows),
            lengths=tuple(map(len, spans)),
            strings=tuple(strings),
            special=special,
            single=True,
            examples=None if self.examples is None else (0,) * len(rows),
            forced=tuple(self.forced[row] for row in rows) if self.forced else (),
            roles=tuple(self.roles[row] for row in rows) if self.roles else (),
            pieces=tuple(
                self.pieces[row][span.start : span.stop] + ("",) * (width - len(span))
                for row, span in zip(rows, spans, strict=True)
            )
            if self.pieces
            else (),
            segments=tuple(self.segments[row] for row in rows) if self.segments else (),
        )

    @cached_property
    def places(self) -> Places:
        """Of a single example without padding on the left: where each token of its axis stands."""
        depth = torch.arange(self.width)
        branch = torch.zeros_like(depth)
        if self.branches:
            for row, columns in enumerate(self.columns):
                kept = columns >= 0
                depth[columns[kept]] = torch.arange(len(columns))[kept]
                branch[columns[kept][self.prompt_lengths[row] :]] = 1 + row
        return Places(depth.to(self.ids.device), branch.to(self.ids.device))

    @cached_property
    def home(self) -> Int[Tensor, "position 2"]:
        """Of a single example: the first row that holds each position of its axis, and the column there."""
        found = torch.zeros(self.width, 2, dtype=torch.long)
        for row in reversed(range(len(self.lengths))):
            columns = self.columns[row]
            kept = columns >= 0
            found[columns[kept], 0] = row
            found[columns[kept], 1] = torch.arange(len(columns))[kept]
        return found.to(self.ids.device)
