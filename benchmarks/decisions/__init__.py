"""Decisions of real failures: IFEval and GSM8K on a small language model, from wrong completion to verdict.

1. Prompts of one constraint (IFEval), or all questions (GSM8K), go through the chat template, in the data's order,
   until so many completions were not accepted by the checker (`--failures`).
2. Of each failure the decision is found (`find_decision`), and verified (`verify`); beside that the m tokens with the
   most relevance towards the target are hidden at once, and as many drawn at random.
3. Every prompt is a file of one row: what is there is not measured again, and an interrupted run goes on.
4. Tables: coverage (the share of failures with a contrast that is known to be right, with and without a logit gap above
   1; Contrastive Attribution in the Wild, arXiv 2604.17761, by hand: 13.5 % of its IFEval failures), what the search
   cost in processor seconds, verdicts, and how often m tokens turn the preference, beside random ones.

The data lie outside of the project: `--data`, a folder with ifeval.jsonl and gsm8k.jsonl.  IFEval is scored by
lm-evaluation-harness (extra `harness`); so is GSM8K where it is installed, else by its last number: a file says which.
"""

from benchmarks.decisions.run import main

__all__ = ["main"]
