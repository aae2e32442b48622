"""Docstrings here have `Example:`; griffe knows the section as `Examples:`, and would take the other for prose."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Names the section as griffe does, before it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
