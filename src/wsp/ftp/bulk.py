"""Many accounts at once: taken from JSON or from pure-ftpd's file of virtual users, and given out again.

Every account is made whole or not at all, and has a result of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from wsp.errors import Conflict, Invalid, WspError
from wsp.ftp import service
from wsp.ftp.models import FtpAccount
from wsp.ftp.purepw import parse_line
from wsp.ftp.schemas import AccountCreate
from wsp.passwords import hash_password
from wsp.rest.fields import rfc3339

Format = Literal["json", "pure-ftpd"]
Status = Literal["created", "would_create", "skipped", "failed"]

# No account has such a hash: what a trial run puts in the place of one that is slow to compute.
_NOT_HASHED = "!"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account that is to be made, or what is wrong with it. `line` counts from 1."""

    line: int
    username: str
    owner: str
    body: AccountCreate | None = None
    problem: str = ""
    warnings: Sequence[str] = ()
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a line."""

    line: int
    username: str
    status: Status
    message: str


def from_json(accounts: Sequence[Any], owner_for: Callable[[str | None], str]) -> list[Candidate]:
    """Accounts as the API takes them. `owner_for` says whose one is, given the `owner` that it names, or raises."""
    return [_candidate(number, item, owner_for) for number, item in enumerate(accounts, start=1)]


def from_purepw(text: str, owner: str, files_root: PurePosixPath) -> list[Candidate]:
    """The accounts of pure-ftpd's file, all of one owner. Empty lines and comments are passed over."""
    candidates = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            entry = parse_line(line, owner, files_root)
        except ValueError as error:
            candidates.append(Candidate(number, line.partition(":")[0][:100], owner, problem=str(error)))
            continue
        candidate = _candidate(number, entry.account, lambda _: owner)
        candidates.append(replace(candidate, warnings=entry.warnings))
    return candidates


def _candidate(line: int, item: Any, owner_for: Callable[[str | None], str]) -> Candidate:
    name = item.get("username") if isinstance(item, dict) else None
    # Half a surrogate pair makes no name, and no answer either.
    shown, owner = name[:100].encode(errors="replace").decode() if isinstance(name, str) else "", ""
    try:
        if not isinstance(item, dict):
            raise Invalid("An account must be an object")
        body = AccountCreate.model_validate(item)
        owner = owner_for(body.owner)
    except WspError as error:
        return Candidate(line, shown, owner, problem=error.sentence)
    return Candidate(line, f"{owner}_{body.username}", owner, body)


def passwords(candidates: Sequence[Candidate]) -> int:
    """How many passwords are in clear text, and so have to be hashed: tens of milliseconds each."""
    return sum("password" in candidate.body.named() for candidate in candidates if candidate.body is not None)


def prepare(candidates: Sequence[Candidate], *, dry_run: bool) -> list[Candidate]:
    """With the columns of each account. Hashes passwords, unless it is for a trial: keep it out of transactions."""
    prepared = []
    for candidate in candidates:
        if candidate.body is not None:
            named = candidate.body.named()
            if "password" in named:
                password = named.pop("password")
                named["password_hash"] = _NOT_HASHED if dry_run else hash_password(password)
            columns = {name: value for name, value in named.items() if name != "owner"}
            columns["name"] = columns.pop("username")
            candidate = replace(candidate, columns=columns)
        prepared.append(candidate)
    return prepared


def import_accounts(
    session: Session, candidates: Sequence[Candidate], *, dry_run: bool = False, atomic: bool = False
) -> list[Result]:
    """Make what was prepared, in the caller's transaction.

    What exists already is skipped, what is not valid fails, and neither keeps the others from being made; with
    `atomic`, one that fails does. A trial (`dry_run`) does the same and undoes it.
    """
    lines: dict[str, int] = {}
    with session.begin_nested() as everything:
        results = [_make(session, candidate, lines) for candidate in candidates]
        broken = atomic and any(result.status == "failed" for result in results)
        if dry_run or broken:
            everything.rollback()
    if broken:
        return [_withdrawn(result) for result in results]
    if dry_run:
        return [replace(r, status="would_create") if r.status == "created" else r for r in results]
    return results


def _make(session: Session, candidate: Candidate, lines: dict[str, int]) -> Result:
    def result(status: Status, *sentences: str) -> Result:
        return Result(candidate.line, candidate.username, status, "; ".join((*sentences, *candidate.warnings)))

    if candidate.body is None:
        return result("failed", candidate.problem)
    if candidate.username in lines:
        return result("failed", f"The same account as in line {lines[candidate.username]}")
    lines[candidate.username] = candidate.line
    try:
        with session.begin_nested():
            service.create_account(session, owner=candidate.owner, **candidate.columns)
    except Conflict as error:
        return result("skipped", error.sentence)
    except Invalid as error:
        return result("failed", error.sentence)
    return result("created")


def _withdrawn(result: Result) -> Result:
    if result.status != "created":
        return result
    return replace(result, status="skipped", message="Not created, because others failed")


def accounts_to_export(session: Session, owner: str | None) -> Iterator[FtpAccount]:
    """The accounts of an owner, or of all, by name."""
    query = select(FtpAccount).order_by(FtpAccount.username)
    return iter(session.scalars(query if owner is None else query.where(FtpAccount.owner == owner)))


def as_json(account: FtpAccount) -> dict[str, Any]:
    """The body that makes the same account again, its hash included: a secret. Fields that are not set are left out."""
    body: dict[str, Any] = {
        "username": account.username.removeprefix(f"{account.owner}_"),
        "owner": account.owner,
        "password_hash": account.password_hash,
        "enabled": account.enabled,
    }
    for name in AccountCreate.model_fields:
        if name not in (*body, "password") and (value := getattr(account, name)):
            body[name] = rfc3339(value, ZoneInfo("UTC")) if name == "expires_at" else value
    return body
