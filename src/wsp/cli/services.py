"""`wsp serve`, and each service alone: `wsp api`, `wsp ftp`, `wsp cron`."""

import importlib
import logging
import signal
from types import FrameType
from typing import Annotated

import typer

from wsp.cli.environment import read_settings
from wsp.errors import WspError
from wsp.logs import configure_logging
from wsp.preflight import make_data_dir
from wsp.settings import Settings
from wsp.supervisor import end_with_parent

# Named, not imported: a process must not carry what another one needs.
ENTRY_POINTS = {"api": "wsp.web.run", "ftp": "wsp.ftp.server.run", "cron": "wsp.cron.server.run"}

logger = logging.getLogger(__name__)

_NAMES = (["serve"], ["api"])  # as they begin a command line
_GROUPS = (["ftp"], ["cron"])

ftp_app = typer.Typer(name="ftp", invoke_without_command=True, subcommand_metavar="[import|export]")
cron_app = typer.Typer(name="cron", invoke_without_command=True, subcommand_metavar="[import|export|run|logs|tail]")
"""`wsp ftp` and `wsp cron` are servers; what has another word behind them is not, and is added with the others."""

Supervised = Annotated[int | None, typer.Option("--supervised", hidden=True, help="The supervisor's pid.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands that run servers."""
    for command in (serve, api):
        app.command(rich_help_panel="Servers")(command)
    ftp_app.callback()(ftp)
    cron_app.callback()(cron)
    for group in (ftp_app, cron_app):
        app.add_typer(group, rich_help_panel="Servers")


def runs_server(arguments: list[str]) -> bool:
    """Will this command line run a server?"""
    name, options = arguments[:1], arguments[1:]
    if name in _GROUPS:
        return not options or options[0].startswith("--supervised")
    return name in _NAMES


def serve() -> int:
    """Start the whole server: API, FTP and cron, in the foreground.

    Migrates the database, makes an admin key on the first start, restarts a service that dies, and stops all of them
    on Ctrl-C or SIGTERM.

    Example: WSP_DATA_DIR=/srv/wsp wsp serve
    """
    from wsp.serve import serve as serve_all  # what only this command needs: the banner, with Rich

    settings = read_settings()
    configure_logging(settings, process="serve")
    return serve_all(settings)


def api(supervised: Supervised = None) -> int:
    """Run the REST API alone (for systemd units and containers).

    Example: wsp db upgrade && wsp api
    """
    return _run("api", supervised)


def ftp(context: typer.Context, supervised: Supervised = None) -> int:
    """Run the FTP server alone: as many processes as WSP_FTP_WORKERS says. Or import and export accounts.

    Example: WSP_FTP_WORKERS=2 wsp ftp
    """
    if context.invoked_subcommand is not None:
        return 0
    if supervised is None and (settings := read_settings()).ftp_workers > 1:
        from wsp.serve import serve_ftp  # what only this command needs

        configure_logging(settings, process="ftp")
        _check_schema(settings)
        return serve_ftp(settings)
    return _run("ftp", supervised)


def cron(context: typer.Context, supervised: Supervised = None) -> int:
    """Run the scheduler alone. Or import and export jobs, run one now, and look at runs.

    Example: wsp db upgrade && wsp cron
    """
    if context.invoked_subcommand is not None:
        return 0
    return _run("cron", supervised)


def _run(service: str, supervisor: int | None) -> int:
    if supervisor is not None:
        end_with_parent(supervisor)
    settings = read_settings(quiet=supervisor is not None)
    configure_logging(settings, process=service)
    if supervisor is not None:
        # It is passed on to every service. Not ignored: commands that are run would inherit that.
        signal.signal(signal.SIGHUP, _nothing_to_reload)
    if supervisor is None:
        _check_schema(settings)  # a supervisor has done so
    try:
        run = importlib.import_module(ENTRY_POINTS[service]).run
        run(settings, supervised=supervisor is not None)
    except WspError:
        raise
    except Exception:  # a fault of ours: into the log, in its format, with its traceback
        logger.critical("%s failed", service, exc_info=True)
        return 1
    return 0


def _nothing_to_reload(_number: int, _frame: FrameType | None) -> None:
    """What can be read again is read by handlers of the service's own."""


def _check_schema(settings: Settings) -> None:
    from wsp.preparation import check  # with SQLAlchemy, which a supervisor does not carry

    make_data_dir(settings.data_dir)
    check(settings)
