"""What the API says of sessions and transfers."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, Field

from wsp.ftp.records import LastSession, SessionRow, Transfer
from wsp.ftp.sessions import going_on
from wsp.ftp.transfers import TransferPage
from wsp.rest.answers import Total
from wsp.rest.fields import Timestamp, rfc3339
from wsp.rest.lists import ShortParameters, documented, reader_of

Address = Annotated[str, Field(description="Where the client comes from", examples=["203.0.113.7"])]
Client = Annotated[str, Field(description="What the client says it is (CLNT); empty: nothing", examples=["lftp"])]
Tls = Annotated[
    str, Field(description="The version of TLS on the control connection; empty in clear text", examples=["TLSv1.3"])
]
Bytes = Annotated[int, Field(description="Bytes", examples=[3145728])]


class SessionOut(BaseModel):
    """A live session, as of a second ago at most."""

    id: Annotated[str, Field(examples=["3f8c2f0f4d0e4a55a3b1d5a2b1c0d9e8"])]
    username: Annotated[str, Field(description="The account, or `anonymous@<domain>`", examples=["admin_deploy"])]
    owner: Annotated[str, Field(examples=["admin"])]
    address: Address
    client: Client
    tls: Tls
    started_at: Timestamp
    idle_seconds: Annotated[int, Field(description="Since the last command or transfer", examples=[0])]
    command: Annotated[str, Field(description="The last command", examples=["STOR"])]
    direction: Annotated[
        str, Field(description="Of the running transfer: upload, append or download; else empty", examples=["upload"])
    ]
    file: Annotated[str, Field(description="The file of the running transfer; else empty", examples=["/app.zip"])]
    bytes: Annotated[int, Field(description="Of the running transfer, so far", examples=[3145728])]
    rate: Annotated[int, Field(description="Of the running transfer, in bytes a second", examples=[1048576])]
    uploads: Annotated[int, Field(description="Uploads of this session that are complete", examples=[2])]
    downloads: Annotated[int, Field(description="Downloads of this session that are complete", examples=[0])]
    failures: Annotated[int, Field(description="Transfers of this session that failed", examples=[0])]
    bytes_uploaded: Bytes
    bytes_downloaded: Bytes

    @classmethod
    def of(cls, row: SessionRow, zone: ZoneInfo, *, now: datetime) -> Self:
        """A session as answers show it."""
        idle = 0 if row.direction else max(0, int((now - row.active_at).total_seconds()))
        return cls(
            id=row.id,
            username=row.username,
            owner=row.owner,
            address=row.address,
            client=row.client,
            tls=row.tls,
            started_at=rfc3339(row.started_at, zone),
            idle_seconds=idle,
            command=row.command,
            direction=row.direction,
            file=row.path,
            bytes=row.transferred,
            rate=row.rate,
            uploads=row.uploads,
            downloads=row.downloads,
            failures=row.failures,
            bytes_uploaded=row.bytes_uploaded,
            bytes_downloaded=row.bytes_downloaded,
        )


class SessionList(BaseModel):
    """Live sessions, the newest first."""

    sessions: list[SessionOut]
    total: Total


class LastSessionOut(BaseModel):
    """How an account's last session went."""

    username: Annotated[str, Field(examples=["admin_deploy"])]
    ok: Annotated[bool, Field(description="Did everything go well (so far)?", examples=[False])]
    sentence: Annotated[
        str,
        Field(
            description="What came of it, and what went wrong",
            examples=["The upload of /app.zip failed after 3.0 MB: the quota of 500 MB is used up."],
        ),
    ]
    live: Annotated[bool, Field(description="Is it still going on?", examples=[False])]
    started_at: Timestamp
    ended_at: Annotated[Timestamp | None, Field(description="null while it goes on")]
    address: Address
    client: Client
    tls: Tls
    uploads: Annotated[int, Field(description="Uploads that are complete", examples=[2])]
    downloads: Annotated[int, Field(description="Downloads that are complete", examples=[0])]
    failures: Annotated[int, Field(description="Transfers that failed", examples=[1])]
    bytes_uploaded: Bytes
    bytes_downloaded: Bytes

    @classmethod
    def of(cls, row: SessionRow | LastSession, zone: ZoneInfo) -> Self:
        """A session as answers show it, live or not."""
        if isinstance(row, SessionRow):
            ended_at, ok, sentence = None, not row.sentence, going_on(row)
        else:
            ended_at, ok, sentence = rfc3339(row.ended_at, zone), row.ok, row.sentence
        return cls(
            username=row.username,
            ok=ok,
            sentence=sentence,
            live=ended_at is None,
            started_at=rfc3339(row.started_at, zone),
            ended_at=ended_at,
            address=row.address,
            client=row.client,
            tls=row.tls,
            uploads=row.uploads,
            downloads=row.downloads,
            failures=row.failures,
            bytes_uploaded=row.bytes_uploaded,
            bytes_downloaded=row.bytes_downloaded,
        )


class TransferOut(BaseModel):
    """A transfer that is over."""

    id: Annotated[int, Field(examples=[17])]
    session_id: Annotated[str, Field(examples=["3f8c2f0f4d0e4a55a3b1d5a2b1c0d9e8"])]
    file: Annotated[str, Field(description="As the client names it, absolute", examples=["/app.zip"])]
    direction: Annotated[str, Field(description="upload, append or download", examples=["upload"])]
    bytes: Annotated[int, Field(description="Bytes that were transferred", examples=[3145728])]
    started_at: Timestamp
    ended_at: Timestamp
    duration_ms: Annotated[int, Field(examples=[1250])]
    result: Annotated[str, Field(description="completed or failed", examples=["completed"])]
    reason: Annotated[str, Field(description="Why it failed, in a sentence; else empty", examples=[""])]
    checksum: Annotated[
        str, Field(description="Of a complete upload: `sha256:…`; empty when none was taken", examples=["sha256:9f86…"])
    ]
    address: Address
    tls: Annotated[bool, Field(description="Was the data connection encrypted?", examples=[True])]

    @classmethod
    def of(cls, row: Transfer, zone: ZoneInfo) -> Self:
        """A transfer as answers show it."""
        return cls(
            id=row.id,
            session_id=row.session_id,
            file=row.path,
            direction=row.direction,
            bytes=row.bytes,
            started_at=rfc3339(row.started_at, zone),
            ended_at=rfc3339(row.ended_at, zone),
            duration_ms=row.duration_ms,
            result=row.result,
            reason=row.reason,
            checksum=row.checksum,
            address=row.address,
            tls=row.tls,
        )


class TransferList(BaseModel):
    """Transfers, the newest first."""

    transfers: list[TransferOut]
    total: Total


def _instant(value: Any) -> datetime:
    try:
        # In a query string, a "+" that nobody encoded arrives as a space.
        instant = datetime.fromisoformat(str(value).strip().replace(" ", "+"))
        if instant.tzinfo is None:
            raise ValueError
    except ValueError:
        raise ValueError("must be an RFC 3339 time with an offset, as in 2026-05-18T17:44:36+07:00") from None
    return instant


Instant = Annotated[datetime, BeforeValidator(_instant)]


class _TransferParameters(ShortParameters):
    direction: Annotated[
        Literal["", "upload", "append", "download"], Field(description="Only those of this direction")
    ] = ""
    result: Annotated[Literal["", "completed", "failed"], Field(description="Only those with this result")] = ""
    since: Annotated[Instant | None, Field(description="Only those that ended then or later (RFC 3339)")] = None
    until: Annotated[Instant | None, Field(description="Only those that ended earlier (RFC 3339)")] = None


TransferQuery = Annotated[TransferPage, reader_of(_TransferParameters, TransferPage)]
TRANSFER_PARAMETERS = documented(_TransferParameters)
