"""Uploads without an account: they add files, and neither touch nor learn anything of what others left."""

import ftplib
import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TAKEN = "553 There is a file of that name already, and anonymous uploads replace none."
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
        folder = domain[1]
        client = visit()
        data = client.transfercmd("STOR index.html")
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
        slow, quick = first.transfercmd("STOR f"), second.transfercmd("STOR f")
        slow.sendall(b"slow")
        quick.sendall(b"quick")
        quick.close()
        assert second.voidresp().startswith("226")
        slow.close()
        with pytest.raises(ftplib.error_perm, match="553"):
            first.voidresp()
        assert [path.name for path in domain[1].iterdir()] == ["f"]
        assert (domain[1] / "f").read_bytes() == b"quick"

    def test_a_link_that_came_meanwhile_is_not_followed(
        self, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path]
    ) -> None:
        client = visit()
        data = client.transfercmd("STOR f")
        (domain[1] / "f").symlink_to("elsewhere")
        data.sendall(b"x")
        data.close()
        with pytest.raises(ftplib.error_perm, match="553"):
            client.voidresp()
        assert [path.name for path in domain[1].iterdir()] == ["f"]


class TestAnonymousResume:
    def test_what_broke_off_is_not_kept(
        self, server: Any, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path], until: Any
    ) -> None:
        folder = domain[1]
        client = visit()
        data = client.transfercmd("STOR f")
        data.sendall(b"private")
        until(lambda: any(path.stat().st_size for path in folder.iterdir()), "the data")
        broken = server.log.count("broken off")
        client.close()
        data.close()
        until(lambda: server.log.count("broken off") > broken, "the end of the upload")
        assert list(folder.iterdir()) == []

        other = visit()
        with pytest.raises(ftplib.error_perm, match="550"):
            other.size("f")

    def test_is_refused(self, visit: Callable[[], ftplib.FTP], domain: tuple[str, Path]) -> None:
        client = visit()
        with pytest.raises(ftplib.error_perm) as refused:
            client.storbinary("STOR f", io.BytesIO(b"rest"), rest=1)
        assert str(refused.value) == NOT_RESUMED
        client.storbinary("STOR f", io.BytesIO(b"whole"))
        assert (domain[1] / "f").read_bytes() == b"whole"
        client.voidcmd("TYPE I")
        assert client.size("f") == 5
        with pytest.raises(ftplib.error_perm, match="55"):
            client.storbinary("STOR f", io.BytesIO(b"rest"), rest=5)
        assert (domain[1] / "f").read_bytes() == b"whole"
