"""Whether somebody may log in: the account, the address, the password and the home, checked off the event loop."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from wsp.addresses import address_allowed
from wsp.database import Database
from wsp.ftp.logins import Login, find_anonymous, find_login, replace_password_hash
from wsp.ftp.ownership import Owner
from wsp.ftp.server.jail import Jail
from wsp.ftp.server.verified import VerifiedPasswords
from wsp.homes import home_path, open_home
from wsp.passwords import verify_password

ANONYMOUS_NAMES = ("anonymous", "ftp")
READ_PERMISSIONS = "elr"  # pyftpdlib's letters: enter, list, retrieve
WRITE_PERMISSIONS = "adfmwMT"  # append, delete, rename, make folders, store, change modes, change times
ANONYMOUS_WRITE_PERMISSIONS = "w"  # leave a file, and never touch what is there

WRONG = "530 Login incorrect."  # one sentence for every reason: it must not tell which accounts exist
NO_ANONYMOUS = "530 There is no anonymous access here."
WHICH_DOMAIN = "530 Say which domain: log in as anonymous@<domain>."
UNAVAILABLE = "421 Logins cannot be checked right now, try again shortly."
NO_HOME = "421 The home folder of this account cannot be opened."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Granted:
    """The account, and its home. Whoever takes it closes the jail."""

    login: Login
    jail: Jail


@dataclass(frozen=True, slots=True)
class Refused:
    """The whole answer to the client, and the reason for the log."""

    reply: str
    reason: str


class Authenticator:
    """Checks logins against the store. Thread-safe."""

    def __init__(self, database: Database, files_root: Path, owner: Owner | None = None) -> None:
        """`owner` is whom files and folders are given to that are made."""
        self._database = database
        self._files_root = files_root
        self._owner = owner
        self._verified = VerifiedPasswords()

    def check(self, username: str, password: str, address: str) -> Granted | Refused:
        """The verdict on one attempt. A refusal takes as long as a password hash, whether the account exists or not."""
        domain = anonymous_domain(username) if _is_text(username) else None
        try:
            verdict = (
                self._check_account(username, password, address) if domain is None else self._check_anonymous(domain)
            )
        except SQLAlchemyError as error:
            logger.error("a login could not be checked: %s", error)
            return Refused(UNAVAILABLE, "database")
        except Exception:
            # The session waits for a verdict, whatever happens here.
            logger.exception("a login could not be checked")
            return Refused(UNAVAILABLE, "internal error")
        if isinstance(verdict, Refused):
            return verdict
        try:
            root = open_home(self._files_root, verdict.home_dir, self._owner)
        except OSError as error:
            logger.error("the home of %s cannot be opened: %s", verdict.username, error)
            return Refused(NO_HOME, "home")
        return Granted(verdict, Jail(root, os.fspath(home_path(self._files_root, verdict.home_dir)), self._owner))

    def _check_account(self, username: str, password: str, address: str) -> Login | Refused:
        login = None
        if _is_text(username):
            with self._database.reading() as session:
                login = find_login(session, username)
        # The session is over: a connection is not held while the password is being hashed.
        if login is not None and self._verified.knows(username, password, login.password_hash):
            matches, better = True, None
        else:
            matches, better = _verify(password, login.password_hash if login is not None else None)
        if login is None:
            return Refused(WRONG, "unknown user")
        if not matches:
            return Refused(WRONG, "wrong password")
        if not login.enabled:
            return Refused(WRONG, "disabled")
        if not address_allowed(address, login.allowed_ips):
            return Refused(WRONG, "address")
        if better is not None:
            self._store_better(login, better)
        self._verified.remember(username, password, login.password_hash)
        return login

    def _check_anonymous(self, domain: str) -> Login | Refused:
        with self._database.reading() as session:
            found = find_anonymous(session, domain)
        if not found:
            return Refused(NO_ANONYMOUS, "no anonymous access")
        if len(found) > 1:
            return Refused(WHICH_DOMAIN, "no domain named")
        return found[0]

    def _store_better(self, login: Login, better: str) -> None:
        try:
            with self._database.transaction(announce=False) as session:
                replace_password_hash(session, login.username, login.password_hash, better)
        except SQLAlchemyError as error:
            # The old hash still does; the next login tries again.
            logger.warning("a better password hash of %s was not stored: %s", login.username, error)


def anonymous_domain(username: str) -> str | None:
    """The domain that an anonymous user name asks for, empty when it names none; None for any other name."""
    name, _, domain = username.lower().partition("@")
    return domain if name in ANONYMOUS_NAMES else None


def _is_text(username: str) -> bool:
    """Whether this can be the name of an account; the store takes nothing else."""
    try:
        return b"\0" not in username.encode()
    except UnicodeEncodeError:
        return False


def _verify(password: str, stored: str | None) -> tuple[bool, str | None]:
    try:
        return verify_password(password, stored)
    except (ValueError, TypeError):
        # Bytes that are not UTF-8, a NUL, a stored hash of no known kind: no match, at the cost of a real check.
        return verify_password("", None)


class Permissions:
    """What pyftpdlib asks of an authorizer once somebody is logged in: one account, one session."""

    def __init__(self, login: Login) -> None:
        writing = ANONYMOUS_WRITE_PERMISSIONS if login.anonymous else WRITE_PERMISSIONS
        self._letters = READ_PERMISSIONS if login.read_only else READ_PERMISSIONS + writing

    def has_perm(self, username: str, perm: str, path: str | None = None) -> bool:
        return perm in self._letters

    def get_perms(self, username: str) -> str:
        return self._letters

    def impersonate_user(self, username: str, password: str) -> None:
        """Files are touched as the user that the server runs as."""

    def terminate_impersonation(self, username: str) -> None:
        """The counterpart; nothing was changed."""
