"""Whether somebody may log in: the account, the address, the password and the home, checked off the event loop."""

import logging
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database, utc_now
from wsp.ftp.admission import Policy, Reason, denial
from wsp.ftp.credentials import find_credential, is_secret, needs_note, note_use
from wsp.ftp.jail import Jail
from wsp.ftp.logins import INCOMING, Login, find_anonymous, find_domain, find_login, narrowed, replace_password_hash
from wsp.ftp.models import Credential
from wsp.ftp.ownership import Owner
from wsp.ftp.server.domains import DomainJails
from wsp.ftp.server.scorer import Scorer
from wsp.ftp.server.verified import VerifiedPasswords
from wsp.homes import home_path, open_home
from wsp.passwords import verify_password

T = TypeVar("T")

ANONYMOUS_NAMES = ("anonymous", "ftp")

WRONG = "530 Login incorrect."  # one sentence for every reason: it must not tell which accounts exist
NEEDS_TLS = "530 This login needs TLS: use explicit FTPS (AUTH TLS), and log in again."
NO_ANONYMOUS = "530 There is no anonymous access here."
OTHER_HOST = "530 HOST and the server name of TLS are not the same domain."
HOST_CHOSEN = "220 Host accepted."
HOST_UNKNOWN = "504 There is no such host here."
HOST_DIFFERS = "504 That is not the server name that TLS was begun with."
UNAVAILABLE = "421 Logins cannot be checked right now, try again shortly."
NO_HOME = "421 The home folder of this account cannot be opened."

_ACCOUNT = re.compile(r"[a-z][a-z0-9-]{0,31}_[A-Za-z0-9._-]{2,32}")

logger = logging.getLogger(__name__)


class Hosts(NamedTuple):
    """The names by which a client asked for this server, in lower case; empty where it did not."""

    host: str = ""
    """Of HOST, after it was found to be one of this server's."""

    servername: str = ""
    """Of TLS (SNI), whatever it is."""


NO_HOSTS = Hosts()


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a client says, and how it came. `password` stays out of every text that is made of this."""

    username: str
    password: str = field(repr=False)
    address: str
    tls: bool
    hosts: Hosts = NO_HOSTS


@dataclass(frozen=True, slots=True)
class Granted:
    """The account, and its home. Whoever takes it closes the jail."""

    login: Login
    jail: Jail


@dataclass(frozen=True, slots=True)
class Refused:
    """The whole answer to the client, and the true reason, a sentence, for the log and for the account's owner."""

    reply: str
    reason: str
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Unverified:
    """The password has yet to be hashed, which is slow. Without a `login` there is no such account."""

    login: Login | None


class Authenticator:
    """Checks logins against the store, in two steps: one is quick, the other only there when a hash is needed.

    So nobody whose password is known, and no anonymous guest, waits behind the hashes of a storm. Thread-safe.
    """

    def __init__(
        self, database: Database, files_root: Path, policy: Policy, scorer: Scorer, owner: Owner | None = None
    ) -> None:
        """`owner` is whom files and folders are given to that are made."""
        self._database = database
        self._files_root = files_root
        self._policy = policy
        self._scorer = scorer
        self._owner = owner
        self._verified = VerifiedPasswords()

    def look_up(self, attempt: Attempt) -> Granted | Refused | Unverified:
        """The verdict, when it does not take a hash."""
        return _guarded(lambda: self._look_up(attempt))

    def verify(self, attempt: Attempt, unverified: Unverified) -> Granted | Refused:
        """The verdict of the hash. It takes as long whether the account exists or not."""
        return _guarded(lambda: self._verify(attempt, unverified.login))

    def check_host(self, hosts: Hosts, own_names: Callable[[], Collection[str]]) -> str:
        """The reply to HOST (RFC 7151, 3.2): it has to be one of this server's names, and the one that TLS was told."""
        reply = _guarded(lambda: self._check_host(hosts, own_names))
        return reply.reply if isinstance(reply, Refused) else reply

    def _check_host(self, hosts: Hosts, own_names: Callable[[], Collection[str]]) -> str:
        if hosts.servername and not self._are_same(hosts):
            return HOST_DIFFERS
        with self._database.reading() as session:
            if find_domain(session, hosts.host) is not None:
                return HOST_CHOSEN
        own = own_names()
        is_own = hosts.host in own or f"*.{hosts.host.partition('.')[2]}" in own
        return HOST_CHOSEN if is_own else HOST_UNKNOWN

    def _are_same(self, hosts: Hosts) -> bool:
        if hosts.host == hosts.servername:
            return True
        with self._database.reading() as session:
            domains = [find_domain(session, name) for name in hosts]
        return domains[0] is not None and domains[0] == domains[1]

    def _look_up(self, attempt: Attempt) -> Granted | Refused | Unverified:
        if not _is_text(attempt.username):
            return Unverified(None)
        domain = anonymous_domain(attempt.username)
        if domain is not None:
            return self._look_up_anonymous(attempt, domain)
        login = self._database.look(lambda connection: find_login(connection, attempt.username))
        if login is not None and is_secret(attempt.password):
            with self._database.reading() as session:
                credential = find_credential(session, login.username, attempt.password)
            if credential is not None:
                return self._admit_credential(attempt, login, credential)
        if login is not None and self._verified.knows(login.username, attempt.password, login.password_hash):
            return self._admit(attempt, login)
        return Unverified(login)

    def _look_up_anonymous(self, attempt: Attempt, domain: str) -> Granted | Refused:
        """The user name chooses the domain, then HOST, then TLS; else it is the only one, or a folder of them all."""
        hosts = attempt.hosts
        if not domain and hosts.host and hosts.servername and not self._are_same(hosts):
            return Refused(OTHER_HOST, "HOST and TLS do not name the same domain.")
        with self._database.reading() as session:
            login = find_anonymous(session, domain or find_domain(session, hosts.host or hosts.servername) or "")
        return (
            self._admit(attempt, login)
            if login is not None
            else Refused(NO_ANONYMOUS, "There is no such anonymous access.")
        )

    def _admit_credential(self, attempt: Attempt, login: Login, credential: Credential) -> Granted | Refused:
        verdict, now = self._admit(attempt, narrowed(login, credential)), utc_now()
        if isinstance(verdict, Granted) and needs_note(credential, now=now):
            try:
                with self._database.transaction(announce=False) as session:
                    note_use(session, credential, now=now)
            except SQLAlchemyError as error:
                logger.warning("the use of a credential of %s was not noted: %s", login.username, error)
        return verdict

    def _verify(self, attempt: Attempt, login: Login | None) -> Granted | Refused:
        better = None
        if login is not None and self._verified.knows(login.username, attempt.password, login.password_hash):
            matches = True  # a client with ten connections: another one's hash was computed while this one waited
        else:
            matches, better = verify_password(attempt.password, login.password_hash if login is not None else None)
        if login is None:
            return self._wrong(attempt, "There is no such account.")
        if not matches:
            return self._wrong(attempt, "The password is wrong.", login)
        stored = better if better is not None and self._store_better(login, better) else login.password_hash
        # Hashing, and waiting for it, took a while: what was committed meanwhile counts.
        now = self._database.look(lambda connection: find_login(connection, attempt.username))
        if now is None or now.credential_version != login.credential_version:
            return self._wrong(attempt, "The password was changed while it was being checked.", login)
        self._verified.remember(login.username, attempt.password, stored)
        return self._admit(attempt, now)

    def _admit(self, attempt: Attempt, login: Login) -> Granted | Refused:
        """The verdict on somebody whose password is right. How many sessions they have is counted as they sit down."""
        denied = denial(login, attempt.address, tls=attempt.tls, now=utc_now(), policy=self._policy)
        if denied is not None:
            if denied.reason is Reason.TLS_REQUIRED:
                return Refused(NEEDS_TLS, denied.message, login)
            return self._wrong(attempt, denied.message, login)
        if not login.anonymous:
            self._scorer.note(attempt.address, login.username, succeeded=True)
        if login.domains:
            return Granted(login, DomainJails(self._files_root, dict(login.domains)))
        try:
            jail = self._open(login)
        except OSError as error:
            logger.error("the home of %s cannot be opened: %s", login.username, error)
            return Refused(NO_HOME, "The home folder cannot be opened.", login)
        return Granted(login, jail)

    def _open(self, login: Login) -> Jail:
        root = open_home(self._files_root, login.home_dir, self._owner)
        home = Jail(root, os.fspath(home_path(self._files_root, login.home_dir)), owner=self._owner)
        if login.anonymous and not login.read_only:
            _make_incoming(home, login.username)
        if login.folder == "/":
            return home
        try:
            _make_folder(home, login.folder)
            return home.narrowed(login.folder)
        finally:
            home.close()

    def _wrong(self, attempt: Attempt, reason: str, login: Login | None = None) -> Refused:
        self._scorer.note(attempt.address, login.username if login is not None else "", succeeded=False)
        return Refused(WRONG, reason, login)

    def _store_better(self, login: Login, better: str) -> bool:
        try:
            with self._database.transaction(announce=False) as session:
                return replace_password_hash(session, login.username, login.password_hash, better)
        except SQLAlchemyError as error:
            # The old hash still does; the next login tries again.
            logger.warning("a better password hash of %s was not stored: %s", login.username, error)
            return False


def _guarded(step: Callable[[], T]) -> T | Refused:
    """A session waits for a verdict, whatever happens."""
    try:
        return step()
    except SQLAlchemyError as error:
        logger.error("a login could not be checked: %s", error)
        return Refused(UNAVAILABLE, "The database could not be asked.")
    except Exception:
        logger.exception("a login could not be checked")
        return Refused(UNAVAILABLE, "The server failed.")


def _make_incoming(home: Jail, username: str) -> None:
    try:
        with suppress(FileExistsError):
            home.mkdir(f"/{INCOMING}")
    except OSError as error:
        logger.warning("%s cannot upload, the folder cannot be made: %s", username, error)


def _make_folder(home: Jail, folder: str) -> None:
    """See to it that a folder of the home is there. Raises OSError."""
    try:
        os.close(home.open_folder(folder))
    except FileNotFoundError:
        parent, _, _ = folder.rpartition("/")
        if parent:
            _make_folder(home, parent)
        with suppress(FileExistsError):
            home.mkdir(folder)


def anonymous_domain(username: str) -> str | None:
    """The domain that an anonymous user name asks for, empty when it names none; None for any other name."""
    name, _, domain = username.lower().partition("@")
    return domain if name in ANONYMOUS_NAMES else None


def could_be_account(username: str) -> bool:
    """Whether an account, or anonymous access, can have that name."""
    return _ACCOUNT.fullmatch(username) is not None or anonymous_domain(username) is not None


def _is_text(username: str) -> bool:
    """Whether this can be the name of an account; the store takes nothing else."""
    try:
        return b"\0" not in username.encode()
    except UnicodeEncodeError:
        return False
