"""Many cron jobs at once over the API, against a running server."""

import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

JOB = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *", "enabled": False}


class TestCrontab:
    def test_gives_a_result_for_each_line(self, ann: Any) -> None:
        text = "MAILFROM=x\n# Nightly\n0 3 * * * /bin/true\nevery day\n0 25 * * * /bin/false\n"
        tried = ann("POST", "/cronjobs/import", {"crontab": text, "dry_run": True})
        assert (tried.status_code, tried.json()["dry_run"], tried.json()["created"]) == (200, True, 1)
        assert tried.json()["results"][0]["status"] == "would_create"
        assert ann("GET", "/cronjobs").json() == []
        answer = ann("POST", "/cronjobs/import", {"crontab": text})
        (job,) = ann("GET", "/cronjobs").json()
        assert answer.status_code == 200
        assert answer.json() == {
            "dry_run": False,
            "format": "user",
            "created": 1,
            "replaced": 0,
            "skipped": 0,
            "failed": 2,
            "results": [
                {
                    "line": 3,
                    "name": "Nightly",
                    "status": "created",
                    "job_id": job["id"],
                    "field": "",
                    "message": "MAILFROM is not kept",
                },
                {
                    "line": 4,
                    "name": "",
                    "status": "failed",
                    "job_id": None,
                    "field": "crontab",
                    "message": "The line is neither a setting (NAME=value) nor times and a command",
                },
                {
                    "line": 5,
                    "name": "/bin/false",
                    "status": "failed",
                    "job_id": None,
                    "field": "cron_expr",
                    "message": "Cron expression: hour '25' is not allowed, use 0-23; MAILFROM is not kept",
                },
            ],
        }
        assert (job["name"], job["command"], job["email_on_error"]) == ("Nightly", "/bin/true", True)

    def test_of_the_system_tells_nobody_who_else_there_is(self, ann: Any, admin: Any, make_caller: Any) -> None:
        bob = make_caller().username
        text = f"0 3 * * * {bob} /bin/true\n0 3 * * * nobody-here /bin/true\n"
        body = {"crontab": text, "format": "system", "owner": ann.username}
        own = ann("POST", "/cronjobs/import", body).json()
        assert [result["message"] for result in own["results"]] == [
            f"User {user} is no owner here: the job is {ann.username}'s" for user in (bob, "nobody-here")
        ]
        assert (own["format"], len(ann("GET", "/cronjobs").json())) == ("system", 2)
        assert admin("POST", "/cronjobs/import", body).json()["created"] == 1
        assert [job["owner"] for job in admin("GET", f"/cronjobs?owner={bob}").json()] == [bob]

    def test_can_be_repeated(self, ann: Any) -> None:
        body = {"crontab": "@daily true\n"}
        first, second = (ann("POST", "/cronjobs/import", body, headers={"Idempotency-Key": "k"}) for _ in range(2))
        assert first.json() == second.json()
        assert ann("POST", "/cronjobs/import", body).json()["skipped"] == 1
        assert ann("POST", "/cronjobs/import", body | {"on_conflict": "replace"}).json()["replaced"] == 1

    def test_makes_none_when_one_fails_and_all_were_asked_for(self, ann: Any) -> None:
        answer = ann("POST", "/cronjobs/import", {"crontab": "@daily true\nbad\n", "atomic": True})
        assert (answer.json()["created"], answer.json()["skipped"], answer.json()["failed"]) == (0, 1, 1)
        assert ann("GET", "/cronjobs").json() == []

    @pytest.mark.parametrize(
        ("body", "field", "sentence"),
        [
            ({}, "crontab", "Crontab is required, or jobs; not both"),
            ({"crontab": "", "jobs": []}, "crontab", "Crontab is required, or jobs; not both"),
            ({"crontab": 5}, "crontab", "Crontab must be a string"),
            ({"jobs": {}}, "jobs", "Jobs must be a list"),
            ({"jobs": [], "format": "user"}, "format", "Format is for crontabs"),
            ({"crontab": "", "format": "csv"}, "format", "Format must be one of 'auto', 'user' or 'system'"),
            ({"crontab": "", "on_conflict": "fail"}, "on_conflict", "On conflict must be one of 'skip' or 'replace'"),
            ({"crontab": "", "dry_run": "yes"}, "dry_run", "Dry run must be true or false"),
            ({"crontab": "@daily x\n" * 1001}, "crontab", "At most 1000 jobs at once: split the file"),
            ({"jobs": [1] * 1001}, "jobs", "Jobs must have at most 1000 items"),
            ({"crontab": "", "partial": True}, "partial", "Unknown field 'partial'"),
        ],
    )
    def test_says_what_is_wrong(self, ann: Any, body: dict[str, Any], field: str, sentence: str) -> None:
        answer = ann("POST", "/cronjobs/import", body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"] == sentence
        assert answer.json()["details"][0]["field"] == field

    def test_for_others_is_for_admins(self, ann: Any) -> None:
        assert ann("POST", "/cronjobs/import", {"crontab": "", "owner": "admin"}).status_code == 403
        answer = ann("POST", "/cronjobs/import", {"jobs": [JOB | {"owner": "admin"}, JOB | {"nice": -1}]})
        assert [result["message"] for result in answer.json()["results"]] == [
            "Only an admin may set the owner",
            "Only an admin may set nice below 0",
        ]


class TestExport:
    def test_is_a_crontab(self, ann: Any) -> None:
        ann("POST", "/cronjobs", JOB | {"timeout_seconds": 60})
        answer = ann("GET", "/cronjobs/export")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert answer.text.startswith(f"# wsp: crontab of {ann.username}\n")
        assert answer.text.endswith(
            'MAILTO=""\n# nightly\n'
            '# wsp: {"commented_out": "disabled", "enabled": false, "timeout_seconds": 60}\n'
            "#0 3 * * * true\n"
        )

    def test_is_json(self, ann: Any) -> None:
        secret = {"TOKEN": {"value": "s3cret", "secret": True}}
        job = ann("POST", "/cronjobs", JOB | {"tags": ["a"], "env": secret}).json()
        assert ann("GET", "/cronjobs/export?format=json").json() == {
            "jobs": [
                JOB
                | {"id": job["id"], "owner": ann.username, "email_on_complete": "", "email_on_error": False}
                | {"tags": ["a"], "env": {"TOKEN": {"secret": True}}}
            ]
        }

    def test_can_be_taken_back(self, ann: Any, make_caller: Any) -> None:
        first = ann("POST", "/cronjobs", JOB | {"domain": "example.com"}).json()["id"]
        ann("POST", "/cronjobs", JOB | {"name": "then", "after": [{"job_id": first, "on": "any"}]})
        bob = make_caller()
        taken = ("name", "command", "cron_expr", "enabled", "domain")
        for body in (
            {"crontab": ann("GET", "/cronjobs/export?format=crontab").text},
            {
                "jobs": [
                    {**job, "owner": bob.username} for job in ann("GET", "/cronjobs/export?format=json").json()["jobs"]
                ]
            },
        ):
            assert bob("POST", "/cronjobs/import", body).json()["created"] == 2
            jobs = bob("GET", "/cronjobs").json()
            assert [[job.get(name) for name in taken] for job in jobs] == [
                [job.get(name) for name in taken] for job in ann("GET", "/cronjobs").json()
            ]
            assert jobs[1]["after"] == [{"job_id": jobs[0]["id"], "on": "any"}]
            for job in reversed(jobs):
                assert bob("DELETE", f"/cronjobs/{job['id']}").status_code == 200

    def test_of_others_is_for_admins(self, ann: Any, admin: Any, make_caller: Any) -> None:
        ann("POST", "/cronjobs", JOB)
        bob = make_caller()
        assert bob("GET", f"/cronjobs/export?owner={ann.username}").status_code == 403
        assert "nightly" not in bob("GET", "/cronjobs/export").text
        of_ann = admin("GET", f"/cronjobs/export?owner={ann.username}").text
        assert of_ann == ann("GET", "/cronjobs/export").text
        everything = admin("GET", "/cronjobs/export").text
        assert everything.startswith("# wsp: system crontab\n")
        assert f"#0 3 * * * {ann.username} true\n" in everything

    @pytest.mark.parametrize(("query", "field"), [("format=csv", "format"), ("owner=a%0Ab", "owner")])
    def test_says_what_is_wrong(self, admin: Any, query: str, field: str) -> None:
        answer = admin("GET", f"/cronjobs/export?{query}")
        assert answer.status_code == 400
        assert answer.json()["details"][0]["field"] == field


class TestCommandLine:
    def test_runs_a_job_and_ends_as_its_command_does(self, ann: Any, server: Any) -> None:
        job = ann("POST", "/cronjobs", JOB | {"command": "cat; echo oh >&2; exit 3", "stdin": "gr\u00fcn\n"}).json()

        def wsp(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "wsp", "cron", *arguments],
                env={**os.environ, **server.environment},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        result = wsp("run", str(job["id"]))
        (run,) = ann("GET", f"/cronjobs/{job['id']}/logs").json()
        assert (result.returncode, result.stdout) == (3, "gr\u00fcn\n"), result.stderr
        assert result.stderr.startswith(f"oh\nwsp: Run {run['id']} failed after ")
        assert (run["trigger"], run["exit_code"]) == ("manual", 3)
        assert "gr\u00fcn\n" in wsp("tail", str(job["id"])).stdout
        assert "failed" in wsp("logs", str(job["id"])).stdout
