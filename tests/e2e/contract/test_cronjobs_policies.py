"""What we add to the jobs of the contract: policies, zones, tags, chains; against a running server."""

from typing import Any

import pytest

pytestmark = pytest.mark.e2e

NIGHTLY = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *", "enabled": False}
DOCUMENTED = 13  # keys of a job that are always there

# Every key that we add, in the order of the answer, with a value that is not its default.
ADDED: dict[str, Any] = {
    "domain": "example.com",
    "timezone": "Europe/Berlin",
    "description": "Rebuilds the index.\nAsk Bob.",
    "tags": ["db", "back_up"],
    "overlap": "queue",
    "timeout_seconds": 3600,
    "kill_grace_seconds": 0,
    "retries": 3,
    "retry_delay_seconds": 0,
    "retry_backoff": 1.5,
    "missed": "run_all",
    "start_deadline_seconds": 60,
    "jitter_seconds": 5,
    "on_lost": "retry",
    "max_output_bytes": 1024,
    "keep_runs": 10,
    "keep_days": 7,
    "env": {"LANG": "C.UTF-8", "EMPTY": ""},
    "working_dir": "sites/blog",
    "stdin": "yes\n",
    "shell": "/bin/bash",
    "memory_mb": 512,
    "cpu_seconds": 60,
    "max_processes": 50,
    "nice": 19,
    "alert_on": ["first_failure", "recovery"],
    "alert_every": 5,
    "expect_every": 60,
    "grace_seconds": 1,
    "alert_duration_factor": 1.01,
}
DEFAULTS: dict[str, Any] = {
    "domain": "",
    "timezone": "",
    "description": "",
    "tags": [],
    "overlap": "skip",
    "timeout_seconds": 0,
    "kill_grace_seconds": 10,
    "retries": 0,
    "retry_delay_seconds": 60,
    "retry_backoff": 2,
    "missed": "run_once",
    "start_deadline_seconds": 0,
    "jitter_seconds": 0,
    "on_lost": "fail",
    "max_output_bytes": 0,
    "keep_runs": 0,
    "keep_days": 0,
    "env": {},
    "working_dir": "",
    "stdin": "",
    "shell": "",
    "memory_mb": 0,
    "cpu_seconds": 0,
    "max_processes": 0,
    "nice": 0,
    "alert_on": [],
    "alert_every": 10,
    "expect_every": 0,
    "grace_seconds": 0,
    "alert_duration_factor": 0,
}


class TestPolicies:
    def test_are_shown_behind_what_is_documented_and_only_when_set(self, ann: Any) -> None:
        answer = ann("POST", "/cronjobs/", NIGHTLY | ADDED)
        assert answer.status_code == 201, answer.text
        job = answer.json()
        assert list(job)[DOCUMENTED:] == list(ADDED)
        assert {name: job[name] for name in ADDED} == ADDED
        path = f"/cronjobs/{job['id']}"
        assert ann("GET", path).json() == job
        assert ann("GET", "/cronjobs/").json() == [job]
        bare = ann("PUT", path, DEFAULTS).json()
        assert list(bare) == list(job)[:DOCUMENTED]

    def test_each_is_changed_alone(self, ann: Any) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY).json()
        path = f"/cronjobs/{job['id']}"
        expected: dict[str, Any] = {}
        for name, value in ADDED.items():
            expected[name] = value
            answer = ann("PUT", path, {name: value}).json()
            assert {key: answer[key] for key in list(answer)[DOCUMENTED:]} == expected

    def test_a_default_that_is_named_is_left_out_all_the_same(self, ann: Any) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY | DEFAULTS).json()
        assert len(job) == DOCUMENTED

    @pytest.mark.parametrize("name", sorted(ADDED.keys() - {"domain"}))
    def test_their_bounds_are_said(self, ann: Any, name: str) -> None:
        """A sentence begins with the name of the field, for whatever is wrong with it."""
        wrong: Any = {"tags": ["a b"], "env": {"1": ""}, "alert_on": ["x"]}.get(
            name, "no\x00\x01" if name in TEXTS else -99
        )
        error = ann("POST", "/cronjobs/", NIGHTLY | {name: wrong}).json()
        assert error["details"] == [{"field": name, "message": error["message"]}]
        title = error["message"].lower().replace(" ", "_")
        assert title.startswith(name)

    def test_what_is_no_object_is_said_to_be_none(self, ann: Any) -> None:
        error = ann("POST", "/cronjobs/", NIGHTLY | {"after": [3]}).json()
        assert error["error"] == "After: item 1 must be an object"

    def test_nice_below_zero_is_for_admins(self, ann: Any, admin: Any) -> None:
        refused = ann("POST", "/cronjobs/", NIGHTLY | {"nice": -1})
        assert (refused.status_code, refused.json()["error"]) == (403, "Only an admin may set nice below 0")
        job = admin("POST", "/cronjobs/", NIGHTLY | {"nice": -1, "owner": ann.username}).json()
        path = f"/cronjobs/{job['id']}"
        assert ann("PUT", path, {"name": "other"}).json()["nice"] == -1
        assert ann("PUT", path, {"nice": -2}).status_code == 403
        assert "nice" not in ann("PUT", path, {"nice": 0}).json()

    @pytest.mark.parametrize(
        "expression", ["*/10 * * * * 30", "H H * * *", "H/15 * * * *", "@reboot", "@Reboot", "@daily", "0 3 * * * H"]
    )
    def test_expressions_beyond_five_fields(self, ann: Any, expression: str) -> None:
        answer = ann("POST", "/cronjobs/", NIGHTLY | {"cron_expr": f" {expression} "})
        assert answer.status_code == 201, answer.text
        expected = "@reboot" if expression == "@Reboot" else expression
        assert answer.json()["cron_expr"] == expected

    def test_an_unknown_policy_is_named(self, ann: Any) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY).json()
        for method, path in (("POST", "/cronjobs/"), ("PUT", f"/cronjobs/{job['id']}")):
            for name in ("secrets", "policy", "timeout", "paused"):
                answer = ann(method, path, NIGHTLY | {name: 1})
                assert (answer.status_code, answer.json()["error"]) == (400, f"Unknown field '{name}'")


TEXTS = ("timezone", "description", "working_dir", "stdin", "shell", "overlap", "missed", "on_lost")


class TestSecrets:
    ENV: dict[str, Any] = {"LANG": "C", "TOKEN": {"value": "s3cret", "secret": True}}  # noqa: RUF012

    def test_are_never_shown(self, ann: Any) -> None:
        created = ann("POST", "/cronjobs/", NIGHTLY | {"env": self.ENV})
        path = f"/cronjobs/{created.json()['id']}"
        for answer in (created, ann("GET", path), ann("GET", "/cronjobs/"), ann("PUT", path, {"env": self.ENV})):
            body = answer.json()
            job = body[0] if isinstance(body, list) else body
            assert job["env"] == {"LANG": "C", "TOKEN": {"secret": True}}
            assert "s3cret" not in answer.text

    def test_what_is_shown_can_be_sent_back(self, ann: Any) -> None:
        job = ann("POST", "/cronjobs/", NIGHTLY | {"env": self.ENV}).json()
        path = f"/cronjobs/{job['id']}"
        assert ann("PUT", path, {"env": job["env"]}).json()["env"] == job["env"]
        assert ann("PUT", path, {"env": {"TOKEN": {"secret": True}}}).json()["env"] == {"TOKEN": {"secret": True}}
        assert ann("PUT", path, {"env": {"TOKEN": "open"}}).json()["env"] == {"TOKEN": "open"}
        assert "env" not in ann("PUT", path, {"env": {}}).json()

    def test_need_a_value(self, ann: Any) -> None:
        answer = ann("POST", "/cronjobs/", NIGHTLY | {"env": {"TOKEN": {"secret": True}}})
        assert (answer.status_code, answer.json()["error"]) == (400, "Env: TOKEN is a secret, it needs a value")


class TestChains:
    def test_a_job_that_runs_after_others_needs_no_times(self, ann: Any) -> None:
        parent = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        other = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        bare = {"command": "true", "name": "then"}
        after = [{"job_id": other, "on": "failure"}, {"job_id": parent}]
        for body in (bare, bare | {"cron_expr": ""}, bare | {"cron_expr": "  "}):
            job = ann("POST", "/cronjobs/", body | {"after": after}).json()
            assert job["cron_expr"] == ""
            assert job["after"] == [{"job_id": parent, "on": "success"}, {"job_id": other, "on": "failure"}]
            assert ann("GET", f"/cronjobs/{job['id']}").json() == job
            assert job in ann("GET", "/cronjobs/").json()
        timed = ann("POST", "/cronjobs/", NIGHTLY | {"after": after[:1]}).json()
        assert (timed["cron_expr"], timed["after"]) == (NIGHTLY["cron_expr"], after[:1])
        assert "after" not in ann("PUT", f"/cronjobs/{timed['id']}", {"after": []}).json()

    def test_without_times_it_has_to_run_after_something(self, ann: Any) -> None:
        parent = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        bodies: list[dict[str, Any]] = [{"after": []}, {"after": [], "cron_expr": ""}, {"cron_expr": " "}]
        for body in bodies:
            answer = ann("POST", "/cronjobs/", {"command": "true", "name": "then"} | body)
            assert (answer.status_code, answer.json()["error"]) == (400, "Cron expression is required")
            assert answer.json()["details"] == [{"field": "cron_expr", "message": "Cron expression is required"}]
        assert ann("PUT", f"/cronjobs/{parent}", {"cron_expr": ""}).json()["error"] == "Cron expression is required"

    def test_a_circle_is_named(self, ann: Any) -> None:
        first = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        second = ann("POST", "/cronjobs/", NIGHTLY | {"after": [{"job_id": first}]}).json()["id"]
        answer = ann("PUT", f"/cronjobs/{first}", {"after": [{"job_id": second}]})
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            f"After: job {second} already runs after job {first}",
        )

    def test_only_jobs_of_the_owner_can_be_followed(self, ann: Any, admin: Any, make_caller: Any) -> None:
        bobs = make_caller()("POST", "/cronjobs/", NIGHTLY).json()["id"]
        anns = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        sentence = f"After: {ann.username} has no job {bobs}"
        for caller, body in ((ann, {}), (admin, {"owner": ann.username})):
            answer = caller("POST", "/cronjobs/", NIGHTLY | body | {"after": [{"job_id": bobs}]})
            assert (answer.status_code, answer.json()["error"]) == (400, sentence)
        body = NIGHTLY | {"owner": ann.username, "after": [{"job_id": anns}]}
        assert admin("POST", "/cronjobs/", body).status_code == 201

    def test_what_starts_others_alone_is_not_deleted(self, ann: Any) -> None:
        parent = ann("POST", "/cronjobs/", NIGHTLY).json()["id"]
        bare = {"command": "true", "name": "then", "after": [{"job_id": parent}]}
        followers = [ann("POST", "/cronjobs/", bare).json()["id"] for _ in range(2)]
        answer = ann("DELETE", f"/cronjobs/{parent}")
        assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
        assert f"jobs {followers[0]}, {followers[1]}" in answer.json()["error"]
        ann("PUT", f"/cronjobs/{followers[0]}", {"cron_expr": "0 3 * * *", "enabled": False})
        assert ann("DELETE", f"/cronjobs/{followers[1]}").status_code == 200
        assert ann("DELETE", f"/cronjobs/{parent}").status_code == 200
        assert "after" not in ann("GET", f"/cronjobs/{followers[0]}").json()


class TestList:
    def test_is_filtered_by_tag_and_enabled(self, ann: Any) -> None:
        ids = [
            ann("POST", "/cronjobs/", NIGHTLY | more).json()["id"]
            for more in ({"tags": ["db"]}, {"tags": ["db", "web"], "enabled": True}, {"tags": ["dB"]})
        ]
        for query, expected in (
            ("tag=db", ids[:2]),
            ("tag=web", ids[1:2]),
            ("tag=d", []),
            ("enabled=true", ids[1:2]),
            ("enabled=false", [ids[0], ids[2]]),
            ("enabled=false&tag=db", ids[:1]),
            ("tag=db&limit=1&offset=1", ids[1:2]),
        ):
            answer = ann("GET", f"/cronjobs/?{query}")
            assert (query, [job["id"] for job in answer.json()]) == (query, expected)
            total = 2 if "limit" in query else len(expected)
            assert answer.headers["X-Total-Count"] == str(total)
