"""Rollouts of a trunk, all to their ends."""

from collections.abc import Sequence

from lrp_lens.hosts.generation import Trunk
from lrp_lens.hosts.rollout import Rollout, Until
from lrp_lens.hosts.rollouts import Fork, Rollouts


def roll_out(
    trunk: Trunk, forks: Sequence[Fork], until: Until, most: int | None = None
) -> tuple[list[Rollout], int]:
    """The rollout of each fork, and how many tokens were run; `most` go together, the next ones as soon as they can."""
    running, found = Rollouts(trunk, until, most or len(forks)), list[Rollout]()
    while len(found) < len(forks) or running.going:
        found += running.begin(forks[len(found) : len(found) + running.free])
        running.step()
    return found, running.forwarded
