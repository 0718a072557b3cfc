"""Bandwidth: the rule, and what two sessions in two processes get together."""

import ftplib
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wsp.ftp.logins import Login
from wsp.ftp.server.pace import BURST_NS, DOWNLOAD, UPLOAD, Paces, limit_of, step_bytes

SECOND = 1_000_000_000
BURST = BURST_NS / SECOND
KBPS = 400
FILE_BYTES = 600 * 1024


def login(username: str = "admin_deploy", **fields: Any) -> Login:
    return Login(username, "admin", "/home/admin", "", False, True, (), **fields)


@pytest.fixture
def paces(tmp_path: Path) -> Callable[..., Paces]:
    """What one FTP process has of the table; each call is another process."""
    return lambda **options: Paces(tmp_path / "state", **options)


class TestTheLimit:
    def test_is_in_kilobytes_of_1024_bytes_a_second(self) -> None:
        account = login(upload_kbps=2, download_kbps=3)
        assert (limit_of(account, UPLOAD), limit_of(account, DOWNLOAD)) == (2048, 3072)
        assert limit_of(login(), UPLOAD) == limit_of(None, DOWNLOAD) == 0

    def test_makes_buffers_small_when_it_is_low(self) -> None:
        assert step_bytes(1024) == 512
        assert step_bytes(1024 * 1024) * 20 <= 1024 * 1024


class TestPaying:
    def test_waits_for_what_was_sent(self, paces: Any) -> None:
        pace = paces().of(login(), UPLOAD)
        assert pace.wait(now=SECOND) == 0
        assert pace.pay(1000, 1000, now=SECOND) == pytest.approx(1 - BURST)
        assert pace.wait(now=SECOND) == pytest.approx(1 - BURST)
        assert pace.pay(1000, 1000, now=SECOND) == pytest.approx(2 - BURST)
        assert pace.pay(0, 1000, now=3 * SECOND) == 0

    def test_time_that_went_unused_is_not_saved_up(self, paces: Any) -> None:
        pace = paces().of(login(), UPLOAD)
        pace.pay(1, 1000, now=SECOND)
        assert pace.pay(1000, 1000, now=100 * SECOND) == pytest.approx(1 - BURST)

    def test_is_for_all_processes_together(self, paces: Any) -> None:
        one, other = paces().of(login(), UPLOAD), paces().of(login(), UPLOAD)
        one.pay(1000, 1000, now=SECOND)
        assert other.wait(now=SECOND) == pytest.approx(1 - BURST)
        assert other.pay(1000, 1000, now=SECOND) == pytest.approx(2 - BURST)

    def test_is_apart_for_directions_and_accounts(self, paces: Any) -> None:
        table = paces()
        table.of(login(), UPLOAD).pay(10_000, 1000, now=SECOND)
        assert table.of(login(), DOWNLOAD).wait(now=SECOND) == 0
        assert table.of(login("admin_other"), UPLOAD).wait(now=SECOND) == 0

    def test_begins_anew_when_the_machine_was_started_anew(self, paces: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        paces().of(login(), UPLOAD).pay(10_000, 1000, now=SECOND)
        monkeypatch.setattr(Path, "read_text", lambda _: "another boot")
        assert paces().of(login(), UPLOAD).wait(now=SECOND) == 0

    def test_a_full_table_makes_nobody_faster(self, paces: Any) -> None:
        table = paces(accounts=2)
        for name in ("a", "b", "c", "d"):
            table.of(login(name), UPLOAD).pay(1000, 1000, now=SECOND)
            assert table.of(login(name), UPLOAD).wait(now=SECOND) > 0


def _transfer(client: ftplib.FTP, upload: bool, number: int) -> None:
    if upload:
        client.storbinary(f"STOR up{number}", io.BytesIO(b"x" * FILE_BYTES))
    else:
        client.retrbinary("RETR file", lambda _: None)


@pytest.fixture(scope="module")
def server(new_shared_server: Callable[..., Any]) -> Any:
    """A server of two processes."""
    return new_shared_server().start().start()


@pytest.mark.e2e
class TestTwoProcesses:
    def clients(self, server: Any, connect: Any, until: Any, account: Any, tls: bool) -> list[ftplib.FTP]:
        """One session of the account in each process."""
        found: dict[Path, ftplib.FTP] = {}

        def one_in_each() -> bool:
            logs = list(server.folder.glob("ftp-*.log"))
            before = {log: log.read_text().count(f"login: user {account.username} ") for log in logs}
            client = connect(server, account, tls=tls)
            (where,) = (log for log in logs if log.read_text().count(f"login: user {account.username} ") > before[log])
            found.setdefault(where, client)
            return len(found) == 2

        until(one_in_each, "a session in each process", seconds=60)
        return list(found.values())

    def test_keep_to_the_rate_of_an_account_together(self, server: Any, connect: Any, until: Any) -> None:
        work = []
        for upload in (True, False):
            for tls in (True, False):
                account = server.account(upload_kbps=KBPS, download_kbps=KBPS)
                work.append((upload, tls, self.clients(server, connect, until, account, tls)))
                (account.home / "file").write_bytes(b"x" * FILE_BYTES)

        def run(upload: bool, tls: bool, pair: list[ftplib.FTP]) -> tuple[str, float]:
            with ThreadPoolExecutor(2) as pool:
                start = time.monotonic()
                for done in [pool.submit(_transfer, client, upload, n) for n, client in enumerate(pair)]:
                    done.result()
                return f"upload {upload}, TLS {tls}", time.monotonic() - start

        with ThreadPoolExecutor(len(work)) as pool:
            results = [future.result() for future in [pool.submit(run, *each) for each in work]]
        expected = 2 * FILE_BYTES / (KBPS * 1024)
        for what, seconds in results:
            assert 0.8 * expected < seconds < 2 * expected, (what, seconds, expected)

    def test_many_small_files_are_no_way_around_it(self, server: Any, connect: Any, put: Any) -> None:
        client = connect(server, server.account(upload_kbps=100))
        began = time.monotonic()
        for number in range(20):
            put(client, f"f{number}", b"x" * 10 * 1024)
        assert time.monotonic() - began > 0.8 * 19 * 10 / 100

    def test_a_slow_download_goes_smoothly(self, server: Any, connect: Any) -> None:
        account = server.account(download_kbps=20)
        client = connect(server, account)
        (account.home / "f").write_bytes(b"x" * 10**6)
        client.voidcmd("TYPE I")
        arrivals = []
        with client.transfercmd("RETR f") as data:
            began = time.monotonic()
            while (now := time.monotonic() - began) < 2:
                arrivals.append((now, len(data.recv(65536))))
        assert 15 * 1024 < sum(count for _, count in arrivals) < 60 * 1024
        assert max(count for _, count in arrivals) <= 8 * 1024
