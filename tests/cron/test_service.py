"""What the service of cron jobs does with its rows, on both stores."""

import json
import threading
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, func, select, update

from wsp.auth.service import create_user
from wsp.cron import chains, service
from wsp.cron.models import CronJob
from wsp.cron.policy import DEFAULT, Policy
from wsp.cron.schemas.jobs import JobChange, JobCreate, JobOut, PolicyFields
from wsp.cron.service import JobPage
from wsp.cron.surroundings import look_around
from wsp.cron.tags import tags_of
from wsp.cron.variables import Variable
from wsp.database import Database, utc_now
from wsp.errors import Conflict, Invalid, NotFound
from wsp.webhooks.models import Delivery, Webhook

UTC_ZONE = ZoneInfo("UTC")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def owner(database: Database) -> str:
    with database.transaction() as session:
        create_user(session, "ann", role="user", email="")
    return "ann"


def create(database: Database, owner: str, **given: Any) -> CronJob:
    with database.transaction() as session:
        values = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *"} | given
        return service.create_job(session, owner=owner, **values)


def change(database: Database, job: CronJob, **changes: Any) -> CronJob:
    with database.transaction() as session:
        return service.change_job(session, None, job.id, changes)


def age(database: Database, job: CronJob) -> None:
    """As if it had been made long ago, and armed since."""
    with database.transaction() as session:
        values = {"due_from": LONG_AGO, "updated_at": LONG_AGO, "expect_by": LONG_AGO, "armed_revision": 1}
        session.execute(update(CronJob).where(CronJob.id == job.id).values(values))


def stored(database: Database, job: CronJob) -> CronJob:
    with database.reading() as session:
        return session.get_one(CronJob, job.id)


class TestPoliciesAndSchemas:
    NAMES = frozenset(each.name for each in fields(Policy)) - {"secrets"}  # which `env` tells of

    def test_a_request_can_set_every_policy_and_no_other(self) -> None:
        assert PolicyFields.model_fields.keys() == self.NAMES

    def test_an_answer_leaves_out_every_policy_that_holds_its_default(self) -> None:
        for name in self.NAMES:
            shown = JobOut.model_fields[name]
            default = getattr(DEFAULT, name)
            assert shown.default == (list(default) if isinstance(default, tuple) else default), name
            assert shown.exclude_if is not None
            assert shown.exclude_if(shown.default) is True, name

    def test_a_request_takes_every_default(self) -> None:
        defaults = {name: getattr(DEFAULT, name) for name in self.NAMES}
        body = JobChange.model_validate(defaults | {"env": {}, "alert_on": []})
        assert Policy(**body.changes()) == DEFAULT

    def test_create_takes_what_a_change_takes(self) -> None:
        assert JobCreate.model_fields.keys() == JobChange.model_fields.keys() | {"owner"}


class TestCreate:
    def test_what_is_not_named_holds_its_default(self, database: Database, owner: str) -> None:
        before = utc_now()
        job = stored(database, create(database, owner))
        assert (job.timezone, job.description, job.tags, job.policy) == ("", "", "", None)
        assert (job.enabled, job.revision, job.armed_revision, job.expect_by) == (True, 1, 0, None)
        assert job.due_from is not None
        assert before <= job.due_from <= utc_now()

    def test_a_policy_is_kept_as_far_as_it_differs(self, database: Database, owner: str) -> None:
        given = {"overlap": "queue", "retries": 0, "alert_on": ("recovery",), "retry_backoff": 2.0}
        job = stored(database, create(database, owner, **given))
        assert job.policy == {"overlap": "queue", "alert_on": ["recovery"]}
        assert Policy.of(job.policy).alert_on == ("recovery",)

    def test_a_watched_job_is_expected_in_time(self, database: Database, owner: str) -> None:
        job = create(database, owner, expect_every=3600, grace_seconds=60)
        assert job.due_from is not None
        assert job.expect_by == job.due_from + timedelta(seconds=3660)
        assert create(database, owner, expect_every=3600, enabled=False).expect_by is None

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("sites/blog", "sites/blog"),
            ("/home/ann/sites/blog/", "sites/blog"),
            ("./sites//blog", "sites/blog"),
            ("/home/ann", None),
            ("/home/ann/", None),
            (".", None),
        ],
    )
    def test_a_working_dir_is_kept_as_seen_from_the_home(
        self, database: Database, owner: str, given: str, kept: str | None
    ) -> None:
        policy = create(database, owner, working_dir=given).policy
        assert policy == ({"working_dir": kept} if kept else None)

    @pytest.mark.parametrize("given", ["/", "/etc", "/home", "/home/annie/x", "/home/bob", "/homes/ann"])
    def test_a_working_dir_elsewhere_is_refused(self, database: Database, owner: str, given: str) -> None:
        with pytest.raises(Invalid, match="Working dir must be a folder below /home/ann"):
            create(database, owner, working_dir=given)


class TestChange:
    def test_what_concerns_the_planner_moves_the_revision_and_nothing_else_does(
        self, database: Database, owner: str
    ) -> None:
        job = create(database, owner)
        for revision, changes in (
            (1, {"name": "other", "command": "false", "description": "x", "tags": ["a"], "overlap": "queue"}),
            (1, {"cron_expr": "0 3 * * *", "enabled": True, "timezone": ""}),
            (2, {"cron_expr": "0 4 * * *"}),
            (3, {"timezone": "Europe/Berlin"}),
            (4, {"enabled": False}),
            (5, {"enabled": True}),
        ):
            age(database, job)
            changed = change(database, job, **changes)
            assert (changes, changed.revision) == (changes, revision)
            assert (stored(database, job).due_from != LONG_AGO) == (revision > 1 and "name" not in changes)

    def test_naming_nothing_changes_nothing(self, database: Database, owner: str) -> None:
        job = create(database, owner)
        age(database, job)
        assert change(database, job).updated_at == LONG_AGO

    def test_a_policy_that_is_not_named_stays(self, database: Database, owner: str) -> None:
        job = create(database, owner, retries=3, overlap="allow")
        assert change(database, job, overlap="skip", nice=5).policy == {"retries": 3, "nice": 5}
        assert change(database, job, retries=0, nice=0).policy is None
        assert stored(database, job).policy is None

    def test_the_watch_begins_anew_with_what_concerns_it(self, database: Database, owner: str) -> None:
        job = create(database, owner, expect_every=3600)
        age(database, job)
        assert change(database, job, name="other", cron_expr="5 3 * * *").expect_by == LONG_AGO
        assert change(database, job, enabled=False).expect_by is None
        for changes in ({"enabled": True}, {"grace_seconds": 30}, {"expect_every": 7200}):
            age(database, job)
            changed = change(database, job, **changes)
            policy = Policy.of(changed.policy)
            wait = timedelta(seconds=policy.expect_every + policy.grace_seconds)
            assert changed.expect_by == changed.updated_at + wait
        assert change(database, job, expect_every=0).expect_by is None

    def test_toggle_flips_enabled(self, database: Database, owner: str) -> None:
        job = create(database, owner)
        for enabled in (False, True):
            with database.transaction() as session:
                assert service.toggle_job(session, owner, job.id).enabled is enabled
        with database.transaction() as session, pytest.raises(NotFound):
            service.toggle_job(session, "bob", job.id)


class TestVariables:
    def test_a_secret_that_is_named_alone_keeps_its_value(self, database: Database, owner: str) -> None:
        job = create(database, owner, env={"A": Variable("1"), "T": Variable("s3cret", secret=True)})
        assert job.policy == {"env": {"A": "1", "T": "s3cret"}, "secrets": ["T"]}
        kept = change(database, job, env={"T": Variable(None, secret=True), "B": Variable("")})
        assert kept.policy == {"env": {"T": "s3cret", "B": ""}, "secrets": ["T"]}
        assert change(database, job, env={"T": Variable("open")}).policy == {"env": {"T": "open"}}
        assert change(database, job, env={"T": Variable(None, secret=True)}).policy == {
            "env": {"T": "open"},
            "secrets": ["T"],
        }
        assert change(database, job, env={}).policy is None

    def test_a_secret_without_any_value_is_refused(self, database: Database, owner: str) -> None:
        with pytest.raises(Invalid, match="Env: T is a secret, it needs a value"):
            create(database, owner, env={"T": Variable(None, secret=True)})
        job = create(database, owner, env={"A": Variable("1")})
        with pytest.raises(Invalid, match="Env: T is a secret, it needs a value"):
            change(database, job, env={"T": Variable(None, secret=True)})

    def test_a_secret_that_output_could_not_be_rid_of_is_refused(self, database: Database, owner: str) -> None:
        for value in ("ab", " a ", "\n\n\n"):
            with pytest.raises(Invalid, match=r"Env: T is a secret, its value must have 3 bytes or more"):
                create(database, owner, env={"T": Variable(value, secret=True)})
        assert create(database, owner, env={"T": Variable("aé", secret=True)}).policy is not None
        job = create(database, owner, env={"T": Variable("ab")})
        with pytest.raises(Invalid, match="3 bytes or more"):
            change(database, job, env={"T": Variable(None, secret=True)})


class TestChains:
    def test_links_are_set_replaced_and_lifted(self, database: Database, owner: str) -> None:
        first, second = create(database, owner), create(database, owner)
        job = create(database, owner, cron_expr="", after={first.id: "success", second.id: "any"})
        change(database, job, after={second.id: "failure"}, cron_expr="0 4 * * *")
        with database.reading() as session:
            assert chains.parents_of(session, job.id) == {second.id: "failure"}
        change(database, job, after={})
        with database.reading() as session:
            assert chains.parents_of(session, job.id) == {}

    def test_what_runs_after_nothing_needs_times(self, database: Database, owner: str) -> None:
        parent = create(database, owner)
        nothing: list[dict[str, Any]] = [{"after": None}, {"after": {}}]
        for given in nothing:
            with pytest.raises(Invalid, match=r"^Cron expression is required$"):
                create(database, owner, cron_expr="", **given)
        with pytest.raises(Invalid, match=r"^Cron expression is required$"):
            change(database, parent, cron_expr="")
        job = create(database, owner, cron_expr="", after={parent.id: "any"})
        with pytest.raises(Invalid, match=r"^Cron expression is required$"):
            change(database, job, after={})
        assert change(database, job, name="other").name == "other"
        assert change(database, job, after={}, cron_expr="0 5 * * *").cron_expr == "0 5 * * *"

    def test_only_jobs_of_the_same_owner_are_followed(self, database: Database, owner: str) -> None:
        with database.transaction() as session:
            create_user(session, "bob", role="user", email="")
        bobs = create(database, "bob")
        for parent in (bobs.id, 10**6):
            with pytest.raises(Invalid, match=f"^After: ann has no job {parent}$"):
                create(database, owner, after={parent: "any"})
        with database.reading() as session:
            assert session.scalar(select(func.count()).select_from(CronJob)) == 1  # nothing was left of the attempts

    def test_no_circle_comes_about(self, database: Database, owner: str) -> None:
        a = create(database, owner)
        b = create(database, owner, after={a.id: "any"})
        c = create(database, owner, after={b.id: "any"})
        with pytest.raises(Invalid, match=r"^After: a job cannot run after itself$"):
            change(database, a, after={a.id: "any"})
        with pytest.raises(Invalid, match=f"^After: job {b.id} already runs after job {a.id}$"):
            change(database, a, after={b.id: "any"})
        with pytest.raises(Invalid, match=f"^After: job {c.id} already runs after job {a.id}, by way of job {b.id}$"):
            change(database, a, after={c.id: "success"})
        d = create(database, owner)
        change(database, d, after={a.id: "any", b.id: "any", c.id: "any"})  # a diamond is none

    def test_of_two_halves_of_a_circle_at_once_one_is_refused(self, database: Database, owner: str) -> None:
        for _ in range(5):
            pair = [create(database, owner), create(database, owner)]
            start, refused = threading.Barrier(2), list[Invalid]()

            def link(job: CronJob, parent: CronJob, start: Any = start, refused: Any = refused) -> None:
                start.wait()
                try:
                    change(database, job, after={parent.id: "any"})
                except Invalid as error:
                    refused.append(error)

            threads = [threading.Thread(target=link, args=ends) for ends in (pair, pair[::-1])]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(refused) == 1

    def test_what_nothing_else_starts_keeps_its_parent(self, database: Database, owner: str) -> None:
        first, second = create(database, owner), create(database, owner)
        timed = create(database, owner, after={first.id: "any"})
        both = create(database, owner, cron_expr="", after={first.id: "any", second.id: "any"})

        def delete(job: CronJob) -> None:
            with database.transaction() as session:
                service.delete_job(session, owner, job.id)

        delete(first)
        with database.reading() as session:
            assert chains.parents_of(session, timed.id) == {}
            assert chains.parents_of(session, both.id) == {second.id: "any"}
        with pytest.raises(Conflict, match=f"^Nothing but this job starts job {both.id}: delete it first, or "):
            delete(second)
        delete(both)
        delete(second)

    def test_lists_look_links_up_at_once(self, database: Database, owner: str) -> None:
        parent = create(database, owner)
        for _ in range(20):
            create(database, owner, after={parent.id: "failure"})
        with database.reading() as session:
            [jobs] = service.list_jobs(session, owner, JobPage())
            statements: list[str] = []

            def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
                statements.append(statement)

            event.listen(database.engine, "before_cursor_execute", note)
            around = look_around(session, jobs, UTC_ZONE)
            event.remove(database.engine, "before_cursor_execute", note)
        assert [list(around.parents(job)) for job in jobs] == [[]] + [[(parent.id, "failure")]] * 20
        assert len(statements) < 8


class TestLists:
    def test_are_filtered_by_tag_and_by_enabled(self, database: Database, owner: str) -> None:
        plain = create(database, owner)
        tagged = create(database, owner, tags=["db", "back_up"])
        off = create(database, owner, tags=["db2", "DB"], enabled=False)
        assert tags_of(off) == ["db2", "DB"]

        def ids(**filters: Any) -> list[int]:
            with database.reading() as session:
                listed = service.list_jobs(session, owner, JobPage(limit=10, **filters))
                found = [job.id for jobs in listed for job in jobs]
            assert listed.total == len(found)
            return found

        assert ids() == [plain.id, tagged.id, off.id]
        assert ids(tag="db") == [tagged.id]
        assert ids(tag="DB") == [off.id]
        assert ids(tag="back_up") == [tagged.id]
        assert ids(tag="back.up") == []
        assert ids(tag="b") == []
        assert ids(enabled=True) == [plain.id, tagged.id]
        assert ids(enabled=False, tag="db2") == [off.id]


class TestEvents:
    @pytest.fixture
    def told(self, database: Database, owner: str) -> Any:
        """A function that returns (event, data) of everything since the last call."""
        now = utc_now()
        with database.transaction() as session:
            session.add(
                Webhook(
                    id="w1",
                    owner=owner,
                    url="https://example.com/",
                    events=["job.*"],
                    secret="whsec_x",
                    description="",
                    created_at=now,
                    updated_at=now,
                )
            )
        seen = 0

        def since() -> list[tuple[str, dict[str, Any]]]:
            nonlocal seen
            with database.reading() as session:
                rows = session.scalars(select(Delivery).where(Delivery.id > seen).order_by(Delivery.id)).all()
            seen = rows[-1].id if rows else seen
            return [(row.event, json.loads(row.payload)["data"]) for row in rows]

        return since

    def test_tell_of_the_life_of_a_job(self, database: Database, owner: str, told: Any) -> None:
        secret = {"T": Variable("s3cret", secret=True), "A": Variable("1")}
        job = create(database, owner, env=secret, retries=2, tags=["db"])
        ((event, data),) = told()
        assert (event, data["id"], data["owner"], data["cron_expr"]) == ("job.created", job.id, owner, "0 3 * * *")
        assert (data["env"], data["retries"], data["tags"]) == ({"T": {"secret": True}, "A": "1"}, 2, ["db"])
        assert "s3cret" not in json.dumps(data)

        change(database, job, command="false", env=secret | {"T": Variable("new", secret=True)}, retries=2)
        ((event, data),) = told()
        assert (event, data["changed"]) == ("job.updated", ["command", "env"])
        assert "new" not in json.dumps(data)

        change(database, job, enabled=False, name="other")
        assert [(event, data.get("changed")) for event, data in told()] == [
            ("job.disabled", None),
            ("job.updated", ["name"]),
        ]
        with database.transaction() as session:
            service.toggle_job(session, owner, job.id)
        assert [event for event, _ in told()] == ["job.enabled"]
        change(database, job, enabled=True, name="other")
        assert told() == []
        with database.transaction() as session:
            service.delete_job(session, owner, job.id)
        ((event, data),) = told()
        assert (event, data["id"], data["name"]) == ("job.deleted", job.id, "other")

    def test_tell_of_links(self, database: Database, owner: str, told: Any) -> None:
        parent, job = create(database, owner), create(database, owner)
        told()
        change(database, job, after={parent.id: "any"})
        assert [data["changed"] for _, data in told()] == [["after"]]
        change(database, job, after={parent.id: "any"})
        assert told() == []
