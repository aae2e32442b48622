"""Rules at linear maps, by what they do at the output z = W x + b."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import RuleError
from lrp_lens.hosts.sites import LinearSite
from lrp_lens.ops.gates import accumulation_dtype, scale_gradient
from lrp_lens.rules.rule import Hook, Rule, question

Output = Float[Tensor, "*rest width"]


class LinearRule(Rule):
    """How relevance passes a linear map."""

    symbol = "rule"
    """How the ledger calls it: `ε at q`."""

    @question("whether a linear map hands on all the relevance that it receives")
    def conserves(self, site: LinearSite) -> bool:
        """Whether nothing but the bias takes relevance."""
        raise NotImplementedError

    @question("which factor a linear map's output takes, what is left going through its own weights")
    def factor(self, z: Output) -> Output | float:
        """f such that the input receives Wᵀ (f ⊙ g); a rule that changes the weights does not answer."""
        raise NotImplementedError

    @question("how much relevance a linear map takes")
    def absorbed(self, z: Output) -> Output:
        """w such that Σ w ⊙ (gradient recorded at z) is taken."""
        raise NotImplementedError


@dataclass(frozen=True)
class Epsilon(LinearRule):
    """ε-rule on the output z of a linear map: relevance × z / (z + ε sign z).

    ε damps outputs near 0 and absorbs a share of the relevance.  Source: Bach et al. 2015, Equation 58.
    """

    epsilon: float = 1e-6
    symbol = "ε"

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise RuleError(
                f"The ε-rule needs ε > 0, received {self.epsilon!r}. For ε = 0 use Plain() (0-rule)."
            )

    def __str__(self) -> str:
        return f"ε-rule (ε = {self.epsilon:g})"

    def hooks(self, site: LinearSite) -> tuple[Hook, ...] | None:
        """Scale at the output of the linear map."""
        if site.output is None:
            return None

        def hook(tensor: Tensor, hook: object) -> Tensor:
            return scale_gradient(tensor, self.factor(tensor.detach().to(accumulation_dtype(tensor.dtype))))

        return (Hook(site.output, hook, "scale"),)

    def conserves(self, site: LinearSite) -> bool:
        """ε takes a share."""
        return False

    def factor(self, z: Output) -> Output:
        """z / (z + ε sign z)."""
        return z / (z + self.absorbed(z))

    def absorbed(self, z: Output) -> Output:
        """ε sign z."""
        return self.epsilon * torch.where(z < 0, -1.0, 1.0).to(z)
