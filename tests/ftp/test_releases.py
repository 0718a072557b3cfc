"""A folder is staged, published, rolled back; and what a crash leaves in between is put in order."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wsp.errors import Conflict, Invalid, NotFound
from wsp.ftp import trees
from wsp.ftp.jail import Jail
from wsp.ftp.ownership import Owner
from wsp.ftp.releases import Releases
from wsp.homes import open_home

NOON = datetime(2026, 5, 18, 12, tzinfo=UTC)

Make = Callable[..., Releases]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "files" / "home" / "ann"
    home.mkdir(parents=True)
    return home


@pytest.fixture
def make(home: Path, tmp_path: Path) -> Iterator[Make]:
    jails: list[Jail] = []

    def make(account: str = "ann_deploy", path: str = "/site", folder: str = "/") -> Releases:
        jails.append(Jail(open_home(tmp_path / "files", "/home/ann"), str(home), folder))
        return Releases(jails[-1], account, path)

    yield make
    for jail in jails:
        jail.close()


@pytest.fixture
def site(home: Path) -> Path:
    site = home / "site"
    (site / "deep" / "er").mkdir(parents=True)
    (site / "index.html").write_text("one")
    (site / "deep" / "er" / "page").write_bytes(os.urandom(3_000_000))
    (site / "empty").touch()
    (site / "link").symlink_to("deep/er/page")
    (site / "shared").symlink_to("../shared")
    (site / ".wsp-upload-00.part").write_text("somebody's")
    os.mkfifo(site / "fifo")
    (site / "index.html").chmod(0o640)
    (site / "deep").chmod(0o2750)
    os.utime(site / "index.html", (1_000_000_000, 1_000_000_000))
    os.utime(site / "deep", (1_100_000_000, 1_100_000_000))
    return site


def own_names(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if path.name.startswith(".wsp-"))


class TestStage:
    def test_is_a_true_copy(self, make: Make, home: Path, site: Path) -> None:
        staged = make().stage()
        copy = home / staged.name
        assert (staged.continued, staged.files, staged.bytes) == (False, 3, 3_000_003)
        assert (copy / "index.html").read_text() == "one"
        assert (copy / "deep" / "er" / "page").read_bytes() == (site / "deep" / "er" / "page").read_bytes()
        assert os.readlink(copy / "link") == "deep/er/page"
        assert os.readlink(copy / "shared") == "../shared"
        assert sorted(os.listdir(copy)) == ["deep", "empty", "index.html", "link", "shared"]
        for name in ("", "index.html", "deep", "deep/er"):
            then, now = (site / name).stat(), (copy / name).stat()
            assert (now.st_mode, now.st_uid, now.st_mtime_ns) == (then.st_mode, then.st_uid, then.st_mtime_ns), name
            assert now.st_ino != then.st_ino

    def test_changing_it_leaves_the_site_alone(self, make: Make, home: Path, site: Path) -> None:
        copy = home / make().stage().name
        (copy / "index.html").chmod(0o777)
        with (copy / "index.html").open("r+") as file:
            file.write("two")
        assert (site / "index.html").read_text() == "one"
        assert (site / "index.html").stat().st_mode & 0o777 == 0o640

    def test_extended_attributes_are_kept(self, make: Make, home: Path, site: Path) -> None:
        try:
            os.setxattr(site / "index.html", "user.note", b"mine")
        except OSError:
            pytest.skip("this file system has no extended attributes")
        assert os.getxattr(home / make().stage().name / "index.html", "user.note") == b"mine"

    def test_an_empty_one(self, make: Make, home: Path, site: Path) -> None:
        site.chmod(0o711)
        copy = home / make().stage(empty=True).name
        assert os.listdir(copy) == []
        assert copy.stat().st_mode & 0o777 == 0o711

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    @pytest.mark.parametrize("empty", [True, False])
    def test_of_a_new_folder_belongs_to_the_owner_of_new_files(self, home: Path, empty: bool) -> None:
        jail = Jail(os.open(home, os.O_PATH), str(home), owner=Owner(33, 34))
        staged = Releases(jail, "ann_deploy", "/new").stage(empty=empty)
        jail.close()
        found = (home / staged.name).stat()
        assert (found.st_uid, found.st_gid) == (33, 34)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_a_copy_never_runs_as_who_makes_it(self, home: Path, site: Path) -> None:
        for name, mode in (("user", 0o4755), ("group", 0o2755)):
            (site / name).write_bytes(b"")
            (site / name).chmod(mode)
        for path in (site, *(path for path in site.rglob("*") if not path.is_symlink())):
            path.chmod(path.stat().st_mode | 0o5)
        os.chown(home, 65534, 65534)
        program = (
            "import os, sys; from wsp.ftp.jail import Jail; from wsp.ftp.releases import Releases\n"
            "jail = Jail(os.open(sys.argv[1], os.O_PATH), sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"
            "print(Releases(jail, 'a', '/site').stage().name)"
        )
        done = subprocess.run([sys.executable, "-c", program, home], capture_output=True, text=True, check=True)
        staged = home / done.stdout.strip()
        assert {(staged / name).stat().st_uid for name in ("user", "group")} == {65534}
        assert {stat.S_IMODE((staged / name).stat().st_mode) for name in ("user", "group")} == {0o755}

    def test_goes_on_with_what_is_there(self, make: Make, home: Path, site: Path) -> None:
        first = make().stage()
        (home / first.name / "new").touch()
        again = make().stage(empty=True)
        assert (again.name, again.continued) == (first.name, True)
        assert (home / again.name / "new").exists()

    def test_each_account_has_its_own(self, make: Make, home: Path, site: Path) -> None:
        assert make("ann_a").stage().name != make("ann_b").stage().name

    def test_of_a_folder_that_is_not_there_yet(self, make: Make, home: Path) -> None:
        assert os.listdir(home / make().stage().name) == []
        assert not (home / "site").exists()

    @pytest.mark.parametrize("path", ["/", "/file", "/link"])
    def test_what_cannot_be_deployed(self, make: Make, home: Path, site: Path, path: str) -> None:
        (home / "file").touch()
        (home / "link").symlink_to("site")
        with pytest.raises(Invalid, match=r"home itself|is not a folder"):
            make(path=path).stage()
        assert own_names(home) == []

    def test_a_name_that_is_not_text(self, make: Make, home: Path) -> None:
        with pytest.raises(Invalid, match="UTF-8"):
            make(path=os.fsdecode(b"/\xff")).stage()

    def test_where_the_parent_is_missing(self, make: Make) -> None:
        with pytest.raises(FileNotFoundError):
            make(path="/sites/one").stage()

    def test_a_copy_that_was_stopped_leaves_nothing(self, make: Make, home: Path, site: Path) -> None:
        releases, copied = make(), []

        def stop(count: int) -> None:
            copied.append(count)
            if sum(copied) >= 3:
                raise InterruptedError("enough")

        with pytest.raises(InterruptedError):
            releases.stage(tell=stop)
        assert own_names(home) == []

    def test_a_copy_that_a_crash_left_is_removed_and_a_running_one_is_not(
        self, make: Make, home: Path, site: Path
    ) -> None:
        releases = make()
        (home / ".wsp-copy-1234-5678-abcd").mkdir()
        seen: list[list[str]] = []

        def look(_count: int) -> None:
            if not seen:
                other = make("ann_other")
                other.list()
                other.clean(keep=5)
                seen.append(own_names(home))

        name = releases.stage(tell=look).name
        (running,) = seen[0]
        assert running.startswith(".wsp-copy-")
        assert running != ".wsp-copy-1234-5678-abcd"
        assert own_names(home) == [name]

    def test_two_sessions_at_once_share_one(self, make: Make, home: Path, site: Path) -> None:
        names: list[str] = []
        both = threading.Barrier(2)

        def stage(releases: Releases) -> None:
            both.wait(10)
            names.append(releases.stage().name)

        threads = [threading.Thread(target=stage, args=(make(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(names) == 2
        assert len(set(names)) == 1
        make().clean(keep=0)
        assert own_names(home) == names[:1]

    def test_no_descriptor_is_left_open(self, make: Make, site: Path) -> None:
        releases = make()
        before = len(os.listdir("/proc/self/fd"))
        releases.stage()
        releases.publish(now=NOON)
        releases.rollback(now=NOON)
        releases.clean(keep=0)
        with pytest.raises(Conflict):
            releases.discard()
        assert len(os.listdir("/proc/self/fd")) == before


class TestPublish:
    def test_puts_the_staging_in_the_place_of_the_site(self, make: Make, home: Path, site: Path) -> None:
        releases = make()
        (home / releases.stage().name / "index.html").write_text("two")
        assert releases.publish(now=NOON) == "20260518-120000-000"
        assert (site / "index.html").read_text() == "two"
        (name,) = own_names(home)
        assert (home / name / "index.html").read_text() == "one"
        assert not releases.is_staged()

    def test_for_the_first_time(self, make: Make, home: Path) -> None:
        releases = make()
        (home / releases.stage().name / "index.html").write_text("one")
        assert releases.publish(now=NOON) == ""
        assert (home / "site" / "index.html").read_text() == "one"
        assert own_names(home) == []

    def test_readers_find_the_old_or_the_new_one_at_any_time(self, make: Make, home: Path, site: Path) -> None:
        releases, wrong, done = make(), [], threading.Event()

        def read() -> None:
            while not done.is_set():
                try:
                    text = (site / "index.html").read_text()
                except OSError as error:
                    wrong.append(repr(error))
                    return
                if text not in ("one", "two"):
                    wrong.append(text)

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(100):
            (home / releases.stage(empty=True).name / "index.html").write_text("two")
            releases.publish(now=NOON + timedelta(seconds=number))
        done.set()
        reader.join(10)
        assert wrong == []

    def test_without_a_staging(self, make: Make, site: Path) -> None:
        with pytest.raises(Conflict, match="Nothing is staged for /site by this account"):
            make().publish(now=NOON)

    def test_the_last_of_two_accounts_wins_and_each_former_state_is_kept(
        self, make: Make, home: Path, site: Path
    ) -> None:
        for account in ("ann_a", "ann_b"):
            (home / make(account).stage().name / "index.html").write_text(account)
        make("ann_a").publish(now=NOON)
        make("ann_b").publish(now=NOON)  # in the same millisecond
        assert (site / "index.html").read_text() == "ann_b"
        kept = make().list()
        assert [release.id for release in kept] == ["20260518-120000-001", "20260518-120000-000"]
        assert kept[1].until == NOON

    def test_not_over_a_file(self, make: Make, home: Path) -> None:
        releases = make()
        name = releases.stage().name
        (home / "site").touch()
        with pytest.raises(Invalid, match="/site is not a folder"):
            releases.publish(now=NOON)
        assert own_names(home) == [name]

    @pytest.mark.parametrize("after_exchange", [False, True])
    def test_a_crash_in_the_middle(
        self, make: Make, home: Path, site: Path, monkeypatch: pytest.MonkeyPatch, after_exchange: bool
    ) -> None:
        class Crash(BaseException):
            """Ends the process as far as the code can tell: nothing catches it."""

        releases = make()
        name = releases.stage().name
        (home / name / "index.html").write_text("two")
        step = "_keep_as_release" if after_exchange else "_take_place"
        with monkeypatch.context() as patch:
            patch.setattr(Releases, step, lambda *_: (_ for _ in ()).throw(Crash))
            with pytest.raises(Crash):
                releases.publish(now=NOON)
        assert (site / "index.html").read_text() == ("two" if after_exchange else "one")
        assert len(releases.list()) == after_exchange
        assert releases.is_staged() is not after_exchange
        if not after_exchange:
            releases.publish(now=NOON)
        assert (site / "index.html").read_text() == "two"
        (former,) = own_names(home)
        assert (home / former / "index.html").read_text() == "one"

    def test_a_file_system_that_cannot_exchange(
        self, make: Make, home: Path, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        releases = make()
        name = releases.stage().name
        monkeypatch.setattr(trees, "_EXCHANGE", 0x80)  # the kernel knows no such flag: EINVAL
        with pytest.raises(OSError, match="cannot exchange two folders"):
            releases.publish(now=NOON)
        assert own_names(home) == [name]


class TestRollback:
    @pytest.fixture
    def three(self, make: Make, home: Path, site: Path) -> Releases:
        """A site that was `one`, then `two`, and is `three`."""
        releases = make()
        for number, text in enumerate(("two", "three")):
            (home / releases.stage().name / "index.html").write_text(text)
            releases.publish(now=NOON + timedelta(seconds=number))
        return releases

    def test_to_the_latest_and_back(self, three: Releases, site: Path) -> None:
        restored, former = three.rollback(now=NOON + timedelta(seconds=5))
        assert (restored, former) == ("20260518-120001-000", "20260518-120005-000")
        assert (site / "index.html").read_text() == "two"
        three.rollback(now=NOON + timedelta(seconds=6))
        assert (site / "index.html").read_text() == "three"

    def test_to_one_by_its_name(self, three: Releases, site: Path) -> None:
        three.rollback("20260518-120000-000", now=NOON + timedelta(seconds=5))
        assert (site / "index.html").read_text() == "one"
        assert [release.id for release in three.list()] == ["20260518-120005-000", "20260518-120001-000"]

    def test_when_the_site_is_gone(self, three: Releases, home: Path, site: Path) -> None:
        site.rename(home / "away")
        assert three.rollback(now=NOON) == ("20260518-120001-000", "")
        assert (site / "index.html").read_text() == "two"

    def test_to_what_is_not_there(self, three: Releases, make: Make) -> None:
        with pytest.raises(NotFound, match="There is no release 20200101-000000-000 of /site"):
            three.rollback("20200101-000000-000", now=NOON)
        with pytest.raises(NotFound, match="There is no former release of /other"):
            make(path="/other").rollback(now=NOON)

    def test_one_is_forgotten_or_all(self, three: Releases, home: Path) -> None:
        assert three.forget("20260518-120000-000") == 1
        with pytest.raises(NotFound):
            three.forget("20260518-120000-000")
        assert [release.id for release in three.list()] == ["20260518-120001-000"]
        assert three.forget() == 1
        three.clean(keep=5)
        assert own_names(home) == []

    def test_the_last_ones_are_kept(self, three: Releases, home: Path) -> None:
        three.clean(keep=2)
        assert len(three.list()) == 2
        three.clean(keep=1)
        assert [release.id for release in three.list()] == ["20260518-120001-000"]
        three.clean(keep=0)
        assert three.list() == []
        assert own_names(home) == []


class TestNarrowed:
    def test_the_folder_of_a_narrowed_jail_is_deployed_beside_itself(self, make: Make, home: Path, site: Path) -> None:
        narrow = make(path="/", folder="/site")
        (home / narrow.stage().name / "index.html").write_text("two")
        narrow.publish(now=NOON)
        assert (site / "index.html").read_text() == "two"
        assert [release.id for release in make().list()] == ["20260518-120000-000"]
