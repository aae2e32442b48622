"""Attribution graphs as arrays: pruning, paths, measures, differences, files.  numpy and pandas only, never a model."""

from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph
from lrp_lens.attribution_graphs.arrays.clusters import (
    PrincipalComponents,
    ProfileClusters,
    cluster_profiles,
    principal_components,
)
from lrp_lens.attribution_graphs.arrays.contents import Boundary, GraphContents, Pass
from lrp_lens.attribution_graphs.arrays.difference import GraphDifference, graph_difference
from lrp_lens.attribution_graphs.arrays.measures import graph_measures
from lrp_lens.attribution_graphs.arrays.profiles import (
    composition,
    peak_transition,
    profiles,
    relevance_profile,
    transition_steps,
)

__all__ = [
    "AttributionGraph",
    "Boundary",
    "GraphContents",
    "GraphDifference",
    "Pass",
    "PrincipalComponents",
    "ProfileClusters",
    "cluster_profiles",
    "composition",
    "graph_difference",
    "graph_measures",
    "peak_transition",
    "principal_components",
    "profiles",
    "relevance_profile",
    "transition_steps",
]
