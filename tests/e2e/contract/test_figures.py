"""`/cronjobs/{id}/stats` and `/metrics`, against a running server."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from wsp.cron.models import CronJob, JobRun
from wsp.database import Database, utc_now

pytestmark = pytest.mark.e2e

JOB = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *", "enabled": False}


class TestStats:
    def test_show_what_the_log_has(self, ann: Any, store_of_server: Database) -> None:
        job = ann("POST", "/cronjobs/", JOB).json()["id"]
        due = utc_now() - timedelta(minutes=5)
        runs = [
            JobRun(job_id=job, scheduled_for=due, trigger="schedule", status="succeeded", duration_ms=40),
            JobRun(
                job_id=job,
                scheduled_for=due + timedelta(minutes=1),
                trigger="schedule",
                status="timed_out",
                exit_code=143,
                reason="too slow",
            ),
        ]
        with store_of_server.transaction() as session:
            session.add_all(runs)
        answer = ann("GET", f"/cronjobs/{job}/stats")
        assert answer.status_code == 200
        body = answer.json()
        assert (body["runs"], body["succeeded"], body["failed"], body["timed_out"]) == (2, 1, 1, 1)
        assert body["success_rate"] == 0.5
        assert body["duration_ms"] == {"p50": 40, "p95": 40, "max": 40}
        assert [failure["run_id"] for failure in body["last_failures"]] == [runs[1].id]
        assert body["last_failures"][0]["reason"] == "too slow"
        assert sum(day["runs"] for day in body["by_day"]) == 2
        assert body["complete"] is True

    def test_of_a_job_whose_zone_is_known_no_more_have_the_days_of_the_server(
        self, ann: Any, store_of_server: Database
    ) -> None:
        job = ann("POST", "/cronjobs/", JOB | {"timezone": "Europe/Berlin"}).json()["id"]
        with store_of_server.transaction() as session:
            session.get_one(CronJob, job).timezone = "No/Where"
            session.add(JobRun(job_id=job, scheduled_for=utc_now(), trigger="schedule", status="failed"))
        body = ann("GET", f"/cronjobs/{job}/stats").json()
        assert [day["date"] for day in body["by_day"]] == [body["last_failures"][0]["scheduled_for"][:10]]
        for path in ("/cronjobs/", f"/cronjobs/{job}", f"/cronjobs/{job}/logs", "/cronjobs/export"):
            assert ann("GET", path).status_code == 200
        assert ann("PUT", f"/cronjobs/{job}", {"name": "renamed"}).json()["timezone"] == "No/Where"

    @pytest.mark.parametrize("days", ["0", "367", "many"])
    def test_refuse_a_wrong_number_of_days(self, ann: Any, days: str) -> None:
        job = ann("POST", "/cronjobs/", JOB).json()["id"]
        answer = ann("GET", f"/cronjobs/{job}/stats?days={days}")
        assert answer.status_code == 400
        assert "days" in answer.json()["message"].lower()


class TestMetrics:
    def test_tell_an_admin_of_the_whole_server(self, admin: Any) -> None:
        admin("GET", "/cronjobs/")
        answer = admin.http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        requests = ("area", "cronjobs"), ("method", "GET"), ("status", "200")
        assert found["wsp_http_requests_total", requests] >= 1
        for service in ("api", "ftp", "cron"):
            assert found["wsp_service_processes", (("service", service),)] >= 1

    def test_are_for_admins(self, ann: Any) -> None:
        answer = ann.http.get("/metrics")
        assert answer.status_code == 403
        assert answer.json()["message"] == "Only an admin may see the metrics"

    def test_need_a_key(self, anybody: httpx.Client) -> None:
        answer = anybody.get("/metrics")
        assert answer.status_code == 401
        assert answer.json()["message"] == "Missing authorization"
