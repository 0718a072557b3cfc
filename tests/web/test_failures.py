"""What the API says when its store does not answer, and when an endpoint fails."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from wsp.database import Database
from wsp.settings import load_settings
from wsp.web.app import create_app

KEY = {"Authorization": "Bearer wsp_" + "0" * 48}


def get(app: FastAPI, path: str) -> httpx.Response:
    """One GET with a key, without a server in between."""

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=KEY) as client:
            return await client.get(path)

    return asyncio.run(call())


@pytest.fixture
def app_without_store(tmp_path: Path, free_port: Callable[[], int]) -> FastAPI:
    """The API on a PostgreSQL that is not there."""
    database = Database(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none")
    return create_app(load_settings(data_dir=tmp_path, timezone="UTC"), database)


class TestStoreAway:
    def test_a_request_is_answered_503_and_told_to_come_back(self, app_without_store: FastAPI) -> None:
        answer = get(app_without_store, "/api/v1/ftp/")
        assert (answer.status_code, answer.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        assert "127.0.0.1" not in answer.text

    def test_health_is_good_and_readiness_names_the_database(self, app_without_store: FastAPI) -> None:
        assert get(app_without_store, "/healthz").status_code == 200
        answer = get(app_without_store, "/readyz")
        assert answer.status_code == 503
        envelope = ["success", "code", "error", "message", "status"]
        assert list(answer.json()) == [*envelope, "checks", "not_ready"]
        assert answer.json()["not_ready"] == ["database"]


class TestSchemaMissing:
    def test_readiness_names_the_migrations(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
        answer = get(create_app(load_settings(data_dir=tmp_path, timezone="UTC"), database), "/readyz")
        database.close()
        assert answer.status_code == 503
        assert "migrations" in answer.json()["not_ready"]


class TestUnforeseen:
    def test_an_endpoint_that_fails_is_a_500_with_an_id_and_nothing_else(
        self, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = create_app(load_settings(data_dir=tmp_path, timezone="UTC"), database)

        @app.get("/broken")
        def broken() -> None:
            raise RuntimeError("/secret/path SELECT * FROM users")

        answer = get(app, "/broken")
        body = answer.json()
        assert answer.status_code == 500
        assert list(body) == ["success", "code", "error", "message", "status", "request_id"]
        assert "secret" not in answer.text
        assert body["request_id"] in caplog.text
