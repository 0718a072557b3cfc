"""What counts in a folder, and what does not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsp.ftp.counting import SLICE_ENTRIES, Figure, count


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def root(home: Path) -> Iterator[int]:
    opened = os.open(home, os.O_PATH | os.O_DIRECTORY)
    yield opened
    os.close(opened)


class TestCount:
    def test_regular_files_count_under_each_of_their_names(self, home: Path, root: int) -> None:
        assert count(root) == Figure(0, 0)
        (home / "a" / "b").mkdir(parents=True)
        (home / "one").write_bytes(b"x" * 10)
        (home / "a" / "b" / "two").write_bytes(b"x" * 5)
        (home / "a" / "empty").touch()
        os.link(home / "one", home / "a" / "again")
        os.mkfifo(home / "fifo")
        assert count(root) == Figure(25, 4)

    def test_the_servers_own_files_have_bytes_alone(self, home: Path, root: int) -> None:
        (home / ".wsp-upload-ab.part").write_bytes(b"x" * 7)
        (home / ".wsp-upload-cd.tmp").write_bytes(b"x" * 100)
        assert count(root) == Figure(107, 0)
        assert count(root, counts=lambda folder, name: name.endswith(".part")) == Figure(7, 0)

    def test_no_link_is_followed(self, home: Path, root: int, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "big").write_bytes(b"x" * 1000)
        (home / "folder").symlink_to(tmp_path / "outside")
        (home / "file").symlink_to(tmp_path / "outside" / "big")
        (home / "loop").symlink_to(".")
        assert count(root) == Figure(0, 0)

    def test_a_folder_swapped_for_a_link_meanwhile_is_passed_over(self, home: Path, root: int, tmp_path: Path) -> None:
        outside = tmp_path / "outside" / "deep"
        outside.mkdir(parents=True)
        (outside / "big").write_bytes(b"x" * 1000)
        (home / "a" / "deep").mkdir(parents=True)
        for number in range(SLICE_ENTRIES):
            (home / "a" / f"{number}").touch()

        def swap() -> None:
            (home / "a").rename(tmp_path / "moved")
            (home / "a").symlink_to(tmp_path / "outside")

        # The names of `a` are being read; its folder `deep` is opened by its path after that.
        assert count(root, rest=swap) == Figure(0, SLICE_ENTRIES)

    def test_names_that_are_not_text(self, home: Path, root: int) -> None:
        folder = os.fsencode(home) + b"/\xff\n"
        os.mkdir(folder)
        with open(folder + b"/\xfe", "wb") as file:
            file.write(b"abc")
        assert count(root) == Figure(3, 1)

    def test_a_long_way_down(self, home: Path, root: int) -> None:
        folder = os.open(home, os.O_PATH)
        for _ in range(300):
            os.mkdir("deep", dir_fd=folder)
            deeper = os.open("deep", os.O_PATH, dir_fd=folder)
            os.close(folder)
            folder = deeper
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
        os.close(folder)
        before = len(os.listdir("/proc/self/fd"))
        assert count(root) == Figure(0, 1)
        assert len(os.listdir("/proc/self/fd")) == before
