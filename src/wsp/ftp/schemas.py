"""What the API takes and says of FTP accounts."""

import operator
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator
from sqlalchemy import Row

from wsp.ftp.counting import Figure
from wsp.ftp.fields import (
    AccountName,
    AllowedIps,
    AllowMkdir,
    AllowUpload,
    AnonymousEnabled,
    AnonymousQuotaMb,
    AnonymousReadOnly,
    Description,
    DownloadKbps,
    Enabled,
    ExpiresAt,
    HomeSubdir,
    MaxConnections,
    MaxSessions,
    Password,
    PasswordHash,
    Permissions,
    QuotaMb,
    RateKbps,
    ReadOnly,
    RequireTls,
    UploadKbps,
    WelcomeMessage,
)
from wsp.ftp.folders import FolderRule
from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.homes import home_dir
from wsp.passwords import hash_password
from wsp.rest.answers import Total
from wsp.rest.bodies import ChangeBody, RequestBody, left_out
from wsp.rest.fields import Domain, Owner, Timestamp, rfc3339


def when_set(*examples: Any) -> Any:
    """Of an answer: left out as long as it holds its default."""
    return Field(exclude_if=operator.not_, examples=list(examples))


class AccountFields(ChangeBody):
    """What a new account and a change of one have in common."""

    domain: Domain = left_out()
    quota_mb: QuotaMb = left_out()
    read_only: ReadOnly = left_out()
    enabled: Enabled = left_out()
    allowed_ips: AllowedIps = left_out()
    require_tls: RequireTls = left_out()
    expires_at: ExpiresAt | None = left_out()
    max_sessions: MaxSessions = left_out()
    upload_kbps: UploadKbps = left_out()
    download_kbps: DownloadKbps = left_out()
    permissions: Permissions = left_out()
    home_subdir: HomeSubdir = left_out()
    description: Description = left_out()

    def columns(self) -> dict[str, Any]:
        """What the request named, as the account keeps it. Hashes a password: slow."""
        columns = self.named()
        if "password" in columns:
            columns["password_hash"] = hash_password(columns.pop("password"))
        return columns


class Secret(ChangeBody):
    """The password, in clear text or hashed: the first fields that are checked."""

    password: Password = left_out()
    password_hash: PasswordHash = left_out()

    @field_validator("password_hash")
    @classmethod
    def _one_of_the_two(cls, value: str, info: ValidationInfo) -> str:
        if "password" in info.data and info.data["password"] is not None:
            raise ValueError("cannot be given together with a password")
        return value


class NewName(ChangeBody):
    """The name of a new account: what is checked before all else."""

    username: AccountName


class AccountCreate(AccountFields, Secret, NewName):
    """A new FTP account. It needs either `password` or `password_hash`."""

    owner: Owner = left_out()

    @model_validator(mode="before")
    @classmethod
    def _needs_a_password(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.keys() & {"password", "password_hash"}:
            return {**data, "password": ""}  # what is wrong with that one is what has to be said
        return data

    def columns(self) -> dict[str, Any]:
        """The same, without what names the account."""
        columns = super().columns()
        return {name: columns[name] for name in columns if name not in ("username", "owner")}


class AccountChange(AccountFields, Secret):
    """Changes to an FTP account."""


class IpRestrictions(RequestBody):
    """The addresses an account may be used from."""

    allowed_ips: AllowedIps


class AccountOut(BaseModel):
    """An FTP account. What comes behind `updated_at` is there when it is set."""

    username: Annotated[str, Field(examples=["admin_deploy"])]
    owner: Annotated[str, Field(examples=["admin"])]
    home_dir: Annotated[str, Field(examples=["/home/admin"])]
    quota_mb: Annotated[int, Field(examples=[0])]
    read_only: Annotated[bool, Field(examples=[False])]
    enabled: Annotated[bool, Field(examples=[True])]
    created_at: Timestamp
    updated_at: Timestamp
    domain: Annotated[str, when_set("example.com")] = ""
    allowed_ips: Annotated[list[str], when_set(["203.0.113.0/24"])] = Field(default=[])
    require_tls: Annotated[bool, when_set(True)] = False
    expires_at: Annotated[Timestamp | None, when_set("2027-01-31T00:00:00+07:00")] = None
    max_sessions: Annotated[int, when_set(4)] = 0
    upload_kbps: Annotated[int, when_set(2000)] = 0
    download_kbps: Annotated[int, when_set(8000)] = 0
    permissions: Annotated[list[FolderRule] | None, when_set([{"folder": "/", "allow": ["list", "read"]}])] = None
    home_subdir: Annotated[str, when_set("sites/blog")] = ""
    description: Annotated[str, when_set("CI of the shop")] = ""

    @classmethod
    def of(cls, account: FtpAccount | Row[Any], zone: ZoneInfo) -> Self:
        """An account as answers show it."""
        return cls(**shown_account(account, zone))


def shown_account(account: FtpAccount | Row[Any], zone: ZoneInfo) -> dict[str, Any]:
    """The same as plain data, which is what AccountOut becomes in the end: a long list has no time for more."""
    shown = dict(zip(_ALWAYS, _always_of(account), strict=True))
    shown["created_at"] = rfc3339(account.created_at, zone)
    shown["updated_at"] = rfc3339(account.updated_at, zone)
    shown |= {name: value for name, value in zip(_WHEN_SET, _when_set_of(account), strict=True) if value}
    if account.expires_at is not None:
        shown["expires_at"] = rfc3339(account.expires_at, zone)
    return shown


_ALWAYS = tuple(name for name, field in AccountOut.model_fields.items() if field.is_required())
_WHEN_SET = tuple(name for name in AccountOut.model_fields if name not in _ALWAYS)
_always_of = operator.attrgetter(*_ALWAYS)
_when_set_of = operator.attrgetter(*_WHEN_SET)


class RestrictedAccountOut(AccountOut):
    """An FTP account with its `allowed_ips`, also when the list is empty."""

    allowed_ips: Annotated[list[str], Field(examples=[["203.0.113.0/24"]])]

    @classmethod
    def of(cls, account: FtpAccount | Row[Any], zone: ZoneInfo) -> Self:
        """An account, restricted or not."""
        return cls(**shown_account(account, zone) | {"allowed_ips": account.allowed_ips})


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
    """FTP accounts, by name."""

    accounts: list[AccountOut]
    total: Total


class FtpStatus(BaseModel):
    """The FTP service as it is now."""

    installed: bool
    running: Annotated[bool, Field(description="Is an FTP process alive, as of the last seconds?")]
    total_accounts: Annotated[int, Field(description="Accounts that the caller can see", examples=[0])]


class AnonymousChange(ChangeBody):
    """Changes to the anonymous access of a domain."""

    enabled: AnonymousEnabled = left_out()
    read_only: AnonymousReadOnly = left_out()
    allow_upload: AllowUpload = left_out()
    allow_mkdir: AllowMkdir = left_out()
    max_connections: MaxConnections = left_out()
    rate_kbps: RateKbps = left_out()
    quota_mb: AnonymousQuotaMb = left_out()
    welcome_message: WelcomeMessage = left_out()
    owner: Owner = left_out()


class AnonymousOut(BaseModel):
    """The anonymous access of a domain. The domain belongs to the owner who first configured it."""

    domain: Annotated[str, Field(examples=["example.com"])]
    owner: Annotated[str, Field(examples=["admin"])]
    home_dir: Annotated[str, Field(examples=["/home/admin/example.com"])]
    enabled: bool
    read_only: bool
    allow_upload: bool
    allow_mkdir: bool
    max_connections: Annotated[int, Field(examples=[20])]
    rate_kbps: Annotated[int, Field(examples=[4000])]
    quota_mb: Annotated[int, Field(examples=[500])]
    welcome_message: Annotated[str, Field(examples=["Welcome to example.com."])]

    @classmethod
    def of(cls, access: AnonymousAccess) -> Self:
        """The settings as answers show them."""
        shown = {name: getattr(access, name) for name in cls.model_fields if name != "home_dir"}
        return cls(home_dir=home_dir(access.owner, access.domain), **shown)
