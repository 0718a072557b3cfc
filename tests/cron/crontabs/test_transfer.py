"""Many jobs at once, on the database."""

import time
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from tests.cron.conftest import JobStore

from wsp.cron.crontabs import transfer
from wsp.cron.crontabs.transfer import Import, Result
from wsp.cron.models import CronJob
from wsp.database import Database
from wsp.errors import Forbidden, Invalid

from .random_jobs import JOBS, OWNER

EVERYBODY = (OWNER, "bob")


@pytest.fixture
def store_of_jobs(jobs: JobStore) -> Database:
    """A database with the owners ann and bob."""
    for name in EVERYBODY:
        jobs.owner(name)
    return jobs.database


def from_crontab(
    database: Database, text: str, kind: Literal["auto", "user", "system"] = "auto", **options: Any
) -> Sequence[Result]:
    candidates, _ = transfer.from_crontab(text, kind, OWNER, EVERYBODY)
    return make(database, candidates, **options)


def from_json(database: Database, *items: Any, **options: Any) -> Sequence[Result]:
    complete = [{"name": "x", "cron_expr": "@daily", **item} if isinstance(item, dict) else item for item in items]
    return make(database, transfer.from_json(complete, lambda owner: owner or OWNER), **options)


def make(database: Database, candidates: Sequence[transfer.Candidate], **options: Any) -> Sequence[Result]:
    how = Import(**{"by_admin": True, "ids": transfer.ids_of(candidates), **options})
    with database.transaction() as session:
        return transfer.import_jobs(session, transfer.in_order(candidates), how)


def exported(database: Database, owner: str | None = None) -> list[dict[str, Any]]:
    with database.reading() as session:
        return list(transfer.jobs_to_export(session, owner))


def as_crontab(database: Database, owner: str | None = None) -> str:
    return transfer.as_crontab(exported(database, owner), owner, "UTC")


def clear(database: Database) -> None:
    with database.transaction() as session:
        session.execute(delete(CronJob))


def statuses(results: Sequence[Result]) -> list[str]:
    return [result.status for result in results]


class TestCrontab:
    def test_becomes_jobs(self, store_of_jobs: Database) -> None:
        text = "MAILTO=ops@example.com\nLANG=C.UTF-8\n# Nightly\n0 3 * * * run%yes\n\n@reboot  start\n"
        results = from_crontab(store_of_jobs, text)
        jobs = exported(store_of_jobs)
        assert results == [
            Result(4, "Nightly", "created", "", job_id=jobs[0]["id"]),
            Result(6, "start", "created", "", job_id=jobs[1]["id"]),
        ]
        common = {"enabled": True, "owner": OWNER, "email_on_complete": "ops@example.com", "email_on_error": False}
        common["env"] = {"LANG": "C.UTF-8"}
        assert jobs == [
            {"id": results[0].job_id, "name": "Nightly", "command": "run", "cron_expr": "0 3 * * *", "stdin": "yes\n"}
            | common,
            {"id": results[1].job_id, "name": "start", "command": "start", "cron_expr": "@reboot"} | common,
        ]

    def test_fails_line_by_line(self, store_of_jobs: Database) -> None:
        text = "0 25 * * * a\nnonsense\n@daily b\nCRON_TZ=Mars/Base\n@daily c\n@daily\n"
        results = from_crontab(store_of_jobs, text)
        assert [(r.line, r.status, r.field) for r in results] == [
            (1, "failed", "cron_expr"),
            (2, "failed", "crontab"),
            (3, "created", ""),
            (5, "failed", "timezone"),
            (6, "failed", "command"),
        ]
        assert results[0].message == "Cron expression: hour '25' is not allowed, use 0-23"
        assert results[4].message == "Command is required"

    def test_twice_makes_jobs_once(self, store_of_jobs: Database) -> None:
        text = "0 3  * * * a%x\n0 3 * * * a%y\n0 3 * * * a%x\n"
        first, second = (from_crontab(store_of_jobs, text) for _ in range(2))
        assert statuses(first) == ["created"] * 3
        assert statuses(second) == ["skipped"] * 3
        assert [r.job_id for r in second] == [r.job_id for r in first]
        assert second[0].message == f"Job {first[0].job_id} is the same"
        assert statuses(from_crontab(store_of_jobs, text + "0 3 * * * a%x\n"))[3:] == ["created"]

    def test_can_replace(self, store_of_jobs: Database) -> None:
        (made,) = from_crontab(store_of_jobs, '# old\n# wsp: {"retries": 3}\n@daily x\n')
        (replaced,) = from_crontab(store_of_jobs, "# new\nLANG=C\n@daily x\n", replace=True)
        assert (replaced.status, replaced.job_id) == ("replaced", made.job_id)
        (job,) = exported(store_of_jobs)
        assert (job["name"], job["env"], "retries" in job) == ("x", {"LANG": "C"}, False)

    def test_of_the_system_has_the_owners_of_its_users(self, store_of_jobs: Database) -> None:
        results = from_crontab(store_of_jobs, "@daily root /a\n@daily bob /b\n@daily munin /c\n", "system")
        assert [(job["owner"], job["command"]) for job in exported(store_of_jobs)] == [
            (OWNER, "/a"),
            ("bob", "/b"),
            (OWNER, "/c"),
        ]
        assert [r.message for r in results] == [
            "User root is no owner here: the job is ann's",
            "",
            "User munin is no owner here: the job is ann's",
        ]

    def test_may_have_a_bound(self) -> None:
        text = "@daily a\n@daily b\n"
        assert len(transfer.from_crontab(text, "user", OWNER, EVERYBODY, most=2)[0]) == 2
        with pytest.raises(Invalid, match="At most 1 jobs at once: split the file"):
            transfer.from_crontab(text, "user", OWNER, EVERYBODY, most=1)

    def test_can_be_tried(self, store_of_jobs: Database) -> None:
        text = "@daily a\n@daily b\nnonsense\n"
        from_crontab(store_of_jobs, "# x\n@daily a\n")
        before = exported(store_of_jobs)
        results = from_crontab(store_of_jobs, text, dry_run=True, replace=True)
        assert [(r.status, r.job_id) for r in results] == [
            ("would_replace", before[0]["id"]),
            ("would_create", None),
            ("failed", None),
        ]
        assert exported(store_of_jobs) == before

    def test_can_be_all_or_nothing(self, store_of_jobs: Database) -> None:
        results = from_crontab(store_of_jobs, "@daily a\nnonsense\n", atomic=True)
        assert [(r.status, r.message, r.job_id) for r in results] == [
            ("skipped", "Not created, because others failed", None),
            ("failed", "The line is neither a setting (NAME=value) nor times and a command", None),
        ]
        assert exported(store_of_jobs) == []


class TestJson:
    def test_fails_one_by_one(self, store_of_jobs: Database) -> None:
        results = from_json(
            store_of_jobs,
            {"command": "a"},
            {"command": "b", "retries": -1},
            {"command": "c", "colour": "red"},
            {"command": "d", "owner": "nobody"},
            7,
            {"command": "e", "id": "5"},
            {"name": 5, "command": "f"},
        )
        assert [(r.status, r.field, r.message) for r in results] == [
            ("created", "", ""),
            ("failed", "retries", "Retries must be at least 0"),
            ("failed", "colour", "Unknown field 'colour'"),
            ("failed", "owner", "Owner 'nobody' does not exist"),
            ("failed", "jobs", "A job must be an object"),
            ("failed", "id", "Id must be an integer"),
            ("failed", "name", "Name must be a string"),
        ]

    def test_may_name_an_owner_that_is_refused(self, store_of_jobs: Database) -> None:
        def refuse(owner: str | None) -> str:
            raise Forbidden("Only an admin may set the owner")

        items = [{"name": "x", "command": "x", "cron_expr": "@daily", "owner": "bob"}]
        (result,) = make(store_of_jobs, transfer.from_json(items, refuse))
        assert (result.status, result.message) == ("failed", "Only an admin may set the owner")

    def test_may_not_hurry_unless_an_admin_says_so(self, store_of_jobs: Database) -> None:
        (refused,) = from_json(store_of_jobs, {"command": "x", "nice": -5}, by_admin=False)
        assert (refused.status, refused.message) == ("failed", "Only an admin may set nice below 0")
        assert statuses(from_json(store_of_jobs, {"command": "x", "nice": -5})) == ["created"]

    def test_keeps_chains(self, store_of_jobs: Database) -> None:
        results = from_json(
            store_of_jobs,
            {"command": "last", "cron_expr": "", "after": [{"job_id": 7, "on": "any"}, {"job_id": 9}]},
            {"id": 7, "command": "second", "after": [{"job_id": 9, "on": "failure"}]},
            {"id": 9, "command": "first"},
        )
        assert statuses(results) == ["created"] * 3
        by_command = {job["command"]: job for job in exported(store_of_jobs)}
        first, second = by_command["first"]["id"], by_command["second"]["id"]
        assert by_command["second"]["after"] == [{"job_id": first, "on": "failure"}]
        assert by_command["last"]["after"] == [
            {"job_id": first, "on": "success"},
            {"job_id": second, "on": "any"},
        ]

    def test_says_what_is_wrong_with_chains(self, store_of_jobs: Database) -> None:
        results = from_json(
            store_of_jobs,
            {"id": 1, "command": "a", "after": [{"job_id": 2}]},
            {"id": 2, "command": "b", "after": [{"job_id": 1}]},
            {"id": 3, "command": "c", "after": [{"job_id": 99}]},
            {"command": "d", "after": [{"job_id": 3}]},
            {"id": 3, "command": "e"},
        )
        assert [(r.status, r.field, r.message) for r in results] == [
            ("failed", "after", "After: these jobs run after one another in a circle"),
            ("failed", "after", "After: these jobs run after one another in a circle"),
            ("failed", "after", "After: job 99 is not in the file"),
            ("failed", "after", "After: job 3 of the file was not created"),
            ("failed", "id", "Id 3 is that of line 3 too"),
        ]
        assert exported(store_of_jobs) == []

    def test_puts_chains_in_order_however_long_they_are(self) -> None:
        long = 5000
        items = [{"id": n, "command": "x", "name": "x", "after": [{"job_id": n + 1}]} for n in range(1, long)]
        items += [{"id": long, "command": "x", "name": "x", "cron_expr": "@daily"}, {"id": 0, "after": []}]
        candidates = transfer.from_json(items, lambda owner: owner or OWNER)
        began = time.process_time()
        ordered = transfer.in_order(candidates)
        assert time.process_time() - began < 5  # square, it were minutes
        assert [candidate.id for candidate in ordered] == [long, 0, *range(long - 1, 0, -1)]

    def test_shows_names_that_are_no_text(self) -> None:
        (candidate,) = transfer.from_json([{"name": "a\ud800", "command": "x"}], lambda owner: owner or OWNER)
        assert (candidate.name, candidate.problem) == ("a?", "Name must be valid Unicode text")

    def test_never_takes_a_job_that_is_there_for_one_of_the_file_that_failed(self, store_of_jobs: Database) -> None:
        (other,) = from_json(store_of_jobs, {"command": "other"})
        child = {"command": "child", "cron_expr": "", "after": [{"job_id": other.job_id}]}
        broken = {"id": other.job_id, "command": "parent", "retries": -1}
        text = f"""# wsp: {{"id": {other.job_id}}}\nnonsense
# wsp: {{"after": [{{"job_id": {other.job_id}}}], "cron_expr": "", "commented_out": "x"}}\n#child\n"""
        for results in (from_json(store_of_jobs, broken, child), from_crontab(store_of_jobs, text)):
            assert [(r.status, r.field) for r in results][1] == ("failed", "after"), results
            assert results[1].message == f"After: job {other.job_id} of the file was not created"

    def test_without_ids_names_jobs_that_are_there(self, store_of_jobs: Database) -> None:
        (first,) = from_json(store_of_jobs, {"command": "first"})
        results = from_json(
            store_of_jobs,
            {"command": "second", "after": [{"job_id": first.job_id}]},
            {"command": "third", "after": [{"job_id": 10**6}]},
        )
        assert [(r.status, r.message) for r in results] == [
            ("created", ""),
            ("failed", "After: ann has no job 1000000"),
        ]


class TestSecrets:
    BODY = {"name": "x", "command": "x", "cron_expr": "@daily"}  # noqa: RUF012
    TOKEN = {"TOKEN": {"value": "s3cret", "secret": True}, "LANG": "C"}  # noqa: RUF012

    def test_are_not_given_out(self, store_of_jobs: Database) -> None:
        from_json(store_of_jobs, self.BODY | {"env": self.TOKEN})
        (job,) = exported(store_of_jobs)
        assert job["env"] == {"TOKEN": {"secret": True}, "LANG": "C"}
        assert "secrets" not in job
        assert "s3cret" not in as_crontab(store_of_jobs, OWNER)

    def test_that_are_missing_disable_a_new_job(self, store_of_jobs: Database) -> None:
        from_json(store_of_jobs, self.BODY | {"env": self.TOKEN})
        text = as_crontab(store_of_jobs, OWNER)
        clear(store_of_jobs)
        (result,) = from_crontab(store_of_jobs, text)
        assert result.status == "created"
        sentence = "Disabled: the value of TOKEN is secret and not in the file, set it before enabling"
        assert result.message == sentence
        (job,) = exported(store_of_jobs)
        assert (job["enabled"], job["env"]) == (False, {"LANG": "C"})

    def test_stay_when_a_job_is_replaced(self, store_of_jobs: Database) -> None:
        from_json(store_of_jobs, self.BODY | {"env": self.TOKEN})
        assert statuses(from_json(store_of_jobs, *exported(store_of_jobs), replace=True)) == ["replaced"]
        with store_of_jobs.reading() as session:
            job = session.scalars(select(CronJob)).one()
        assert job.enabled
        assert job.policy is not None
        assert job.policy["env"]["TOKEN"] == "s3cret"


def without_ids(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exported jobs with their places in the list for their ids."""
    places = {job["id"]: place for place, job in enumerate(jobs)}
    return [
        {**job, "id": places[job["id"]]}
        | {"after": [{**link, "job_id": places[link["job_id"]]} for link in job.get("after", [])]}
        for job in jobs
    ]


def without_secrets(body: dict[str, Any]) -> dict[str, Any]:
    env = {name: value if isinstance(value, str) else value["value"] for name, value in body.get("env", {}).items()}
    return {**body, "env": env}


class TestRoundTrip:
    @given(
        bodies=st.lists(JOBS, min_size=1, max_size=4),
        links=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["success", "failure", "any"]))),
        way=st.sampled_from(["json", "user", "system"]),
    )
    @hypothesis_settings(
        max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )  # fmt: skip
    def test_loses_nothing(
        self,
        store_of_jobs: Database,
        bodies: list[dict[str, Any]],
        links: list[tuple[int, int, str]],
        way: str,
    ) -> None:
        clear(store_of_jobs)
        items = [{**without_secrets(body), "id": number + 1} for number, body in enumerate(bodies)]
        for later, earlier, condition in links:
            if earlier < later < len(items):
                after = items[later].setdefault("after", [])
                if earlier + 1 not in [link["job_id"] for link in after]:
                    after.append({"job_id": earlier + 1, "on": condition})
                    items[later]["cron_expr"] = ""
        results = make(store_of_jobs, transfer.from_json(items, lambda owner: owner or OWNER))
        assert statuses(results) == ["created"] * len(items), results
        before = exported(store_of_jobs)
        owner = None if way == "system" else OWNER
        text = as_crontab(store_of_jobs, owner)
        clear(store_of_jobs)
        results = from_json(store_of_jobs, *before) if way == "json" else from_crontab(store_of_jobs, text)
        assert [(r.status, r.message) for r in results] == [("created", "")] * len(items)
        # By line, as jobs that run after others are made after them.
        places = {result.job_id: result.line for result in results}
        again = sorted(exported(store_of_jobs), key=lambda job: places[job["id"]])
        assert without_ids(again) == without_ids(before)
