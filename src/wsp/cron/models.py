"""Cron jobs, every run of them, and what is said about them to people."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from wsp.database import Base

BigId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts rows up in INTEGER columns only

_UNARMED = text("revision <> armed_revision")
_AT_REBOOT = text("cron_expr = '@reboot'")
_OPEN = text("status IN ('queued', 'running')")
_UNSUCCESSFUL = text("status IN ('failed', 'timed_out', 'killed', 'lost', 'skipped')")
_TO_KILL = text("kill_requested_at IS NOT NULL AND status IN ('queued', 'running')")
_UNSENT = text("status = 'pending'")

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, FAILED, TIMED_OUT, KILLED, LOST, SKIPPED = "succeeded", "failed", "timed_out", "killed", "lost", "skipped"
OPEN = (QUEUED, RUNNING)
"""What a run can be before it is over."""
ENDED = (SUCCEEDED, FAILED, TIMED_OUT, KILLED, LOST, SKIPPED)
"""How a run can end."""
UNSUCCESSFUL = (FAILED, TIMED_OUT, KILLED, LOST, SKIPPED)
"""How a run can end, but for what most do."""


class CronJob(Base):
    """A command and when it is due.

    The planner owns `next_run_at` and `armed_revision`; the API raises `revision` with each change that
    concerns the planner. A job whose two revisions differ is waiting to be armed.
    """

    __tablename__ = "cron_jobs"
    __table_args__ = (
        Index("ix_cron_jobs_due", "enabled", "next_run_at"),
        Index("ix_cron_jobs_owner_id", "owner", "id"),
        # Not by id: PostgreSQL takes most jobs for unarmed, and would look for the first one in the table itself.
        Index("ix_cron_jobs_unarmed", "armed_revision", sqlite_where=_UNARMED, postgresql_where=_UNARMED),
        Index("ix_cron_jobs_reboot", "id", sqlite_where=_AT_REBOOT, postgresql_where=_AT_REBOOT),
        {"sqlite_autoincrement": True},  # the id of a deleted job is never given out again
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    owner: Mapped[str] = mapped_column(
        String(32), ForeignKey("users.username", ondelete="RESTRICT", onupdate="CASCADE")
    )
    name: Mapped[str] = mapped_column(String(100))
    command: Mapped[str] = mapped_column(Text)
    cron_expr: Mapped[str] = mapped_column(String(200))  # "" for a job that only follows others
    timezone: Mapped[str] = mapped_column(String(64), default="", server_default=text("''"))  # "": the server's
    domain: Mapped[str] = mapped_column(String(253), default="")
    enabled: Mapped[bool] = mapped_column(default=True)
    email_on_complete: Mapped[str] = mapped_column(String(254), default="")
    email_on_error: Mapped[bool] = mapped_column(default=False)
    description: Mapped[str] = mapped_column(Text, default="", server_default=text("''"))
    tags: Mapped[str] = mapped_column(Text, default="", server_default=text("''"))  # ",backup,db,"
    policy: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What differs from the defaults of `wsp.cron.policy.Policy`."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_run_at: Mapped[datetime | None]
    last_run_ok: Mapped[bool] = mapped_column(default=False)
    failures_in_row: Mapped[int] = mapped_column(default=0, server_default="0")
    alarm: Mapped[str] = mapped_column(String(8), default="", server_default=text("''"))
    """What its next success recovers from: `failing` or `overdue`; "" when all is well."""
    next_run_at: Mapped[datetime | None]
    due_from: Mapped[datetime | None]
    """Ticks later than this are to be decided: the last tick that was, or, when that came later, when the job was made,
    enabled, disabled, or given another expression or time zone."""
    expect_by: Mapped[datetime | None] = mapped_column(index=True)
    """When to raise the alarm unless the job has succeeded before; null: not watched, or alarm raised already."""
    revision: Mapped[int] = mapped_column(BigInteger, default=1)
    armed_revision: Mapped[int] = mapped_column(BigInteger, default=0)


class Follows(Base):
    """A job that runs after another one: `condition` is `success`, `failure` or `any`."""

    __tablename__ = "cron_follows"

    job_id: Mapped[int] = mapped_column(ForeignKey("cron_jobs.id", ondelete="CASCADE"), primary_key=True)
    after_job_id: Mapped[int] = mapped_column(
        ForeignKey("cron_jobs.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    condition: Mapped[str] = mapped_column(String(8))


class JobRun(Base):
    """The decision for one tick of a job, and what came of it. One row a tick, whatever happens."""

    __tablename__ = "cron_runs"
    __table_args__ = (
        UniqueConstraint("job_id", "scheduled_for"),
        Index("ix_cron_runs_job_id_id", "job_id", "id"),
        Index("ix_cron_runs_open", "status", "start_at", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_cron_runs_job_open", "job_id", "status", sqlite_where=_OPEN, postgresql_where=_OPEN),
        # For the log by status. A run that succeeds is never in it: that it is not takes a few microseconds to see.
        Index(
            "ix_cron_runs_job_unsuccessful",
            "job_id",
            "status",
            "scheduled_for",
            sqlite_where=_UNSUCCESSFUL,
            postgresql_where=_UNSUCCESSFUL,
        ),
        Index("ix_cron_runs_to_kill", "id", sqlite_where=_TO_KILL, postgresql_where=_TO_KILL),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("cron_jobs.id", ondelete="CASCADE"))
    scheduled_for: Mapped[datetime]  # of a tick: whole seconds; of what is not one: with microseconds
    start_at: Mapped[datetime | None]  # not started before: scheduled_for, and jitter or a retry's delay
    trigger: Mapped[str] = mapped_column(String(16))  # schedule | missed | manual | retry | after | reboot
    cause_run_id: Mapped[int | None] = mapped_column(BigInteger)  # the run that this one retries or follows
    attempt: Mapped[int] = mapped_column(default=1, server_default="1")
    requested_by: Mapped[str] = mapped_column(String(32), default="", server_default=text("''"))  # of a manual run
    status: Mapped[str] = mapped_column(String(16))  # one of OPEN or ENDED
    reason: Mapped[str] = mapped_column(String(300), default="")
    exit_code: Mapped[int | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    cpu_ms: Mapped[int | None] = mapped_column(BigInteger)  # of the command and its children that it waited for
    memory_kb: Mapped[int | None] = mapped_column(BigInteger)  # the largest resident set of one of them
    output: Mapped[str] = mapped_column(Text, default="")  # readable, and bounded: see wsp.cron.runner.excerpt
    output_truncated: Mapped[bool] = mapped_column(default=False)
    output_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")  # all that was written
    output_frames: Mapped[bytes | None] = mapped_column(LargeBinary)  # exact, where `output` cannot say it all
    output_in_file: Mapped[bool] = mapped_column(default=False, server_default=false())  # longer than a row holds
    # A run is claimed when it has a `service_id`: that scheduler starts it, or has. The others leave it alone.
    service_id: Mapped[str] = mapped_column(String(32), default="")
    runner_id: Mapped[str] = mapped_column(String(32), default="", server_default=text("''"))
    node: Mapped[str] = mapped_column(String(255), default="")
    boot_id: Mapped[str] = mapped_column(String(36), default="")
    pid: Mapped[int | None]
    pid_started: Mapped[int | None] = mapped_column(BigInteger)  # clock ticks since boot, /proc/<pid>/stat field 22
    kill_requested_at: Mapped[datetime | None]
    kill_reason: Mapped[str] = mapped_column(String(300), default="", server_default=text("''"))
    kill_grace_seconds: Mapped[int | None]  # instead of the job's, when who asked for it said so


class Pause(Base):
    """All jobs of an owner stand still, until somebody resumes them or `until` has come."""

    __tablename__ = "cron_pauses"

    owner: Mapped[str] = mapped_column(
        String(32), ForeignKey("users.username", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True
    )
    paused_at: Mapped[datetime]
    until: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(String(200), default="")


class Maintenance(Base):
    """A time in which jobs are not started: once (`starts_at`, `ends_at`), or each time that `cron_expr` begins one."""

    __tablename__ = "cron_maintenance"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    owner: Mapped[str | None] = mapped_column(  # null: the jobs of all owners
        String(32), ForeignKey("users.username", ondelete="CASCADE", onupdate="CASCADE"), index=True
    )
    starts_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    cron_expr: Mapped[str] = mapped_column(String(200), default="")
    timezone: Mapped[str] = mapped_column(String(64), default="")
    duration_seconds: Mapped[int] = mapped_column(default=0)
    tag: Mapped[str] = mapped_column(String(64), default="")  # "": whatever tags they have
    reason: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime]


class Notice(Base):
    """A mail about a run or a job, from the moment it is owed until it is sent or given up, and for a while after.

    `next_attempt_at` is set while `status` is `pending`.
    """

    __tablename__ = "cron_notices"
    __table_args__ = (
        Index("ix_cron_notices_unsent", "next_attempt_at", sqlite_where=_UNSENT, postgresql_where=_UNSENT),
        Index("ix_cron_notices_job_id_created_at", "job_id", "created_at"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("cron_jobs.id", ondelete="CASCADE"))
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))  # run | failure | recovery | overdue | unusual | summary
    recipient: Mapped[str] = mapped_column(String(254))
    subject: Mapped[str] = mapped_column(String(300))
    body: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(10))  # pending | sent | failed | withheld
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str] = mapped_column(String(300), default="")
    due_at: Mapped[datetime]  # when it was owed: a late one shows
    next_attempt_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None] = mapped_column(index=True)


class CronState(Base):
    """What schedulers remember across their lives, by name."""

    __tablename__ = "cron_state"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
