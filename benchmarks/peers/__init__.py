"""Relevance passes beside the peers', on SmolLM2's weights: lxt 2.1 (AttnLRP, efficient mode) and Captum 0.9.

1. lrp_lens' passes on either host (`benchmarks/_passes.py`) and the peers' (`_peer_passes.py`) run in worker processes,
   a peer's with the Python of an environment of its own: `make peers` makes it, from peers.txt.
2. At each length, in turns: what is compared are ratios within a turn, of processor seconds and of peak memory above
   the model.  A length that is measured is not measured again.
3. What the passes find is compared, too: tokens under AttnLRP here and in lxt, and the plain gradients of both
   transformers.  Where those differed, the times would be of different things.
4. The goals stand beside the results, whether they are reached or not.
"""

from benchmarks.peers.run import main

__all__ = ["main"]
