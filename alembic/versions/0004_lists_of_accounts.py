"""FTP accounts of an owner and of a domain are found in the order of the list, without sorting them."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = ("owner", "domain")


def upgrade() -> None:
    for column in COLUMNS:
        op.create_index(f"ix_ftp_accounts_{column}_username", "ftp_accounts", [column, "username"])
        op.drop_index(f"ix_ftp_accounts_{column}", table_name="ftp_accounts")


def downgrade() -> None:
    for column in COLUMNS:
        op.create_index(f"ix_ftp_accounts_{column}", "ftp_accounts", [column])
        op.drop_index(f"ix_ftp_accounts_{column}_username", table_name="ftp_accounts")
