"""What the command line does with what it is given: a mistake is one line on stderr that names the argument.

Exit codes: those of `errors`, and 130 for an interrupt.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from longspan.errors import ConfigError, LongspanError
from longspan.uri import check_uri

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.")]
PipelinePath = Annotated[str, typer.Argument(metavar="PIPELINE", help="Stages in order, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="section.key=value", help="Override one value; may be repeated.")
]
_UsageError: Any = typer.BadParameter.__base__
"""Typer's own; where its module lies differs between versions."""


class OneLineGroup(TyperGroup):
    """Tells a wrong use of the command line in one line, where typer prints its usage in three."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except _UsageError as error:
            if not standalone_mode:
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                command = error.ctx.command_path if error.ctx is not None else "longspan"
                said = " ".join(error.format_message().split()).rstrip(".")
                typer.echo(f"longspan: {said[0].lower()}{said[1:]}; see {command} --help", err=True)
            sys.exit(error.exit_code)
        except typer.Abort:
            if not standalone_mode:
                raise
            sys.exit(1)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


@contextmanager
def plain_errors(interrupted: str = "the same command resumes from the last checkpoint") -> Iterator[None]:
    """A user's mistake is one line on stderr and an exit code; the traceback of anything else is kept.

    Args:
        interrupted: what is said after Ctrl-C.
    """
    try:
        yield
    except LongspanError as error:
        typer.echo(f"longspan: {' '.join(str(error).splitlines())}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo(f"longspan: interrupted; {interrupted}", err=True)
        raise typer.Exit(130) from None


def place(text: str, name: str) -> str:
    """`text` of the argument `name`, which is a local path or s3://bucket/key. Raises ConfigError."""
    try:
        return check_uri(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def with_output(overrides: list[str] | None, output: str | None) -> list[str]:
    """The overrides of `--set` and `--output`, which is text whatever YAML would make of it."""
    return [*(overrides or []), *([f"output={json.dumps(place(output, '--output'))}"] if output is not None else [])]


def whole_numbers(text: str, name: str) -> list[int]:
    """`text` of the argument `name` as numbers of 1 or more with commas between them. Raises ConfigError."""
    try:
        numbers = [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{name} {text}: expected whole numbers, for example 1024,4096") from None
    if min(numbers) < 1:
        raise ConfigError(f"{name} {text}: lengths are 1 or more")
    return numbers


def printed(renderable: object) -> None:
    """Show what rich can on the console."""
    from rich.console import Console

    Console().print(renderable)
