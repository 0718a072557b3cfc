"""FTP accounts, and the anonymous access of domains."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from wsp.database import Base


class FtpAccount(Base):
    """An FTP login. `username` is the full name, `<owner>_<name>`; `owner` is the name of its user."""

    __tablename__ = "ftp_accounts"
    __table_args__ = (
        # In the order of the list, which is read in pieces.
        Index("ix_ftp_accounts_owner_username", "owner", "username"),
        Index("ix_ftp_accounts_domain_username", "domain", "username"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(65), unique=True)
    owner: Mapped[str] = mapped_column(
        String(32), ForeignKey("users.username", ondelete="RESTRICT", onupdate="CASCADE")
    )
    domain: Mapped[str] = mapped_column(String(253), default="")
    home_dir: Mapped[str] = mapped_column(String(600))
    password_hash: Mapped[str] = mapped_column(Text)
    quota_mb: Mapped[int] = mapped_column(BigInteger, default=0)
    read_only: Mapped[bool] = mapped_column(default=False)
    enabled: Mapped[bool] = mapped_column(default=True)
    allowed_ips: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    home_subdir: Mapped[str] = mapped_column(String(255), default="", server_default=text("''"))
    credential_version: Mapped[int] = mapped_column(default=1, server_default="1")
    """Moves with every new password, not with a better hash of the same one: live sessions end when it moves."""
    require_tls: Mapped[bool] = mapped_column(default=False, server_default=false())
    expires_at: Mapped[datetime | None]
    max_sessions: Mapped[int] = mapped_column(default=0, server_default="0")
    upload_kbps: Mapped[int] = mapped_column(default=0, server_default="0")
    download_kbps: Mapped[int] = mapped_column(default=0, server_default="0")
    permissions: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    description: Mapped[str] = mapped_column(String(200), default="", server_default=text("''"))


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
    read_only: Mapped[bool] = mapped_column(default=False, server_default=false())
    allow_mkdir: Mapped[bool] = mapped_column(default=False, server_default=false())
    max_connections: Mapped[int] = mapped_column(default=0, server_default="0")
    rate_kbps: Mapped[int] = mapped_column(default=0, server_default="0")
    quota_mb: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    welcome_message: Mapped[str] = mapped_column(Text, default="", server_default=text("''"))


class Credential(Base):
    """A short-lived password of an account, bound to a folder and to addresses. Only a hash of it is stored."""

    __tablename__ = "ftp_credentials"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    username: Mapped[str] = mapped_column(
        String(65), ForeignKey("ftp_accounts.username", ondelete="CASCADE", onupdate="CASCADE"), index=True
    )
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    folder: Mapped[str] = mapped_column(String(600), default="/")
    allowed_ips: Mapped[list[str]] = mapped_column(JSON, default=list)
    description: Mapped[str] = mapped_column(String(200), default="")
    expires_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]


class Usage(Base):
    """What a home holds, as the FTP server last reported it. `home_dir` is a path of the panel's name space."""

    __tablename__ = "ftp_usage"

    home_dir: Mapped[str] = mapped_column(String(600), primary_key=True)
    used_bytes: Mapped[int] = mapped_column(BigInteger)
    file_count: Mapped[int] = mapped_column(BigInteger)
    counted_at: Mapped[datetime] = mapped_column(index=True)


class Guest(Base):
    """An address or an account whose logins failed lately: a score that decays, and a ban."""

    __tablename__ = "ftp_guests"

    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    """`address` or `account`."""
    subject: Mapped[str] = mapped_column(String(300), primary_key=True)
    score: Mapped[float] = mapped_column(Float)
    scored_at: Mapped[datetime] = mapped_column(index=True)
    bans: Mapped[int] = mapped_column(default=0)
    banned_at: Mapped[datetime | None]
    banned_until: Mapped[datetime | None] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(String(300), default="")
