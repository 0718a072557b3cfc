"""Mails about runs. One mail a run at most; trouble with mail never delays or fails a run."""

import asyncio
import logging
import unicodedata
from datetime import datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

import aiosmtplib

from wsp.cron.planner import PlannedRun
from wsp.cron.records import Result
from wsp.heartbeat import node_name
from wsp.settings import Settings

SEND_SECONDS = 20.0
RETRY_AFTER_SECONDS = (2.0, 30.0, 300.0)
MAX_WAITING = 1000  # beyond this, mails are dropped and said so: a mail server that hangs must not eat the memory
CONCURRENT = 4
BODY_CHARACTERS = 10_000  # of the end of the output: the log has the rest
SUBJECT_CHARACTERS = 200

logger = logging.getLogger(__name__)


def recipient(run: PlannedRun, *, ok: bool, owner_email: str) -> str:
    """Who gets the mail about a run, "" for nobody.

    The job's address for every run; without one, the owner's for a run that failed, if the job asks for that.
    """
    if run.email_on_complete:
        return run.email_on_complete
    return owner_email if run.email_on_error and not ok else ""


def compose(run: PlannedRun, result: Result, to: str, sender: str, settings: Settings) -> EmailMessage:
    """The mail about a run. Raises ValueError when `to` is not an address.

    Names come from users: whatever could end a header line is replaced.
    """
    if not to.isprintable():
        raise ValueError("an address has no control characters")
    try:
        address = Address(addr_spec=to)
    except HeaderParseError as error:
        raise ValueError(str(error)) from error
    message = EmailMessage()
    subject = f"[{node_name()}] cron job {_one_line(run.name)} {outcome(result)}"
    message["Subject"] = subject[:SUBJECT_CHARACTERS]
    message["From"] = sender
    message["To"] = address
    message["Date"] = format_datetime(result.finished_at)
    message["Message-ID"] = make_msgid(domain=_one_line(node_name()))
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    message.set_content(_body(run, result, settings), cte="quoted-printable")
    return message


def outcome(result: Result) -> str:
    """How a run ended, in a few words."""
    if result.status == "failed" and result.exit_code is not None:
        return f"failed with exit code {result.exit_code}"
    return {
        "succeeded": "succeeded",
        "failed": "could not be started",
        "killed": "was ended",
        "lost": "was lost",
    }[result.status]


def _body(run: PlannedRun, result: Result, settings: Settings) -> str:
    def shown(instant: datetime | None) -> str:
        return "-" if instant is None else instant.astimezone(settings.zone).isoformat(timespec="seconds")

    facts = {
        "Job": f"{_one_line(run.name)} ({run.job_id})",
        "Command": _one_line(run.command)[:1000],
        "Owner": run.owner,
        "Host": node_name(),
        "Outcome": outcome(result),
        "Reason": result.reason,
        "Exit code": "-" if result.exit_code is None else str(result.exit_code),
        "Due": shown(run.scheduled_for),
        "Started": shown(result.started_at),
        "Finished": shown(result.finished_at),
        "Duration": "-" if result.duration_ms is None else f"{result.duration_ms / 1000:.3f} s",
    }
    lines = [f"{name + ':':<11} {value}" for name, value in facts.items() if value]
    output = result.output[-BODY_CHARACTERS:]
    cut = len(output) < len(result.output) or result.output_truncated
    title = "The end of its output:" if cut else "Its output:" if output else "It wrote nothing."
    return "\n".join([*lines, "", title, "", _mailable(output), ""])


def _one_line(text: str) -> str:
    return "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") else char for char in text)


def _mailable(text: str) -> str:
    """Without the control characters that a mail reader could take for commands to the terminal."""
    return "".join(char if char in "\n\t" or unicodedata.category(char) != "Cc" else "·" for char in text)


class Mailer:
    """Sends mails in the background, a few at a time. Lives on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sender = settings.smtp_from or f"wsp@{node_name()}"
        self._mails: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(CONCURRENT)

    def announce(self, run: PlannedRun, result: Result, owner_email: str) -> None:
        """Send the mail about a run, if there is to be one. Returns at once, never raises."""
        to = recipient(run, ok=result.ok, owner_email=owner_email)
        if not to or not self._settings.smtp_host:
            return
        if len(self._mails) >= MAX_WAITING:
            logger.error("no mail about run %s: %s mails are waiting already", run.run_id, MAX_WAITING)
            return
        mail = asyncio.create_task(self._deliver(run, result, to), name=f"mail-{run.run_id}")
        self._mails.add(mail)
        mail.add_done_callback(self._mails.discard)

    async def stop(self, patience: float) -> None:
        """Give the waiting mails `patience` seconds, then drop them, and say so."""
        if not self._mails:
            return
        _, unsent = await asyncio.wait(self._mails, timeout=patience)
        if unsent:
            logger.warning("%s mails were not sent, the scheduler stops", len(unsent))
        for mail in unsent:
            mail.cancel()
        await asyncio.gather(*unsent, return_exceptions=True)

    async def _deliver(self, run: PlannedRun, result: Result, to: str) -> None:
        try:
            message = compose(run, result, to, self._sender, self._settings)
        except ValueError as error:
            logger.error("no mail about run %s, its address cannot be used: %s", run.run_id, error)
            return
        for pause in (*RETRY_AFTER_SECONDS, None):
            try:
                async with self._places:
                    await self._send(message)
            except (aiosmtplib.SMTPException, OSError, ValueError) as error:
                if pause is None or _is_permanent(error):
                    logger.error("no mail about run %s: %s", run.run_id, error)
                    return
                logger.warning("mail about run %s is tried again in %s s: %s", run.run_id, pause, error)
                await asyncio.sleep(pause)
            except Exception:  # a mail that brings about something unforeseen concerns nobody else
                logger.exception("no mail about run %s", run.run_id)
                return
            else:
                return

    async def _send(self, message: EmailMessage) -> None:
        settings = self._settings
        async with asyncio.timeout(SEND_SECONDS):
            await aiosmtplib.send(
                message,
                hostname=settings.smtp_host,
                port=settings.smtp_port,
                username=settings.smtp_username,
                password=settings.smtp_password.get_secret_value() if settings.smtp_password else None,
                use_tls=settings.smtp_tls == "tls",
                start_tls=settings.smtp_tls == "starttls",
                timeout=SEND_SECONDS / 2,
            )


def _is_permanent(error: Exception) -> bool:
    """Was the mail refused for good (RFC 5321: a reply of 500 or above), so that trying again is no use?"""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(refused.code >= 500 for refused in error.recipients)
    return isinstance(error, ValueError | aiosmtplib.SMTPNotSupported) or (
        isinstance(error, aiosmtplib.SMTPResponseException) and error.code >= 500
    )
