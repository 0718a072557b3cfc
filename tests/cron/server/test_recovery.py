"""Which runs nobody takes care of, and what is known of them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from wsp.cron.models import CronState
from wsp.cron.planning.planner import plan
from wsp.cron.planning.rows import Claim
from wsp.cron.runner.frames import STDOUT, encode
from wsp.cron.runner.orders import Output
from wsp.cron.runner.spool import run_folder, segment_name
from wsp.cron.server.processes import Process, boot_id
from wsp.cron.server.recovery import (
    GONE,
    LOST_TRACK,
    SUSPECT_SECONDS,
    Orphan,
    Suspicion,
    end_commands,
    find_orphans,
    forget_runners,
    give_back,
    inherit,
    lost,
    output_left,
    remember_runner,
    still_claimed,
)
from wsp.heartbeat import ServiceRow, node_name

if TYPE_CHECKING:
    from tests.cron.conftest import JobStore

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


NO_PROCESS = 2**22 + 1  # above the kernel's highest


def service(jobs: JobStore, name: str, heard: datetime, node: str | None = None, pid: int = NO_PROCESS) -> None:
    with jobs.database.transaction() as session:
        session.add(
            ServiceRow(id=name, node=node or node_name(), kind="cron", pid=pid, started_at=NOON, heartbeat_at=heard)
        )


def has_runner(jobs: JobStore, name: str, *runners: str) -> None:
    for runner in runners:
        with jobs.database.transaction() as session:
            remember_runner(session, name, runner)


def running(jobs: JobStore, service_id: str, node: str | None = None, **values: Any) -> int:
    values = {"status": "running", "started_at": NOON, "runner_id": f"{service_id}-runner", **values}
    return jobs.add_run(jobs.add(), NOON, service_id=service_id, node=node or node_name(), start_at=NOON, **values)


def queued(jobs: JobStore, service_id: str, **values: Any) -> int:
    return running(jobs, service_id, **{"status": "queued", "started_at": None, "runner_id": "", **values})


def orphans(jobs: JobStore, now: datetime, *active: int, met: tuple[str, ...] = ()) -> list[Orphan]:
    with jobs.database.reading() as session:
        return find_orphans(session, now, service_id="me", active=active, met=met)


def ids(found: list[Orphan]) -> list[int]:
    return [orphan.run.run_id for orphan in found]


class TestFindOrphans:
    def test_of_a_scheduler_that_lives(self, jobs: JobStore) -> None:
        service(jobs, "other", NOON)
        running(jobs, "other")
        assert orphans(jobs, NOON + 3 * SECOND) == []

    def test_of_one_that_is_not_heard_any_more(self, jobs: JobStore) -> None:
        service(jobs, "other", NOON)
        run_id = running(jobs, "other", pid=4711, pid_started=99, boot_id="boot")
        [orphan] = orphans(jobs, NOON + 5 * SECOND)
        assert orphan.run.run_id == run_id
        assert (orphan.process, orphan.boot_id) == (Process(4711, 99), "boot")
        assert orphan.marks == {f"other-runner-{run_id}"}
        assert not orphan.is_certain

    def test_that_was_just_claimed(self, jobs: JobStore) -> None:
        service(jobs, "other", NOON)
        has_runner(jobs, "other", "first", "second")
        run_id = queued(jobs, "other")
        queued(jobs, "")  # waits for anybody
        [orphan] = orphans(jobs, NOON + 5 * SECOND)
        assert orphan.marks == {f"first-{run_id}", f"second-{run_id}"}

    def test_of_one_whose_process_is_there_it_only_cannot_report(self, jobs: JobStore) -> None:
        service(jobs, "other", NOON, pid=os.getppid())
        run_id = running(jobs, "other")
        assert orphans(jobs, NOON + 29 * SECOND) == []
        assert ids(orphans(jobs, NOON + 31 * SECOND)) == [run_id]

    def test_of_one_that_had_the_pid_of_this_one(self, jobs: JobStore) -> None:
        service(jobs, "other", NOON, pid=os.getpid())
        run_id = running(jobs, "other")
        assert ids(orphans(jobs, NOON + 5 * SECOND)) == [run_id]

    def test_of_one_that_has_left_no_trace(self, jobs: JobStore) -> None:
        run_id = running(jobs, "gone")
        assert ids(orphans(jobs, NOON)) == [run_id]

    def test_of_one_whose_runner_speaks_to_us_at_once(self, jobs: JobStore) -> None:
        service(jobs, "other", NOON)
        has_runner(jobs, "other", "runner")
        run_id = queued(jobs, "other")
        assert orphans(jobs, NOON + SECOND) == []
        [orphan] = orphans(jobs, NOON + SECOND, met=("runner",))
        assert (orphan.run.run_id, orphan.is_certain) == (run_id, True)

    def test_of_one_whose_process_is_there_not_at_once(self, jobs: JobStore) -> None:
        service(jobs, "other", NOON, pid=os.getppid())
        has_runner(jobs, "other", "runner")
        queued(jobs, "other")
        assert orphans(jobs, NOON + SECOND, met=("runner",)) == []

    def test_of_another_machine_only_after_a_minute(self, jobs: JobStore) -> None:
        service(jobs, "far", NOON, node="elsewhere")
        run_id = running(jobs, "far", node="elsewhere")
        unheard = running(jobs, "farther", node="elsewhere")
        waiting = queued(jobs, "farther", node="elsewhere")
        assert orphans(jobs, NOON + 59 * SECOND) == []
        assert ids(orphans(jobs, NOON + 61 * SECOND)) == [run_id, unheard, waiting]

    def test_own_runs_that_are_not_active(self, jobs: JobStore) -> None:
        active, unknown = running(jobs, "me"), running(jobs, "me")
        assert ids(orphans(jobs, NOON, active)) == [unknown]

    def test_those_that_have_ended_are_none(self, jobs: JobStore) -> None:
        jobs.add_run(jobs.add(), NOON, "succeeded", service_id="gone", node=node_name())
        assert orphans(jobs, NOON) == []


class TestWasNeverStarted:
    @pytest.mark.parametrize(
        ("runners", "met", "after", "answer"),
        [
            (("first",), ("first",), 1, True),  # the runner was asked, and does not know it
            (("first", "second"), ("first",), 1, False),  # the other one may have started it
            ((), (), 1, True),  # there was no runner yet
            (("first",), (), -1, True),  # its time had not come
            (("first",), (), 0, False),
        ],
    )
    def test_a_claimed_run(
        self, jobs: JobStore, runners: tuple[str, ...], met: tuple[str, ...], after: int, answer: bool
    ) -> None:
        has_runner(jobs, "gone", *runners)
        queued(jobs, "gone")
        now = NOON + after * SECOND
        [orphan] = orphans(jobs, now, met=met)
        assert orphan.was_never_started(now, met) is answer

    def test_one_that_says_running_was(self, jobs: JobStore) -> None:
        running(jobs, "gone")
        [orphan] = orphans(jobs, NOON)
        assert not orphan.was_never_started(NOON - SECOND, ("gone-runner",))

    def test_of_another_machines_runners_nothing_is_known(self, jobs: JobStore) -> None:
        queued(jobs, "far", node="elsewhere")
        now = NOON + 61 * SECOND
        [orphan] = orphans(jobs, now)
        assert not orphan.was_never_started(now, ())


class TestRunners:
    def test_are_remembered_until_nobody_asks_for_them(self, jobs: JobStore) -> None:
        service(jobs, "reported", NOON)
        for name in ("reported", "with-a-run", "forgotten"):
            has_runner(jobs, name, "first", "second", "second")
        queued(jobs, "with-a-run")
        with jobs.database.transaction() as session:
            session.add(CronState(name="default_zone", value="UTC"))
        with jobs.database.transaction() as session:
            forget_runners(session)
        with jobs.database.reading() as session:
            left = {state.name: state.value for state in session.query(CronState)}
        assert left == {
            "runners:reported": "first second",
            "runners:with-a-run": "first second",
            "default_zone": "UTC",
        }


class TestClaims:
    def test_are_given_back_as_long_as_they_are_ours_and_unstarted(self, jobs: JobStore) -> None:
        mine, another, started = queued(jobs, "me"), queued(jobs, "another"), running(jobs, "me")
        everything = [mine, another, started]
        with jobs.database.transaction() as session:
            assert still_claimed(session, everything, "me") == {mine}
            give_back(session, everything, "me")
        rows = {run.id: run.service_id for run in jobs.runs()}
        assert rows == {mine: "", another: "another", started: "me"}

    def test_the_newest_tick_of_a_job_is_undecided_again(self, jobs: JobStore) -> None:
        tick = {"service_id": "me", "start_at": NOON}
        job = jobs.add(next_run_at=NOON + 60 * SECOND, due_from=NOON)
        changed = jobs.add(next_run_at=NOON + 60 * SECOND, due_from=NOON)
        jobs.change(changed, command="echo other")
        older = jobs.add(next_run_at=NOON + 120 * SECOND, due_from=NOON + 60 * SECOND)
        run_ids = [jobs.add_run(each, NOON, "queued", **tick) for each in (job, changed, older)]
        run_ids.append(jobs.add_run(job, NOON + SECOND, "queued", **tick | {"trigger": "manual"}))
        with jobs.database.transaction() as session:
            give_back(session, run_ids, "me")
        assert [(run.id, run.service_id) for run in jobs.runs()] == [(run_id, "") for run_id in run_ids[1:]]
        assert (jobs.job(job).next_run_at, jobs.job(job).due_from) == (NOON, NOON - SECOND)
        assert jobs.job(older).next_run_at == NOON + 120 * SECOND

    @pytest.mark.parametrize(
        ("missed", "expected"),
        [("skip", ["skipped", "skipped"]), ("run_once", ["skipped", "queued"]), ("run_all", ["queued", "queued"])],
    )
    def test_a_tick_that_comes_while_nobody_is_there_is_a_missed_one(
        self, jobs: JobStore, missed: str, expected: list[str]
    ) -> None:
        jobs.add(next_run_at=NOON, policy={"missed": missed})
        zone, shortly_before = ZoneInfo("UTC"), NOON - timedelta(milliseconds=300)
        with jobs.database.transaction() as session:
            batch = plan(session, shortly_before, NOON, zone, Claim("me", "here", "boot", shortly_before), places=9)
            give_back(session, [run.run_id for run in batch.runs], "me")
        later = NOON + 90 * SECOND
        with jobs.database.transaction() as session:
            plan(session, later, later, zone, Claim("next", "here", "boot", later), places=9)
        assert [run.scheduled_for for run in jobs.runs()] == [NOON, NOON + 60 * SECOND]
        assert [run.status for run in jobs.runs()] == expected

    def test_of_another_are_inherited_with_its_runner(self, jobs: JobStore) -> None:
        going = running(jobs, "dead", pid=5, pid_started=6)
        waiting, over, left = queued(jobs, "dead"), running(jobs, "dead", status="failed"), running(jobs, "dead")
        claim = Claim("me", "here", "boot", NOON)
        with jobs.database.transaction() as session:
            found = inherit(session, [going, waiting, over, 4711], "runner", claim)
        assert found.open.keys() == {going, waiting}
        assert (found.open[going].process, found.open[going].started_at) == (Process(5, 6), NOON)
        assert found.over == {over}
        rows = {run.id: (run.service_id, run.runner_id, run.node) for run in jobs.runs()}
        assert rows[going] == rows[waiting] == ("me", "runner", "here")
        assert rows[over][0] == rows[left][0] == "dead"


class TestSuspicion:
    def test_is_confirmed_after_a_while_without_a_break(self, jobs: JobStore) -> None:
        run_id = running(jobs, "gone")
        found = orphans(jobs, NOON)
        suspicion = Suspicion()
        assert suspicion.confirmed(found, 100.0) == []
        assert suspicion.confirmed([], 101.0) == []
        assert suspicion.confirmed(found, 102.0) == []
        assert ids(suspicion.confirmed(found, 102.0 + SUSPECT_SECONDS)) == [run_id]

    def test_of_what_is_certain_is_confirmed_at_once(self, jobs: JobStore) -> None:
        has_runner(jobs, "gone", "runner")
        run_id = queued(jobs, "gone")
        assert ids(Suspicion().confirmed(orphans(jobs, NOON, met=("runner",)), 100.0)) == [run_id]


class TestLost:
    def test_says_whose_fault_it_was(self, jobs: JobStore) -> None:
        running(jobs, "gone")
        running(jobs, "me")
        results = [lost(orphan, NOON + SECOND, "me", Output()) for orphan in orphans(jobs, NOON)]
        assert [(result.status, result.reason, result.started_at) for result in results] == [
            ("lost", GONE, NOON),
            ("lost", LOST_TRACK, NOON),
        ]


class TestEndCommands:
    def test_not_of_another_boot_or_machine(self, jobs: JobStore) -> None:
        running(jobs, "far", node="elsewhere", boot_id=boot_id(), pid=1, pid_started=0)
        running(jobs, "gone", boot_id="another", pid=1, pid_started=0)
        found = orphans(jobs, NOON + 61 * SECOND)
        assert len(found) == 2
        assert end_commands(found) == 0


class TestOutputLeft:
    def test_is_what_the_files_say(self, tmp_path: Path) -> None:
        folder = Path(run_folder(tmp_path / "cron" / "output", 7))
        folder.mkdir(parents=True)
        (folder / segment_name(0)).write_bytes(encode([(STDOUT, b"hello\n")]))
        assert output_left(tmp_path, 7) == Output(encode([(STDOUT, b"hello\n")]), 6)

    def test_of_a_run_without_files(self, tmp_path: Path) -> None:
        assert output_left(tmp_path, 7) == Output()
