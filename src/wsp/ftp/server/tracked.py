"""A session that keeps account of itself: who it is, what it does, what came of it."""

import logging
import os
import time
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from OpenSSL import SSL
from pyftpdlib.ioloop import timer

from wsp.database import utc_now
from wsp.ftp.logins import Login
from wsp.ftp.reports import Direction, EndedSession, EndedTransfer
from wsp.ftp.server.activity import REFUSALS_RECORDED, Activity
from wsp.ftp.server.data import DataChannel
from wsp.ftp.server.deploying import DeployCommands
from wsp.ftp.server.upload import Upload

RECORDED = ("APPE", "RETR", "STOR", "STOU")  # commands whose transfers are written down; listings are not
CLIENT_CHARS = 100
ABORTED = "The client aborted the transfer."
BROKE_OFF = "The connection of the session ended."
NO_DATA_CONNECTION = "No data connection was made."

logger = logging.getLogger(__name__)


class _Asked(NamedTuple):
    """A transfer that was asked for: when, and for what. `since` is of the loop's clock."""

    command: str
    path: str
    ascii: bool
    tls: bool
    at: datetime
    since: float


class TrackedSession(DeployCommands):
    """What it does is reported: see `Reporter`."""

    proto_cmds = DeployCommands.proto_cmds | {
        "CLNT": {"perm": None, "auth": False, "arg": True, "help": "Syntax: CLNT <SP> name (what the client is)."}
    }

    # pyftpdlib is untyped: these are its own.
    started: float
    _current_type: str

    def __init__(self, conn: Any, server: Any, ioloop: Any = None) -> None:
        self.client = ""
        self.activity = Activity(utc_now())
        self._asked: _Asked | None = None  # until it is answered
        self._underway: _Asked | None = None  # from the first answer to the end of the transfer
        self._measured = (0.0, 0)
        super().__init__(conn, server, ioloop)
        if self.connected:
            self._extra_feats.append("CLNT")

    def ftp_CLNT(self, line: str) -> None:
        """What the client says it is. No RFC has it; many clients and servers do."""
        self.client = "".join(char for char in line if char.isprintable())[:CLIENT_CHARS]
        self._note_change()
        self.respond("200 Noted.")

    def ftp_ABOR(self, line: str) -> None:
        if self.data_channel is not None:
            self.data_channel.reason = ABORTED
        super().ftp_ABOR(line)

    @property
    def tls(self) -> str:
        """The version of TLS on the control connection, as in `TLSv1.3`; empty in clear text."""
        if not self._ssl_established or not isinstance(self.socket, SSL.Connection):
            return ""
        return str(self.socket.get_protocol_version_name())

    # What it is doing

    def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
        # What is no command may be a password in the wrong place.
        if self.authenticated and (cmd == "SITE" or cmd in self.proto_cmds):
            self.activity.command = cmd
            self.activity.active_at = utc_now()
            self.activity.farewell = ""
            self._note_change()
            if cmd in RECORDED and (arg or cmd == "STOU"):
                path = self._files.ftp2fs(arg)
                self._asked = _Asked(cmd, path, self._current_type == "a", bool(self._prot), utc_now(), timer())
        super().pre_process_command(line, cmd, arg)

    def respond(self, resp: str, logfun: Any = None) -> None:
        asked = self._asked
        if asked is not None:
            self._asked = None
            if resp[0] == "1":
                self._underway = asked
            elif resp[0] in "45":
                self._note_refusal(asked, resp)
        if resp.startswith("421"):
            self.activity.farewell = resp[4:]
        super().respond(resp, logfun)

    def _forget_asked(self) -> None:
        """What was asked for was no transfer after all."""
        self._asked = None

    def _note_change(self) -> None:
        if self.login is not None:
            self.server.reporter.changed(self)

    def row(self) -> dict[str, Any] | None:
        """The session as the store shows it; None when nobody is logged in."""
        login, activity = self.login, self.activity
        if login is None or self._closed:
            return None
        direction, path, transferred, rate = "", "", 0, 0
        channel, underway = self.data_channel, self._underway
        # A transfer that outlived its login, after REIN or USER, is nothing for the owner of the next one to see.
        own = channel is not None and channel.login is not None and channel.login.username == login.username
        if channel is not None and own and self.is_transferring:
            activity.active_at = utc_now()
            if underway is not None:
                direction, path = _direction(underway.command), _stored(login.path_of(underway.path))
                transferred = channel.get_transmitted_bytes()
                rate = self._measure(underway.since, transferred)
        return {
            "id": self.id,
            "service_id": self.server.reporter.service_id,
            "username": login.username,
            "owner": login.owner,
            "address": self.remote_ip,
            "client": self.client,
            "tls": self.tls,
            "started_at": activity.started_at,
            "active_at": activity.active_at,
            "command": activity.command,
            "direction": direction,
            "path": path,
            "transferred": transferred,
            "rate": rate,
            "bytes_uploaded": activity.bytes_uploaded + (0 if direction == "download" else transferred),
            "bytes_downloaded": activity.bytes_downloaded + (transferred if direction == "download" else 0),
            "uploads": activity.uploads,
            "downloads": activity.downloads,
            "failures": activity.failures,
            "sentence": activity.trouble,
        }

    def _measure(self, since: float, transferred: int) -> int:
        """Bytes a second since the last look, or since the transfer began."""
        now = timer()
        then, before = self._measured
        if then < since:
            then, before = since, 0
        self._measured = (now, transferred)
        return int((transferred - before) / max(now - then, 0.001))

    # What came of it

    def transfer_ended(self, channel: DataChannel, file: Any, *, completed: bool) -> None:
        """The data channel's word that a transfer is over, and an upload published, before the client is told."""
        login, underway, self._underway = channel.login, self._underway, None
        if login is None or underway is None:
            return
        # The name of a STOU is made by the server.
        asked = underway._replace(path=file.name)
        reason = "" if completed else channel.reason or BROKE_OFF
        upload = file if completed and isinstance(file, Upload) else None
        self._note(login, asked, channel.get_transmitted_bytes(), _sentence(reason), upload)

    def never_began(self, reason: str = NO_DATA_CONNECTION) -> None:
        """A transfer was promised to the client, and waits no longer for its data connection."""
        underway, self._underway = self._underway, None
        if underway is not None and self.login is not None:
            self._note(self.login, underway, 0, reason)

    def _note_refusal(self, asked: _Asked, reply: str) -> None:
        self.activity.refusals += 1
        if self.login is not None and self.activity.refusals <= REFUSALS_RECORDED:
            self._note(self.login, asked, 0, _sentence(reply))

    def _note(self, login: Login, asked: _Asked, size: int, reason: str, upload: Upload | None = None) -> None:
        elapsed = timer() - asked.since
        ended = EndedTransfer(
            username=login.username,
            owner=login.owner,
            session_id=self.id,
            address=self.remote_ip,
            tls=asked.tls,
            direction=_direction(asked.command),
            path=_stored(login.path_of(asked.path)),
            bytes=size,
            started_at=asked.at,
            ended_at=utc_now(),
            duration_ms=round(elapsed * 1000),
            reason=_stored(reason),
            checksum="",
            ascii=asked.ascii,
            anonymous=login.anonymous,
        )
        if self.login is not None and self.login.username == login.username:
            self.activity.add(ended)
        if upload is None:
            self.server.reporter.transferred(ended)
        else:
            # Mostly that is now. For a big file it may take a moment longer than the client waits for its reply.
            reporter = self.server.reporter
            upload.when_checked(lambda checksum: reporter.transferred(replace(ended, checksum=checksum)))
        self._note_change()
        logger.info(
            "transfer: %s %r user %s from %s: %d bytes in %.3f s, %s",
            asked.command,
            ended.path,
            login.username,
            self.remote_ip,
            size,
            elapsed,
            f"broken off: {reason}" if reason else "complete",
            extra={
                "event": "transfer",
                "session": self.id,
                "account": login.username,
                "address": self.remote_ip,
                "tls": asked.tls,
                "direction": ended.direction,
                "path": ended.path,
                "bytes": size,
                "duration_ms": ended.duration_ms,
                "completed": ended.completed,
            },
        )

    def log_transfer(self, *_: Any, **__: Any) -> None:
        """pyftpdlib's own word of a transfer, which comes after the reply: `transfer_ended()` came before it."""

    def on_login(self, username: str) -> None:
        """Somebody has logged in."""
        self.activity = Activity(utc_now())
        self._note_change()

    def flush_account(self) -> None:
        self._log_out(self.tls)
        super().flush_account()

    def _log_out(self, tls: str) -> None:
        """Whoever is logged in is not any more: say how it went."""
        login, activity, self.activity = self.login, self.activity, Activity(utc_now())
        if login is None:
            return
        ok, sentence = activity.summary()
        ended = EndedSession(
            username=login.username,
            owner=login.owner,
            session_id=self.id,
            address=self.remote_ip,
            client=self.client,
            tls=tls,
            started_at=activity.started_at,
            ended_at=utc_now(),
            ok=ok,
            sentence=sentence,
            uploads=activity.uploads,
            downloads=activity.downloads,
            failures=activity.failures,
            bytes_uploaded=activity.bytes_uploaded,
            bytes_downloaded=activity.bytes_downloaded,
        )
        self.server.reporter.left(self, ended, soon=activity.cut)

    def close(self) -> None:
        if self._closed or self._in_command:
            super().close()
            return
        tls = self.tls
        super().close()
        login = self.login
        self._log_out(tls)
        self.login = None
        logger.info(
            "disconnect: user %s from %s after %.0f s",
            login.username if login is not None else "nobody",
            self.remote_ip or "nowhere",
            time.time() - self.started,
            extra={
                "event": "disconnect",
                "session": self.id,
                "account": login.username if login is not None else "",
                "address": self.remote_ip,
                "tls": tls,
            },
        )


def _direction(command: str) -> Direction:
    if command == "RETR":
        return "download"
    return "append" if command == "APPE" else "upload"


def _sentence(reply: str) -> str:
    """A reply without its code."""
    return reply[4:] if reply[:3].isdigit() and reply[3:4] in (" ", "-") else reply


def _stored(text: str) -> str:
    """A text as the store can hold it: names that are not UTF-8 lose what is not."""
    return os.fsencode(text).decode("utf-8", "replace") if not text.isprintable() else text
