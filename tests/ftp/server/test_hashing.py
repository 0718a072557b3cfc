"""HASH, XCRC, XMD5, XSHA1, XSHA256."""

import ftplib
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

BODY = os.urandom(3_000_000)


@pytest.fixture
def file(server: Any, connect: Any) -> tuple[Any, ftplib.FTP, Path]:
    """An account with a file `a file`, and a session."""
    account = server.account()
    client = connect(server, account)
    (account.home / "a file").write_bytes(BODY)
    return account, client, account.home / "a file"


class TestHash:
    def test_by_the_algorithm_that_was_chosen(self, file: Any) -> None:
        _, client, _ = file
        size = len(BODY)
        assert " HASH SHA-256*;SHA-1;MD5;CRC32" in client.sendcmd("FEAT").split("\n")
        sha256 = hashlib.sha256(BODY).hexdigest()
        assert client.sendcmd("HASH a file") == f"213 SHA-256 0-{size} {sha256} /a file"
        assert client.sendcmd("OPTS HASH") == "200 SHA-256"
        for name, digest in (
            ("SHA-1", hashlib.sha1(BODY).hexdigest()),
            ("md5", hashlib.md5(BODY).hexdigest()),
            ("CRC32", f"{zlib.crc32(BODY):08x}"),
        ):
            assert client.sendcmd(f"OPTS HASH {name}") == f"200 {name.upper()}"
            assert client.sendcmd("HASH a file") == f"213 {name.upper()} 0-{size} {digest} /a file"
        features = client.sendcmd("FEAT").split("\n")
        assert " HASH SHA-256;SHA-1;MD5;CRC32*" in features
        assert [line for line in features if "HASH" in line or line.startswith(" X")] == [
            " HASH SHA-256;SHA-1;MD5;CRC32*",
            " XCRC",
            " XMD5",
            " XSHA",
            " XSHA1",
            " XSHA256",
        ]
        with pytest.raises(ftplib.error_perm, match="501 One of SHA-256, SHA-1, MD5, CRC32"):
            client.sendcmd("OPTS HASH SHA-512")
        assert client.sendcmd("OPTS UTF8 ON").startswith("200")

    def test_of_an_empty_file(self, file: Any) -> None:
        account, client, _ = file
        (account.home / "empty").touch()
        assert client.sendcmd("HASH empty") == f"213 SHA-256 0-0 {hashlib.sha256().hexdigest()} /empty"

    def test_what_has_none(self, file: Any, server: Any, connect: Any, tmp_path: Path) -> None:
        account, client, _ = file
        (account.home / "out").symlink_to("/etc/passwd")
        (account.home / "folder").mkdir()
        os.mkfifo(account.home / "fifo")
        for name in ("missing", "out", "folder", "fifo", ".wsp-upload-00.part"):
            for command in ("HASH", "XCRC", "XMD5"):
                with pytest.raises(ftplib.error_perm, match="550"):
                    client.sendcmd(f"{command} {name}")
        with pytest.raises(ftplib.error_perm, match="530"):
            connect(server).sendcmd("HASH a file")

    def test_of_the_file_that_is_being_uploaded(self, file: Any, until: Any) -> None:
        account, client, _ = file
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR new")
        data.sendall(BODY[:1_000_000])
        arrived = hashlib.sha256(BODY[:1_000_000]).hexdigest()
        until(lambda: client.sendcmd("HASH new") == f"213 SHA-256 0-1000000 {arrived} /new")
        assert client.sendcmd("XCRC new 0 10") == f"250 {zlib.crc32(BODY[:10]):08X}"
        # Of other files as well; and nobody else finds that one yet.
        assert client.sendcmd('XMD5 "a file"') == f"250 {hashlib.md5(BODY).hexdigest().upper()}"
        data.sendall(BODY[1_000_000:])
        data.close()
        client.voidresp()
        assert client.sendcmd("HASH new").split()[3] == hashlib.sha256(BODY).hexdigest()
        assert (account.home / "new").read_bytes() == BODY

    def test_a_long_one_holds_up_nobody_else_and_its_client_may_leave(
        self, file: Any, server: Any, connect: Any, raw: Any, until: Any
    ) -> None:
        account, client, path = file
        os.truncate(path, 20_000_000_000)  # sparse: 20 GB of zeros take many seconds to hash
        session = raw(server).login(account)
        session.send(b"HASH a file\r\n")
        for _ in range(20):
            client.voidcmd("NOOP")
        session.socket.close()
        os.truncate(path, 0)
        assert client.sendcmd("HASH a file").split()[2] == "0-0"


class TestXCommands:
    def test_of_the_whole_file_in_capitals(self, file: Any) -> None:
        _, client, _ = file
        for command, digest in (
            ("XCRC", f"{zlib.crc32(BODY):08X}"),
            ("XMD5", hashlib.md5(BODY).hexdigest().upper()),
            ("XSHA", hashlib.sha1(BODY).hexdigest().upper()),
            ("XSHA1", hashlib.sha1(BODY).hexdigest().upper()),
            ("XSHA256", hashlib.sha256(BODY).hexdigest().upper()),
        ):
            assert client.sendcmd(f"{command} a file") == f"250 {digest}"
            assert client.sendcmd(f'{command} "a file"') == f"250 {digest}"

    def test_of_a_part(self, file: Any) -> None:
        account, client, _ = file
        part = f"250 {zlib.crc32(BODY[10:1000]):08X}"
        assert client.sendcmd('XCRC "a file" 10 1000') == part
        assert client.sendcmd("XCRC a file 10 1000") == part
        (account.home / "a file 10 1000").write_bytes(b"the numbers are its name")
        assert client.sendcmd("XCRC a file 10 1000") == f"250 {zlib.crc32(b'the numbers are its name'):08X}"
        for line in ('"a file" 10 3000001', '"a file" 11 10', '"a file" 10', '""', '"a file" x y'):
            with pytest.raises(ftplib.error_perm, match=r"501|550"):
                client.sendcmd(f"XCRC {line}")
