"""The command line: what it prints, and how it fails."""

import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from wsp import __version__
from wsp.auth.service import authenticate
from wsp.cli import run
from wsp.database import Database, utc_now
from wsp.settings import Settings

Wsp = Callable[..., subprocess.CompletedProcess[str]]

SERVICES = ("serve", "api", "ftp", "cron")

COMMANDS = [
    ["serve"],
    ["api"],
    ["ftp"],
    ["ftp", "import"],
    ["ftp", "export"],
    ["cron"],
    ["cron", "import"],
    ["cron", "export"],
    ["cron", "run"],
    ["cron", "logs"],
    ["cron", "tail"],
    ["config"],
    ["openapi"],
    ["token", "create"],
    ["token", "list"],
    ["token", "revoke"],
    ["user", "add"],
    ["user", "list"],
    ["user", "set"],
    ["user", "remove"],
    ["db", "upgrade"],
    ["db", "current"],
]


def run_wsp(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the current folder, with these settings and no others.

    Services run in a process of their own, as they configure logging and signals; the rest need not wait for one.
    """
    if arguments[:1] in [(service,) for service in SERVICES]:
        return subprocess.run(
            [sys.executable, "-m", "wsp", *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(err):
        code = run(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def assert_one_line(result: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert result.returncode != 0
    assert result.stdout == ""
    assert re.fullmatch(rf"wsp: [^\n]*{sentence}[^\n]*\n", result.stderr), result.stderr


@pytest.fixture
def wsp(database_url: str, tmp_path: Path) -> Wsp:
    """Commands on a migrated, empty database, with an admin in it already."""

    def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_wsp(*arguments, WSP_DATABASE_URL=database_url, WSP_DATA_DIR=str(tmp_path / "data"))

    assert run_here("user", "add", "admin", "--role", "admin").returncode == 0
    return run_here


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_has_an_example(self, command: list[str]) -> None:
        result = run_wsp(*command, "--help")
        assert result.returncode == 0
        assert "Example:" in result.stdout
        assert "--supervised" not in result.stdout

    def test_is_shown_when_nothing_is_asked(self) -> None:
        result = run_wsp()
        assert result.returncode == 2
        assert "serve" in result.stdout

    def test_version(self) -> None:
        assert run_wsp("--version").stdout == f"wsp {__version__}\n"


class TestServing:
    def test_the_supervisor_carries_no_database(self, tmp_path: Path) -> None:
        # It lives as long as the server, and what it loads it never gives back.
        code = (
            "import sys, wsp.cli, wsp.serve; from wsp.settings import load_settings; load_settings(); "
            "sys.exit(str(sys.modules.keys() & {'sqlalchemy', 'alembic', 'fastapi', 'pyftpdlib', 'cryptography'}))"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WSP_")}
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.stderr.strip() == "set()"


class TestFailing:
    @pytest.mark.parametrize("command", [["serve"], ["db", "upgrade"], ["api"], ["ftp"], ["cron"]], ids=" ".join)
    def test_a_database_file_that_cannot_be_made(self, command: list[str], tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        result = run_wsp(
            *command,
            WSP_DATABASE_URL=f"sqlite:///{tmp_path}/file/wsp.db",
            WSP_DATA_DIR=str(tmp_path / "data"),
            WSP_HTTP_PORT="20101",
            WSP_FTP_PORT="20102",
        )
        assert_one_line(result, "WSP_DATABASE_URL: cannot use the database")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["bogus"], "No such command 'bogus'; see wsp --help"),
            (["config", "--bogus"], "No such option: --bogus"),
            (["token", "create"], "Missing argument"),
            (["token", "create", "admin", "--permission", "everything"], "--permission"),
            (["token", "create", "admin", "--expires-in", "-1"], "--expires-in"),
            (["user", "add", "anna", "--role", "king"], "--role"),
        ],
    )
    def test_a_wrong_command_line(self, arguments: list[str], sentence: str) -> None:
        result = run_wsp(*arguments)
        assert result.returncode == 2
        assert_one_line(result, re.escape(sentence))

    def test_a_wrong_setting(self) -> None:
        result = run_wsp("config", WSP_HTTP_PORT="http")
        assert result.returncode == 1
        assert_one_line(result, "WSP_HTTP_PORT: a whole number from 1 to 65535 is allowed")

    def test_no_database_yet(self, tmp_path: Path) -> None:
        assert_one_line(run_wsp("token", "list"), "There is no database yet")
        assert list(tmp_path.iterdir()) == []

    def test_a_database_out_of_reach(self) -> None:
        url = "postgresql://wsp:hunter2@127.0.0.1:1/wsp"
        for command in (["token", "list"], ["db", "upgrade"], ["api"]):
            result = run_wsp(*command, WSP_DATABASE_URL=url)
            assert_one_line(result, "WSP_DATABASE_URL: cannot use the database")
            assert "hunter2" not in result.stderr

    def test_a_service_alone_on_a_database_that_is_not_migrated(self) -> None:
        for service in ("api", "ftp", "cron"):
            result = run_wsp(service)
            assert result.returncode == 1
            assert_one_line(result, "run: wsp db upgrade")

    def test_an_unknown_variable_is_a_warning(self) -> None:
        result = run_wsp("config", WSP_FTP_PROT="21")
        assert result.returncode == 0
        assert result.stderr == "wsp: warning: WSP_FTP_PROT is not a setting; did you mean WSP_FTP_PORT?\n"


class TestConfig:
    def test_shows_every_setting(self, tmp_path: Path) -> None:
        values = json.loads(run_wsp("config", "--json", WSP_HTTP_PORT="4000").stdout)
        assert list(values) == [f"WSP_{name.upper()}" for name in Settings.model_fields]
        assert values["WSP_HTTP_PORT"] == 4000
        assert values["WSP_DATA_DIR"] == str(tmp_path / "wsp-data")
        assert values["WSP_FILES_ROOT"] == str(tmp_path / "wsp-data" / "files")
        assert values["WSP_FTP_PASSIVE_PORTS"] == "50000-50999"

    def test_as_a_table(self) -> None:
        text = run_wsp("config").stdout
        assert re.search(r"^WSP_HTTP_PORT +3082 ", text, re.MULTILINE)

    def test_shows_no_secret(self) -> None:
        secrets = {"WSP_SMTP_PASSWORD": "hunter2", "WSP_DATABASE_URL": "postgresql://wsp:hunter2@db/wsp"}
        for options in ([], ["--json"]):
            result = run_wsp("config", *options, **secrets)
            assert result.returncode == 0
            assert "hunter2" not in result.stdout + result.stderr
            assert "********" in result.stdout
            assert "@db/wsp" in result.stdout

    def test_makes_nothing(self, tmp_path: Path) -> None:
        run_wsp("config")
        assert list(tmp_path.iterdir()) == []


class TestToken:
    def test_create_prints_a_key_that_works(self, wsp: Wsp, database: Database) -> None:
        result = wsp("token", "create", "admin", "--name", "backup", "--permission", "ftp", "--permission", "read")
        assert result.returncode == 0
        assert re.fullmatch(r"wsp_[0-9a-f]{48}\n", result.stdout)
        with database.reading() as session:
            principal, _ = authenticate(session, result.stdout.strip(), utc_now())
        assert principal.username == "admin"
        assert principal.permissions == ("ftp", "read")

    def test_create_for_addresses_and_a_while(self, wsp: Wsp) -> None:
        options = ["--ip", "203.0.113.7", "--ip", "10.0.0.0/8", "--ip", "203.0.113.7", "--expires-in", "30"]
        assert wsp("token", "create", "admin", *options).returncode == 0
        (key,) = json.loads(wsp("token", "list", "admin", "--json").stdout)
        assert key["ip_whitelist"] == ["203.0.113.7", "10.0.0.0/8"]
        assert key["expires_at"] > key["created_at"]

    def test_create_for_nobody(self, wsp: Wsp) -> None:
        assert_one_line(wsp("token", "create", "nobody"), "User not found")

    def test_create_with_a_wrong_address(self, wsp: Wsp) -> None:
        for wrong, sentence in (
            ("example.com", "must be an address"),
            ("10.1.2.3/8", "is not the address of a network"),
        ):
            result = wsp("token", "create", "admin", "--ip", "10.0.0.1", "--ip", wrong)
            assert_one_line(result, f"IP whitelist: item 2 {sentence}")

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [(" ", "is required"), ("x" * 101, "must be at most 100"), ("a\nb", "must not contain control characters")],
    )
    def test_create_with_a_wrong_name(self, name: str, sentence: str, wsp: Wsp) -> None:
        assert_one_line(wsp("token", "create", "admin", "--name", name), f"Name {sentence}")

    def test_list_shows_no_secret(self, wsp: Wsp) -> None:
        secret = wsp("token", "create", "admin").stdout.strip()
        for options in ([], ["--json"]):
            text = wsp("token", "list", *options).stdout
            assert secret[:12] in text
            assert secret not in text

    def test_revoke(self, wsp: Wsp) -> None:
        wsp("token", "create", "admin")
        (key,) = json.loads(wsp("token", "list", "--json").stdout)
        assert wsp("token", "revoke", key["id"]).returncode == 0
        assert json.loads(wsp("token", "list", "--json").stdout) == []
        assert_one_line(wsp("token", "revoke", key["id"]), "API key not found")


class TestUser:
    def test_add_set_and_remove(self, wsp: Wsp) -> None:
        assert wsp("user", "add", "anna", "--email", "anna@example.com").returncode == 0
        assert wsp("user", "set", "anna", "--status", "disabled", "--email", "").returncode == 0
        users = {user["username"]: user for user in json.loads(wsp("user", "list", "--json").stdout)}
        assert users["anna"] == {"username": "anna", "email": "", "role": "user", "status": "disabled"}
        assert "anna" in wsp("user", "list").stdout
        assert wsp("user", "remove", "anna").returncode == 0
        assert_one_line(wsp("user", "remove", "anna"), "User not found")

    def test_add_twice(self, wsp: Wsp) -> None:
        assert_one_line(wsp("user", "add", "admin"), "User 'admin' already exists")

    @pytest.mark.parametrize("name", ["Anna", "a_b", "../x", "1a", "ä"])
    def test_add_with_a_name_that_is_not_allowed(self, name: str, wsp: Wsp) -> None:
        assert_one_line(wsp("user", "add", name), "Username must begin with a lower-case letter")

    def test_a_wrong_mail_address(self, wsp: Wsp) -> None:
        assert_one_line(wsp("user", "add", "anna", "--email", "anna"), "Email must be an e-mail address")
        assert_one_line(wsp("user", "set", "admin", "--email", "a b@c"), "Email must be an e-mail address")

    def test_a_mail_address_on_this_machine(self, wsp: Wsp) -> None:
        assert wsp("user", "set", "admin", "--email", "root@box").returncode == 0

    def test_set_nothing(self, wsp: Wsp) -> None:
        assert_one_line(wsp("user", "set", "admin"), "Nothing to change")

    def test_the_last_admin_stays(self, wsp: Wsp) -> None:
        assert_one_line(wsp("user", "remove", "admin"), "The last active admin must stay")


class TestDb:
    def test_upgrade_and_current(self, empty_url: str, tmp_path: Path) -> None:
        settings = {"WSP_DATABASE_URL": empty_url, "WSP_DATA_DIR": str(tmp_path / "data")}
        made = run_wsp("db", "upgrade", **settings)
        assert made.returncode == 0, made.stderr
        assert "was empty" in made.stdout
        again = run_wsp("db", "upgrade", **settings)
        assert "was" not in again.stdout
        assert "(current)" in run_wsp("db", "current", **settings).stdout

    def test_upgrade_makes_a_private_folder(self, tmp_path: Path) -> None:
        assert run_wsp("db", "upgrade").returncode == 0
        assert stat.S_IMODE((tmp_path / "wsp-data").stat().st_mode) == 0o700

    def test_current_makes_nothing(self, tmp_path: Path) -> None:
        assert_one_line(run_wsp("db", "current"), "There is no database yet")
        assert list(tmp_path.iterdir()) == []


class TestOpenapi:
    def test_prints_the_document_and_makes_nothing(self, tmp_path: Path) -> None:
        result = run_wsp("openapi")
        assert result.returncode == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["openapi"].startswith("3.")
        assert "/api/v1/ftp/" in document["paths"] or "/api/v1/ftp" in document["paths"]
        assert list(tmp_path.iterdir()) == []
