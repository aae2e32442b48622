"""Edges between states of the residual stream: closed form, and by definition."""

from lrp_lens.attribution_graphs.closed_form.attribution_graph import attribution_graph

__all__ = ["attribution_graph"]
