"""Attribution graphs: the arrays and what is read off them (`arrays`, no torch); how they are made (`closed_form`)."""

from lrp_lens.attribution_graphs.arrays import (
    AttributionGraph,
    Boundary,
    GraphDifference,
    Pass,
    PrincipalComponents,
    ProfileClusters,
    cluster_profiles,
    composition,
    graph_difference,
    graph_measures,
    peak_transition,
    principal_components,
    profiles,
    relevance_profile,
    transition_steps,
)

__all__ = [
    "AttributionGraph",
    "Boundary",
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
