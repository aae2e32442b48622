"""Where a patch has no activation, and where no gradient is to be had: why, by hook name."""

from collections.abc import Mapping

from lrp_lens.errors import SiteError
from lrp_lens.hosts.sites import Sites
from lrp_lens.methods.facets import PARTS, record_name
from lrp_lens.rules import RuleSet


def require_part(sites: Sites, part: str) -> None:
    """Raise SiteError if no layer of the model has the part."""
    if any(record_name(part, layer) in sites.record_of for layer in range(sites.n_layers)):
        return
    reason = {
        "resid_mid": "attention and MLP read the same stream, or there is no MLP",
        "mlp_out": "it has no MLP",
    }.get(part, "the host has no hook point there")
    raise SiteError(
        f"A patch needs its activation; {sites.architecture} in {sites.host} has no {part}: {reason}. "
        "Leave this site out."
    )


def missing_parts(sites: Sites, dropped: Mapping[str, str], rules: RuleSet) -> dict[str, str]:
    """Hook name → why no gradient is to be had there: absent, dropped by the host, or cut off by a rule."""
    cut = rules.cut(sites)
    missing = {}
    for part in PARTS:
        for layer in range(sites.n_layers):
            name = record_name(part, layer)
            record = sites.record_of.get(name)
            if record is None or record.port is None:
                missing[name] = f"layer {layer} of {sites.architecture} in {sites.host} has no {part}"
            elif record.port.name in dropped:
                missing[name] = f"{part} in layer {layer}: {dropped[record.port.name]} ({sites.host})"
            elif name in cut:
                rule = rules.rule_for("attention", layer)
                missing[name] = f"{part} in layer {layer} is cut off by {rules.name}: {rule}"
    return missing
