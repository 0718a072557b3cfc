"""How long what FTP wrote down is kept."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select

from wsp.database import Database
from wsp.ftp.models import AnonymousAccess, FtpAccount, Usage
from wsp.ftp.records import LastSession, SessionRow, Transfer
from wsp.heartbeat import FORGET_SECONDS, ServiceRow

BATCH = 1000  # rows in one transaction: others write in between


def tidy(database: Database, keep_transfers_days: int, *, now: datetime) -> None:
    """Remove what is too old, and what belongs to processes and accounts that are no more.

    Several processes may do it at the same time.
    """
    oldest = now - timedelta(days=keep_transfers_days)
    too_old = select(Transfer.id).where(Transfer.ended_at < oldest).limit(BATCH)
    while True:
        with database.transaction(announce=False) as session:
            ids = list(session.scalars(too_old))
            session.execute(delete(Transfer).where(Transfer.id.in_(ids)))
        if len(ids) < BATCH:
            break
    with database.transaction(announce=False) as session:
        # A process that was only asleep comes back, and does not write its idle sessions again: it gets some time.
        heard = select(ServiceRow.id).where(ServiceRow.heartbeat_at > now - timedelta(seconds=FORGET_SECONDS))
        session.execute(delete(SessionRow).where(SessionRow.service_id.not_in(heard)))
        session.execute(
            delete(LastSession).where(
                LastSession.username.not_in(select(FtpAccount.username)),
                LastSession.username.not_in(select("anonymous@" + AnonymousAccess.domain)),
            )
        )
        homes = select(FtpAccount.home_dir)
        domains = select("/home/" + AnonymousAccess.owner + "/" + AnonymousAccess.domain)
        session.execute(delete(Usage).where(Usage.home_dir.not_in(homes), Usage.home_dir.not_in(domains)))
