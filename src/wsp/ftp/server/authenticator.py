"""Whether somebody may log in: the account, the address, the password and the home, checked off the event loop."""

import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from wsp.addresses import address_allowed
from wsp.database import Database
from wsp.ftp.logins import INCOMING, Login, find_anonymous, find_domain, find_login, replace_password_hash
from wsp.ftp.server.domains import DomainJails
from wsp.ftp.server.host import Hosts
from wsp.ftp.server.jail import FOLDER_MODE, Jail
from wsp.ftp.server.verified import VerifiedPasswords
from wsp.homes import home_path, open_home
from wsp.passwords import verify_password

ANONYMOUS_NAMES = ("anonymous", "ftp")

WRONG = "530 Login incorrect."  # one sentence for every reason: it must not tell which accounts exist
NO_ANONYMOUS = "530 There is no anonymous access here."
OTHER_HOST = "530 HOST and the server name of TLS are not the same domain."
HOST_CHOSEN = "220 Host accepted."
HOST_UNKNOWN = "504 There is no such host here."
HOST_DIFFERS = "504 That is not the server name that TLS was begun with."
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

    def __init__(self, database: Database, files_root: Path) -> None:
        self._database = database
        self._files_root = files_root
        self._verified = VerifiedPasswords()

    def check_host(self, hosts: Hosts, own_names: Callable[[], Collection[str]]) -> str:
        """The reply to HOST (RFC 7151, 3.2): it has to be one of this server's names, and the one that TLS was told."""
        try:
            if hosts.servername and not self._are_same(hosts):
                return HOST_DIFFERS
            with self._database.reading() as session:
                if find_domain(session, hosts.host) is not None:
                    return HOST_CHOSEN
            own = own_names()
        except SQLAlchemyError as error:
            logger.error("a host could not be looked up: %s", error)
            return UNAVAILABLE
        except Exception:
            # The session waits for a reply, whatever happens here.
            logger.exception("a host could not be looked up")
            return UNAVAILABLE
        is_own = hosts.host in own or f"*.{hosts.host.partition('.')[2]}" in own
        return HOST_CHOSEN if is_own else HOST_UNKNOWN

    def _are_same(self, hosts: Hosts) -> bool:
        if hosts.host == hosts.servername:
            return True
        with self._database.reading() as session:
            domains = [find_domain(session, name) for name in hosts]
        return domains[0] is not None and domains[0] == domains[1]

    def check(self, username: str, password: str, address: str, hosts: Hosts) -> Granted | Refused:
        """The verdict on one attempt. A refusal takes as long as a password hash, whether the account exists or not."""
        domain = anonymous_domain(username) if _is_text(username) else None
        try:
            if domain is None:
                verdict = self._check_account(username, password, address)
            else:
                verdict = self._check_anonymous(domain, hosts)
        except SQLAlchemyError as error:
            logger.error("a login could not be checked: %s", error)
            return Refused(UNAVAILABLE, "database")
        except Exception:
            # The session waits for a verdict, whatever happens here.
            logger.exception("a login could not be checked")
            return Refused(UNAVAILABLE, "internal error")
        if isinstance(verdict, Refused):
            return verdict
        if verdict.domains:
            return Granted(verdict, DomainJails(self._files_root, dict(verdict.domains)))
        try:
            root = open_home(self._files_root, verdict.home_dir)
        except OSError as error:
            logger.error("the home of %s cannot be opened: %s", verdict.username, error)
            return Refused(NO_HOME, "home")
        if verdict.anonymous and not verdict.read_only:
            _make_incoming(root, verdict.username)
        return Granted(verdict, Jail(root, os.fspath(home_path(self._files_root, verdict.home_dir))))

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

    def _check_anonymous(self, domain: str, hosts: Hosts) -> Login | Refused:
        """The user name chooses the domain, then HOST, then TLS; else it is the only one, or a folder of them all."""
        if not domain and hosts.host and hosts.servername and not self._are_same(hosts):
            return Refused(OTHER_HOST, "HOST and TLS disagree")
        with self._database.reading() as session:
            domain = domain or find_domain(session, hosts.host or hosts.servername) or ""
            login = find_anonymous(session, domain)
        return login or Refused(NO_ANONYMOUS, "no anonymous access")

    def _store_better(self, login: Login, better: str) -> None:
        try:
            with self._database.transaction(announce=False) as session:
                replace_password_hash(session, login.username, login.password_hash, better)
        except SQLAlchemyError as error:
            # The old hash still does; the next login tries again.
            logger.warning("a better password hash of %s was not stored: %s", login.username, error)


def _make_incoming(home: int, username: str) -> None:
    try:
        with suppress(FileExistsError):
            os.mkdir(INCOMING, FOLDER_MODE, dir_fd=home)
    except OSError as error:
        logger.warning("%s cannot upload, the folder cannot be made: %s", username, error)


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
