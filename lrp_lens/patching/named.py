"""Functions with the names of transformer_lens.patching: one facet of `FACETS`, or several of `BUNDLES`, each.

1. `Named` gives an instance the name, the docstring and the representation of a function.
2. A bundle's facets are stacked along a first axis, as transformer_lens does; what a model lacks is NaN.
"""

import torch
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.methods.facets import BUNDLES, FACETS, Facet


def facets_of(name: str) -> list[Facet]:
    """The facets of a name."""
    return [FACETS[one] for one in BUNDLES.get(name, (name,))]


def bundled(name: str, results: list[Tensor]) -> Tensor:
    """Facets stacked along patch_type, as transformer_lens does; absent key-value heads are NaN."""
    if name not in BUNDLES:
        return results[0]
    if name == "attn_head_by_pos_every":
        results[-1] = results[-1].transpose(-1, -2)
    heads = max(result.shape[-1] for result in results)
    padded = [
        torch.nn.functional.pad(result, (0, heads - result.shape[-1]), value=torch.nan) for result in results
    ]
    return torch.stack(padded)


def _shape_words(name: str) -> str:
    words = FACETS[BUNDLES.get(name, (name,))[0]].shape_words
    return f"[{len(BUNDLES[name])}, {words[1:]}" if name in BUNDLES else words


class Named:
    """What named functions share: a name, and a docstring of their own."""

    def __init__(self, name: str, prefix: str, what: str) -> None:
        self.facet, self.__name__ = name, f"{prefix}{name}"
        self.__qualname__, self.__module__ = self.__name__, type(self).__module__
        types = f" ({', '.join(BUNDLES[name])})" if name in BUNDLES else ""
        self.__doc__ = (
            f"{what} of {name}, {_shape_words(name)}{types}. Arguments: see `{type(self).__name__}`."
        )

    def __repr__(self) -> str:
        return f"<{self.__name__}: {_shape_words(self.facet)}>"


def filled(results: list[Tensor | None], facets: list[Facet]) -> list[Tensor]:
    """NaN for a facet of a bundle that the model lacks, shaped like another one of its bundle."""
    known = [result for result in results if result is not None]
    if not known:
        raise SiteError(
            f"The model has none of {', '.join(facet.name for facet in facets)}. Patch another site."
        )
    largest = max(known, key=lambda result: result.numel())

    def nothing(facet: Facet) -> Tensor:
        like = largest.transpose(-1, -2) if facet.axes == ("head", "dest_pos") else largest
        return torch.full_like(like, torch.nan)

    return [
        nothing(facet) if result is None else result for result, facet in zip(results, facets, strict=True)
    ]
