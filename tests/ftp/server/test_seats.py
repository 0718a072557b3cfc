"""Sessions counted over all processes of the machine."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from wsp.ftp.server.seats import Seats
from wsp.ftp.server.shared import WorkerNumber

OTHER = """
import sys
from pathlib import Path
from wsp.ftp.server.seats import Seats
from wsp.ftp.server.shared import WorkerNumber
folder = Path(sys.argv[1])
seats = Seats(folder, WorkerNumber(folder), 4)
for _ in range(3):
    seats.sit(seats.take("192.0.2.1", 4), "ann_web", 0)
print("seated", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Seats]]:
    """Makes the seats as one more process of the machine has them."""
    made: list[tuple[Seats, WorkerNumber]] = []

    def make(number: int = 4) -> Seats:
        worker = WorkerNumber(tmp_path)
        made.append((Seats(tmp_path, worker, number), worker))
        return made[-1][0]

    yield make
    for seats, worker in made:
        seats.close()
        worker.release()


def taken(seats: Seats, address: str = "192.0.2.1", limit: int = 0) -> int:
    place = seats.take(address, limit)
    assert place is not None
    return place


class TestTake:
    def test_there_are_as_many_as_there_are(self, process: Callable[..., Seats]) -> None:
        one, other = process(), process()
        places = [taken(one), taken(other), taken(one), taken(other)]
        assert len(set(places)) == 4
        assert one.is_full()
        assert one.take("192.0.2.1", 0) is None
        assert other.take("192.0.2.1", 0) is None
        one.leave(places[0])
        assert taken(other) == places[0]

    def test_an_address_has_its_limit_over_all_processes(self, process: Callable[..., Seats]) -> None:
        one, other = process(), process()
        first = taken(one, limit=2)
        taken(other, limit=2)
        assert one.take("192.0.2.1", 2) is None
        assert other.take("192.0.2.1", 2) is None
        assert not one.is_full()
        taken(one, "192.0.2.2", limit=2)
        one.leave(first)
        taken(other, limit=2)

    def test_what_is_not_limited_is_not_counted(self, process: Callable[..., Seats]) -> None:
        seats = process()
        taken(seats, limit=0)
        taken(seats, limit=0)
        taken(seats, limit=1)


class TestSit:
    def test_an_account_has_its_limit_over_all_processes(self, process: Callable[..., Seats]) -> None:
        one, other = process(), process()
        first, second, third = taken(one), taken(other), taken(one)
        assert one.sit(first, "ann_web", 2)
        assert other.sit(second, "ann_web", 0)  # no limit for it, but it counts for others
        assert not one.sit(third, "ann_web", 2)
        assert one.sit(third, "bob_web", 2)
        one.stand(first)
        assert one.sit(first, "ann_web", 2)
        other.leave(second)
        assert one.sit(third, "ann_web", 2)

    def test_logging_in_again_on_the_same_seat_is_no_second_session(self, process: Callable[..., Seats]) -> None:
        seats = process()
        place = taken(seats)
        assert seats.sit(place, "ann_web", 1)
        assert seats.sit(place, "ann_web", 1)

    def test_simultaneous_logins_are_counted_exactly(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(4) as pool:
            seated = pool.map(_sit_at_once, [str(tmp_path)] * 4)
        assert sum(seated) == 50


def _sit_at_once(folder: str) -> int:
    seats = Seats(Path(folder), WorkerNumber(Path(folder)), 1000)
    places = [taken(seats) for _ in range(100)]
    return sum(seats.sit(place, "ann_web", 50) for place in places)


class TestDeadProcess:
    def test_its_seats_are_given_back_when_they_are_missed(self, process: Callable[..., Seats], tmp_path: Path) -> None:
        with Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdin=PIPE, stdout=PIPE, text=True) as dying:
            assert dying.stdout is not None
            assert dying.stdout.readline() == "seated\n"
            seats = process()
            place = taken(seats)
            assert seats.is_full()
            assert seats.take("192.0.2.1", 0) is None
            assert not seats.sit(place, "ann_web", 3)
            os.kill(dying.pid, signal.SIGKILL)
            dying.wait()
        assert seats.sit(place, "ann_web", 3)
        assert [taken(seats) for _ in range(3)]
        assert seats.take("192.0.2.1", 0) is None

    def test_its_number_is_taken_over_without_its_seats(self, process: Callable[..., Seats], tmp_path: Path) -> None:
        with Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdin=PIPE, stdout=PIPE, text=True) as dying:
            assert dying.stdout is not None
            dying.stdout.readline()
            os.kill(dying.pid, signal.SIGKILL)
            dying.wait()
        seats = process()
        assert len([taken(seats, limit=4) for _ in range(4)]) == 4


class TestOpen:
    def test_another_number_of_seats_leaves_the_old_file_to_those_who_have_it(
        self, process: Callable[..., Seats]
    ) -> None:
        old = process(4)
        place = taken(old)
        new = process(2)
        assert [taken(new), taken(new)]
        assert new.is_full()
        assert not old.is_full()
        old.leave(place)
