"""HTML that a notebook shows: a string, so that it can be written to a file or pasted into a page."""


class Html(str):
    """A string of HTML, escaped by its maker; as the last line of a notebook's cell it is drawn."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"Html of {len(self):,} characters"
