"""What follows a text if another token is said: rollouts that run together, others in the place of those that ended.

1. A rollout keeps what was said before its place, says the other token, and goes on greedily.  What it shares with the
   text is never run again, nor copied (`branches`).
2. Each step is one pass over all that are going, a token each.  Where some have ended, others can begin at once beside
   those that go on: a pass over a few costs nearly as much as one over many, as it reads the same weights.
3. Where that way is not the model's, each joins, with a copy, where the others' length reaches its own: rows of one
   length need no padding.  Others can begin when all have ended.

Either way a rollout is what the model says alone.  Others in the place of those that ended: iteration-level scheduling,
Orca, Yu et al., OSDI 2022.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lrp_lens.hosts.branches import Branches, SharedText
from lrp_lens.hosts.generation import Trunk, logits_behind, note
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.rollout import Rollout, Until


class Fork(NamedTuple):
    """Where a completion goes another way."""

    at: int
    """How many of its tokens are kept."""
    token: int
    """What is said behind them."""


class Rollouts:
    """Rollouts of one trunk.

    Args:
        trunk: whose tokens before each fork are kept.
        until: where rollouts end; of `max_new_tokens` those of the trunk count, too.
        most: how many are going at once.

    Example:
        >>> from lrp_lens import load_demo_model, tokenize
        >>> from lrp_lens.hosts.generation import grow
        >>> model = load_demo_model(device="cpu")
        >>> trunk = grow(model, tokenize(model, "then mary and john went to the"), Until(4), 2)
        >>> running = Rollouts(trunk, Until(4), most=2)
        >>> rollouts = running.begin([Fork(0, 5), Fork(2, 6)])
        >>> while running.going:
        ...     ended = running.step()
        >>> [len(one.ids) for one in rollouts], running.forwarded
        ([4, 4], 4)
    """

    def __init__(self, trunk: Trunk, until: Until, most: int) -> None:
        self.trunk, self.until, self.most = trunk, until, most
        self.going: list[Rollout] = []
        """In the order in which they began."""
        self._over: list[Rollout] = []
        self._way: _InPlace | _Copied | None = None

    @property
    def forwarded(self) -> int:
        """How many tokens were run."""
        return self._way.rows.forwarded if self._way else 0

    @property
    def free(self) -> int:
        """How many can begin now."""
        return 0 if self.going and isinstance(self._way, _Copied) else self.most - len(self.going)

    @property
    def owed(self) -> int:
        """How many tokens those that are going run at most, from here."""
        return sum(self.until.max_new_tokens - len(one.ids) for one in self.going)

    def begin(self, forks: Sequence[Fork]) -> list[Rollout]:
        """Begin as many as are free, or fewer; their rollouts, whose ids begin with the trunk's, in this order."""
        begun = [Rollout([*self.trunk.said.ids[: fork.at], fork.token]) for fork in forks]
        self.going += begun
        self._over += [one for one in begun if self.until.over(one)]
        if running := [one for one in begun if one not in self._over]:
            self._way = self._way or self._found_way()
            self._way.join(running)
        return begun

    def step(self) -> list[Rollout]:
        """One token more of each; those that have ended.  Such as ended with their first token do so without a pass.

        Raises:
            InputError: logits that are not finite.
        """
        ended, self._over = self._over, []
        if not ended and self._way:
            ended = [one for one in self._way.step() if self.until.over(one)]
            for one in ended:
                self._way.leave(one)
        self.going = [one for one in self.going if one not in ended]
        return ended

    def let_go(self, rollout: Rollout) -> None:
        """One that is going does not go on."""
        self.going.remove(rollout)
        if rollout in self._over:
            self._over.remove(rollout)
        elif self._way:
            self._way.leave(rollout)

    def _found_way(self) -> "_InPlace | _Copied":
        trunk, limit = self.trunk, self.until.max_new_tokens
        text = trunk.shared(trunk.prompt.shape[1] + max(limit, len(trunk.said.ids)))
        return _Copied(trunk) if text is None else _InPlace(trunk, text, self.most, limit)


class _InPlace:
    """All rows at once, each at its own place."""

    def __init__(self, trunk: Trunk, text: SharedText, most: int, room: int) -> None:
        self.trunk, self.rows, self._said = trunk, Branches(text, most, room), list[Rollout]()

    def join(self, rollouts: list[Rollout]) -> None:
        self.rows.join([self.trunk.prompt.shape[1] + len(one.ids) - 1 for one in rollouts])
        self._said += rollouts

    def leave(self, rollout: Rollout) -> None:
        row = self._said.index(rollout)
        self.rows.leave(row)
        self._said[row] = self._said[-1]
        self._said.pop()

    def step(self) -> list[Rollout]:
        tokens = self.trunk.prompt.new_tensor([one.ids[-1:] for one in self._said])
        logits = self.rows.extend(tokens)[:, -1]
        note(self._said, logits, logits.argmax(-1), 0)
        return list(self._said)


class _Copied:
    """Rows of one length, each with a copy of the keys and values: the shortest go until they reach the next ones."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk, self.rows = trunk, KeyValues(trunk.model)
        self._said, self._waiting = list[Rollout](), list[Rollout]()

    def join(self, rollouts: list[Rollout]) -> None:
        self._waiting = sorted([*self._waiting, *rollouts], key=lambda one: len(one.ids))

    def leave(self, rollout: Rollout) -> None:
        if rollout in self._waiting:
            self._waiting.remove(rollout)
        else:
            self.rows.keep([row for row, one in enumerate(self._said) if one is not rollout])
            self._said.remove(rollout)

    def step(self) -> list[Rollout]:
        length = len((self._said or self._waiting)[0].ids)
        joining = [one for one in self._waiting if len(one.ids) == length]
        if joining:
            self.rows.join(self.trunk.past, self.trunk.prompt.shape[1] + length - 1, len(joining))
            self._waiting, self._said = self._waiting[len(joining) :], self._said + joining
        tokens = self.trunk.prompt.new_tensor([one.ids[-1:] for one in self._said])
        logits = logits_behind(self.rows, tokens)[:, -1]
        note(self._said, logits, logits.argmax(-1), 0)
        return list(self._said)
