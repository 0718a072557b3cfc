"""Mails about cron jobs, as their owners see them."""

from datetime import timedelta
from typing import Any

import pytest

from wsp.cron.models import Notice
from wsp.database import Database, utc_now

pytestmark = pytest.mark.e2e

JOB = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *"}
KEYS = [
    *("id", "job_id", "run_id", "kind", "recipient", "subject", "status", "attempts", "error"),
    *("due_at", "created_at", "next_attempt_at", "finished_at"),
]


@pytest.fixture
def ann(make_caller: Any) -> Any:
    """A user with a key for cron."""
    return make_caller(permissions=("cron",))


@pytest.fixture
def put(store_of_server: Database) -> Any:
    """Writes mails about a job as the scheduler does: one for each status, the first one the oldest."""

    def put(job_id: int, *statuses: str) -> None:
        now = utc_now()
        with store_of_server.transaction() as session:
            for number, status in enumerate(statuses):
                made = now - timedelta(minutes=len(statuses) - number)
                session.add(
                    Notice(
                        job_id=job_id,
                        run_id=None if status == "withheld" else 7,
                        kind="failure",
                        recipient="ops@example.com",
                        subject=f"{status} {number}",
                        body="secret words",
                        status=status,
                        error="The mail server answered 554 no" if status == "failed" else "",
                        due_at=made,
                        next_attempt_at=now + timedelta(hours=1) if status == "pending" else None,
                        created_at=made,
                        finished_at=None if status == "pending" else made,
                    )
                )

    return put


class TestList:
    def test_of_a_job(self, ann: Any, put: Any) -> None:
        job = ann("POST", "/cronjobs/", JOB).json()["id"]
        put(job, "sent", "failed", "withheld", "pending")
        for slash in ("", "/"):
            answer = ann("GET", f"/cronjobs/{job}/notices{slash}")
            assert answer.status_code == 200
            assert answer.headers["X-Total-Count"] == "4"
        notices = answer.json()
        assert [list(notice) for notice in notices] == [KEYS] * 4
        assert [notice["subject"] for notice in notices] == ["pending 3", "withheld 2", "failed 1", "sent 0"]
        assert notices[2]["error"] == "The mail server answered 554 no"
        assert notices[0]["next_attempt_at"].endswith("+07:00")
        assert (notices[0]["finished_at"], notices[3]["next_attempt_at"], notices[1]["run_id"]) == (None, None, None)
        assert "secret words" not in answer.text

    def test_filters_and_pages(self, ann: Any, put: Any) -> None:
        job = ann("POST", "/cronjobs/", JOB).json()["id"]
        put(job, "sent", "failed", "sent")
        path = f"/cronjobs/{job}/notices"
        assert [notice["subject"] for notice in ann("GET", f"{path}?status=failed").json()] == ["failed 1"]
        assert [notice["subject"] for notice in ann("GET", f"{path}?search=SENT%202").json()] == ["sent 2"]
        answer = ann("GET", f"{path}?limit=1&offset=1")
        assert [notice["subject"] for notice in answer.json()] == ["failed 1"]
        assert 'rel="next"' in answer.headers["Link"]
        refused = ann("GET", f"{path}?status=lost")
        assert refused.status_code == 400
        assert refused.json()["details"][0]["field"] == "status"

    def test_of_all_jobs(self, ann: Any, put: Any, make_caller: Any, admin: Any) -> None:
        jobs = [ann("POST", "/cronjobs/", JOB).json()["id"] for _ in range(2)]
        put(jobs[0], "failed")
        put(jobs[1], "failed", "sent")
        bob = make_caller(permissions=("cron",))
        assert len(ann("GET", "/cronjobs/notices").json()) == 3
        assert {notice["job_id"] for notice in ann("GET", "/cronjobs/notices/?status=failed").json()} == set(jobs)
        assert bob("GET", "/cronjobs/notices").json() == []
        assert bob("GET", f"/cronjobs/notices?owner={ann.username}").json() == []
        assert len(admin("GET", f"/cronjobs/notices?owner={ann.username}").json()) == 3
        assert bob("GET", f"/cronjobs/{jobs[0]}/notices").status_code == 404

    def test_goes_with_its_job(self, ann: Any, put: Any) -> None:
        job = ann("POST", "/cronjobs/", JOB).json()["id"]
        put(job, "pending")
        ann("DELETE", f"/cronjobs/{job}")
        assert ann("GET", f"/cronjobs/{job}/notices").status_code == 404
        assert ann("GET", "/cronjobs/notices").json() == []

    def test_needs_the_permission(self, make_caller: Any) -> None:
        assert make_caller(permissions=("ftp",))("GET", "/cronjobs/notices").status_code == 403
        assert make_caller(permissions=("read",))("GET", "/cronjobs/notices").status_code == 200
