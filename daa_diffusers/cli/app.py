"""Entry point of `daa`: dispatch to the commands, and one-line error messages."""

import importlib
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import typer
from typer.core import TyperGroup

from ..errors import CheckpointError, ConfigurationError, UnreadablePhotoError
from ..files import one_line
from . import process
from .common import with_option_names
from .lean import lean_diffusers

# Command name -> module in this folder, whose `app` has this command.
COMMANDS = {
    "restore": "restore",
    "adapt": "adapt",
    "bulk": "bulk",
    "convert": "convert",
    "demo": "demo",
    "evaluate": "evaluate",
    "fit": "fit",
    "fit-noise": "fit_noise",
    "info": "info",
    "push": "push",
    "rank": "rank",
}
UsageError: type[Exception] = cast(Any, typer.BadParameter.__mro__[1])  # not public in typer
MAY_BE_EMPTY = ("--suffix",)  # options whose value may be empty
EXPECTED = (ConfigurationError, CheckpointError, UnreadablePhotoError, OSError)  # exit status 2, no traceback


class _Interrupted(Exception):
    """KeyboardInterrupt of a command, in a type that typer does not handle."""


@contextmanager
def _interrupts() -> Iterator[None]:
    """Context that raises `_Interrupted` for KeyboardInterrupt, for which typer would exit without a message."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise _Interrupted from error


class _Commands(TyperGroup):
    """Command group that imports a command's module when the command is listed or run."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _interrupts():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _interrupts():
            return super().invoke(ctx)

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast(Any, dict.fromkeys(COMMANDS))  # for suggestions on a misspelled name

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[override]
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__package__}.{COMMANDS[cmd_name]}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _daa(debug: bool = typer.Option(False, "--debug", help="Show the whole traceback of an error.")) -> None:
    """Restore real photos, and adapt restorers to them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `daa` with `arguments` (default: `sys.argv`) and returns the exit status.

    0: success; 1: internal error; 2: invalid options or input; 130: interrupted by Ctrl-C. Commands may define others.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    process.let_waiting_threads_sleep()
    if isinstance(sys.stdout, io.TextIOWrapper):  # undecodable file names are printed unchanged, as by `ls`
        sys.stdout.reconfigure(errors="surrogateescape")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")  # printing a message must never fail
    if arguments is None:  # called as the command, not from Python
        lean_diffusers()  # import hook: diffusers loads without libraries that no command needs
    begun = process.begun() if arguments is None else time.time()  # time budgets start here
    return process.run(lambda: _status(typed, begun), is_last=arguments is None)


def _status(typed: Sequence[str], begun: float) -> int:
    """Runs a command and returns its exit status; an error is reported in one line on standard error.

    Args:
        typed: the arguments of `daa`, from the command's name on.
        begun: `time.time()` at which the command started, for the command as `context.obj`.
    """
    try:
        _check_empty(typed)
        arguments = [argument for argument in typed if argument != "--debug"]
        status = app(arguments, prog_name="daa", obj=begun, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except _Interrupted:
        raise KeyboardInterrupt from None
    except SystemExit as closed:  # raised by typer if the reader of a pipe has exited
        return closed.code if isinstance(closed.code, int) else 1
    except typer.Abort:
        return 1
    except UsageError as error:
        typer.echo(f"error: {_usage(error, typed)}", err=True)
        return 2
    except Exception as error:
        if "--debug" in typed:
            raise
        if _is_network(error):
            typer.echo(f"error: {_unreachable(error, typed)}", err=True)
            return 2
        if any(kind.__name__ == "HfHubHTTPError" for kind in type(error).__mro__):
            typer.echo(f"error: {_refused(error)}", err=True)
            return 2
        if isinstance(error, EXPECTED):
            message, command = _message(error), _command(typed)
            if command is not None:
                module = importlib.import_module(f"{__package__}.{COMMANDS[command]}")
                message = with_option_names(message, module.app)
            typer.echo(f"error: {message}", err=True)
            return 2
        typer.echo(f"error: {type(error).__name__}: {error} (a defect; --debug prints the traceback)", err=True)
        return 1


def _usage(error: Any, typed: Sequence[str]) -> str:
    """Returns one line on arguments that typer rejects: the argument, its value, and how to list valid ones."""
    message = " ".join(error.format_message().split()) or "a command is missing"
    names = getattr(getattr(error, "param", None), "opts", ())  # spellings of the rejected option, such as -o, --output
    values = [after for before, after in pairwise(typed) if before in names]  # --option VALUE
    values += [value for name, equals, value in (text.partition("=") for text in typed) if equals and name in names]
    if values and isinstance(error, typer.BadParameter) and not message.startswith("Missing"):
        message += f", got {values[-1]!r}"
    command = _command(typed)
    where = f"daa {command}" if command else "daa"
    return one_line(f"{message.rstrip('.')} ({where} -h lists the arguments)")


def _message(error: Exception) -> str:
    """Returns the text of an error; for system errors, without the error number."""
    is_bare = isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno")
    return f"{error.filename!r}: {error.strerror}" if is_bare and error.filename else str(error)  # type: ignore[attr-defined]


def _command(typed: Sequence[str]) -> str | None:
    """Returns the name of the command, or None without one."""
    return next((argument for argument in typed if argument in COMMANDS), None)


def _check_empty(typed: Sequence[str]) -> None:
    """Raises ConfigurationError for an empty argument; as a path it would mean the current folder."""
    for before, text in pairwise(["", *typed]):
        name, equals, value = text.partition("=")
        name = name if text else before
        is_empty = not text or (equals and not value and name.startswith("--"))  # "" or --option=
        if is_empty and name not in MAY_BE_EMPTY:
            where = f"`{name}`" if name.startswith("-") else "an argument"
            raise ConfigurationError(f"{where} is empty; expected a path or a name (is a shell variable unset?)")


def _is_network(error: Exception) -> bool:
    """Whether an error of huggingface_hub or its HTTP client (httpx or httpx2) is a failed connection."""
    return any(
        (kind.__name__ == "TransportError" and "httpx" in kind.__module__)
        or (
            kind.__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
            and "huggingface_hub" in kind.__module__
        )
        for kind in type(error).__mro__
    )


def _unreachable(error: Exception, typed: Sequence[str]) -> str:
    """Returns one line on an unreachable Hub, with the requested repositories."""
    from ..hub.resolving import is_repo_id  # slow to import

    repositories = [repr(text) for text in typed if is_repo_id(text) and not os.path.exists(text)]
    requested = f"{', '.join(repositories)} (no folder or file here): " if repositories else ""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return one_line(f"the Hub cannot be reached: {requested}{reason}")


def _refused(error: Any) -> str:
    """Returns one line on a request that the Hub rejected, with advice on tokens if one may be missing."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("For more information")]
    private = getattr(error.response, "status_code", None) in (401, 403) or "Repository Not Found" in str(error)
    advice = "; a private repository, or writing, needs a token: `hf auth login`, or HF_TOKEN" if private else ""
    return one_line(f"the Hub refuses: {' '.join(lines[:2]).rstrip('.') or type(error).__name__}{advice}")
