"""What the API takes and says of credentials, releases and stagings."""

from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field, model_validator

from wsp.errors import Invalid
from wsp.ftp.fields import Description
from wsp.ftp.folders import AbsoluteFolder
from wsp.ftp.models import Credential
from wsp.ftp.releases import RELEASE_ID, Release
from wsp.rest.answers import Total
from wsp.rest.bodies import ChangeBody, RequestBody
from wsp.rest.fields import Network, Networks, Timestamp, rfc3339

MIN_SECONDS = 60
MAX_SECONDS = 7 * 86400
DEFAULT_SECONDS = 3600
MAX_FOLDER_CHARS = 600


def _release(value: str) -> str:
    if not RELEASE_ID.fullmatch(value):
        raise ValueError("must be the id of a release, as in 20260518-174436-123")
    return value


ReleaseId = Annotated[
    str,
    Field(title="Release", description="The id of a release", examples=["20260518-174436-123"]),
    AfterValidator(_release),
]
DeployedFolder = Annotated[
    AbsoluteFolder,
    Field(
        title="Folder",
        max_length=MAX_FOLDER_CHARS,
        description="The folder that is deployed, as the account sees it",
        examples=["/public_html"],
    ),
]


class CredentialRequest(ChangeBody):
    """A short-lived password. `address` is a short form of `allowed_ips` with one entry."""

    folder: Annotated[
        AbsoluteFolder,
        Field(
            title="Folder",
            max_length=MAX_FOLDER_CHARS,
            description="What its sessions see as `/`, as the account sees it; made if missing",
            examples=["/public_html"],
        ),
    ] = "/"
    address: Annotated[
        Network,
        Field(
            title="Address", description="An address or a network that it may be used from", examples=["203.0.113.7"]
        ),
    ] = ""
    allowed_ips: Annotated[Networks, Field(title="Allowed IPs")] = Field(default=[])
    expires_in: Annotated[
        int,
        Field(
            title="Expires in",
            ge=MIN_SECONDS,
            le=MAX_SECONDS,
            description="Seconds: a minute to a week",
            examples=[3600],
        ),
    ] = DEFAULT_SECONDS
    description: Description = ""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if self.model_fields_set >= {"address", "allowed_ips"}:
            raise Invalid("Address cannot be given together with allowed IPs", field="address")
        return self

    @property
    def networks(self) -> list[str]:
        """Where it may be used from; empty: wherever the account may."""
        return [self.address] if self.address else self.allowed_ips


class CredentialOut(BaseModel):
    """A credential. Its password is shown once, in the answer that issues it."""

    id: Annotated[str, Field(examples=["e24ff6f1754c2d9a"])]
    folder: Annotated[str, Field(examples=["/public_html"])]
    allowed_ips: Annotated[list[str], Field(examples=[["203.0.113.7"]])]
    description: Annotated[str, Field(examples=["CI of the shop"])]
    created_at: Timestamp
    expires_at: Timestamp
    last_used_at: Annotated[Timestamp | None, Field(description="To the minute; null: not yet")]

    @classmethod
    def of(cls, credential: Credential, zone: ZoneInfo) -> Self:
        """A credential as answers show it."""
        used = credential.last_used_at
        return cls(
            id=credential.id,
            folder=credential.folder,
            allowed_ips=credential.allowed_ips,
            description=credential.description,
            created_at=rfc3339(credential.created_at, zone),
            expires_at=rfc3339(credential.expires_at, zone),
            last_used_at=None if used is None else rfc3339(used, zone),
        )


class CredentialIssued(BaseModel):
    """A new credential, with what to log in with."""

    message: Annotated[str, Field(examples=["Credential issued. Keep the password, it is not shown again."])]
    username: Annotated[str, Field(examples=["admin_deploy"])]
    password: Annotated[str, Field(examples=["wspftp_" + "0123456789ab" * 4])]
    expires_at: Timestamp
    credential: CredentialOut


class CredentialList(BaseModel):
    """Credentials that have not expired, the oldest first."""

    credentials: list[CredentialOut]
    total: Total


class PublishRequest(RequestBody):
    """Which folder's staging becomes the folder."""

    folder: DeployedFolder


class RollbackRequest(RequestBody):
    """Which folder goes back, and to what."""

    folder: DeployedFolder
    release: ReleaseId = Field(default="", validate_default=False, description="The latest one when left out")


class ReleaseOut(BaseModel):
    """A former state of a folder."""

    id: Annotated[str, Field(examples=["20260518-174436-123"])]
    until: Annotated[Timestamp, Field(description="When it stopped being what the folder holds")]

    @classmethod
    def of(cls, release: Release, zone: ZoneInfo) -> Self:
        """A release as answers show it."""
        return cls(id=release.id, until=rfc3339(release.until, zone))


class ReleaseList(BaseModel):
    """The former states of a folder that are kept, the latest first."""

    folder: Annotated[str, Field(examples=["/public_html"])]
    staged: Annotated[bool, Field(description="Has this account a staging of the folder, to publish or discard?")]
    releases: list[ReleaseOut]
    total: Total


class Deployed(BaseModel):
    """The folder holds another state now."""

    message: Annotated[str, Field(examples=["Published successfully"])]
    folder: Annotated[str, Field(examples=["/public_html"])]
    release: Annotated[
        str | None,
        Field(description="What its former state is kept as; null: it had none", examples=["20260518-174436-123"]),
    ]
