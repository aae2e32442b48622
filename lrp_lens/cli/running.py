"""How commands run: wrong arguments and errors of the package in one line, model libraries kept quiet."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from lrp_lens.characters import shown

_CommandError: Any = typer.BadParameter.__mro__[2]  # ClickException, wherever this typer keeps it
_QUIET = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error"}


class OneLineErrors(TyperGroup):
    """A command group that reports a wrong argument in one line instead of a usage box."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help where there are no arguments."""
        return super().parse_args(ctx, args or ["--help"])

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; exit code 2 and one line on standard error where an argument is wrong."""
        standalone = extra.pop("standalone_mode", True)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except _CommandError as error:
            fail(error.format_message())
        except typer.Abort:
            sys.exit(130)
        if standalone:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def fail(message: str) -> None:
    """Print one line on standard error and exit with code 2."""
    typer.echo(f"lrp-lens: {shown(' '.join(message.split()))}", err=True)
    sys.exit(2)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Ask the model libraries, while they are imported, for no progress bars and no advice."""
    ours = [name for name in _QUIET if name not in os.environ]
    os.environ.update({name: _QUIET[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """An error of the package ends the command with one line; an interruption with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("lrp-lens: interrupted", err=True)
        sys.exit(130)
    except ValueError as error:
        if not type(error).__module__.startswith("lrp_lens"):
            raise
        fail(str(error))
