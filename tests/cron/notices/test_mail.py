"""What is in the mails."""

import email
import email.policy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from wsp.cron.notices import mail
from wsp.cron.notices.mail import (
    Text,
    Unusual,
    about_end,
    about_overdue,
    about_running,
    about_withheld,
    compose,
    seconds,
)
from wsp.cron.planning.work import End

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
HANOI = ZoneInfo("Asia/Ho_Chi_Minh")
URL = "https://panel.example.com"
USUALLY_TEN = Unusual(timedelta(seconds=75), timedelta(seconds=10))


@pytest.fixture(autouse=True)
def _on_web1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "node_name", lambda: "web1")


def sent(text: Text, to: str = "job@example.org") -> EmailMessage:
    """The mail as it arrives."""
    message = compose(to, "wsp@example.org", text, NOON, "<1@web1>")
    parsed = email.message_from_bytes(bytes(message), policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


@pytest.fixture
def about(end_of: Callable[..., End], job_of: Callable[..., Any]) -> Callable[..., EmailMessage]:
    """The mail about a run with such values, as it arrives."""

    def make(
        status: str = "succeeded", *, job: Any = None, told: dict[str, Any] | None = None, **values: Any
    ) -> EmailMessage:
        return sent(about_end(end_of(job or job_of(), 7, status, **values), HANOI, URL, **(told or {})))

    return make


class TestAboutAnEnd:
    def test_says_what_happened(self, about: Any) -> None:
        message = about("failed", output="no such file\n", reason="because")
        assert message["Subject"] == "[web1] cron job nightly failed with exit code 3"
        assert (message["To"], message["From"]) == ("job@example.org", "wsp@example.org")
        assert message["Auto-Submitted"] == "auto-generated"
        assert message["Message-ID"] == "<1@web1>"
        lines = message.get_content().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        assert {name: value.strip() for name, value in facts.items()} == {
            "Job": "nightly (5)",
            "Command": "echo hello",
            "Owner": "admin",
            "Host": "web1",
            "Outcome": "failed with exit code 3",
            "Reason": "because",
            "Exit code": "3",
            "Due": "2026-05-18T19:00:00+07:00",
            "Started": "2026-05-18T19:00:00+07:00",
            "Finished": "2026-05-18T19:00:01+07:00",
            "Duration": "1.000 s",
            "Started by": "its schedule",
            "Run": f"{URL}/api/v1/cronjobs/5/runs/7",
            "Its output": "",
        }
        assert lines[-2:] == ["no such file", ""]

    @pytest.mark.parametrize(
        ("status", "values", "told", "ending"),
        [
            ("succeeded", {}, {}, "nightly succeeded"),
            ("succeeded", {}, {"recovered": True}, "nightly works again"),
            ("succeeded", {}, {"unusual": USUALLY_TEN}, "nightly took 75 s, usually 10 s"),
            ("failed", {}, {"failures": 1}, "nightly failed with exit code 3"),
            ("failed", {}, {"failures": 20}, "nightly failed with exit code 3"),
            ("failed", {"exit_code": None}, {}, "nightly could not be started"),
            ("timed_out", {}, {}, "nightly timed out"),
            ("killed", {}, {}, "nightly was ended"),
            ("lost", {}, {}, "nightly was lost"),
        ],
    )
    def test_its_subject_ends_with_the_outcome(
        self, about: Any, status: str, values: Any, told: Any, ending: str
    ) -> None:
        assert about(status, told=told, **values)["Subject"] == f"[web1] cron job {ending}"

    def test_an_alert_counts_the_failures(self, about: Any, job_of: Any) -> None:
        job = job_of(policy={"alert_on": ("nth_failure",)})
        message = about("failed", job=job, told={"failures": 20})
        assert message["Subject"] == "[web1] cron job nightly failed with exit code 3, 20 times in a row"
        assert "In a row:   20 failures\n" in message.get_content()

    def test_names_the_cause_and_the_attempt(self, about: Any) -> None:
        body = about("failed", run={"trigger": "retry", "attempt": 3, "cause_run_id": 6}).get_content()
        assert "Started by: run 6, which failed\n" in body
        assert "Attempt:    3\n" in body
        body = about(run={"trigger": "after", "cause_run_id": 4}).get_content()
        assert "Started by: run 4, which it follows\n" in body
        assert "Attempt" not in body

    def test_without_a_public_url_it_names_the_run(self, end_of: Any, job_of: Any) -> None:
        assert "Run:        7\n" in about_end(end_of(job_of()), HANOI, None).body

    def test_has_only_the_end_of_a_long_output(self, about: Any) -> None:
        body = about(output="first\n" + "x" * 50_000 + "\nlast\n").get_content()
        assert "The end of its output:" in body
        assert "first" not in body
        assert "last" in body
        assert len(body) < mail.BODY_CHARACTERS + 1000

    def test_a_silent_command(self, about: Any) -> None:
        assert about(output="").get_content().rstrip().endswith("It wrote nothing.")

    def test_odd_output_is_mailable(self, about: Any, end_of: Any, job_of: Any) -> None:
        output = "é\x1b[31m\x07" + "y" * 5000 + "\r\nz"
        data = bytes(
            compose("a@b.c", "wsp@x.org", about_end(end_of(job_of(), output=output), HANOI, None), NOON, "<1@x>")
        )
        assert data.isascii()
        assert max(map(len, data.splitlines())) < 998
        body = about(output=output).get_content()
        assert "é·[31m·yyy" in body
        assert "y\nz" in body


class TestHeaders:
    @pytest.mark.parametrize(
        "name",
        [
            "x\r\nBcc: victim@x.org",
            "x\nBcc: victim@x.org",
            "x\r\n\r\nbody",
            "x\rBcc: a@b.c",
            "x\N{LINE SEPARATOR}Bcc: a@b.c",
            "x\x85Bcc: a@b.c",
            "x\0y",
            "x\ud800y",
            "ü" * 300,
        ],
    )
    def test_a_name_cannot_make_them(self, about: Any, job_of: Any, name: str) -> None:
        job = job_of(name=name, command=name)
        for message in (
            about("failed", job=job),
            sent(about_overdue(job, {"Last run": "never"}, URL)),
            sent(about_running(job, 7, NOON, USUALLY_TEN, HANOI, URL)),
            sent(about_withheld(name, [(name, 3)], 3, NOON, HANOI)),
        ):
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
            # A line of just the wrong length is folded before its first word.
            assert message["Subject"].lstrip().startswith("[web1] cron job ")
            assert len(message["Subject"]) <= mail.SUBJECT_CHARACTERS

    def test_a_long_name_leaves_room_for_the_outcome(self, about: Any, job_of: Any) -> None:
        assert about("failed", job=job_of(name="n" * 300))["Subject"].endswith("n failed with exit code 3")

    @pytest.mark.parametrize(
        "to", ["a@b.c\nBcc: x@y.z", "a@b.c, x@y.z", "no address", "a@b.c\r\n", "@", "<a@b.c>", "", "a@"]
    )
    def test_an_address_that_is_none_is_refused(self, to: str) -> None:
        with pytest.raises(ValueError, match=r".+"):
            compose(to, "wsp@example.org", Text("hello", "hello"), NOON, "<1@web1>")


class TestOtherMails:
    def test_about_a_run_that_goes_on(self, job_of: Any) -> None:
        text = about_running(job_of(), 7, NOON, USUALLY_TEN, HANOI, URL)
        assert text.subject == "[web1] cron job nightly has been running for 75 s, usually 10 s"
        assert f"{URL}/api/v1/cronjobs/5/runs/7" in text.body

    def test_about_a_job_that_is_overdue(self, job_of: Any) -> None:
        text = about_overdue(job_of(), {"Last run": "never", "Cron service": "it does not run"}, URL)
        assert text.subject == "[web1] cron job nightly is overdue"
        assert "Cron service: it does not run\n" in text.body
        assert f"{URL}/api/v1/cronjobs/5\n" in text.body

    def test_about_those_that_were_withheld(self) -> None:
        text = about_withheld("nightly", [("failed", 90), ("succeeded", 5)], 100, NOON, HANOI)
        assert text.subject == "[web1] cron job nightly 100 mails were withheld"
        assert "100 more mails about this job were due since 2026-05-18T19:00:00+07:00" in text.body
        assert "    90 x  failed\n     5 x  succeeded\n     5 x  others\n" in text.body

    @pytest.mark.parametrize(
        ("duration", "text"), [(0.44, "0.4 s"), (9.96, "10.0 s"), (75.4, "75 s"), (3750.2, "1:02:30")]
    )
    def test_durations(self, duration: float, text: str) -> None:
        assert seconds(timedelta(seconds=duration)) == text
