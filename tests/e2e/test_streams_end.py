"""Streams that have no end of their own do not hold up the server's."""

import json
import urllib.request
from datetime import timedelta
from typing import Any

import pytest

from wsp.cron.models import JobRun
from wsp.database import Database, utc_now
from wsp.heartbeat import ServiceRow, node_name

pytestmark = pytest.mark.e2e

NEVER = {"name": "never", "command": "true", "cron_expr": "0 0 1 1 *"}


def test_those_who_look_on_are_let_go_at_once(start_server: Any) -> None:
    server = start_server()
    _, job = server.call("POST", "/cronjobs/", NEVER)
    database, now = Database(server.environment["WSP_DATABASE_URL"]), utc_now()
    with database.transaction() as session:
        # A run of a scheduler that lives, but does nothing: it never ends.
        heartbeat = now + timedelta(hours=1)
        session.add(
            ServiceRow(id="other", node="elsewhere", kind="cron", pid=1, started_at=now, heartbeat_at=heartbeat)
        )
        run = JobRun(job_id=job["id"], scheduled_for=now, trigger="manual", status="running", node=node_name())
        run.service_id = "other"
        session.add(run)
    database.close()
    request = urllib.request.Request(
        f"{server.url}/api/v1/cronjobs/{job['id']}/runs/{run.id}/stream",
        headers={"Authorization": f"Bearer {server.token}"},
    )
    streams = [urllib.request.urlopen(request, timeout=60) for _ in range(3)]
    for stream in streams:
        assert stream.readline() == b"retry: 2000\n"
        stream.readline()
        assert stream.readline() == b"event: status\n"
        assert json.loads(stream.readline().removeprefix(b"data: ")) == {"status": "running"}
    assert server.stop() == 0
    for stream in streams:
        with stream:
            stream.read()  # raises IncompleteRead for an answer that was broken off
    assert "running task" not in server.log()
