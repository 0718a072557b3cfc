"""The database schema: applied by Alembic migrations alone, which travel inside the wheel."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from wsp.database import Database

_PACKAGED = Path(__file__).parent / "migrations"
_CHECKOUT = Path(__file__).parents[2] / "alembic"

MIGRATION_LOCK = 0x777370  # "wsp": one migrator at a time on PostgreSQL


def alembic_config() -> Config:
    """Alembic's configuration, for the migrations of the wheel or, in a checkout, of its top level."""
    config = Config()
    config.set_main_option("script_location", str(_PACKAGED if _PACKAGED.is_dir() else _CHECKOUT).replace("%", "%%"))
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema to `revision`. Does nothing when it is there already; safe when two start at once."""
    _run(database, revision, command.upgrade)


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to `revision` (`base` for nothing at all)."""
    _run(database, revision, command.downgrade)


def _run(database: Database, revision: str, step: Callable[[Config, str], None]) -> None:
    config = alembic_config()
    with database.engine.begin() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        step(config, revision)


def knows(revision: str) -> bool:
    """Is there a migration of this name? Not, when the database was made by a newer version."""
    return revision in {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
