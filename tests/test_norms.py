"""The norm algebra against torch's own norms and against autograd, in float64 and below."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrp_lens import FrozenNorm, Plain
from lrp_lens.hosts import resolve
from lrp_lens.hosts.sites import NormSite
from lrp_lens.ops.norms import Norm
from tests import zoo

EXACT = dict(rtol=1e-11, atol=1e-13)
KINDS = pytest.mark.parametrize("centred", [True, False], ids=["LayerNorm", "RMSNorm"])
PARAMETERS = pytest.mark.parametrize("parameters", ["none", "gain", "gain and bias", "offset gain"])


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 0.7


def made(centred: bool, parameters: str, width: int = 6) -> Norm:
    """A norm; "offset gain" is Gemma's, stored as w and applied as 1 + w."""
    gain = None if parameters == "none" else uniform(width, seed=1) + (parameters == "offset gain")
    return Norm(centred, 1e-2, gain, uniform(width, seed=2) if "bias" in parameters else None)


def literally(norm: Norm, x: Tensor, scale: Tensor | None = None) -> Tensor:
    """torch's own function; with a scale, the definition with that scale."""
    if scale is None:
        if norm.centred:
            return torch.nn.functional.layer_norm(x, x.shape[-1:], norm.gain, norm.bias, norm.epsilon)
        y = torch.nn.functional.rms_norm(x, x.shape[-1:], norm.gain, norm.epsilon)
        return y if norm.bias is None else y + norm.bias
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1] if norm.centred else x
    y = centred / scale * (1 if norm.gain is None else norm.gain)
    return y if norm.bias is None else y + norm.bias


def jacobians(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Directional derivative, and the gradient of y · direction."""
    along = torch.autograd.functional.jvp(function, x, direction)[1]
    back = torch.autograd.functional.vjp(function, x, direction)[1]
    return along, back


@KINDS
@PARAMETERS
def test_the_map_and_its_derivatives(centred: bool, parameters: str) -> None:
    norm, x, direction = made(centred, parameters), uniform(2, 3, 6, seed=3), uniform(2, 3, 6, seed=4)
    torch.testing.assert_close(norm.forward(x), literally(norm, x), **EXACT)
    along, back = jacobians(lambda x: literally(norm, x), x, direction)
    torch.testing.assert_close(norm.derivative(x, direction), along, **EXACT)
    torch.testing.assert_close(norm.transpose(x, direction), back, **EXACT)
    scale = norm.scale(x)
    assert not scale.requires_grad
    along, back = jacobians(lambda x: literally(norm, x, scale), x, direction)
    torch.testing.assert_close(norm.linear(direction, scale), along, **EXACT)
    torch.testing.assert_close(norm.linear_transpose(direction, scale), back, **EXACT)
    if parameters != "none":  # the two treatments differ, and gain is not its own inverse
        assert (norm.linear(direction, scale) - norm.derivative(x, direction)).abs().max() > 1e-2
        assert (norm.transpose(x, direction) - norm.derivative(x, direction)).abs().max() > 1e-2


@KINDS
def test_shares_behind_a_norm_sum_to_its_output(centred: bool) -> None:
    """Post-norms: shares of a whole, each with the whole's scale."""
    norm, shares = made(centred, "gain and bias"), uniform(5, 2, 3, 6, seed=5)
    whole = shares.sum(0)
    assert norm.bias is not None
    through = norm.linear(shares, norm.scale(whole)).sum(0) + norm.bias
    torch.testing.assert_close(through, literally(norm, whole), **EXACT)
    alone = norm.linear(shares, norm.scale(shares)).sum(0) + norm.bias
    assert (alone - through).abs().max() > 1e-2  # each share with a scale of its own would not


def test_one_norm_over_all_heads() -> None:
    """OLMo 2 normalises q over [head, d_head] together."""
    norm, x = made(False, "gain", width=12), uniform(2, 3, 4, 3, seed=6)
    expected = literally(norm, x.reshape(2, 3, 12)).reshape(x.shape)
    torch.testing.assert_close(norm.forward(x), expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_follow_what_they_are_applied_to(dtype: torch.dtype) -> None:
    """A host keeps gain and bias in its own dtype; a widened input stays wide, to the last bit."""
    stored = Norm(False, 1e-6, uniform(6, seed=1).to(dtype), uniform(6, seed=2).to(dtype))
    assert stored.gain is not None and stored.bias is not None
    wide = Norm(False, 1e-6, stored.gain.float(), stored.bias.float())
    x, g = uniform(3, 6, seed=3).float(), uniform(3, 6, seed=4).float()
    for name in ("forward", "derivative", "transpose"):
        arguments = (x,) if name == "forward" else (x, g)
        found = getattr(stored, name)(*arguments)
        assert found.dtype == torch.float32
        assert torch.equal(found, getattr(wide, name)(*arguments))
    assert stored.linear_transpose(g.to(dtype), wide.scale(x)).dtype == torch.float32


@pytest.mark.parametrize(
    ("host", "name"), [one for one in zoo.models("hooked", "bridge") if one[1] in ("gpt2", "gemma3", "olmo2")]
)
def test_sites_have_their_models_norms(host: str, name: str) -> None:
    """Gain, offset and ε as the host applies them (the probe compares, too), and the rules' answers at them."""
    model = zoo.shared(host, name)
    norms = list(resolve(model).of(NormSite))
    assert {label for sites in resolve(model).norms.values() for label in sites} == {
        site.label for site in norms
    }
    for site in norms:
        gain = site.gain()
        width = int(model.cfg.d_model) if gain is None else gain.numel()
        x, g = uniform(2, width, seed=7), uniform(2, width, seed=8)
        scale = site.norm.scale(x)
        for rule, at in (
            (FrozenNorm(), lambda x, site=site, scale=scale: literally(site.norm, x, scale)),
            (Plain(), lambda x, site=site: literally(site.norm, x)),
        ):
            along, back = jacobians(at, x, g)
            torch.testing.assert_close(rule.along(site, x, g), along, **EXACT)
            torch.testing.assert_close(rule.at_input(site, g, x), back, **EXACT)
            part = rule.kept(site, x) * site.bare.linear(x, scale)
            torch.testing.assert_close(part, rule.derivative(site, x, x), **EXACT)
