"""The cron table of the contract, row by row, against a running server."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update

from wsp.cron.models import CronJob

pytestmark = pytest.mark.e2e

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+07:00")
JOB_KEYS = [
    "id",
    "name",
    "command",
    "cron_expr",
    "enabled",
    "owner",
    "last_run_at",
    "last_run_ok",
    "next_run_at",
    "email_on_complete",
    "email_on_error",
    "created_at",
    "updated_at",
]
NIGHTLY = {"name": "nightly", "command": "/usr/bin/php /home/admin/cron.php", "cron_expr": "0 3 * * *"}


def assert_job(body: dict[str, Any], expected: dict[str, Any], *, added: list[str] | None = None) -> None:
    """The documented keys, all of them and in order, then the added ones; times by their form."""
    assert list(body) == JOB_KEYS + (added or [])
    assert {name: body[name] for name in expected} == expected
    assert TIME.fullmatch(body["created_at"])
    assert TIME.fullmatch(body["updated_at"])
    assert body["next_run_at"] is None or TIME.fullmatch(body["next_run_at"])


@pytest.mark.parametrize("slash", ["", "/"])
class TestBothSlashForms:
    def test_list_of_nothing(self, ann: Any, slash: str) -> None:
        answer = ann("GET", f"/cronjobs{slash}")
        assert (answer.status_code, answer.text) == (200, "[]")

    def test_create(self, ann: Any, slash: str) -> None:
        answer = ann("POST", f"/cronjobs{slash}", NIGHTLY)
        assert answer.status_code == 201
        body = answer.json()
        assert isinstance(body["id"], int)
        assert_job(
            body,
            {
                **NIGHTLY,
                "enabled": True,
                "owner": ann.username,
                "last_run_at": None,
                "last_run_ok": False,
                "next_run_at": None,
                "email_on_complete": "",
                "email_on_error": False,
            },
        )

    def test_show_and_list(self, ann: Any, slash: str) -> None:
        created = ann("POST", "/cronjobs", NIGHTLY | {"enabled": False}).json()
        assert ann("GET", f"/cronjobs/{created['id']}{slash}").json() == created
        assert ann("GET", f"/cronjobs{slash}").json() == [created]

    def test_change(self, ann: Any, slash: str) -> None:
        job = ann("POST", "/cronjobs", NIGHTLY).json()
        answer = ann("PUT", f"/cronjobs/{job['id']}{slash}", {"enabled": False})
        assert answer.status_code == 200
        assert_job(answer.json(), {**NIGHTLY, "enabled": False, "next_run_at": None})

    def test_logs(self, ann: Any, slash: str) -> None:
        job = ann("POST", "/cronjobs", NIGHTLY).json()
        answer = ann("GET", f"/cronjobs/{job['id']}/logs{slash}")
        assert (answer.status_code, answer.text) == (200, "[]")

    def test_delete(self, ann: Any, slash: str) -> None:
        job = ann("POST", "/cronjobs", NIGHTLY).json()
        answer = ann("DELETE", f"/cronjobs/{job['id']}{slash}")
        assert (answer.status_code, answer.text) == (200, '{"message":"Cron job deleted successfully"}')
        assert ann("GET", f"/cronjobs/{job['id']}").status_code == 404
        assert ann("GET", f"/cronjobs/{job['id']}/logs").status_code == 404


class TestCreate:
    def test_checks_in_the_fixed_order(self, ann: Any) -> None:
        expected = [
            ({}, "Command is required"),
            ({"name": "n", "cron_expr": "bad"}, "Command is required"),
            ({"command": "", "name": "", "cron_expr": ""}, "Command is required"),
            ({"command": "c", "cron_expr": "bad"}, "Name is required"),
            ({"command": "c", "name": "n"}, "Cron expression is required"),
            ({"command": "c", "name": "n", "cron_expr": " "}, "Cron expression is required"),
        ]
        for body, sentence in expected:
            answer = ann("POST", "/cronjobs/", body)
            assert (answer.status_code, answer.json()["error"]) == (400, sentence)

    def test_an_empty_request_is_an_empty_body(self, ann: Any) -> None:
        answer = ann("POST", "/cronjobs/")
        assert (answer.status_code, answer.json()["error"]) == (400, "Command is required")

    @pytest.mark.parametrize(
        ("expression", "field"),
        [
            ("61 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of month"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "day of week"),
            ("0 0 31 2 *", "day of month"),
        ],
    )
    def test_says_which_field_of_the_expression_is_wrong(self, ann: Any, expression: str, field: str) -> None:
        answer = ann("POST", "/cronjobs/", NIGHTLY | {"cron_expr": expression})
        assert answer.status_code == 400
        assert field in answer.json()["error"]
        assert answer.json()["details"][0]["field"] == "cron_expr"

    def test_takes_every_field_that_a_change_takes(self, ann: Any) -> None:
        fields = {
            "domain": "example.com",
            "enabled": False,
            "email_on_complete": "ops@example.com",
            "email_on_error": True,
        }
        created = ann("POST", "/cronjobs/", NIGHTLY | fields).json()
        assert_job(created, NIGHTLY | fields, added=["domain"])
        assert ann("PUT", f"/cronjobs/{created['id']}", NIGHTLY | fields).status_code == 200

    @pytest.mark.parametrize("address", ["root@localhost", "ops@example.com", "o'neil+cron@mail.example", "me@box"])
    def test_takes_addresses_of_the_machine_and_of_the_world(self, ann: Any, address: str) -> None:
        created = ann("POST", "/cronjobs/", NIGHTLY | {"email_on_complete": address})
        assert created.json()["email_on_complete"] == address


class TestChange:
    def test_naming_nothing_changes_nothing(self, ann: Any, store_of_server: Any) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY | {"enabled": False}).json()
        with store_of_server.transaction() as session:
            long_ago = datetime(2020, 1, 1, tzinfo=UTC)
            session.execute(update(CronJob).where(CronJob.id == job["id"]).values(updated_at=long_ago))
        before = ann("GET", f"/cronjobs/{job['id']}").json()
        assert ann("PUT", f"/cronjobs/{job['id']}", {}).json() == before


class TestNextRun:
    def test_is_set_by_the_scheduler_and_null_while_disabled(self, ann: Any, wait_until: Callable[..., Any]) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY).json()
        path = f"/cronjobs/{job['id']}"
        armed = wait_until(lambda: ann("GET", path).json()["next_run_at"], "the job is armed", 10)
        assert armed.endswith("T03:00:00+07:00")
        assert ann("PUT", path, {"enabled": False}).json()["next_run_at"] is None
        assert ann("GET", path).json()["next_run_at"] is None
        ann("PUT", path, {"enabled": True, "cron_expr": "30 4 * * *"})
        armed = wait_until(lambda: ann("GET", path).json()["next_run_at"], "the job is armed again", 10)
        assert armed.endswith("T04:30:00+07:00")


class TestIds:
    def test_the_id_of_a_deleted_job_is_not_given_out_again(self, ann: Any) -> None:
        first = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        ann("DELETE", f"/cronjobs/{first}")
        assert ann("POST", "/cronjobs/", NIGHTLY).json()["id"] > first

    @pytest.mark.parametrize("number", ["0", "-1", "99999999999", "9" * 40, "-" + "9" * 40])
    def test_a_number_that_no_job_has_is_not_found(self, ann: Any, number: str) -> None:
        assert ann("GET", f"/cronjobs/{number}").status_code == 404
        assert ann("DELETE", f"/cronjobs/{number}").status_code == 404
        changes: list[dict[str, Any]] = [{}, {"name": "other"}, {"after": []}, {"cron_expr": ""}]
        for change in changes:
            assert ann("PUT", f"/cronjobs/{number}", change).status_code == 404, change

    @pytest.mark.parametrize("text", ["abc", "1.5", "%00", "%EF%BC%91"])
    def test_what_is_no_number_is_refused(self, ann: Any, text: str) -> None:
        answer = ann("GET", f"/cronjobs/{text}")
        assert answer.status_code in (400, 404)
        assert answer.json()["success"] is False
