"""Failure analysis: cases, and what goes wrong in them.

`lrp_lens` hands its names on.  What only reads results (`runs`, `triage`, the classes of `verification`) imports no
model library.
"""
