"""Lists without a limit: complete, in memory that does not grow with them, and an error when something goes wrong."""

import asyncio
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter
from sqlalchemy import event, insert, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from wsp import paging
from wsp.auth.models import User
from wsp.auth.service import issue_key
from wsp.cron.models import CronJob
from wsp.cron.schemas.jobs import JobOut
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


class TestMemory:
    @pytest.mark.parametrize("path", [JOBS, ACCOUNTS])
    def test_does_not_grow_with_the_list(self, lists: Lists, path: str) -> None:
        app, key, database = lists
        count, long = 4000, "x" * 3000
        with database.transaction() as session:
            job = {"owner": "ann", "name": "n", "command": long, "cron_expr": "0 3 * * *", "created_at": NOON}
            session.execute(insert(CronJob), [job | {"updated_at": NOON}] * count)
            account = {"owner": "ann", "home_dir": "/home/ann", "password_hash": "x", "created_at": NOON}
            account |= {"updated_at": NOON, "permissions": [{"folder": f"/{long}", "allow": ["list"]}]}
            session.execute(insert(FtpAccount), [account | {"username": f"ann_{n:04}"} for n in range(count)])
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
            "query_string": b"limit=4000",
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
        assert peak < sent * 0.7


class TestTroubleInTheMiddle:
    @pytest.mark.parametrize(
        ("error", "status"),
        [(OperationalError("SELECT", {}, Exception("it is away")), 503), (RuntimeError("unforeseen"), 500)],
    )
    @pytest.mark.parametrize("path", [JOBS, ACCOUNTS])
    def test_is_an_error_and_never_a_short_list(
        self, lists: Lists, short_pieces: None, path: str, error: Exception, status: int
    ) -> None:
        database = lists[2]
        add_jobs(database, [{}] * 10)
        add_accounts(database, [{}] * 10)

        def fail(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if "cron_jobs.id >" in statement or "ftp_accounts.username >" in statement:
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
