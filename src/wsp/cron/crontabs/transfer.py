"""Many jobs at once: taken from crontabs or from JSON, and given out again.

Every job is made whole or not at all, and has a result of its own.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, get_args

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from wsp.cron import service
from wsp.cron.crontabs.reader import as_job, is_system, read
from wsp.cron.crontabs.writer import write
from wsp.cron.models import CronJob, Follows
from wsp.cron.policy import DEFAULT, Policy
from wsp.cron.schemas.jobs import JobCreate
from wsp.cron.tags import tags_of
from wsp.cron.variables import shown_variables
from wsp.errors import Forbidden, Invalid, WspError
from wsp.owners import OWNERS

Kind = Literal["auto", "user", "system"]
Format = Literal["user", "system", "json"]
Status = Literal["created", "would_create", "replaced", "would_replace", "skipped", "failed"]

_ASKED_AT_ONCE = 500  # commands in one question
_TRIED: dict[Status, Status] = {"created": "would_create", "replaced": "would_replace"}
_DONE = tuple(_TRIED)

# What a job holds of which a body says nothing.
_UNNAMED: dict[str, Any] = {
    **{each.name: getattr(DEFAULT, each.name) for each in fields(Policy) if each.name != "secrets"},
    **{"cron_expr": "", "domain": "", "enabled": True, "email_on_complete": "", "email_on_error": False},
    **{"timezone": "", "description": "", "tags": [], "after": {}},
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that is to be made, or what is wrong with it. `line` counts from 1."""

    line: int
    name: str
    owner: str
    body: JobCreate | None = None
    id: int | None = None  # by which other jobs of the same file name it
    problem: str = ""
    field: str = ""  # that the problem is with
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a line. `job_id` is the job that was made, or that was there."""

    line: int
    name: str
    status: Status
    message: str
    field: str = ""
    job_id: int | None = None


@dataclass
class Import:
    """How jobs are to be made, and how far that has come: it may take several transactions."""

    dry_run: bool = False
    atomic: bool = False
    replace: bool = False  # jobs that exist are made what the file says, all of it
    by_admin: bool = False
    ids: Collection[int] = ()  # of all jobs in the file
    made: dict[int, int | None] = field(default_factory=dict)  # by their ids in the file; None: it could not be made
    taken: set[int] = field(default_factory=set)  # jobs that a line stands for already


# --- Reading ----------------------------------------------------------------------------------------------------


def from_crontab(
    text: str, given: Kind, owner: str, owners: Collection[str], *, most: int | None = None
) -> tuple[list[Candidate], Format]:
    """The jobs of a crontab, and which kind it is. `owners` are those whose jobs the caller may make.

    In a system crontab the user's name is the owner's. Jobs of other users become `owner`'s, which is said.
    Raises Invalid for more than `most` jobs.
    """
    system = is_system(text, owners) if given == "auto" else given == "system"
    candidates: list[Candidate] = []
    for line in read(text, system=system):
        if len(candidates) == most:
            raise Invalid(f"At most {most} jobs at once: split the file", field="crontab")
        whose, warnings = owner, []
        if line.user in owners:
            whose = line.user
        elif line.user:
            warnings.append(f"User {line.user} is no owner here: the job is {owner}'s")
        if line.problem:
            id = line.metadata.get("id")
            id = id if _is_id(id) else None
            candidates.append(Candidate(line.number, "", whose, id=id, problem=line.problem, field="crontab"))
            continue
        item, more = as_job(line, whose)
        candidate = _candidate(line.number, item | {"owner": whose}, lambda named: named or owner)
        candidates.append(replace(candidate, warnings=(*warnings, *more)))
    return candidates, "system" if system else "user"


def from_json(jobs: Sequence[Any], owner_for: Callable[[str | None], str]) -> list[Candidate]:
    """Jobs as they are exported. `owner_for` says whose one is, given the `owner` that it names, or raises."""
    return [_candidate(number, item, owner_for) for number, item in enumerate(jobs, start=1)]


def _candidate(line: int, item: Any, owner_for: Callable[[str | None], str]) -> Candidate:
    name = item.get("name") if isinstance(item, dict) else None
    # Half a surrogate pair makes no name, and no answer either.
    shown = name[:100].encode(errors="replace").decode() if isinstance(name, str) else ""
    candidate = Candidate(line, shown, "")
    try:
        if not isinstance(item, dict):
            raise Invalid("A job must be an object", field="jobs")
        id = item.get("id")
        if id is not None and not _is_id(id):
            raise Invalid("Id must be an integer", field="id")
        candidate = replace(candidate, id=id)  # also of one that fails: others may run after it
        body = JobCreate.model_validate({name: value for name, value in item.items() if name != "id"})
        return replace(candidate, body=body, owner=owner_for(body.named().get("owner")))
    except WspError as error:
        return replace(candidate, problem=error.sentence, field=_field(error))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def in_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those first that others of the file run after. What goes round in a circle, or has an id twice, is a problem."""
    places: dict[int, int] = {}
    waiting: dict[int, Candidate] = {}
    ordered = []
    for place, candidate in enumerate(candidates):
        if candidate.id is not None and candidate.id in places:
            sentence = f"Id {candidate.id} is that of line {waiting[places[candidate.id]].line} too"
            ordered.append(replace(candidate, body=None, id=None, problem=sentence, field="id"))
            continue
        if candidate.id is not None:
            places[candidate.id] = place
        waiting[place] = candidate
    sorter = TopologicalSorter(
        {place: [places[parent] for parent in _parents(each) if parent in places] for place, each in waiting.items()}
    )
    with suppress(CycleError):  # it gives those that are in no circle nevertheless
        sorter.prepare()
    while ready := sorter.get_ready():
        ordered += [waiting.pop(place) for place in sorted(ready)]
        sorter.done(*ready)
    sentence = "After: these jobs run after one another in a circle"
    return ordered + [replace(each, body=None, problem=sentence, field="after") for each in waiting.values()]


def _parents(candidate: Candidate) -> Mapping[int, str]:
    return candidate.body.changes().get("after", {}) if candidate.body is not None else {}


def ids_of(candidates: Sequence[Candidate]) -> set[int]:
    """The ids by which jobs of the file are named in it."""
    return {candidate.id for candidate in candidates if candidate.id is not None}


# --- Making -----------------------------------------------------------------------------------------------------


def import_jobs(session: Session, candidates: Sequence[Candidate], how: Import) -> list[Result]:
    """Make jobs that are `in_order`, in the caller's transaction. The results are by line.

    What exists already (the same owner, command, input, expression and time zone) is skipped or replaced, what is not
    valid fails, and neither keeps the others from being made; with `atomic`, one that fails does. A trial (`dry_run`)
    does the same and undoes it. A job that a file has twice is made twice: cron runs it twice, too.
    """
    with session.begin_nested() as everything:
        present = _present(session, candidates)
        results = [_make(session, candidate, present, how) for candidate in candidates]
        broken = how.atomic and any(result.status == "failed" for result in results)
        if how.dry_run or broken:
            everything.rollback()
    if broken:
        results = [_withdrawn(result) for result in results]
    elif how.dry_run:
        results = [_tried(result) for result in results]
    return sorted(results, key=lambda result: result.line)


def _identity(owner: str, command: str, cron_expr: str, timezone: str, stdin: str) -> tuple[str, ...]:
    return owner, command, " ".join(cron_expr.split()).lower(), timezone, stdin


def _present(session: Session, candidates: Sequence[Candidate]) -> dict[tuple[str, ...], list[int]]:
    """The jobs that are there and may be the same as one of these, by their identity, oldest first."""
    present: dict[tuple[str, ...], list[int]] = {}
    bodies = [(candidate.owner, candidate.body.command) for candidate in candidates if candidate.body is not None]
    owners, commands = {owner for owner, _ in bodies}, list(dict.fromkeys(command for _, command in bodies))
    columns = (CronJob.owner, CronJob.command, CronJob.cron_expr, CronJob.timezone, CronJob.policy, CronJob.id)
    for start in range(0, len(commands), _ASKED_AT_ONCE):
        asked = commands[start : start + _ASKED_AT_ONCE]
        query = select(*columns).where(CronJob.owner.in_(owners), CronJob.command.in_(asked)).order_by(CronJob.id)
        for owner, command, expression, timezone, policy, job_id in session.execute(query):
            identity = _identity(owner, command, expression, timezone, Policy.of(policy).stdin)
            present.setdefault(identity, []).append(job_id)
    return present


def _make(
    session: Session, candidate: Candidate, present: Mapping[tuple[str, ...], Sequence[int]], how: Import
) -> Result:
    job_id, result = None, Result(candidate.line, candidate.name, "failed", candidate.problem, candidate.field)
    try:
        if candidate.body is not None:
            with session.begin_nested():
                job_id, result = _make_valid(session, candidate, candidate.body.changes(), present, how)
    except WspError as error:
        result = replace(result, message=error.sentence, field=_field(error))
    if job_id is not None:
        how.taken.add(job_id)
    if candidate.id is not None:
        how.made[candidate.id] = job_id
    return replace(result, message="; ".join(filter(None, (result.message, *candidate.warnings))))


def _make_valid(
    session: Session,
    candidate: Candidate,
    named: dict[str, Any],
    present: Mapping[tuple[str, ...], Sequence[int]],
    how: Import,
) -> tuple[int, Result]:
    """Raises WspError."""
    if named.get("nice", 0) < 0 and not how.by_admin:
        raise Forbidden("Only an admin may set nice below 0")
    if "after" in named:
        named["after"] = {_here(parent, how): condition for parent, condition in named["after"].items()}
    wanted = _UNNAMED | named
    identity = _identity(
        candidate.owner, wanted["command"], wanted["cron_expr"], wanted["timezone"], wanted["stdin"]
    )  # fmt: skip
    there = next((job_id for job_id in present.get(identity, ()) if job_id not in how.taken), None)
    if there is not None and not how.replace:
        return there, Result(candidate.line, candidate.name, "skipped", f"Job {there} is the same", job_id=there)
    if there is not None:
        service.change_job(session, None, there, wanted)
        return there, Result(candidate.line, candidate.name, "replaced", "", job_id=there)
    message = ""
    if missing := [name for name, variable in named.get("env", {}).items() if variable.value is None]:
        # Nobody knows what a command does when it finds a variable of its own unset.
        named |= {"env": {name: each for name, each in named["env"].items() if name not in missing}, "enabled": False}
        message = f"Disabled: the value of {', '.join(missing)} is secret and not in the file, set it before enabling"
    job = service.create_job(session, owner=candidate.owner, **named)
    return job.id, Result(candidate.line, candidate.name, "created", message, job_id=job.id)


def _here(parent: int, how: Import) -> int:
    """The id here of a job that a file names. Raises Invalid when there is none."""
    if parent not in how.ids:
        if how.ids:  # ids that an export gave: elsewhere they are other jobs'
            raise Invalid(f"After: job {parent} is not in the file", field="after")
        return parent
    made = how.made.get(parent)
    if made is None:
        raise Invalid(f"After: job {parent} of the file was not created", field="after")
    return made


def _withdrawn(result: Result) -> Result:
    if result.status not in _DONE:
        return result
    return replace(result, status="skipped", message=f"Not {result.status}, because others failed", job_id=None)


def _tried(result: Result) -> Result:
    if result.status not in _DONE:
        return result
    return replace(result, status=_TRIED[result.status], job_id=None if result.status == "created" else result.job_id)


def counted(results: Sequence[Result]) -> dict[Status, int]:
    """How many results there are of each status."""
    return {status: sum(result.status == status for result in results) for status in get_args(Status)}


def _field(error: WspError) -> str:
    return error.details[0][0] if isinstance(error, Invalid) and error.details else ""


# --- Giving out -------------------------------------------------------------------------------------------------


def jobs_to_export(session: Session, owner: str | None) -> Iterator[dict[str, Any]]:
    """The jobs of an owner, or of all, oldest first: as bodies that make the same jobs again, with their ids.

    What holds its default is left out, and so are the values of secrets.
    """
    of_owner = true() if owner is None else CronJob.owner == owner
    parents: dict[int, list[dict[str, Any]]] = {}
    links = select(Follows).join(CronJob, CronJob.id == Follows.job_id).order_by(Follows.job_id, Follows.after_job_id)
    for link in session.scalars(links.where(of_owner)):
        parents.setdefault(link.job_id, []).append({"job_id": link.after_job_id, "on": link.condition})
    for job in session.scalars(select(CronJob).where(of_owner).order_by(CronJob.id)):
        body: dict[str, Any] = {
            "id": job.id,
            "name": job.name,
            "command": job.command,
            "cron_expr": job.cron_expr,
            "enabled": job.enabled,
            "owner": job.owner,
            "email_on_complete": job.email_on_complete,
            "email_on_error": job.email_on_error,
            "domain": job.domain,
            "timezone": job.timezone,
            "description": job.description,
            "tags": tags_of(job),
            "after": parents.get(job.id),
        }
        optional = ("domain", "timezone", "description", "tags", "after")
        body = {name: value for name, value in body.items() if value or name not in optional}
        policy = Policy.of(job.policy)
        stored = policy.stored() or {}
        stored.pop("secrets", None)
        yield body | stored | ({"env": shown_variables(policy)} if policy.env else {})


def as_crontab(jobs: Sequence[Mapping[str, Any]], owner: str | None, zone: str) -> str:
    """Exported jobs as a crontab of `owner`, or as a system crontab; `zone` is the server's, by name."""
    followed = {parent["job_id"] for job in jobs for parent in job.get("after", ())}
    bodies = (
        {name: value for name, value in job.items() if name != "id" or value in followed} for job in jobs
    )  # fmt: skip
    return write(bodies, owner=owner, zone=zone)


def all_owners(session: Session) -> set[str]:
    """Everybody who can own jobs."""
    return set(session.scalars(select(OWNERS.c.username)))
