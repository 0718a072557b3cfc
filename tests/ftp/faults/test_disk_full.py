"""A disk that is full, for real: a small tmpfs. Only root can mount one."""

import ftplib
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs takes root"),
    pytest.mark.parametrize("store", ["sqlite"], indirect=True),
]

MEBIBYTE = 2**20
DISK = 8 * MEBIBYTE
DATA_DISK = 64 * MEBIBYTE  # what the FTP processes share takes some 20 MB


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    size = getattr(request, "param", DISK)
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this container may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:  # until it is refused: others may write there meanwhile
            file.write(b"\0" * 65536)
    return filler


class TestFilesRoot:
    @pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
    def test_an_upload_gets_552_and_the_old_file_stays(
        self, new_server: Callable[..., Any], connect: Any, put: Any, small_disk: Path, tls: bool, store: str
    ) -> None:
        server = new_server(WSP_FILES_ROOT=str(small_disk)).start()
        account = server.account()
        client = connect(server, account, tls=tls)
        home = small_disk / account.home.relative_to(server.settings.files)
        put(client, "f", b"old")
        for command in ("STOR f", "STOR g", "APPE f"):
            with pytest.raises(ftplib.error_perm, match="552 The upload was not stored: no space left on device"):
                client.storbinary(command, io.BytesIO(b"x" * DISK))
        assert (home / "f").read_bytes() == b"old"
        assert [path.name for path in home.iterdir()] == ["f"]

        filler = fill(small_disk)
        with pytest.raises(ftplib.error_perm, match="552"):
            put(client, "f", b"x" * 100_000)
        assert (home / "f").read_bytes() == b"old"
        client.delete("f")
        filler.unlink()
        put(client, "f", b"x" * 100_000)
        assert (home / "f").stat().st_size == 100_000
        assert "Traceback" not in server.log

    def test_other_transfers_go_on(
        self, new_server: Callable[..., Any], connect: Any, put: Any, fetch: Any, small_disk: Path, store: str
    ) -> None:
        server = new_server(WSP_FILES_ROOT=str(small_disk)).start()
        account = server.account()
        client, other = connect(server, account), connect(server, account)
        put(client, "f", b"x" * MEBIBYTE)
        client.voidcmd("TYPE I")
        slow = client.transfercmd("RETR f")
        with pytest.raises(ftplib.error_perm, match="552"):
            put(other, "g", b"x" * DISK)
        with slow, slow.makefile("rb") as file:
            assert file.read() == b"x" * MEBIBYTE
        assert client.voidresp().startswith("226")


class TestDataFolder:
    @pytest.mark.parametrize("small_disk", [DATA_DISK], indirect=True)
    def test_logins_and_uploads_go_on(
        self,
        migrated_sqlite: Path,
        new_server: Callable[..., Any],
        connect: Any,
        put: Any,
        fetch: Any,
        small_disk: Path,
        until: Any,
        store: str,
    ) -> None:
        (small_disk / "wsp.db").write_bytes(migrated_sqlite.read_bytes())
        server = new_server(WSP_DATABASE_URL=f"sqlite:///{small_disk / 'wsp.db'}", WSP_DATA_DIR=str(small_disk))
        server.environment["WSP_FILES_ROOT"] = str(server.settings.files)
        server.database = type(server.database)(f"sqlite:///{small_disk / 'wsp.db'}")
        server.start()
        account = server.account()
        before = connect(server, account)
        filler = fill(small_disk)
        try:
            put(before, "f", b"content")
            client = connect(server, account)
            assert fetch(client, "f") == b"content"
            until(lambda: "heartbeat" in server.log, "a complaint")
        finally:
            filler.unlink()
        put(connect(server, account), "g", b"content")
        server.change(account, read_only=True)
        with pytest.raises(ftplib.error_perm, match="550"):
            connect(server, account).mkd("d")
        server.database.close()
        assert server.processes[0].poll() is None
        assert "Traceback" not in server.log
