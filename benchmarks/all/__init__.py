"""Every claim of speed or memory in README and docs/, and the benchmark that it comes from.

1. `claims` lists them: where a claim stands, its words, the command that measured it.  A test finds the sentences that
   speak of speed and holds them against the list.
2. `python -m benchmarks all` prints the list.  `--quick` runs each command at a small size, in processes of their
   own, and shows what it printed: that it still runs, and roughly where it lies.  A ratio at a small size is not the
   ratio claimed.  What lacks something (a model, the peers' environment, the other TransformerLens) is named.
"""

from benchmarks.all.run import main

__all__ = ["main"]
