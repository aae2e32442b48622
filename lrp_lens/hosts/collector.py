"""What both hosts share when their sites are collected: hook points by name, records, linear maps and biases."""

from typing import Any

from torch import nn

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import (
    BiasSite,
    LinearSite,
    LogitSite,
    Port,
    Record,
    Site,
    Sites,
    parameter_of,
)


class SiteCollector:
    """Collects the sites and records of one model; each host's subclass walks its blocks."""

    def __init__(self, model: Any) -> None:
        self.model, self.cfg = model, model.cfg
        self.hook_dict = model.hook_dict
        self.sites: list[Site] = []
        self.records: dict[str, Record] = {}

    def port(self, name: str) -> Port:
        """The hook point of this name, under its own name where `name` is an alias."""
        point = self.hook_dict[name]
        return Port(point.name if point.name in self.hook_dict else name, point)

    def maybe(self, name: str) -> Port | None:
        """The hook point of this name, if there is one."""
        return self.port(name) if name in self.hook_dict else None

    def record(
        self,
        name: str,
        layer: int | None,
        *,
        at: str | None = None,
        optional: bool = False,
        plus: tuple[str, ...] = (),
    ) -> str:
        """Record an activation under its canonical name, observed at the host's hook point `at`."""
        port = self.maybe(at or name)
        if port is not None:
            self.records[name] = Record(name=name, layer=layer, port=port, optional=optional, plus=plus)
        return name

    def tap(self, name: str, layer: int | None, module: nn.Module) -> str:
        """Record a module's output, where the host has no hook point."""
        self.records[name] = Record(name=name, layer=layer, module=module, optional=True)
        return name

    def linear(self, label: str, layer: int | None, record: str) -> None:
        """The output of a linear map, where it is recorded."""
        if record in self.records:
            output = self.records[record].port
            self.sites.append(LinearSite(layer=layer, label=label, output=output, record=record))

    def bias(self, label: str, layer: int | None, record: str, module: nn.Module, attribute: str) -> None:
        """A bias of the recorded tensor, where the module has one."""
        parameter = parameter_of(module, attribute)
        if record in self.records and parameter() is not None:
            self.sites.append(BiasSite(layer=layer, label=label, record=record, bias=parameter))

    def finish(
        self, *, host: str, architecture: str, parallel: bool, softcap: float | None, unembed: Any
    ) -> Sites:
        """Add the unembedding and every other hook point, and hand over.

        Args:
            host: `HookedTransformer` or `TransformerBridge`.
            architecture: name for messages.
            parallel: whether attention and MLP read the same stream.
            softcap: of the final logits; None or a number that is not positive for none.
            unembed: the module that holds b_U.
        """
        logits = self.record(Names.LOGITS, None, optional=True)
        cap = float(softcap) if softcap and softcap > 0 else None
        self.sites.append(LogitSite(layer=None, label="logits", output=self.port(logits), softcap=cap))
        self.linear("unembed", None, logits)
        self.bias("b_U", None, logits, unembed, "b_U")
        for name in self.hook_dict:
            if name not in self.records:
                self.record(name, Names.layer_of(name), optional=True)
        return Sites(
            host=host,
            architecture=architecture,
            n_layers=len(self.model.blocks),
            n_heads=self.cfg.n_heads,
            parallel=parallel,
            sites=tuple(self.sites),
            records=tuple(self.records.values()),
            embedding=self.port(Names.EMBED),
            unembed_input=self.port(Names.UNEMBED_INPUT),
        )
