"""A session that learns what becomes of its account, and ends when it may not go on."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from wsp.database import utc_now
from wsp.ftp.logins import Login
from wsp.ftp.permissions import Permissions, Right
from wsp.ftp.server.standing import why_not
from wsp.ftp.server.tracked import TrackedSession
from wsp.ftp.server.upload import Upload

LAST_WORD_SECONDS = 1.0  # how long a client may take to read why its session ends
EXPIRY_LOOK_SECONDS = 60.0  # the wall clock may be set: it is looked at this often before the time has come

READ_ONLY = "The account is read-only now."
NOT_ALLOWED = "The account may not do that any more."


class FollowedSession(TrackedSession):
    """What is decided about an account while it is logged in reaches it here, on the loop."""

    def __init__(self, conn: Any, server: Any, ioloop: Any = None) -> None:
        self._leaving = False
        self._expiry: Any = None
        super().__init__(conn, server, ioloop)

    @property
    def logins(self) -> list[Login]:
        """Who is logged in; and whose transfer is running, when that is somebody else (after REIN or USER)."""
        found = [self.login] if self.login is not None else []
        channel = getattr(self, "data_channel", None)
        if channel is not None and channel.login is not None and channel.login is not self.login:
            found.append(channel.login)
        return found

    def on_login(self, username: str) -> None:
        super().on_login(username)
        self._await_expiry()

    def accounts_are(self, current: Mapping[str, Login | None], now: datetime) -> None:
        """Go on under what the account is now, or end. `current` has at least the accounts that were asked for."""
        channel = self.data_channel
        if channel is not None and channel.login is not None and channel.login is not self.login:
            former = channel.login
            if former.key in current:
                renewed = current[former.key]
                reason = self._why_not(former, renewed, now)
                if renewed is None or reason:
                    channel.stop(f"426 {reason}")
                elif renewed != former:
                    channel.login = renewed
                    self._recheck_transfer(renewed)
        login = self.login
        if login is None or login.key not in current or self.is_ending:
            return
        changed = current[login.key]
        if changed == login:
            return
        reason = self._why_not(login, changed, now)
        if changed is None or reason:
            self.cut(reason)
        else:
            self._renew(changed)

    def _why_not(self, held: Login, current: Login | None, now: datetime) -> str:
        return why_not(held, current, self.remote_ip, tls=bool(self._ssl_established), now=now)

    def _renew(self, login: Login) -> None:
        channel = self.data_channel
        if channel is not None and channel.login is self.login:
            channel.login = login
        self.login = login
        self.authorizer = Permissions(login)
        self._await_expiry()
        if channel is None or channel.login is login:
            self._recheck_transfer(login)

    def _recheck_transfer(self, login: Login) -> None:
        """Stop the transfer of this login, which has just become another one, if it may not do that any more."""
        underway, queued = self._underway, self._in_dtp_queue
        if underway is None:
            return
        channel = self.data_channel if self.is_transferring else None
        file = channel.file_obj if channel is not None else queued[0] if queued is not None else None
        path = login.path_of(underway.path if file is None else file.name)
        permissions, replaces = Permissions(login), isinstance(file, Upload) and file.replaces
        if not permissions.allow_transfer(underway.command, path, replaces=replaces):
            self._stop_transfer(READ_ONLY if login.read_only else NOT_ALLOWED)
        elif isinstance(file, Upload) and not permissions.allow(Right.OVERWRITE, path.rpartition("/")[0]):
            file.add_only()

    def _stop_transfer(self, reason: str) -> None:
        if self.is_transferring and self.data_channel is not None:
            self.data_channel.stop(f"550 {reason}")
        else:
            self.never_began(reason)
            self._shutdown_connecting_dtp()
            self.respond(f"550 {reason}")

    # The end

    def _await_expiry(self) -> None:
        if self._expiry is not None and not self._expiry.cancelled:
            self._expiry.cancel()
        ends = [login.expires_at for login in self.logins if login.expires_at is not None]
        if ends:
            left = max(0.0, (min(ends) - utc_now()).total_seconds())
            self._expiry = self.call_later(min(left, EXPIRY_LOOK_SECONDS), self._look_at_expiry)

    def _look_at_expiry(self) -> None:
        now = utc_now()
        channel = self.data_channel
        for login in self.logins:
            if login.expires_at is not None and login.expires_at <= now:
                reason = self._why_not(login, login, now)
                if login is self.login:
                    self.cut(reason)
                    return
                if channel is not None:
                    channel.stop(f"426 {reason}")
        self._await_expiry()

    def cut(self, sentence: str) -> None:
        """End the session and its transfer at once, and say why. What was not whole yet is not published."""
        self._leaving = False
        self.activity.cut = True
        if self.data_channel is not None:
            self.data_channel.abandon(sentence)
        if self._closed:
            return
        if self.is_ending or self._ssl_accepting:  # a last word is on its way already, or cannot be said
            self.close()
            return
        self._hang_up(f"421 {sentence}")
        if not self._closed:  # the client does not read
            self.call_later(LAST_WORD_SECONDS, self.close)
