"""Cron jobs, and every run of them."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from wsp.database import Base

BigId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts rows up in INTEGER columns only

_UNARMED = text("revision <> armed_revision")


class CronJob(Base):
    """A command and when it is due.

    The planner owns `next_run_at` and `armed_revision`; the API raises `revision` with each change that
    concerns the planner. A job whose two revisions differ is waiting to be armed.
    """

    __tablename__ = "cron_jobs"
    __table_args__ = (
        Index("ix_cron_jobs_due", "enabled", "next_run_at"),
        Index("ix_cron_jobs_owner_id", "owner", "id"),
        Index("ix_cron_jobs_unarmed", "id", sqlite_where=_UNARMED, postgresql_where=_UNARMED),
        {"sqlite_autoincrement": True},  # the id of a deleted job is never given out again
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    owner: Mapped[str] = mapped_column(
        String(32), ForeignKey("users.username", ondelete="RESTRICT", onupdate="CASCADE")
    )
    name: Mapped[str] = mapped_column(String(100))
    command: Mapped[str] = mapped_column(Text)
    cron_expr: Mapped[str] = mapped_column(String(200))
    domain: Mapped[str] = mapped_column(String(253), default="")
    enabled: Mapped[bool] = mapped_column(default=True)
    email_on_complete: Mapped[str] = mapped_column(String(254), default="")
    email_on_error: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_run_at: Mapped[datetime | None]
    last_run_ok: Mapped[bool] = mapped_column(default=False)
    next_run_at: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(BigInteger, default=1)
    armed_revision: Mapped[int] = mapped_column(BigInteger, default=0)


class JobRun(Base):
    """The decision for one tick of a job, and what came of it. One row a tick, whatever happens."""

    __tablename__ = "cron_runs"
    __table_args__ = (
        UniqueConstraint("job_id", "scheduled_for"),
        Index("ix_cron_runs_status", "status"),
        Index("ix_cron_runs_job_id_id", "job_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("cron_jobs.id", ondelete="CASCADE"))
    scheduled_for: Mapped[datetime]
    trigger: Mapped[str] = mapped_column(String(16))  # schedule: the only one so far
    status: Mapped[str] = mapped_column(String(16))  # running | succeeded | failed | killed | lost | skipped
    reason: Mapped[str] = mapped_column(String(300), default="")
    exit_code: Mapped[int | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    output: Mapped[str] = mapped_column(Text, default="")
    output_truncated: Mapped[bool] = mapped_column(default=False)
    # Who runs it, so that a scheduler that died can be told from one that is busy, and its command found again.
    service_id: Mapped[str] = mapped_column(String(32), default="")
    node: Mapped[str] = mapped_column(String(255), default="")
    boot_id: Mapped[str] = mapped_column(String(36), default="")
    pid: Mapped[int | None]
    pid_started: Mapped[int | None] = mapped_column(BigInteger)  # clock ticks since boot, /proc/<pid>/stat field 22
