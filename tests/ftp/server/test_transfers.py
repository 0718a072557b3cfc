"""Files up, down, continued, interrupted; with ftplib, lftp and curl."""

import ftplib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

MEBIBYTE = 2**20
BODY = bytes(range(256)) * 4096 * 4  # 4 MiB
CUT = 1_234_567

KILLED_CLIENT = """
import ftplib, sys, time
port, user, password, name, count = int(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
client = ftplib.FTP()
client.connect("127.0.0.1", port)
client.login(user, password)
client.voidcmd("TYPE I")
data = client.transfercmd("STOR " + name)
data.sendall(sys.stdin.buffer.read(count))
time.sleep(0.2)  # it stalls: at full speed, the ends of the two connections may be far apart
print("sent", flush=True)
time.sleep(60)
"""


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".wsp-upload-")]


@pytest.fixture
def killed_upload(server: Any, until: Any) -> Callable[..., None]:
    """Uploads the beginning of a file with a client that is then killed."""

    def upload(account: Any, name: str, content: bytes) -> None:
        disconnects = server.log.count("broken off")
        arguments = [str(server.port), account.username, account.password, name, str(len(content))]
        with subprocess.Popen(
            [sys.executable, "-c", KILLED_CLIENT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(content)
            client.stdin.flush()
            client.stdout.readline()
            until(lambda: any(path.stat().st_size == len(content) for path in account.home.glob(".wsp-upload-*.tmp")))
            client.send_signal(signal.SIGKILL)
        until(lambda: server.log.count("broken off") > disconnects, "the end of the upload")

    return upload


class TestUpload:
    def test_round_trip_in_clear_text_and_over_tls(self, server: Any, connect: Any, put: Any, fetch: Any) -> None:
        for tls in (False, True):
            account = server.account()
            client = connect(server, account, tls=tls)
            assert put(client, "grüße•.bin", BODY) == "226 Transfer complete."
            assert fetch(client, "grüße•.bin") == BODY
            assert (account.home / "grüße•.bin").read_bytes() == BODY
            assert client.nlst() == ["grüße•.bin"]
            assert [name for name, _ in client.mlsd()] == ["grüße•.bin"]
            assert put(client, "empty", b"") == "226 Transfer complete."
            assert fetch(client, "empty") == b""

    def test_it_is_published_before_the_226_and_not_earlier(self, server: Any, connect: Any) -> None:
        account = server.account()
        client = connect(server, account)
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR new")
        data.sendall(b"half")
        assert connect(server, account).nlst() == []
        data.close()
        client.voidresp()
        assert (account.home / "new").read_bytes() == b"half"
        assert hidden(account.home) == []

    def test_a_big_file_replaces_a_big_file(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account()
        client = connect(server, account)
        put(client, "big", b"a" * (9 * MEBIBYTE))
        (account.home / "big").chmod(0o640)
        put(client, "big", b"b" * (9 * MEBIBYTE))
        assert (account.home / "big").read_bytes() == b"b" * (9 * MEBIBYTE)
        assert (account.home / "big").stat().st_mode & 0o777 == 0o640

    def test_a_killed_client_leaves_the_old_file(self, server: Any, connect: Any, killed_upload: Any) -> None:
        account = server.account()
        client = connect(server, account)
        (account.home / "site.html").write_bytes(b"the old one")
        killed_upload(account, "site.html", BODY[:CUT])
        assert (account.home / "site.html").read_bytes() == b"the old one"
        killed_upload(account, "other.html", BODY[:CUT])
        assert client.nlst() == ["site.html"]
        assert not (account.home / "other.html").exists()

    def test_abort_leaves_the_old_file(self, server: Any, connect: Any) -> None:
        account = server.account()
        client = connect(server, account)
        (account.home / "f").write_bytes(b"old")
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR f")
        data.sendall(b"new")
        client.sock.sendall(b"NOOP\r\n")
        assert client.getresp().startswith("200")
        assert client.abort().startswith(("426", "225", "226"))
        data.close()
        assert (account.home / "f").read_bytes() == b"old"

    def test_data_before_the_command_is_not_lost(self, server: Any, raw: Any) -> None:
        account = server.account()
        client = raw(server).login(account)
        port = int(client.ask("EPSV").split("|")[3])
        client.ask("TYPE I")
        with socket.create_connection(("127.0.0.1", port)) as data:
            data.sendall(b"early")
            client.ask("NOOP")
        assert client.ask("STOR early").startswith(("125", "150"))
        assert client.reply().startswith("226")
        assert (account.home / "early").read_bytes() == b"early"

    def test_ascii_mode_translates_line_ends(self, server: Any, connect: Any) -> None:
        account = server.account()
        client = connect(server, account)
        client.storlines("STOR text", io.BytesIO(b"one\ntwo\n"))
        assert (account.home / "text").read_bytes() == b"one\ntwo\n"
        lines: list[str] = []
        client.retrlines("RETR text", lines.append)
        assert lines == ["one", "two"]

    def test_stou_makes_a_name(self, server: Any, connect: Any) -> None:
        account = server.account()
        client = connect(server, account)
        client.storbinary("STOU", io.BytesIO(b"unique"))
        (name,) = client.nlst()
        assert (account.home / name).read_bytes() == b"unique"

    def test_a_folder_a_fifo_and_a_read_only_file_are_refused(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account()
        client = connect(server, account)
        client.mkd("folder")
        os.mkfifo(account.home / "fifo")
        for name in ("folder", "fifo", "", "missing/x"):
            with pytest.raises(ftplib.error_perm, match=r"^5"):
                put(client, name, b"x")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.retrbinary("RETR fifo", bytes)
        assert client.pwd() == "/"

    def test_a_full_disk_answers_552_rather_than_a_reset(self, server: Any, connect: Any, until: Any) -> None:
        account = server.account()
        client = connect(server, account)
        (account.home / "f").write_bytes(b"old")
        client.voidcmd("TYPE I")
        # A limit on the size of files stands in for a disk that fills up: write(2) fails half way in both.
        process = server.processes[0].pid
        soft, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (MEBIBYTE, hard))
        try:
            with pytest.raises(ftplib.error_perm, match="552 The upload was not stored: file too large"):
                client.storbinary("STOR f", io.BytesIO(BODY))
        finally:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, hard))
        assert (account.home / "f").read_bytes() == b"old"
        assert hidden(account.home) == []
        assert client.pwd() == "/"


class TestResume:
    def test_downloads_from_an_offset(self, server: Any, connect: Any, fetch: Any, put: Any) -> None:
        for tls in (False, True):
            client = connect(server, server.account(), tls=tls)
            put(client, "f", BODY)
            assert fetch(client, "f", rest=CUT) == BODY[CUT:]
            with pytest.raises(ftplib.error_perm, match="554"):
                fetch(client, "f", rest=len(BODY) + 1)

    def test_uploads_onto_a_file(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account()
        client = connect(server, account)
        put(client, "f", BODY[:CUT])
        put(client, "f", BODY[CUT:], rest=CUT)
        assert (account.home / "f").read_bytes() == BODY
        put(client, "f", b"end", rest=10)
        assert (account.home / "f").read_bytes() == BODY[:10] + b"end"
        client.storbinary("APPE f", io.BytesIO(b"more"))
        assert (account.home / "f").read_bytes() == BODY[:10] + b"endmore"
        client.storbinary("APPE fresh", io.BytesIO(b"new"))
        assert (account.home / "fresh").read_bytes() == b"new"
        with pytest.raises(ftplib.error_perm, match="554"):
            put(client, "f", b"x", rest=1000)
        assert (account.home / "f").read_bytes() == BODY[:10] + b"endmore"

    def test_a_long_beginning_is_copied_off_the_loop(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account()
        client = connect(server, account)
        put(client, "f", BODY)
        client.storbinary("APPE f", io.BytesIO(BODY))
        assert (account.home / "f").read_bytes() == BODY * 2

    def test_what_a_killed_client_left_is_found_by_size(
        self, server: Any, connect: Any, put: Any, killed_upload: Any
    ) -> None:
        account = server.account()
        client = connect(server, account)
        killed_upload(account, "f", BODY[:CUT])
        client.voidcmd("TYPE I")
        assert client.size("f") == CUT
        with pytest.raises(ftplib.error_perm, match="550"):
            client.retrbinary("RETR f", bytes)
        other = connect(server, server.account_of(account.home.name, "other"))
        other.voidcmd("TYPE I")
        with pytest.raises(ftplib.error_perm, match="550"):
            other.size("f")
        put(client, "f", BODY[CUT:], rest=CUT)
        assert (account.home / "f").read_bytes() == BODY
        assert hidden(account.home) == []

    def test_going_on_from_a_file_can_be_tried_again(
        self, server: Any, connect: Any, put: Any, killed_upload: Any
    ) -> None:
        account = server.account()
        client = connect(server, account)
        put(client, "f", BODY[:CUT])
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR f", rest=CUT)
        data.sendall(BODY[CUT : CUT + 1000])
        client.sock.sendall(b"NOOP\r\n")
        client.voidresp()
        client.close()
        data.close()
        again = connect(server, account)
        again.voidcmd("TYPE I")
        assert again.size("f") == CUT
        put(again, "f", BODY[CUT:], rest=CUT)
        assert (account.home / "f").read_bytes() == BODY

    def test_two_files_are_never_mixed(self, server: Any, connect: Any, put: Any, killed_upload: Any) -> None:
        account = server.account()
        client = connect(server, account)
        (account.home / "f").write_bytes(b"old content")
        killed_upload(account, "f", BODY[:CUT])
        assert client.sendcmd("TYPE I")
        assert client.size("f") == len(b"old content")
        # A client that measured the old file would send the rest of the new one.
        with pytest.raises(ftplib.error_perm, match=f"554 .* {CUT} bytes"):
            put(client, "f", BODY[11:], rest=11)
        with pytest.raises(ftplib.error_perm, match="554"):
            client.storbinary("APPE f", io.BytesIO(BODY[11:]))
        put(client, "f", BODY[CUT:], rest=CUT)
        assert (account.home / "f").read_bytes() == BODY

    def test_what_was_left_can_be_deleted_and_grows_stale(self, server: Any, connect: Any, killed_upload: Any) -> None:
        account = server.account()
        client = connect(server, account)
        killed_upload(account, "f", BODY[:CUT])
        client.delete("f")
        assert hidden(account.home) == []
        killed_upload(account, "g", BODY[:CUT])
        (left,) = hidden(account.home)
        two_days_ago = time.time() - 2 * 86400
        os.utime(account.home / left, (two_days_ago, two_days_ago))
        assert client.nlst() == []
        assert hidden(account.home) == []

    def test_a_folder_with_nothing_but_leftovers_can_be_removed(
        self, server: Any, connect: Any, killed_upload: Any
    ) -> None:
        account = server.account()
        client = connect(server, account)
        client.mkd("d")
        account.home /= "d"
        killed_upload(account, "d/f", BODY[:CUT])
        client.rmd("d")
        assert client.nlst("/") == []

    def test_the_servers_own_names_do_not_exist_for_clients(
        self, server: Any, connect: Any, put: Any, killed_upload: Any
    ) -> None:
        account = server.account()
        client = connect(server, account)
        killed_upload(account, "f", BODY[:CUT])
        (left,) = hidden(account.home)
        for command in (f"SIZE {left}", f"MDTM {left}", f"DELE {left}", f"RNFR {left}", f"MLST {left}", f"MKD {left}"):
            client.voidcmd("TYPE I")
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        with pytest.raises(ftplib.error_perm, match="550"):
            put(client, left, b"x")
        lines: list[str] = []
        client.dir(lines.append)
        assert lines == []
        assert left not in client.sendcmd("STAT /")


class TestLftp:
    @pytest.fixture
    def run(self, server: Any, lftp: str) -> Callable[..., str]:
        def run(account: Any, script: str, *, tls: bool = True) -> str:
            settings = f"set ftp:ssl-allow {tls}; set ssl:verify-certificate no; set net:max-retries 2"
            opening = f"open -u {account.username},{account.password} ftp://127.0.0.1:{server.port}"
            done = subprocess.run(
                [lftp, "-c", f"{settings}; {opening}; {script}"], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        return run

    @pytest.mark.parametrize("tls", [False, True])
    def test_mirror_both_ways(self, server: Any, run: Any, tmp_path: Path, tls: bool) -> None:
        account = server.account()
        source = tmp_path / "source"
        (source / "süb").mkdir(parents=True)
        for number in range(30):
            (source / "süb" / f"{number}.txt").write_bytes(os.urandom(number * 1000))
        run(account, f"mirror -R --parallel=4 {source} up; mirror up {tmp_path / 'back'}", tls=tls)
        for path in (source / "süb").iterdir():
            copy = tmp_path / "back" / "süb" / path.name
            assert copy.read_bytes() == path.read_bytes()
            assert copy.stat().st_mode == path.stat().st_mode, "lftp takes the rights over that the server names"
        assert hidden(account.home / "up" / "süb") == []

    def test_continues_an_upload_whose_client_was_killed(
        self, server: Any, run: Any, tmp_path: Path, killed_upload: Any, connect: Any
    ) -> None:
        account = server.account()
        connect(server, account)
        (tmp_path / "f").write_bytes(BODY)
        killed_upload(account, "f", BODY[:CUT])
        run(account, f"put -c {tmp_path / 'f'}")
        assert (account.home / "f").read_bytes() == BODY
        assert f"{len(BODY) - CUT} bytes" in server.log

    def test_starts_over_when_an_old_file_was_being_replaced(
        self, server: Any, run: Any, tmp_path: Path, killed_upload: Any, connect: Any
    ) -> None:
        account = server.account()
        connect(server, account)
        (tmp_path / "f").write_bytes(BODY)
        (account.home / "f").write_bytes(b"old")
        killed_upload(account, "f", BODY[:CUT])
        run(account, f"put -c {tmp_path / 'f'}")
        assert (account.home / "f").read_bytes() == BODY

    def test_continues_a_download(self, server: Any, run: Any, tmp_path: Path, connect: Any) -> None:
        account = server.account()
        connect(server, account)
        (account.home / "f").write_bytes(BODY)
        (tmp_path / "f").write_bytes(BODY[:CUT])
        run(account, f"get -c f -o {tmp_path / 'f'}")
        assert (tmp_path / "f").read_bytes() == BODY


class TestCurl:
    @pytest.fixture
    def run(self, server: Any, curl: str) -> Callable[..., bytes]:
        def run(account: Any, path: str, *options: str) -> bytes:
            who = f"{account.username}:{account.password}"
            url = f"ftp://127.0.0.1:{server.port}/{path}"
            done = subprocess.run([curl, "-sS", "-k", "-u", who, *options, url], capture_output=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return done.stdout

        return run

    @pytest.mark.parametrize("options", [(), ("--ssl-reqd",)])
    def test_round_trip(self, server: Any, run: Any, tmp_path: Path, options: tuple[str, ...]) -> None:
        account = server.account()
        (tmp_path / "f").write_bytes(BODY)
        run(account, "f", "-T", str(tmp_path / "f"), *options)
        assert run(account, "f", *options) == BODY
        assert b" f\n" in run(account, "", *options)

    def test_continues_both_ways(self, server: Any, run: Any, tmp_path: Path, killed_upload: Any, connect: Any) -> None:
        account = server.account()
        connect(server, account)
        (tmp_path / "f").write_bytes(BODY)
        killed_upload(account, "f", BODY[:CUT])
        run(account, "f", "-T", str(tmp_path / "f"), "-C", "-")
        assert (account.home / "f").read_bytes() == BODY
        (tmp_path / "down").write_bytes(BODY[:CUT])
        run(account, "f", "-o", str(tmp_path / "down"), "-C", "-")
        assert (tmp_path / "down").read_bytes() == BODY
