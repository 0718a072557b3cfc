"""Counters that move in the transaction of a change, so that followers of the change feed know what to look at again.

The feed says that something was committed, anything at all; an epoch says whether it concerns one subject. Two
transactions that move the same epoch wait for one another, so on PostgreSQL as well nobody sees a later value before
an earlier change.
"""

from typing import Literal

from sqlalchemy import BigInteger, String, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from wsp.database import Base

Subject = Literal["ftp", "bans"]
"""`ftp`: accounts, anonymous access, owners, sessions to end. `bans`: addresses that are banned."""


class Epoch(Base):
    """How often a subject has changed. The rows are made by the migration."""

    __tablename__ = "epochs"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, default=0)


def move(session: Session, subject: Subject) -> None:
    """Note, in this transaction, that something of the subject changed."""
    session.execute(update(Epoch).where(Epoch.name == subject).values(value=Epoch.value + 1))


def current(session: Session) -> dict[str, int]:
    """The value of every epoch."""
    return dict(session.execute(select(Epoch.name, Epoch.value)).all())
