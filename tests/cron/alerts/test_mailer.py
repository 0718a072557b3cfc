"""From a row to the mail server, with all that can go wrong on the way."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from wsp.counters import stored
from wsp.cron import mailer, outbox
from wsp.cron.mailer import Mailer
from wsp.database import Database, utc_now


@pytest.fixture
def job(books: Any) -> Any:
    """A job that mails are about."""
    return books.job()


def counted(database: Database) -> dict[str, float]:
    with database.reading() as session:
        return {row.labels: row.value for row in stored(session) if row.name == "cron_mails_total"}


class TestSend:
    def test_delivers_what_is_owed(
        self, books: Any, job: Any, sink: Any, start_notifier: Callable[..., Any], until: Any
    ) -> None:
        notice_id = books.put(job, text="was lost")
        start_notifier(smtp_port=sink.port)
        until(lambda: books.notices(status="sent"))
        (message,) = sink.parsed()
        assert (message["Subject"], message["To"], message["From"]) == (
            "was lost",
            "job@example.org",
            "wsp@example.org",
        )
        assert message["Message-ID"].startswith(f"<wsp-{notice_id}-")
        (notice,) = books.notices()
        assert (notice.attempts, notice.error, notice.next_attempt_at) == (1, "", None)
        assert notice.finished_at is not None
        assert notice.body == ""  # nobody reads it any more
        assert counted(books.database) == {'status="sent"': 1}

    def test_from_the_end_of_a_run_to_the_mail(
        self, books: Any, sink: Any, start_notifier: Callable[..., Any], until: Any
    ) -> None:
        start_notifier(smtp_port=sink.port)
        books.end(books.job(email_on_complete="job@example.org"), "failed", now=utc_now(), output="no disk\n")
        until(lambda: sink.mails)
        assert "no disk" in sink.parsed()[0].get_content()

    def test_many(self, books: Any, job: Any, sink: Any, start_notifier: Callable[..., Any], until: Any) -> None:
        for number in range(40):
            books.put(job, f"job{number}@example.org")
        start_notifier(smtp_port=sink.port)
        until(lambda: len(books.notices(status="sent")) == 40)
        assert sorted(sink.recipients()) == sorted(f"job{number}@example.org" for number in range(40))

    def test_two_that_race_send_each_mail_once(
        self, books: Any, job: Any, sink: Any, mail_settings: Callable[..., Any], until: Any
    ) -> None:
        for number in range(40):
            books.put(job, f"job{number}@example.org")
        databases = [Database(books.settings.database) for _ in range(3)]
        mailers = [Mailer(mail_settings(smtp_port=sink.port), database) for database in databases]
        for each in mailers:
            each.send_due()
        until(lambda: len(books.notices(status="sent")) == 40)
        for each, database in zip(mailers, databases, strict=True):
            each.close(10)
            database.close()
        assert sorted(sink.recipients()) == sorted(f"job{number}@example.org" for number in range(40))
        assert {notice.attempts for notice in books.notices()} == {1}

    def test_sums_up_what_was_withheld(
        self, books: Any, sink: Any, mail_settings: Any, start_notifier: Callable[..., Any], clock: Any, until: Any
    ) -> None:
        books.settings = mail_settings(cron_mail_limit=1)
        job = books.job(email_on_complete="job@example.org")
        books.end(job, "failed", *["failed"] * 3, "succeeded", now=utc_now())
        start_notifier(smtp_port=sink.port, clock=clock)
        until(lambda: books.notices(status="sent"))
        assert len(sink.mails) == 1
        clock.forward(hours=1)
        until(lambda: books.notices(kind="summary", status="sent"))
        assert len(sink.mails) == 2
        message = sink.parsed()[1]
        assert message["Subject"].endswith("nightly 4 mails were withheld")
        body = message.get_content()
        assert "     3 x  [" in body
        assert "     1 x  [" in body
        assert counted(books.database) == {'status="sent"': 2, 'status="withheld"': 4}


class TestTrouble:
    def test_a_refusal_for_now_is_tried_again(
        self, books: Any, job: Any, sink: Any, start_notifier: Callable[..., Any], clock: Any, until: Any
    ) -> None:
        sink.replies = ["451 later", "452 full"]
        books.put(job)
        start_notifier(smtp_port=sink.port, clock=clock)
        for attempts, said in ((1, "451 later"), (2, "452 full")):
            until(
                lambda attempts=attempts, said=said: (
                    self.trouble(books) == (attempts, f"The mail server answered {said}")
                )
            )
            (notice,) = books.notices()
            pause = (notice.next_attempt_at - clock()).total_seconds()
            assert outbox.RETRY_SECONDS[attempts - 1] - 5 < pause < outbox.RETRY_SECONDS[attempts - 1] * 1.2
            clock.forward(seconds=outbox.RETRY_SECONDS[attempts - 1] * 1.2)
        until(lambda: books.notices(status="sent"))
        assert (sink.asked, len(sink.mails)) == (3, 1)
        assert books.notices()[0].error == ""

    def trouble(self, books: Any) -> tuple[int, str] | None:
        (notice,) = books.notices()
        return (notice.attempts, notice.error) if notice.error else None

    def test_a_refusal_for_good_is_not(
        self, books: Any, job: Any, sink: Any, start_notifier: Callable[..., Any], until: Any
    ) -> None:
        sink.replies = ["554 no\N{ZERO WIDTH SPACE}"]
        books.put(job)
        start_notifier(smtp_port=sink.port)
        until(lambda: books.notices(status="failed"))
        (notice,) = books.notices()
        assert notice.error.startswith("The mail server answered 554 no")
        assert (notice.attempts, notice.next_attempt_at) == (1, None)
        assert counted(books.database) == {'status="failed"': 1}

    @pytest.mark.parametrize(("reply", "status"), [("550 no such user", "failed"), ("450 greylisted", "pending")])
    def test_a_recipient_that_is_refused(
        self, books: Any, job: Any, sink: Any, start_notifier: Any, until: Any, reply: str, status: str
    ) -> None:
        sink.refusal = reply
        books.put(job)
        start_notifier(smtp_port=sink.port)
        until(lambda: self.trouble(books))
        assert self.trouble(books) == (1, f"The mail server answered {reply}")
        assert (books.notices()[0].status, sink.asked) == (status, 0)

    def test_a_connection_that_is_cut_in_the_data(
        self, books: Any, job: Any, sink: Any, start_notifier: Callable[..., Any], clock: Any, until: Any
    ) -> None:
        sink.drops = 1
        books.put(job)
        start_notifier(smtp_port=sink.port, clock=clock)
        until(lambda: self.trouble(books))
        assert books.notices()[0].status == "pending"
        clock.forward(seconds=10)
        until(lambda: books.notices(status="sent"))
        assert (sink.asked, len(sink.mails)) == (2, 1)

    def test_nobody_listens_and_then_somebody_does(
        self, books: Any, job: Any, start_sink: Any, free_port: Any, start_notifier: Any, clock: Any, until: Any
    ) -> None:
        books.put(job)
        port = free_port()
        start_notifier(smtp_port=port, clock=clock)
        until(lambda: self.trouble(books))
        assert "refused" in books.notices()[0].error
        sink = start_sink(port=port)
        clock.forward(seconds=10)
        until(lambda: sink.mails)

    def test_is_given_up_after_a_day(self, books: Any, job: Any, free_port: Any, mail_settings: Any) -> None:
        books.put(job)
        now = utc_now()
        began = now
        for _ in range(len(outbox.RETRY_SECONDS) + 1):
            with books.database.transaction() as session:
                taken = outbox.claim(session, now, books.settings.zone)
                assert taken
                outbox.record(session, taken, "away", now, for_good=False, jitter=0)
            (notice,) = books.notices()
            now = notice.next_attempt_at or now
        assert (notice.status, notice.error) == ("failed", "away")
        assert timedelta(hours=20) < now - began < timedelta(hours=28)
        assert counted(books.database) == {'status="retried"': len(outbox.RETRY_SECONDS), 'status="failed"': 1}

    @pytest.mark.parametrize("silent", ["at once", "while it answers"])
    def test_a_server_that_is_slow_is_given_up_in_time(
        self,
        books: Any,
        job: Any,
        start_notifier: Any,
        monkeypatch: pytest.MonkeyPatch,
        until: Any,
        silent: str,
        dripping: Callable[[], int],
    ) -> None:
        monkeypatch.setattr(mailer, "WHOLE_SECONDS", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1] if silent == "at once" else dripping()
            books.put(job)
            start_notifier(smtp_port=port)
            until(lambda: self.trouble(books))
        assert self.trouble(books) == (1, "The mail server did not answer in time")

    @pytest.fixture
    def dripping(self) -> Iterator[Callable[[], int]]:
        """Starts a server that sends a letter now and then, and never a whole line. Returns its port."""
        stop = threading.Event()
        listening = socket.create_server(("127.0.0.1", 0))

        def drip() -> None:
            client, _ = listening.accept()
            with client:
                while not stop.wait(0.05):
                    try:
                        client.send(b"2")
                    except OSError:
                        return

        def start() -> int:
            threading.Thread(target=drip, daemon=True).start()
            return int(listening.getsockname()[1])

        yield start
        stop.set()
        listening.close()

    def test_a_server_that_never_says_goodbye_gets_it_once(
        self, books: Any, job: Any, sink: Any, start_notifier: Any, monkeypatch: pytest.MonkeyPatch, until: Any
    ) -> None:
        monkeypatch.setattr(mailer, "WHOLE_SECONDS", 3.0)
        sink.leaves_open = True
        books.put(job)
        start_notifier(smtp_port=sink.port)
        until(lambda: books.notices()[0].error or books.notices(status="sent"))
        assert (books.notices()[0].status, sink.recipients()) == ("sent", ["job@example.org"])

    def test_a_server_that_hangs_delays_nobody(self, books: Any, sink: Any, start_notifier: Any, until: Any) -> None:
        sink.hangs = True
        job = books.job(email_on_complete="job@example.org")
        books.end(job, *["failed"] * 10, now=utc_now())
        notifier = start_notifier(smtp_port=sink.port)
        until(lambda: sink.asked == mailer.THREADS)
        begun = time.monotonic()
        for _ in range(5):
            books.end(job, "failed", now=utc_now())
        notifier.close()
        assert time.monotonic() - begun < 10  # an attempt would take thirty
        assert len(books.notices(status="pending")) == 15
        sink.released.set()

    def test_an_address_that_is_none_concerns_nobody_else(
        self, books: Any, job: Any, sink: Any, start_notifier: Any, until: Any
    ) -> None:
        books.put(job, "no address")
        books.put(job, "a@b.c\nBcc: x@y.z")
        books.put(job)
        start_notifier(smtp_port=sink.port)
        until(lambda: books.notices(status="sent"))
        until(lambda: len(books.notices(status="failed")) == 2)
        assert sink.recipients() == ["job@example.org"]
        assert {notice.error.partition(":")[0] for notice in books.notices(status="failed")} == {
            "The address cannot be used"
        }

    def test_one_that_brings_about_something_unforeseen_concerns_nobody_else(
        self, books: Any, job: Any, sink: Any, start_notifier: Any, monkeypatch: pytest.MonkeyPatch, until: Any
    ) -> None:
        deliver = mailer._deliver

        def stumble(message: Any, *rest: Any) -> None:
            if message["Subject"] == "poison":
                raise LookupError
            deliver(message, *rest)

        monkeypatch.setattr(mailer, "_deliver", stumble)
        books.put(job, text="poison", next_attempt_at=utc_now() - timedelta(seconds=5))
        books.put(job)
        start_notifier(smtp_port=sink.port)
        until(lambda: books.notices(status="sent"))
        until(lambda: books.notices(subject="poison")[0].error)
        (poison,) = books.notices(subject="poison")
        assert (poison.status, poison.attempts, poison.error) == ("pending", 1, "It could not be sent: LookupError")

    def test_a_thread_that_cannot_be_started_is_not_waited_for(
        self, books: Any, job: Any, sink: Any, start_notifier: Any, monkeypatch: pytest.MonkeyPatch, until: Any
    ) -> None:
        refused: list[str] = []
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "mail" and len(refused) < mailer.THREADS:
                refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        monkeypatch.setattr("wsp.cron.notifier.TROUBLE_SECONDS", 0.05)
        books.put(job)
        start_notifier(smtp_port=sink.port)
        until(lambda: sink.mails)
        assert len(refused) == mailer.THREADS


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "taken"),
        [
            ("job@bücher.example", "job@xn--bcher-kva.example"),
            ("job@faß.example", "job@xn--fa-hia.example"),
            ("jürgen@example.org", "jürgen@example.org"),
            ('"a b"@example.org', '"a b"@example.org'),
            ("root@localhost", "root@localhost"),
        ],
    )
    def test_of_every_kind_that_the_api_takes(
        self, books: Any, job: Any, start_sink: Any, start_notifier: Any, until: Any, address: str, taken: str
    ) -> None:
        sink = start_sink(enable_SMTPUTF8=not taken.isascii())
        books.put(job, address)
        start_notifier(smtp_port=sink.port)
        until(lambda: books.notices()[0].error or sink.mails)
        assert (books.notices()[0].error, sink.recipients()) == ("", [taken])

    def test_a_sender_with_a_name(self, books: Any, job: Any, sink: Any, start_notifier: Any, until: Any) -> None:
        books.put(job)
        start_notifier(smtp_port=sink.port, smtp_from="Job Mails <wsp@example.org>")
        until(lambda: sink.mails)
        assert sink.mails[0].mail_from == "wsp@example.org"
        message = sink.parsed()[0]
        assert message["From"] == "Job Mails <wsp@example.org>"
        assert message["Message-ID"].endswith("@example.org>")
        assert message["Message-ID"].count(">") == 1


class TestTls:
    def test_from_the_first_byte(
        self, books: Any, job: Any, start_sink: Any, start_notifier: Any, tls: Any, trusted: None, until: Any
    ) -> None:
        sink = start_sink(ssl_context=tls)
        books.put(job)
        start_notifier(smtp_port=sink.port, smtp_tls="tls")
        until(lambda: sink.mails)

    @pytest.mark.filterwarnings("ignore:Requiring AUTH")
    def test_starttls_with_a_login(
        self, books: Any, job: Any, start_sink: Any, start_notifier: Any, tls: Any, trusted: None, until: Any
    ) -> None:
        sink = start_sink(tls_context=tls, require_starttls=True, auth=True)
        books.put(job)
        start_notifier(
            smtp_port=sink.port, smtp_tls="starttls", smtp_username="wsp", smtp_password="secret-of-the-mail-server"
        )
        until(lambda: sink.mails)
        assert sink.sessions[0].ssl is not None
        assert sink.logins == [(b"wsp", b"secret-of-the-mail-server")]

    @pytest.mark.parametrize("how", ["tls", "starttls"])
    def test_a_certificate_that_nobody_vouches_for(
        self, books: Any, job: Any, start_sink: Any, start_notifier: Any, tls: Any, until: Any, how: str
    ) -> None:
        sink = start_sink(**({"ssl_context": tls} if how == "tls" else {"tls_context": tls}))
        books.put(job)
        start_notifier(smtp_port=sink.port, smtp_tls=how)
        (notice,) = until(lambda: [notice for notice in books.notices() if notice.error]) or books.notices()
        assert "certificate" in notice.error
        assert (notice.status, sink.asked) == ("pending", 0)

    def test_a_server_without_starttls_gets_nothing_in_the_clear(
        self, books: Any, job: Any, sink: Any, start_notifier: Any, until: Any
    ) -> None:
        books.put(job)
        start_notifier(smtp_port=sink.port, smtp_tls="starttls")
        until(lambda: books.notices()[0].error)
        assert (books.notices()[0].status, sink.asked) == ("pending", 0)

    @pytest.mark.filterwarnings("ignore:Requiring AUTH")
    def test_a_wrong_password_is_tried_again_and_not_told(
        self, books: Any, job: Any, start_sink: Any, start_notifier: Any, until: Any
    ) -> None:
        sink = start_sink(auth=True)
        books.put(job)
        start_notifier(smtp_port=sink.port, smtp_username="wsp", smtp_password="wrong-one")
        until(lambda: books.notices()[0].error)
        (notice,) = books.notices()
        assert notice.status == "pending"  # the settings may be put right
        assert notice.error.startswith("The mail server answered 535")
        assert "wrong-one" not in notice.error


SENDER = """
import sys
from wsp.cron import outbox
from wsp.cron.notifier import Notifier
from wsp.database import Database
from wsp.settings import load_settings

outbox.LEASE_SECONDS = 1
url, port = sys.argv[1:]
settings = load_settings(database_url=url, smtp_host="127.0.0.1", smtp_port=int(port), smtp_from="wsp@example.org")
Notifier(settings, Database(url)).start()
sys.stdin.read()
"""


class TestKilled:
    def test_in_the_middle_of_an_attempt(
        self, books: Any, job: Any, sink: Any, start_notifier: Any, until: Any, database_url: str
    ) -> None:
        sink.hangs = True
        books.put(job)
        sending = subprocess.Popen(
            [sys.executable, "-c", SENDER, database_url, str(sink.port)], stdin=subprocess.PIPE, env=dict(os.environ)
        )
        with sending:
            until(lambda: sink.asked == 1)
            sending.send_signal(signal.SIGKILL)
            sending.wait()
        assert books.notices()[0].status == "pending"
        sink.hangs = False
        start_notifier(smtp_port=sink.port)
        until(lambda: books.notices(status="sent"))
        assert books.notices()[0].attempts == 2
        assert sink.recipients() == ["job@example.org"]


class TestPrune:
    def test_forgets_what_ended_long_ago(self, books: Any, job: Any) -> None:
        now = utc_now()

        def put(status: str, days: float) -> int:
            ended = now - timedelta(days=days)
            return int(books.put(job, status=status, next_attempt_at=None, finished_at=ended))

        kept = [put("sent", 29), put("failed", 29), put("withheld", 0.9), books.put(job)]
        put("sent", 31)
        put("failed", 31)
        put("withheld", 1.1)
        with books.database.transaction() as session:
            assert outbox.prune(session, now) == 3
        assert [notice.id for notice in books.notices()] == kept
