"""Liveness: does an edit at a hook point reach the logits, and does nothing go around it?

Hosts may fire a hook and throw its result away.  The probe runs a few tokens once, with a transparent edit at
every hook point that a site uses, and reads gradients before and after each edit:

1. no gradient after the edit: the host drops it (dead);
2. gradient before ≠ gradient after: part of the computation goes around the edit (bypassed);
3. a norm or activation whose output is not what its site claims: the site is wrong.

Results are cached per model and flags by `lrp_lens.hosts.resolve`.
"""

from typing import Any

import torch
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.hosts.forward import device_of, forward, input_vocabulary_size, require_finite
from lrp_lens.hosts.scope import attached, graph_released, parameters_frozen, quiet
from lrp_lens.hosts.sites import ActivationSite, BiasSite, NormSite, Port, Sites
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.ops.ratios import RATIOS

PROBE_LENGTH = 8


def probe_tokens(model: Any, length: int = PROBE_LENGTH) -> Tensor:
    """One row of a few tokens."""
    length = min(length, int(model.cfg.n_ctx))
    ids = (torch.arange(length) * 37 + 11) % input_vocabulary_size(model)
    return ids[None].to(device_of(model))


def _check_norm(site: NormSite, seen: dict[str, Tensor]) -> None:
    if site.input is None or site.output is None or site.output.name not in seen:
        return
    dtype = accumulation_dtype(seen[site.output.name].dtype)
    _require_equal(site, seen[site.output.name], site.norm.forward(seen[site.input.name].detach().to(dtype)))


def _check_activation(site: ActivationSite, seen: dict[str, Tensor], bias: Tensor | None) -> None:
    if site.post.name not in seen or site.function not in RATIOS or not seen[site.post.name].numel():
        return
    wide = accumulation_dtype(seen[site.post.name].dtype)
    pre = seen[site.pre.name].detach().to(wide)
    expected = pre * RATIOS[site.function](pre)
    if site.up is not None:
        expected = expected * seen[site.up.name].detach().to(wide)
        expected = expected if bias is None else expected + bias.to(wide)
    _require_equal(site, seen[site.post.name], expected)


def _require_equal(site: Any, value: Tensor, expected: Tensor) -> None:
    """Compare with a tolerance for the model's dtype: a wrong formula is off by far more than rounding."""
    tolerance = max(min(100 * torch.finfo(value.dtype).eps ** 0.75, 0.1), 1e-5)  # float32 inside Hugging Face
    wide = value.detach().to(expected.dtype)
    error = (wide - expected.reshape(value.shape)).abs().max() / wide.abs().max().clamp_min(1e-6)
    if not error < tolerance:
        raise SiteError(
            f"The operation at {site} is not the one its rule is for: its output differs from the formula by "
            f"{error.item():.2g} of its range. Report the architecture; use another host for this model."
        )


def dead_ports(model: Any, sites: Sites) -> dict[str, str]:
    """Names of hook points at which an edit does not count, each with the reason.

    Raises:
        SiteError: if a norm or activation is not what its site says.
    """
    seen: dict[str, Tensor] = {}
    edits: dict[str, list[tuple[Tensor, Tensor]]] = {}
    ports: dict[str, Port] = {}
    for site in sites.sites:
        if not (isinstance(site, NormSite) and site.of == "embedding"):  # upstream of the first leaf
            ports.update({port.name: port for port in site.ports})

    def edit(name: str) -> Any:
        def hook(tensor: Tensor, hook: Any) -> Tensor:
            after = tensor.view_as(tensor)
            seen[name] = after
            edits.setdefault(name, []).append((tensor, after))
            return after

        return hook

    def leaf(tensor: Tensor, hook: Any) -> Tensor:
        return tensor.detach().requires_grad_(True)

    hooks = [(sites.embedding.point, leaf), *((port.point, edit(name)) for name, port in ports.items())]
    with (
        torch.enable_grad(),
        quiet({*model.modules(), *model.hook_dict.values()}),
        graph_released(model),
        parameters_frozen(model),
        attached(model, hooks),
    ):
        logits = forward(model, probe_tokens(model), None).to(torch.float32)
        require_finite(logits.detach())
        weights = torch.cos(torch.arange(logits.numel(), device=logits.device, dtype=torch.float32) * 0.7)
        flat = [tensor for pairs in edits.values() for pair in pairs for tensor in pair]
        usable = [tensor for tensor in flat if tensor.requires_grad]
        found = torch.autograd.grad((logits.flatten() * weights).sum(), usable, allow_unused=True)
    gradient: dict[int, Tensor | None] = {
        id(tensor): grad for tensor, grad in zip(usable, found, strict=True)
    }

    reasons: dict[str, str] = {}
    read = {site.input.name for site in sites.sites if isinstance(site, NormSite) and site.input}
    for name in ports:
        reason = _reason(edits.get(name, []), gradient, edited=name not in read)
        if reason is not None:
            reasons[name] = reason
    _forgive_idle_experts(sites, reasons)
    for site in sites.sites:
        if isinstance(site, NormSite):
            _check_norm(site, seen)
        elif isinstance(site, ActivationSite):
            _check_activation(site, seen, None if site.expert else _late_bias(sites, site))
    return reasons


def _reason(
    pairs: list[tuple[Tensor, Tensor]], gradient: dict[int, Tensor | None], edited: bool
) -> str | None:
    if not pairs:
        return "it never fires"
    for before, after in pairs:
        if not before.numel() or not edited:  # an expert without tokens; a stream that is only read
            continue
        upstream, downstream = gradient.get(id(before)), gradient.get(id(after))
        if downstream is None:
            return "the host drops the edit"
        if upstream is not None and not torch.equal(upstream, downstream):
            return "part of the computation goes around it"
    return None


def _forgive_idle_experts(sites: Sites, reasons: dict[str, str]) -> None:
    """An expert that no probe token selected is judged by those that were."""
    experts = [site for site in sites.of(ActivationSite) if site.expert]
    for site in experts:
        peers = [other for other in experts if other.layer == site.layer]
        idle = all(reasons.get(port.name) == "it never fires" for port in site.ports)
        if idle and any(other.post.name not in reasons for other in peers):
            for port in site.ports:
                reasons.pop(port.name, None)


def _late_bias(sites: Sites, site: ActivationSite) -> Tensor | None:
    """The bias that HookedTransformer's gated MLP adds after the product."""
    for bias in sites.of(BiasSite):
        if bias.layer == site.layer and bias.record == site.post.name:
            return bias.bias()
    return None
