"""Logs of benchmarks as cases: one reader for each format, one `Case` out, and the fate of every row.

1. `read_cases` tells the format of each file, or is told.  It reads nothing yet.
2. Going through the `CaseLog` reads row by row; no more than one row stands in memory.
3. A row becomes a case or has another fate, with a reason, a file and a line; `coverage()` counts them.
"""

from lrp_lens.failures.logs.log import CaseLog, LogRow
from lrp_lens.failures.logs.read import read_cases

__all__ = ["CaseLog", "LogRow", "read_cases"]
