"""Every setting of the server: `WSP_*` from the environment, a `.env` file, or `WSP_*_FILE` for secrets.

There is no module-level instance: whoever needs settings is handed them.
"""

import ipaddress
import os
import re
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

from annotated_types import Ge, Le
from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from tzlocal import get_localzone_name

from wsp.errors import StartupError

if TYPE_CHECKING:
    from sqlalchemy import URL

ENV_PREFIX = "WSP_"
FILE_SUFFIX = "_FILE"
ENV_FILE = ".env"
MEBIBYTE = 2**20
DATABASE_URL_ALLOWED = "sqlite:///path/to/wsp.db or postgresql://user:password@host/database is allowed"

ADMIN = "admin"  # the user that the first start makes
TOKEN_FILE = "admin-token"  # noqa: S105 - the name of the file in the data folder that their key is in

_ATOM = r"[^\s.<>@,;:()\"\\\[\]]+"  # RFC 5322, 3.2.3, with the letters of RFC 6532
_DOT_ATOM = rf"{_ATOM}(?:\.{_ATOM})*"
_ADDRESS = f"{_DOT_ATOM}@{_DOT_ATOM}"
_NAME = rf"(?:{_DOT_ATOM}\.? +)*(?:{_DOT_ATOM})?|\"[^\"\\]*\" *"
_MAILBOX = re.compile(f"{_ADDRESS}|(?:{_NAME})<{_ADDRESS}>")


def _port_range(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value.strip())
    if not match or not 1024 <= int(match[1]) <= int(match[2]) <= 65535:
        raise ValueError("a range of ports from 1024 to 65535, as in 50000-50999, is allowed")
    return int(match[1]), int(match[2])


def _numeric_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("a numeric address, as in 203.0.113.7, is allowed") from None


def _parse_url(url: str) -> "URL":
    """The parts of a database's URL. Raises ValueError when it is none."""
    from sqlalchemy import make_url  # 12 MB, which `wsp serve` with its own SQLite file never needs
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except ArgumentError:
        raise ValueError(DATABASE_URL_ALLOWED) from None


def _database_url(value: SecretStr) -> SecretStr:
    parsed = _parse_url(value.get_secret_value())
    if parsed.drivername in ("postgres", "postgresql"):
        return SecretStr(re.sub(r"^\w+", "postgresql+psycopg", value.get_secret_value()))
    in_memory = parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg") or in_memory:
        raise ValueError(DATABASE_URL_ALLOWED)
    return value


def _machines_zone() -> str:
    try:
        return _time_zone(get_localzone_name())
    except (ValueError, LookupError, OSError):
        raise StartupError(
            "WSP_TIMEZONE: this machine's time zone has no IANA name; set one, as in Europe/Berlin"
        ) from None


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise ValueError("an IANA time zone, as in Europe/Berlin, is allowed") from None
    return value


def _comma_list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _umask(value: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError("an octal umask, as in 022, is allowed")
    return value


def _file_owner(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+:[A-Za-z0-9._-]+", value):
        raise ValueError("user:group, as in www-data:www-data or 33:33, is allowed")
    return value


def _public_url(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError("an http or https URL, as in https://panel.example.com, is allowed")
    return value and value.rstrip("/")


def _sender(value: str) -> str:
    if not value.isprintable() or not _MAILBOX.fullmatch(value):
        raise ValueError("one mail address, as in wsp@example.com or Cron <wsp@example.com>, is allowed")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """The effective settings. Field descriptions are the text of `wsp config` and of the README's table."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    data_dir: Annotated[Path, Field(description="Where the database, keys, certificates and files lie")] = Path(
        "wsp-data"
    )
    files_root: Annotated[
        Path | None,
        Field(description="The folder that /home/<owner> is rooted at; nothing outside it is touched"),
    ] = None
    database_url: Annotated[
        SecretStr | None,
        AfterValidator(lambda value: value and _database_url(value)),
        Field(description="sqlite:///… or postgresql://…; SQLite in the data folder when not set"),
    ] = None
    timezone: Annotated[
        str, AfterValidator(_time_zone), Field(description="The server's time zone: answers, and when jobs are due")
    ] = Field(default_factory=_machines_zone)

    http_host: Annotated[str, Field(min_length=1, description="Address the API listens on; 0.0.0.0 for all")] = (
        "127.0.0.1"
    )
    http_port: Annotated[Port, Field(description="Port of the API")] = 3082
    http_trusted_proxies: Annotated[
        list[IPvAnyNetwork],
        NoDecode,
        BeforeValidator(_comma_list),
        Field(description="Addresses of reverse proxies whose X-Forwarded-For is believed, comma-separated"),
    ] = []
    http_max_body_bytes: Annotated[int, Field(ge=1024, description="Largest request body, in bytes")] = MEBIBYTE
    rate_limit: Annotated[
        int, Field(ge=0, description="Requests a minute for each API key (or address without one); 0 = no limit")
    ] = 6000

    ftp_host: Annotated[str, Field(min_length=1, description="Address FTP listens on; 0.0.0.0 for all")] = "127.0.0.1"
    ftp_port: Annotated[Port, Field(description="Port of FTP")] = 2121
    ftp_passive_ports: Annotated[
        tuple[int, int],
        NoDecode,
        BeforeValidator(_port_range),
        Field(description="Range of ports for passive data connections"),
    ] = (50000, 50999)
    ftp_masquerade_address: Annotated[
        str | None,
        AfterValidator(lambda value: value and _numeric_address(value)),
        Field(description="Numeric address told to passive clients, when the server is behind NAT"),
    ] = None
    ftp_workers: Annotated[int, Field(ge=1, le=64, description="FTP processes that share the port")] = 1
    ftp_tls_cert: Annotated[
        Path | None, Field(description="PEM certificate chain for FTPS; self-signed in the data folder when not set")
    ] = None
    ftp_tls_key: Annotated[Path | None, Field(description="PEM private key of that certificate")] = None
    ftp_tls_sni_dir: Annotated[
        Path | None,
        Field(description="Folder of certificates for more host names: <name>.crt and <name>.key, chosen by SNI"),
    ] = None
    ftp_implicit_tls_port: Annotated[
        Port | None,
        Field(description="Port of FTP that speaks TLS from the first byte (990 by custom); off when not set"),
    ] = None
    ftp_require_tls: Annotated[bool, Field(description="Refuse every login without TLS")] = False
    ftp_require_tls_resumption: Annotated[
        bool,
        Field(description="Refuse data connections that do not resume the TLS session of their control connection"),
    ] = False
    ftp_strict_tls: Annotated[
        bool, Field(description="Refuse TLS uploads that end without close_notify: they may have been cut")
    ] = True
    ftp_idle_timeout: Annotated[int, Field(ge=10, description="Seconds after which an idle session is closed")] = 300
    ftp_login_timeout: Annotated[int, Field(ge=5, description="Seconds that a client may take to log in")] = 60
    ftp_drain_seconds: Annotated[
        int, Field(ge=0, le=3600, description="Seconds that running transfers may go on when the FTP service stops")
    ] = 5
    ftp_max_sessions: Annotated[
        int, Field(ge=1, description="FTP sessions at once, over all FTP processes of this machine")
    ] = 2000
    ftp_max_sessions_per_account: Annotated[
        int, Field(ge=0, description="FTP sessions of one account at once; 0 = no limit but the account's own")
    ] = 0
    ftp_max_sessions_per_address: Annotated[
        int, Field(ge=0, description="FTP sessions from one address at once; 0 = no limit")
    ] = 100
    ftp_commands_before_login: Annotated[
        int, Field(ge=1, description="FTP commands a second that a client may send before it has logged in")
    ] = 20
    ftp_ban_failures: Annotated[
        int,
        Field(ge=0, description="Failed logins, each forgotten by half in ten minutes, that ban an address; 0 = never"),
    ] = 10
    ftp_ban_seconds: Annotated[
        int,
        Field(ge=1, description="Seconds that a first ban lasts; each further one lasts twice as long, up to a week"),
    ] = 300
    ftp_ban_exempt: Annotated[
        list[IPvAnyNetwork],
        NoDecode,
        BeforeValidator(_comma_list),
        Field(description="Addresses or networks that are never banned nor limited, comma-separated"),
    ] = Field(default_factory=lambda: [ipaddress.ip_network(address) for address in ("127.0.0.1", "::1")])
    ftp_umask: Annotated[
        str | None,
        AfterValidator(lambda value: value and _umask(value)),
        Field(description="Octal umask of what FTP creates, as in 022; the process's own when not set"),
    ] = None
    ftp_file_owner: Annotated[
        str | None,
        AfterValidator(lambda value: value and _file_owner(value)),
        Field(description="user:group, names or numbers, that own what FTP creates; needs root"),
    ] = None
    ftp_fsync: Annotated[bool, Field(description="Write uploads to the disk before they are confirmed")] = False
    ftp_upload_checksum: Annotated[
        Literal["none", "crc32", "sha256"],
        BeforeValidator(_lower),
        Field(description="Checksum in the record of each upload: none, crc32 or sha256"),
    ] = "sha256"
    ftp_keep_partial_hours: Annotated[
        int, Field(ge=0, description="Hours that an interrupted upload can be resumed")
    ] = 24
    ftp_keep_transfers_days: Annotated[int, Field(ge=0, description="Days that the records of transfers are kept")] = 30
    ftp_keep_releases: Annotated[
        int, Field(ge=0, le=1000, description="Former releases kept of each folder that is deployed atomically")
    ] = 5
    ftp_xferlog: Annotated[
        Path | None, Field(description="File that gets a line for each transfer, in xferlog(5) format")
    ] = None

    webhook_allow_private: Annotated[
        bool, Field(description="Let webhooks call addresses of private networks and of this machine")
    ] = False
    webhook_keep_days: Annotated[int, Field(ge=1, description="Days that finished deliveries of webhooks are kept")] = (
        14
    )

    cron_run_as: Annotated[
        Literal["service", "owner"],
        BeforeValidator(_lower),
        Field(description="System account of job commands: service (the server's own) or owner; owner needs root"),
    ] = "service"
    cron_max_running: Annotated[int, Field(ge=1, description="Commands that run at the same time")] = 200
    cron_max_output_bytes: Annotated[
        int, Field(ge=1024, le=16 * MEBIBYTE, description="Output kept of each run: its head and its tail, in bytes")
    ] = 65536
    cron_keep_runs: Annotated[int, Field(ge=1, description="Runs kept in the log of each job")] = 1000
    cron_keep_days: Annotated[int, Field(ge=0, description="Days that runs are kept, 0 = as long as their number")] = 0
    cron_mail_limit: Annotated[
        int, Field(ge=0, description="Mails an hour about each job, 0 = any number; a summary tells of the rest")
    ] = 20

    public_url: Annotated[
        str | None, AfterValidator(_public_url), Field(description="Where people reach this server, for links in mails")
    ] = None
    metrics_public: Annotated[bool, Field(description="Show /metrics without a key")] = False

    smtp_host: Annotated[str | None, Field(description="Mail server for job mails; none are sent when not set")] = None
    smtp_port: Annotated[Port, Field(description="Port of the mail server")] = 25
    smtp_tls: Annotated[
        Literal["none", "starttls", "tls"],
        BeforeValidator(_lower),
        Field(description="How to speak to the mail server: none, starttls or tls"),
    ] = "none"
    smtp_username: Annotated[str | None, Field(description="User name at the mail server")] = None
    smtp_password: Annotated[SecretStr | None, Field(description="Password at the mail server")] = None
    smtp_from: Annotated[
        str | None,
        AfterValidator(lambda value: value and _sender(value)),
        Field(description="Sender of job mails; wsp@<host name> when not set"),
    ] = None

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        Field(description="Least severe messages that are logged"),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], BeforeValidator(_lower), Field(description="Log lines as text or as JSON")
    ] = "text"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order: given in code, the environment, files named by the environment, `.env`."""
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings

    @cached_property
    def files(self) -> Path:
        """The effective files root, absolute."""
        return (self.files_root or self.data_dir / "files").absolute()

    @cached_property
    def database(self) -> str:
        """The effective database URL, with its password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'wsp.db').absolute()}"

    @cached_property
    def zone(self) -> ZoneInfo:
        """The server's time zone."""
        return ZoneInfo(self.timezone)


class _SecretFiles(PydanticBaseSettingsSource):
    """`WSP_DATABASE_URL_FILE=/run/secrets/url` is read where `WSP_DATABASE_URL` would have been: secrets only."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = variable_name(field_name) + FILE_SUFFIX
        path = _environment().get(name)
        if not path or not _is_secret(field):
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as error:
            raise StartupError(f"{name}: cannot read {path} ({error.strerror}); a readable file is allowed") from None
        except UnicodeDecodeError:
            raise StartupError(f"{name}: {path} is not UTF-8 text; a text file is allowed") from None

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _is_secret(field: FieldInfo) -> bool:
    return "Secret" in str(field.annotation)


def _environment() -> dict[str, str]:
    """The variables of the environment, above those of `.env`."""
    return {name: value for name, value in dotenv_values(ENV_FILE).items() if value} | dict(os.environ)


def load_settings(**given: Any) -> Settings:
    """Read the settings. Raises StartupError with one line that names each wrong one and what is allowed."""
    try:
        settings = Settings(**given)
    except ValidationError as error:
        # One wrong value can fail in several ways (a list, a choice of types); it is named once.
        wrong = {str(e["loc"][0]): _allowed(str(e["loc"][0]), e) for e in reversed(error.errors())}
        raise StartupError("; ".join(f"{variable_name(name)}: {wrong[name]}" for name in reversed(wrong))) from None
    except (UnicodeDecodeError, OSError):
        raise StartupError(f"{ENV_FILE}: cannot be read; a UTF-8 text file is allowed") from None
    if (settings.ftp_tls_cert is None) != (settings.ftp_tls_key is None):
        raise StartupError("WSP_FTP_TLS_CERT and WSP_FTP_TLS_KEY: both or neither is allowed")
    if settings.ftp_implicit_tls_port == settings.ftp_port:
        raise StartupError(
            f"WSP_FTP_PORT and WSP_FTP_IMPLICIT_TLS_PORT: both are {settings.ftp_port}, two ports are needed"
        )
    return settings


def _allowed(name: str, error: ErrorDetails) -> str:
    """What is allowed in place of a wrong value. Never the value itself: it may be a secret."""
    kind = error["type"]
    if kind.startswith("int_") or kind in ("greater_than_equal", "less_than_equal"):
        bounds = Settings.model_fields[name].metadata
        low = next((str(bound.ge) for bound in bounds if isinstance(bound, Ge)), "")
        high = next((str(bound.le) for bound in bounds if isinstance(bound, Le)), "")
        return f"a whole number{low and f' from {low}'}{high and f' to {high}'} is allowed"
    if kind == "literal_error":
        return f"{error['ctx']['expected']} is allowed"
    if kind.startswith("ip_"):
        return "addresses or networks, as in 10.0.0.0/8, are allowed"
    return error["msg"].removeprefix("Value error, ")


def unknown_settings() -> list[str]:
    """A sentence for each `WSP_*` variable, of the environment or `.env`, that is no setting."""
    known = {variable_name(name) for name in Settings.model_fields}
    files = {variable_name(name) + FILE_SUFFIX for name, field in Settings.model_fields.items() if _is_secret(field)}
    unknown = (name for name in sorted(_environment()) if name.startswith(ENV_PREFIX) and name not in known | files)
    sentences = []
    for name in unknown:
        near = get_close_matches(name, known, n=1)
        sentences.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return sentences


def variable_name(field_name: str) -> str:
    """The environment variable of a field: `data_dir` is `WSP_DATA_DIR`."""
    return f"{ENV_PREFIX}{field_name.upper()}"


def masked_url(url: str) -> str:
    """A database URL that may be shown: without its password, wherever in it that stands."""
    parsed = _parse_url(url)
    secret = [name for name in parsed.query if "password" in name.lower()]
    return parsed.update_query_dict(dict.fromkeys(secret, "***")).render_as_string(hide_password=True)
