"""What interrupted uploads leave is kept as long as the setting says, and removed where nobody looks."""

import ftplib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsp.ftp.jail import Place
from wsp.ftp.server.leftovers import SWEEP_SECONDS, Leftovers

DAY = 86400.0

Break = Callable[..., None]


@pytest.fixture
def break_off(connect: Any) -> Break:
    """Begins an upload of 1,000 bytes and aborts it."""

    def upload(client: ftplib.FTP, name: str) -> None:
        client.voidcmd("TYPE I")
        data = client.transfercmd(f"STOR {name}")
        data.sendall(b"x" * 1000)
        client.sendcmd("NOOP")
        assert client.abort().startswith("426")
        client.voidresp()
        data.close()

    return upload


def unlink(place: Place) -> None:
    os.unlink(place.name, dir_fd=place.folder)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".wsp-"))


@pytest.mark.e2e
class TestSetting:
    def test_nothing_is_kept_when_it_says_none(self, new_server: Any, connect: Any, break_off: Break) -> None:
        server = new_server(WSP_FTP_KEEP_PARTIAL_HOURS="0").start()
        account = server.account()
        client = connect(server, account)
        break_off(client, "f")
        assert hidden(account.home) == []
        with pytest.raises(ftplib.error_perm, match="550"):
            client.size("f")
        with pytest.raises(ftplib.error_perm, match="554"):
            client.transfercmd("STOR f", rest=1000)

    def test_as_many_hours_as_it_says(self, new_server: Any, connect: Any, break_off: Break) -> None:
        server = new_server(WSP_FTP_KEEP_PARTIAL_HOURS="2").start()
        account = server.account()
        client = connect(server, account)
        break_off(client, "f")
        (left,) = hidden(account.home)
        for hours, size in ((1.9, 1000), (2.1, None)):
            then = time.time() - hours * 3600
            os.utime(account.home / left, (then, then))
            if size is None:
                with pytest.raises(ftplib.error_perm, match="550"):
                    client.size("f")
            else:
                assert client.size("f") == size
                assert client.nlst() == []
                assert hidden(account.home) == [left]
        client.nlst()
        assert hidden(account.home) == []

    def test_no_command_shows_it(self, server: Any, connect: Any, break_off: Break) -> None:
        account = server.account()
        client = connect(server, account)
        client.mkd("d")
        break_off(client, "d/f")
        (left,) = hidden(account.home / "d")
        lines: list[str] = []
        client.dir("d", lines.append)
        client.retrlines("MLSD d", lines.append)
        client.retrlines("NLST d", lines.append)
        lines += [client.sendcmd("MLST d"), client.sendcmd("STAT d")]
        assert left not in "\n".join(lines)
        for command in (f"MLST d/{left}", f"STAT d/{left}", f"SIZE d/{left}", f"HASH d/{left}", f"XCRC d/{left}"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        for command in ("NLST", "LIST", "RETR"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.transfercmd(f"{command} d/{left}")
        client.rmd("d")
        assert not (account.home / "d").exists()


@pytest.mark.e2e
class TestSweep:
    def test_after_a_restart_what_nobody_looked_at_is_removed(
        self, new_server: Any, connect: Any, break_off: Break, until: Any
    ) -> None:
        server = new_server().start()
        account = server.account()
        client = connect(server, account)
        (account.home / "public_html" / "a\nb").mkdir(parents=True)
        client.sendcmd("SITE STAGE public_html")
        break_off(client, "public_html/f")
        break_off(client, "f")
        server.processes[0].kill()
        server.processes[0].wait(10)
        parts = [*account.home.glob(".wsp-upload-*"), *account.home.glob(".wsp-staging-*/.wsp-upload-*")]
        assert len(parts) == 2
        for part in parts:
            os.utime(part, (0, 0))
        state = server.settings.data_dir / "ftp-state"
        for _ in range(2):  # what was noted is set aside first, and read an hour later
            os.utime(state / "sweep.lock", (0, 0))
            server.start().stop()
        until(lambda: not any(part.exists() for part in parts), seconds=5)


class TestNote:
    @pytest.fixture
    def files(self, tmp_path: Path) -> Path:
        files = tmp_path / "files"
        (files / "home" / "ann").mkdir(parents=True)
        return files

    @pytest.fixture
    def leftovers(self, files: Path, tmp_path: Path) -> Leftovers:
        return Leftovers(tmp_path / "state", files, DAY, unlink)

    def note(self, leftovers: Leftovers, folder: Path) -> None:
        opened = os.open(folder, os.O_PATH)
        leftovers.note(str(folder), opened)
        os.close(opened)

    def test_a_young_one_is_looked_at_again(self, leftovers: Leftovers, files: Path) -> None:
        home = files / "home" / "ann"
        part = home / ".wsp-upload-00.part"
        part.touch()
        other = home / "precious"
        other.touch()
        os.utime(other, (0, 0))
        self.note(leftovers, home)
        now = time.time()
        for hours in range(24):
            leftovers.sweep(now=now + hours * SWEEP_SECONDS)
            assert part.exists()
        leftovers.sweep(now=now + DAY + 2)
        leftovers.sweep(now=now + DAY + SWEEP_SECONDS + 2)
        assert not part.exists()
        assert other.exists()

    def test_one_of_an_upload_that_may_be_running_is_left_for_an_hour(self, files: Path, tmp_path: Path) -> None:
        leftovers = Leftovers(tmp_path / "state", files, 0, unlink)
        home = files / "home" / "ann"
        temporary, part = home / ".wsp-upload-00.11.tmp", home / ".wsp-upload-00.part"
        now = time.time()
        for path in (temporary, part):
            path.touch()
            os.utime(path, (now, now))
        self.note(leftovers, home)
        leftovers.sweep(now=now + 1)
        leftovers.sweep(now=now + 1 + SWEEP_SECONDS - 2)  # too soon after the last one: nothing happens
        assert part.exists()
        for path in (temporary, part):
            os.utime(path, (now + 3600, now + 3600))
        leftovers.sweep(now=now + 1 + SWEEP_SECONDS)
        assert temporary.exists()
        assert not part.exists()

    def test_folders_that_are_gone_or_outside_are_passed_over(
        self, leftovers: Leftovers, files: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "outside").mkdir()
        left = tmp_path / "outside" / ".wsp-upload-00.part"
        left.touch()
        os.utime(left, (0, 0))
        (files / "gone").mkdir()
        for folder in (files / "gone", tmp_path / "outside"):
            self.note(leftovers, folder)
        (files / "gone").rmdir()
        now = time.time()
        for hours in range(3):
            leftovers.sweep(now=now + hours * SWEEP_SECONDS)
        assert left.exists()

    def test_the_same_folder_is_noted_once(self, leftovers: Leftovers, files: Path, tmp_path: Path) -> None:
        for _ in range(100):
            self.note(leftovers, files / "home")
        assert len((tmp_path / "state" / "uploads").read_text().splitlines()) == 1
