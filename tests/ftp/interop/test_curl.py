"""curl: single files, folders made on the way, commands before and after."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])]

Curl = Callable[..., str]


@pytest.fixture
def fetch_url(server: Any, curl: str, run: Any, tls: bool) -> Curl:
    """Run curl as an account, on a path below its home."""

    def fetch_url(account: Any, path: str, *options: str | Path, code: int = 0) -> str:
        secure = ["--ssl-reqd", "-k"] if tls else []
        who = f"{account.username}:{account.password}"
        url = f"ftp://127.0.0.1:{server.port}/{quote(path)}"
        return str(run(curl, "-sS", *secure, "-u", who, *options, url, code=code))

    return fetch_url


class TestTransfer:
    def test_every_file_up_and_down(self, server: Any, fetch_url: Curl, tree: Path, tmp_path: Path) -> None:
        account = server.account()
        for path in [*tree.glob("*.*"), tree / "with space" / "s\u00fcb" / "cafe\u0301.txt"]:
            name = str(path.relative_to(tree))
            fetch_url(account, f"new/{name}", "--ftp-create-dirs", "-T", path)
            assert (account.home / "new" / name).read_bytes() == path.read_bytes()
            fetch_url(account, f"new/{name}", "-R", "-o", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == path.read_bytes()

    def test_the_time_of_a_file_comes_along(self, server: Any, fetch_url: Curl, tmp_path: Path) -> None:
        account = server.account()
        (tmp_path / "f").write_bytes(b"x")
        fetch_url(account, "f", "-T", tmp_path / "f", "-Q", "-MFMT 20000102030405 f")
        fetch_url(account, "f", "-R", "-o", tmp_path / "back")
        assert (tmp_path / "back").stat().st_mtime == 946_782_245
        assert "Last-Modified: Sun, 02 Jan 2000 03:04:05 GMT" in fetch_url(account, "f", "-I")

    def test_an_append_and_a_range(self, server: Any, fetch_url: Curl, tmp_path: Path) -> None:
        account = server.account()
        (tmp_path / "f").write_bytes(b"0123456789")
        fetch_url(account, "f", "-T", tmp_path / "f")
        fetch_url(account, "f", "--append", "-T", tmp_path / "f")
        assert fetch_url(account, "f") == "01234567890123456789"
        assert fetch_url(account, "f", "-r", "3-12") == "3456789012"


class TestResume:
    def test_both_ways(self, server: Any, fetch_url: Curl, tree: Path, tmp_path: Path) -> None:
        account = server.account()
        whole = (tree / "big.bin").read_bytes()
        fetch_url(account, "", "-Q", "PWD")  # the first login makes the home
        (account.home / "big.bin").write_bytes(whole[:7_654_321])
        fetch_url(account, "big.bin", "-C", "-", "-T", tree / "big.bin")
        assert (account.home / "big.bin").read_bytes() == whole
        (tmp_path / "back").write_bytes(whole[:7_654_321])
        fetch_url(account, "big.bin", "-C", "-", "-o", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == whole


class TestCommands:
    def test_quotes_rename_and_remove(self, server: Any, fetch_url: Curl, tmp_path: Path) -> None:
        account = server.account()
        (tmp_path / "f").write_bytes(b"x")
        fetch_url(account, "part", "-T", tmp_path / "f", "-Q", "-RNFR part", "-Q", "-RNTO whole name")
        assert fetch_url(account, "", "--list-only") == "whole name\n"
        fetch_url(account, "", "-Q", "MKD d", "-Q", "SITE CHMOD 700 d", "-Q", "DELE whole name")
        assert fetch_url(account, "", "--list-only") == "d\n"
        assert (account.home / "d").stat().st_mode & 0o777 == 0o700
        fetch_url(account, "", "-Q", "RMD missing", code=21)
        fetch_url(account, "missing", code=78)

    @pytest.mark.parametrize("options", [("--disable-epsv",), ("-P", "-"), ("-P", "-", "--disable-eprt")])
    @pytest.mark.parametrize("method", ["multicwd", "nocwd", "singlecwd"])
    def test_every_way_to_open_a_data_connection_and_to_name_a_file(
        self, server: Any, fetch_url: Curl, tmp_path: Path, tls: bool, options: tuple[str, ...], method: str
    ) -> None:
        if tls and "-P" in options:
            pytest.skip("curl 7.88 itself fails (18) when it combines the two")
        account = server.account()
        (tmp_path / "f").write_bytes(b"content")
        fetch_url(account, "", "-Q", "MKD a", "-Q", "MKD a/b c")
        fetch_url(account, "a/b c/f", "-T", tmp_path / "f", "--ftp-method", method, *options)
        assert fetch_url(account, "a/b c/f", "--ftp-method", method, *options) == "content"
