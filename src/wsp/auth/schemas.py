"""What the API says of users and keys."""

from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field

from wsp.auth.models import ApiKey
from wsp.auth.service import Principal
from wsp.rest.answers import Total
from wsp.rest.bodies import RequestBody
from wsp.rest.fields import UNSET_TIME, Name, Networks, Timestamp, rfc3339

MAX_EXPIRES_IN_DAYS = 36500

Permission = Literal["all", "read", "ftp", "cron"]
Permissions = Annotated[
    list[Permission],
    Field(
        min_length=1,
        max_length=4,
        description="`all`, `read` (every GET), `ftp`, `cron`",
        examples=[["ftp"]],
    ),
    AfterValidator(lambda values: list(dict.fromkeys(values))),
]


class KeyRequest(RequestBody):
    """A new API key."""

    name: Annotated[Name, Field(title="Name", description="What the key is for", examples=["deploy from CI"])]
    permissions: Permissions = Field(default=["all"])
    ip_whitelist: Annotated[Networks, Field(title="IP whitelist")] = Field(default=[])
    expires_in: Annotated[
        int, Field(title="Expires in", ge=0, le=MAX_EXPIRES_IN_DAYS, description="Days; 0 = never", examples=[90])
    ] = 0


class KeyOut(BaseModel):
    """An API key without its secret. Times that are not set are `0001-01-01T00:00:00Z`."""

    id: Annotated[str, Field(examples=["e24ff6f1754c2d9a"])]
    name: Annotated[str, Field(examples=["deploy from CI"])]
    key_prefix: Annotated[str, Field(examples=["wsp_56be4cb5"])]
    permissions: Annotated[list[str], Field(examples=[["ftp"]])]
    ip_whitelist: Annotated[list[str], Field(examples=[["203.0.113.0/24"]])]
    last_used: Timestamp
    created_at: Timestamp
    expires_at: Timestamp
    enabled: bool

    @classmethod
    def of(cls, key: ApiKey, zone: ZoneInfo) -> Self:
        """A key as answers show it."""
        return cls(
            id=key.id,
            name=key.name,
            key_prefix=key.key_prefix,
            permissions=key.permissions,
            ip_whitelist=key.ip_whitelist,
            last_used=rfc3339(key.last_used_at, zone) if key.last_used_at else UNSET_TIME,
            created_at=rfc3339(key.created_at, zone),
            expires_at=rfc3339(key.expires_at, zone) if key.expires_at else UNSET_TIME,
            enabled=key.enabled,
        )


class KeyIssued(BaseModel):
    """A new API key with its secret, which is shown this once."""

    success: Literal[True] = True
    message: Annotated[str, Field(examples=["API key created. Keep the secret, it is not shown again."])]
    secret_key: Annotated[str, Field(examples=["wsp_56be4cb5d1c04f7aa9b1d0e3c2f4a5b6978877665544332"])]
    api_key: Annotated[
        str,
        Field(
            description="The same secret, under the panel's other name",
            examples=["wsp_56be4cb5d1c04f7aa9b1d0e3c2f4a5b6978877665544332"],
        ),
    ]
    key: KeyOut


class KeyList(BaseModel):
    """The API keys of a user."""

    keys: list[KeyOut]
    total: Total


class Me(BaseModel):
    """Who the API key belongs to, and what it allows."""

    username: Annotated[str, Field(examples=["admin"])]
    email: Annotated[str, Field(examples=["admin@example.com"])]
    role: Annotated[str, Field(description="`admin` or `user`", examples=["admin"])]
    status: Annotated[str, Field(examples=["active"])]
    created_at: Timestamp
    permissions: Annotated[list[str], Field(examples=[["all"]])]

    @classmethod
    def of(cls, principal: Principal, zone: ZoneInfo) -> Self:
        """The caller as answers show them."""
        return cls(
            username=principal.username,
            email=principal.email,
            role=principal.role,
            status=principal.status,
            created_at=rfc3339(principal.user_created_at, zone),
            permissions=list(principal.permissions),
        )
