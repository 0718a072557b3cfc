"""Guests that misbehave: failed logins are scored, and addresses with too many of them are banned for a while.

A score is a number of failures, each forgotten by half in ten minutes. Three are kept, in rows of `ftp_guests`:

- of the address: what it is banned for.
- of the account: it bans nobody, for then anybody could lock out its owner. While an account is under attack, a
  failure on it counts three times for the address that it came from.
- of the pair of both: a right password takes back what this address did wrong on this account, and nothing else. A
  stranger with an account of their own cannot buy more guesses at others with it.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from sqlalchemy import ColumnElement, and_, delete, or_, select, tuple_
from sqlalchemy.orm import Session

from wsp import epochs
from wsp.addresses import address_allowed, normal_address
from wsp.database import insert_into
from wsp.errors import NotFound
from wsp.ftp.models import Guest
from wsp.paging import Page, fetch, matching

HALF_LIFE_SECONDS = 600.0
UNDER_ATTACK_FACTOR = 3.0  # how much more a failure counts on an account under attack
LONGEST_BAN_SECONDS = 7 * 86_400
SCORES_FORGOTTEN = timedelta(hours=2)  # twelve half-lives: less than a thousandth is left
BANS_FORGOTTEN = timedelta(days=7)  # after the end of the last one, the next is a first one again
IPV6_PREFIX = 64  # what one customer gets, and can choose addresses in as they like

ADDRESS = "address"
ACCOUNT = "account"
PAIR = "pair"

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that was decided. `account` is empty when there is none of that name."""

    address: str
    account: str
    succeeded: bool


@dataclass(frozen=True, slots=True)
class BanRules:
    """How many failures ban an address (0: none ever do), and how long a first ban lasts, in seconds."""

    failures: int
    seconds: int


@lru_cache(maxsize=4096)
def subject_of(address: str) -> str:
    """What is scored and banned for an address: itself, or its network of 64 bits in IPv6. Raises ValueError."""
    normal = normal_address(address)
    if isinstance(ip_address(normal), IPv6Address):
        return str(ip_network(f"{normal}/{IPV6_PREFIX}", strict=False))
    return normal


def is_exempt(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether an address is never banned nor limited (`WSP_FTP_BAN_EXEMPT`)."""
    return bool(networks) and address_allowed(address, tuple(str(network) for network in networks))


def takes_back(session: Session, attempts: Sequence[Attempt]) -> bool:
    """Whether one of these successes has failures to take back. Most have none, and nothing is to be written."""
    pairs = {_pair(attempt) for attempt in attempts if attempt.succeeded}
    return session.scalar(select(Guest.subject).where(_is_pair(pairs)).limit(1)) is not None


def note_attempts(session: Session, attempts: Sequence[Attempt], rules: BanRules, now: datetime) -> list[str]:
    """Score attempts, in their order. Returns the subjects that are banned for it, from now on."""
    failed = {_pair(attempt) for attempt in attempts if not attempt.succeeded}
    succeeded = {_pair(attempt) for attempt in attempts if attempt.succeeded}
    at_stake = failed | set(session.scalars(select(Guest.subject).where(_is_pair(succeeded))))
    relevant = [attempt for attempt in attempts if _pair(attempt) in at_stake]
    guests = _locked(session, {key for attempt in relevant for key in _keys(attempt)}, now)
    banned: list[str] = []
    for attempt in relevant:
        if not attempt.succeeded:
            if _punish(guests, attempt, rules, now):
                banned.append(subject_of(attempt.address))
        elif attempt.account:
            _forgive(guests, attempt)
    session.flush()
    session.execute(delete(Guest).where(_is_pair(succeeded), Guest.score == 0))
    if banned:
        epochs.move(session, "bans")
    return banned


def bans_in_force(session: Session, now: datetime) -> dict[str, datetime]:
    """Every banned subject, and until when."""
    query = select(Guest.subject, Guest.banned_until).where(Guest.kind == ADDRESS, Guest.banned_until > now)
    return {subject: until for subject, until in session.execute(query) if until is not None}


def banned_until(session: Session, address: str, now: datetime) -> datetime | None:
    """When the ban of an address ends, if it is banned."""
    return session.scalar(
        select(Guest.banned_until).where(
            Guest.kind == ADDRESS, Guest.subject == subject_of(address), Guest.banned_until > now
        )
    )


def list_bans(session: Session, page: Page, now: datetime) -> tuple[list[Guest], int]:
    """The bans in force, the latest first, and how many there are."""
    query = select(Guest).where(Guest.kind == ADDRESS, Guest.banned_until > now)
    query = matching(query, page.search, [Guest.subject, Guest.reason])
    return fetch(session, query.order_by(Guest.banned_at.desc(), Guest.subject), page)


def lift_ban(session: Session, address: str, now: datetime) -> None:
    """End a ban, and forget everything about the address. Raises NotFound."""
    subject = subject_of(address)
    lifted = session.scalar(
        delete(Guest)
        .where(Guest.kind == ADDRESS, Guest.subject == subject, Guest.banned_until > now)
        .returning(Guest.subject)
    )
    if lifted is None:
        raise NotFound("Ban not found")
    session.execute(delete(Guest).where(Guest.kind == PAIR, Guest.subject.startswith(f"{subject} ", autoescape=True)))
    epochs.move(session, "bans")


def forget(session: Session, now: datetime) -> None:
    """Remove what has no bearing any more: scores that have decayed, bans that ended long ago."""
    session.execute(
        delete(Guest).where(
            Guest.scored_at < now - SCORES_FORGOTTEN,
            or_(Guest.banned_until.is_(None), Guest.banned_until < now - BANS_FORGOTTEN),
        )
    )


def score_at(guest: Guest, now: datetime) -> float:
    """What is left of a score."""
    return float(guest.score * 0.5 ** (max(0.0, (now - guest.scored_at).total_seconds()) / HALF_LIFE_SECONDS))


def _pair(attempt: Attempt) -> str:
    return f"{subject_of(attempt.address)} {attempt.account}"


def _keys(attempt: Attempt) -> Iterable[Key]:
    yield ADDRESS, subject_of(attempt.address)
    if attempt.account:
        yield ACCOUNT, attempt.account
        yield PAIR, _pair(attempt)


def _is_pair(subjects: Set[str]) -> ColumnElement[bool]:
    return and_(Guest.kind == PAIR, Guest.subject.in_(subjects))


def _locked(session: Session, keys: set[Key], now: datetime) -> dict[Key, Guest]:
    """The rows of these keys, made where missing, locked, with scores as of now.

    In one order always: two processes that note attempts of the same guests wait, and never for each other.
    """
    if not keys:
        return {}
    ordered = sorted(keys)
    session.execute(
        insert_into(session, Guest)
        .values([{"kind": kind, "subject": subject, "score": 0.0, "scored_at": now} for kind, subject in ordered])
        .on_conflict_do_nothing()
    )
    query = (
        select(Guest)
        .where(tuple_(Guest.kind, Guest.subject).in_(ordered))
        .order_by(Guest.kind, Guest.subject)
        .with_for_update()
    )
    guests = {(guest.kind, guest.subject): guest for guest in session.scalars(query)}
    for guest in guests.values():
        guest.score, guest.scored_at = score_at(guest, now), now
    return guests


def _forgive(guests: dict[Key, Guest], attempt: Attempt) -> None:
    pair = guests[PAIR, _pair(attempt)]
    for guest in (guests[ADDRESS, subject_of(attempt.address)], guests[ACCOUNT, attempt.account]):
        guest.score = max(0.0, guest.score - pair.score)
    pair.score = 0.0


def _punish(guests: dict[Key, Guest], attempt: Attempt, rules: BanRules, now: datetime) -> bool:
    """Count a failure. True: it was the one too many."""
    address = guests[ADDRESS, subject_of(attempt.address)]
    if address.banned_until is not None and address.banned_until > now:
        return False  # it was under way when the ban came
    account = guests.get((ACCOUNT, attempt.account))
    weight = UNDER_ATTACK_FACTOR if account is not None and account.score >= rules.failures else 1.0
    address.score += weight
    if account is not None:
        account.score += weight
        guests[PAIR, _pair(attempt)].score += weight
    # Rounded: ten failures in a minute have decayed a little by the time of the tenth, and are ten all the same.
    if address.score + 0.5 < rules.failures:
        return False
    if address.banned_until is not None and address.banned_until < now - BANS_FORGOTTEN:
        address.bans = 0
    address.bans += 1
    whom = f"the account {attempt.account}" if attempt.account else "an account that does not exist"
    address.reason = f"{rules.failures} failed logins, the last one for {whom}"
    address.banned_at, address.banned_until = now, now + _ban_length(rules, address.bans)
    address.score = 0.0
    return True


def _ban_length(rules: BanRules, bans: int) -> timedelta:
    return timedelta(seconds=min(LONGEST_BAN_SECONDS, rules.seconds * 2 ** min(bans - 1, 20)))
