"""Which runs nobody takes care of."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from wsp.cron.processes import Process, boot_id
from wsp.cron.recovery import GONE, LOST_TRACK, SUSPECT_SECONDS, Orphan, Suspicion, end_commands, find_orphans, lost
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


def running(jobs: JobStore, service_id: str, node: str | None = None, **values: Any) -> int:
    return jobs.add_run(
        jobs.add(), NOON, "running", service_id=service_id, node=node or node_name(), started_at=NOON, **values
    )


def orphans(jobs: JobStore, now: datetime, *active: int) -> list[Orphan]:
    with jobs.database.reading() as session:
        return find_orphans(session, now, service_id="me", active=active)


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
        assert (orphan.process, orphan.boot_id, orphan.mark) == (Process(4711, 99), "boot", f"other-{run_id}")

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

    def test_of_another_machine_only_after_a_minute(self, jobs: JobStore) -> None:
        service(jobs, "far", NOON, node="elsewhere")
        run_id = running(jobs, "far", node="elsewhere")
        unheard = running(jobs, "farther", node="elsewhere")
        assert orphans(jobs, NOON + 59 * SECOND) == []
        assert ids(orphans(jobs, NOON + 61 * SECOND)) == [run_id, unheard]

    def test_own_runs_that_are_not_active(self, jobs: JobStore) -> None:
        active, unknown = running(jobs, "me"), running(jobs, "me")
        assert ids(orphans(jobs, NOON, active)) == [unknown]

    def test_those_that_have_ended_are_none(self, jobs: JobStore) -> None:
        jobs.add_run(jobs.add(), NOON, "succeeded", service_id="gone", node=node_name())
        assert orphans(jobs, NOON) == []


class TestSuspicion:
    def test_is_confirmed_after_a_while_without_a_break(self, jobs: JobStore) -> None:
        run_id = running(jobs, "gone")
        found = orphans(jobs, NOON)
        suspicion = Suspicion()
        assert suspicion.confirmed(found, 100.0) == []
        assert suspicion.confirmed([], 101.0) == []
        assert suspicion.confirmed(found, 102.0) == []
        assert ids(suspicion.confirmed(found, 102.0 + SUSPECT_SECONDS)) == [run_id]


class TestLost:
    def test_says_why(self, jobs: JobStore) -> None:
        running(jobs, "gone")
        [orphan] = orphans(jobs, NOON)
        result = lost(orphan, NOON + SECOND, "me")
        assert (result.status, result.reason, result.finished_at) == ("lost", GONE, NOON + SECOND)
        assert lost(orphan, NOON, "gone").reason == LOST_TRACK


class TestEndCommands:
    def test_of_another_machine_or_boot_none_is_touched(self, jobs: JobStore) -> None:
        running(jobs, "gone", node="elsewhere", boot_id=boot_id(), pid=1, pid_started=0)
        running(jobs, "gone", boot_id="another", pid=1, pid_started=0)
        found = orphans(jobs, NOON + 61 * SECOND)
        assert len(found) == 2
        assert end_commands(found) == 0
