"""Cron: policies, zones, chains, queues, output, pauses, maintenance and notices; counters of every service."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EMPTY = sa.text("''")

JOB_COLUMNS = (
    sa.Column("timezone", sa.String(length=64), nullable=False, server_default=EMPTY),
    sa.Column("description", sa.Text(), nullable=False, server_default=EMPTY),
    sa.Column("tags", sa.Text(), nullable=False, server_default=EMPTY),
    sa.Column("policy", sa.JSON(), nullable=True),
    sa.Column("failures_in_row", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("alarm", sa.String(length=8), nullable=False, server_default=EMPTY),
    sa.Column("due_from", sa.DateTime(timezone=True), nullable=True),
    sa.Column("expect_by", sa.DateTime(timezone=True), nullable=True),
)
RUN_COLUMNS = (
    sa.Column("start_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("cause_run_id", sa.BigInteger(), nullable=True),
    sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"),
    sa.Column("requested_by", sa.String(length=32), nullable=False, server_default=EMPTY),
    sa.Column("cpu_ms", sa.BigInteger(), nullable=True),
    sa.Column("memory_kb", sa.BigInteger(), nullable=True),
    sa.Column("output_bytes", sa.BigInteger(), nullable=False, server_default="0"),
    sa.Column("output_frames", sa.LargeBinary(), nullable=True),
    sa.Column("output_in_file", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("runner_id", sa.String(length=32), nullable=False, server_default=EMPTY),
    sa.Column("kill_requested_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("kill_reason", sa.String(length=300), nullable=False, server_default=EMPTY),
    sa.Column("kill_grace_seconds", sa.Integer(), nullable=True),
)
PARTIAL_INDEXES = (
    ("ix_cron_jobs_reboot", "cron_jobs", ["id"], "cron_expr = '@reboot'"),
    ("ix_cron_runs_open", "cron_runs", ["status", "start_at"], "status IN ('queued', 'running')"),
    ("ix_cron_runs_job_open", "cron_runs", ["job_id", "status"], "status IN ('queued', 'running')"),
    ("ix_cron_runs_to_kill", "cron_runs", ["id"], "kill_requested_at IS NOT NULL AND status IN ('queued', 'running')"),
    ("ix_cron_notices_unsent", "cron_notices", ["next_attempt_at"], "status = 'pending'"),
)


def upgrade() -> None:
    for column in JOB_COLUMNS:
        op.add_column("cron_jobs", column)
    op.create_index("ix_cron_jobs_expect_by", "cron_jobs", ["expect_by"])
    op.drop_index("ix_cron_runs_status", table_name="cron_runs")
    for column in RUN_COLUMNS:
        op.add_column("cron_runs", column)

    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.String(length=200), nullable=False),
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", "node", name=op.f("pk_counters")),
    )
    op.create_table(
        "cron_state",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cron_state")),
    )
    op.create_table(
        "cron_follows",
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("after_job_id", BIG_ID, nullable=False),
        sa.Column("condition", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["cron_jobs.id"], name=op.f("fk_cron_follows_job_id_cron_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["after_job_id"], ["cron_jobs.id"], name=op.f("fk_cron_follows_after_job_id_cron_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "after_job_id", name=op.f("pk_cron_follows")),
    )
    op.create_index("ix_cron_follows_after_job_id", "cron_follows", ["after_job_id"])
    op.create_table(
        "cron_pauses",
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner"],
            ["users.username"],
            name=op.f("fk_cron_pauses_owner_users"),
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_cron_pauses")),
    )
    op.create_table(
        "cron_maintenance",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=True),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cron_expr", sa.String(length=200), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("duration_seconds", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner"],
            ["users.username"],
            name=op.f("fk_cron_maintenance_owner_users"),
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cron_maintenance")),
    )
    op.create_index("ix_cron_maintenance_owner", "cron_maintenance", ["owner"])
    op.create_table(
        "cron_notices",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("job_id", BIG_ID, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("recipient", sa.String(length=254), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(length=300), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["cron_jobs.id"], name=op.f("fk_cron_notices_job_id_cron_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cron_notices")),
    )
    op.create_index("ix_cron_notices_finished_at", "cron_notices", ["finished_at"])
    op.create_index("ix_cron_notices_job_id_created_at", "cron_notices", ["job_id", "created_at"])
    for name, table, columns, condition in PARTIAL_INDEXES:
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, table, _columns, _condition in reversed(PARTIAL_INDEXES):
        op.drop_index(name, table_name=table)
    for table in ("cron_notices", "cron_maintenance", "cron_pauses", "cron_follows", "cron_state", "counters"):
        op.drop_table(table)
    # What the first version does not know is the nearest thing that it does.
    op.execute("DELETE FROM cron_runs WHERE status = 'queued'")
    op.execute("UPDATE cron_runs SET status = 'failed' WHERE status = 'timed_out'")
    for column in reversed(RUN_COLUMNS):
        op.drop_column("cron_runs", column.name)
    op.create_index("ix_cron_runs_status", "cron_runs", ["status"])
    op.drop_index("ix_cron_jobs_expect_by", table_name="cron_jobs")
    for column in reversed(JOB_COLUMNS):
        op.drop_column("cron_jobs", column.name)
