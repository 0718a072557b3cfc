"""Time zones by their IANA names, as jobs and maintenance windows carry them; an empty name is the server's zone."""

from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from wsp.cron.schedule.fields import shown

MAX_ZONE_CHARS = 64

# Files beside the zones that read as one: whatever the machine is set to, or a clock that counts leap seconds.
_NO_ZONES = frozenset({"localtime", "Factory", "posixrules"})
_NO_FOLDERS = ("posix/", "right/")

_SECOND = timedelta(seconds=1)


def zone_of(name: str, default: ZoneInfo) -> ZoneInfo:
    """The zone that `name` means; `default` for an empty one.

    Raises ValueError, as `check_zone` does: zones can go when the system's tzdata is upgraded.
    """
    return _zone(name) if name else default


def zone_for(name: str, server: ZoneInfo) -> ZoneInfo:
    """The zone to show a job's times in: the server's when it has none, or one that is not known any more."""
    try:
        return zone_of(name, server)
    except ValueError:
        return server


def check_zone(name: str) -> str:
    """`name` itself when it is empty or the name of a zone. Raises ValueError with a sentence for a person."""
    if name:
        _zone(name)
    return name


def first_change(after: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
    """When the clocks of `zone` are set, later than `after` and not later than `until` (UTC, whole seconds).

    For a span that is too short for the clocks to be set twice: a pair that cancels out is not seen.
    """
    offset = after.astimezone(zone).utcoffset()
    if until.astimezone(zone).utcoffset() == offset:
        return None
    while until - after > _SECOND:
        middle = after + (until - after) // _SECOND // 2 * _SECOND
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            until = middle
    return until


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    try:
        if len(name) > MAX_ZONE_CHARS or name in _NO_ZONES or name.startswith(_NO_FOLDERS):
            raise ValueError
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"Timezone {shown(name)} is not known, use an IANA name such as Europe/Berlin") from None
