"""Modes and owners of what FTP makes."""

import ftplib
import grp
import io
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsp.errors import StartupError
from wsp.ftp.ownership import Owner, find_owner

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to somebody else needs root")
UID, GID = 33, 34  # nobody has to have them


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


class TestFindOwner:
    def test_none_is_none(self) -> None:
        assert find_owner(None) is None

    @as_root
    def test_takes_names_and_numbers(self) -> None:
        root = pwd.getpwuid(0).pw_name
        assert find_owner(f"{root}:{grp.getgrgid(0).gr_name}") == Owner(0, 0)
        assert find_owner(f"{UID}:{GID}") == Owner(UID, GID)

    @as_root
    @pytest.mark.parametrize(
        ("setting", "missing"), [("nosuchuser:0", "user nosuchuser"), ("0:nosuch", "group nosuch")]
    )
    def test_names_that_are_not_there_are_refused(self, setting: str, missing: str) -> None:
        with pytest.raises(StartupError, match=f"^WSP_FTP_FILE_OWNER: there is no {missing} on this machine$"):
            find_owner(setting)

    def test_is_refused_to_others_than_root(self) -> None:
        program = (
            "import os; from wsp.ftp.ownership import find_owner; os.geteuid() or os.setuid(65534); find_owner('33:33')"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "StartupError: WSP_FTP_FILE_OWNER: only root can give files to somebody else" in done.stderr


@pytest.mark.e2e
class TestUmask:
    @pytest.mark.parametrize(("umask", "file", "folder"), [("027", 0o640, 0o750), ("002", 0o664, 0o775)])
    def test_is_taken_off_new_files_and_folders(
        self, new_shared_server: Callable[..., Any], connect: Any, put: Any, umask: str, file: int, folder: int
    ) -> None:
        server = new_shared_server(WSP_FTP_UMASK=umask).start()
        account = server.account()
        client = connect(server, account)
        put(client, "f", b"x")
        client.mkd("d")
        client.storbinary("STOU", io.BytesIO())
        assert mode(account.home / "f") == file
        assert mode(account.home / "d") == folder
        (account.home / "f").chmod(0o600)
        put(client, "f", b"y")
        assert mode(account.home / "f") == 0o600

    def test_opens_nothing_of_the_server_itself(
        self, new_shared_server: Callable[..., Any], connect: Any, put: Any
    ) -> None:
        server = new_shared_server(WSP_FTP_UMASK="000").start()
        put(connect(server, server.account()), "f", b"x")
        data = server.settings.data_dir
        private = [data / "ftp.lock", data / "tls" / "ftp.key", *(data / "ftp-state").iterdir()]
        assert [path.name for path in private if mode(path) & 0o077] == []


@pytest.mark.e2e
class TestFileOwner:
    @as_root
    def test_gets_what_is_made_and_not_what_is_replaced(
        self, new_shared_server: Callable[..., Any], connect: Any, put: Any
    ) -> None:
        server = new_shared_server(WSP_FTP_FILE_OWNER=f"{UID}:{GID}").start()
        account = server.account(home_dir="/home/bob/example.com")
        client = connect(server, account)
        put(client, "f", b"x")
        client.mkd("d")
        with pytest.raises(ftplib.error_perm):
            client.mkd("d")
        put(client, "d/g", b"x")
        client.storbinary("APPE f", io.BytesIO())
        for path in ("f", "d", "d/g", "", ".."):
            assert owner(account.home / path) == (UID, GID), path
        assert owner(server.settings.files / "home") == (0, 0)
        os.chown(account.home / "f", 0, GID + 1)
        put(client, "f", b"y")
        assert owner(account.home / "f") == (0, GID + 1)

    @as_root
    def test_that_is_not_there_ends_the_start_in_one_line(self, new_shared_server: Callable[..., Any]) -> None:
        server = new_shared_server(WSP_FTP_FILE_OWNER="nosuchuser:nosuchgroup")
        assert server.spawn().wait(20) == 1
        assert server.log.strip() == "WSP_FTP_FILE_OWNER: there is no user nosuchuser on this machine"
