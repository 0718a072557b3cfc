"""`wsp ftp import` and `wsp ftp export`."""

import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from sqlalchemy import select

from wsp.auth.service import create_user
from wsp.cli import run
from wsp.database import Database
from wsp.ftp.models import FtpAccount

Wsp = Callable[..., subprocess.CompletedProcess[str]]
HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"


@pytest.fixture
def wsp(database: Database, database_url: str, tmp_path: Path) -> Wsp:
    """`wsp ftp …` on a database with the users ann and bob."""
    with database.transaction() as session:
        for name in ("ann", "bob"):
            create_user(session, name)
    environment = {"WSP_DATABASE_URL": database_url, "WSP_DATA_DIR": str(tmp_path / "data")}

    def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(err):
            code = run(["ftp", *arguments])
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return run_here


def stored(database: Database) -> dict[str, FtpAccount]:
    with database.reading() as session:
        return {account.username: account for account in session.scalars(select(FtpAccount))}


class TestImport:
    def test_of_json(self, wsp: Wsp, database: Database, tmp_path: Path) -> None:
        accounts = [{"username": f"site{n}", "password_hash": HASH} for n in range(1200)]
        (tmp_path / "a.json").write_text(json.dumps([*accounts, {"username": "x", "password_hash": HASH}]))
        result = wsp("import", "a.json", "--owner", "ann")
        assert result.returncode == 1
        assert "1200 created, 0 skipped, 1 failed" in result.stderr
        assert "1201" in result.stdout
        assert "Username must be at least 2 characters" in result.stdout
        assert len(stored(database)) == 1200

    def test_of_a_pure_ftpd_file(self, wsp: Wsp, database: Database, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text(f"joe:{HASH}:1:1::/home/ann/joe/./::::::::::::\n")
        options = ["import", "pw", "--format", "pure-ftpd", "--owner", "ann"]
        tried = wsp(*options, "--dry-run")
        assert (tried.returncode, stored(database)) == (0, {})
        assert "would create" in tried.stdout
        assert wsp(*options).returncode == 0
        assert stored(database)["ann_joe"].home_dir == "/home/ann/joe"

    @pytest.mark.parametrize(
        ("content", "options", "sentence"),
        [
            ("{", [], "is not valid JSON"),
            ("{}", [], "must hold a list of accounts"),
            ("a:b", ["--format", "pure-ftpd"], "Owner is required"),
            ("[]", ["--format", "xml"], "'xml'"),
        ],
    )
    def test_fails_in_one_line(self, wsp: Wsp, tmp_path: Path, content: str, options: list[str], sentence: str) -> None:
        (tmp_path / "file").write_text(content)
        result = wsp("import", "file", *options)
        assert result.returncode != 0
        assert result.stdout == ""
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1

    def test_fails_for_a_file_that_is_not_there(self, wsp: Wsp) -> None:
        result = wsp("import", "nothing.json")
        assert (result.returncode, result.stderr) == (1, "wsp: Cannot read nothing.json: No such file or directory\n")


class TestExport:
    def test_is_what_import_reads(self, wsp: Wsp, database: Database, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(json.dumps([{"username": "one", "password_hash": HASH, "quota_mb": 5}]))
        wsp("import", "a.json", "--owner", "ann")
        exported = wsp("export", "--output", "out.json")
        assert (exported.returncode, exported.stdout, exported.stderr) == (0, "", "")
        assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == 0o600
        with database.transaction() as session:
            session.delete(session.scalars(select(FtpAccount)).one())
        assert wsp("import", "out.json").returncode == 0
        account = stored(database)["ann_one"]
        assert (account.quota_mb, account.password_hash) == (5, HASH)

    def test_makes_a_file_that_was_there_private(self, wsp: Wsp, tmp_path: Path) -> None:
        (tmp_path / "out.json").touch(0o644)
        assert wsp("export", "--output", "out.json").returncode == 0
        assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == 0o600

    def test_says_that_it_is_secret(self, wsp: Wsp) -> None:
        result = wsp("export")
        assert json.loads(result.stdout) == {"accounts": []}
        assert "keep it secret" in result.stderr

    def test_for_pure_ftpd(self, wsp: Wsp, database: Database, tmp_path: Path) -> None:
        accounts = [
            {"username": "one", "password_hash": HASH, "read_only": True},
            {"username": "two", "password_hash": HASH, "enabled": False},
        ]
        (tmp_path / "a.json").write_text(json.dumps(accounts))
        wsp("import", "a.json", "--owner", "ann")
        result = wsp("export", "--format", "pure-ftpd", "--owner", "ann")
        home = tmp_path / "data" / "files" / "home" / "ann"
        assert result.stdout == f"ann_one:{HASH}:65534:65534::{home}/./::::::::::::\n"
        assert "ann_one: read_only is not in pure-ftpd's format" in result.stderr
        assert "ann_two is left out" in result.stderr

    def test_of_nobody(self, wsp: Wsp) -> None:
        result = wsp("export", "--owner", "nobody")
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "wsp: User not found\n")


class TestTheServer:
    def test_carries_nothing_of_this(self, tmp_path: Path) -> None:
        program = """
import sys
from unittest import mock
from wsp import cli
with mock.patch("wsp.cli.services._run", return_value=0) as ran:
    assert cli.run(sys.argv[1:]) == 0
assert ran.called
assert "wsp.cli.accounts" not in sys.modules and "wsp.cli.administration" not in sys.modules
"""
        for arguments in (["ftp"], ["ftp", "--supervised", "1"], ["ftp", "--supervised=1"]):
            result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
