"""When jobs are due next, after they were changed, and after the clock or the zone was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from wsp.cron.models import CronState
from wsp.cron.planning import arming, timetable
from wsp.cron.schedule.expression import Schedule, parse

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore, Planning

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DEADLINE_SECONDS = 60.0


class TestArm:
    def test_a_new_job_is_due_from_when_it_was_made(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(cron_expr="30 13 * * *", due_from=NOON)
        assert planning.arm(NOON) == [job_id]
        job = jobs.job(job_id)
        assert job.next_run_at == NOON + 1.5 * HOUR
        assert (job.revision, job.armed_revision) == (1, 1)
        assert job.updated_at == job.created_at
        assert planning.arm(NOON) == []

    def test_what_came_due_before_it_was_armed_is_not_lost(self, jobs: JobStore, planning: Planning) -> None:
        jobs.add(due_from=NOON - timedelta(milliseconds=50))
        planning.arm(NOON + timedelta(milliseconds=50))
        [run] = planning.plan(NOON + timedelta(milliseconds=60)).runs
        assert (run.scheduled_for, run.trigger) == (NOON, "schedule")

    def test_what_came_due_while_no_scheduler_ran_was_missed(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(due_from=NOON - 2.5 * MINUTE, policy={"missed": "skip"})
        planning.arm(NOON + 45 * SECOND)
        planning.plan(NOON + 45 * SECOND)
        assert [run.status for run in jobs.runs(job_id)] == ["skipped"] * 3

    def test_a_disabled_job_has_no_next_run(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON + MINUTE)
        jobs.switch(job_id, NOON, enabled=False)
        planning.arm(NOON)
        assert jobs.job(job_id).next_run_at is None
        assert jobs.runs(job_id) == []

    def test_an_enabled_one_makes_up_for_nothing(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=None, enabled=False, due_from=NOON - DAY)
        jobs.switch(job_id, NOON, enabled=True)
        assert planning.plan(NOON).jobs == 0
        planning.arm(NOON)
        assert planning.plan(NOON).jobs == 0
        assert jobs.job(job_id).next_run_at == NOON + MINUTE

    @pytest.mark.parametrize("enabled", [False, True])
    def test_ticks_that_were_due_before_a_change_get_rows(
        self, jobs: JobStore, planning: Planning, enabled: bool
    ) -> None:
        job_id = jobs.add(next_run_at=NOON - 5 * MINUTE)
        jobs.switch(job_id, NOON - 2.5 * MINUTE, enabled=enabled)
        planning.arm(NOON)
        rows = jobs.runs(job_id)
        assert [row.scheduled_for for row in rows] == [NOON - n * MINUTE for n in (5, 4, 3)]
        assert {(row.status, row.reason) for row in rows} == {("skipped", arming.CHANGED)}
        assert jobs.job(job_id).next_run_at == (NOON - 2 * MINUTE if enabled else None)

    def test_of_another_expression_the_one_tick_that_is_known(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON - 5 * MINUTE, cron_expr="*/5 * * * *")
        jobs.switch(job_id, NOON - MINUTE, cron_expr="2 * * * *")
        planning.arm(NOON)
        assert [(row.scheduled_for, row.reason) for row in jobs.runs(job_id)] == [(NOON - 5 * MINUTE, arming.CHANGED)]
        assert jobs.job(job_id).next_run_at == NOON + 2 * MINUTE

    def test_a_change_of_something_else_loses_and_repeats_nothing(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        planning.plan(NOON - timedelta(seconds=0.5), ahead=0.5)
        jobs.change(job_id, name="another")
        planning.arm(NOON - timedelta(seconds=0.4))
        assert jobs.job(job_id).next_run_at == NOON + MINUTE
        jobs.change(job_id, name="and another")  # overdue, when nobody was there to plan
        planning.arm(NOON + 5 * MINUTE)
        assert jobs.job(job_id).next_run_at == NOON + MINUTE

    def test_a_job_of_an_older_version_counts_from_its_next_run(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, due_from=None)
        jobs.change(job_id, name="another")
        planning.arm(NOON + 5 * MINUTE)
        assert jobs.job(job_id).next_run_at == NOON

    def test_ticks_ahead_that_wait_are_withdrawn_with_the_times(self, jobs: JobStore, planning: Planning) -> None:
        kept, gone = (jobs.add(next_run_at=NOON) for _ in range(2))
        before = NOON - timedelta(seconds=0.5)
        planning.plan(before, ahead=0.5, places=0)
        jobs.switch(kept, before, command="another")
        jobs.switch(gone, before, cron_expr="30 * * * *")
        planning.arm(before)
        assert [run.job_id for run in jobs.runs()] == [kept]

    def test_what_cannot_be_read_stays_quiet_and_the_others_are_armed(self, jobs: JobStore, planning: Planning) -> None:
        bad = jobs.add(cron_expr="rubbish", due_from=NOON)
        lost = jobs.add(timezone="Moon/Crater", due_from=NOON)
        follower = jobs.add(cron_expr="", due_from=NOON)
        good = jobs.add(due_from=NOON)
        assert planning.arm(NOON) == [bad, lost, follower, good]
        assert [jobs.job(job_id).next_run_at for job_id in (bad, lost, follower)] == [None] * 3
        assert jobs.job(good).next_run_at == NOON + MINUTE
        assert planning.arm(NOON) == []

    def test_a_change_that_comes_in_between_is_armed_by_the_next_call(
        self, jobs: JobStore, planning: Planning, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = jobs.add(due_from=NOON)
        with jobs.database.transaction() as session:

            def change_meanwhile(expression: str, key: int) -> Schedule:
                session.execute(text("UPDATE cron_jobs SET revision = revision + 1"))
                return parse(expression, key)

            monkeypatch.setattr(timetable, "parse", change_meanwhile)
            arming.arm(session, NOON, planning.zone)
        assert jobs.job(job_id).next_run_at is None
        assert planning.waiting(NOON).unarmed

    def test_takes_a_bounded_number_at_a_time(self, jobs: JobStore, planning: Planning) -> None:
        ids = [jobs.add() for _ in range(5)]
        assert planning.arm(NOON, limit=3) == ids[:3]
        assert planning.arm(NOON, limit=3) == ids[3:]


class TestClockSetBack:
    def test_no_tick_runs_twice(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        for minute in range(3):
            [run] = planning.plan(NOON + minute * MINUTE).runs
            planning.end(run, "succeeded", NOON)
        back = NOON - 2 * MINUTE
        planning.rearm(back, "clock")
        assert jobs.job(job_id).next_run_at == NOON + 3 * MINUTE
        assert planning.plan(NOON + 2 * MINUTE).jobs == 0
        jobs.change(job_id, name="changed meanwhile")
        planning.arm(back)
        assert jobs.job(job_id).next_run_at == NOON + 3 * MINUTE
        assert len(jobs.runs(job_id)) == 3

    def test_by_more_than_three_hours_it_is_a_correction(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        [run] = planning.plan(NOON).runs
        planning.end(run, "succeeded", NOON)
        back = NOON - 300 * DAY
        planning.rearm(back, "clock")
        assert jobs.job(job_id).next_run_at == back + MINUTE
        assert [run.scheduled_for for run in planning.plan(back + MINUTE).runs] == [back + MINUTE]

    def test_what_was_decided_before_a_correction_stays_decided(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON, cron_expr="0 12 * * *")
        [run] = planning.plan(NOON).runs
        planning.end(run, "succeeded", NOON)
        planning.rearm(NOON - 20 * HOUR, "clock")
        assert jobs.job(job_id).next_run_at == NOON
        assert planning.plan(NOON).runs == []
        assert jobs.job(job_id).next_run_at == NOON + DAY

    def test_a_job_that_has_decided_nothing_since_is_left_alone(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON + DAY, cron_expr="0 12 * * *", due_from=NOON - DAY)
        planning.rearm(NOON - 5 * HOUR, "clock")
        assert jobs.job(job_id).next_run_at == NOON + DAY


class TestAnotherZone:
    def test_jobs_without_one_of_their_own_are_armed_anew(self, jobs: JobStore, planning: Planning) -> None:
        plain, own = (
            jobs.add(cron_expr="0 15 * * *", timezone=zone, next_run_at=NOON + 3 * HOUR) for zone in ("", "Asia/Tokyo")
        )
        planning.zone = ZoneInfo("Europe/Berlin")
        planning.rearm(NOON, "zone")
        assert jobs.job(plain).next_run_at == NOON + HOUR
        assert jobs.job(own).next_run_at == NOON + 3 * HOUR
        planning.rearm(NOON, "tzdata")
        assert jobs.job(own).next_run_at == NOON + 18 * HOUR

    def test_one_whose_zone_is_known_again_is_scheduled_again(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=None)
        planning.rearm(NOON, "tzdata")
        assert jobs.job(job_id).next_run_at == NOON + MINUTE

    def test_overdue_jobs_are_left_to_plan(self, jobs: JobStore, planning: Planning) -> None:
        job_id = jobs.add(next_run_at=NOON)
        assert planning.rearm(NOON + MINUTE, "zone") is None
        assert jobs.job(job_id).next_run_at == NOON

    def test_every_job_gets_its_turn(self, jobs: JobStore, planning: Planning, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arming, "IDS_AT_ONCE", 4)
        ids = [jobs.add(next_run_at=NOON + 2 * DAY, timezone="" if n % 3 else "UTC") for n in range(12)]
        last: int | None = 0
        turns = 0
        while last is not None:
            last = planning.rearm(NOON, "zone", after_id=last, limit=2)
            turns += 1
        assert {jobs.job(job_id).next_run_at for n, job_id in enumerate(ids) if n % 3} == {NOON + MINUTE}
        assert turns > 3


class TestWhatAStartCallsFor:
    ZONE = ZoneInfo("Europe/Berlin")

    def wanted(self, jobs: JobStore, zone: ZoneInfo = ZONE) -> str | None:
        with jobs.database.reading() as session:
            return arming.rearm_wanted(session, NOON, zone)

    def remember(self, jobs: JobStore, zone: ZoneInfo = ZONE) -> None:
        with jobs.database.transaction() as session:
            arming.remember_zone(session, zone)

    def test_nothing_as_a_rule(self, jobs: JobStore) -> None:
        jobs.add_run(jobs.add(next_run_at=NOON), NOON)
        assert self.wanted(jobs) is None
        for _ in range(2):
            self.remember(jobs)
            assert self.wanted(jobs) is None

    def test_another_zone(self, jobs: JobStore) -> None:
        self.remember(jobs)
        assert self.wanted(jobs, ZoneInfo("Asia/Tokyo")) == "zone"
        self.remember(jobs, ZoneInfo("Asia/Tokyo"))
        assert self.wanted(jobs, ZoneInfo("Asia/Tokyo")) is None

    def test_two_first_schedulers_at_once(self, jobs: JobStore, until: Callable[..., None]) -> None:
        if jobs.database.is_sqlite:
            pytest.skip("SQLite lets one writer in at a time")
        with ThreadPoolExecutor(1) as pool:
            with jobs.database.transaction() as session:
                arming.remember_zone(session, self.ZONE)
                second = pool.submit(self.remember, jobs)
                until(jobs.somebody_waits)
            second.result(DEADLINE_SECONDS)
        assert self.wanted(jobs) is None

    def test_other_rules(self, jobs: JobStore) -> None:
        with jobs.database.transaction() as session:
            session.add(CronState(name=arming.DEFAULT_ZONE, value="Europe/Berlin 1970a"))
        assert self.wanted(jobs) == "tzdata"

    @pytest.mark.parametrize(("hours", "wanted"), [(2, None), (4, "clock")])
    def test_a_clock_that_was_set_back_while_nobody_looked(
        self, jobs: JobStore, hours: int, wanted: str | None
    ) -> None:
        self.remember(jobs)
        jobs.add_run(jobs.add(next_run_at=NOON), NOON + hours * HOUR)
        assert self.wanted(jobs) == wanted
