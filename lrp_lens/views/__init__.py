"""Views: labelled arrays of relevance. numpy and pandas only, never torch, never a model."""

from lrp_lens.views.view import View

__all__ = ["View"]
