"""Plots of views and graphs: plotly figures, an HTML token heat map without any JavaScript, and terminal text.

Everything here reads a View, a graph or a table and nothing else: no model, no torch. Importing this module
changes no global plotly setting.

A figure is written with plotly's own methods: `figure.write_html("f.html")` needs nothing more;
`figure.write_image("f.png", scale=2)`, or `.svg` or `.pdf`, needs `pip install "kaleido>=1"` (the extra `png`) and a
Chrome or Chromium on the machine (`apt-get install chromium`, or name it in the variable BROWSER_PATH); nothing is
downloaded.  Without kaleido plotly's error says what to install.  The token heat map is HTML: write it to a file, and
print it from a browser.
"""

from lrp_lens.plots.bars import plot_components, plot_segments
from lrp_lens.plots.choose import plot_view
from lrp_lens.plots.circuits import plot_circuit_curve, plot_component_edges
from lrp_lens.plots.comparison import plot_comparison
from lrp_lens.plots.cumulative import plot_cumulative
from lrp_lens.plots.decomposition import plot_decomposition
from lrp_lens.plots.facets import plot_facets
from lrp_lens.plots.faithfulness import plot_faithfulness, plot_faithfulness_measure
from lrp_lens.plots.graph import plot_graph
from lrp_lens.plots.graph_page import graph_html
from lrp_lens.plots.graph_profiles import plot_composition
from lrp_lens.plots.ledger import plot_ledger
from lrp_lens.plots.maps import plot_heads, plot_layers, plot_sources
from lrp_lens.plots.masking import plot_masking
from lrp_lens.plots.palette import Palette, legend_words, visible_token
from lrp_lens.plots.profile_steps import plot_profile_steps
from lrp_lens.plots.run_pairs import plot_gap_pairs, plot_scores
from lrp_lens.plots.runs import plot_run_means, plot_run_profiles, plot_transitions
from lrp_lens.plots.tokens_html import token_heatmap_html
from lrp_lens.plots.tokens_text import token_heatmap_text

__all__ = [
    "Palette",
    "graph_html",
    "legend_words",
    "plot_circuit_curve",
    "plot_comparison",
    "plot_component_edges",
    "plot_components",
    "plot_composition",
    "plot_cumulative",
    "plot_decomposition",
    "plot_facets",
    "plot_faithfulness",
    "plot_faithfulness_measure",
    "plot_gap_pairs",
    "plot_graph",
    "plot_heads",
    "plot_layers",
    "plot_ledger",
    "plot_masking",
    "plot_profile_steps",
    "plot_run_means",
    "plot_run_profiles",
    "plot_scores",
    "plot_segments",
    "plot_sources",
    "plot_transitions",
    "plot_view",
    "token_heatmap_html",
    "token_heatmap_text",
    "visible_token",
]
