"""What the mails about runs and jobs say. No database here.

Names and outputs come from users: whatever could end a header line, or command a terminal, is replaced.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from zoneinfo import ZoneInfo

from wsp.cron.models import SKIPPED, SUCCEEDED
from wsp.cron.planning.work import End, Job, Result
from wsp.cron.runner.frames import readable
from wsp.cron.runner.orders import Output
from wsp.heartbeat import node_name

BODY_CHARACTERS = 10_000  # of the end of the output: the log has the rest
COMMAND_CHARACTERS = 1000
SUBJECT_CHARACTERS = 200

_LINE_ENDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_OUTCOMES = {
    "succeeded": "succeeded",
    "failed": "could not be started",
    "timed_out": "timed out",
    "killed": "was ended",
    "lost": "was lost",
    "skipped": "failed and was not tried again",  # a retry that was skipped: of others there are no mails
}
_TRIGGERS = {
    "schedule": "its schedule",
    "missed": "its schedule, late",
    "manual": "somebody who ran it",
    "retry": "run {cause}, which failed",
    "after": "run {cause}, which it follows",
    "reboot": "the start of the cron service",
}


@dataclass(frozen=True)
class Text:
    """A mail's subject and body."""

    subject: str
    body: str


@dataclass(frozen=True)
class Unusual:
    """How long a run took, or has been taking so far, and how long those of its job usually do."""

    duration: timedelta
    usual: timedelta

    def __str__(self) -> str:
        return f"{seconds(self.duration)}, usually {seconds(self.usual)}"


def outcome(result: Result) -> str:
    """How a run ended, in a few words."""
    if result.status == "failed" and result.exit_code is not None:
        return f"failed with exit code {result.exit_code}"
    return _OUTCOMES[result.status]


def about_end(
    end: End,
    zone: ZoneInfo,
    public_url: str | None,
    *,
    failures: int = 0,
    recovered: bool = False,
    unusual: Unusual | None = None,
) -> Text:
    """The mail about a run that is over. `failures`: how many in a row it makes."""
    run, result = end.run, end.result
    what = outcome(result)
    if result.status == SUCCEEDED:
        what = "works again" if recovered else f"took {unusual}" if unusual else what
    elif failures > 1 and run.job.policy.alert_on:  # else each run has a mail, and the same outcome the same subject
        what += f", {failures} times in a row"
    cause = run.cause_run_id if run.cause_run_id is not None else "?"
    facts = {
        "Outcome": outcome(result),
        "Reason": one_line(result.reason),
        "Exit code": "-" if result.exit_code is None else str(result.exit_code),
        "Due": shown(run.scheduled_for, zone),
        "Started": shown(result.started_at, zone),
        "Finished": shown(result.finished_at, zone),
        "Duration": "-" if result.duration_ms is None else f"{result.duration_ms / 1000:.3f} s",
        "Unusual": "" if unusual is None else str(unusual),
        "Started by": _TRIGGERS[run.trigger].format(cause=cause),
        "Attempt": "" if run.attempt == 1 else str(run.attempt),
        "In a row": "" if failures < 2 else f"{failures} failures",
        "Run": _link(public_url, run.job.id, run.run_id) or str(run.run_id),
    }
    output = [] if result.status == SKIPPED else _output(result.output)
    return Text(subject(run.job.name, what), _body(run.job, facts, output))


def about_running(
    job: Job, run_id: int, started_at: datetime, unusual: Unusual, zone: ZoneInfo, public_url: str | None
) -> Text:
    """The mail about a run that goes on for unusually long."""
    facts = {
        "Outcome": "it still runs",
        "Started": shown(started_at, zone),
        "So far": seconds(unusual.duration),
        "Usually": seconds(unusual.usual),
        "Run": _link(public_url, job.id, run_id) or str(run_id),
    }
    what = f"has been running for {unusual}"
    return Text(subject(job.name, what), _body(job, facts))


def about_overdue(job: Job, more: Mapping[str, str], public_url: str | None) -> Text:
    """The mail about a job that has not succeeded in time. `more` are facts by name, one line each."""
    link = f"{public_url}/api/v1/cronjobs/{job.id}" if public_url else ""
    return Text(subject(job.name, "is overdue"), _body(job, {"Outcome": "no success in time", **more, "Link": link}))


def about_withheld(name: str, counts: Sequence[tuple[str, int]], total: int, since: datetime, zone: ZoneInfo) -> Text:
    """The mail that stands for `total` others. `counts` are some of their subjects, and how many had it."""
    lines = [
        f"{total} more mails about this job were due since {shown(since, zone)}, and were not sent:",
        "there is a limit of mails an hour.",
        "",
        *(f"{count:>6} x  {one_line(text)}" for text, count in counts),
    ]
    if (left := total - sum(count for _, count in counts)) > 0:
        lines.append(f"{left:>6} x  others")
    return Text(subject(name, f"{total} mails were withheld"), "\n".join([*lines, ""]))


def subject(job_name: str, what: str) -> str:
    """The subject of a mail about a job: this machine, the job, and what is to be said, on one line."""
    start = f"[{one_line(node_name())}] cron job {one_line(job_name)}"
    # What happened has to be there, however long the name.
    return f"{start[: SUBJECT_CHARACTERS - len(what) - 1]} {what}"


def compose(recipient: str, sender: str, text: Text, date: datetime, message_id: str) -> EmailMessage:
    """The mail itself. Raises ValueError when `recipient` is not one address."""
    if not recipient.isprintable():
        raise ValueError("an address has no control characters")
    try:
        address = _address(recipient)
    except (HeaderParseError, IndexError) as error:
        raise ValueError(str(error) or "it is no address") from error
    message = EmailMessage()
    message["Subject"] = one_line(text.subject)
    message["From"] = sender
    message["To"] = address
    message["Date"] = format_datetime(date)
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    message.set_content(text.body, cte="quoted-printable")
    return message


def _address(recipient: str) -> Address:
    name, _, host = recipient.rpartition("@")
    if not host.isascii():  # as every mail server understands it
        from email_validator import validate_email  # with its tables of letters, which hardly anybody needs

        host = validate_email(f"x@{host}", check_deliverability=False, globally_deliverable=False).ascii_domain
    # `Address` refuses to read a name of other letters, which is fine where the mail server has SMTPUTF8 (RFC 6531).
    return Address(addr_spec=f"{name}@{host}") if name.isascii() else Address(username=name, domain=host)


def shown(instant: datetime | None, zone: ZoneInfo) -> str:
    """A time as mails show it, "-" for none."""
    return "-" if instant is None else instant.astimezone(zone).isoformat(timespec="seconds")


def seconds(duration: timedelta) -> str:
    """A duration for a person: `0.4 s`, `75 s`, `1:02:30`."""
    total = duration.total_seconds()
    if total < 10:
        return f"{total:.1f} s"
    return f"{total:.0f} s" if total < 120 else str(timedelta(seconds=round(total)))


def one_line(text: str) -> str:
    """The text without anything that could end a line."""
    return _LINE_ENDS.sub(" ", text)


def tail(output: Output, characters: int) -> tuple[str, bool]:
    """The end of an output, and whether there is more of it than that."""
    text, cut = readable(output.frames)
    return text[-characters:], cut or len(text) > characters or output.in_file


def _body(job: Job, facts: Mapping[str, str], output: Sequence[str] = ()) -> str:
    named = {
        "Job": f"{one_line(job.name)} ({job.id})",
        "Command": one_line(job.command)[:COMMAND_CHARACTERS],
        "Owner": job.owner,
        "Host": node_name(),
        **facts,
    }
    width = max(map(len, named)) + 2
    lines = [f"{name + ':':<{width}}{value}" for name, value in named.items() if value]
    return "\n".join([*lines, *output, ""])


def _output(output: Output) -> list[str]:
    text, cut = tail(output, BODY_CHARACTERS)
    title = "The end of its output:" if cut else "Its output:" if text else "It wrote nothing."
    return ["", title, "", _CONTROLS.sub("·", text.replace("\r\n", "\n"))]


def _link(public_url: str | None, job_id: int, run_id: int) -> str:
    return f"{public_url}/api/v1/cronjobs/{job_id}/runs/{run_id}" if public_url else ""
