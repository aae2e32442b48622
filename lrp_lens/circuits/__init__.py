"""Component graph and circuits: which head feeds which, and whether a few edges do the work of the model."""

from lrp_lens.circuits.circuit import Circuit
from lrp_lens.circuits.curve import CircuitCurve, faithfulness_curve
from lrp_lens.circuits.edges import component_edges
from lrp_lens.circuits.evaluate import CircuitValues, evaluate_circuits
from lrp_lens.circuits.graph import Component, ComponentGraph, component_graph
from lrp_lens.circuits.interchange import importances, load_importances, save_importances
from lrp_lens.circuits.scores import ComponentEdges

__all__ = [
    "Circuit",
    "CircuitCurve",
    "CircuitValues",
    "Component",
    "ComponentEdges",
    "ComponentGraph",
    "component_edges",
    "component_graph",
    "evaluate_circuits",
    "faithfulness_curve",
    "importances",
    "load_importances",
    "save_importances",
]
