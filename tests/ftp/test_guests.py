"""Scores and bans, on both stores."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from wsp import epochs
from wsp.database import Database
from wsp.errors import NotFound
from wsp.ftp import guests
from wsp.ftp.guests import Attempt, BanRules
from wsp.ftp.models import Guest
from wsp.paging import Page

NOW = datetime(2026, 5, 18, 12, tzinfo=UTC)
RULES = BanRules(failures=4, seconds=300)
HERE = "203.0.113.7"


def fail(
    database: Database, times: int = 1, *, address: str = HERE, account: str = "", now: datetime = NOW
) -> list[str]:
    """Note failures one by one; the subjects that were banned for them."""
    banned: list[str] = []
    for _ in range(times):
        with database.transaction() as session:
            banned += guests.note_attempts(session, [Attempt(address, account, succeeded=False)], RULES, now)
    return banned


def succeed(database: Database, account: str, *, address: str = HERE, now: datetime = NOW) -> None:
    with database.transaction() as session:
        guests.note_attempts(session, [Attempt(address, account, succeeded=True)], RULES, now)


def score(database: Database, subject: str, kind: str = guests.ADDRESS, *, now: datetime = NOW) -> float | None:
    with database.reading() as session:
        guest = session.get(Guest, (kind, subject))
        return None if guest is None else guests.score_at(guest, now)


def ban_of(database: Database, address: str = HERE, *, now: datetime = NOW) -> timedelta | None:
    with database.reading() as session:
        until = guests.banned_until(session, address, now)
    return None if until is None else until - now


def bans_epoch(database: Database) -> int:
    with database.reading() as session:
        return epochs.current(session)["bans"]


class TestNoteAttempts:
    def test_one_failure_too_many_bans_the_address_and_moves_the_epoch(self, database: Database) -> None:
        before = bans_epoch(database)
        assert fail(database, 3, account="ann_web") == []
        assert ban_of(database) is None
        assert bans_epoch(database) == before
        assert fail(database, account="ann_web") == [HERE]
        assert ban_of(database) == timedelta(seconds=300)
        assert bans_epoch(database) == before + 1
        with database.reading() as session:
            (ban,), total = guests.list_bans(session, Page(), NOW)
        assert (ban.subject, ban.bans, ban.banned_at, total) == (HERE, 1, NOW, 1)
        assert ban.reason == "4 failed logins, the last one for the account ann_web"

    def test_half_of_a_score_is_forgotten_in_ten_minutes(self, database: Database) -> None:
        fail(database, 3)
        later = NOW + timedelta(minutes=10)
        assert score(database, HERE, now=later) == pytest.approx(1.5)
        assert fail(database, 2, now=later) == [HERE]  # 3.5 rounds up: what decays in a minute is no excuse
        assert ban_of(database, now=later) is not None

    def test_failures_during_a_ban_do_not_lengthen_it(self, database: Database) -> None:
        fail(database, 4)
        assert fail(database, 20, now=NOW + timedelta(seconds=10)) == []
        assert ban_of(database) == timedelta(seconds=300)

    def test_each_further_ban_is_twice_as_long_up_to_a_week(self, database: Database) -> None:
        now, lengths = NOW, []
        for _ in range(14):
            assert fail(database, 4, now=now) == [HERE]
            lengths.append(ban_of(database, now=now))
            now += lengths[-1] or timedelta()
        minutes = [length.total_seconds() / 60 for length in lengths if length]
        assert minutes[:4] == [5, 10, 20, 40]
        assert minutes[-2:] == [7 * 24 * 60] * 2

    def test_a_long_good_while_makes_the_next_ban_a_first_one(self, database: Database) -> None:
        fail(database, 4)
        fail(database, 4, now=NOW + timedelta(minutes=5))
        later = NOW + timedelta(days=8)
        fail(database, 4, now=later)
        assert ban_of(database, now=later) == timedelta(minutes=5)

    def test_no_setting_makes_a_ban_longer_than_a_date_can_be(self, database: Database) -> None:
        with database.transaction() as session:
            attempt = Attempt(HERE, "", succeeded=False)
            guests.note_attempts(session, [attempt], BanRules(failures=1, seconds=10**12), NOW)
        assert ban_of(database) == timedelta(days=7)

    def test_a_right_password_takes_back_what_was_wrong_on_the_same_account(self, database: Database) -> None:
        fail(database, 2, account="ann_web")
        fail(database, 1, account="bob_web")
        succeed(database, "ann_web")
        assert score(database, HERE) == pytest.approx(1)
        assert score(database, "ann_web", guests.ACCOUNT) == pytest.approx(0)
        # Somebody with an account of their own does not buy guesses at others with it.
        succeed(database, "ann_web")
        assert score(database, HERE) == pytest.approx(1)

    def test_a_success_with_nothing_to_take_back_writes_nothing(self, database: Database) -> None:
        attempts = [Attempt(HERE, "ann_web", succeeded=True)]
        fail(database, address="198.51.100.1", account="ann_web")
        with database.reading() as session:
            assert not guests.takes_back(session, attempts)
        succeed(database, "ann_web")
        assert score(database, HERE) is None

    def test_attempts_that_come_together_count_in_their_order(self, database: Database) -> None:
        wrong, right = Attempt(HERE, "ann_web", succeeded=False), Attempt(HERE, "ann_web", succeeded=True)
        with database.transaction() as session:
            assert guests.note_attempts(session, [wrong, wrong, right, wrong, right, wrong], RULES, NOW) == []
        assert score(database, HERE) == pytest.approx(1)
        with database.transaction() as session:
            assert guests.note_attempts(session, [wrong] * 5, RULES, NOW) == [HERE]

    def test_an_attacked_account_is_not_banned_but_its_attackers_are_sooner(self, database: Database) -> None:
        for number in range(4):
            assert fail(database, 1, address=f"198.51.100.{number}", account="ann_web") == []
        assert fail(database, 1, account="ann_web") == []  # counts three
        assert fail(database, 1, account="ann_web") == [HERE]
        assert fail(database, 1, address="192.0.2.1", account="bob_web") == []
        assert score(database, "192.0.2.1") == pytest.approx(1)
        with database.reading() as session:
            assert set(guests.bans_in_force(session, NOW)) == {HERE}

    def test_ipv6_is_scored_by_network_and_mapped_ipv4_as_ipv4(self, database: Database) -> None:
        fail(database, 3, address="2001:db8:1:2::1")
        assert fail(database, 1, address="2001:db8:1:2:ffff::9") == ["2001:db8:1:2::/64"]
        assert ban_of(database, "2001:db8:1:2::77") is not None
        assert ban_of(database, "2001:db8:1:3::1") is None
        fail(database, 3, address="::ffff:192.0.2.1")
        assert fail(database, 1, address="192.0.2.1") == ["192.0.2.1"]

    def test_many_processes_at_once_lose_no_failure(self, database: Database) -> None:
        def attack(number: int) -> None:
            for turn in range(10):
                address = f"198.51.100.{(number + turn) % 4}"
                with database.transaction() as session:
                    attempts = [Attempt(address, name, succeeded=False) for name in ("ann_web", "bob_web")]
                    guests.note_attempts(session, attempts, BanRules(10_000, 1), NOW)

        threads = [threading.Thread(target=attack, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert score(database, "ann_web", guests.ACCOUNT) == pytest.approx(40)
        assert sum(score(database, f"198.51.100.{n}") or 0 for n in range(4)) == pytest.approx(80)


class TestLiftBan:
    def test_the_ban_and_the_score_are_gone(self, database: Database) -> None:
        fail(database, 4, account="ann_web")
        fail(database, 4, address="203.0.113.70", account="ann_web")
        before = bans_epoch(database)
        with database.transaction() as session:
            guests.lift_ban(session, HERE, NOW)
        assert bans_epoch(database) == before + 1
        assert ban_of(database) is None
        assert score(database, HERE) is None
        assert score(database, f"{HERE} ann_web", guests.PAIR) is None
        assert ban_of(database, "203.0.113.70") is not None
        assert score(database, "203.0.113.70 ann_web", guests.PAIR) is not None

    def test_without_a_ban_there_is_nothing_to_lift(self, database: Database) -> None:
        fail(database, 4)
        with database.transaction() as session, pytest.raises(NotFound):
            guests.lift_ban(session, "192.0.2.1", NOW)
        with database.transaction() as session, pytest.raises(NotFound):
            guests.lift_ban(session, HERE, NOW + timedelta(hours=1))


class TestForget:
    def test_what_has_decayed_goes_and_bans_stay_remembered_for_a_week(self, database: Database) -> None:
        fail(database, 4)
        fail(database, 1, address="192.0.2.1")

        def left(now: datetime) -> set[str]:
            with database.transaction() as session:
                guests.forget(session, now)
                return {guest.subject for guest in session.query(Guest)}

        assert left(NOW + timedelta(hours=1)) == {HERE, "192.0.2.1"}
        assert left(NOW + timedelta(hours=3)) == {HERE}
        assert left(NOW + timedelta(days=7)) == {HERE}
        assert left(NOW + timedelta(days=7, minutes=6)) == set()
