"""The migrations: they make exactly the tables that the models describe, on both stores, and can be taken back."""

import threading
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.exc import IntegrityError

from wsp import schema, tables
from wsp.database import Database
from wsp.errors import StartupError
from wsp.ftp import anonymous, service
from wsp.preparation import check_schema, migrate
from wsp.revision import REVISION, stored_revision


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})


def _shape(database: Database) -> dict[str, object]:
    """Everything the store says about its tables."""
    inspector = inspect(database.engine)
    return {
        table: {
            # Sorted: a column that came later stands last in the table, and where it belongs in the model.
            "columns": sorted(
                (c["name"], str(c["type"]), c["nullable"], str(c["default"])) for c in inspector.get_columns(table)
            ),
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(map(repr, inspector.get_foreign_keys(table))),
            "unique": sorted(map(repr, inspector.get_unique_constraints(table))),
            "indexes": sorted(_plain(index) for index in inspector.get_indexes(table)),
        }
        for table in sorted(inspector.get_table_names())
    }


def _plain(index: ReflectedIndex) -> str:
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return repr({**index, "dialect_options": options})


FIRST_VERSION = (
    "INSERT INTO users (username, email, role, status, created_at, updated_at)"
    " VALUES ('ann', 'ann@example.com', 'user', 'active', :now, :now), ('bob', '', 'user', 'active', :now, :now)",
    "INSERT INTO ftp_accounts (username, owner, domain, home_dir, password_hash, quota_mb, read_only, enabled,"
    " allowed_ips, created_at, updated_at) VALUES"
    " ('ann_web', 'ann', 'a.example', '/home/ann/a.example', '$argon2id$', 500, true, false,"
    " '[\"192.0.2.1\"]', :now, :now),"
    " ('ann_ci', 'ann', '', '/home/ann', '$argon2id$', 0, false, true, '[]', :now, :now)",
    "INSERT INTO ftp_anonymous (domain, owner, enabled, allow_upload, created_at, updated_at)"
    " VALUES ('a.example', 'ann', true, true, :now, :now), ('b.example', 'bob', false, false, :now, :now)",
)
"""What a server of the first version may have stored."""


def _rows(database: Database) -> dict[str, list[dict[str, object]]]:
    """What is stored of users and FTP."""
    tables_of_it = {"users": "username", "ftp_accounts": "id", "ftp_anonymous": "domain"}
    with database.engine.connect() as connection:
        return {
            table: [dict(row) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY {key}")).mappings()]
            for table, key in tables_of_it.items()
        }


def _assert_owners_are_held_to(database: Database) -> None:
    """An account keeps its owner from being removed; a domain goes with its owner."""
    with database.engine.connect() as connection:
        with pytest.raises(IntegrityError), connection.begin_nested():
            connection.execute(text("DELETE FROM users WHERE username = 'ann'"))
        connection.rollback()
        connection.execute(text("DELETE FROM users WHERE username = 'bob'"))
        assert connection.execute(text("SELECT domain FROM ftp_anonymous")).scalars().all() == ["a.example"]
        connection.rollback()


@pytest.fixture
def empty(empty_url: str) -> Database:
    return Database(empty_url)


class TestModelsAndMigrations:
    def test_are_equal(self, database: Database) -> None:
        with database.engine.connect() as connection:
            assert compare_metadata(_context(connection), tables.metadata) == []

    def test_a_difference_would_be_seen(self, database: Database) -> None:
        with database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE users ADD COLUMN extra INTEGER"))
        with database.engine.connect() as connection:
            operations = produce_migrations(_context(connection), tables.metadata).upgrade_ops
        assert operations is not None
        assert not operations.is_empty()

    def test_make_the_same_tables_as_the_models_alone(self, database: Database, empty_url: str) -> None:
        from_models = Database(empty_url)
        tables.metadata.create_all(from_models.engine)
        made = _shape(database)
        made.pop("alembic_version")
        assert made == _shape(from_models)
        from_models.close()

    def test_form_one_line(self) -> None:
        script = ScriptDirectory.from_config(schema.alembic_config())
        assert len(script.get_heads()) == 1
        assert len(script.get_bases()) == 1
        assert script.get_current_head() == REVISION


class TestMovingBetweenRevisions:
    def test_up_down_and_up_again(self, empty: Database) -> None:
        schema.upgrade(empty)
        first = _shape(empty)
        schema.downgrade(empty, "base")
        assert set(_shape(empty)) == {"alembic_version"}
        assert stored_revision(empty) is None
        schema.upgrade(empty)
        assert _shape(empty) == first
        empty.close()

    def test_each_step_can_be_taken_back(self, empty: Database) -> None:
        script = ScriptDirectory.from_config(schema.alembic_config())
        for revision in reversed([step.revision for step in script.walk_revisions()]):
            schema.upgrade(empty, revision)
            schema.downgrade(empty, "-1")
            schema.upgrade(empty, revision)
            assert stored_revision(empty) == revision
        empty.close()

    def test_what_the_first_version_stored_survives(self, empty: Database) -> None:
        schema.upgrade(empty, "0001")
        with empty.engine.begin() as connection:
            for statement in FIRST_VERSION:
                connection.execute(text(statement), {"now": datetime(2026, 5, 18, 10, 44, 36, tzinfo=UTC)})
        stored = _rows(empty)
        for step in (schema.upgrade, lambda store: schema.downgrade(store, "0001"), schema.upgrade):
            step(empty)
            kept = _rows(empty)
            assert {
                table: [{name: row[name] for name in old} for old, row in zip(stored[table], kept[table], strict=True)]
                for table in stored
            } == stored
            _assert_owners_are_held_to(empty)
        with empty.reading() as session:
            account = service.get_account(session, "ann", "ann_web")
            assert (account.require_tls, account.max_sessions, account.permissions) == (False, 0, None)
            access = anonymous.get_access(session, "ann", "a.example", owner="ann")
            assert (access.enabled, access.read_only, access.quota_mb, access.welcome_message) == (True, False, 0, "")
        empty.close()

    def test_upgrading_what_is_current_changes_nothing(self, database: Database) -> None:
        before = _shape(database)
        schema.upgrade(database)
        assert _shape(database) == before

    def test_two_that_start_at_once_do_not_collide(self, empty_url: str) -> None:
        trouble: list[Exception] = []
        barrier = threading.Barrier(2)

        def start() -> None:
            database = Database(empty_url)
            barrier.wait()
            try:
                migrate(database)
            except Exception as error:  # asserted upon below
                trouble.append(error)
            database.close()

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert trouble == []


class TestStartingOnASchema:
    def test_an_empty_database_is_not_current(self, empty: Database) -> None:
        with pytest.raises(StartupError, match="wsp db upgrade"):
            check_schema(empty)
        empty.close()

    def test_a_migrated_one_is(self, database: Database) -> None:
        check_schema(database)

    def test_one_of_a_newer_version_is_left_alone(self, database: Database) -> None:
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(StartupError, match="schema 9999, which this version of wsp does not know"):
            migrate(database)
        assert stored_revision(database) == "9999"

    def test_a_database_out_of_reach_is_one_line_without_its_password(self) -> None:
        database = Database("postgresql+psycopg://wsp:hunter2@127.0.0.1:1/wsp")
        with pytest.raises(StartupError) as caught:
            migrate(database)
        assert caught.value.sentence.startswith("WSP_DATABASE_URL: cannot use the database: ")
        assert "\n" not in caught.value.sentence
        assert "hunter2" not in caught.value.sentence
        database.close()
