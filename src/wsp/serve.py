"""`wsp serve`: the checks before the start, the first start, and all services as child processes."""

import logging
import threading
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from wsp.banner import print_banner
from wsp.database import Database
from wsp.errors import StartupError
from wsp.firststart import make_admin
from wsp.heartbeat import ServiceRow, node_name
from wsp.preflight import check_ports, data_dir_held, migrate
from wsp.settings import Settings
from wsp.supervisor import Child, Supervisor, wsp_command

READY_POLL_SECONDS = 0.05
SLOW_START_SECONDS = 30.0

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Run the whole server until it is told to stop. Returns the exit code. Raises StartupError."""
    with data_dir_held(settings.data_dir) as after_crash:
        check_ports(settings, after_crash=after_crash)
        database = Database(settings.database)
        try:
            migrate(database)
            new_key = _first_start(database, settings.data_dir)
            settings.files.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(f"Cannot write {error.filename}: {error.strerror}") from None
        finally:
            database.close()
        supervisor = Supervisor([Child("api", wsp_command("api")), *ftp_children(settings), _cron()])
        announcer = _Announcer(supervisor, settings, new_key)
        code = supervisor.run(on_started=announcer.start)
        announcer.stop()
        return code


def serve_ftp(settings: Settings) -> int:
    """Run the FTP processes alone, when there is more than one of them. Returns the exit code."""
    return Supervisor(ftp_children(settings)).run()


def ftp_children(settings: Settings) -> list[Child]:
    """As many FTP processes as are set; they share the port."""
    return [Child(f"ftp-{number + 1}", wsp_command("ftp")) for number in range(settings.ftp_workers)]


def _cron() -> Child:
    return Child("cron", wsp_command("cron"))


def _first_start(database: Database, data_dir: Path) -> str | None:
    try:
        return make_admin(database, data_dir)
    except SQLAlchemyError as error:
        raise StartupError(f"WSP_DATABASE_URL: cannot write to the database: {error}") from None


class _Announcer:
    """Waits, on a thread of its own, until every service answers; then prints the banner."""

    def __init__(self, supervisor: Supervisor, settings: Settings, new_key: str | None) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._new_key = new_key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        database = Database(self._settings.database)
        try:
            waited = 0.0
            while not (self._all_report(database) and self._http_answers()):
                if self._stop.wait(READY_POLL_SECONDS):
                    return
                waited += READY_POLL_SECONDS
                if SLOW_START_SECONDS <= waited < SLOW_START_SECONDS + READY_POLL_SECONDS:
                    logger.warning("not everything is up after %g s, still waiting", SLOW_START_SECONDS)
        finally:
            database.close()
        self._supervisor.ready.set()
        print_banner(Console(), self._settings, self._new_key)

    def _all_report(self, database: Database) -> bool:
        pids = self._supervisor.pids
        query = select(ServiceRow.pid).where(ServiceRow.node == node_name())
        try:
            with database.reading() as session:
                reporting = set(session.scalars(query))
        except SQLAlchemyError:
            return False
        return len(pids) == len(self._supervisor.children) and pids <= reporting

    def _http_answers(self) -> bool:
        host = self._settings.http_host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - translated, not listened on
        url = f"http://{f'[{host}]' if ':' in host else host}:{self._settings.http_port}/healthz"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own machine: no proxy in between
        try:
            with opener.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
