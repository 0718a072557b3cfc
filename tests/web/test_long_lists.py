"""Lists without a limit: complete, in memory that does not grow with them, and an error when something goes wrong."""

import asyncio
import json
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter
from pydantic_core import to_json
from sqlalchemy import event, insert, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from wsp import paging
from wsp.auth.models import User
from wsp.auth.service import issue_key
from wsp.cron.history import runs
from wsp.cron.models import CronJob, JobRun, Notice
from wsp.cron.schemas.jobs import JobOut
from wsp.cron.schemas.notices import NoticeOut, shown_notice
from wsp.cron.schemas.runs import RunOut
from wsp.cron.surroundings import look_around
from wsp.database import Database, utc_now
from wsp.ftp.models import FtpAccount
from wsp.ftp.schemas import AccountList, AccountOut
from wsp.heartbeat import ServiceRow
from wsp.rest import long_answers
from wsp.settings import load_settings
from wsp.web.app import create_app

NOON = datetime(2026, 5, 18, 12, 0, 0, 250_000, tzinfo=UTC)
JOBS, ACCOUNTS = "/api/v1/cronjobs", "/api/v1/ftp"
LOG, NOTICES, ALL_NOTICES = f"{JOBS}/1/logs", f"{JOBS}/1/notices", f"{JOBS}/notices"
EVERY = (JOBS, ACCOUNTS, LOG, NOTICES, ALL_NOTICES)

Lists = tuple[FastAPI, str, Database]


@pytest.fixture
def lists(database: Database, tmp_path: Path) -> Lists:
    """The API, a key of the only owner, and the store."""
    with database.transaction() as session:
        user = User(username="ann", email="", role="admin", status="active", created_at=NOON, updated_at=NOON)
        session.add(user)
        session.flush()
        key = issue_key(session, user, name="test")[1]
    return create_app(load_settings(data_dir=tmp_path, timezone="Asia/Kathmandu"), database), key, database


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows make several pieces, and a file."""
    monkeypatch.setattr(paging, "PIECE_ROWS", 3)
    monkeypatch.setattr(runs, "WITH_OUTPUT_AT_ONCE", 2)
    monkeypatch.setattr(long_answers, "BYTES_IN_MEMORY", 500)
    monkeypatch.setattr(long_answers, "BYTES_AT_ONCE", 64)


def get(lists: Lists, path: str) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=lists[0], raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {lists[1]}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client:
            return await client.get(path)

    return asyncio.run(call())


def add_jobs(database: Database, rows: list[dict[str, Any]]) -> None:
    defaults = {
        "owner": "ann",
        "name": "nightly",
        "command": "true",
        "cron_expr": "0 3 * * *",
        "created_at": NOON,
        "updated_at": NOON + timedelta(days=200),
        "revision": 1,
        "armed_revision": 1,
    }
    with database.transaction() as session:
        for row in rows:  # one by one: they name different columns
            session.execute(insert(CronJob), defaults | row)


def add_accounts(database: Database, rows: list[dict[str, Any]]) -> None:
    defaults = {"owner": "ann", "home_dir": "/home/ann", "password_hash": "x", "created_at": NOON, "updated_at": NOON}
    with database.transaction() as session:
        for n, row in enumerate(rows):
            session.execute(insert(FtpAccount), defaults | {"username": f"ann_{n}"} | row)


def add_runs(database: Database, rows: list[dict[str, Any]]) -> None:
    """Of job 1: each a minute older than the one before."""
    defaults = {"job_id": 1, "trigger": "schedule", "status": "succeeded"}
    with database.transaction() as session:
        for n, row in enumerate(rows):
            session.execute(insert(JobRun), defaults | {"scheduled_for": NOON - n * timedelta(minutes=1)} | row)


def add_notices(database: Database, rows: list[dict[str, Any]]) -> None:
    """About job 1: each a minute older than the one before."""
    defaults = {"job_id": 1, "kind": "run", "recipient": "a@example.com", "subject": "failed", "body": "secret words"}
    defaults |= {"status": "withheld", "error": ""}
    with database.transaction() as session:
        for n, row in enumerate(rows):
            made = NOON - n * timedelta(minutes=1)
            session.execute(insert(Notice), defaults | {"due_at": made, "created_at": made} | row)


def add_some_of_each(database: Database) -> None:
    add_jobs(database, [{}] * 10)
    add_accounts(database, [{}] * 10)
    add_runs(database, [{}] * 10)
    add_notices(database, [{}] * 10)


MANY_JOBS: list[dict[str, Any]] = [
    {},
    {"name": "ünïcode \u2028 \U0001f600", "command": 'a "quoted"\n\ttab\x7f', "enabled": False},
    {"last_run_at": NOON, "last_run_ok": True, "email_on_complete": "a@example.com", "email_on_error": True},
    {"domain": "example.com", "timezone": "Europe/Berlin", "description": "text", "tags": ",a,b,"},
    {"next_run_at": NOON + timedelta(days=9000)},
    {
        "policy": {
            "alert_duration_factor": 3.0,
            "retry_backoff": 1.5,
            "alert_on": ["recovery"],
            "env": {"A": "1", "TOKEN": "hidden"},
            "secrets": ["TOKEN"],
            "overlap": "queue",
            "of a later version": 1,
        }
    },
    {"policy": {"stdin": "yes\n", "nice": 5, "retry_backoff": 1e16}, "revision": 2},
]
MANY_ACCOUNTS: list[dict[str, Any]] = [
    {},
    {"domain": "example.com", "quota_mb": 5, "read_only": True, "enabled": False, "allowed_ips": ["192.0.2.1"]},
    {"permissions": [{"folder": "/", "allow": ["list", "read"]}], "description": "ü"},
    {"expires_at": NOON, "max_sessions": 1, "upload_kbps": 2, "download_kbps": 3, "require_tls": True},
    {"home_subdir": "sites/blog", "home_dir": "/home/ann/sites/blog"},
]
MANY_RUNS: list[dict[str, Any]] = [
    {},
    {"status": "queued", "start_at": NOON + timedelta(minutes=1), "requested_by": "ann", "trigger": "manual"},
    {"status": "running", "started_at": NOON, "start_at": NOON, "kill_requested_at": NOON, "kill_reason": "Killed"},
    {"status": "failed", "exit_code": 3, "attempt": 2, "cause_run_id": 1, "reason": "ünïcode \u2028", "duration_ms": 0},
    {"finished_at": NOON, "exit_code": 0, "output": 'a "quoted"\n\x1b[0m\U0001f600', "output_truncated": True},
    {"cpu_ms": 0, "memory_kb": 5, "output_bytes": 7, "output_frames": b"x", "output_in_file": True},
    {"status": "skipped", "reason": "The job is paused"},
]
MANY_NOTICES: list[dict[str, Any]] = [
    {},
    {"run_id": 7, "status": "pending", "next_attempt_at": NOON, "attempts": 2, "error": "ünïcode \u2028"},
    {"status": "sent", "finished_at": NOON, "subject": 'a "quoted" \U0001f600'},
    {"status": "failed"},
    {"kind": "unusual", "status": "sent"},
]


class TestComplete:
    def test_jobs_are_what_their_schema_says_to_the_byte(self, lists: Lists, short_pieces: None) -> None:
        app, _, database = lists
        add_jobs(database, MANY_JOBS)
        with database.transaction() as session:
            now = utc_now()
            for_long = now + timedelta(hours=1)
            session.add(ServiceRow(id="me", node="here", kind="cron", pid=1, started_at=now, heartbeat_at=for_long))
        zone = app.state.wsp.zone
        with database.reading() as session:
            jobs = session.scalars(select(CronJob).order_by(CronJob.id)).all()
            around = look_around(session, jobs, zone)
            expected = TypeAdapter(list[JobOut]).dump_json([JobOut.of(job, zone, around) for job in jobs])
        for path in (JOBS, f"{JOBS}/", f"{JOBS}?limit=100"):
            answer = get(lists, path)
            assert answer.content == expected
            assert answer.headers["x-total-count"] == str(len(MANY_JOBS))
            assert answer.headers["content-length"] == str(len(expected))
            assert answer.headers["content-type"] == "application/json"
        assert any("next_run_at" in job and job["next_run_at"] for job in answer.json())

    def test_accounts_are_what_their_schema_says_to_the_byte(self, lists: Lists, short_pieces: None) -> None:
        app, _, database = lists
        add_accounts(database, MANY_ACCOUNTS)
        zone = app.state.wsp.zone
        with database.reading() as session:
            rows = session.scalars(select(FtpAccount).order_by(FtpAccount.username))
            accounts = [AccountOut.of(row, zone) for row in rows]
        expected = AccountList(accounts=accounts, total=len(accounts)).model_dump_json().encode()
        for path in (ACCOUNTS, f"{ACCOUNTS}/", f"{ACCOUNTS}/?limit=100"):
            answer = get(lists, path)
            assert answer.content == expected
            assert answer.headers["x-total-count"] == str(len(MANY_ACCOUNTS))

    @pytest.mark.parametrize("query", ["?output=true", "?output=false"])
    def test_runs_are_what_their_schema_says_to_the_byte(self, lists: Lists, short_pieces: None, query: str) -> None:
        app, _, database = lists
        add_jobs(database, [{}])
        add_runs(database, MANY_RUNS)
        zone = app.state.wsp.zone
        with database.reading() as session:
            rows = session.scalars(select(JobRun).order_by(JobRun.scheduled_for.desc())).all()
            shown = [RunOut.of(row, zone) for row in rows]
        if query.endswith("false"):
            shown = [run.model_copy(update={"output": ""}) for run in shown]
        expected = TypeAdapter(list[RunOut]).dump_json(shown)
        for path in (LOG, f"{LOG}/"):
            for part in ("", "&limit=100", "&offset=0"):
                answer = get(lists, f"{path}{query}{part}")
                assert answer.content == expected
                assert answer.headers["x-total-count"] == str(len(MANY_RUNS))
                assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize("path", [NOTICES, ALL_NOTICES])
    def test_mails_are_what_their_schema_says_to_the_byte(self, lists: Lists, short_pieces: None, path: str) -> None:
        app, _, database = lists
        add_jobs(database, [{}])
        add_notices(database, MANY_NOTICES)
        with database.reading() as session:
            rows = session.scalars(select(Notice).order_by(Notice.created_at.desc())).all()
            shown = [NoticeOut(**shown_notice(row, app.state.wsp.zone)) for row in rows]
        expected = TypeAdapter(list[NoticeOut]).dump_json(shown)
        for asked in (path, f"{path}/", f"{path}?limit=100"):
            answer = get(lists, asked)
            assert answer.content == expected
            assert answer.headers["x-total-count"] == str(len(MANY_NOTICES))

    def test_parts_of_a_log_fit_together(self, lists: Lists, short_pieces: None) -> None:
        add_jobs(lists[2], [{}])
        add_runs(lists[2], [{"reason": str(n)} for n in range(10)])
        every = [run["reason"] for run in get(lists, LOG).json()]
        assert every == [str(n) for n in range(10)]
        for limit in (1, 3, 4, 10, 11):
            walked, url = [], f"{LOG}?limit={limit}"
            while url:
                answer = get(lists, url)
                walked += [run["reason"] for run in answer.json()]
                assert answer.headers["x-total-count"] == "10"
                url = answer.links.get("next", {}).get("url", "")
            assert walked == every
        newest = get(lists, f"{LOG}?limit=7&offset=3").links["prev"]["url"]
        assert [run["reason"] for run in get(lists, newest).json()] == every[:3]

    def test_empty_ones(self, lists: Lists) -> None:
        assert (get(lists, JOBS).content, get(lists, ACCOUNTS).content) == (b"[]", b'{"accounts":[],"total":0}')

    def test_parts_of_any_size_fit_together(self, lists: Lists, short_pieces: None) -> None:
        add_jobs(lists[2], [{"name": str(n), "enabled": n != 5} for n in range(10)])
        every = [job["name"] for job in get(lists, JOBS).json()]
        assert every == [str(n) for n in range(10)]
        for limit in (1, 3, 4, 10, 11):
            answer = get(lists, f"{JOBS}?limit={limit}&offset=2")
            assert [job["name"] for job in answer.json()] == every[2 : 2 + limit]
            assert answer.headers["x-total-count"] == "10"
            assert ("next" in answer.headers.get("link", "")) == (2 + limit < 10)
        assert [job["name"] for job in get(lists, f"{JOBS}?offset=8").json()] == every[8:]
        assert [job["name"] for job in get(lists, f"{JOBS}?enabled=true").json()] == every[:5] + every[6:]
        assert [job["name"] for job in get(lists, f"{JOBS}?enabled=false").json()] == ["5"]


class TestOthers:
    @pytest.mark.parametrize("path", EVERY)
    def test_do_not_wait_while_a_list_is_written(
        self, lists: Lists, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is written as JSON by another thread than the one that answers everybody."""
        add_some_of_each(lists[2])
        threads: list[threading.Thread] = []

        def write(item: Any) -> bytes:
            threads.append(threading.current_thread())
            return to_json(item)

        monkeypatch.setattr(long_answers, "to_json", write)
        assert get(lists, path).status_code == 200
        assert len(threads) == 10
        assert threading.current_thread() not in threads


class TestMemory:
    @pytest.mark.parametrize("path", EVERY)
    def test_does_not_grow_with_the_list(self, lists: Lists, path: str) -> None:
        app, key, database = lists
        count, long = 4000, "x" * 3000
        with database.transaction() as session:
            job = {"owner": "ann", "name": "n", "command": long, "cron_expr": "0 3 * * *", "created_at": NOON}
            session.execute(insert(CronJob), [job | {"updated_at": NOON}] * count)
            account = {"owner": "ann", "home_dir": "/home/ann", "password_hash": "x", "created_at": NOON}
            account |= {"updated_at": NOON, "permissions": [{"folder": f"/{long}", "allow": ["list"]}]}
            session.execute(insert(FtpAccount), [account | {"username": f"ann_{n:04}"} for n in range(count)])
            run = {"job_id": 1, "trigger": "schedule", "status": "succeeded", "output": long}
            due = ({"scheduled_for": NOON + n * timedelta(microseconds=1)} for n in range(count))
            session.execute(insert(JobRun), [run | each for each in due])
            notice = {"job_id": 1, "kind": "run", "status": "withheld", "body": "", "due_at": NOON, "created_at": NOON}
            notice |= {"recipient": long[:250], "subject": long[:300], "error": long[:300]}
            session.execute(insert(Notice), [notice] * (3 * count))  # their texts are short
        sent = 0

        async def send(message: Any) -> None:
            nonlocal sent
            assert message.get("status", 200) == 200
            sent += len(message.get("body", b""))

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"limit=12000",
            "headers": [(b"authorization", f"Bearer {key}".encode())],
            "http_version": "1.1",
            "scheme": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
        }

        async def call() -> None:
            await app(scope, receive, send)

        tracemalloc.start()
        try:
            asyncio.run(call())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sent > count * len(long)
        assert peak < sent * 0.7, (peak, sent)


class TestTroubleInTheMiddle:
    @pytest.mark.parametrize(
        ("error", "status"),
        [(OperationalError("SELECT", {}, Exception("it is away")), 503), (RuntimeError("unforeseen"), 500)],
    )
    @pytest.mark.parametrize("path", EVERY)
    def test_is_an_error_and_never_a_short_list(
        self, lists: Lists, short_pieces: None, path: str, error: Exception, status: int
    ) -> None:
        database = lists[2]
        add_some_of_each(database)
        pieces = 0

        def fail(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            nonlocal pieces
            pieces += "cron_runs.id IN" in statement or "cron_notices.id IN" in statement
            if "cron_jobs.id >" in statement or "ftp_accounts.username >" in statement or pieces == 2:
                raise error

        event.listen(database.engine, "before_cursor_execute", fail)
        answer = get(lists, path)
        assert (answer.status_code, answer.json()["success"]) == (status, False)


class TestPlans:
    """Each piece is found by an index, in the order of the list: nothing is sorted, however much there is."""

    @pytest.mark.parametrize(
        "path",
        [
            *(f"{JOBS}{query}" for query in ("?limit=9", "?limit=9&owner=ann", "?limit=9&enabled=true")),
            *(f"{ACCOUNTS}{query}" for query in ("?limit=9", "?limit=9&owner=ann", "?limit=9&domain=a.example")),
        ],
    )
    def test_no_piece_sorts(self, lists: Lists, short_pieces: None, path: str) -> None:
        database = lists[2]
        add_jobs(database, [{}] * 10)
        add_accounts(database, [{"domain": "a.example"}] * 10)
        asked: list[tuple[str, Any]] = []

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
            asked.append((statement, parameters))

        event.listen(database.engine, "before_cursor_execute", note)
        assert get(lists, path).status_code == 200
        event.remove(database.engine, "before_cursor_execute", note)
        pieces = [each for each in asked if "ORDER BY cron_jobs.id" in each[0] or "BY ftp_accounts.user" in each[0]]
        assert len(pieces) == 3
        with database.engine.connect() as connection, Session(connection) as session:
            for statement, parameters in pieces:
                plan = _plan(session, statement, parameters, database)
                assert "SORT" not in plan.upper().replace("SORT KEY", ""), plan
                assert "TEMP B-TREE" not in plan, plan


def _plan(session: Session, statement: str, parameters: Any, database: Database) -> str:
    raw: Any = session.connection().connection.driver_connection
    if database.is_sqlite:
        return "\n".join(str(row[3]) for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
    # With so few rows PostgreSQL would rather sort them.
    raw.execute("SET enable_sort = off")
    raw.execute("SET enable_seqscan = off")
    raw.execute("SET enable_bitmapscan = off")
    return json.dumps([row[0] for row in raw.execute(f"EXPLAIN {statement}", parameters)])
