"""Two schedulers that plan on one database at the same time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from wsp.cron.planning import planner, queue
from wsp.cron.planning.work import PlannedRun

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore, Planning

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DEADLINE_SECONDS = 60.0

Pair = tuple["Planning", "Planning"]
Work = Callable[["Planning", threading.Barrier], list[PlannedRun]]


@pytest.fixture
def pair(planning: Planning) -> Pair:
    """Two schedulers."""
    return tuple(  # type: ignore[return-value]
        replace(planning, claim=replace(planning.claim, service_id=name)) for name in ("one", "two")
    )


def at_once(pair: Pair, work: Work) -> list[list[PlannedRun]]:
    """Have both do the same on threads of their own. They meet at the barrier as often as they like."""
    barrier = threading.Barrier(len(pair), timeout=DEADLINE_SECONDS)
    with ThreadPoolExecutor(len(pair)) as pool:
        return [future.result(DEADLINE_SECONDS) for future in [pool.submit(work, each, barrier) for each in pair]]


class TestTicks:
    def test_none_twice_and_none_lost(self, jobs: JobStore, pair: Pair) -> None:
        seconds, count = 12, 30
        for n in range(count):
            overlap = ("skip", "queue", "allow", "replace")[n % 4]
            jobs.add(next_run_at=NOON, due_from=NOON - SECOND, cron_expr="* * * * * *", policy={"overlap": overlap})

        def work(each: Planning, barrier: threading.Barrier) -> list[PlannedRun]:
            claimed: list[PlannedRun] = []
            for second in range(seconds):
                barrier.wait()
                while (batch := each.plan(NOON + second * SECOND, ahead=0.5, limit=4)).jobs:
                    claimed += batch.runs
                claimed += each.claim_queued(NOON + second * SECOND, limit=5).runs
            return claimed

        claims = Counter(run.run_id for runs in at_once(pair, work) for run in runs)
        rows = jobs.runs()
        assert max(claims.values()) == 1
        assert Counter((row.job_id, row.scheduled_for) for row in rows) == Counter(
            (job.id, NOON + second * SECOND) for job in map(jobs.job, range(1, count + 1)) for second in range(seconds)
        )
        assert {row.id for row in rows if row.service_id and row.status == "queued"} == set(claims)

    def test_each_has_what_the_other_has_not_locked(self, jobs: JobStore, planning: Planning) -> None:
        if jobs.database.is_sqlite:
            pytest.skip("SQLite lets one writer in at a time")
        ids = [jobs.add(next_run_at=NOON) for _ in range(4)]
        with jobs.database.transaction() as one, jobs.database.transaction() as two:
            taken = [
                [
                    run.job.id
                    for run in planner.plan(
                        session, NOON, NOON, planning.zone, planning.claim, places=10, limit=limit
                    ).runs
                ]
                for session, limit in ((one, 2), (two, 4))
            ]
        assert taken == [ids[:2], ids[2:]]
        assert len(jobs.runs()) == 4


class TestLocks:
    def test_a_job_is_locked_before_its_runs(self, jobs: JobStore, planning: Planning) -> None:
        """As somebody does who deletes it: else each would wait for the other."""
        if jobs.database.is_sqlite:
            pytest.skip("SQLite lets one writer in at a time")
        job_id = jobs.add(next_run_at=None)
        run_id = jobs.request(job_id, NOON)
        [run] = planning.claim_queued(NOON).runs
        with ThreadPoolExecutor(1) as pool:
            with jobs.database.transaction() as session:
                session.execute(text("SELECT id FROM cron_jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
                settling = pool.submit(planning.settle, [run], NOON)
                deadline = time.monotonic() + DEADLINE_SECONDS
                while not jobs.somebody_waits():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                session.execute(text("SELECT id FROM cron_runs WHERE id = :id FOR UPDATE NOWAIT"), {"id": run_id})
                session.execute(text("DELETE FROM cron_jobs WHERE id = :id"), {"id": job_id})
            assert list(settling.result(DEADLINE_SECONDS).runs) == []


class TestQueue:
    def test_every_run_is_claimed_once(self, jobs: JobStore, pair: Pair) -> None:
        ids = [jobs.request(jobs.add(), NOON) for _ in range(40)]

        def work(each: Planning, barrier: threading.Barrier) -> list[PlannedRun]:
            barrier.wait()
            claimed: list[PlannedRun] = []
            while each.waiting(NOON).queue_due is not None:
                claimed += each.claim_queued(NOON, limit=3).runs
            return claimed

        claimed = [run.run_id for runs in at_once(pair, work) for run in runs]
        assert sorted(claimed) == ids

    def test_of_a_tick_and_a_request_for_one_job_only_one_goes(self, jobs: JobStore, pair: Pair) -> None:
        one, two = pair
        rounds = 25
        for n in range(rounds):
            job_id = jobs.add(next_run_at=NOON)
            jobs.request(job_id, NOON - timedelta(microseconds=n + 1))

        def work(each: Planning, barrier: threading.Barrier) -> list[PlannedRun]:
            barrier.wait()
            runs: list[PlannedRun] = []
            for _ in range(rounds):
                runs += each.plan(NOON, limit=1).runs if each is one else each.claim_queued(NOON, limit=1).runs
            return runs

        going = Counter(run.job.id for runs in at_once(pair, work) for run in runs)
        assert max(going.values()) == 1
        two.claim_queued(NOON)
        one.plan(NOON)
        assert len(jobs.runs()) == 2 * rounds

    def test_a_kill_and_a_claim_of_one_run(self, jobs: JobStore, pair: Pair) -> None:
        one, _ = pair
        ids = [jobs.request(jobs.add(), NOON) for _ in range(20)]

        def work(each: Planning, barrier: threading.Barrier) -> list[PlannedRun]:
            barrier.wait()
            if each is one:
                for run_id in ids:
                    jobs.kill(run_id, NOON)
                with jobs.database.transaction() as session:
                    return [end.run for end in queue.cancel_killed(session, NOON)]
            runs: list[PlannedRun] = []
            for _ in ids:
                runs += each.claim_queued(NOON, limit=1).runs
            return runs

        cancelled, claimed = ({run.run_id for run in runs} for runs in at_once(pair, work))
        with jobs.database.transaction() as session:
            late = {end.run.run_id for end in queue.cancel_killed(session, NOON)}
            wanted = {run_id for run_id, _, _ in queue.kills_wanted(session, "two")}
        assert not cancelled & claimed
        assert wanted == claimed
        assert cancelled | claimed | late == set(ids)
