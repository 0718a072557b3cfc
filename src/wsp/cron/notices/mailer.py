"""Sends the mails that are owed.

Threads are made when there is something to send, and end when there is not. Each has an event loop of its own for the
length of a mail: what is sent is sent within WHOLE_SECONDS, however slowly the server answers.
"""

import asyncio
import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from email.message import EmailMessage
from email.utils import parseaddr

from sqlalchemy.exc import SQLAlchemyError

from wsp.cron.notices import mail, outbox
from wsp.cron.notices.outbox import Taken
from wsp.database import Database, utc_now
from wsp.heartbeat import node_name
from wsp.settings import Settings

THREADS = 4
CONNECT_SECONDS = 10.0  # to each address of the mail server
GOODBYE_SECONDS = 1.0
WHOLE_SECONDS = 40.0  # of an attempt, well below outbox.LEASE_SECONDS: later than that nothing is sent

logger = logging.getLogger(__name__)


class Refused(Exception):
    """The mail was not accepted. `for_good`: it never will be."""

    def __init__(self, sentence: str, *, for_good: bool = False) -> None:
        super().__init__(sentence)
        self.for_good = for_good


class Mailer:
    """Sends what is due, on threads. Several mailers, in any processes, share the work."""

    def __init__(self, settings: Settings, database: Database, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._stopping = False

    def send_due(self) -> None:
        """Have a thread send what is due; it gets help if that is much. Returns at once."""
        with self._lock:
            if self._stopping or len(self._threads) >= THREADS:
                return
            # A daemon: a mail server that hangs must not keep the process from ending.
            thread = threading.Thread(target=self._send_what_is_due, name="mail", daemon=True)
            thread.start()
            self._threads.add(thread)  # not before: one that could not be started would keep its place for ever

    def close(self, patience: float) -> None:
        """Take nothing more, and give what is under way `patience` seconds; then its lease runs out."""
        with self._lock:
            self._stopping = True
            threads = tuple(self._threads)
        deadline = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _send_what_is_due(self) -> None:
        try:
            while not self._stopping and (taken := self._take()) is not None:
                self.send_due()  # there may be more
                self._send(taken)
        except SQLAlchemyError as error:
            logger.warning("mails wait: %s", error)
        except Exception:  # the mail is taken again when its lease has run out
            logger.exception("a mail was not sent or not noted")
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _take(self) -> Taken | None:
        with self._database.transaction(announce=False) as session:
            return outbox.claim(session, self._clock(), self._settings.zone)

    def _send(self, taken: Taken) -> None:
        error, for_good = "", False
        try:
            self._attempt(taken)
        except Refused as refused:
            error, for_good = str(refused), refused.for_good
        except Exception as unforeseen:  # tried again and given up like any other, where everybody can see it
            logger.exception("mail %s was not sent", taken.notice_id)
            error = f"It could not be sent: {type(unforeseen).__name__}"
        jitter = random.random()  # noqa: S311 - not a secret
        with self._database.transaction(announce=False) as session:
            status = outbox.record(session, taken, error, self._clock(), for_good=for_good, jitter=jitter)
        if error:
            logger.warning("mail %s to %s is %s: %s", taken.notice_id, taken.recipient, status, error)
        else:
            logger.info("mail %s to %s is %s", taken.notice_id, taken.recipient, status)

    def _attempt(self, taken: Taken) -> None:
        settings, host = self._settings, mail.one_line(node_name())
        sender = settings.smtp_from or f"wsp@{host}"
        # The same with every attempt: whoever gets a mail twice can see that it is one.
        domain = parseaddr(sender)[1].rpartition("@")[2]
        message_id = f"<wsp-{taken.notice_id}-{taken.created_at:%Y%m%d%H%M%S%f}@{domain}>"
        try:
            message = mail.compose(taken.recipient, sender, taken.text, taken.created_at, message_id)
        except ValueError as error:
            raise Refused(f"The address cannot be used: {error}", for_good=True) from error
        _deliver(message, settings, host)


def _deliver(message: EmailMessage, settings: Settings, host: str) -> None:
    """Hand a mail to the mail server. Blocks. Raises Refused."""
    # With the first mail: a process that sends none need not carry it.
    import aiosmtplib

    begun = time.monotonic()

    async def deliver(connected: socket.socket) -> None:
        client = aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=None,  # that of the socket
            sock=connected,
            local_hostname=host,  # else it is looked up
            username=settings.smtp_username,
            password=settings.smtp_password.get_secret_value() if settings.smtp_password else None,
            use_tls=settings.smtp_tls == "tls",
            start_tls=settings.smtp_tls == "starttls",
            timeout=None,  # the one below is for all of it
        )
        try:
            async with asyncio.timeout(WHOLE_SECONDS - (time.monotonic() - begun)):
                await client.connect()
                await client.send_message(message)
        finally:
            # The mail was accepted, or was not: what becomes of the goodbye changes nothing about that.
            with suppress(aiosmtplib.SMTPException, OSError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await client.quit()
            client.close()

    try:
        # Here, for asyncio would look the name up on a thread that nothing can end.
        address = settings.smtp_host or "", settings.smtp_port
        with socket.create_connection(address, timeout=CONNECT_SECONDS) as connected:
            asyncio.run(deliver(connected))
    except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPDataError, aiosmtplib.SMTPRecipientRefused) as error:
        # A reply of 500 or above is meant for good (RFC 5321 4.2.1).
        raise Refused(_sentence(error.code, error.message), for_good=error.code >= 500) from error
    except aiosmtplib.SMTPRecipientsRefused as error:
        refused = error.recipients[0]
        raise Refused(_sentence(refused.code, refused.message), for_good=refused.code >= 500) from error
    except aiosmtplib.SMTPResponseException as error:
        # Of the greeting or the login: a mistake in the settings, which somebody may put right.
        raise Refused(_sentence(error.code, error.message)) from error
    except TimeoutError as error:  # aiosmtplib's are such, too
        raise Refused("The mail server did not answer in time") from error
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        said = mail.one_line(str(error)) or type(error).__name__
        raise Refused(f"The mail server cannot be used: {said}") from error


def _sentence(code: int, message: str) -> str:
    return f"The mail server answered {code} {mail.one_line(message)}"
