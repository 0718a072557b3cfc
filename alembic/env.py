"""Runs the migrations, on the connection handed over by `wsp.schema`, or on the one the settings name."""

from alembic import context
from sqlalchemy import Connection

import wsp.tables
from wsp.database import Database
from wsp.settings import load_settings


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=wsp.tables.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    database = Database(load_settings().database)
    with database.engine.begin() as own_connection:
        _migrate(own_connection)
    database.close()
