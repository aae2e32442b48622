"""One gated run, one ungated run, aligned pairs, and what is kept of them: relevance, caches, balance and ledger."""

__all__: list[str] = []
