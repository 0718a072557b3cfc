"""lftp: mirrors both ways, and goes on where it was broken off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])]

Lftp = Callable[[Any, str], str]


@pytest.fixture
def script(server: Any, lftp: str, run: Any, tls: bool) -> Lftp:
    """Run commands of lftp as an account."""

    def script(account: Any, commands: str) -> str:
        only = "set ftp:ssl-force true; set ftp:ssl-protect-data true" if tls else "set ftp:ssl-allow false"
        opening = f"open -u {account.username},{account.password} ftp://127.0.0.1:{server.port}"
        settings = f"{only}; set ssl:verify-certificate no; set net:max-retries 2; set cmd:fail-exit true"
        return str(run(lftp, "-c", f"{settings}; {opening}; {commands}"))

    return script


class TestMirror:
    def test_both_ways(
        self, server: Any, script: Lftp, tree: Path, tmp_path: Path, compare: Any, keeps_times: Any
    ) -> None:
        account = server.account()
        script(account, f"mirror -R --parallel=3 {tree} site")
        compare(tree, account.home / "site")
        keeps_times(tree, account.home / "site")
        script(account, f"mirror --parallel=3 site {tmp_path / 'back'}")
        compare(tree, tmp_path / "back")
        keeps_times(tree, tmp_path / "back")

    def test_what_has_not_changed_is_not_sent_again_and_what_is_gone_is_deleted(
        self, server: Any, script: Lftp, tree: Path, compare: Any
    ) -> None:
        account = server.account()
        script(account, f"mirror -R {tree} site")
        (tree / "plain.txt").write_bytes(b"new")
        (tree / "caf\u00e9.txt").unlink()
        said = script(account, f"mirror -R --overwrite --delete --verbose {tree} site")
        assert said.count("Transferring file") == 1, said
        compare(tree, account.home / "site")


class TestResume:
    def test_a_download(self, server: Any, script: Lftp, tree: Path, tmp_path: Path) -> None:
        account = server.account()
        script(account, f"put {tree / 'big.bin'}")
        whole = (tree / "big.bin").read_bytes()
        here = tmp_path / "big.bin"
        here.write_bytes(whole[: len(whole) // 2])
        script(account, f"reget big.bin -o {here}")
        assert here.read_bytes() == whole

    def test_an_upload(self, server: Any, script: Lftp, tree: Path) -> None:
        account = server.account()
        script(account, "mkdir site")
        whole = (tree / "big.bin").read_bytes()
        (account.home / "site" / "big.bin").write_bytes(whole[: len(whole) // 2])
        script(account, f"cd site; put -c {tree / 'big.bin'}")
        assert (account.home / "site" / "big.bin").read_bytes() == whole


class TestSegments:
    def test_one_file_over_four_connections(self, server: Any, script: Lftp, tree: Path, tmp_path: Path) -> None:
        account = server.account()
        script(account, f"put {tree / 'big.bin'}; pget -n 4 big.bin -o {tmp_path / 'big.bin'}")
        assert (tmp_path / "big.bin").read_bytes() == (tree / "big.bin").read_bytes()
