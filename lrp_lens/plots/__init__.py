"""Plots of views: plotly figures, an HTML token heat map without any JavaScript, and terminal text.

Everything here reads a View (or a ledger's table) and nothing else: no model, no torch. Importing this module
changes no global plotly setting.
"""

from lrp_lens.plots.bars import plot_components
from lrp_lens.plots.decomposition import plot_decomposition
from lrp_lens.plots.faithfulness import plot_faithfulness, plot_faithfulness_measure
from lrp_lens.plots.ledger import plot_ledger
from lrp_lens.plots.maps import plot_heads, plot_layers
from lrp_lens.plots.masking import plot_masking
from lrp_lens.plots.palette import Palette, legend_words, visible_token
from lrp_lens.plots.tokens_html import token_heatmap_html
from lrp_lens.plots.tokens_text import token_heatmap_text

__all__ = [
    "Palette",
    "legend_words",
    "plot_components",
    "plot_decomposition",
    "plot_faithfulness",
    "plot_faithfulness_measure",
    "plot_heads",
    "plot_layers",
    "plot_ledger",
    "plot_masking",
    "token_heatmap_html",
    "token_heatmap_text",
    "visible_token",
]
