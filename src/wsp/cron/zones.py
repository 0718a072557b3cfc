"""Time zones by their IANA names, as jobs and maintenance windows carry them; an empty name is the server's zone."""

from functools import lru_cache
from zoneinfo import ZoneInfo

from wsp.cron.fields import shown

MAX_ZONE_CHARS = 64

# Files beside the zones that read as one: whatever the machine is set to, or a clock that counts leap seconds.
_NO_ZONES = frozenset({"localtime", "Factory", "posixrules"})
_NO_FOLDERS = ("posix/", "right/")


def zone_of(name: str, default: ZoneInfo) -> ZoneInfo:
    """The zone that `name` means; `default` for an empty one.

    Raises ValueError, as `check_zone` does: zones can go when the system's tzdata is upgraded.
    """
    return _zone(name) if name else default


def check_zone(name: str) -> str:
    """`name` itself when it is empty or the name of a zone. Raises ValueError with a sentence for a person."""
    if name:
        _zone(name)
    return name


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    try:
        if len(name) > MAX_ZONE_CHARS or name in _NO_ZONES or name.startswith(_NO_FOLDERS):
            raise ValueError
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"Timezone {shown(name)} is not known, use an IANA name such as Europe/Berlin") from None
