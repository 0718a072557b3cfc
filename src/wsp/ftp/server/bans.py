"""Which addresses are banned, as one FTP process knows it: the follower keeps it up to date."""

from collections.abc import Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from sqlalchemy.orm import Session

from wsp.ftp.guests import bans_in_force, is_exempt, subject_of


class Bans:
    """The bans in force. Asking costs next to nothing and never blocks; any thread may."""

    def __init__(self, exempt: Sequence[IPv4Network | IPv6Network]) -> None:
        self._exempt = exempt
        self._until: dict[str, datetime] = {}

    def refresh(self, session: Session, now: datetime) -> None:
        """Read them anew."""
        self._until = bans_in_force(session, now)

    def is_exempt(self, address: str) -> bool:
        """Whether an address is never banned, nor limited."""
        return is_exempt(address, self._exempt)

    def until(self, address: str, now: datetime) -> datetime | None:
        """When the ban of an address ends, if it is banned."""
        if not self._until:
            return None
        until = self._until.get(subject_of(address))
        return until if until is not None and until > now and not self.is_exempt(address) else None
