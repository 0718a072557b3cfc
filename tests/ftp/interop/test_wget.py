"""wget: downloads, one file and whole trees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OLD = 946_782_245  # the time of every file in the tree

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])]

Wget = Callable[..., str]


@pytest.fixture
def wget(server: Any, program: Any, run: Any, tls: bool) -> Wget:
    """Run wget as an account, on a path below its home."""

    def wget(account: Any, path: str, *options: str | Path) -> str:
        who = [f"--ftp-user={account.username}", f"--ftp-password={account.password}"]
        scheme = "ftps" if tls else "ftp"
        url = f"{scheme}://127.0.0.1:{server.port}/{path}"
        return str(run(program("wget"), "--no-config", "--no-check-certificate", "-q", *who, *options, url))

    return wget


class TestDownload:
    def test_a_file_and_the_rest_of_one(
        self, server: Any, wget: Wget, tree: Path, tmp_path: Path, connect: Any
    ) -> None:
        account = server.account()
        connect(server, account)
        whole = (tree / "big.bin").read_bytes()
        (account.home / "big.bin").write_bytes(whole)
        back = tmp_path / "back"
        back.mkdir()
        wget(account, "big.bin", "-P", back)
        assert (back / "big.bin").read_bytes() == whole
        (back / "big.bin").write_bytes(whole[:1_234_567])
        wget(account, "big.bin", "-c", "-P", back)
        assert (back / "big.bin").read_bytes() == whole

    def test_a_tree(self, server: Any, wget: Wget, tree: Path, tmp_path: Path, compare: Any) -> None:
        account = server.account()
        account.home.mkdir(parents=True)
        for percent in tree.rglob("*%*"):
            percent.rename(percent.with_name("percent.txt"))  # wget decodes it in the name of its own file
        tree.rename(account.home / "site")
        back = tmp_path / "back"
        wget(account, "site/", "-r", "-l", "inf", "-nH", "--restrict-file-names=nocontrol", "-P", back)
        for listing in back.rglob(".listing"):
            listing.unlink()
        compare(account.home / "site", back / "site")
        # A listing has no time of day for an old file.
        assert int((back / "site" / "plain.txt").stat().st_mtime) // 86400 == OLD // 86400
