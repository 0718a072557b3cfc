"""Run now, toggle, pause and resume, maintenance windows; against a running server."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from wsp.cron.models import JobRun
from wsp.database import Database

pytestmark = pytest.mark.e2e

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+07:00")
NIGHTLY = {"name": "nightly", "command": "echo hello", "cron_expr": "0 3 * * *"}
NO_PAUSE = {"paused": False, "paused_at": None, "until": None, "reason": ""}
ONCE = {"starts_at": "2999-01-31T00:00:00Z", "ends_at": "2999-01-31T02:00:00Z"}
AGAIN = {"cron_expr": "0 22 * * sun", "duration_seconds": 7200, "timezone": "Europe/Berlin"}


@pytest.mark.parametrize("slash", ["", "/"])
class TestBothSlashForms:
    def test_run(self, ann: Any, slash: str) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY | {"enabled": False}).json()["id"]
        answer = ann("POST", f"/cronjobs/{job}/run{slash}")
        assert answer.status_code == 202
        run = answer.json()
        assert list(run)[:3] == ["run_id", "id", "job_id"]
        assert (run["run_id"], run["job_id"], run["status"], run["ok"]) == (run["id"], job, "queued", False)
        assert (run["trigger"], run["requested_by"], run["started_at"]) == ("manual", ann.username, None)
        assert TIME.fullmatch(run["scheduled_for"])
        assert answer.headers["Location"] == f"/api/v1/cronjobs/{job}/runs/{run['id']}"
        listed = ann("GET", f"/cronjobs/{job}/logs").json()
        assert [entry["id"] for entry in listed] == [run["id"]]

    def test_toggle(self, ann: Any, slash: str) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY).json()
        answer = ann("POST", f"/cronjobs/{job['id']}/toggle{slash}")
        assert answer.status_code == 200
        assert list(answer.json()) == list(job)
        assert answer.json()["enabled"] is False
        assert ann("POST", f"/cronjobs/{job['id']}/toggle{slash}").json()["enabled"] is True

    def test_pause_and_resume(self, ann: Any, slash: str) -> None:
        nothing = {"owner": ann.username, **NO_PAUSE}
        assert ann("GET", f"/cronjobs/pause{slash}").json() == nothing
        paused = ann("POST", f"/cronjobs/pause{slash}")
        assert paused.status_code == 200
        assert TIME.fullmatch(paused.json()["paused_at"])
        assert paused.json() == nothing | {"paused": True, "paused_at": paused.json()["paused_at"]}
        assert ann("GET", f"/cronjobs/pause{slash}").json() == paused.json()
        resumed = ann("POST", f"/cronjobs/resume{slash}")
        assert (resumed.status_code, resumed.json()) == (200, nothing)
        assert ann("GET", f"/cronjobs/pause{slash}").json() == nothing

    def test_maintenance(self, ann: Any, slash: str) -> None:
        path = f"/cronjobs/maintenance{slash}"
        assert ann("GET", f"{path}?owner={ann.username}").json() == {"windows": [], "total": 0}
        windows = []
        for body in (ONCE, AGAIN | {"tag": "db", "reason": "The database moves"}):
            answer = ann("POST", path, body)
            assert answer.status_code == 201, answer.text
            windows.append(answer.json())
        common = {"owner": ann.username, "tag": "", "reason": "", "timezone": ""}
        assert windows[0] == common | {
            "id": windows[0]["id"],
            "starts_at": "2999-01-31T07:00:00+07:00",
            "ends_at": "2999-01-31T09:00:00+07:00",
            "cron_expr": "",
            "duration_seconds": 0,
            "created_at": windows[0]["created_at"],
        }
        assert windows[1] == common | AGAIN | {
            "id": windows[1]["id"],
            "starts_at": None,
            "ends_at": None,
            "tag": "db",
            "reason": "The database moves",
            "created_at": windows[1]["created_at"],
        }
        answer = ann("GET", f"{path}?owner={ann.username}&search=moves")
        assert answer.json() == {"windows": windows[1:], "total": 1}
        assert answer.headers["X-Total-Count"] == "1"
        deleted = ann("DELETE", f"/cronjobs/maintenance/{windows[0]['id']}{slash}")
        assert deleted.text == '{"message":"Maintenance window deleted successfully"}'
        assert ann("GET", f"{path}?owner={ann.username}").json() == {"windows": windows[1:], "total": 1}


class TestRun:
    def test_is_the_same_for_a_repeated_request(self, ann: Any, store_of_server: Database) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY | {"overlap": "queue"}).json()["id"]
        first, again = (
            ann("POST", f"/cronjobs/{job}/run", headers={"Idempotency-Key": f"run-{job}"}) for _ in range(2)
        )
        assert (again.status_code, again.json()) == (202, first.json())
        with store_of_server.reading() as session:
            assert session.scalars(select(JobRun.id).where(JobRun.job_id == job)).all() == [first.json()["id"]]

    def test_takes_no_body(self, ann: Any) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        answer = ann("POST", f"/cronjobs/{job}/run", {"command": "false"})
        assert (answer.status_code, answer.json()["error"]) == (400, "This call takes no body")

    def test_starts_at_once(self, ann: Any, wait_until: Callable[..., Any]) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY | {"enabled": False}).json()["id"]
        ann("POST", "/cronjobs/pause")
        ann("POST", f"/cronjobs/{job}/run")

        def over() -> Any:
            (run,) = ann("GET", f"/cronjobs/{job}/logs").json()
            return run if run["finished_at"] else None

        run = wait_until(over, "the run ends", 20)
        assert (run["status"], run["output"], run["trigger"]) == ("succeeded", "hello\n", "manual")

    def test_is_refused_while_another_one_is_going(self, ann: Any, wait_until: Callable[..., Any]) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY | {"command": "sleep 60", "enabled": False}).json()["id"]
        run = ann("POST", f"/cronjobs/{job}/run").json()["id"]
        answer = ann("POST", f"/cronjobs/{job}/run")
        assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
        assert re.fullmatch(f"Run {run} of this job is (still going|about to start)", answer.json()["error"])


class TestPause:
    def test_is_shown_with_the_jobs(self, ann: Any, wait_until: Callable[..., Any]) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY).json()
        path = f"/cronjobs/{job['id']}"
        armed = wait_until(lambda: ann("GET", path).json()["next_run_at"], "the job is armed", 10)
        assert "paused" not in ann("GET", path).json()
        paused = ann("POST", "/cronjobs/pause", {"reason": "The database moves"}).json()
        assert paused["reason"] == "The database moves"
        for shown in (ann("GET", path).json(), ann("GET", "/cronjobs/").json()[0], ann("PUT", path, {}).json()):
            assert (shown["paused"], shown["next_run_at"]) == (True, None)
        # A pause that is over when the job is due next.
        until = armed.replace("T03:00:00", "T02:59:59")
        again = ann("POST", "/cronjobs/pause", {"until": until}).json()
        assert (again["until"], again["reason"], again["paused_at"]) == (until, "", paused["paused_at"])
        shown = ann("GET", path).json()
        assert (shown["paused"], shown["next_run_at"]) == (True, armed)
        ann("POST", "/cronjobs/resume")
        shown = ann("GET", path).json()
        assert ("paused" in shown, shown["next_run_at"]) == (False, armed)

    def test_of_an_owner_by_an_admin(self, ann: Any, admin: Any) -> None:
        paused = admin("POST", "/cronjobs/pause", {"owner": ann.username, "reason": "Unpaid"}).json()
        assert ann("GET", "/cronjobs/pause").json() == paused
        assert admin("GET", f"/cronjobs/pause?owner={ann.username}").json() == paused
        assert admin("POST", "/cronjobs/resume", {"owner": ann.username}).json()["paused"] is False
        assert ann("GET", "/cronjobs/pause").json()["paused"] is False


class TestMaintenance:
    def test_for_everybody_is_for_admins(self, ann: Any, admin: Any) -> None:
        answer = admin("POST", "/cronjobs/maintenance", ONCE | {"owner": "*", "tag": f"of-{ann.username}"})
        window = answer.json()
        assert (answer.status_code, window["owner"]) == (201, "*")
        assert window in ann("GET", "/cronjobs/maintenance").json()["windows"]
        refused = ann("DELETE", f"/cronjobs/maintenance/{window['id']}")
        assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
        assert admin("DELETE", f"/cronjobs/maintenance/{window['id']}").status_code == 200
        assert window not in ann("GET", "/cronjobs/maintenance").json()["windows"]

    def test_of_an_owner_by_an_admin(self, ann: Any, admin: Any) -> None:
        window = admin("POST", "/cronjobs/maintenance", AGAIN | {"owner": ann.username}).json()
        assert window["owner"] == ann.username
        assert ann("DELETE", f"/cronjobs/maintenance/{window['id']}").status_code == 200

    def test_what_is_missing_is_said(self, ann: Any) -> None:
        for body, sentence, fields in (
            ({}, "Starts at is required, or a cron expression with its duration", ["starts_at", "ends_at"]),
            ({"starts_at": ONCE["starts_at"]}, "Ends at is required", ["ends_at"]),
            ({"duration_seconds": 60}, "Cron expression is required", ["cron_expr"]),
            ({"cron_expr": "@daily"}, "Duration seconds is required", ["duration_seconds"]),
        ):
            error = ann("POST", "/cronjobs/maintenance", body).json()
            assert (error["error"], [detail["field"] for detail in error["details"]]) == (sentence, fields)

    @pytest.mark.parametrize("number", ["0", "-1", "99999999999", "9" * 40])
    def test_a_number_that_no_window_has_is_not_found(self, ann: Any, number: str) -> None:
        assert ann("DELETE", f"/cronjobs/maintenance/{number}").status_code == 404
