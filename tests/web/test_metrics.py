"""`/metrics`, as Prometheus' own parser reads it."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Scope
from tests.cron.conftest import JobStore

from wsp.counters import Counters, Histogram
from wsp.cron.models import Notice
from wsp.database import Database, utc_now
from wsp.ftp.models import Guest
from wsp.ftp.records import SessionRow
from wsp.heartbeat import ServiceRow
from wsp.settings import Settings
from wsp.web.app import create_app
from wsp.web.metrics import HISTOGRAMS, RequestCounts, area_of, render


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


def samples(database: Database, requests: RequestCounts | None = None) -> dict[tuple[str, ...], float]:
    text = render(database, requests or RequestCounts()).decode()
    return {
        (sample.name, *sorted(f"{name}={value}" for name, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scope(path: str, method: str = "GET") -> Scope:
    return {"type": "http", "method": method, "path": path}


class TestAreas:
    @pytest.mark.parametrize(
        ("path", "area"),
        [
            ("/api/v1/ftp/", "ftp"),
            ("/api/v1/cronjobs/5/logs", "cronjobs"),
            ("/api/v1/ftp", "ftp"),
            ("/api/v1/wp-login.php", "other"),
            ("/healthz", "other"),
            ("/", "other"),
        ],
    )
    def test_are_a_small_fixed_set(self, path: str, area: str) -> None:
        assert area_of(path) == area


class TestRequests:
    def test_are_counted_by_what_they_were(self, database: Database) -> None:
        requests = RequestCounts()
        requests.count(scope("/api/v1/ftp/"), 200, 0.002, endless=False)
        requests.count(scope("/api/v1/ftp/"), 200, 0.002, endless=False)
        requests.count(scope("/x", "BREW"), 404, 20.0, endless=False)
        found = samples(database, requests)
        assert found["wsp_http_requests_total", "area=ftp", "method=GET", "status=200"] == 2
        assert found["wsp_http_requests_total", "area=other", "method=other", "status=404"] == 1
        assert found["wsp_http_request_duration_seconds_bucket", "le=0.005"] == 2
        assert found["wsp_http_request_duration_seconds_bucket", "le=10.0"] == 2
        assert found["wsp_http_request_duration_seconds_bucket", "le=+Inf"] == 3
        assert found["wsp_http_request_duration_seconds_count",] == 3
        assert found["wsp_http_request_duration_seconds_sum",] == pytest.approx(20.004)

    def test_of_streams_only_the_number(self, database: Database) -> None:
        requests = RequestCounts()
        requests.count(scope("/api/v1/cronjobs/1/runs/1/stream"), 200, 3600.0, endless=True)
        found = samples(database, requests)
        assert found["wsp_http_requests_total", "area=cronjobs", "method=GET", "status=200"] == 1
        assert found["wsp_http_request_duration_seconds_count",] == 0


class TestWhatOthersCounted:
    def test_counters_have_their_node(self, database: Database) -> None:
        counters = Counters()
        counters.add("cron_runs_total", 3, status="failed", trigger="schedule")
        with database.transaction() as session:
            counters.write(session, "web1")
        found = samples(database)
        assert found["wsp_cron_runs_total", "node=web1", "status=failed", "trigger=schedule"] == 3

    @pytest.mark.parametrize("name", HISTOGRAMS)
    def test_histograms_are_cumulated(self, database: Database, name: str) -> None:
        counters, histogram = Counters(), Histogram(name, (0.5, 10.0))
        for value in (0.1, 0.2, 3.0, 70.0):
            counters.observe(histogram, value)
        with database.transaction() as session:
            counters.write(session, "web1")
        found = samples(database)
        bounds = {"0.5": 2, "10.0": 3, "+Inf": 4}
        assert {bound: found[f"wsp_{name}_bucket", f"le={bound}", "node=web1"] for bound in bounds} == bounds
        assert found[f"wsp_{name}_count", "node=web1"] == 4
        assert found[f"wsp_{name}_sum", "node=web1"] == pytest.approx(73.3)


class TestWhatIsNow:
    def test_an_empty_store_has_zeros(self, database: Database) -> None:
        found = samples(database)
        assert found["wsp_service_processes", "service=cron"] == 0
        assert found["wsp_ftp_sessions", "tls=true"] == 0
        assert found["wsp_cron_runs_open", "status=running"] == 0
        assert found["wsp_cron_queue_oldest_seconds",] == 0
        assert found["wsp_ftp_bans",] == 0

    def test_runs_that_wait_and_run(self, jobs: JobStore) -> None:
        job, now = jobs.add(), utc_now()
        jobs.add_run(job, now - timedelta(hours=1), "running", start_at=now - timedelta(hours=1))
        jobs.add_run(job, now - timedelta(minutes=2), "queued", start_at=now - timedelta(minutes=1))
        jobs.add_run(job, now + timedelta(hours=1), "queued", start_at=now + timedelta(hours=1))
        found = samples(jobs.database)
        assert found["wsp_cron_runs_open", "status=running"] == 1
        assert found["wsp_cron_runs_open", "status=queued"] == 1
        assert 60 <= found["wsp_cron_queue_oldest_seconds",] < 3600

    def test_sessions_of_living_processes_only(self, database: Database) -> None:
        now = utc_now()
        with database.transaction() as session:
            for name, age in (("alive", 0), ("dead", 60)):
                beat = now - timedelta(seconds=age)
                service = ServiceRow(id=name, node="web1", kind="ftp", pid=1, started_at=beat, heartbeat_at=beat)
                row = {"username": "ann_x", "owner": "ann", "address": "::1", "started_at": beat, "active_at": beat}
                session.add_all([service, SessionRow(id=name, service_id=name, tls="TLSv1.3", **row)])
        found = samples(database)
        assert found["wsp_service_processes", "service=ftp"] == 1
        assert found["wsp_ftp_sessions", "tls=true"] == 1
        assert found["wsp_ftp_sessions", "tls=false"] == 0

    def test_bans_in_force(self, database: Database) -> None:
        now = utc_now()
        guest: dict[str, Any] = {"kind": "address", "score": 1.0, "scored_at": now, "bans": 1, "reason": ""}
        with database.transaction() as session:
            session.add(Guest(subject="192.0.2.1", banned_until=now + timedelta(hours=1), **guest))
            session.add(Guest(subject="192.0.2.2", banned_until=now - timedelta(hours=1), **guest))
        assert samples(database)["wsp_ftp_bans",] == 1

    def test_mails_that_wait(self, jobs: JobStore) -> None:
        job, now = jobs.add(), utc_now()
        with jobs.database.transaction() as session:
            for status in ("pending", "sent"):
                session.add(
                    Notice(
                        job_id=job,
                        kind="run",
                        recipient="a@example.org",
                        subject="s",
                        body="b",
                        status=status,
                        due_at=now,
                        created_at=now,
                    )
                )
        assert samples(jobs.database)["wsp_cron_mails_pending",] == 1


class TestWhoMayLook:
    @pytest.mark.parametrize(("public", "status"), [(True, 200), (False, 401)])
    def test_everybody_when_the_setting_says_so(self, database: Database, public: bool, status: int) -> None:
        app = create_app(Settings(metrics_public=public), database)

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wsp") as client:
                return await client.get("/metrics")

        assert asyncio.run(ask()).status_code == status
