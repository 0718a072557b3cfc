"""What the API takes and says of FTP accounts."""

import re
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import Row

from wsp.ftp.counting import Figure
from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.rest.bodies import ChangeBody, RequestBody, left_out
from wsp.rest.fields import Domain, Networks, Owner, Timestamp, one_line, rfc3339

MAX_QUOTA_MB = 2**40
MAX_PASSWORD_CHARS = 256  # an FTP command line is at most 2 KiB, in UTF-8


def _account_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError("may have letters, digits, '.', '-' and '_' only")
    return value


AccountName = Annotated[
    str,
    Field(
        title="Username",
        min_length=2,
        max_length=32,
        description="Letters, digits, `.`, `-`, `_`. The account's full name is `<owner>_<name>`",
        examples=["deploy"],
    ),
    AfterValidator(_account_name),
]
Password = Annotated[
    str,
    Field(
        title="Password",
        min_length=1,
        max_length=MAX_PASSWORD_CHARS,
        description="Any text without control characters; sent as UTF-8 over FTP",
        examples=["S3cure•pass"],
    ),
    AfterValidator(one_line),
]
QuotaMb = Annotated[
    int,
    Field(
        title="Quota",
        ge=0,
        le=MAX_QUOTA_MB,
        description="MB (2^20 bytes); 0 = unlimited. What the home holds may not grow beyond it over FTP",
        examples=[500],
    ),
]
ReadOnly = Annotated[bool, Field(title="Read only", description="Downloads and listings only")]
Enabled = Annotated[bool, Field(title="Enabled", description="May it be used to log in?")]
AllowedIps = Annotated[Networks, Field(title="Allowed IPs")]


class AccountCreate(RequestBody):
    """A new FTP account."""

    username: AccountName
    password: Password
    domain: Domain = ""
    quota_mb: QuotaMb = 0
    read_only: ReadOnly = False
    enabled: Enabled = True
    allowed_ips: AllowedIps = Field(default=[])
    owner: Owner = left_out()


class AccountChange(ChangeBody):
    """Changes to an FTP account. They are true for the next login."""

    password: Password = left_out()
    domain: Domain = left_out()
    quota_mb: QuotaMb = left_out()
    read_only: ReadOnly = left_out()
    enabled: Enabled = left_out()
    allowed_ips: AllowedIps = left_out()


class IpRestrictions(RequestBody):
    """The addresses an account may be used from."""

    allowed_ips: AllowedIps


class AccountOut(BaseModel):
    """An FTP account. `domain` and `allowed_ips` are there when they are set."""

    username: Annotated[str, Field(examples=["admin_deploy"])]
    owner: Annotated[str, Field(examples=["admin"])]
    home_dir: Annotated[str, Field(examples=["/home/admin"])]
    quota_mb: Annotated[int, Field(examples=[0])]
    read_only: Annotated[bool, Field(examples=[False])]
    enabled: Annotated[bool, Field(examples=[True])]
    created_at: Timestamp
    updated_at: Timestamp
    domain: Annotated[str, Field(exclude_if=lambda domain: not domain)] = ""
    allowed_ips: Annotated[list[str], Field(exclude_if=lambda networks: not networks)] = Field(default=[])

    @classmethod
    def of(cls, account: FtpAccount | Row[Any], zone: ZoneInfo) -> Self:
        """An account as answers show it."""
        return cls(
            username=account.username,
            owner=account.owner,
            home_dir=account.home_dir,
            quota_mb=account.quota_mb,
            read_only=account.read_only,
            enabled=account.enabled,
            created_at=rfc3339(account.created_at, zone),
            updated_at=rfc3339(account.updated_at, zone),
            domain=account.domain,
            allowed_ips=account.allowed_ips,
        )


class RestrictedAccountOut(AccountOut):
    """An FTP account with its `allowed_ips`, also when the list is empty."""

    allowed_ips: list[str]


class AccountWithUsage(AccountOut):
    """An FTP account, and what its home holds."""

    used_bytes: Annotated[
        int | None,
        Field(description="Bytes in the home; null while a big home is being counted for the first time", examples=[0]),
    ]
    file_count: Annotated[int | None, Field(description="Files in the home; null as `used_bytes`", examples=[0])]

    @classmethod
    def with_usage(cls, account: FtpAccount, zone: ZoneInfo, usage: Figure | None) -> Self:
        """An account as it is shown alone."""
        shown = AccountOut.of(account, zone)
        used_bytes, file_count = usage if usage is not None else (None, None)
        return cls(**dict(shown), used_bytes=used_bytes, file_count=file_count)


class AccountList(BaseModel):
    """FTP accounts, by name. `total` counts all that match, also beyond `limit`."""

    accounts: list[AccountOut]
    total: int


class FtpStatus(BaseModel):
    """The FTP service as it is now."""

    installed: bool
    running: Annotated[bool, Field(description="Is an FTP process alive, as of the last seconds?")]
    total_accounts: Annotated[int, Field(description="Accounts that the caller can see", examples=[0])]


class AnonymousChange(ChangeBody):
    """Changes to the anonymous access of a domain."""

    enabled: Annotated[bool, Field(title="Enabled", description="May anybody log in, without a password?")] = left_out()
    allow_upload: Annotated[bool, Field(title="Allow upload", description="May anybody upload?")] = left_out()
    owner: Owner = left_out()


class AnonymousOut(BaseModel):
    """The anonymous access of a domain. The domain belongs to the owner who first configured it."""

    domain: Annotated[str, Field(examples=["example.com"])]
    owner: Annotated[str, Field(examples=["admin"])]
    home_dir: Annotated[str, Field(examples=["/home/admin/example.com"])]
    enabled: bool
    allow_upload: bool

    @classmethod
    def of(cls, access: AnonymousAccess, home_dir: str) -> Self:
        """The settings as answers show them."""
        return cls(
            domain=access.domain,
            owner=access.owner,
            home_dir=home_dir,
            enabled=access.enabled,
            allow_upload=access.allow_upload,
        )
