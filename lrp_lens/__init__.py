"""lrp_lens: relevance at every TransformerLens hook point.

    logits, rel = run_with_relevance(model, prompt, LogitDiff(" Mary", " John"))
    rel["resid_pre", 5], rel.tokens(), rel.heads(), rel.ledger()

This module hands on the public names, nothing else.  They are listed once, in `__init__.pyi`, and each is imported when
it is first asked for: the command and the plots need no model library, and most sessions nothing of the demo model.
"""

import ast as _ast
from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    alias.name: line.module
    for line in _ast.parse(_Path(__file__).with_name("__init__.pyi").read_text(encoding="utf-8")).body
    if isinstance(line, _ast.ImportFrom)
    for alias in line.names
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = (
        _import_module(f"{module}.{name}") if module == __name__ else getattr(_import_module(module), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = list(_MODULE_OF)
