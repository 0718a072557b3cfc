"""The first start: an admin and a key, whatever happens in between."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wsp.auth.service import authenticate, change_user, create_user, list_keys, list_users
from wsp.database import Database, utc_now
from wsp.errors import StartupError, Unauthorized
from wsp.firststart import make_admin
from wsp.preparation import prepare
from wsp.settings import load_settings


def may_enter(database: Database, secret: str) -> bool:
    try:
        with database.reading() as session:
            principal, _ = authenticate(session, secret, utc_now())
    except Unauthorized:
        return False
    return principal.is_admin


class TestMakingTheAdmin:
    def test_on_an_empty_database(self, database: Database, tmp_path: Path) -> None:
        secret = make_admin(database, tmp_path)
        assert secret is not None
        token_file = tmp_path / "admin-token"
        assert token_file.read_text() == f"{secret}\n"
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert may_enter(database, secret)

    def test_only_once(self, database: Database, tmp_path: Path) -> None:
        first = make_admin(database, tmp_path)
        assert make_admin(database, tmp_path) is None
        assert (tmp_path / "admin-token").read_text().strip() == first
        with database.reading() as session:
            assert len(list_keys(session)) == 1

    def test_not_again_when_the_file_is_gone(self, database: Database, tmp_path: Path) -> None:
        make_admin(database, tmp_path)
        (tmp_path / "admin-token").unlink()
        assert make_admin(database, tmp_path) is None
        assert not (tmp_path / "admin-token").exists()

    def test_beside_users_who_are_no_admins(self, database: Database, tmp_path: Path) -> None:
        with database.transaction() as session:
            create_user(session, "anna")
        secret = make_admin(database, tmp_path)
        assert secret is not None
        assert may_enter(database, secret)

    def test_not_when_somebody_else_is_admin(self, database: Database, tmp_path: Path) -> None:
        with database.transaction() as session:
            create_user(session, "root", role="admin")
        assert make_admin(database, tmp_path) is None

    def test_not_when_the_name_is_taken(self, database: Database, tmp_path: Path) -> None:
        with database.transaction() as session:
            create_user(session, "root", role="admin")
            create_user(session, "admin")
            change_user(session, "admin", status="disabled")
        assert make_admin(database, tmp_path) is None

    def test_replaces_the_file_of_a_former_database(self, database: Database, tmp_path: Path) -> None:
        token_file = tmp_path / "admin-token"
        token_file.write_text("wsp_of_a_database_that_was_deleted\n")
        token_file.chmod(0o644)
        secret = make_admin(database, tmp_path)
        assert token_file.read_text().strip() == secret
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600


class TestBeingInterrupted:
    def test_when_the_file_cannot_be_written_nothing_was_made(self, database: Database, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="No such file"):
            make_admin(database, tmp_path / "missing")
        with database.reading() as session:
            assert list_users(session) == []
        secret = make_admin(database, tmp_path)
        assert secret is not None
        assert may_enter(database, secret)

    @pytest.mark.parametrize("moment", ["before the file", "before the commit"])
    def test_a_crash_leaves_a_server_that_can_be_entered(
        self, moment: str, database: Database, database_url: str, tmp_path: Path
    ) -> None:
        # os._exit is as sudden as kill -9: nothing is flushed, closed or rolled back by us.
        patch = {
            "before the file": "firststart._write_token = lambda *_: os._exit(9)",
            "before the commit": (
                "write = firststart._write_token\nfirststart._write_token = lambda *given: (write(*given), os._exit(9))"
            ),
        }[moment]
        imports = "import os; from pathlib import Path; from wsp import firststart; from wsp.database import Database"
        code = f"{imports}\n{patch}\nfirststart.make_admin(Database({database_url!r}), Path({str(tmp_path)!r}))"
        crashed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert crashed.returncode == 9, crashed.stderr
        assert (tmp_path / "admin-token").exists() == (moment == "before the commit")
        secret = make_admin(database, tmp_path)
        assert secret is not None
        assert (tmp_path / "admin-token").read_text().strip() == secret
        assert may_enter(database, secret)

    def test_a_file_half_written_by_a_crash_is_no_obstacle(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "admin-token.new").write_text("wsp_ha")
        assert make_admin(database, tmp_path) is not None
        assert not (tmp_path / "admin-token.new").exists()


class TestPreparing:
    def test_an_empty_store(self, empty_url: str, tmp_path: Path) -> None:
        settings = load_settings(data_dir=tmp_path, database_url=empty_url, timezone="UTC")
        secret = prepare(settings)
        assert secret is not None
        database = Database(empty_url)
        assert may_enter(database, secret)
        database.close()
        assert prepare(settings) is None

    def test_a_store_out_of_reach(self, tmp_path: Path) -> None:
        url = "postgresql://wsp:hunter2@127.0.0.1:1/wsp"
        with pytest.raises(StartupError, match=r"^WSP_DATABASE_URL: cannot use the database"):
            prepare(load_settings(data_dir=tmp_path, database_url=url, timezone="UTC"))

    def test_a_folder_that_cannot_be_written(self, empty_url: str, tmp_path: Path) -> None:
        settings = load_settings(data_dir=tmp_path / "missing", database_url=empty_url, timezone="UTC")
        with pytest.raises(StartupError, match=r"^WSP_DATA_DIR: cannot write"):
            prepare(settings)
