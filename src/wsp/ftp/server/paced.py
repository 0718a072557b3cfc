"""A data channel that keeps to the bandwidth of its account, and can be halted."""

from typing import Any

from pyftpdlib.handlers.ftp.data import DTPHandler
from pyftpdlib.ioloop import timer

from wsp.ftp.logins import Login
from wsp.ftp.server.pace import DOWNLOAD, UPLOAD, Pace, limit_of, step_bytes

LOOK_SECONDS = 0.5  # a waiting transfer looks so often whether its limit was changed


class PacedChannel(DTPHandler):
    """Asks `budget()` how much may be sent or received next, and tells `pay()` how much it was."""

    def __init__(self, sock: Any, cmd_channel: Any) -> None:
        # The transfer belongs to who began it, whoever logs in on the control channel meanwhile.
        self.login: Login | None = cmd_channel.login
        self._halted = False
        self._pace: Pace | None = None
        self._going_on: Any = None
        self._went_on_at = 0.0  # when a wait ended: what came during it was not seen coming
        super().__init__(sock, cmd_channel)

    @property
    def limit(self) -> int:
        """Bytes a second as of now, 0 = unlimited. The session's login is a newer one when the account was changed."""
        if self.file_obj is None:  # a listing
            return 0
        newest: Login | None = self.cmd_channel.login
        same = newest is not None and self.login is not None and newest.username == self.login.username
        return limit_of(newest if same else self.login, UPLOAD if self.receive else DOWNLOAD)

    def budget(self, most: int) -> int:
        """How many bytes to send or receive at once; `most` when there is no limit."""
        limit = self.limit
        return min(most, step_bytes(limit)) if limit else most

    def must_wait(self) -> bool:
        """Whether the account has to wait before the first byte; then the channel goes on by itself, later."""
        limit = self.limit
        return bool(limit) and self._wait(self._account_pace().wait(), limit)

    def pay(self, count: int) -> bool:
        """Note what was sent or received. Whether the channel has to wait now; it goes on by itself, later."""
        limit = self.limit
        return bool(limit) and not self._closed and self._wait(self._account_pace().pay(count, limit), limit)

    def halt(self) -> None:
        """Have the loop leave this channel alone."""
        self._halted = True
        self.del_channel()

    def modify_ioloop_events(self, events: int, logdebug: bool = False) -> None:
        if not self._halted:
            super().modify_ioloop_events(events, logdebug)

    def close(self) -> None:
        if self._going_on is not None and not self._going_on.cancelled:
            self._going_on.cancel()
        super().close()

    def _account_pace(self) -> Pace:
        if self._pace is None:
            direction = UPLOAD if self.receive else DOWNLOAD
            self._pace = self.cmd_channel.server.paces.of(self.login, direction)
        return self._pace

    def _wait(self, seconds: float, limit: int) -> bool:
        if not seconds:
            return False
        self.halt()
        self._sleep(timer() + seconds, limit)
        return True

    def _sleep(self, until: float, limit: int) -> None:
        seconds = min(LOOK_SECONDS, max(0.0, until - timer()))
        # Not the channel's own call_later(), which keeps every timer until the end of the transfer.
        self._going_on = self.ioloop.call_later(seconds, self._look, until, limit, _errback=self.handle_error)

    def _look(self, until: float, limit: int) -> None:
        if timer() < until and self.limit == limit:
            self._sleep(until, limit)
            return
        self._halted = False
        self._went_on_at = timer()
        # Not only when the socket says so: TLS may hold what has been received already.
        if self.receive:
            self.modify_ioloop_events(self.ioloop.READ)
            self.handle_read_event()
        else:
            self.modify_ioloop_events(self.ioloop.WRITE)
            self.handle_write_event()
