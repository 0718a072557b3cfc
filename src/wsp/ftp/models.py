"""FTP accounts, and the anonymous access of domains."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from wsp.database import Base


class FtpAccount(Base):
    """An FTP login. `username` is the full name, `<owner>_<name>`; `owner` is the name of its user."""

    __tablename__ = "ftp_accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(65), unique=True)
    owner: Mapped[str] = mapped_column(
        String(32), ForeignKey("users.username", ondelete="RESTRICT", onupdate="CASCADE"), index=True
    )
    domain: Mapped[str] = mapped_column(String(253), default="")
    home_dir: Mapped[str] = mapped_column(String(300))
    password_hash: Mapped[str] = mapped_column(Text)
    quota_mb: Mapped[int] = mapped_column(BigInteger, default=0)
    read_only: Mapped[bool] = mapped_column(default=False)
    enabled: Mapped[bool] = mapped_column(default=True)
    allowed_ips: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AnonymousAccess(Base):
    """The anonymous access of a domain. The domain belongs to the owner who first configured it, and is free
    again when they are removed."""

    __tablename__ = "ftp_anonymous"

    domain: Mapped[str] = mapped_column(String(253), primary_key=True)
    owner: Mapped[str] = mapped_column(
        String(32), ForeignKey("users.username", ondelete="CASCADE", onupdate="CASCADE"), index=True
    )
    enabled: Mapped[bool] = mapped_column(default=False)
    allow_upload: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
