"""The command `lrp-lens`. Importing it loads no model library; each command imports what it needs."""

from lrp_lens.cli.app import app

__all__ = ["app"]
