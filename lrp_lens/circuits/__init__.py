"""Component graph and circuits: which head feeds which, and whether a few edges do the work of the model."""

from lrp_lens.circuits.circuit import Circuit
from lrp_lens.circuits.components import ComponentGraph, ComponentNode, component_graph
from lrp_lens.circuits.curve import CircuitCurve
from lrp_lens.circuits.edge_scores import component_edges
from lrp_lens.circuits.evaluate import CircuitValues, run_circuits
from lrp_lens.circuits.growing import circuit_curve
from lrp_lens.circuits.interchange import importances, load_importances, save_importances
from lrp_lens.circuits.result import ComponentEdges
from lrp_lens.circuits.stability import stability

__all__ = [
    "Circuit",
    "CircuitCurve",
    "CircuitValues",
    "ComponentNode",
    "ComponentEdges",
    "ComponentGraph",
    "component_edges",
    "component_graph",
    "run_circuits",
    "circuit_curve",
    "stability",
    "importances",
    "load_importances",
    "save_importances",
]
