"""Attempts to leave the home, over FTP, with openat2 and with the walk that takes its place."""

import ftplib
import io
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsp.ftp.jail import Jail

pytestmark = pytest.mark.e2e

SECRET = b"the secret of somebody else"
SWAPPING_SECONDS = 2.0
# Puts a link that leads out in the place of a folder, and the folder back, as fast as it can.
SWAPPER = """
import os, sys
home = sys.argv[1]
os.chdir(home)
print("swapping", flush=True)
while True:
    os.rename("www", "real"); os.rename("out", "www")
    os.rename("www", "out"); os.rename("real", "www")
"""

Swap = Callable[[Path], None]


@pytest.fixture(params=["openat2", "walk"])
def either(request: pytest.FixtureRequest) -> Any:
    """A server that uses openat2, and one that walks."""
    if request.param == "openat2" and not Jail.use_openat2:
        pytest.skip("this kernel has no openat2")
    return request.getfixturevalue("server" if request.param == "openat2" else "walking_server")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that no session may touch; the test fails when one has."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "key").write_bytes(SECRET)
    (outside / "key").chmod(0o600)
    before = snapshot(outside)
    yield outside
    assert snapshot(outside) == before
    assert (outside / "key").read_bytes() == SECRET


def snapshot(folder: Path) -> list[tuple[str, int, int, int]]:
    """Everything that a change would change."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found.append((str(path), status.st_mode, status.st_size, status.st_mtime_ns))
    return found


@pytest.fixture
def swap() -> Iterator[Swap]:
    """Starts the swapping in a home."""
    running: list[subprocess.Popen[bytes]] = []

    def start(home: Path) -> None:
        process = subprocess.Popen([sys.executable, "-c", SWAPPER, str(home)], stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    yield start
    for process in running:
        process.kill()
        process.communicate()


def attempt(action: Callable[[], Any]) -> Any:
    """What a client gets; None when it is refused."""
    try:
        return action()
    except (ftplib.error_perm, ftplib.error_temp):
        return None


class TestSwappedLinks:
    def test_nothing_outside_is_read(self, either: Any, connect: Any, fetch: Any, outside: Path, swap: Swap) -> None:
        account = either.account()
        client = connect(either, account)
        (account.home / "www").mkdir()
        (account.home / "www" / "key").write_bytes(b"mine")
        (account.home / "out").symlink_to(outside)
        swap(account.home)
        outcomes: set[bytes | None] = set()
        deadline = time.monotonic() + SWAPPING_SECONDS
        while time.monotonic() < deadline or outcomes < {b"mine", None}:
            outcomes.add(attempt(lambda: fetch(client, "www/key")))
            names = attempt(lambda: client.nlst("www")) or []
            assert "deep" not in names
            assert "www/deep" not in names
            entries = [name for name, _ in attempt(lambda: list(client.mlsd("www"))) or []]
            assert "deep" not in entries
            size = attempt(lambda: client.sendcmd("HASH www/key"))
            assert size is None or " 0-4 " in size
            assert attempt(lambda: client.sendcmd("CWD www/deep")) is None
            assert time.monotonic() < deadline + 60
        assert outcomes == {b"mine", None}  # both were met, and never the secret

    def test_nothing_outside_is_written(self, either: Any, connect: Any, put: Any, outside: Path, swap: Swap) -> None:
        account = either.account()
        client = connect(either, account)
        (account.home / "www").mkdir()
        (account.home / "out").symlink_to(outside)
        swap(account.home)
        outcomes: set[bool] = set()
        deadline = time.monotonic() + SWAPPING_SECONDS
        while time.monotonic() < deadline or len(outcomes) < 2:
            outcomes.add(attempt(lambda: put(client, "www/key", b"mine")) is not None)
            for command in (
                "MKD www/new",
                "RMD www/deep",
                "SITE CHMOD 777 www/key",
                "MFMT 20000101000000 www/key",
                "DELE www/key",
                "SITE STAGE www/deep",
                "SITE DISCARD www/deep",
            ):
                attempt(lambda command=command: client.sendcmd(command))  # type: ignore[misc]
            if attempt(lambda: client.sendcmd("RNFR www/key")) is not None:
                attempt(lambda: client.sendcmd("RNTO stolen"))
            assert time.monotonic() < deadline + 60
        assert not (account.home / "stolen").exists() or (account.home / "stolen").read_bytes() == b"mine"


class TestWaysUp:
    @pytest.mark.parametrize(
        "path",
        [
            b"../../outside/key",
            b"/../../../../etc/passwd",
            b"www/../../../etc/passwd",
            b"..\\..\\etc\\passwd",
            b"%2e%2e/%2e%2e/etc/passwd",
            b"\xc0\xae\xc0\xae/\xc0\xae\xc0\xae/etc/passwd",
            b"\xe0\x80\xae\xe0\x80\xae/etc/passwd",
            "．．/．．/etc/passwd".encode(),  # noqa: RUF001 - that is the point
            b"....//....//etc/passwd",
            b"..;/..;/etc/passwd",
            b"./.././../etc/passwd",
            b"~root/.profile",
            b"file:///etc/passwd",
            b"www//..//..//etc/passwd",
        ],
    )
    def test_no_spelling_of_the_parent_leads_out(self, either: Any, raw: Any, path: bytes) -> None:
        account = either.account()
        session = raw(either).login(account)
        (account.home / "www").mkdir()
        session.ask("TYPE I")
        for command in (b"SIZE ", b"MDTM ", b"HASH ", b"XMD5 ", b"CWD ", b"DELE ", b"RNFR "):
            reply = session.ask(command + path)
            assert reply.startswith(("550", "553")), (command, reply)
        assert b"root:" not in session.ask(b"STAT " + path).encode()
        assert session.ask("PWD").startswith('257 "/"')

    def test_what_cannot_be_in_a_name(self, either: Any, raw: Any) -> None:
        session = raw(either).login(either.account())
        for name in (b"a\0b", b"a\0/../../etc/passwd", b"\0"):
            for command in (b"MKD ", b"CWD ", b"SITE STAGE ", b"HASH ", b"STOU "):
                assert session.ask(command + name).startswith("501")

    def test_names_as_long_as_can_be(self, either: Any, connect: Any, put: Any, fetch: Any) -> None:
        account = either.account()
        client = connect(either, account)
        for name in ("x" * 255, "ü" * 127 + "x"):
            put(client, name, b"1")
            assert fetch(client, name) == b"1"
            client.rename(name, name[:-1] + "y")
            client.delete(name[:-1] + "y")
            client.mkd(name)
            client.sendcmd(f"SITE STAGE {name}")
            put(client, f"{name}/{name}", b"2")
            client.sendcmd("SITE PUBLISH")
            assert (account.home / name / name).read_bytes() == b"2"
        for name in ("x" * 256, "ü" * 128):
            for action in (
                lambda name=name: put(client, name, b"1"),
                lambda name=name: client.mkd(name),
                lambda name=name: client.cwd(name),
                lambda name=name: client.sendcmd(f"SITE STAGE {name}"),
                lambda name=name: client.storbinary(f"STOU {name}", io.BytesIO()),
            ):
                with pytest.raises(ftplib.error_perm, match=r"55\d"):
                    action()  # type: ignore[no-untyped-call]
        assert client.pwd() == "/"

    def test_paths_longer_than_the_kernel_takes(self, either: Any, connect: Any, put: Any) -> None:
        client = connect(either, either.account())
        step = "d" * 200
        for _ in range(30):  # PATH_MAX is 4,096 bytes
            if attempt(lambda: client.mkd(step)) is None or attempt(lambda: client.cwd(step)) is None:
                break
        for command in (f"MKD {step}/{step}", f"SIZE {'x/' * 3000}", f"CWD {'../' * 500}{'y/' * 3000}"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        assert client.sendcmd("CWD /") == '250 "/" is the current directory.'


class TestThingsThatAreNotFiles:
    def test_an_upload_onto_a_hard_link_changes_nothing_elsewhere(
        self, either: Any, connect: Any, put: Any, fetch: Any, outside: Path
    ) -> None:
        account = either.account()
        client = connect(either, account)
        for name in ("one", "two", "three"):
            (account.home / name).hardlink_to(outside / "key")
        put(client, "one", b"mine")
        client.storbinary("APPE two", io.BytesIO(b"mine"))
        put(client, "three", b"mine", rest=3)
        assert fetch(client, "two") == SECRET + b"mine"

    def test_a_staging_shares_no_file_with_the_site(self, either: Any, connect: Any, outside: Path) -> None:
        account = either.account()
        client = connect(either, account)
        (account.home / "site").mkdir()
        (account.home / "site" / "key").hardlink_to(outside / "key")
        client.sendcmd("SITE STAGE site")
        client.sendcmd("SITE CHMOD 777 site/key")
        client.sendcmd("MFMT 20000101000000 site/key")

    def test_fifos_sockets_and_devices_block_nobody(self, either: Any, connect: Any, put: Any) -> None:
        account = either.account()
        client = connect(either, account)
        os.mkfifo(account.home / "fifo")
        with socket.socket(socket.AF_UNIX) as listening:
            os.chdir(account.home)  # the path of a socket may have 107 bytes
            listening.bind("socket")
        names = ["fifo", "socket"]
        if os.geteuid() == 0:
            os.mknod(account.home / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
            names.append("device")
        for name in names:
            for action in (
                lambda name=name: client.retrbinary(f"RETR {name}", bytes),
                lambda name=name: put(client, name, b"x"),
                lambda name=name: client.storbinary(f"APPE {name}", io.BytesIO(b"x")),
                lambda name=name: client.sendcmd(f"HASH {name}"),
                lambda name=name: client.sendcmd(f"SITE STAGE {name}"),
            ):
                with pytest.raises(ftplib.error_perm, match="550"):
                    action()  # type: ignore[no-untyped-call]
        assert sorted(client.nlst()) == sorted(names)
        for name in names:
            client.delete(name)

    def test_special_bits_are_refused_and_nothing_changes(self, either: Any, connect: Any, put: Any) -> None:
        account = either.account()
        client = connect(either, account)
        put(client, "f", b"x")
        mode = (account.home / "f").stat().st_mode
        for bits in ("4755", "2755", "6755", "7777"):
            with pytest.raises(ftplib.error_perm, match="550 Setuid and setgid are not allowed"):
                client.sendcmd(f"SITE CHMOD {bits} f")
        for bits in ("999", "-rwx", "77777", ""):
            with pytest.raises(ftplib.error_perm, match="501"):
                client.sendcmd(f"SITE CHMOD {bits} f")
        assert (account.home / "f").stat().st_mode == mode


class TestLinks:
    def test_stou_and_rename_do_not_lead_out(self, either: Any, connect: Any, put: Any, outside: Path) -> None:
        account = either.account()
        client = connect(either, account)
        (account.home / "out").symlink_to(outside)
        (account.home / "file").symlink_to(outside / "new")
        put(client, "f", b"x")
        for name in ("out/f", "out/../out/f"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.storbinary(f"STOU {name}", io.BytesIO(b"x"))
        client.storbinary("STOU ../../f", io.BytesIO(b"x"))  # the parent of the root is the root
        assert len(os.listdir(account.home)) == 4
        for target in ("out/f", "out/deep/f"):
            client.sendcmd("RNFR f")
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(f"RNTO {target}")
        for source in ("out/key", "out/deep"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(f"RNFR {source}")
        with pytest.raises(ftplib.error_perm, match="55"):
            put(client, "file", b"x")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.sendcmd("SITE STAGE out/deep")

    def test_a_folder_is_not_moved_into_itself(self, either: Any, connect: Any) -> None:
        client = connect(either, either.account())
        client.mkd("a")
        client.sendcmd("RNFR a")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.sendcmd("RNTO a/b")

    def test_a_home_that_is_a_link_lets_nobody_in(self, either: Any, connect: Any, outside: Path) -> None:
        account = either.account()
        account.home.parent.mkdir(parents=True, exist_ok=True)
        account.home.symlink_to(outside)
        with pytest.raises(ftplib.error_temp, match="421 The home folder of this account cannot be opened"):
            connect(either, account)


class TestDataConnections:
    def test_ports_of_a_third_party_are_refused(self, either: Any, raw: Any) -> None:
        session = raw(either).login(either.account())
        with socket.create_server(("127.0.0.2", 0)) as third:
            port = third.getsockname()[1]
            assert session.ask(f"PORT 127,0,0,2,{port // 256},{port % 256}").startswith("501")
            assert session.ask(f"EPRT |1|127.0.0.2|{port}|").startswith("501")
            assert session.ask("LIST").startswith("425")
            third.settimeout(0)
            with pytest.raises(BlockingIOError):
                third.accept()

    def test_a_third_party_cannot_take_a_passive_connection(self, either: Any, raw: Any) -> None:
        account = either.account()
        session = raw(either).login(account)
        (account.home / "f").write_bytes(SECRET)
        session.ask("TYPE I")
        port = int(session.ask("EPSV").split("|")[3])
        session.send(b"RETR f\r\n")
        with socket.create_connection(("127.0.0.1", port), timeout=15, source_address=("127.0.0.3", 0)) as thief:
            assert thief.recv(100) == b""
        assert session.reply().startswith(("150", "425"))
        with socket.create_connection(("127.0.0.1", port), timeout=15) as data:
            assert data.recv(100) in (b"", SECRET)  # the rightful one may still come, if the port is still open
