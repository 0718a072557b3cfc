"""ncftp and tnftp (BSD's ftp): clear text is all they speak."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.e2e


class TestNcftp:
    @pytest.fixture
    def ncftp(self, server: Any, program: Any, run: Any) -> Callable[..., str]:
        """Run one of ncftp's programs as an account."""

        def ncftp(name: str, account: Any, *words: str | Path) -> str:
            who = ["-u", account.username, "-p", account.password, "-P", str(server.port)]
            return str(run(program(name), *who, *words))

        return ncftp

    def test_a_tree_up_and_down(
        self, server: Any, ncftp: Any, tree: Path, tmp_path: Path, compare: Any, keeps_times: Any
    ) -> None:
        account = server.account()
        ncftp("ncftpput", account, "-R", "-m", "127.0.0.1", "/site", tree)
        compare(tree, account.home / "site" / tree.name)
        keeps_times(tree, account.home / "site" / tree.name)
        (tmp_path / "back").mkdir()
        ncftp("ncftpget", account, "-R", "-T", "127.0.0.1", tmp_path / "back", f"/site/{tree.name}")
        compare(tree, tmp_path / "back" / tree.name)
        keeps_times(tree, tmp_path / "back" / tree.name)

    def test_ls(self, server: Any, ncftp: Any, tree: Path) -> None:
        account = server.account()
        ncftp("ncftpput", account, "127.0.0.1", "/", tree / "big.bin", tree / "with spaces  twice.txt")
        listed = ncftp("ncftpls", account, f"ftp://127.0.0.1:{server.port}/")
        assert sorted(listed.splitlines()) == ["big.bin", "with spaces  twice.txt"]

    def test_the_rest_of_an_upload(self, server: Any, ncftp: Any, tree: Path, connect: Any) -> None:
        account = server.account()
        connect(server, account)
        whole = (tree / "big.bin").read_bytes()
        (account.home / "big.bin").write_bytes(whole[:1_234_567])
        # -s: with sendfile(2), ncftp 3.2.6 says REST 1234567 and then sends the whole file.
        ncftp("ncftpput", account, "-s", "-z", "127.0.0.1", "/", tree / "big.bin")
        assert (account.home / "big.bin").read_bytes() == whole


class TestTnftp:
    @pytest.fixture
    def tnftp(self, program: Any, run: Any, tmp_path: Path) -> Callable[..., str]:
        """Run tnftp, in the temporary folder."""

        def tnftp(*words: str | Path, stdin: str = "") -> str:
            return str(run(program("tnftp"), *words, stdin=stdin, HOME=str(tmp_path)))

        return tnftp

    def test_by_address(self, server: Any, tnftp: Any, tree: Path, tmp_path: Path) -> None:
        account = server.account()
        url = f"ftp://{account.username}:{quote(account.password)}@127.0.0.1:{server.port}"
        for name in ("big.bin", "with spaces  twice.txt", "cafe\u0301.txt"):
            tnftp("-u", f"{url}/{name}", tree / name)  # it does not decode the name of an upload
            assert (account.home / name).read_bytes() == (tree / name).read_bytes()
            tnftp("-o", tmp_path / "back", f"{url}/{quote(name)}")
            assert (tmp_path / "back").read_bytes() == (tree / name).read_bytes()

    @pytest.mark.parametrize("passive", ["passive on", "passive off"])
    def test_by_hand(self, server: Any, tnftp: Any, tree: Path, tmp_path: Path, passive: str) -> None:
        account = server.account()
        whole = (tree / "big.bin").read_bytes()
        here = tmp_path / "half.bin"
        here.write_bytes(whole[:1_234_567])
        said = tnftp(
            "-n",
            "-v",
            "127.0.0.1",
            str(server.port),
            stdin="\n".join(
                [
                    f"user {account.username} {account.password}",
                    passive,
                    "binary",
                    "mkdir folder",
                    "cd folder",
                    f"put {tree / 'big.bin'} half.bin",
                    f"lcd {tmp_path}",
                    "reget half.bin",
                    f'append "{tree / "plain.txt"}" half.bin',
                    "rename half.bin whole.bin",
                    "chmod 600 whole.bin",
                    "size whole.bin",
                    "modtime whole.bin",
                    "ls",
                    "mlsd",
                    "system",
                    "quit",
                ]
            ),
        )
        assert here.read_bytes() == whole
        stored = account.home / "folder" / "whole.bin"
        assert stored.read_bytes() == whole
        assert stored.stat().st_mode & 0o777 == 0o600
        assert f"whole.bin\t{len(whole)}" in said
        assert not [line for line in said.splitlines() if line.startswith(("4", "5"))], said
