"""Which jobs run after which: the links of a chain, and that they never go round in a circle."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session, aliased

from wsp.cron.models import CronJob, Follows
from wsp.errors import Invalid
from wsp.owners import OWNERS

Links = Mapping[int, str]
"""The condition (`success`, `failure`, `any`) by the id of the job that is followed."""


def parents_of(session: Session, job_id: int) -> dict[int, str]:
    """The links of one job."""
    query = select(Follows.after_job_id, Follows.condition).where(Follows.job_id == job_id)
    return dict(session.execute(query.order_by(Follows.after_job_id)).all())


def lock(session: Session, owner: str) -> None:
    """Have changes of one owner's chains wait for one another, until the commit. Take it before a job is locked.

    Each of two changes alone may be right, and both together make a circle, or leave a job with nothing to start it.
    """
    session.execute(select(OWNERS.c.username).where(OWNERS.c.username == owner).with_for_update(key_share=True))


def has_followers(session: Session, job_id: int) -> bool:
    """Does any job run after this one?"""
    return session.scalar(select(Follows.job_id).where(Follows.after_job_id == job_id).limit(1)) is not None


def set_parents(session: Session, job: CronJob, links: Links) -> bool:
    """Have a job run after these, and no others. Returns whether that is a change. The caller has the `lock`.

    Raises Invalid when its owner has no such job, and when one of them already runs after this one.
    """
    present = parents_of(session, job.id)
    if present == links:
        return False
    if links:
        _check(session, job, links)
    session.execute(delete(Follows).where(Follows.job_id == job.id))
    session.add_all(
        Follows(job_id=job.id, after_job_id=parent, condition=condition) for parent, condition in links.items()
    )
    session.flush()
    return True


def left_with_nothing(session: Session, job_id: int) -> Sequence[int]:
    """The jobs that would never run again without this one: no times of their own, and after this one alone."""
    other = aliased(Follows)
    return session.scalars(
        select(Follows.job_id)
        .join(CronJob, CronJob.id == Follows.job_id)
        .where(Follows.after_job_id == job_id, CronJob.cron_expr == "")
        .where(~exists().where(other.job_id == Follows.job_id, other.after_job_id != job_id))
        .order_by(Follows.job_id)
    ).all()


def _check(session: Session, job: CronJob, links: Links) -> None:
    if job.id in links:
        raise Invalid("After: a job cannot run after itself", field="after")
    known = session.scalars(
        select(CronJob.id)
        .where(CronJob.id.in_(links), CronJob.owner == job.owner)
        .with_for_update(read=True, key_share=True)
    ).all()
    for parent in links:
        if parent not in known:
            raise Invalid(f"After: {job.owner} has no job {parent}", field="after")
    followed_through = {parent: parent for parent in links}  # a job before this one, and the link that leads to it
    newest = list(links)
    while newest:
        steps = session.execute(select(Follows.job_id, Follows.after_job_id).where(Follows.job_id.in_(newest))).all()
        newest = []
        for follower, earlier in steps:
            link = followed_through[follower]
            if earlier == job.id:
                raise Invalid(
                    f"After: job {link} already runs after job {job.id}{_by_way(link, follower)}", field="after"
                )
            if earlier not in followed_through:
                followed_through[earlier] = link
                newest.append(earlier)


def _by_way(link: int, follower: int) -> str:
    return "" if link == follower else f", by way of job {follower}"
