"""Quotas, and the figures of homes, on a real server."""

import ftplib
import io
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsp.ftp.models import Usage

pytestmark = pytest.mark.e2e

MEBIBYTE = 2**20
BUFFER = 256 * 1024
OFTEN = """
from wsp.ftp.server import recount
recount.IN_USE_SECONDS = recount.IDLE_SECONDS = 0.2
recount.DISTURBED_SECONDS = recount.IDLE_LOOK_SECONDS = recount.WAIT_SECONDS = 0.1
"""


def held(home: Path) -> tuple[int, int]:
    """What is in a folder: bytes, and files but for the server's own. Found in another way than the server does."""
    used_bytes = files = 0
    for folder, _, names in os.walk(home):
        for name in names:
            try:
                status = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                used_bytes += status.st_size
                files += not name.startswith(".wsp-")
    return used_bytes, files


def reported(server: Any, account: Any) -> tuple[int, int] | None:
    """What the store says of the account's home."""
    home = "/" + str(account.home.relative_to(server.settings.files))
    with server.database.reading() as session:
        row = session.get(Usage, home)
        return None if row is None else (row.used_bytes, row.file_count)


@pytest.fixture
def settled(until: Any) -> Callable[..., None]:
    """Waits until what is reported is what is there, for good."""

    def wait(server: Any, account: Any, seconds: float = 15.0) -> None:
        until(lambda: reported(server, account) == held(account.home), "the true figure", seconds)

    return wait


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".wsp-")]


@pytest.fixture
def break_off(connect: Any, until: Any) -> Callable[..., None]:
    """Uploads, and hangs up in the middle."""

    def upload(server: Any, account: Any, name: str, content: bytes) -> None:
        client = connect(server, account)
        client.voidcmd("TYPE I")
        data = client.transfercmd(f"STOR {name}")
        data.sendall(content)
        until(lambda: len(content) in [path.stat().st_size for path in account.home.glob(".wsp-*.tmp")])
        client.abort()
        data.close()

    return upload


class TestUpload:
    @pytest.mark.parametrize("tls", [False, True])
    def test_one_that_is_too_big_is_refused_in_the_middle(
        self, server: Any, connect: Any, put: Any, fetch: Any, settled: Any, tls: bool
    ) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account, tls=tls)
        put(client, "site", b"old" * 1000)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.0 of 1 MB are used, and this upload"):
            put(client, "site", b"x" * 4 * MEBIBYTE)
        with pytest.raises(ftplib.error_perm, match="552 Quota exceeded"):
            put(client, "other", b"x" * 4 * MEBIBYTE)
        assert fetch(client, "site") == b"old" * 1000
        assert client.nlst() == ["site"]
        assert hidden(account.home) == []
        settled(server, account)

    def test_to_the_last_byte(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        put(client, "a", b"x" * (MEBIBYTE - 10))
        put(client, "b", b"x" * 10)
        put(client, "empty", b"")
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 1\.0 of 1 MB are used"):
            put(client, "c", b"x")
        assert held(account.home) == (MEBIBYTE, 3)

    def test_what_it_replaces_makes_room(self, server: Any, connect: Any, put: Any, settled: Any) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        put(client, "a", b"x" * MEBIBYTE)
        put(client, "a", b"y" * MEBIBYTE)
        with pytest.raises(ftplib.error_perm, match="552"):
            put(client, "a", b"z" * (MEBIBYTE + 1))
        assert (account.home / "a").read_bytes() == b"y" * MEBIBYTE
        put(client, "a", b"z")
        put(client, "b", b"x" * (MEBIBYTE - 1))
        settled(server, account)

    def test_a_quota_made_smaller_still_lets_files_shrink(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account()
        put(connect(server, account), "a", b"x" * 3 * MEBIBYTE)
        server.change(account, quota_mb=1)
        client = connect(server, account)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 3\.0 of 1 MB are used"):
            put(client, "b", b"x")
        put(client, "a", b"x" * 2 * MEBIBYTE)

    def test_append_and_resume(self, server: Any, connect: Any, put: Any, settled: Any) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        put(client, "log", b"x" * 600_000)
        client.storbinary("APPE log", io.BytesIO(b"y" * 400_000))
        with pytest.raises(ftplib.error_perm, match="552"):
            client.storbinary("APPE log", io.BytesIO(b"z" * 100_000))
        put(client, "log", b"w" * 500_000, rest=500_000)
        assert held(account.home) == (1_000_000, 1)
        settled(server, account)

    def test_what_broke_off_takes_room_until_it_goes(
        self, server: Any, connect: Any, put: Any, settled: Any, break_off: Any
    ) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        break_off(server, account, "new", b"x" * 700_000)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.7 of 1 MB"):
            put(client, "other", b"x" * 400_000)
        settled(server, account)
        assert held(account.home) == (700_000, 0)
        put(client, "new", b"y" * 300_000, rest=700_000)
        assert held(account.home) == (1_000_000, 1)
        client.delete("new")
        break_off(server, account, "new", b"x" * 700_000)
        client.delete("new")
        put(client, "other", b"x" * MEBIBYTE)
        settled(server, account)

    def test_what_broke_off_is_not_kept_beyond_the_quota(
        self, server: Any, connect: Any, put: Any, settled: Any, until: Any, break_off: Any
    ) -> None:
        account = server.account(quota_mb=1)
        put(connect(server, account), "a", b"x" * 900_000)
        break_off(server, account, "a", b"y" * 800_000)
        until(lambda: hidden(account.home) == [])
        assert held(account.home) == (900_000, 1)
        settled(server, account)

    def test_unique_names(self, server: Any, connect: Any, settled: Any) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        client.storbinary("STOU", io.BytesIO(b"x" * 600_000))
        with pytest.raises(ftplib.error_perm, match="552"):
            client.storbinary("STOU", io.BytesIO(b"x" * 600_000))
        settled(server, account)

    def test_anonymous(self, server: Any, connect: Any, put: Any) -> None:
        folder = server.anonymous("quota.example", allow_upload=True, quota_mb=1)
        client = connect(server)
        client.login("anonymous@quota.example", "x")
        put(client, "incoming/a", b"x" * 900_000)
        with pytest.raises(ftplib.error_perm, match="552 Quota exceeded"):
            put(client, "incoming/b", b"x" * 900_000)
        assert held(folder) == (900_000, 1)

    def test_ascii_counts_what_is_stored(self, server: Any, connect: Any, settled: Any) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        client.storlines("STOR text", io.BytesIO(b"line\n" * 150_000))
        settled(server, account)
        assert held(account.home) == (750_000, 1)

    def test_files_that_were_there_before_the_first_login_count(
        self, server: Any, connect: Any, put: Any, settled: Any
    ) -> None:
        account = server.account(quota_mb=1)
        (account.home / "www").mkdir(parents=True)
        (account.home / "www" / "page").write_bytes(b"x" * 800_000)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.8 of 1 MB"):
            put(connect(server, account), "a", b"x" * 400_000)
        settled(server, account)

    def test_a_home_that_cannot_be_counted_takes_nothing(self, new_server: Any, connect: Any, put: Any) -> None:
        server = new_server(
            "from wsp.ftp.server import recount, uploading\n"
            "recount.count = lambda *a, **k: (_ for _ in ()).throw(OSError(5, 'broken'))\n"
            "uploading.COUNT_WAIT_SECONDS = 0.2\n"
        ).start()
        client = connect(server, server.account(quota_mb=1))
        with pytest.raises(ftplib.error_temp, match="450 The files of this account are being counted"):
            put(client, "a", b"x")
        assert client.pwd() == "/"

    def test_what_is_not_allowed_is_said_after_the_count(self, new_server: Any, raw: Any) -> None:
        slow = (
            "import time\nfrom wsp.ftp.server import recount\nreal = recount.count\n"
            "recount.count = lambda *a, **k: time.sleep(0.5) or real(*a, **k)\n"
        )
        server = new_server(slow).start()
        account = server.account(quota_mb=1, permissions=[{"folder": "/shut", "allow": ["list"]}])
        (account.home / "shut").mkdir(parents=True)
        client = raw(server).login(account)
        client.ask("EPSV")
        assert client.ask("STOR shut/f") == "550 'write' is not allowed in /shut.\r\n"
        assert client.ask("NOOP").startswith("200")


class TestAllo:
    def test_it_is_checked_at_once_or_with_the_upload(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        assert client.sendcmd("ALLO 1000000").startswith("200")
        put(client, "a", b"x" * 900_000)
        with pytest.raises(ftplib.error_perm, match="552 Quota exceeded: 1 MB are allowed"):
            client.sendcmd("ALLO 1048577")
        client.sendcmd("ALLO 200000 R 80")
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.9 of 1 MB are used"):
            client.transfercmd("STOR b")
        client.sendcmd("ALLO 1000000")
        put(client, "a", b"y" * 1_000_000)
        put(client, "b", b"what was announced holds for one upload")
        assert hidden(account.home) == []

    def test_without_a_quota_there_is_nothing_to_check(self, server: Any, connect: Any) -> None:
        client = connect(server, server.account())
        assert client.sendcmd("ALLO 999999999999").startswith("202")
        with pytest.raises(ftplib.error_perm, match="501"):
            client.sendcmd("ALLO much")


class TestFigure:
    def test_every_change_moves_it(self, server: Any, connect: Any, put: Any, settled: Any) -> None:
        account = server.account()
        client = connect(server, account)
        client.mkd("d")
        for number in range(5):
            put(client, f"f{number}", bytes(1000 * (number + 1)))
        settled(server, account)
        client.rename("f0", "f1")
        client.rename("f2", "d/f2")
        client.delete("f3")
        settled(server, account)
        assert reported(server, account) == (1000 + 3000 + 5000, 3)
        client.rename("d", "e")
        client.delete("e/f2")
        client.rmd("e")
        settled(server, account)
        assert reported(server, account) == (6000, 2)

    def test_homes_within_homes(self, server: Any, connect: Any, put: Any, settled: Any) -> None:
        outer = server.account(quota_mb=1)
        owner = outer.username.removesuffix("_deploy")
        inner = server.account_of(owner, "inner", home_dir=f"/home/{owner}/example.com", quota_mb=1)
        above, below = connect(server, outer), connect(server, inner)
        put(below, "a", b"x" * 700_000)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.7 of 1 MB"):
            put(above, "b", b"x" * 700_000)
        put(above, "example.com/c", b"x" * 200_000)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.9 of 1 MB"):
            put(below, "d", b"x" * 700_000)
        (outer.home / "link").symlink_to("example.com")
        put(above, "link/e", b"x" * 50_000)
        settled(server, outer)
        settled(server, inner)
        assert reported(server, inner) == (950_000, 3)
        above.rename("example.com/a", "a")
        put(below, "d", b"x" * 50_000)
        settled(server, outer)
        settled(server, inner)

    def test_a_folder_that_leaves_a_home_takes_its_files_along(
        self, server: Any, connect: Any, put: Any, settled: Any
    ) -> None:
        outer = server.account()
        owner = outer.username.removesuffix("_deploy")
        inner = server.account_of(owner, "inner", home_dir=f"/home/{owner}/example.com", quota_mb=1)
        above, below = connect(server, outer), connect(server, inner)
        below.mkd("www")
        put(below, "www/a", b"x" * 700_000)
        settled(server, inner)
        above.rename("example.com/www", "www")
        settled(server, inner)
        assert reported(server, inner) == (0, 0)
        put(below, "b", b"x" * 700_000)
        above.rename("example.com", "former")
        settled(server, outer)
        assert reported(server, outer) == (1_400_000, 2)

    def test_files_changed_by_others_are_noticed(
        self, new_server: Any, connect: Any, put: Any, settled: Any, until: Any
    ) -> None:
        server = new_server(OFTEN).start()
        account = server.account(quota_mb=1)
        client = connect(server, account)
        put(client, "a", b"x" * 100_000)
        (account.home / "cron").write_bytes(b"x" * 900_000)
        settled(server, account)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 1\.0 of 1 MB"):
            put(client, "b", b"x" * 100_000)
        (account.home / "cron").unlink()
        settled(server, account)
        put(client, "b", b"x" * 900_000)
        client.quit()
        until(lambda: "disconnect" in server.log)
        (account.home / "cron").write_bytes(b"nobody is logged in any more")
        settled(server, account)

    def test_two_sessions_that_replace_one_file(self, server: Any, connect: Any, put: Any, settled: Any) -> None:
        account = server.account(quota_mb=1)
        one, other = connect(server, account), connect(server, account)
        put(one, "f", b"x" * 900_000)
        streams = []
        for client in (one, other):
            client.voidcmd("TYPE I")
            streams.append(client.transfercmd("STOR f"))
            streams[-1].sendall(b"y" * 800_000)
        for client, stream in zip((one, other), streams, strict=True):
            stream.close()
            assert client.voidresp().startswith("226")
        settled(server, account)
        put(one, "g", b"x" * 200_000)


class TestProcesses:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_parallel_uploads_over_two_of_them_stay_within_the_quota(
        self, new_server: Any, connect: Any, settled: Any, until: Any, store: str
    ) -> None:
        server = new_server().start().start()
        account = server.account(quota_mb=8)
        clients: list[ftplib.FTP] = []

        def spread() -> bool:
            clients.append(connect(server, account))
            logs = [path.read_text().count("login: user") for path in server.folder.glob("ftp-*.log")]
            return len(clients) >= 8 and min(logs) >= 2

        until(spread, "sessions on both processes", 60)
        most = [0]
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                most[0] = max(most[0], held(account.home)[0])

        results: list[str] = []

        def upload(number: int, client: ftplib.FTP) -> None:
            try:
                results.append(client.storbinary(f"STOR f{number}", io.BytesIO(bytes(3 * MEBIBYTE))))
            except ftplib.error_perm as error:
                results.append(str(error))

        watcher = threading.Thread(target=watch)
        uploads = [threading.Thread(target=upload, args=(number, client)) for number, client in enumerate(clients[-8:])]
        for thread in (watcher, *uploads):
            thread.start()
        for thread in uploads:
            thread.join()
        done.set()
        watcher.join()
        assert most[0] <= 8 * MEBIBYTE + BUFFER
        assert len(results) == 8
        assert all(result.startswith(("226", "552 Quota exceeded: ")) for result in results)
        stored = sum(result.startswith("226") for result in results)
        assert held(account.home) == (stored * 3 * MEBIBYTE, stored)
        settled(server, account)

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_what_a_killed_one_left_is_found_by_the_other(
        self, new_server: Any, connect: Any, until: Any, settled: Any, put: Any, store: str
    ) -> None:
        server = new_server().start()
        account = server.account(quota_mb=1)
        doomed = connect(server, account)
        put(doomed, "f", b"x" * 900_000)
        doomed.voidcmd("TYPE I")
        data = doomed.transfercmd("STOR f")
        data.sendall(b"y" * 800_000)
        until(lambda: held(account.home)[0] == 1_700_000)
        server.start()
        server.processes[0].kill()
        server.processes[0].wait()
        data.close()
        until(lambda: hidden(account.home) == [], "the hidden file's end")
        settled(server, account)
        assert held(account.home) == (900_000, 1)
        put(connect(server, account), "f", b"z" * 1_000_000)

    def test_the_store_gets_the_figures_when_it_is_back(
        self, new_server: Any, connect: Any, put: Any, settled: Any, until: Any, store: str
    ) -> None:
        server = new_server().start()
        account = server.account()
        client = connect(server, account)
        put(client, "a", b"x" * 1000)
        settled(server, account)
        table, away = "ftp_usage", "ftp_usage_away"
        with server.database.engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {away}")
        put(client, "b", b"x" * 1000)
        until(lambda: "was not written" in server.log)
        with server.database.engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {away} RENAME TO {table}")
        settled(server, account)
        assert reported(server, account) == (2000, 2)


MIXED = """
import ftplib, io, random, sys
port, user, password, seed, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
chance = random.Random(seed)
client = None
done = 0
while done < count:
    try:
        if client is None:
            client = ftplib.FTP()
            client.connect("127.0.0.1", port, timeout=20)
            client.login(user, password)
        name, other = (f"d{chance.randrange(3)}/f{chance.randrange(12)}" for _ in range(2))
        body = io.BytesIO(chance.randbytes(chance.choice([0, 10, 3000, 70_000])))
        action = chance.randrange(9)
        if action < 3:
            client.storbinary(f"STOR {name}", body)
        elif action == 3:
            client.storbinary(f"APPE {name}", body)
        elif action == 4:
            client.rename(name, other)
        elif action == 5:
            client.delete(name)
        elif action == 6:
            client.storbinary(f"STOU {name}", body)
        elif action == 7:
            client.voidcmd("TYPE I")
            data = client.transfercmd(f"STOR {name}")
            data.sendall(body.getvalue())
            client.close()
            data.close()
            client = None
        else:
            folder = f"d{chance.randrange(3)}"
            for found in client.nlst(folder):
                if found.count(".") and chance.random() < 0.5:
                    client.delete(found if "/" in found else f"{folder}/{found}")
    except ftplib.error_perm:
        pass
    except (OSError, EOFError, ftplib.Error):
        client = None
    done += 1
    if done % 50 == 0:
        print(done, flush=True)
"""


ONCE = """
from wsp.ftp.server import recount
recount.IN_USE_SECONDS = recount.DISTURBED_SECONDS = recount.IDLE_SECONDS = 1e9
"""


class TestKill:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_without_a_kill_no_further_count_is_needed(self, new_server: Any, settled: Any, store: str) -> None:
        server = new_server(ONCE).start().start()
        self.mixed_operations(server, settled, clients=3, operations=150, kills=0)

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_the_figure_is_true_after_a_few_mixed_operations(self, new_server: Any, settled: Any, store: str) -> None:
        self.mixed_operations(new_server().start().start(), settled, clients=2, operations=150, kills=1)

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_the_figure_is_true_after_ten_thousand_mixed_operations(self, new_server: Any, settled: Any) -> None:
        self.mixed_operations(new_server().start().start(), settled, clients=4, operations=2500, kills=5)

    def mixed_operations(self, server: Any, settled: Any, *, clients: int, operations: int, kills: int) -> None:
        """Clients work, and now and then a process is killed and another one started."""
        account = server.account(quota_mb=2)
        for number in range(3):
            (account.home / f"d{number}").mkdir(parents=True)
        login = str(server.port), account.username, account.password
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", MIXED, *login, str(number), str(operations)],
                stdout=subprocess.PIPE,
            )
            for number in range(clients)
        ]
        assert workers[0].stdout is not None
        marks = {operations * (number + 1) // (kills + 1) // 50 * 50 for number in range(kills)}
        for line in workers[0].stdout:
            if int(line) in marks:
                process = server.processes[-1]
                process.kill()
                process.wait()
                server.start()
        for worker in workers:
            with worker:
                assert worker.wait(600) == 0
        # Nobody asks, nobody logs in.
        settled(server, account, 30.0)
        used_bytes, files = held(account.home)
        assert 0 < used_bytes <= 2 * MEBIBYTE
        assert files
        assert "Traceback" not in server.log
        server.stop()
        server.start()
        settled(server, account, 30.0)


class TestBigHome:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    @pytest.mark.slow
    def test_sessions_do_not_notice_the_count(
        self, new_server: Any, connect: Any, settled: Any, until: Any, store: str
    ) -> None:
        server = new_server().start()
        account, other = server.account(quota_mb=10), server.account()
        for folder in range(100):
            path = account.home / f"d{folder}"
            path.mkdir(parents=True)
            for number in range(1000):
                os.close(os.open(path / f"f{number}", os.O_CREAT | os.O_WRONLY))
        client = connect(server, other)
        assert client.sendcmd("NOOP")
        big = connect(server, account)
        times = []
        while reported(server, account) is None:
            began = time.perf_counter()
            client.sendcmd("NOOP")
            times.append(time.perf_counter() - began)
        assert len(times) > 20
        times.sort()
        assert times[len(times) * 9 // 10] < 0.25  # the count takes seconds
        assert big.storbinary("STOR new", io.BytesIO(b"x")).startswith("226")
        assert "100001" in str(until(lambda: reported(server, account) == (1, 100_001) and reported(server, account)))
