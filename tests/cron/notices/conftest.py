"""Runs that are over, the mails that are owed for them, and mail servers that do all that mail servers do."""

import asyncio
import email
import email.policy
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from sqlalchemy import select, update

from wsp.cron.models import CronJob, JobRun, Notice
from wsp.cron.notices.alerts import on_ends
from wsp.cron.notices.notifier import Notifier
from wsp.cron.planning.work import End, Job, PlannedRun, Result
from wsp.cron.policy import Policy
from wsp.cron.runner.frames import STDOUT, encode
from wsp.cron.runner.orders import Output
from wsp.database import Database, utc_now
from wsp.ftp.server.self_signed import own_certificate
from wsp.settings import Settings, load_settings
from wsp.webhooks.models import Delivery, Webhook

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
PASSWORD = "secret-of-the-mail-server"


# --- Runs -------------------------------------------------------------------------------------------------------


def make_job(**values: Any) -> Job:
    """A job as the scheduler knows it; `policy` by keywords of `Policy`."""
    policy = values.pop("policy", {})
    return Job(
        **{
            "id": 5,
            "owner": "admin",
            "name": "nightly",
            "command": "echo hello",
            "email_on_complete": "",
            "email_on_error": False,
            **values,
            "policy": Policy(**policy),
        }
    )


def make_end(job: Job, run_id: int = 7, status: str = "succeeded", *, will_retry: bool = False, **values: Any) -> End:
    """A run of the job that took a second; `run` has values of its PlannedRun, `output` is text."""
    output = values.pop("output", "hello\n")
    planned = {"scheduled_for": NOON, "start_at": NOON, "trigger": "schedule", **values.pop("run", {})}
    seconds = values.pop("seconds", 1.0)
    result = {
        "status": status,
        "started_at": NOON,
        "finished_at": NOON + timedelta(seconds=seconds),
        "exit_code": {"succeeded": 0, "failed": 3}.get(status),
        "duration_ms": round(seconds * 1000),
        "output": Output(frames=encode([(STDOUT, output.encode())]), total_bytes=len(output)),
        **values,
    }
    return End(PlannedRun(run_id=run_id, job=job, **planned), Result(**result), will_retry)


@dataclass
class Books:
    """The store: ends are recorded in it as the scheduler does, and it shows what is owed then."""

    database: Database
    jobs: Any
    settings: Settings
    now: datetime = NOON

    def job(self, **values: Any) -> Job:
        """A job with a row."""
        policy = values.pop("policy", {})
        row = {"owner": "admin", "policy": Policy(**policy).stored(), **values}
        shown = {name: value for name, value in row.items() if name in make_job().__dict__ and name != "policy"}
        return make_job(id=self.jobs.add(**row), policy=policy, **shown)

    def run(self, job: Job, **values: Any) -> int:
        """A row of a run."""
        with self.database.reading() as session:
            number = len(session.scalars(select(JobRun.id)).all())
        when = values.pop("scheduled_for", NOON + timedelta(microseconds=number))
        return int(self.jobs.add_run(job.id, when, **values))

    def end(self, job: Job, *statuses: str, now: datetime | None = None, **values: Any) -> list[int]:
        """Ends of runs, recorded in one transaction. Returns the runs' ids."""
        ends = [make_end(job, self.run(job, status=status), status, **values) for status in statuses]
        self.record(ends, now)
        return [end.run.run_id for end in ends]

    def record(self, ends: Sequence[End], now: datetime | None = None) -> None:
        """What the scheduler does with ends."""
        told = []
        with self.database.transaction() as session:
            for end in ends:
                if end.result.status == "skipped" or end.will_retry:
                    told.append(end)
                    continue
                failures = 0 if end.result.ok else CronJob.failures_in_row + 1
                change = update(CronJob).where(CronJob.id == end.run.job.id).values(failures_in_row=failures)
                told.append(replace(end, failures=session.scalar(change.returning(CronJob.failures_in_row))))
            on_ends(session, self.settings, told, now or self.now)

    def notices(self, **values: Any) -> list[Notice]:
        """Mails, oldest first."""
        with self.database.reading() as session:
            return list(session.scalars(select(Notice).filter_by(**values).order_by(Notice.id)))

    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices()]

    def put(self, job: Job, recipient: str = "job@example.org", *, text: str = "hello", **values: Any) -> int:
        """A mail that is due now."""
        notice = Notice(
            **{
                "job_id": job.id,
                "kind": "run",
                "recipient": recipient,
                "subject": text,
                "body": text,
                "status": "pending",
                "due_at": utc_now(),
                "next_attempt_at": utc_now(),
                "created_at": utc_now(),
                **values,
            }
        )
        with self.database.transaction() as session:
            session.add(notice)
        return notice.id

    def webhook(self, *events: str, owner: str = "admin", url: str = "http://127.0.0.1:1/") -> None:
        with self.database.transaction() as session:
            session.add(
                Webhook(
                    id=owner[:16],
                    owner=owner,
                    url=url,
                    events=list(events or ["*"]),
                    secret="whsec_test",
                    created_at=NOON,
                    updated_at=NOON,
                )
            )

    def deliveries(self) -> list[Delivery]:
        with self.database.reading() as session:
            return list(session.scalars(select(Delivery).order_by(Delivery.id)))


@pytest.fixture
def mail_settings(database_url: str, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a server that sends mails, with changes."""

    def make(**values: Any) -> Settings:
        return load_settings(
            **{
                "data_dir": tmp_path / "data",
                "database_url": database_url,
                "timezone": "Asia/Ho_Chi_Minh",
                "smtp_host": "127.0.0.1",
                "smtp_from": "wsp@example.org",
                "webhook_allow_private": True,
                **values,
            }
        )

    return make


@pytest.fixture
def books(database: Database, jobs: Any, mail_settings: Callable[..., Settings]) -> Books:
    """A store in which ends are recorded."""
    jobs.owner()
    return Books(database, jobs, mail_settings())


# --- Mail servers -----------------------------------------------------------------------------------------------


@dataclass
class Sink:
    """A mail server that keeps what it gets, or does something else when it has the data."""

    port: int = 0
    mails: list[Envelope] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    asked: int = 0
    replies: list[str] = field(default_factory=list)
    """Given to the next mails in place of being kept."""
    drops: int = 0
    """How many of the next connections are cut in the middle of the data."""
    hangs: bool = False
    """While it is set, data is not answered until `released`."""
    released: threading.Event = field(default_factory=threading.Event)
    leaves_open: bool = False
    """While it is set, nobody is said goodbye to until `released`."""
    refusal: str = ""
    """The answer to each recipient, if they are refused."""
    sessions: list[Session] = field(default_factory=list)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refusal:
            return self.refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.asked += 1
        self.sessions.append(session)
        if self.drops:
            self.drops -= 1
            cast(asyncio.Transport, server.transport).abort()
            return "250 nobody reads this"
        if self.hangs:
            await asyncio.to_thread(self.released.wait)
        if self.replies:
            return self.replies.pop(0)
        self.mails.append(envelope)
        return "250 OK"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.leaves_open:
            await asyncio.to_thread(self.released.wait)
        return "221 Bye"

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password.decode() == PASSWORD, handled=False)

    def parsed(self) -> list[EmailMessage]:
        """The mails that were kept."""
        messages = []
        for mail in self.mails:
            message = email.message_from_bytes(cast(bytes, mail.content), policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            messages.append(message)
        return messages

    def recipients(self) -> list[str]:
        return [recipient for mail in self.mails for recipient in mail.rcpt_tos]


@pytest.fixture
def start_sink(free_port: Callable[[], int]) -> Iterator[Callable[..., Sink]]:
    """Starts a mail server on the loopback; keywords are those of aiosmtpd's Controller."""
    with ExitStack() as stack:

        def start(*, port: int | None = None, auth: bool = False, **options: Any) -> Sink:
            sink = Sink(port or free_port())
            if auth:
                options |= {"authenticator": sink.authenticate, "auth_required": True, "auth_require_tls": False}
            controller = Controller(sink, hostname="127.0.0.1", port=sink.port, **options)
            controller.start()
            stack.callback(controller.stop)
            stack.callback(sink.released.set)
            return sink

        yield start


@pytest.fixture
def sink(start_sink: Callable[..., Sink]) -> Sink:
    """A mail server without TLS."""
    return start_sink()


@pytest.fixture
def start_notifier(database: Database, mail_settings: Callable[..., Settings]) -> Iterator[Callable[..., Notifier]]:
    """Starts a notifier; keywords are settings."""
    with ExitStack() as stack:

        def start(*, clock: Callable[[], datetime] = utc_now, **settings: Any) -> Notifier:
            notifier = Notifier(mail_settings(**settings), database, clock=clock)
            notifier.start()
            stack.callback(notifier._mailer.close, 30)  # its threads need the database
            stack.callback(notifier.close)
            return notifier

        yield start


@dataclass
class Clock:
    """A clock that tests put forward."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def forward(self, **duration: float) -> None:
        self.ahead += timedelta(**duration)


@pytest.fixture
def clock() -> Clock:
    """The present time, and later."""
    return Clock()


@pytest.fixture
def end_of() -> Callable[..., End]:
    """`make_end`, for tests without a store."""
    return make_end


@pytest.fixture
def job_of() -> Callable[..., Job]:
    """`make_job`."""
    return make_job


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that nobody vouches for, and its key."""
    return own_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """What a mail server with that certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this process trust the certificate, as an operator would."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
