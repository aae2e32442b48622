"""Minimal pairs of BLiMP that a language model gets wrong, whose evidence is known: who finds it?

1. Pairs of one prefix and two continuations (BLiMP, Warstadt et al. 2020, 1912.00582), both a single token.  A prefix
   is a *failure* if the model gives the ungrammatical one the larger logit.
2. The *evidence* is the subject that the right word has to agree with, all of its words; where the paradigm plants a
   *distractor*, a noun of the other number behind the subject, it is that noun.  Paradigms in which the evidence is the
   whole prefix, or the very token at which the answer is read, say nothing and are left out.
3. Each method scores the prefix's tokens by what they do for right minus wrong.  Precision@k is the share of evidence
   among the k tokens that are most for the right word; distractor@1, whether the token that is most against it is the
   distractor.  Chance is the share of these tokens in the prefix.
4. Baselines that take dozens of passes are measured on the first failures of each paradigm only (`--costly`).

The data lie outside of the project: `--data`, a folder with blimp/.
"""

from benchmarks.minimal_pairs.run import main

__all__ = ["main"]
