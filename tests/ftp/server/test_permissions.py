"""Permissions per folder: every command asks for its right, and no link is a way around a rule."""

import ftplib
import io
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from wsp.ftp import folders
from wsp.ftp.jail import Jail
from wsp.ftp.logins import Login
from wsp.ftp.permissions import NotAllowed, Permissions, Right
from wsp.homes import open_home

ALL = ["list", "read", "write", "delete", "overwrite"]


def rule(folder: str, *allow: str) -> dict[str, Any]:
    """A rule as the API stores it."""
    return {"folder": folder, "allow": list(allow)}


def login(*rules: dict[str, Any], **fields: Any) -> Login:
    """An account with rules."""
    fields.setdefault("read_only", False)
    return Login("a_b", "a", "/home/a", "", enabled=True, allowed_ips=(), permissions=rules, **fields)


class TestRules:
    def test_the_api_takes_the_rights_that_the_server_knows(self) -> None:
        assert get_args(folders.Right) == tuple(Right)

    def test_the_nearest_folder_counts_by_whole_names(self) -> None:
        permissions = Permissions(login(rule("/", "list"), rule("/pub", "read"), rule("/pub/in/deep", "write")))
        for folder, right in (
            ("/", Right.LIST),
            ("/public", Right.LIST),
            ("/pub", Right.READ),
            ("/pub/in", Right.READ),
            ("/pub/in/deep", Right.WRITE),
            ("/pub/in/deep/er", Right.WRITE),
            ("/pub/in/deeper", Right.READ),
        ):
            assert [one for one in Right if permissions.allow(one, folder)] == [right], folder

    def test_where_no_rule_is_everything_is_allowed(self) -> None:
        permissions = Permissions(login(rule("/private")))
        assert all(permissions.allow(right, "/") for right in Right)
        assert not any(permissions.allow(right, "/private/deep") for right in Right)

    def test_read_only_takes_away_on_top(self) -> None:
        permissions = Permissions(login(rule("/", *ALL), read_only=True))
        assert [right for right in Right if permissions.allow(right, "/")] == [Right.LIST, Right.READ]
        assert permissions.get_perms("") == "elr"


@pytest.fixture(params=["openat2", "walk"])
def jail(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jail]:
    """A home with `/open`, where everything is allowed, and `/shut`, where nothing is, and links between them."""
    if request.param == "openat2" and not Jail.use_openat2:
        pytest.skip("this kernel has no openat2")
    monkeypatch.setattr(Jail, "use_openat2", request.param == "openat2")
    home = tmp_path / "home" / "a"
    for name in ("open", "shut", "shut/deep"):
        (home / name).mkdir(parents=True)
        (home / name / "f").write_text(name)
    (home / "open" / "folder").symlink_to("../shut")
    (home / "open" / "file").symlink_to("../shut/f")
    (home / "open" / "absolute").symlink_to(home / "shut")
    (home / "open" / "up").symlink_to("../shut/deep/..")
    (home / "open" / "new").symlink_to("../shut/new")
    (home / "shut" / "back").symlink_to("../open")
    (home / "named").symlink_to("open")
    jail = Jail(open_home(tmp_path, "/home/a"), str(home))
    permissions = Permissions(login(rule("/shut")))
    jail.permissions = lambda: permissions
    yield jail
    jail.close()


def unlink(jail: Jail, path: str) -> None:
    with jail.removable(path) as place:
        os.unlink(place.name, dir_fd=place.folder)


def rename(jail: Jail, source: str, target: str) -> None:
    with jail.movable(source, target) as (old, new):
        os.rename(old.name, new.name, src_dir_fd=old.folder, dst_dir_fd=new.folder)


class TestLinks:
    @pytest.mark.parametrize("way", ["/shut", "/open/folder", "/open/absolute", "/open/up", "/open/folder/deep"])
    def test_no_way_leads_to_what_is_not_allowed(self, jail: Jail, way: str) -> None:
        attempts: list[Callable[[], object]] = [
            lambda: jail.open(f"{way}/f", os.O_RDONLY, Right.READ),
            lambda: jail.open_folder(way),
            lambda: jail.stat(f"{way}/f", Right.READ),
            lambda: jail.lstat(f"{way}/f", Right.LIST),
            lambda: jail.readlink(f"{way}/back"),
            lambda: jail.mkdir(f"{way}/d"),
            lambda: unlink(jail, f"{way}/f"),
            lambda: jail.rmdir(f"{way}/deep"),
            lambda: rename(jail, f"{way}/f", "/open/g"),
            lambda: rename(jail, "/open/f", f"{way}/g"),
            lambda: jail.chmod(f"{way}/f", 0o777),
            lambda: jail.utime(f"{way}/f", 0),
        ]
        for attempt in attempts:
            with pytest.raises(NotAllowed):
                attempt()

    def test_a_link_to_a_file_is_judged_by_where_the_file_is(self, jail: Jail) -> None:
        for path in ("/open/file", "/open/folder/f"):
            with pytest.raises(NotAllowed):
                jail.open(path, os.O_RDONLY, Right.READ)
        os.close(jail.open("/open/f", os.O_RDONLY, Right.READ))
        assert jail.readlink("/open/file") == "../shut/f"
        unlink(jail, "/open/file")  # the link itself lies in a folder where that is allowed

    def test_a_rule_for_a_link_counts_for_that_way_too(self, jail: Jail) -> None:
        permissions = Permissions(login(rule("/named", "list")))
        jail.permissions = lambda: permissions
        with pytest.raises(NotAllowed):
            jail.open("/named/f", os.O_RDONLY, Right.READ)
        os.close(jail.open("/open/f", os.O_RDONLY, Right.READ))

    def test_a_home_that_was_moved_away_is_no_reason_to_allow(self, jail: Jail, tmp_path: Path) -> None:
        (tmp_path / "home" / "a" / "open").rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "x").mkdir()
        opened = os.open(tmp_path / "elsewhere", os.O_PATH)
        try:
            with pytest.raises(FileNotFoundError):
                jail.require(Right.READ, opened, "/open")
        finally:
            os.close(opened)


class TestMoving:
    @pytest.fixture
    def move(self, jail: Jail) -> Callable[..., None]:
        def attempt(source: str, target: str, *rules: dict[str, Any]) -> None:
            permissions = Permissions(login(*rules))
            jail.permissions = lambda: permissions
            rename(jail, source, target)

        return attempt

    def test_needs_every_rule_below_to_allow_it(self, move: Callable[..., None]) -> None:
        keep = rule("/open/deep/er", "list", "read", "write")
        with pytest.raises(NotAllowed):
            move("/open", "/other", keep)
        move("/open", "/other", rule("/open/deep/er", *ALL))

    def test_into_a_place_needs_every_rule_below_that_to_allow_it(self, move: Callable[..., None]) -> None:
        with pytest.raises(NotAllowed):
            move("/open", "/other", rule("/other/protected", "list", "read"))
        move("/open", "/another", rule("/other/protected", "list", "read"))

    def test_takes_delete_there_and_write_here(self, move: Callable[..., None]) -> None:
        with pytest.raises(NotAllowed, match="delete"):
            move("/open/f", "/g", rule("/open", "list", "read", "write", "overwrite"))
        with pytest.raises(NotAllowed, match="write"):
            move("/open/f", "/shut/g", rule("/shut", "list", "read", "delete", "overwrite"))
        with pytest.raises(NotAllowed, match="overwrite"):
            move("/open/f", "/shut/f", rule("/shut", "list", "read", "write", "delete"))
        move("/open/f", "/shut/f", rule("/shut", "overwrite"))

    def test_is_no_way_to_read(self, move: Callable[..., None]) -> None:
        with pytest.raises(NotAllowed, match="read"):
            move("/shut/f", "/open/g", rule("/shut", "list", "write", "delete"))
        move("/shut/f", "/shut/g", rule("/shut", "list", "write", "delete"))


NEEDED: dict[str, list[str]] = {
    # The command, and the rights in `/box` that it needs, all of them, and that are enough for it.
    "LIST /box": ["list"],
    "LIST /box/f": ["list"],
    "NLST /box": ["list"],
    "MLSD /box": ["list"],
    "MLST /box/f": ["list"],
    "STAT /box": ["list"],
    "STAT /box/f": ["list"],
    "RETR /box/f": ["read"],
    "SIZE /box/f": ["read"],
    "MDTM /box/f": ["read"],
    "STOR /box/new": ["write"],
    "APPE /box/new": ["write"],
    "STOU /box/unique": ["write"],
    "MKD /box/new": ["write"],
    "SITE CHMOD 600 /box/f": ["write"],
    "MFMT 20200101000000 /box/f": ["write"],
    "STOR /box/f": ["overwrite"],
    "APPE /box/f": ["overwrite"],
    "REST 1|STOR /box/f": ["overwrite"],
    "DELE /box/f": ["delete"],
    "RMD /box/d": ["delete"],
    "RNFR /box/f": ["delete"],
    "RNFR /box/f|RNTO /elsewhere/g": ["delete", "read"],
    "RNFR /elsewhere/f|RNTO /box/new": ["write"],
    "RNFR /elsewhere/f|RNTO /box/f": ["overwrite"],
    "CWD /box": [],
}
TRANSFERS = ("LIST", "NLST", "MLSD", "RETR", "STOR", "APPE", "STOU")


@pytest.mark.e2e
class TestCommands:
    @pytest.mark.parametrize("commands", list(NEEDED))
    def test_ask_for_their_right_and_no_other(self, server: Any, connect: Any, commands: str) -> None:
        account = server.account(permissions=[])
        enough = NEEDED[commands]
        for allow in [*([right for right in ALL if right != missing] for missing in enough), enough]:
            for name in ("box/d", "elsewhere"):
                (account.home / name).mkdir(parents=True, exist_ok=True)
            for name in ("box/f", "elsewhere/f"):
                (account.home / name).write_bytes(b"old")
            server.change(account, permissions=[rule("/box", *allow)])
            client = connect(server, account)
            client.voidcmd("TYPE I")
            if allow is enough:
                self.run(client, commands)
            else:
                with pytest.raises(ftplib.error_perm, match=r"55[03]"):
                    self.run(client, commands)
                assert (account.home / "box" / "f").read_bytes() == b"old"
                assert sorted(path.name for path in (account.home / "box").iterdir()) == ["d", "f"]

    def run(self, client: ftplib.FTP, commands: str) -> None:
        """One command after another, with data where it takes some."""
        for command in commands.split("|"):
            if command.startswith(TRANSFERS[4:]):
                client.storbinary(command, io.BytesIO(b"new"))
            elif command.startswith(TRANSFERS):
                client.retrbinary(command, lambda data: None)
            else:
                client.sendcmd(command)

    def test_a_refusal_names_the_right_and_the_folder(self, server: Any, raw: Any) -> None:
        account = server.account(permissions=[rule("/box", "list")])
        (account.home / "box").mkdir(parents=True)
        client = raw(server).login(account)
        client.ask("TYPE I")
        assert client.ask("SIZE /box/f") == "550 'read' is not allowed in /box.\r\n"
        assert client.ask("NOOP").startswith("200")

    def test_read_only_is_on_top(self, server: Any, connect: Any) -> None:
        account = server.account(permissions=[rule("/", *ALL)], read_only=True)
        client = connect(server, account)
        for command in ("MKD d", "DELE f", "RNFR f"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)

    def test_without_overwrite_a_file_that_came_meanwhile_stays(self, server: Any, connect: Any) -> None:
        account = server.account(permissions=[rule("/", "list", "read", "write", "delete")])
        client = connect(server, account)
        data = client.transfercmd("STOR f")
        data.sendall(b"slow")
        (account.home / "f").write_bytes(b"quick")
        data.close()
        with pytest.raises(ftplib.error_perm, match="553"):
            client.voidresp()
        assert (account.home / "f").read_bytes() == b"quick"

    def test_without_overwrite_a_broken_upload_goes_on_and_replaces_nothing(
        self, server: Any, connect: Any, until: Any
    ) -> None:
        account = server.account(permissions=[rule("/", "list", "read", "write")])
        client = connect(server, account)
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR f")
        data.sendall(b"half ")
        until(lambda: any(path.stat().st_size for path in account.home.iterdir()), "the data")
        client.close()
        data.close()
        until(lambda: any(path.name.endswith(".part") for path in account.home.iterdir()), "the end of the upload")
        client = connect(server, account)
        client.voidcmd("TYPE I")
        assert client.size("f") == 5
        data = client.transfercmd("STOR f", rest=5)
        data.sendall(b"whole")
        (account.home / "f").write_bytes(b"of the owner")
        data.close()
        with pytest.raises(ftplib.error_perm, match="553"):
            client.voidresp()
        assert (account.home / "f").read_bytes() == b"of the owner"

    def test_the_facts_of_a_listing_say_what_is_allowed(self, server: Any, connect: Any) -> None:
        account = server.account(permissions=[rule("/", *ALL), rule("/box", "list", "read")])
        client = connect(server, account)
        for folder in ("", "box"):
            (account.home / folder).mkdir(parents=True, exist_ok=True)
            (account.home / folder / "f").touch()
        facts = {folder: dict(client.mlsd(folder))["f"]["perm"] for folder in ("/", "/box")}
        assert set("adfrw") <= set(facts["/"])
        assert set(facts["/box"]) == {"r"}

    def test_listing_shows_nothing_of_what_a_link_leads_to(self, server: Any, connect: Any) -> None:
        account = server.account(permissions=[rule("/", "list", "read"), rule("/box")])
        client = connect(server, account)
        (account.home / "box").mkdir()
        (account.home / "box" / "secret").write_bytes(b"x" * 12345)
        (account.home / "link").symlink_to("box/secret")
        assert dict(client.mlsd("/"))["link"]["size"] != "12345"
        assert "12345" not in client.sendcmd("MLST link")

    def test_a_link_exchanged_before_the_listing_begins_is_refused(self, server: Any, raw: Any) -> None:
        account = server.account(permissions=[rule("/shut")])
        for name in ("open", "shut"):
            (account.home / name).mkdir(parents=True)
        (account.home / "shut" / "secret").touch()
        (account.home / "link").symlink_to("open")
        client = raw(server).login(account)
        port = int(client.ask("EPSV").split("|")[3])
        assert client.ask("LIST /link").startswith("150")
        (account.home / "link").unlink()
        (account.home / "link").symlink_to("shut")
        with socket.create_connection(("127.0.0.1", port)) as data:
            assert client.reply().startswith("451")
            assert data.recv(1000) == b""
        assert client.ask("NOOP").startswith("200")
        assert "Traceback" not in server.log
