"""The list: claim → benchmark, and which sentences speak of speed without being one."""

import re
from dataclasses import dataclass
from typing import Literal

from benchmarks._worker import ROOT

Needs = Literal["", "models", "peers", "TransformerLens 4"]


@dataclass(frozen=True)
class Source:
    """A benchmark, and how to run it at a small size."""

    command: str
    """What was run for the claim, after `python -m benchmarks`."""
    quick: str
    """The same at a size of seconds."""
    shows: str
    """Regular expression of the lines to show."""
    needs: Needs = ""


SOURCES = {
    "overhead": Source(
        "overhead", "overhead --tokens 32 --layers 2 --repeats 3 --threads 1", r"^\| (?:Hooked|Transformer).*"
    ),
    "edges": Source(
        "edges", "edges --tokens 64 --passes 1 --repeats 1 --threads 1", r"^\| \d.*|^Whole graph.*"
    ),
    "patching": Source(
        "patching",
        "patching --tokens 8 --layers 2 --cells 20 --repeats 2 --threads 1",
        r"^\| (?:Hooked|Transformer).*",
    ),
    "activation_patching": Source(
        "activation_patching --pairs 5 --model smollm2",
        "activation_patching --tokens 8 --cells 4 --repeats 1 --sites mlp_out",
        r"^\| mlp_out.*",
    ),
    "circuits": Source(
        "circuits",
        "circuits --tokens 6 --layers 2 --edges 50 --their-tokens 2 --repeats 1 --threads 1",
        r"^\|.*",
        "TransformerLens 4",
    ),
    "component_edges": Source(
        "component_edges --model smollm2",
        "component_edges --layers 4 --prompts 2 --repeats 2",
        r".*relevance passes$",
    ),
    "speed": Source(
        "speed --old COMMIT", "speed tokens_15 --old HEAD --repeats 1", r"^\| tokens_15.*", "models"
    ),
    "scaling": Source("scaling", "scaling --quick", r"^\| (?:64|128|256) \|.*"),
    "peers": Source("peers", "peers --quick", r"^\| .*\| (?:≤ |\d).*", "peers"),
}


@dataclass(frozen=True)
class Claim:
    """Words of a page, and where their numbers come from."""

    page: str
    quote: str
    source: str
    """A key of `SOURCES`."""


CLAIMS = (
    Claim("docs/benchmarks.md", "| `HookedTransformer` 3.9 | 0.98× | 0.76× |", "overhead"),
    Claim("docs/benchmarks.md", "| `TransformerBridge` 3.9 | 1.05× | 0.78× |", "overhead"),
    Claim("docs/benchmarks.md", "| `TransformerBridge` 4.3 | 1.06×", "overhead"),
    Claim("docs/benchmarks.md", "Freezing the norms saves what the gates cost", "overhead"),
    Claim("docs/relevance.md", "which saves a quarter of the time", "overhead"),
    Claim("docs/attribution_graphs.md", "| 512 tokens | 0.057 s | 117 s | 2,057× |", "edges"),
    Claim("docs/attribution_graphs.md", "| 1,024 tokens | 0.100 s | 597 s | 5,947× |", "edges"),
    Claim("docs/attribution_graphs.md", "A whole graph of 12 layers at 512 tokens took 2.92 s", "edges"),
    Claim("docs/patching.md", "took 1/1271 of the time of activation patching", "patching"),
    Claim("docs/patching.md", "took a ninth of the processor time of whole runs", "activation_patching"),
    Claim("docs/circuits.md", "component edges take 0.06 to 0.18 s after the backward pass", "circuits"),
    Claim("docs/circuits.md", "was evaluated 67 times as fast as its `faithfulness`", "circuits"),
    Claim("docs/circuits.md", "all edges of one run take 1.2 relevance passes", "component_edges"),
    Claim("docs/benchmarks.md", "| activation patching of mlp_out, 2 pairs", "speed"),
    Claim("docs/benchmarks.md", "| the same, 4 pairs of capitals", "speed"),
    Claim("docs/benchmarks.md", "| AtP* with GradDrop and the QK fix", "speed"),
    Claim("docs/benchmarks.md", "| `faithfulness`, 3 short cases", "speed"),
    Claim("docs/benchmarks.md", "| component edges, clean against corrupted", "speed"),
    Claim("docs/benchmarks.md", "| a relevance pass of tokens only, 15 / 64 tokens", "speed"),
    Claim("README.md", "At 8,192 tokens every view of SmolLM2-135M took", "scaling"),
    Claim(
        "docs/scaling.md", "all views and the ledger at 1,024 tokens took 124 processor seconds", "scaling"
    ),
    Claim("README.md", "times the memory of lxt 2.1 with gradient checkpointing", "peers"),
    Claim("docs/benchmarks.md", "took 1.05 times (HookedTransformer, 64 tokens)", "speed"),
)

NO_CLAIMS = {
    "docs/failures_in_the_wild.md": (  # costs of a search and of a triage, which nothing is faster than
        "| slowest search |",
        "A search that finds nothing spends its budget",
        "| within 60 s |",
        "| 100 | 10 |",
        "| demo | 44 |",
        "The goals were 15 minutes for a hundred",
        "was run again and took 41",
    ),
    "README.md": ("44 of the demo model take",),
    "docs/demo_model.md": (
        "trains the model from scratch in about 20 minutes",
    ),  # training, which nothing here speeds up
    "docs/models.md": ("(93 MB)", "(238 MB)", "half a minute of processor time"),  # sizes of packages; once
    "docs/triage_report.md": ("a file of about 4 MB",),  # a browser's
    "docs/rules.md": ("(1 − 2 s c sign",),  # a formula
    "docs/verification.md": ("some two relevance passes",),  # a count of passes
}
"""Sentences that speak of seconds or bytes, and are no claim of a benchmark."""

TABLES = {"docs/scaling.md": ("scaling", "peers")}
"""Pages whose tables and sentences are those of committed results, and the benchmarks."""

_SPEED = re.compile(
    r"\d ?×(?! ?[\w])|[\d.]+ (?:s|seconds|minutes|[GM]B)\b|\btimes (?:as fast|the (?:processor )?time|\()|"
    r"\bof the (?:processor )?time\b|\b(?:faster|slower|cheaper)\b|\b(?:[\d.]+|two|three) relevance passes|"
    r"\bhalf a minute\b|\bsaves\b|\d{2,} \| \d+\.\d \| \d|relevance pass of tokens|faithfulness`, 3|"
    r"edges, clean against"
)
_SENTENCE = re.compile(r"(?<=[.!?:]) (?=[A-Z`*])")


def committed(name: str) -> str:
    """The tables of a benchmark's committed results."""
    return (ROOT / "benchmarks" / "results" / name / "tables.md").read_text(encoding="utf-8")


def sentences_of_speed(text: str) -> list[str]:
    """The sentences and table rows of a page that speak of time or memory."""
    found = [part for line in text.splitlines() for part in _SENTENCE.split(line)]
    return [part for part in found if _SPEED.search(part)]


def covered(page: str, sentence: str) -> bool:
    """Whether a claim, an exemption or a table of committed results has its words."""
    if any(sentence in committed(name).splitlines() for name in TABLES.get(page, ())):
        return True
    known = [claim.quote for claim in CLAIMS if claim.page == page] + list(NO_CLAIMS.get(page, ()))
    return any(quote in sentence for quote in known)
