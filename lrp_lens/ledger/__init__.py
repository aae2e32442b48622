"""The conservation ledger: where the metric's relevance went."""

from lrp_lens.ledger.table import Ledger, LedgerRow

__all__ = ["Ledger", "LedgerRow"]
