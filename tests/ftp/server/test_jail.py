"""Nothing leads out of the home, with openat2 and without."""

import ftplib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsp.ftp.jail import Jail
from wsp.homes import HOME_MODE, make_home, open_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "files" / "home" / "admin"
    (home / "www" / "deep").mkdir(parents=True)
    (home / "www" / "page").write_text("page")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("key")
    (home / "inside").symlink_to("www")
    (home / "www" / "deep" / "up").symlink_to("../page")
    (home / "absolute").symlink_to(home / "www")
    (home / "out").symlink_to(tmp_path / "secret")
    (home / "www" / "climb").symlink_to("../../../../secret")
    (home / "around").symlink_to(f"../{home.name}/www")
    (home / "loop").symlink_to("loop")
    (home / "dangling").symlink_to("www/new")
    return home


@pytest.fixture(params=["openat2", "walk"])
def jail(request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jail]:
    if request.param == "openat2" and not Jail.use_openat2:
        pytest.skip("this kernel has no openat2")
    monkeypatch.setattr(Jail, "use_openat2", request.param == "openat2")
    jail = Jail(open_home(tmp_path / "files", "/home/admin"), str(home))
    yield jail
    jail.close()


def read(jail: Jail, path: str) -> str:
    with os.fdopen(jail.open(path, os.O_RDONLY)) as file:
        return file.read()


class TestOpen:
    @pytest.mark.parametrize("path", ["/www/page", "/inside/page", "/www/deep/up", "/absolute/page", "/inside/deep/up"])
    def test_links_that_stay_inside_are_followed(self, jail: Jail, path: str) -> None:
        assert read(jail, path) == "page"

    @pytest.mark.parametrize("path", ["/out/key", "/www/climb/key", "/around/page", "/inside/climb/key", "/loop"])
    def test_links_that_lead_out_are_refused(self, jail: Jail, path: str) -> None:
        with pytest.raises(OSError, match=r"out of the home|symbolic links"):
            jail.open(path, os.O_RDONLY)
        with pytest.raises(OSError, match=r"out of the home|symbolic links"):
            jail.stat(path)

    def test_the_home_itself(self, jail: Jail) -> None:
        assert jail.stat("/").st_ino == jail.lstat("/").st_ino
        os.close(jail.open_folder("/"))

    def test_a_link_inside_proc_is_not_a_way_out(self, jail: Jail, home: Path) -> None:
        (home / "magic").symlink_to("/proc/self/root/etc/passwd")
        with pytest.raises(OSError, match="out of the home"):
            jail.open("/magic", os.O_RDONLY)


class TestChange:
    def test_no_operation_reaches_through_a_link_that_leads_out(self, jail: Jail, tmp_path: Path) -> None:
        before = sorted((tmp_path / "secret").iterdir())
        attempts: list[Callable[[], object]] = [
            lambda: jail.mkdir("/out/d"),
            lambda: jail.rmdir("/out/d"),
            lambda: jail.parent("/out/key").__enter__(),
            lambda: jail.chmod("/out/key", 0o777),
            lambda: jail.utime("/out/key", 0),
            lambda: jail.readlink("/out/key"),
            lambda: jail.target("/out/new"),
            lambda: jail.target("/out"),
        ]
        for attempt in attempts:
            with pytest.raises(OSError, match=r".*"):
                attempt()
        assert sorted((tmp_path / "secret").iterdir()) == before
        assert (tmp_path / "secret" / "key").stat().st_mode & 0o777 != 0o777

    def test_the_target_of_a_link_is_where_a_new_file_goes(self, jail: Jail, home: Path) -> None:
        place = jail.target("/dangling")
        assert place.name == "new"
        assert os.fstat(place.folder).st_ino == (home / "www").stat().st_ino
        os.close(place.folder)

    def test_the_place_of_a_link_is_its_own(self, jail: Jail, home: Path) -> None:
        with jail.parent("/out") as (folder, name):
            assert os.readlink(name, dir_fd=folder).endswith("secret")

    def test_no_descriptor_is_left_open(self, jail: Jail) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for path in ("/www/page", "/out/key", "/absolute/page", "/around/page", "/loop", "/missing/x", "/dangling"):
            for attempt in (jail.stat, jail.lstat, jail.readlink, jail.mkdir):
                try:
                    attempt(path)
                except OSError:
                    continue
        assert len(os.listdir("/proc/self/fd")) == before


class TestOpenHome:
    def test_makes_it_and_opens_that_very_folder(self, tmp_path: Path) -> None:
        home = tmp_path / "files" / "home" / "admin" / "example.com"
        for _ in range(2):
            opened = open_home(tmp_path / "files", "/home/admin/example.com")
            try:
                assert os.path.samestat(os.fstat(opened), home.stat())
            finally:
                os.close(opened)
        assert make_home(tmp_path / "files", "/home/admin/example.com") == home
        assert home.stat().st_mode & 0o777 & ~HOME_MODE == 0

    def test_whoever_has_a_home_can_get_to_it(self, tmp_path: Path) -> None:
        previous = os.umask(0o022)
        try:
            home = make_home(tmp_path / "files", "/home/admin")
        finally:
            os.umask(previous)
        assert home.parent.stat().st_mode & 0o777 == 0o711
        assert home.stat().st_mode & 0o777 == 0o750

    def test_a_link_on_the_way_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        (tmp_path / "elsewhere" / "admin").mkdir(parents=True)
        (tmp_path / "files" / "home").symlink_to(tmp_path / "elsewhere")
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            open_home(tmp_path / "files", "/home/admin")
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.e2e
class TestSession:
    def test_cannot_leave(self, server: Any, connect: Any, put: Any, tmp_path: Path) -> None:
        account = server.account()
        client = connect(server, account)
        (tmp_path / "key").write_text("key")
        (account.home / "out").symlink_to(tmp_path)
        (account.home / "file").symlink_to(tmp_path / "key")
        assert client.cwd("../../..") == '250 "/" is the current directory.'
        names = [name for name, _ in client.mlsd()]
        assert sorted(names) == ["file", "out"]
        lines: list[str] = []
        client.dir(lines.append)
        assert len(lines) == 2
        for command in ("CWD out", "RETR file", "RETR out/key", "DELE out/key", "MKD out/d", "SITE CHMOD 777 file"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.transfercmd(command) if command.startswith("RETR") else client.sendcmd(command)
        for name in ("out/new", "file", "out"):
            with pytest.raises(ftplib.error_perm, match="55"):
                put(client, name, b"overwritten")
        assert (tmp_path / "key").read_text() == "key"
        assert sorted(os.listdir(tmp_path)) == ["key"]
        # The process never changes its directory.
        assert os.readlink(f"/proc/{server.processes[0].pid}/cwd") == str(server.folder)
