"""The import order of the house, checked on the source: nothing imports rightwards along ORDER.

A room is a module or package directly under lrp_lens. To add one, put it in ORDER; to give one a
right or take one away, edit the tables. Imports inside functions and under TYPE_CHECKING count too.
docs/design.md shows the same tables to readers, and is compared with them.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lrp_lens.rules import PRESETS, Rule
from lrp_lens.rules.operations import OPERATIONS

# The straight line. A room may import those to its left, and itself.
ORDER = (
    "errors", "checks", "progress", "characters", "markup", "files", "ops", "hosts", "views", "rules", "metrics", "run",
    "attribution_graphs", "decomposition", "circuits", "methods", "patching", "cases", "masking", "failures",
    "plots", "report", "demo", "cli",
)  # fmt: skip

# Parts of a room that have rules of their own.
PARTS = ("attribution_graphs/arrays",)

# Rooms and parts that may import less than all to their left.
ONLY = {
    "checks": {"errors"},
    "progress": {"errors"},
    "characters": set(),  # text to text
    "markup": {"characters"},  # text to HTML
    "files": {"errors"},  # paths, arrays, words
    "ops": {"errors"},  # tensor to tensor
    "views": {"errors", "characters", "markup", "files"},  # labelled arrays
    "attribution_graphs/arrays": {"errors", "characters", "markup", "files", "views"},  # never a model
    "cases": {"errors"},
    "plots": {"errors", "characters", "markup", "files", "views", "attribution_graphs"},  # never a model
}

# Results that draw or write themselves: `.plot()` and the like may import this room to the right, when called.
SHOWN_BY = dict.fromkeys(
    ("views", "run", "attribution_graphs", "decomposition", "circuits", "methods", "patching", "masking"),
    "plots",
) | {"failures": "report"}

# Libraries that only these rooms may import.
LIBRARIES = {
    "transformer_lens": {"hosts"},
    "transformers": {"hosts", "demo"},
    "plotly": {"plots", "report"},
    "tqdm": {"progress"},
    "typer": {"cli"},
    "jinja2": {"markup"},
    "regex": {"views", "failures"},
}

# Libraries that these rooms may not import.
BANNED = {
    "errors": {"torch", "numpy", "pandas"},
    "checks": {"torch", "numpy", "pandas"},
    "progress": {"torch", "numpy", "pandas"},
    "characters": {"torch", "numpy", "pandas"},
    "markup": {"torch", "numpy", "pandas"},
    "attribution_graphs/arrays": {"torch", "plotly"},
    "plots": {"torch"},
}

# Hook names are spelled in hosts alone. Docstrings may name them.
HOOK_NAME = re.compile(r"hook_|\bblocks\.")
SPELLS_HOOKS = {"hosts"}
# (file, literal) pairs that look like hook names and are none.
HOOK_NAME_EXCEPTIONS: set[tuple[str, str]] = set()

# What a rule does is asked of the rule: outside rules/ no class or preset is told from another.
KNOWS_RULES = {"rules"}
RULE_QUERIES = {"isinstance", "issubclass", "type", "getattr", "hasattr", "vars"}

# There is one run without gates (`run.plain`) and one place that knows what a vocabulary is (`hosts.forward`).
ONLY_HERE = {"forward": {"hosts", "run"}, "d_vocab": {"hosts"}, "d_vocab_out": {"hosts"}}

PACKAGE = Path(__file__).parent.parent / "lrp_lens"
FACADE, ENTRY = "__init__", "__main__"
OF_THE_FACADE = {"__version__"}  # what a room may import from lrp_lens itself


@dataclass(frozen=True)
class Import:
    """One imported module, dotted and absolute, the line that does it, and whether a function does it when called."""

    module: str
    line: int
    late: bool


def room_of(path: Path) -> str:
    """The room of a file given relative to the package."""
    return path.parts[0].removesuffix(".py")


def imports_of(tree: ast.AST, path: Path) -> Iterator[Import]:
    """Every import in a module, relative ones resolved, `from a import b` as a.b."""
    package = ("lrp_lens", *path.parts[:-1])
    late = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) in late)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield Import(f"{stem}.{alias.name}", node.lineno, id(node) in late)


def import_faults(source: str, path: Path) -> list[str]:
    """What a module imports against the tables."""
    room, faults = room_of(path), []
    area = next((part for part in PARTS if path.as_posix().startswith(f"{part}/")), room)
    left = ORDER if room in (FACADE, ENTRY) else ORDER[: ORDER.index(room) + 1]
    allowed = ONLY.get(area, set(left)) | {room}
    for found in imports_of(ast.parse(source), path):
        top, _, rest = found.module.partition(".")
        other = rest.partition(".")[0]
        if top != "lrp_lens":
            if top in BANNED.get(area, ()) or (top in LIBRARIES and room not in LIBRARIES[top]):
                faults.append(f"{path}:{found.line}: {room} may not import {top}")
        elif other not in ORDER and other not in OF_THE_FACADE:
            faults.append(f"{path}:{found.line}: import from a room of lrp_lens, not {found.module!r}")
        elif found.late and SHOWN_BY.get(room) == other:
            continue
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


def gives_rule(node: ast.AST) -> bool:
    """Whether an expression is a rule of a rule set: `rule_for(...)`, `rules_at(...)[...]` or a field of `rules`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Call) and getattr(node.value.func, "attr", "") == "rules_at"
    if isinstance(node, ast.Attribute):
        return node.attr in OPERATIONS and ast.unparse(node.value).endswith("rules")
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "rule_for"


def names_of_rules(node: ast.AST) -> set[str]:
    """The variables that a statement makes rules of a rule set."""
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.For | ast.comprehension):
        return set()
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    value = node.iter if isinstance(node, ast.For | ast.comprehension) else node.value
    targets = target.elts if isinstance(target, ast.Tuple) else [target]
    if isinstance(value, ast.GeneratorExp | ast.ListComp):
        values = [value.elt] * len(targets)
    else:
        values = value.elts if isinstance(value, ast.Tuple) else [value] * len(targets)
    found = {ast.unparse(name) for name, one in zip(targets, values, strict=False) if one and gives_rule(one)}
    return found | ({ast.unparse(targets[-1])} if "rules_at(" in ast.unparse(value or target) else set())


def rule_faults(source: str, path: Path) -> list[str]:
    """Where a module outside rules/ and the façade tells rules apart by class, attribute or name."""
    if room_of(path) in KNOWS_RULES | {FACADE}:
        return []
    tree, faults = ast.parse(source), []
    kinds, presets, answers = rule_classes(), set(PRESETS), rule_answers()
    held = {name for node in ast.walk(tree) for name in names_of_rules(node)}
    printed = [
        part for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) for part in ast.walk(node)
    ]
    spared = docstrings(tree) | {id(node) for node in printed}  # a message may name a rule

    def rule(node: ast.AST) -> bool:
        return (isinstance(node, ast.Name) and node.id in held) or gives_rule(node)

    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = {one.module.rpartition(".")[2] for one in imports_of(node, path)} & kinds
            faults += [f"{path}:{node.lineno}: asks no rule by its class {name}" for name in sorted(found)]
        elif isinstance(node, ast.Attribute) and node.attr in kinds and ast.unparse(node.value) != "nn":
            faults.append(f"{path}:{node.lineno}: asks no rule by its class {node.attr}")
        elif isinstance(node, ast.Attribute) and rule(node.value) and node.attr not in answers:
            faults.append(f"{path}:{node.lineno}: no question of a rule is {node.attr}")
        elif isinstance(node, ast.Attribute) and re.search(
            r"\brules\.(name\.\w+|overrides)$", ast.unparse(node)
        ):
            faults.append(f"{path}:{node.lineno}: tells no rule set from another, found {ast.unparse(node)}")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in RULE_QUERIES and node.args:
            if rule(node.args[0]) and id(node) not in spared:
                faults.append(f"{path}:{node.lineno}: asks a rule, not {ast.unparse(node)}")
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = [ast.unparse(side) for side in sides]
            named = [
                one for one in texts if one.strip("'\"") in presets | kinds or one.endswith("rules.name")
            ]
            if named or any(map(rule, sides)) or any("rule_for(" in one for one in texts):
                faults.append(f"{path}:{node.lineno}: tells no rule from another, found {ast.unparse(node)}")
        elif isinstance(node, ast.Match) and rule(node.subject):
            faults.append(
                f"{path}:{node.lineno}: tells no rule from another, found {ast.unparse(node.subject)}"
            )
        elif isinstance(node, ast.Constant) and id(node) not in spared and node.value in presets | kinds:
            faults.append(f"{path}:{node.lineno}: names no rule, found {node.value!r}")
    return faults


def rule_answers() -> set[str]:
    """What a rule of any class can be asked: its methods and properties, not its fields."""
    found, waiting = set(), [Rule]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found |= {name for name, one in vars(kind).items() if callable(one) or isinstance(one, property)}
    return {name for name in found if not name.startswith("_")}


def rule_classes() -> set[str]:
    """The names of every class of rules."""
    found, waiting = set(), [Rule]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.startswith("lrp_lens."):
            found.add(kind.__name__)
            waiting += kind.__subclasses__()
    return found


def use_faults(source: str, path: Path) -> list[str]:
    """Functions and attributes that only some rooms may use, used elsewhere."""
    room, faults = room_of(path), []
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) and node.attr != "forward" else ""  # Norm.forward
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", "")
        if room not in ONLY_HERE.get(name, {room}):
            faults.append(
                f"{path}:{node.lineno}: {name} is used in {', '.join(sorted(ONLY_HERE[name]))} only"
            )
    return faults


FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def test_the_list_of_public_names_imports_no_command() -> None:
    assert not import_faults((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"), Path("__init__.py"))


def test_every_room_is_in_the_order() -> None:
    assert {room_of(path) for path in FILES} - {FACADE, ENTRY} <= set(ORDER)


def test_the_tables_name_only_rooms() -> None:
    named = {one.partition("/")[0] for one in (*ONLY, *BANNED, *PARTS)}
    named |= {*SPELLS_HOOKS, *SHOWN_BY, *SHOWN_BY.values()}
    named = named.union(*ONLY.values(), *LIBRARIES.values())
    assert named <= set(ORDER)
    for room, allowed in ONLY.items():
        assert allowed <= set(ORDER[: ORDER.index(room.partition("/")[0])]), room


def names_of(cell: str) -> set[str]:
    """The names in a cell of the page's table."""
    return set(re.findall(r"\w+", cell))


def test_the_map_says_what_is_tested() -> None:
    lines = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(ORDER)
    own = {room: {name for name, rooms in LIBRARIES.items() if room in rooms} for room in ORDER}
    for room, (_, holds, only, libraries, never) in zip(ORDER, rows, strict=True):
        assert holds, room
        said = (names_of(only), names_of(libraries), names_of(never))
        assert said == (ONLY.get(room, set()), own[room], BANNED.get(room, set())), room
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    assert "(docs/design.md)" in readme


@pytest.mark.parametrize("check", [import_faults, hook_name_faults, use_faults])
def test_every_file_keeps_to_it(check: Callable[[str, Path], list[str]]) -> None:
    faults = [fault for path in FILES for fault in check((PACKAGE / path).read_text(encoding="utf-8"), path)]
    assert not faults, "\n".join(faults)


def test_rules_are_asked_never_told_apart() -> None:
    texts = ((path, (PACKAGE / path).read_text(encoding="utf-8")) for path in FILES)
    assert not [fault for path, text in texts for fault in rule_faults(text, path)]


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("from lrp_lens.rules import Plain", 1),
        ("from lrp_lens.rules.norms import FrozenNorm, normalized", 1),
        ("import lrp_lens.rules as r\nx = isinstance(y, r.Epsilon)", 1),
        ('x = isinstance(rules.rule_for("norm", 0), kind)', 1),
        ('x = getattr(rules.rule_for("attention", 0), "temperature", 1)', 1),
        ("x = type(rules.rule_for('norm', 0)).__name__ == 'Halved'", 2),
        ("if rules == GRADIENT: pass", 1),
        ('known = {"RELP": "relevance patching"}', 1),
        (
            '"""RELP"""\nfrom lrp_lens.rules import RELP, RuleSet, as_rule_set\nx = as_rule_set(RELP).sinks(site)',
            0,
        ),
        ("x = rules.rule_for('norm', 0).kept(site, x)", 0),
        ("rule = rules.rule_for('attention', 0)\nx = rule.query", 1),
        ("rule, norm = rules.rule_for('norm', 0), None\nx = hasattr(rule, 'gain') or norm.gain", 1),
        ("one, two = (self.rules.rule_for(kind, 0) for kind in 'ab')\nx = type(two).__name__", 1),
        ("for kind, rule in rules.rules_at(site).items():\n    x = isinstance(rule, wanted)", 1),
        ("match rules.rule_for('norm', 0):\n    case one: pass", 1),
        ("x = [rules.attention.query, rules.norm is plain, rules.softmax == other]", 3),
        ("x = rules.name.startswith('CP') or rules.name in names or rules.overrides", 3),
        (
            "rule = rules.rule_for('norm', 0)\nx = rule.transpose(n, g, x) or f'{type(rule)}'",
            0,
        ),
        ("x = f'{rules.name}' + title(rules.name)", 0),
    ],
)
def test_the_rule_check_itself(source: str, faults: int) -> None:
    assert len(rule_faults(source, Path("edges/rows.py"))) == faults
    assert not rule_faults(source, Path("rules/norms.py"))


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("ops/gates.py", "from lrp_lens.hosts.sites import Sites", "ops may not import hosts"),
        ("hosts/sites.py", "def late():\n    import lrp_lens.rules", "hosts may not import rules"),
        ("hosts/sites.py", "from ..rules import RuleSet", "hosts may not import rules"),
        ("hosts/sites.py", "from .. import rules", "hosts may not import rules"),
        ("hosts/sites.py", "from lrp_lens import run_with_relevance", "import from a room"),
        ("rules/presets.py", "import transformer_lens as tl", "rules may not import transformer_lens"),
        ("plots/tokens.py", "import torch", "plots may not import torch"),
        (
            "plots/tokens.py",
            "from lrp_lens.run.relevance import RelevanceCache",
            "plots may not import run",
        ),
        ("__init__.py", "from lrp_lens.cli import app", "__init__ may not import cli"),
        ("views/view.py", "from lrp_lens.plots import plot_view", "views may not import plots"),
        (
            "views/view.py",
            "def plot():\n    from lrp_lens.report import write_report",
            "views may not import report",
        ),
        ("views/view.py", "def plot():\n    from lrp_lens.plots import plot_view", None),
        ("hosts/sites.py", "from .names import Names\nfrom ..errors import SiteError\nimport torch", None),
        ("report/page.py", "from lrp_lens.plots import tokens\nfrom lrp_lens import views", None),
        ("attribution_graphs/arrays/nodes.py", "import torch", "attribution_graphs may not import torch"),
        ("attribution_graphs/arrays/nodes.py", "from lrp_lens.run.pairs import Pair", "may not import run"),
        ("attribution_graphs/closed_form/rows.py", "import torch\nfrom lrp_lens.run.pairs import Pair", None),
        ("__init__.py", "from .run.relevance import run_with_relevance", None),
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


def test_the_check_of_uses_itself() -> None:
    source = "logits = forward(model, ids, None)\nn = model.cfg.d_vocab\nm = forward"
    assert len(use_faults(source, Path("circuits/ablation.py"))) == 2
    assert not use_faults(source, Path("hosts/forward.py"))
