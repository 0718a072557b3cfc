"""FTP: limits and rules of accounts and domains, usage, sessions, transfers, bans, credentials; webhooks; epochs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ACCOUNT_COLUMNS = (
    sa.Column("home_subdir", sa.String(length=255), nullable=False, server_default=sa.text("''")),
    sa.Column("credential_version", sa.Integer(), nullable=False, server_default="1"),
    sa.Column("require_tls", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("max_sessions", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("upload_kbps", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("download_kbps", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("permissions", sa.JSON(), nullable=True),
    sa.Column("description", sa.String(length=200), nullable=False, server_default=sa.text("''")),
)
ANONYMOUS_COLUMNS = (
    sa.Column("read_only", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("allow_mkdir", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("max_connections", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("rate_kbps", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("quota_mb", sa.BigInteger(), nullable=False, server_default="0"),
    sa.Column("welcome_message", sa.Text(), nullable=False, server_default=sa.text("''")),
)


def upgrade() -> None:
    with op.batch_alter_table("ftp_accounts") as table:
        table.alter_column("home_dir", type_=sa.String(length=600), existing_type=sa.String(length=300))
        for column in ACCOUNT_COLUMNS:
            table.add_column(column)
        table.create_index("ix_ftp_accounts_domain", ["domain"])
    with op.batch_alter_table("ftp_anonymous") as table:
        for column in ANONYMOUS_COLUMNS:
            table.add_column(column)

    op.create_table(
        "epochs",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_epochs")),
    )
    op.create_table(
        "ftp_guests",
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("bans", sa.Integer(), nullable=False),
        sa.Column("banned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("banned_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=300), nullable=False),
        sa.PrimaryKeyConstraint("kind", "subject", name=op.f("pk_ftp_guests")),
    )
    op.create_index("ix_ftp_guests_banned_until", "ftp_guests", ["banned_until"])
    op.create_index("ix_ftp_guests_scored_at", "ftp_guests", ["scored_at"])
    op.create_table(
        "ftp_last_sessions",
        sa.Column("username", sa.String(length=300), nullable=False),
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("client", sa.String(length=100), nullable=False),
        sa.Column("tls", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("uploads", sa.Integer(), nullable=False),
        sa.Column("downloads", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("bytes_uploaded", sa.BigInteger(), nullable=False),
        sa.Column("bytes_downloaded", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("username", name=op.f("pk_ftp_last_sessions")),
    )
    op.create_table(
        "ftp_sessions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("service_id", sa.String(length=32), nullable=False),
        sa.Column("username", sa.String(length=300), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("client", sa.String(length=100), nullable=False),
        sa.Column("tls", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("active_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("command", sa.String(length=16), nullable=False),
        sa.Column("direction", sa.String(length=10), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("transferred", sa.BigInteger(), nullable=False),
        sa.Column("rate", sa.BigInteger(), nullable=False),
        sa.Column("bytes_uploaded", sa.BigInteger(), nullable=False),
        sa.Column("bytes_downloaded", sa.BigInteger(), nullable=False),
        sa.Column("uploads", sa.Integer(), nullable=False),
        sa.Column("downloads", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("end_requested", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ftp_sessions")),
    )
    op.create_index("ix_ftp_sessions_owner", "ftp_sessions", ["owner"])
    op.create_index("ix_ftp_sessions_service_id", "ftp_sessions", ["service_id"])
    op.create_table(
        "ftp_transfers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("username", sa.String(length=300), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("tls", sa.Boolean(), nullable=False),
        sa.Column("direction", sa.String(length=10), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(length=80), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ftp_transfers")),
    )
    op.create_index("ix_ftp_transfers_ended_at", "ftp_transfers", ["ended_at"])
    op.create_index("ix_ftp_transfers_username_id", "ftp_transfers", ["username", "id"])
    op.create_table(
        "ftp_usage",
        sa.Column("home_dir", sa.String(length=600), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_count", sa.BigInteger(), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("home_dir", name=op.f("pk_ftp_usage")),
    )
    op.create_index(op.f("ix_ftp_usage_counted_at"), "ftp_usage", ["counted_at"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("description", sa.String(length=200), nullable=False),
        sa.Column("secret", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner"], ["users.username"], name=op.f("fk_webhooks_owner_users"), onupdate="CASCADE", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_owner", "webhooks", ["owner"])
    op.create_table(
        "ftp_credentials",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("username", sa.String(length=65), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("folder", sa.String(length=600), nullable=False),
        sa.Column("allowed_ips", sa.JSON(), nullable=False),
        sa.Column("description", sa.String(length=200), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["username"],
            ["ftp_accounts.username"],
            name=op.f("fk_ftp_credentials_username_ftp_accounts"),
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ftp_credentials")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_ftp_credentials_secret_hash")),
    )
    op.create_index("ix_ftp_credentials_expires_at", "ftp_credentials", ["expires_at"])
    op.create_index("ix_ftp_credentials_username", "ftp_credentials", ["username"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("webhook_id", sa.String(length=16), nullable=False),
        sa.Column("event_id", sa.String(length=32), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("response_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(length=300), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id_webhooks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index("ix_webhook_deliveries_finished_at", "webhook_deliveries", ["finished_at"])
    op.create_index("ix_webhook_deliveries_next_attempt_at", "webhook_deliveries", ["next_attempt_at"])
    op.create_index("ix_webhook_deliveries_webhook_id", "webhook_deliveries", ["webhook_id"])
    op.execute("INSERT INTO epochs (name, value) VALUES ('ftp', 0), ('bans', 0)")


def downgrade() -> None:
    for table_name in (
        "webhook_deliveries",
        "ftp_credentials",
        "webhooks",
        "ftp_usage",
        "ftp_transfers",
        "ftp_sessions",
        "ftp_last_sessions",
        "ftp_guests",
        "epochs",
    ):
        op.drop_table(table_name)
    with op.batch_alter_table("ftp_anonymous") as table:
        for column in reversed(ANONYMOUS_COLUMNS):
            table.drop_column(column.name)
    with op.batch_alter_table("ftp_accounts") as table:
        table.drop_index("ix_ftp_accounts_domain")
        for column in reversed(ACCOUNT_COLUMNS):
            table.drop_column(column.name)
        table.alter_column("home_dir", type_=sa.String(length=300), existing_type=sa.String(length=600))
