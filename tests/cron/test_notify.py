"""Mails about runs: who gets them, what is in them, and a mail server that is none."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from wsp.cron import notify
from wsp.cron.notify import Mailer, compose, recipient
from wsp.cron.planner import PlannedRun
from wsp.cron.records import Result
from wsp.settings import Settings, load_settings

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)


def run_of(**values: Any) -> PlannedRun:
    return PlannedRun(
        **{
            "run_id": 7,
            "job_id": 5,
            "owner": "admin",
            "name": "nightly",
            "command": "echo hello",
            "email_on_complete": "",
            "email_on_error": False,
            "scheduled_for": NOON,
            **values,
        }
    )


def result_of(**values: Any) -> Result:
    return Result(
        **{
            "status": "succeeded",
            "started_at": NOON,
            "finished_at": NOON + timedelta(seconds=1),
            "exit_code": 0,
            "duration_ms": 1000,
            "output": "hello\n",
            **values,
        }
    )


def mail_settings(**values: Any) -> Settings:
    return load_settings(
        **{"smtp_host": "127.0.0.1", "timezone": "Asia/Ho_Chi_Minh", "smtp_from": "wsp@x.org", **values}
    )


def parsed(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


class TestRecipient:
    @pytest.mark.parametrize(
        ("address", "on_error", "ok", "expected"),
        [
            ("", False, True, ""),
            ("", False, False, ""),
            ("", True, True, ""),
            ("", True, False, "owner@x.org"),
            ("job@x.org", False, True, "job@x.org"),
            ("job@x.org", False, False, "job@x.org"),
            ("job@x.org", True, True, "job@x.org"),
            ("job@x.org", True, False, "job@x.org"),
        ],
    )
    def test_the_contracts_table(self, address: str, on_error: bool, ok: bool, expected: str) -> None:
        run = run_of(email_on_complete=address, email_on_error=on_error)
        assert recipient(run, ok=ok, owner_email="owner@x.org") == expected


class TestCompose:
    def compose(self, run: PlannedRun, result: Result, to: str = "job@x.org") -> EmailMessage:
        return parsed(bytes(compose(run, result, to, "wsp@x.org", mail_settings())))

    def test_subject_and_body(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notify, "node_name", lambda: "web1")
        message = self.compose(run_of(), result_of(status="failed", exit_code=3, output="no such file\n"))
        assert message["Subject"] == "[web1] cron job nightly failed with exit code 3"
        assert (message["To"], message["From"]) == ("job@x.org", "wsp@x.org")
        assert message["Auto-Submitted"] == "auto-generated"
        body = message.get_content()
        assert "Exit code:  3\n" in body
        assert "Due:        2026-05-18T19:00:00+07:00\n" in body
        assert "Duration:   1.000 s\n" in body
        assert body.endswith("Its output:\n\nno such file\n\n")

    @pytest.mark.parametrize(
        "name",
        [
            "x\r\nBcc: victim@x.org",
            "x\nBcc: victim@x.org",
            "x\r\n\r\nbody",
            "x\rBcc: a@b.c",
            "x\N{LINE SEPARATOR}Bcc: a@b.c",
            "x\0y",
            "ü" * 300,
        ],
    )
    def test_a_name_cannot_make_headers(self, name: str) -> None:
        message = self.compose(run_of(name=name, command=name), result_of())
        assert message.keys() == [
            "Subject",
            "From",
            "To",
            "Date",
            "Message-ID",
            "Auto-Submitted",
            "Content-Type",
            "Content-Transfer-Encoding",
            "MIME-Version",
        ]
        assert message["Subject"].startswith("[")

    @pytest.mark.parametrize("to", ["a@b.c\nBcc: x@y.z", "a@b.c, x@y.z", "no address", "a@b.c\r\n", "@", "<a@b.c>"])
    def test_an_address_that_is_none_is_refused(self, to: str) -> None:
        with pytest.raises(ValueError, match=r".+"):
            self.compose(run_of(), result_of(), to)

    def test_only_the_end_of_a_long_output(self) -> None:
        body = self.compose(run_of(), result_of(output="first\n" + "x" * 50_000 + "\nlast\n")).get_content()
        assert "The end of its output:" in body
        assert "first" not in body
        assert "last" in body

    def test_odd_output_is_mailable(self) -> None:
        message = compose(
            run_of(), result_of(output="é\x1b[31m\x07" + "y" * 5000), "job@x.org", "wsp@x.org", mail_settings()
        )
        data = bytes(message)
        assert data.isascii()
        assert max(map(len, data.splitlines())) < 998
        assert "é·[31m·yyy" in parsed(data).get_content()


class Sink:
    """A mail server that keeps what it gets, or refuses it with `reply`."""

    def __init__(self) -> None:
        self.mails: list[Envelope] = []
        self.replies: list[str] = []
        self.asked = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.asked += 1
        if self.replies:
            return self.replies.pop(0)
        self.mails.append(envelope)
        return "250 OK"


@pytest.fixture
def sink(free_port: Callable[[], int]) -> Iterator[tuple[Sink, int]]:
    """A mail server on the loopback, and its port."""
    handler, port = Sink(), free_port()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, port
    controller.stop()


async def settled(mailer: Mailer) -> None:
    """Wait until no mail is under way."""
    while mailer._mails:
        await asyncio.wait(mailer._mails)


def announce(port: int, *runs: tuple[PlannedRun, Result]) -> None:
    async def main() -> None:
        mailer = Mailer(mail_settings(smtp_port=port))
        for run, result in runs:
            mailer.announce(run, result, "owner@x.org")
        await settled(mailer)

    asyncio.run(main())


class TestMailer:
    def test_one_mail_a_run(self, sink: tuple[Sink, int]) -> None:
        handler, port = sink
        run = run_of(email_on_complete="job@x.org", email_on_error=True)
        announce(port, (run, result_of()), (run, result_of(status="failed", exit_code=1)), (run_of(), result_of()))
        assert [mail.rcpt_tos for mail in handler.mails] == [["job@x.org"], ["job@x.org"]]

    def test_the_owner_is_told_of_a_failure(self, sink: tuple[Sink, int]) -> None:
        handler, port = sink
        announce(port, (run_of(email_on_error=True), result_of(status="lost", exit_code=None, reason="it was gone")))
        [mail] = handler.mails
        assert mail.rcpt_tos == ["owner@x.org"]
        assert isinstance(mail.content, bytes)
        assert "Reason:     it was gone\r\n" in parsed(mail.content).get_content()

    def test_a_temporary_refusal_is_tried_again(self, sink: tuple[Sink, int], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notify, "RETRY_AFTER_SECONDS", (0.01, 0.01))
        handler, port = sink
        handler.replies = ["451 later", "452 later"]
        announce(port, (run_of(email_on_complete="job@x.org"), result_of()))
        assert (handler.asked, len(handler.mails)) == (3, 1)

    def test_a_refusal_for_good_is_not(self, sink: tuple[Sink, int]) -> None:
        handler, port = sink
        handler.replies = ["554 no"]
        announce(port, (run_of(email_on_complete="job@x.org"), result_of()))
        assert (handler.asked, len(handler.mails)) == (1, 0)

    def test_nobody_listens(
        self, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(notify, "RETRY_AFTER_SECONDS", (0.01,))
        announce(free_port(), (run_of(email_on_complete="job@x.org"), result_of()))
        assert "no mail about run 7" in caplog.text

    def test_a_bad_address_concerns_nobody_else(self, sink: tuple[Sink, int], caplog: pytest.LogCaptureFixture) -> None:
        handler, port = sink
        announce(
            port,
            (run_of(email_on_complete="no address"), result_of()),
            (run_of(run_id=8, email_on_complete="job@x.org"), result_of()),
        )
        assert "no mail about run 7, its address cannot be used" in caplog.text
        assert len(handler.mails) == 1

    def test_a_server_that_hangs_delays_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:

            async def main() -> float:
                mailer = Mailer(mail_settings(smtp_port=silent.getsockname()[1]))
                begin = time.monotonic()
                for _ in range(50):
                    mailer.announce(run_of(email_on_complete="job@x.org"), result_of(), "")
                announced = time.monotonic() - begin
                await mailer.stop(0.2)
                return announced

            assert asyncio.run(main()) < 1
        assert "50 mails were not sent" in caplog.text

    def test_without_a_mail_server_none_is_sent(self) -> None:
        async def main() -> int:
            mailer = Mailer(mail_settings(smtp_host=None))
            mailer.announce(run_of(email_on_complete="job@x.org"), result_of(), "")
            return len(mailer._mails)

        assert asyncio.run(main()) == 0
