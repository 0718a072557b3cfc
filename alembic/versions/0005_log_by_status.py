"""Runs that did not succeed are found by their status, in the order of the log."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NAME = "ix_cron_runs_job_unsuccessful"
UNSUCCESSFUL = sa.text("status IN ('failed', 'timed_out', 'killed', 'lost', 'skipped')")


def upgrade() -> None:
    op.create_index(
        NAME,
        "cron_runs",
        ["job_id", "status", "scheduled_for"],
        sqlite_where=UNSUCCESSFUL,
        postgresql_where=UNSUCCESSFUL,
    )


def downgrade() -> None:
    op.drop_index(NAME, table_name="cron_runs")
