"""`wsp serve`: the checks before the start, the first start, and all services as child processes."""

import http.client
import json
import logging
import os
import socket
import sys
import threading
from typing import NoReturn

from rich.console import Console

from wsp.banner import own_address, print_banner
from wsp.errors import StartupError
from wsp.homes import make_files_root
from wsp.preflight import check_ports, data_dir_held
from wsp.settings import Settings
from wsp.supervisor import STOP_SECONDS, Child, Supervisor, end_with_parent, wsp_command

READY_POLL_SECONDS = 0.1
ANSWER_SECONDS = 2.0
SLOW_START_SECONDS = 30.0
FTP_END_SECONDS = 4.0  # what an FTP process needs after its last transfer has ended, or was cut

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Run the whole server until it is told to stop. Returns the exit code. Raises StartupError."""
    with data_dir_held(settings.data_dir) as after_crash:
        check_ports(settings, after_crash=after_crash)
        new_key = _prepare_apart(settings)
        make_files_root(settings.files)
        supervisor = Supervisor(
            [Child("api", wsp_command("api")), *ftp_children(settings), _cron()], ends_at_hangup=_on_terminal()
        )
        announcer = _Announcer(supervisor, settings, new_key)
        code = supervisor.run(on_started=announcer.start)
        announcer.stop()
        return code


def serve_ftp(settings: Settings) -> int:
    """Run the FTP processes alone, when there is more than one of them. Returns the exit code."""
    return Supervisor(ftp_children(settings), ends_at_hangup=_on_terminal()).run()


def ftp_children(settings: Settings) -> list[Child]:
    """As many FTP processes as are set; they share the port."""
    patience = max(STOP_SECONDS, settings.ftp_drain_seconds + FTP_END_SECONDS)
    return [
        Child(f"ftp-{number + 1}", wsp_command("ftp"), stop_seconds=patience) for number in range(settings.ftp_workers)
    ]


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _cron() -> Child:
    return Child("cron", wsp_command("cron"))


def _prepare_apart(settings: Settings) -> str | None:
    """Prepare the database in a process that ends with it. Returns the admin's new key, if one was made.

    The supervisor lives as long as the server and needs nothing of what migrations load (20 MB). It is safe to fork:
    nothing here has started a thread or opened a connection yet. Raises StartupError.
    """
    parent = os.getpid()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        _prepare_and_exit(settings, writing, parent)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise StartupError("The database could not be prepared; the log says why")
    outcome = json.loads(said)
    if "error" in outcome:
        raise StartupError(outcome["error"])
    key: str | None = outcome["new_key"]
    return key


def _prepare_and_exit(settings: Settings, writing: int, parent: int) -> NoReturn:
    code = 1
    try:
        end_with_parent(parent)
        from wsp.preparation import prepare  # what the supervisor is not to carry

        try:
            outcome = {"new_key": prepare(settings)}
        except StartupError as error:
            outcome = {"error": error.sentence}
        os.write(writing, json.dumps(outcome).encode())
        code = 0
    except Exception:
        logger.critical("preparing the database failed", exc_info=True)
    finally:
        os._exit(code)  # without the parent's own end-of-process work


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
        waited = 0.0
        while not (self._api_says_ready() and self._ftp_answers()):  # FTP is up first, and logs who comes
            if self._stop.wait(READY_POLL_SECONDS):
                return
            waited += READY_POLL_SECONDS
            if SLOW_START_SECONDS <= waited < SLOW_START_SECONDS + READY_POLL_SECONDS:
                logger.warning("not everything is up after %g s, still waiting", SLOW_START_SECONDS)
        self._supervisor.ready.set()
        print_banner(Console(), self._settings, self._new_key)

    def _ftp_answers(self) -> bool:
        try:
            with socket.create_connection(
                (own_address(self._settings.ftp_host), self._settings.ftp_port), timeout=ANSWER_SECONDS
            ) as client:
                return client.recv(3) == b"220"
        except OSError:
            return False

    def _api_says_ready(self) -> bool:
        """Does `/readyz` say that every service has reported itself?"""
        connection = http.client.HTTPConnection(
            own_address(self._settings.http_host), self._settings.http_port, timeout=ANSWER_SECONDS
        )
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
