"""Field rules of FTP accounts and of anonymous access, as named types with a description and an example."""

import re
from typing import Annotated, get_args

from pydantic import AfterValidator, Field

from wsp.ftp.folders import FolderRules, RelativeFolder, Right
from wsp.passwords import FORMATS, MAX_HASH_CHARS, check_hash
from wsp.rest.fields import Networks, instant, one_line

MAX_QUOTA_MB = 2**40
MAX_KBPS = 2**30
KBPS = "KB (1,024 bytes) a second"  # as panels and pure-ftpd count
MAX_SESSIONS = 2**20
MAX_WELCOME_CHARS = 2000
MAX_PASSWORD_CHARS = 256  # an FTP command line is at most 2 KiB, in UTF-8


def _lines(value: str) -> str:
    lines = value.replace("\r\n", "\n").split("\n")
    return "\n".join(one_line(line) for line in lines)


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
PasswordHash = Annotated[
    str,
    Field(
        title="Password hash",
        min_length=1,
        max_length=MAX_HASH_CHARS,
        description=f"Instead of the password: its hash, as another server kept it. One of {FORMATS}. "
        "It is replaced by a better one at the first login",
        examples=["$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"],
    ),
    AfterValidator(one_line),
    AfterValidator(check_hash),
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
RequireTls = Annotated[bool, Field(title="Require TLS", description="Refuse to log in without TLS")]
ExpiresAt = Annotated[
    str,
    Field(
        title="Expires at",
        description="RFC 3339 with an offset. From then on the account cannot be used; null = never",
        examples=["2027-01-31T00:00:00+07:00"],
        json_schema_extra={"format": "date-time"},
    ),
    AfterValidator(instant),
]
MaxSessions = Annotated[
    int, Field(title="Max sessions", ge=0, le=MAX_SESSIONS, description="At once; 0 = no limit", examples=[4])
]
UploadKbps = Annotated[
    int,
    Field(
        title="Upload kbps",
        ge=0,
        le=MAX_KBPS,
        description=f"{KBPS}, over all sessions; 0 = no limit",
        examples=[2000],
    ),
]
DownloadKbps = Annotated[
    int,
    Field(
        title="Download kbps",
        ge=0,
        le=MAX_KBPS,
        description=f"{KBPS}, over all sessions; 0 = no limit",
        examples=[8000],
    ),
]
Permissions = Annotated[
    FolderRules,
    Field(
        title="Permissions",
        description="What is allowed, per folder. The rule of the nearest folder counts, and where there is none "
        "everything is allowed; `read_only` takes away what changes something. An empty list lifts every rule",
        examples=[[{"folder": "/", "allow": ["list", "read"]}, {"folder": "/public", "allow": list(get_args(Right))}]],
    ),
]
HomeSubdir = Annotated[
    RelativeFolder,
    Field(
        title="Home subdir",
        max_length=255,
        description="A folder below the owner's home, or below that of the domain, which is then the account's home; "
        "made if missing",
        examples=["sites/blog"],
    ),
]
Description = Annotated[
    str,
    Field(title="Description", max_length=200, description="What the account is for", examples=["CI of the shop"]),
    AfterValidator(one_line),
]
AnonymousEnabled = Annotated[bool, Field(title="Enabled", description="May anybody log in, without a password?")]
AnonymousReadOnly = Annotated[
    bool, Field(title="Read only", description="Downloads and listings only, whatever else is allowed")
]
AllowUpload = Annotated[
    bool,
    Field(
        title="Allow upload",
        description="May anybody leave files in the folder `incoming`? Nobody without an account sees what is in there",
    ),
]
AllowMkdir = Annotated[bool, Field(title="Allow mkdir", description="With `allow_upload`: folders in there as well?")]
MaxConnections = Annotated[
    int, Field(title="Max connections", ge=0, le=MAX_SESSIONS, description="At once; 0 = no limit", examples=[20])
]
RateKbps = Annotated[
    int,
    Field(
        title="Rate kbps",
        ge=0,
        le=MAX_KBPS,
        description=f"{KBPS}, over all sessions, each way; 0 = no limit",
        examples=[4000],
    ),
]
AnonymousQuotaMb = Annotated[
    int,
    Field(
        title="Quota",
        ge=0,
        le=MAX_QUOTA_MB,
        description="MB (2^20 bytes) of the domain's folder; 0 = unlimited",
        examples=[500],
    ),
]
WelcomeMessage = Annotated[
    str,
    Field(
        title="Welcome message",
        max_length=MAX_WELCOME_CHARS,
        description="Said to everybody who logs in; may have several lines",
        examples=["Welcome to example.com.\nUploads go to /incoming."],
    ),
    AfterValidator(_lines),
]
