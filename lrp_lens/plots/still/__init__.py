"""A plotly figure as a still picture (SVG), for pages that run no script: a forge, a notebook turned into a document.

plotly draws in the browser; without its script a figure is nothing.  These few files draw what our figures consist of
(heat maps, bars, waterfalls, lines and markers with their axes, legends, shapes and notes), with no browser.

1. `axes`: ranges, ticks and pixels of every axis, as plotly chooses them, near enough.
2. `marks` and `heat`: traces.
3. `page`: margins, title, legend, shapes, notes, and the whole picture.

Hover texts, zoom and everything else that answers the reader stay with plotly.
"""

from lrp_lens.plots.still.page import still_svg

__all__ = ["still_svg"]
