"""Whether a session that was let in may go on, now that something has changed."""

from datetime import datetime

from wsp.ftp.admission import Policy, denial
from wsp.ftp.logins import Login

DELETED = "The account was deleted."
REVOKED = "The credential was revoked."
ANONYMOUS_OFF = "Anonymous access was turned off."
NEW_PASSWORD = "The password of the account was changed."  # noqa: S105 - a sentence, not a secret
NEW_HOME = "The home folder of the account was changed."

_ANY = Policy()  # what the server asks of everybody does not change while it runs


def why_not(held: Login, current: Login | None, address: str, *, tls: bool, now: datetime) -> str:
    """Why whoever was let in as `held` may not go on, in a sentence for them; empty when they may.

    `current` is what the account is now; None: it is gone. The number of sessions is no question here: a lower limit
    is one for new sessions.
    """
    if current is None:
        if held.credential_id:
            return REVOKED
        return ANONYMOUS_OFF if held.anonymous else DELETED
    if not held.credential_id and current.credential_version != held.credential_version:
        return NEW_PASSWORD
    if current.home_dir != held.home_dir:
        return NEW_HOME
    if not set(held.domains) <= set(current.domains):
        return ANONYMOUS_OFF
    denied = denial(current, address, tls=tls, now=now, policy=_ANY)
    return denied.message if denied is not None else ""
