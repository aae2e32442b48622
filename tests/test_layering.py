"""The import direction of DESIGN.md, checked on the source: nothing imports rightwards along ORDER.

A room is a module or package directly under lrp_lens. To add one, put it in ORDER; to give one a
right or take one away, edit the tables. Imports inside functions and under TYPE_CHECKING count too.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# The straight line. A room may import those to its left, and itself.
ORDER = (
    "errors", "characters", "files", "gates", "ratios", "hosts", "rules", "site_coverage", "metrics",
    "views", "graph", "plots", "ledger", "reductions", "cache_storage", "cache", "recording", "relevance",
    "decomposition", "edges", "circuits", "patching", "perturbation", "failures",
    "demo", "report", "cli",
)  # fmt: skip

# Rooms that may import less than all to their left.
ONLY = {
    "characters": set(),  # text to text
    "files": {"errors"},  # paths, arrays, words
    "gates": {"errors"},  # tensor to tensor
    "views": {"errors", "characters", "files"},  # labelled arrays
    "graph": {"errors", "characters", "files", "views"},  # arrays, never a model
    "plots": {"errors", "characters", "files", "views", "graph"},  # never a model
}

# Libraries that only these rooms may import.
LIBRARIES = {
    "transformer_lens": {"hosts", "demo"},
    "transformers": {"hosts", "demo"},
    "plotly": {"plots", "report"},
    "typer": {"cli", "demo"},
}

# Libraries that these rooms may not import.
BANNED = {
    "errors": {"torch", "numpy", "pandas"},
    "characters": {"torch", "numpy", "pandas"},
    "graph": {"torch", "plotly"},
    "plots": {"torch"},
}

# Hook names are spelled in hosts alone. Docstrings may name them.
HOOK_NAME = re.compile(r"hook_|\bblocks\.")
SPELLS_HOOKS = {"hosts"}
# (file, literal) pairs that look like hook names and are none.
HOOK_NAME_EXCEPTIONS: set[tuple[str, str]] = set()

PACKAGE = Path(__file__).parent.parent / "lrp_lens"
FACADE, ENTRY = "__init__", "__main__"
OF_THE_FACADE = {"__version__"}  # what a room may import from lrp_lens itself


@dataclass(frozen=True)
class Import:
    """One imported module, dotted and absolute, and the line that does it."""

    module: str
    line: int


def room_of(path: Path) -> str:
    """The room of a file given relative to the package."""
    return path.parts[0].removesuffix(".py")


def imports_of(tree: ast.AST, path: Path) -> Iterator[Import]:
    """Every import in a module, relative ones resolved, `from a import b` as a.b."""
    package = ("lrp_lens", *path.parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield Import(f"{stem}.{alias.name}", node.lineno)


def import_faults(source: str, path: Path) -> list[str]:
    """What a module imports against the tables."""
    room, faults = room_of(path), []
    left = ORDER if room in (FACADE, ENTRY) else ORDER[: ORDER.index(room) + 1]
    allowed = ONLY.get(room, set(left)) | {room}
    for found in imports_of(ast.parse(source), path):
        top, _, rest = found.module.partition(".")
        other = rest.partition(".")[0]
        if top != "lrp_lens":
            if top in BANNED.get(room, ()) or (top in LIBRARIES and room not in LIBRARIES[top]):
                faults.append(f"{path}:{found.line}: {room} may not import {top}")
        elif other not in ORDER and other not in OF_THE_FACADE:
            faults.append(f"{path}:{found.line}: import from a room of lrp_lens, not {found.module!r}")
        elif other not in allowed | OF_THE_FACADE or (room == FACADE and other == "cli"):
            faults.append(f"{path}:{found.line}: {room} may not import {other}")
    return faults


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the constants that stand alone as statements: docstrings, of attributes too."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def hook_name_faults(source: str, path: Path) -> list[str]:
    """The string literals outside hosts that spell a hook name."""
    if room_of(path) in SPELLS_HOOKS:
        return []
    tree = ast.parse(source)
    spared = docstrings(tree)
    return [
        f"{path}:{node.lineno}: only {', '.join(SPELLS_HOOKS)} may spell a hook name, found {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in spared
        and HOOK_NAME.search(node.value)
        and (path.as_posix(), node.value) not in HOOK_NAME_EXCEPTIONS
    ]


FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def test_every_room_is_in_the_order() -> None:
    assert {room_of(path) for path in FILES} - {FACADE, ENTRY} <= set(ORDER)


def test_the_tables_name_only_rooms() -> None:
    named = set(ONLY) | set(BANNED) | SPELLS_HOOKS | set().union(*ONLY.values(), *LIBRARIES.values())
    assert named <= set(ORDER)
    for room, allowed in ONLY.items():
        assert allowed <= set(ORDER[: ORDER.index(room)]), room


@pytest.mark.parametrize("path", FILES, ids=Path.as_posix)
def test_imports_follow_the_line(path: Path) -> None:
    assert not import_faults((PACKAGE / path).read_text(encoding="utf-8"), path)


@pytest.mark.parametrize("path", FILES, ids=Path.as_posix)
def test_only_hosts_spells_hook_names(path: Path) -> None:
    assert not hook_name_faults((PACKAGE / path).read_text(encoding="utf-8"), path)


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("gates.py", "from lrp_lens.hosts.sites import Sites", "gates may not import hosts"),
        ("hosts/sites.py", "def late():\n    import lrp_lens.rules", "hosts may not import rules"),
        ("hosts/sites.py", "from ..rules import RuleSet", "hosts may not import rules"),
        ("hosts/sites.py", "from .. import rules", "hosts may not import rules"),
        ("hosts/sites.py", "from lrp_lens import run_with_relevance", "import from a room"),
        ("rules/presets.py", "import transformer_lens as tl", "rules may not import transformer_lens"),
        ("plots/tokens.py", "import torch", "plots may not import torch"),
        (
            "plots/tokens.py",
            "from lrp_lens.relevance import RelevanceCache",
            "plots may not import relevance",
        ),
        ("__init__.py", "from lrp_lens.cli import app", "__init__ may not import cli"),
        ("hosts/sites.py", "from .names import Names\nfrom ..errors import SiteError\nimport torch", None),
        ("report/page.py", "from lrp_lens.plots import tokens\nfrom lrp_lens import views", None),
        ("__init__.py", "from .relevance import run_with_relevance", None),
        ("__main__.py", "from lrp_lens.cli import app", None),
        ("cli/app.py", "from lrp_lens import __version__", None),
    ],
)
def test_the_import_check_itself(path: str, source: str, fault: str | None) -> None:
    faults = import_faults(source, Path(path))
    assert len(faults) == (fault is not None)
    assert fault is None or fault in faults[0]


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ('"""Reads hook_z."""\nX = 1\n"""At blocks.0.hook_z."""', 0),
        ('name = "hook_z"', 1),
        ('name = f"blocks.{layer}.attn"', 1),
        ('hooks = model.hooks(fwd_hooks=[]); text = "many hooks"', 0),
    ],
)
def test_the_hook_name_check_itself(source: str, faults: int) -> None:
    assert len(hook_name_faults(source, Path("rules/attention.py"))) == faults
    assert not hook_name_faults(source, Path("hosts/names.py"))
