"""Evidence on real language models: which rule set answers which question, on held-out prompts, with intervals.

`python -m benchmarks evidence` (or `make evidence`) measures what is not there yet and prints the tables; an
interrupted run goes on where it stopped.  `--quick` takes a few cases of each task.

The criterion for the default rule set, stated before the held-out prompts were run: of the rule sets whose tokens hold
the metric up to biases (conserving), the one with the highest mean held-out ΔA over both models and both replacements,
each case counted once, each model the same weight; if the interval of its paired difference to the next contains 0,
the simpler rule set of the two: the one that cuts more of its records off, then the one with fewer rules (`decision`,
which reads this off the rules and evaluates all of it).
"""

from benchmarks.evidence.run import main

__all__ = ["main"]
