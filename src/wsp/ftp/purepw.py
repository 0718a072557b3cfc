"""pure-ftpd's file of virtual users: its lines as accounts, and accounts as its lines.

A line has 18 fields between colons (pure-ftpd's README.Virtual-Users); bandwidths are in bytes a second and the quota
in bytes, as pure-pw writes them. Some of it has no counterpart here, in either direction: that is said in warnings.
"""

import math
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import PurePosixPath
from typing import Any

from wsp.ftp.models import FtpAccount

MEBIBYTE = 2**20
KILOBYTE = 1024
NOBODY = 65534

_FIELDS = (
    "account",
    "password",
    "uid",
    "gid",
    "gecos",
    "home",
    "upload bandwidth",
    "download bandwidth",
    "upload ratio",
    "download ratio",
    "max sessions",
    "files quota",
    "size quota",
    "authorized local IPs",
    "refused local IPs",
    "authorized client IPs",
    "refused client IPs",
    "time restrictions",
)
_WITHOUT_COUNTERPART = (
    "upload ratio",
    "download ratio",
    "files quota",
    "authorized local IPs",
    "refused local IPs",
    "refused client IPs",
    "time restrictions",
)
_CHROOT = "/./"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line as the body of a new account, and what of it could not be kept."""

    account: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def parse_line(line: str, owner: str, files_root: PurePosixPath) -> Entry:
    """The account of `owner` that a line describes. Raises ValueError with what is wrong with the line."""
    values = line.split(":")
    if len(values) != len(_FIELDS):
        raise ValueError(f"The line has {len(values)} fields; pure-ftpd's have {len(_FIELDS)}")
    read = dict(zip(_FIELDS, values, strict=True))
    if missing := [name for name in ("account", "password", "home") if not read[name]]:
        raise ValueError(f"The line has no {missing[0]}")
    subdir, warnings = _home(read["home"], owner, files_root)
    warnings += [f"{name} '{read[name]}' is not kept" for name in _WITHOUT_COUNTERPART if read[name] not in ("", "0")]
    account = {
        # The owner's name is put in front of every account's; files that were exported here have it already.
        "username": read["account"].removeprefix(f"{owner}_"),
        "password_hash": read["password"],
        "description": read["gecos"],
        "home_subdir": subdir,
        "upload_kbps": _units(read, "upload bandwidth", KILOBYTE),
        "download_kbps": _units(read, "download bandwidth", KILOBYTE),
        "max_sessions": _units(read, "max sessions", 1),
        "quota_mb": _units(read, "size quota", MEBIBYTE),
        "allowed_ips": _networks(read["authorized client IPs"], warnings),
    }
    return Entry({name: value for name, value in account.items() if value not in ("", 0, [])}, warnings)


def format_line(account: FtpAccount, files_root: PurePosixPath) -> Entry:
    """The line of an account, under `line`, and what it cannot say."""
    warnings = [
        f"{name} is not in pure-ftpd's format"
        for name in ("read_only", "require_tls", "expires_at", "permissions")
        if getattr(account, name)
    ]
    home = str(files_root / account.home_dir.strip("/"))
    for name, text in (("description", account.description), ("home", home)):
        if ":" in text:
            warnings.append(f"the ':' of its {name} is written as '_'")
    values = {
        "account": account.username,
        "password": account.password_hash,
        "uid": NOBODY,
        "gid": NOBODY,
        "gecos": account.description.replace(":", "_"),
        "home": home.replace(":", "_") + _CHROOT,
        "upload bandwidth": account.upload_kbps * KILOBYTE,
        "download bandwidth": account.download_kbps * KILOBYTE,
        "max sessions": account.max_sessions,
        "size quota": account.quota_mb * MEBIBYTE,
        "authorized client IPs": ",".join(network for network in account.allowed_ips if ":" not in network),
    }
    if any(":" in network for network in account.allowed_ips):
        warnings.append("its IPv6 addresses are not in pure-ftpd's format")
    return Entry({"line": ":".join(str(values.get(name) or "") for name in _FIELDS)}, warnings)


def _units(read: dict[str, str], name: str, size: int) -> int:
    """A number in units of `size`, rounded up: a limit that is set stays one."""
    text = read[name]
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError(f"The {name} must be a whole number")
    return math.ceil(int(text) / size) if size > 1 else int(text)


def _home(home: str, owner: str, files_root: PurePosixPath) -> tuple[str, list[str]]:
    """The folder below the owner's home, and what became of the rest.

    What is before `/./` is what the client sees as `/`; the part behind it is where it begins.
    """
    root, _, begins = home.partition(_CHROOT)
    begins = begins.strip("/")
    warnings = [f"sessions begin in / instead of /{begins}"] if begins else []
    path = PurePosixPath("/", root)
    inside = PurePosixPath("/") / path.relative_to(files_root) if path.is_relative_to(files_root) else path
    owners = PurePosixPath("/home", owner)
    if inside.is_relative_to(owners):
        folder = inside.relative_to(owners)
    else:
        folder = path.relative_to("/")
        warnings.append(f"its home {path} becomes {owners / folder}: move the files there")
    return "" if folder == PurePosixPath() else str(folder), warnings


def _networks(text: str, warnings: list[str]) -> list[str]:
    """Raises ValueError when there is a restriction of which nothing could be kept: it must not be lifted."""
    networks = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            network = ip_network(part, strict=False)
        except ValueError:
            warnings.append(f"authorized client '{part}' is not kept: only addresses and networks are")
        else:
            networks.append(str(network.network_address) if network.num_addresses == 1 else str(network))
    if text.strip() and not networks:
        raise ValueError(f"The authorized client IPs '{text}' are no addresses or networks")
    return networks
