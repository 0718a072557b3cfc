"""The figures of homes: limits, homes within homes, and counts while changes go on."""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wsp.ftp.counting import Figure
from wsp.ftp.jail import Place
from wsp.ftp.server.ledger import Effect, Ledger, QuotaExceeded
from wsp.ftp.server.shared import WorkerNumber
from wsp.ftp.server.tally import AHEAD_BYTES, Tally
from wsp.settings import MEBIBYTE

NOW = 1_800_000_000.0
HOME = "/home/ann"
INNER = "/home/ann/example.com"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files" / INNER.strip("/") / "www").mkdir(parents=True)
    return tmp_path / "files"


@pytest.fixture
def open_ledger(tmp_path: Path, files: Path) -> Iterator[Callable[[], Ledger]]:
    """Opens the ledger as one more process would. What is not closed has died."""
    opened: list[tuple[Ledger, WorkerNumber]] = []

    def new() -> Ledger:
        worker = WorkerNumber(tmp_path / "state")
        opened.append((Ledger(tmp_path / "state", worker, files, now=NOW), worker))
        return opened[-1][0]

    yield new
    for ledger, worker in opened:
        if not getattr(ledger, "died", False):
            worker.release()


@pytest.fixture
def ledger(open_ledger: Callable[[], Ledger]) -> Ledger:
    return open_ledger()


def die(ledger: Ledger) -> None:
    """The process is gone; what it had in memory is lost, its locks are let go."""
    ledger._worker.release()
    ledger.died = True  # type: ignore[attr-defined]


@pytest.fixture
def folder(files: Path) -> Iterator[Callable[[str], int]]:
    """Opens a folder below the files root."""
    opened: list[int] = []

    def new(name: str) -> int:
        opened.append(os.open(files / name.strip("/"), os.O_PATH))
        return opened[-1]

    yield new
    for descriptor in opened:
        os.close(descriptor)


def counted(ledger: Ledger, home: str, figure: Figure, *, now: float = NOW) -> bool:
    """A count that finds this figure."""
    record = ledger.track(home)
    began = ledger.begin_count(record)
    assert began is not None
    return ledger.end_count(record, began, figure, now=now, cost=0.0)


class TestRecords:
    def test_a_change_counts_for_every_home_above(self, ledger: Ledger, folder: Callable[[str], int]) -> None:
        outer, inner = ledger.track(HOME), ledger.track(INNER)
        assert ledger.records_of(folder(HOME)) == (outer,)
        assert ledger.records_of(folder(f"{INNER}/www")) == (outer, inner)

    def test_the_real_place_is_what_matters(self, ledger: Ledger, files: Path, folder: Callable[[str], int]) -> None:
        outer, inner = ledger.track(HOME), ledger.track(INNER)
        (files / "home/ann/link").symlink_to("example.com/www")
        assert ledger.records_of(folder(f"{HOME}/link")) == (outer, inner)

    def test_a_home_of_another_process_is_found(
        self, open_ledger: Callable[[], Ledger], folder: Callable[[str], int]
    ) -> None:
        one, other = open_ledger(), open_ledger()
        one.track(HOME)
        www = folder(f"{INNER}/www")
        assert [record.home for record in one.records_of(www)] == [HOME]
        other.track(INNER)
        assert [record.home for record in one.records_of(www)] == [HOME, INNER]


class TestCharge:
    def test_no_more_than_the_limit_over_all_processes(
        self, open_ledger: Callable[[], Ledger], folder: Callable[[str], int]
    ) -> None:
        tallies = [Tally(open_ledger(), HOME, lambda: 1) for _ in range(2)]
        uploads = [tally.charge(folder(HOME), credit=0) for tally in tallies for _ in range(4)]
        taken = 0
        for number in range(MEBIBYTE // 1000):
            uploads[number % len(uploads)].cover((number // len(uploads) + 1) * 1000)
            taken += 1000
        with pytest.raises(QuotaExceeded) as refused:
            uploads[0].cover(MEBIBYTE)
        assert MEBIBYTE - 1000 < taken <= MEBIBYTE
        assert (refused.value.limit, refused.value.used) == (MEBIBYTE, taken - taken // 8)

    def test_with_much_room_it_goes_ahead_of_what_arrives(self, ledger: Ledger, folder: Callable[[str], int]) -> None:
        tally = Tally(ledger, HOME, lambda: 1000)
        upload = tally.charge(folder(HOME), credit=0)
        upload.cover(10)
        assert ledger.figure(tally.record).used_bytes == 10 + AHEAD_BYTES
        upload.release()
        assert ledger.figure(tally.record).used_bytes == 0

    def test_the_limit_is_asked_each_time(self, ledger: Ledger, folder: Callable[[str], int]) -> None:
        quota = [2]
        upload = Tally(ledger, HOME, lambda: quota[0]).charge(folder(HOME), credit=0)
        upload.cover(MEBIBYTE)
        quota[0] = 1
        with pytest.raises(QuotaExceeded):
            upload.cover(MEBIBYTE + 1)
        quota[0] = 0
        upload.cover(5 * MEBIBYTE)

    def test_what_it_replaces_is_weighed_at_the_end(
        self, ledger: Ledger, files: Path, folder: Callable[[str], int]
    ) -> None:
        tally = Tally(ledger, HOME, lambda: 1)
        home, old = folder(HOME), files / "home/ann/file"
        old.write_bytes(b"x" * 900_000)
        counted(ledger, HOME, Figure(900_000, 1))
        upload = tally.charge(home, credit=900_000)
        upload.cover(900_000)
        old.write_bytes(b"x" * 10)  # it has become smaller meanwhile, and the room is taken
        counted(ledger, HOME, Figure(500_000, 1))
        with pytest.raises(QuotaExceeded), upload.settling(Place(home, "file"), 900_000):
            pytest.fail("it does not fit")
        upload.release()
        assert ledger.figure(tally.record) == Figure(500_000, 1)


class TestEndCount:
    def test_the_first_count_is_the_figure(self, ledger: Ledger) -> None:
        record = ledger.track(HOME)
        assert not ledger.is_known(record)
        assert counted(ledger, HOME, Figure(500, 5))
        assert ledger.is_known(record)
        assert ledger.figure(record) == Figure(500, 5)

    def test_a_count_in_peace_is_believed(self, ledger: Ledger) -> None:
        counted(ledger, HOME, Figure(500, 5))
        assert counted(ledger, HOME, Figure(900, 2))
        assert ledger.figure(ledger.track(HOME)) == Figure(900, 2)

    @pytest.mark.parametrize("saw_it", [True, False])
    def test_a_change_during_the_count_is_counted_once(self, ledger: Ledger, saw_it: bool) -> None:
        counted(ledger, HOME, Figure(500, 5))
        record = ledger.track(HOME)
        began = ledger.begin_count(record)
        assert began is not None
        with ledger.changing(Effect((record,), 100, 1)):
            pass
        seen = Figure(600, 6) if saw_it else Figure(500, 5)
        assert not ledger.end_count(record, began, seen, now=NOW, cost=0.0)
        assert ledger.figure(record) == Figure(600, 6)

    @pytest.mark.parametrize("saw_it", [True, False])
    def test_a_change_longer_than_the_count_is_counted_once(self, ledger: Ledger, saw_it: bool) -> None:
        counted(ledger, HOME, Figure(500, 5))
        record = ledger.track(HOME)
        with ledger.changing(Effect((record,), 100, 1)):
            assert not counted(ledger, HOME, Figure(600, 6) if saw_it else Figure(500, 5))
        assert ledger.figure(record) == Figure(600, 6)
        assert counted(ledger, HOME, Figure(600, 6))

    def test_a_home_that_never_rests_comes_near_the_truth(self, ledger: Ledger) -> None:
        counted(ledger, HOME, Figure(500, 5))
        record = ledger.track(HOME)
        true_bytes = 1_000_500  # somebody else has left a million bytes
        for _ in range(10):
            began = ledger.begin_count(record)
            assert began is not None
            with ledger.changing(Effect((record,), 100, 1)):
                true_bytes += 100
            with ledger.changing(Effect((record,), -100, -1)):
                true_bytes -= 100
            ledger.end_count(record, began, Figure(true_bytes, 5), now=NOW, cost=0.0)
        assert abs(ledger.figure(record).used_bytes - true_bytes) <= 200

    def test_a_change_that_failed_has_no_effect(self, ledger: Ledger) -> None:
        counted(ledger, HOME, Figure(500, 5))
        record = ledger.track(HOME)
        with pytest.raises(OSError, match="disk"), ledger.changing(Effect((record,), 100, 1)):
            raise OSError("disk")
        assert ledger.figure(record) == Figure(500, 5)
        assert counted(ledger, HOME, Figure(500, 5))

    def test_one_process_counts_at_a_time(self, open_ledger: Callable[[], Ledger]) -> None:
        one, other = open_ledger(), open_ledger()
        assert one.begin_count(one.track(HOME)) is not None
        assert other.begin_count(other.track(HOME)) is None
        die(one)
        assert other.begin_count(other.track(HOME)) is not None

    @pytest.mark.parametrize("seed", range(20))
    def test_whatever_the_order_no_count_makes_a_true_figure_wrong(self, ledger: Ledger, seed: int) -> None:
        """Files come, grow and go while they are counted one by one."""
        chance = random.Random(seed)
        record = ledger.track(HOME)
        sizes = {number: chance.randrange(1000) for number in range(30)}
        counted(ledger, HOME, Figure(sum(sizes.values()), len(sizes)))
        for _ in range(30):
            began = ledger.begin_count(record)
            assert began is not None
            seen_bytes = seen_files = 0
            for number in range(40):
                if number in sizes:
                    seen_bytes, seen_files = seen_bytes + sizes[number], seen_files + 1
                if chance.random() < 0.2:
                    changed = chance.randrange(40)
                    old, new = sizes.pop(changed, None), chance.choice([None, chance.randrange(1000)])
                    before = Figure(old or 0, old is not None)
                    after = Figure(new or 0, new is not None)
                    with ledger.changing(
                        Effect((record,), after.used_bytes, after.file_count),
                        Effect((record,), -before.used_bytes, -before.file_count),
                    ):
                        if new is not None:
                            sizes[changed] = new
            ledger.end_count(record, began, Figure(seen_bytes, seen_files), now=NOW, cost=0.0)
            assert ledger.figure(record) == Figure(sum(sizes.values()), len(sizes))


class TestCleanUp:
    def test_the_homes_of_a_dead_process_are_counted_and_its_uploads_forgotten(
        self, open_ledger: Callable[[], Ledger], folder: Callable[[str], int]
    ) -> None:
        dead, alive = open_ledger(), open_ledger()
        counted(alive, HOME, Figure(500, 5))
        ours = Tally(alive, HOME, lambda: 1).charge(folder(HOME), credit=0)
        ours.cover(100)
        Tally(dead, HOME, lambda: 1).charge(folder(HOME), credit=0).cover(1000)
        record = alive.track(HOME)
        assert alive.figure(record).used_bytes == 1600
        assert alive.clean_up() == []
        token = dead.books.token
        assert token in alive.books.live_tokens()
        die(dead)
        assert alive.clean_up() == [HOME]
        assert alive.figure(record).used_bytes == 600
        assert token not in alive.books.live_tokens()
        assert alive.clean_up() == []

    def test_a_change_that_a_dead_process_never_ended_disturbs_no_later_count(
        self, open_ledger: Callable[[], Ledger]
    ) -> None:
        dead, alive = open_ledger(), open_ledger()
        counted(alive, HOME, Figure(500, 5))
        change = dead.changing(Effect((dead.track(HOME),), 1000, 1))
        change.__enter__()
        die(dead)
        assert alive.clean_up() == [HOME]
        assert counted(alive, HOME, Figure(1500, 6))
        assert alive.figure(alive.track(HOME)) == Figure(1500, 6)

    def test_who_takes_the_number_of_a_dead_process_takes_over_from_it(self, open_ledger: Callable[[], Ledger]) -> None:
        dead = open_ledger()
        record = dead.track(HOME)
        with dead.changing(Effect((record,), 1000, 1)):
            pass
        die(dead)
        assert open_ledger().clean_up() == [HOME]

    def test_nothing_is_left_of_one_that_ended_well(self, open_ledger: Callable[[], Ledger], tmp_path: Path) -> None:
        ended = open_ledger()
        counted(ended, HOME, Figure(500, 5))
        ended.written(ended.take_changed())
        ended.end()
        assert not list((tmp_path / "state").glob("*.book"))
        die(ended)
        later = open_ledger()
        assert later.clean_up() == []
        assert later.figure(later.track(HOME)) == Figure(500, 5)

    def test_another_boot_of_the_machine_begins_anew(self, open_ledger: Callable[[], Ledger], tmp_path: Path) -> None:
        ended = open_ledger()
        counted(ended, HOME, Figure(500, 5))
        ended.end()
        die(ended)
        (tmp_path / "state" / "boot").write_text("another one")
        later = open_ledger()
        assert not later.is_known(later.track(HOME))
        assert later.made_at == NOW


class TestTally:
    def test_a_small_upload_costs_little(self, ledger: Ledger, files: Path, folder: Callable[[str], int]) -> None:
        tally = Tally(ledger, HOME, lambda: 1000)
        home = folder(HOME)

        def upload() -> None:
            charge = tally.charge(home, credit=0)
            charge.cover(4096)
            with charge.settling(Place(home, "file"), 4096):
                pass

        best = min(_seconds(upload) for _ in range(200))
        assert best < 0.001  # some 40 µs where nothing else runs

    def test_two_names_of_one_file_are_not_renamed(
        self, ledger: Ledger, files: Path, folder: Callable[[str], int]
    ) -> None:
        home = folder(HOME)
        (files / "home/ann/a").write_bytes(b"x" * 10)
        os.link(files / "home/ann/a", files / "home/ann/b")
        tally = Tally(ledger, HOME, lambda: 0)
        counted(ledger, HOME, Figure(20, 2))
        tally.rename(Place(home, "a"), Place(home, "b"))
        assert ledger.figure(tally.record) == Figure(20, 2)
        assert (files / "home/ann/a").exists()


def _seconds(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
