"""Mails and alarms of real processes: `wsp serve`, and `wsp api` alone, which alarms when no scheduler does."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import select

from wsp.auth.models import User
from wsp.cron.models import CronJob, JobRun, Notice
from wsp.database import Database, utc_now

pytestmark = pytest.mark.e2e

EVERY_SECOND = "* * * * * *"


class Mailbox:
    """A mail server that keeps the texts of what it gets."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self.slow = threading.Event()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.slow.is_set():
            return "451 come again"
        content = envelope.content
        self.mails.append(content.decode() if isinstance(content, bytes) else str(content))
        return "250 OK"


@pytest.fixture
def mailbox(free_port: Callable[[], int]) -> Iterator[tuple[Mailbox, dict[str, str]]]:
    """A mail server, and the settings that lead to it."""
    box, port = Mailbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, {"WSP_SMTP_HOST": "127.0.0.1", "WSP_SMTP_PORT": str(port), "WSP_SMTP_FROM": "wsp@example.org"}
    controller.stop()


@pytest.fixture
def api_alone(database_url: str, tmp_path: Path, free_port: Callable[[], int]) -> Callable[..., Any]:
    """`with api_alone(WSP_…=…) as process`: a `wsp api`, without any other service."""

    @contextmanager
    def run(**given: str) -> Iterator[subprocess.Popen[bytes]]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WSP_")}
        environment = {
            "WSP_DATA_DIR": str(tmp_path / "data"),
            "WSP_DATABASE_URL": database_url,
            "WSP_HTTP_PORT": str(free_port()),
            "WSP_TIMEZONE": "Asia/Bangkok",
            **given,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "wsp", "api"], env=inherited | environment, cwd=tmp_path, stdin=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)

    return run


def add_job(database: Database, **values: Any) -> int:
    now = utc_now()
    owner = User(
        username="admin", email="admin@example.org", role="admin", status="active", created_at=now, updated_at=now
    )
    job = CronJob(
        **{
            "owner": "admin",
            "name": "backup",
            "command": "true",
            "cron_expr": "0 3 * * *",
            "created_at": now,
            "updated_at": now,
            **values,
        }
    )
    with database.transaction() as session:
        session.add(owner)
        session.flush()
        session.add(job)
    return job.id


class TestTheApiAlone:
    def test_tells_that_a_job_is_overdue(
        self, database: Database, mailbox: tuple[Mailbox, dict[str, str]], api_alone: Any, wait_until: Any
    ) -> None:
        box, smtp = mailbox
        add_job(database, expect_by=utc_now() + timedelta(seconds=1), policy={"expect_every": 3600})
        with api_alone(**smtp):
            wait_until(lambda: box.mails, "the mail")
        (mail,) = box.mails
        assert "cron job backup is overdue" in mail
        assert "To: admin@example.org" in mail
        assert "Cron service: it does not run" in mail

    def test_killed_it_loses_no_mail(
        self, database: Database, mailbox: tuple[Mailbox, dict[str, str]], api_alone: Any, wait_until: Any
    ) -> None:
        box, smtp = mailbox
        add_job(database, expect_by=utc_now(), policy={"expect_every": 3600})
        box.slow.set()

        def tried() -> bool:
            with database.reading() as session:
                return bool(session.scalar(select(Notice.error).where(Notice.attempts > 0)))

        with api_alone(**smtp) as process:
            wait_until(tried, "the first attempt")
            process.send_signal(signal.SIGKILL)
            process.wait()
        box.slow.clear()
        with api_alone(**smtp):
            wait_until(lambda: box.mails, "the mail")


class Hanging(ThreadingHTTPServer):
    """A webhook's target that takes everything and answers nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = threading.Event()
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients give up here."""


class _Handler(BaseHTTPRequestHandler):
    server: Hanging

    def do_POST(self) -> None:
        self.server.asked.set()
        self.server.closing.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """A target that hangs."""
    server = Hanging()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


class TestAServer:
    def test_mails_how_a_run_ended(
        self, start_server: Any, mailbox: tuple[Mailbox, dict[str, str]], wait_until: Any
    ) -> None:
        box, smtp = mailbox
        server = start_server(**smtp, WSP_PUBLIC_URL="https://panel.example.com", WSP_CRON_MAIL_LIMIT="2")
        body = {
            "name": "backup",
            "command": "echo no space left; exit 3",
            "cron_expr": EVERY_SECOND,
            "email_on_complete": "ops@example.org",
        }
        status, job = server.call("POST", "/cronjobs", body)
        assert status == 201
        wait_until(lambda: len(box.mails) == 2, "two mails")
        mail = box.mails[0]
        assert "cron job backup failed with exit code 3" in mail
        assert "no space left" in mail
        assert f"https://panel.example.com/api/v1/cronjobs/{job['id']}/runs/" in mail

        def notices(status: str) -> Any:
            return server.call("GET", f"/cronjobs/{job['id']}/notices?status={status}")[1]

        withheld = wait_until(lambda: notices("withheld"), "the limit")
        assert withheld[0]["error"] == "More than 2 mails an hour about this job"
        assert [notice["kind"] for notice in notices("pending")] == ["summary"]
        sent = wait_until(lambda: len(notices("sent")) == 2 and notices("sent"), "the log of them")
        assert (sent[0]["recipient"], sent[0]["attempts"], sent[0]["kind"]) == ("ops@example.org", 1, "run")
        assert server.call("GET", "/cronjobs/notices?status=sent")[1] == sent
        assert len(box.mails) == 2

    @pytest.mark.parametrize("store", ["sqlite"])
    def test_runs_go_on_while_mail_and_webhooks_hang(
        self, start_server: Any, empty_url: str, hanging: Hanging, free_port: Any, wait_until: Any
    ) -> None:
        server = start_server(
            WSP_WEBHOOK_ALLOW_PRIVATE="true", WSP_SMTP_HOST="127.0.0.1", WSP_SMTP_PORT=str(hanging.server_port)
        )
        server.call("POST", "/webhooks", {"url": f"http://127.0.0.1:{hanging.server_port}/", "events": ["run.*"]})
        body = {"name": "tick", "command": "true", "cron_expr": EVERY_SECOND, "email_on_complete": "ops@example.org"}
        job = server.call("POST", "/cronjobs", body)[1]["id"]
        database = Database(empty_url)

        def runs() -> list[JobRun]:
            with database.reading() as session:
                return list(session.scalars(select(JobRun).where(JobRun.job_id == job, JobRun.status == "succeeded")))

        wait_until(hanging.asked.is_set, "the webhook's target")
        before = len(runs())
        wait_until(lambda: len(runs()) >= before + 5, "more runs")
        lateness = [(run.started_at - run.scheduled_for).total_seconds() for run in runs() if run.started_at]
        assert sorted(lateness)[len(lateness) // 2] < 5  # it is milliseconds where nothing else is going on
        assert server.call("GET", "/webhooks")[0] == 200
        database.close()
        assert server.stop() == 0
        assert "killing it" not in server.log()
