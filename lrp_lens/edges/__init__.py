"""Edges between states of the residual stream: closed form, and by definition."""

from lrp_lens.edges.state_graph import attribution_graph

__all__ = ["attribution_graph"]
