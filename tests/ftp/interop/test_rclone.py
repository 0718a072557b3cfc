"""rclone: copy, sync, check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])]

Rclone = Callable[..., str]


@pytest.fixture
def rclone(server: Any, program: Any, run: Any, tls: bool, tmp_path: Path) -> Rclone:
    """Run rclone with an account as its remote `site:`."""
    path = program("rclone")

    def rclone(account: Any, *words: str | Path, code: int = 0) -> str:
        return str(
            run(
                path,
                "--config",
                tmp_path / "rclone.conf",  # there is none
                "--no-unicode-normalization",  # else two names that look the same are one to it
                *words,
                code=code,
                RCLONE_CONFIG_SITE_TYPE="ftp",
                RCLONE_CONFIG_SITE_HOST="127.0.0.1",
                RCLONE_CONFIG_SITE_PORT=str(server.port),
                RCLONE_CONFIG_SITE_USER=account.username,
                RCLONE_CONFIG_SITE_PASS=run(path, "obscure", account.password).strip(),
                RCLONE_CONFIG_SITE_EXPLICIT_TLS=str(tls).lower(),
                RCLONE_CONFIG_SITE_NO_CHECK_CERTIFICATE="true",
            )
        )

    return rclone


class TestCopy:
    def test_both_ways_and_check(
        self, server: Any, rclone: Rclone, tree: Path, tmp_path: Path, compare: Any, keeps_times: Any
    ) -> None:
        account = server.account()
        rclone(account, "copy", tree, "site:www")
        compare(tree, account.home / "www")
        keeps_times(tree, account.home / "www")
        rclone(account, "check", "--download", tree, "site:www")
        rclone(account, "copy", "site:www", tmp_path / "back")
        compare(tree, tmp_path / "back")
        keeps_times(tree, tmp_path / "back")

    def test_check_finds_what_differs(self, server: Any, rclone: Rclone, tree: Path) -> None:
        account = server.account()
        rclone(account, "copy", tree, "site:www")
        damaged = account.home / "www" / "with space" / "plain.txt"
        damaged.write_bytes(b"damaged")
        rclone(account, "check", tree, "site:www", code=1)


class TestSync:
    def test_both_ways(self, server: Any, rclone: Rclone, tree: Path, compare: Any) -> None:
        account = server.account()
        rclone(account, "copy", tree, "site:www")
        (tree / "with space" / "plain.txt").write_bytes(b"changed")
        (tree / "caf\u00e9.txt").rename(tree / "renamed.txt")
        rclone(account, "sync", tree, "site:www")
        compare(tree, account.home / "www")
        (account.home / "www" / "caf\u00e9.txt").write_bytes(b"made on the server")
        (account.home / "www" / "renamed.txt").unlink()
        rclone(account, "sync", "site:www", tree)
        compare(tree, account.home / "www")

    def test_files_are_moved_and_folders_removed_on_the_server(self, server: Any, rclone: Rclone, tree: Path) -> None:
        account = server.account()
        rclone(account, "copy", tree / "with space", "site:www")
        rclone(account, "moveto", "site:www/plain.txt", "site:other/moved.txt")
        assert rclone(account, "lsf", "site:other") == "moved.txt\n"
        listed = rclone(account, "lsf", "site:www/s\u00fcb").splitlines()
        assert sorted(listed) == sorted(path.name for path in (tree / "with space" / "s\u00fcb").iterdir())
        rclone(account, "purge", "site:www")
        assert [path.name for path in account.home.iterdir()] == ["other"]
