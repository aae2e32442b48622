"""Our figures: plotly's, which also leave a still picture behind wherever they are shown.

A notebook keeps of a plotly figure only what plotly's script draws; on a forge, and in a notebook turned into a page,
nothing is to be seen.  `Figure` adds an SVG picture, made here without a browser, to what plotly's own renderer gives:
a reader that runs scripts gets the interactive figure as before.  Of plotly's settings the default renderer is read,
and none is changed.
"""

from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from lrp_lens.plots.still import still_svg

STILL = "image/svg+xml"


def headed(text: str, *, padding: int = 10) -> dict[str, Any]:
    """The title of a figure: words for the colours, at the top left whatever the figure's height."""
    place = {"x": 0, "xref": "paper", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": padding}}
    return {"text": text, "font": {"size": 13}} | place


class Figure(go.Figure):  # type: ignore[misc]
    """A plotly figure with a still picture.

    Example:
        >>> sorted(Figure(go.Bar(x=[1], y=[2]))._repr_mimebundle_())[-2:]
        ['image/svg+xml', 'text/plain']
    """

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What plotly's default renderer shows, the still picture, and the figure in a few words."""
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(*args, **kwargs))
        still = still_svg(self)
        if still is not None:
            bundle.setdefault(STILL, still)
        words = self.layout.title.text or ", ".join(trace.type for trace in self.data)
        bundle.setdefault("text/plain", f"Figure: {words}")
        return bundle

    def _ipython_display_(self) -> None:
        """Show it in a notebook; in a terminal, where plotly opens a browser, as plotly does."""
        if pio.renderers.render_on_display:
            self.show()
        else:
            super()._ipython_display_()

    def show(self, *args: Any, **kwargs: Any) -> None:
        """As plotly's `show`; in a notebook, with the still picture besides."""
        bundle = {} if args or kwargs else self._repr_mimebundle_()
        if {STILL, "text/plain"} >= set(
            bundle
        ):  # plotly's renderer makes no output of its own: a browser, a file
            super().show(*args, **kwargs)
            return
        from IPython.display import display

        display(bundle, raw=True)
