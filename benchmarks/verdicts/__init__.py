"""Do verdicts name the cause?  `verify` on failures whose cause is known by construction, beside claims that are wrong.

1. Failures of the demo model: the corpus marks the words that the right answer has to be read from (evidence) and those
   that pull away from it (distractors).  Failures that are planted: right answers, into which a head or an MLP is made
   to write the wrong one at the position of the decision, or into which a head's value at the token that it reads most
   from there is (an attention edge that carries the wrong answer), so that the cause is inside the model.
2. Claims: relevance under a rule set; and, as controls, the same scores shuffled over tokens, places and edges.
3. A claim of tokens is right if most of the tokens it names are known distractors (hidden) or evidence (amplified), and
   wrong about a planted failure; of places and edges, if it names the planted one.  No intervention decides that.  Of
   edges in the model's own failures it is told how many read a known distractor.
4. Criterion: on half of the failures of each suite take the one with the largest F½ (passing = named the cause;
   precision counts twice as much as recall, as a verdict that blames the wrong words is worse than none); on the other
   half print precision, recall, calibration and the verdicts, of the chosen criterion and of the default.
"""

from benchmarks.verdicts.run import main

__all__ = ["main"]
