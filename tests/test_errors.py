"""Every error that the package raises on purpose is one of its own; the exceptions to this are listed here."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import lrp_lens
from lrp_lens.errors import InputError, LrpLensError, MetricError, RuleError, SiteError, UnknownNameError
from lrp_lens.hosts.loading.hooked import NotHookedTransformerError

PACKAGE = Path(lrp_lens.__file__).parent
KINDS = {InputError, MetricError, RuleError, SiteError}

# (file, what it raises) → why.
OTHERS = {
    ("__init__.py", "AttributeError"): "what Python asks of a module's __getattr__",
    ("cli/app.py", "typer.Exit"): "how typer ends a command",
    ("failures/decision/checker.py", "_OutOfTimeError"): "caught by the function that sets the limit",
    ("failures/triage/on_ray.py", "error.cause"): "what the worker raised",
    ("hosts/loading/options.py", "TypeError"): "caught three lines below, with torch's own",
    (
        "hosts/loading/hooked_config.py",
        "NotImplementedError",
    ): "caught with TransformerLens' own, for the same reason",
}


def own_errors() -> set[str]:
    """The names of the errors of the package, and of its functions that return one."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    return errors_of(map(ast.parse, texts))


def errors_of(trees: Iterable[ast.AST]) -> set[str]:
    """The same of modules as they are written: which of them are imported makes no difference."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes = {
        node.name: {ast.unparse(base) for base in node.bases}
        for node in nodes
        if isinstance(node, ast.ClassDef)
    }
    found = {LrpLensError.__name__}
    while more := {name for name, bases in classes.items() if bases & found} - found:
        found |= more
    return found | {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) in found
    }


def foreign_raises(source: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """The line and the name of every raise that is neither of the package nor a question's placeholder."""
    tree = ast.parse(source)
    placeholders = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef)
        and any(ast.unparse(one).startswith("question(") for one in outer.decorator_list)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = ast.unparse(raised)
            if name == "NotImplementedError" and id(node) in placeholders:
                continue
            if name.rpartition(".")[2] not in known or not isinstance(node.exc, ast.Call):
                yield node.lineno, name


def test_every_raise_is_of_one_of_our_errors() -> None:
    known, seen, faults = own_errors(), set(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for line, raised in foreign_raises(path.read_text(encoding="utf-8"), known):
            seen.add((name, raised))
            if (name, raised) not in OTHERS:
                faults.append(f"{name}:{line}: raises {raised}")
    assert not faults, "\n".join(faults)
    assert seen == set(OTHERS)  # the list has no entry too many


def test_errors_are_known_without_an_import() -> None:
    source = (
        "class _Late(Own): pass\nclass Own(InputError): pass\nclass InputError(LrpLensError): pass\n"
        "class Other(ValueError): pass\ndef late() -> Own: ...\ndef other() -> Other: ..."
    )
    assert errors_of([ast.parse(source)]) == {"LrpLensError", "InputError", "Own", "_Late", "late"}
    assert own_errors() >= {kind.__name__ for kind in (*KINDS, UnknownNameError, NotHookedTransformerError)}


def test_the_check_itself() -> None:
    source = (
        "def f(self):\n    raise ValueError('x')\n    raise InputError\n    raise InputError('x') from None\n"
        "    raise\n    raise self.unanswered('x')\n    raise NotImplementedError\n"
        "@question('how')\ndef g(self):\n    raise NotImplementedError\n"
    )
    assert list(foreign_raises(source, own_errors())) == [
        (2, "ValueError"), (3, "InputError"), (7, "NotImplementedError"),
    ]  # fmt: skip


def test_one_base_and_its_kinds() -> None:
    assert {kind for kind in LrpLensError.__subclasses__() if kind.__module__ == "lrp_lens.errors"} == KINDS
    assert issubclass(UnknownNameError, KeyError) and issubclass(LrpLensError, ValueError)
    assert issubclass(NotHookedTransformerError, InputError)  # imported here so that it is known above
    assert lrp_lens.LrpLensError is LrpLensError
