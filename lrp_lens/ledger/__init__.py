"""The conservation ledger: where the metric's relevance went."""

from lrp_lens.ledger.balance import Balance, Calls
from lrp_lens.ledger.table import Ledger, LedgerRow

__all__ = ["Balance", "Calls", "Ledger", "LedgerRow"]
