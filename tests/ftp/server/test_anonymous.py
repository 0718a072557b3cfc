"""Strangers: they read, and leave files in `incoming`; they neither touch nor see what is in there."""

import ftplib
import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TAKEN = "553 There is a file of that name already, and it may not be replaced."
NOT_RESUMED = "554 Anonymous uploads cannot be resumed: upload the file from the start."
BODY = bytes(range(256)) * 4096 * 9  # 9 MiB: what would be published on a thread, if it replaced a file


@pytest.fixture
def domain(server: Any) -> tuple[str, Path]:
    """A domain of this test alone, and its folder."""
    name = f"{uuid.uuid4().hex}.example"
    return name, server.anonymous(name, allow_upload=True)


@pytest.fixture
def visit(server: Any, connect: Any, domain: tuple[str, Path]) -> Callable[[], ftplib.FTP]:
    """Logs one more stranger in."""

    def log_in() -> ftplib.FTP:
        client: ftplib.FTP = connect(server)
        client.login(f"anonymous@{domain[0]}", "me@")
        client.voidcmd("TYPE I")
        return client

    return log_in


class TestAnonymousUpload:
    @pytest.mark.parametrize("content", [b"a stranger's", BODY], ids=["small", "big"])
    def test_never_replaces_a_file_that_came_meanwhile(
        self, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path], content: bytes
    ) -> None:
        folder = domain[1] / "incoming"
        client = visit()
        data = client.transfercmd("STOR incoming/index.html")
        data.sendall(content)
        (folder / "index.html").write_bytes(b"the owner's")
        data.close()
        with pytest.raises(ftplib.error_perm) as refused:
            client.voidresp()
        assert str(refused.value) == TAKEN
        assert (folder / "index.html").read_bytes() == b"the owner's"
        assert [path.name for path in folder.iterdir()] == ["index.html"]
        assert client.pwd() == "/"

    def test_the_first_of_two_that_send_the_same_name_wins(
        self, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path]
    ) -> None:
        first, second = visit(), visit()
        slow, quick = first.transfercmd("STOR incoming/f"), second.transfercmd("STOR incoming/f")
        slow.sendall(b"slow")
        quick.sendall(b"quick")
        quick.close()
        assert second.voidresp().startswith("226")
        slow.close()
        with pytest.raises(ftplib.error_perm, match="553"):
            first.voidresp()
        assert [path.name for path in (domain[1] / "incoming").iterdir()] == ["f"]
        assert (domain[1] / "incoming" / "f").read_bytes() == b"quick"

    def test_a_link_that_came_meanwhile_is_not_followed(
        self, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path]
    ) -> None:
        client = visit()
        data = client.transfercmd("STOR incoming/f")
        (domain[1] / "incoming" / "f").symlink_to("elsewhere")
        data.sendall(b"x")
        data.close()
        with pytest.raises(ftplib.error_perm, match="553"):
            client.voidresp()
        assert [path.name for path in (domain[1] / "incoming").iterdir()] == ["f"]


class TestAnonymousResume:
    def test_what_broke_off_is_not_kept(
        self, server: Any, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path], until: Any
    ) -> None:
        folder = domain[1] / "incoming"
        client = visit()
        data = client.transfercmd("STOR incoming/f")
        data.sendall(b"private")
        until(lambda: any(path.stat().st_size for path in folder.iterdir()), "the data")
        broken = server.log.count("broken off")
        client.close()
        data.close()
        until(lambda: server.log.count("broken off") > broken, "the end of the upload")
        assert list(folder.iterdir()) == []

        other = visit()
        with pytest.raises(ftplib.error_perm, match="550"):
            other.size("incoming/f")

    def test_is_refused(self, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path]) -> None:
        client = visit()
        with pytest.raises(ftplib.error_perm) as refused:
            client.storbinary("STOR incoming/f", io.BytesIO(b"rest"), rest=1)
        assert str(refused.value) == NOT_RESUMED
        client.storbinary("STOR incoming/f", io.BytesIO(b"whole"))
        assert (domain[1] / "incoming" / "f").read_bytes() == b"whole"


class TestIncoming:
    COMMANDS = (
        "LIST incoming",
        "NLST incoming",
        "MLSD incoming",
        "STAT incoming",
        "LIST incoming/f",
        "NLST incoming/f",
        "MLST incoming/f",
        "STAT incoming/f",
        "RETR incoming/f",
        "SIZE incoming/f",
        "MDTM incoming/f",
        "DELE incoming/f",
        "RMD incoming/d",
        "RNFR incoming/f",
        "APPE incoming/f",
        "SITE CHMOD 777 incoming/f",
        "MFMT 20200101000000 incoming/f",
        "SITE UTIME 202001010000 incoming/f",
        "HASH incoming/f",
        *(f"{name} incoming/f" for name in ("XCRC", "XMD5", "XSHA", "XSHA1", "XSHA256")),
        "XCRC incoming/f 0 1",
        "MLSD incoming/f",
        "CWD incoming/f",
        *(f"{name} incoming/f/deep" for name in ("LIST", "MLSD", "STAT", "RETR", "SIZE", "HASH", "CWD", "STOR")),
        *(f"SITE {name} incoming" for name in ("STAGE", "PUBLISH", "DISCARD", "RELEASES", "ROLLBACK", "FORGET")),
        "MKD incoming/new",
        "RMD incoming",
        "RNFR incoming",
        "STOR outside",
        "STOR d/outside",
        "MKD outside",
        "STOU outside",
    )

    @pytest.mark.parametrize("command", COMMANDS)
    def test_is_for_leaving_files_and_nothing_else(
        self, server: Any, raw: Any, visit: Any, domain: tuple[str, Path], command: str
    ) -> None:
        visit()
        folder = domain[1]
        (folder / "d").mkdir()
        (folder / "incoming" / "d").mkdir()
        (folder / "incoming" / "f").write_bytes(b"somebody else's")
        client = raw(server)
        client.ask(f"USER anonymous@{domain[0]}")
        assert client.ask("PASS me@").startswith("230")
        client.ask("TYPE I")
        client.ask("EPSV")
        answers = [client.ask(command), client.ask(command.replace("incoming/f", "incoming/is-not-there"))]
        assert answers[0].startswith("550")
        # What is there and what is not are told apart by nothing.
        assert answers[0].replace("/f", "/is-not-there") == answers[1]
        assert sorted(path.name for path in folder.iterdir()) == ["d", "incoming"]
        assert sorted(path.name for path in (folder / "incoming").iterdir()) == ["d", "f"]
        assert (folder / "incoming" / "f").read_bytes() == b"somebody else's"

    def test_listing_a_name_in_it_tells_nothing_of_that_name(self, visit: Any, domain: tuple[str, Path]) -> None:
        client = visit()
        (domain[1] / "incoming" / "f").touch()
        answers = []
        for name in ("f", "is-not-there"):
            with pytest.raises(ftplib.error_perm) as refused:
                client.retrlines(f"MLSD incoming/{name}")
            answers.append(str(refused.value))
        assert answers[0] == answers[1]

    def test_files_are_left_in_it_by_stor_and_stou(self, visit: Any, domain: tuple[str, Path]) -> None:
        client = visit()
        client.cwd("incoming")
        client.storbinary("STOR f", io.BytesIO(b"mine"))
        assert (domain[1] / "incoming" / "f").read_bytes() == b"mine"
        with pytest.raises(ftplib.error_perm) as refused:
            client.storbinary("STOR f", io.BytesIO(b"again"))
        assert str(refused.value) == TAKEN
        client.storbinary("STOU", io.BytesIO(b"unique"))
        assert len(list((domain[1] / "incoming").iterdir())) == 2
        client.cwd("/")
        assert client.nlst() == ["incoming"]

    def test_folders_are_made_in_it_where_that_is_allowed(self, server: Any, connect: Any) -> None:
        folder = server.anonymous("mkdir.example", allow_upload=True, allow_mkdir=True)
        client = connect(server)
        client.login("ftp@mkdir.example", "me@")
        assert client.mkd("incoming/mine") == "/incoming/mine"
        client.storbinary("STOR incoming/mine/f", io.BytesIO(b"x"))
        assert (folder / "incoming" / "mine" / "f").read_bytes() == b"x"
        for command in ("MKD outside", "MLST incoming/mine/f", "RMD incoming/mine", "STAT incoming/mine"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)

    def test_it_is_the_real_folder_and_no_link(self, server: Any, connect: Any) -> None:
        folder = server.anonymous("link.example", allow_upload=True)
        (folder / "site").mkdir(parents=True)
        (folder / "incoming").symlink_to("site")
        (folder / "box").mkdir()
        client = connect(server)
        client.login("ftp@link.example", "me@")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.storbinary("STOR incoming/f", io.BytesIO(b"x"))
        assert list((folder / "site").iterdir()) == []

    def test_a_link_to_it_shows_nothing_of_it(self, visit: Any, domain: tuple[str, Path]) -> None:
        client = visit()
        (domain[1] / "incoming" / "f").write_bytes(b"secret")
        (domain[1] / "way").symlink_to("incoming")
        (domain[1] / "direct").symlink_to("incoming/f")
        for command in ("NLST way", "RETR way/f", "RETR direct", "SIZE direct", "MLST way/f"):
            with pytest.raises(ftplib.error_perm, match="550"):
                (client.transfercmd if command[:4] in ("NLST", "RETR") else client.sendcmd)(command)
        assert "size=6;" not in client.sendcmd("MLST direct")  # the link itself, not what it leads to

    @pytest.mark.parametrize("off", [{"allow_upload": False}, {"allow_upload": True, "read_only": True}])
    def test_without_uploads_it_stays_closed_and_is_not_made(
        self, server: Any, connect: Any, off: dict[str, bool]
    ) -> None:
        name = f"{uuid.uuid4().hex}.example"
        folder = server.anonymous(name, allow_mkdir=True, **off)
        client = connect(server)
        client.login(f"anonymous@{name}", "me@")
        assert list(folder.iterdir()) == []
        (folder / "incoming").mkdir()
        (folder / "incoming" / "f").write_bytes(b"left before")
        for command in ("NLST incoming", "RETR incoming/f", "STOR incoming/g"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.transfercmd(command)
        with pytest.raises(ftplib.error_perm, match="550"):
            client.mkd("incoming/d")


class TestWelcome:
    def test_has_several_lines_in_one_reply(self, server: Any, raw: Any) -> None:
        server.anonymous("hello.example", welcome_message="Wëlcome!\n\n230 is how replies begin")
        client = raw(server)
        client.ask("USER anonymous@hello.example")
        reply = client.ask("PASS me@")
        assert reply == "230-Wëlcome!\r\n230-\r\n230-230 is how replies begin\r\n230 Logged in.\r\n"
        assert client.ask("PWD").startswith("257")
