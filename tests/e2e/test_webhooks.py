"""Webhooks of a whole server: told of what happens, and of everything when a process is killed meanwhile."""

import ftplib
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


class Target(ThreadingHTTPServer):
    """Takes what is delivered; while it `hangs`, without an answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.on_event: Callable[[dict[str, Any]], object] = lambda body: None
        self.seen: list[object] = []
        self.hangs = threading.Event()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed here."""


class _Handler(BaseHTTPRequestHandler):
    server: Target

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.seen.append(self.server.on_event(body))
        if self.server.hangs.is_set():
            self.server.closing.wait(60)
            return
        self.server.answered.append(body)
        with suppress(OSError):
            self.send_response(204)
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def target() -> Iterator[Target]:
    """A target on the loopback."""
    server = Target()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(start_server: Callable[..., Any]) -> Any:
    """A server of this test alone, that may call the target."""
    return start_server(WSP_WEBHOOK_ALLOW_PRIVATE="true")


def tell(server: Any, target: Target, *events: str) -> str:
    status, webhook = server.call("POST", "/webhooks", {"url": target.url, "events": events or ["*"]})
    assert status == 201
    return str(webhook["id"])


class TestAServer:
    def test_tells_of_what_happens(self, server: Any, target: Target, wait_until: Any) -> None:
        webhook = tell(server, target)
        server.call("POST", "/ftp", {"username": "deploy", "password": "pw"})
        wait_until(lambda: target.answered, "the event")
        assert target.answered[0]["event"] == "account.created"
        assert target.answered[0]["data"]["username"] == "admin_deploy"

        def delivered() -> Any:
            return server.call("GET", f"/webhooks/{webhook}/deliveries?status=delivered")[1]["deliveries"]

        (delivery,) = wait_until(delivered, "the log of it")
        _, again = server.call("POST", f"/webhooks/{webhook}/deliveries/{delivery['id']}/redeliver")
        assert again["id"] != delivery["id"]
        wait_until(lambda: len(target.answered) == 2, "the event once more")
        assert target.answered[0] == target.answered[1]

    def test_tells_of_uploads_and_of_refused_logins(self, server: Any, target: Target, wait_until: Any) -> None:
        tell(server, target, "upload.*", "login.failed")
        server.call("POST", "/ftp", {"username": "deploy", "password": "pw"})
        uploaded = server.files / "home" / "admin" / "site.zip"
        with ftplib.FTP() as ftp:
            ftp.connect("127.0.0.1", server.ftp_port, timeout=30)
            with pytest.raises(ftplib.error_perm):
                ftp.login("admin_deploy", "wrong")
            ftp.login("admin_deploy", "pw")
            target.on_event = lambda body: (body["event"], uploaded.exists())
            ftp.storbinary("STOR site.zip", io.BytesIO(b"content"))
        wait_until(lambda: len(target.answered) == 2, "both events")
        events = {body["event"]: body["data"] for body in target.answered}
        assert events["login.failed"]["username"] == "admin_deploy"
        assert (events["upload.completed"]["path"], events["upload.completed"]["bytes"]) == ("/site.zip", 7)
        assert ("upload.completed", True) in target.seen  # it has its name by then
        assert "pw" not in json.dumps(target.answered)

    def test_stops_in_time_while_a_target_hangs(self, server: Any, target: Target, wait_until: Any) -> None:
        target.hangs.set()
        server.call("POST", f"/webhooks/{tell(server, target)}/test")
        wait_until(lambda: target.bodies, "the attempt")
        assert server.stop() == 0
        assert "killing it" not in server.log()
        assert "Traceback" not in server.log()

    @pytest.mark.slow  # an attempt that was cut off is repeated when its lease has run out, after 30 s
    def test_tells_again_what_it_was_killed_in(self, server: Any, target: Target, wait_until: Any) -> None:
        target.hangs.set()
        webhook = tell(server, target)
        server.call("POST", f"/webhooks/{webhook}/test")
        wait_until(lambda: target.bodies, "the attempt")
        (api,) = server.pids("api")
        os.kill(api, signal.SIGKILL)
        target.hangs.clear()
        wait_until(lambda: server.pids("api") - {api} and server.answers("/readyz"), "the API is back")
        wait_until(lambda: target.answered, "the event once more", 90)
        assert target.answered == target.bodies[:1]

        def delivered() -> Any:
            return server.call("GET", f"/webhooks/{webhook}/deliveries?status=delivered")[1]["deliveries"]

        (delivery,) = wait_until(delivered, "the log of it")
        assert delivery["attempts"] == 2
