"""Uploads that are written to the disk before they are confirmed."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsp.ftp.jail import Jail
from wsp.ftp.server.beginning import begin_upload
from wsp.ftp.server.ledger import Ledger
from wsp.ftp.server.shared import WorkerNumber
from wsp.ftp.server.tally import Tally


@pytest.fixture
def jail(tmp_path: Path) -> Any:
    jail = Jail(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY), os.fspath(tmp_path))
    yield jail
    jail.close()


@pytest.fixture
def tally(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("state")
    worker = WorkerNumber(folder)
    yield Tally(Ledger(folder, worker, folder / "files", now=0.0), "/home/admin", lambda: 0)
    worker.release()


class TestPublish:
    @pytest.mark.parametrize("durable", [True, False])
    def test_syncs_the_file_then_renames_it_then_syncs_the_folder(
        self, jail: Any, tally: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
    ) -> None:
        done: list[tuple[str, int]] = []
        fsync, rename = os.fsync, os.rename

        def seen_fsync(opened: int) -> None:
            done.append(("fsync", os.fstat(opened).st_ino))
            fsync(opened)

        def seen_rename(*arguments: Any, **options: Any) -> None:
            rename(*arguments, **options)
            done.append(("rename", (tmp_path / "f").stat().st_ino))

        monkeypatch.setattr(os, "fsync", seen_fsync)
        monkeypatch.setattr(os, "rename", seen_rename)
        upload = begin_upload(jail, tally, "admin_deploy", "/f")
        upload.write(b"x")
        upload.publish(durable=durable)
        file, folder = (tmp_path / "f").stat().st_ino, tmp_path.stat().st_ino
        assert done == ([("fsync", file), ("rename", file), ("fsync", folder)] if durable else [("rename", file)])

    def test_a_folder_that_cannot_be_read_is_no_obstacle(self, jail: Any, tally: Any, tmp_path: Path) -> None:
        tmp_path.chmod(0o300)
        try:
            upload = begin_upload(jail, tally, "admin_deploy", "/f")
            upload.write(b"x")
            upload.publish(durable=True)
        finally:
            tmp_path.chmod(0o700)
        assert (tmp_path / "f").read_bytes() == b"x"


@pytest.mark.e2e
class TestAServer:
    def test_stores_and_replaces_many_at_once(
        self, new_shared_server: Callable[..., Any], connect: Any, put: Any
    ) -> None:
        server = new_shared_server(WSP_FTP_FSYNC="true").start()
        account = server.account()
        clients = [connect(server, account, tls=number % 2 == 0) for number in range(6)]

        def upload(client: Any, number: int) -> None:
            for size in (10, 100_000, 0):
                put(client, f"f{number}", b"x" * size)
                put(client, f"g{number}-{size}", b"y" * size)

        threads = [threading.Thread(target=upload, args=(client, n)) for n, client in enumerate(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(os.listdir(account.home)) == 4 * len(clients)
        for number in range(len(clients)):
            assert (account.home / f"f{number}").stat().st_size == 0
            assert (account.home / f"g{number}-100000").stat().st_size == 100_000
