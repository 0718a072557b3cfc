"""What a login would be answered, asked by somebody who does not try it."""

from datetime import datetime, timedelta

from sqlalchemy import func, select

from wsp.database import Database
from wsp.errors import NotFound
from wsp.ftp.admission import Denied, Policy, Reason, denial
from wsp.ftp.credentials import find_credential
from wsp.ftp.guests import banned_until, is_exempt
from wsp.ftp.logins import find_login, narrowed
from wsp.ftp.records import SessionRow
from wsp.heartbeat import STALE_SECONDS, ServiceRow
from wsp.passwords import verify_password
from wsp.settings import Settings


def check_login(
    database: Database,
    username: str,
    address: str,
    *,
    tls: bool,
    password: str | None,
    settings: Settings,
    now: datetime,
) -> Denied | None:
    """Why a login would be refused now, in the order in which the FTP server looks; None when it would not be.

    Without a password, that one is taken to be right; the secret of a credential is a password as well. Sessions are
    those that the FTP processes have reported. Limits of the whole server, and of the address, are left out: they say
    nothing about the account. Raises NotFound.
    """
    since = now - timedelta(seconds=STALE_SECONDS)
    with database.reading() as session:
        login = find_login(session, username)
        credential = find_credential(session, username, password) if password is not None else None
        until = banned_until(session, address, now)
        sessions = session.scalar(
            select(func.count())
            .select_from(SessionRow)
            .join(ServiceRow, ServiceRow.id == SessionRow.service_id)
            .where(SessionRow.username == username, ServiceRow.heartbeat_at > since)
        )
    if login is None:
        raise NotFound("FTP account not found")
    if until is not None and not is_exempt(address, settings.ftp_ban_exempt):
        when = until.astimezone(settings.zone).isoformat(sep=" ", timespec="seconds")
        return Denied(Reason.ADDRESS_BANNED, f"The address {address} is banned until {when}: too many logins failed.")
    if credential is not None:
        login = narrowed(login, credential)
    elif password is not None and not verify_password(password, login.password_hash)[0]:
        return Denied(Reason.WRONG_PASSWORD, "The password is wrong.")
    return denial(login, address, tls=tls, now=now, policy=Policy.of(settings), sessions=sessions or 0)
