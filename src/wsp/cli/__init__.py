"""The command line: `wsp`. Every error is one line on standard error, and an exit code that is not 0."""

import importlib
import sys
from typing import Annotated

import typer

from wsp import __version__
from wsp.cli import services
from wsp.errors import StartupError, WspError
from wsp.supervisor import CANNOT_START

# typer has no public name for the error of a wrong command line, the parent of its BadParameter.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells say it

app = typer.Typer(
    name="wsp",
    help="FTP accounts and cron jobs behind one REST API. `wsp serve` starts everything.",
    epilog="Settings are WSP_* variables; `wsp config` shows them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
services.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wsp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before the command."""


def main() -> None:
    """Run the command line of this process, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line. Returns the exit code; what went wrong is on standard error, in one line."""
    if not services.runs_server(arguments):
        _add_the_other_commands(arguments)
    try:
        outcome = app(arguments, prog_name="wsp", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except UsageError as error:
        return _usage(error)
    except StartupError as error:
        # The supervisor must tell "cannot start" from a crash, which it answers with a restart.
        return _fail(error.sentence, CANNOT_START if "--supervised" in arguments else FAILED)
    except WspError as error:
        return _fail(error.sentence)
    except BrokenPipeError:
        sys.stderr.close()  # `wsp token list | head -1`: nobody is reading any more, and nobody wants to hear it
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if not _is_from_database(error):
            raise
        return _fail(f"The database refused: {str(getattr(error, 'orig', None) or error).strip().splitlines()[0]}")


def _is_from_database(error: Exception) -> bool:
    # Not imported for this: `wsp serve` runs for months, and loads no database.
    exceptions = sys.modules.get("sqlalchemy.exc")
    return exceptions is not None and isinstance(error, exceptions.SQLAlchemyError)


def _add_the_other_commands(arguments: list[str]) -> None:
    """Add what is no server. A server runs for months, three times over, and carries nothing that it does not use."""
    administration = importlib.import_module("wsp.cli.administration")
    administration.add_to(app, arguments[0] if arguments else "")


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return WRONG_USAGE  # the help was printed
    command = context.command_path if context is not None else "wsp"
    sentence = error.format_message() if hasattr(error, "format_message") else str(error)
    sentence = sentence.replace("Value error, ", "")  # how pydantic begins what a type has to say
    return _fail(f"{sentence.rstrip('.')}; see {command} --help", WRONG_USAGE)


def _fail(sentence: str, code: int = FAILED) -> int:
    typer.echo("wsp: " + " ".join(sentence.split()), err=True)
    return code
