"""A random ranking: independent normal scores, what no method knows anything about.

1. Sites: noise drawn anew for each site, from one seed; `compare` averages over several draws.
2. Tokens: noise from the question's seed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.methods.attribution import PatchingPass, no_pass
from lrp_lens.methods.facets import Facet
from lrp_lens.methods.method import Method
from lrp_lens.methods.question import TokenQuestion


def random_scores(like: Float[Tensor, "batch layer ..."], seed: int) -> Float[Tensor, "batch layer ..."]:
    """Normal noise in the shape of other scores, the same for every prompt: a random ranking of the cells."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(like.shape[1:], generator=generator, dtype=torch.float64)
    return noise.to(like).expand_as(like)


def random_draws(shape: Sequence[int], site: str, seed: int, draws: int) -> Float[np.ndarray, "draw ..."]:
    """Several random rankings of a site's cells, independent of each other and of every other site's.

    Args:
        shape: of the cells, [layer, *axes].
        site: the facet's name.
        seed: of all sites together.
        draws: how many.

    Example:
        >>> random_draws((4, 15), "mlp_out", 0, 20).shape
        (20, 4, 15)
    """
    return np.random.default_rng([seed, *site.encode()]).normal(size=(draws, *shape))


def _draw(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    raise InputError("Random rankings have no pass to score; use random_scores or random_draws.")


def _tokens(question: TokenQuestion) -> Float[np.ndarray, " pos"]:
    """Independent standard normal scores."""
    return question.rng("random").standard_normal(len(question.tokens))


METHODS = (Method("random", no_pass, _tokens, _draw, cost="0", forwards=0, draws=20),)
