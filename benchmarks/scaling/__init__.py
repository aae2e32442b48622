"""How time and memory grow with tokens and layers: relevance passes and the state graph beside a plain pass.

1. Models: SmolLM2-135M (`make models`) and random weights in the shapes of GPT-2 small, a Llama and a Qwen 3, on both
   hosts; one worker process each (`benchmarks/_worker.py`, `_passes.py`).
2. At each length, in turns: plain forward and backward, the relevance pass in full and block by block (tokens,
   layers, heads, ledger), block by block for tokens only, the pruned state graph.  Processor time, wall clock, peak
   memory above the model.  The two ways have to find the same tokens: their largest difference is written down, too.
3. What would need more than `--most-gb` is not run: passes by `estimate`; the plain pass and the graph where their last
   peak, grown with the square of the length, would be above.
4. Ratios to the plain pass of the same turn; exponents by least squares of the logarithms, over tokens from 512 on, and
   over the layers of a Llama; tables and a figure.  A length that is measured is not measured again.
"""

from benchmarks.scaling.run import main

__all__ = ["main"]
