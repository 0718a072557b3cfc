"""What the FTP server writes down of sessions and transfers."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from wsp.database import Base


class SessionRow(Base):
    """A live session, as its process last reported it; gone when the session is. `service_id` is that process's."""

    __tablename__ = "ftp_sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    service_id: Mapped[str] = mapped_column(String(32), index=True)
    username: Mapped[str] = mapped_column(String(300))
    owner: Mapped[str] = mapped_column(String(32), index=True)
    address: Mapped[str] = mapped_column(String(45))
    client: Mapped[str] = mapped_column(String(100), default="")
    tls: Mapped[str] = mapped_column(String(16), default="")
    started_at: Mapped[datetime]
    active_at: Mapped[datetime]
    command: Mapped[str] = mapped_column(String(16), default="")
    direction: Mapped[str] = mapped_column(String(10), default="")
    path: Mapped[str] = mapped_column(Text, default="")
    transferred: Mapped[int] = mapped_column(BigInteger, default=0)
    rate: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_uploaded: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_downloaded: Mapped[int] = mapped_column(BigInteger, default=0)
    uploads: Mapped[int] = mapped_column(default=0)
    downloads: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    sentence: Mapped[str] = mapped_column(Text, default="")
    """What went wrong so far and was not made good; empty: nothing."""
    end_requested: Mapped[bool] = mapped_column(default=False)


class Transfer(Base):
    """A transfer that has ended. `result` is `completed` or `failed`, with the `reason` in a sentence."""

    __tablename__ = "ftp_transfers"
    __table_args__ = (Index("ix_ftp_transfers_username_id", "username", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    username: Mapped[str] = mapped_column(String(300))
    owner: Mapped[str] = mapped_column(String(32))
    session_id: Mapped[str] = mapped_column(String(32))
    address: Mapped[str] = mapped_column(String(45))
    tls: Mapped[bool]
    direction: Mapped[str] = mapped_column(String(10))
    path: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime]
    duration_ms: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[str] = mapped_column(String(10))
    reason: Mapped[str] = mapped_column(Text, default="")
    checksum: Mapped[str] = mapped_column(String(80), default="")
    ended_at: Mapped[datetime] = mapped_column(index=True)


class LastSession(Base):
    """How the last session of an account ended, a refused login included: what a deployer asks after a failure."""

    __tablename__ = "ftp_last_sessions"

    username: Mapped[str] = mapped_column(String(300), primary_key=True)
    session_id: Mapped[str] = mapped_column(String(32))
    address: Mapped[str] = mapped_column(String(45))
    client: Mapped[str] = mapped_column(String(100), default="")
    tls: Mapped[str] = mapped_column(String(16), default="")
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    ok: Mapped[bool]
    sentence: Mapped[str] = mapped_column(Text)
    uploads: Mapped[int] = mapped_column(default=0)
    downloads: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    bytes_uploaded: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_downloaded: Mapped[int] = mapped_column(BigInteger, default=0)
