"""Runs of cron jobs over the API: the log, one run, its output, its stream, and its end on request."""

import concurrent.futures
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, update

from wsp.auth.models import ApiKey
from wsp.auth.service import change_user, hash_key
from wsp.cron.models import CronJob, JobRun
from wsp.cron.runner import spool
from wsp.cron.runner.frames import STDERR, STDOUT, encode, gap
from wsp.database import Database, utc_now
from wsp.heartbeat import ServiceRow, node_name

pytestmark = pytest.mark.e2e

NEVER = {"name": "never", "command": "true", "cron_expr": "0 0 1 1 *"}
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RUN_KEYS = [
    "id",
    "job_id",
    "status",
    "ok",
    "exit_code",
    "trigger",
    "scheduled_for",
    "started_at",
    "finished_at",
    "duration_ms",
    "output",
    "output_truncated",
]


@dataclass
class Job:
    """A job of `caller` that is due at New Year only, and runs of it that the test makes up."""

    caller: Any
    database: Database
    folder: Path
    id: int
    service: str

    @property
    def path(self) -> str:
        return f"/cronjobs/{self.id}"

    def add(self, scheduled_for: datetime = NOON, status: str = "succeeded", **values: Any) -> int:
        row = JobRun(
            **{
                "job_id": self.id,
                "scheduled_for": scheduled_for,
                "trigger": "schedule",
                "status": status,
                "node": node_name(),
                **values,
            }
        )
        with self.database.transaction() as session:
            session.add(row)
        return row.id

    def going_on(self, **values: Any) -> int:
        """A run of a scheduler that lives, but does nothing."""
        return self.add(**{"status": "running", "service_id": self.service, "started_at": NOON, **values})

    def set(self, run_id: int, **values: Any) -> None:
        with self.database.transaction() as session:
            session.execute(update(JobRun).where(JobRun.id == run_id).values(**values))

    def write(self, run_id: int, *pieces: tuple[int, bytes], offset: int = 0) -> None:
        """Write as the runner does while the command goes on."""
        path = Path(spool.run_folder(self.folder, run_id))
        path.mkdir(parents=True, exist_ok=True)
        with open(path / spool.segment_name(offset), "ab") as file:
            file.write(encode(pieces))

    def get(self, path: str = "", **options: Any) -> httpx.Response:
        answer: httpx.Response = self.caller("GET", f"{self.path}{path}", **options)
        return answer

    def stream(self, run_id: int, **options: Any) -> "Stream":
        return Stream(self.caller, f"/api/v1{self.path}/runs/{run_id}/stream", **options)


@dataclass
class Event:
    name: str
    data: Any
    id: str | None = None


class Stream:
    """Server-sent events as a client reads them."""

    def __init__(self, caller: Any, path: str, **options: Any) -> None:
        self._opened = caller.http.stream("GET", path, **options)

    def __enter__(self) -> "Stream":
        self.response = self._opened.__enter__()
        self._lines = self.response.iter_lines()
        return self

    def __exit__(self, *problem: object) -> None:
        self._opened.__exit__(*problem)

    def __iter__(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "event" in fields:
                yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}

    def take(self, count: int) -> list[Event]:
        return [event for _, event in zip(range(count), self, strict=False)]


@pytest.fixture
def make_job(server: Any, store_of_server: Database) -> Iterator[Callable[[Any], Job]]:
    service = uuid.uuid4().hex

    def make(caller: Any) -> Job:
        created = caller("POST", "/cronjobs/", NEVER)
        assert created.status_code == 201
        folder = server.data_dir / "cron" / "output"
        return Job(caller, store_of_server, folder, created.json()["id"], service)

    with store_of_server.transaction() as session:
        for_long = utc_now() + timedelta(hours=1)
        values = {"id": service, "node": "elsewhere", "kind": "cron", "pid": 1}
        session.add(ServiceRow(started_at=utc_now(), heartbeat_at=for_long, **values))
    yield make
    with store_of_server.transaction() as session:
        session.delete(session.get_one(ServiceRow, service))


@pytest.fixture
def job(ann: Any, make_job: Callable[[Any], Job]) -> Job:
    return make_job(ann)


class TestLog:
    def test_a_run_has_the_documented_keys_in_order(self, job: Job) -> None:
        run = job.add(started_at=NOON, finished_at=NOON + MINUTE, duration_ms=60_000, exit_code=0, output="done\n")
        (shown,) = job.get("/logs").json()
        assert list(shown) == RUN_KEYS
        assert shown == {
            "id": run,
            "job_id": job.id,
            "status": "succeeded",
            "ok": True,
            "exit_code": 0,
            "trigger": "schedule",
            "scheduled_for": "2026-05-01T19:00:00+07:00",
            "started_at": "2026-05-01T19:00:00+07:00",
            "finished_at": "2026-05-01T19:01:00+07:00",
            "duration_ms": 60_000,
            "output": "done\n",
            "output_truncated": False,
        }
        assert job.get(f"/runs/{run}").json() == shown
        assert job.get(f"/runs/{run}/").json() == shown

    def test_what_is_not_at_its_default_comes_after_them(self, job: Job) -> None:
        job.add(
            status="killed",
            reason="Killed by ann",
            attempt=2,
            cause_run_id=3,
            requested_by="ann",
            cpu_ms=5,
            memory_kb=6,
            output_bytes=7,
            kill_requested_at=NOON,
            kill_reason="Killed by ann",
        )
        (shown,) = job.get("/logs").json()
        assert list(shown) == [
            *RUN_KEYS,
            "reason",
            "attempt",
            "cause_run_id",
            "requested_by",
            "cpu_ms",
            "memory_kb",
            "output_bytes",
            "kill_requested_at",
            "kill_reason",
        ]
        assert shown["kill_requested_at"] == "2026-05-01T19:00:00+07:00"

    def test_filters(self, job: Job) -> None:
        now, before, long_ago = (
            job.add(NOON, "failed", output="disk full\n"),
            job.add(NOON - MINUTE, "skipped", reason="Paused"),
            job.add(NOON - 60 * MINUTE, trigger="manual"),
        )
        for query, expected in [
            ("status=failed", [now]),
            ("status=failed,skipped", [now, before]),
            ("trigger=manual", [long_ago]),
            ("since=2026-05-01T18:59:00%2B07:00", [now, before]),
            ("since=2026-05-01T18:59:00+07:00", [now, before]),
            ("until=2026-05-01T12:00:00Z", [before, long_ago]),
            ("search=PAUSED", [before]),
            ("search=full&status=skipped", []),
        ]:
            answer = job.get(f"/logs?{query}")
            assert (query, [run["id"] for run in answer.json()]) == (query, expected)
            assert answer.headers["x-total-count"] == str(len(expected))
        assert [run["output"] for run in job.get("/logs?output=false").json()] == ["", "", ""]

    def test_links_lead_through_all_of_it_while_runs_are_added(self, job: Job) -> None:
        runs = [job.add(NOON - n * MINUTE) for n in range(7)]
        answer, walked = job.get("/logs?limit=3&output=false"), []
        while True:
            walked += [run["id"] for run in answer.json()]
            assert answer.headers["x-total-count"] == str(7 + len(walked) // 3 - (1 if len(walked) % 3 == 0 else 0))
            links = answer.links
            if "next" not in links:
                break
            assert "output=false" in links["next"]["url"]
            job.add(NOON + len(walked) * MINUTE)
            answer = job.caller.http.get(links["next"]["url"])
        assert walked == runs
        back = job.caller.http.get(answer.links["prev"]["url"])
        assert [run["id"] for run in back.json()] == runs[3:6]

    def test_offsets_are_as_they_were(self, job: Job) -> None:
        runs = [job.add(NOON - n * MINUTE) for n in range(5)]
        answer = job.get("/logs?limit=2&offset=2")
        assert [run["id"] for run in answer.json()] == runs[2:4]
        assert answer.headers["x-total-count"] == "5"
        assert [run["id"] for run in job.caller.http.get(answer.links["next"]["url"]).json()] == runs[4:]
        assert [run["id"] for run in job.caller.http.get(answer.links["prev"]["url"]).json()] == runs[:2]

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("status=good", "status"),
            ("status=failed,", "status"),
            ("trigger=x", "trigger"),
            ("since=yesterday", "since"),
            ("until=2026-05-01T12:00:00", "until"),
            ("cursor=x", "cursor"),
            ("cursor=%00", "cursor"),
            ("output=perhaps", "output"),
            ("limit=0", "limit"),
            ("offset=1&cursor=AAAAAAAAAAAA", "offset"),
        ],
    )
    def test_bad_parameters_are_named(self, job: Job, query: str, name: str) -> None:
        answer = job.get(f"/logs?{query}")
        assert answer.status_code == 400
        assert answer.json()["details"][0]["field"] == name
        assert answer.json()["error"].lower().startswith(name)


class TestOutput:
    def both(self, job: Job) -> int:
        return job.add(
            output="out\nerr\nmore\n",
            output_frames=encode([(STDOUT, b"out\n"), (STDERR, b"err\n"), (STDOUT, b"m\xc3\xb6re\0\xff\n")]),
        )

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", "out\nerr\nmöre\u2400\ufffd\n"),
            ("?stream=stdout", "out\nmöre\u2400\ufffd\n"),
            ("?stream=stderr", "err\n"),
            ("?offset=4&limit=4", "err\n"),
            ("?offset=6", "r\nmöre\u2400\ufffd\n"),
            ("?offset=600", ""),
        ],
    )
    def test_as_text(self, job: Job, query: str, expected: str) -> None:
        answer = job.get(f"/runs/{self.both(job)}/output{query}")
        assert (answer.status_code, answer.text) == (200, expected)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"

    def test_reading_on_by_parts(self, job: Job) -> None:
        run, text, offset = self.both(job), "", "0"
        while part := (answer := job.get(f"/runs/{run}/output?limit=4&offset={offset}")).text:
            text, offset = text + part, answer.headers["x-output-next-offset"]
        assert text.startswith("out\nerr\nm")
        assert offset == "16"

    @pytest.mark.parametrize(
        "asked", [{"params": {"download": "true"}}, {"headers": {"Accept": "application/octet-stream"}}]
    )
    def test_as_bytes(self, job: Job, asked: dict[str, Any]) -> None:
        run = self.both(job)
        answer = job.get(f"/runs/{run}/output", **asked)
        assert (answer.status_code, answer.content) == (200, b"out\nerr\nm\xc3\xb6re\0\xff\n")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == f'attachment; filename="job-{job.id}-run-{run}.out"'
        assert answer.headers["content-length"] == "16"

    @pytest.mark.parametrize(
        ("asked", "expected", "shown"),
        [
            ("bytes=0-2", b"out", "bytes 0-2/16"),
            ("bytes=9-", b"\xc3\xb6re\0\xff\n", "bytes 9-15/16"),
            ("bytes=-3", b"\0\xff\n", "bytes 13-15/16"),
            ("bytes=-300", b"out\nerr\nm\xc3\xb6re\0\xff\n", "bytes 0-15/16"),
            ("bytes=4-999", b"err\nm\xc3\xb6re\0\xff\n", "bytes 4-15/16"),
        ],
    )
    def test_ranges(self, job: Job, asked: str, expected: bytes, shown: str) -> None:
        answer = job.get(f"/runs/{self.both(job)}/output?download=true", headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["content-range"] == shown

    @pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=5-4", "lines=1-2", "bytes=-", "bytes=x"])
    def test_what_is_no_single_range_is_passed_over(self, job: Job, asked: str) -> None:
        answer = job.get(f"/runs/{self.both(job)}/output?download=true", headers={"Range": asked})
        assert (answer.status_code, len(answer.content)) == (200, 16)

    @pytest.mark.parametrize("asked", ["bytes=16-", "bytes=99-100", "bytes=-0"])
    def test_a_range_behind_the_end(self, job: Job, asked: str) -> None:
        answer = job.get(f"/runs/{self.both(job)}/output?download=true", headers={"Range": asked})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == "bytes */16"
        assert answer.json()["error"] == "The range begins after the end: there are 16 bytes"
        assert answer.json()["status"] == 416

    def test_a_range_of_another_output_is_the_whole(self, job: Job) -> None:
        path = f"/runs/{self.both(job)}/output?download=true"
        tag = job.get(path).headers["etag"]
        for given, status in ((tag, 206), ('"other"', 200)):
            answer = job.get(path, headers={"Range": "bytes=0-2", "If-Range": given})
            assert answer.status_code == status

    def test_what_was_left_out_is_said(self, job: Job) -> None:
        run = job.add(output_truncated=True, output_frames=encode([(STDOUT, b"head"), gap(90), (STDOUT, b"tail\n")]))
        answer = job.get(f"/runs/{run}/output")
        assert answer.text == "head\n… 90 bytes left out …\ntail\n"
        assert answer.headers["x-output-next-offset"] == "99"
        answer = job.get(f"/runs/{run}/output?download=true")
        assert answer.content == b"headtail\n"
        assert answer.headers["x-output-left-out"] == "90"

    def test_a_long_one_in_files(self, job: Job) -> None:
        lines = [b"line %06d\n" % n for n in range(30_000)]
        run = job.add(output="x", output_in_file=True, output_frames=encode([(STDOUT, b"x")]))
        for first in range(0, len(lines), 1000):
            at = sum(map(len, lines[: first // 10_000 * 10_000]))
            job.write(run, *[(STDOUT, line) for line in lines[first : first + 1000]], offset=at)
        whole = b"".join(lines)
        assert job.get(f"/runs/{run}/output").content == whole
        answer = job.get(f"/runs/{run}/output?download=true", headers={"Range": "bytes=200000-200011"})
        assert answer.content == whole[200_000:200_012]
        assert "x-output-excerpt" not in answer.headers

    @pytest.mark.parametrize(
        ("node", "sentence"),
        [("", "The whole output is not there any more"), ("elsewhere", "The whole output lies on another machine")],
    )
    def test_without_the_files_the_excerpt(self, job: Job, node: str, sentence: str) -> None:
        run = job.add(output="x\n", output_in_file=True, node=node)
        for query in ("", "?download=true"):
            answer = job.get(f"/runs/{run}/output{query}")
            assert (answer.text, answer.headers["x-output-excerpt"]) == ("x\n", sentence)

    def test_what_there_is_by_now(self, job: Job) -> None:
        run = job.going_on()
        assert job.get(f"/runs/{run}/output").text == ""
        job.write(run, (STDOUT, b"so far\n"))
        answer = job.get(f"/runs/{run}/output")
        assert answer.text == "so far\n"
        job.write(run, (STDERR, b"and on\n"))
        offset = answer.headers["x-output-next-offset"]
        assert job.get(f"/runs/{run}/output?offset={offset}").text == "and on\n"

    def test_bytes_of_one_that_goes_on(self, job: Job) -> None:
        run = job.going_on()
        job.write(run, (STDOUT, b"head\n"))
        path, part = f"/runs/{run}/output?download=true", {"Range": "bytes=2-3"}
        answer = job.get(path)
        assert (answer.content, answer.headers["accept-ranges"]) == (b"head\n", "bytes")
        assert "content-length" not in answer.headers  # it may be less in a moment
        answer = job.get(path, headers=part)
        assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, b"ad", "bytes 2-3/5")
        job.write(run, (STDOUT, b"tail\n"), offset=1000)
        for headers in ({}, part):
            answer = job.get(path, headers=headers)
            assert (answer.status_code, answer.content) == (200, b"head\ntail\n")
            assert (answer.headers["accept-ranges"], answer.headers["x-output-left-out"]) == ("none", "995")
        job.set(run, status="succeeded", output_in_file=True)
        answer = job.get(path, headers=part)
        assert (answer.status_code, answer.headers["content-range"]) == (206, "bytes 2-3/10")

    @pytest.mark.parametrize(
        ("query", "name"),
        [("stream=both", "stream"), ("offset=-1", "offset"), ("limit=0", "limit"), ("download=maybe", "download")],
    )
    def test_bad_parameters_are_named(self, job: Job, query: str, name: str) -> None:
        answer = job.get(f"/runs/{self.both(job)}/output?{query}")
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, name)


class TestStream:
    def test_headers(self, job: Job) -> None:
        with job.stream(job.add()) as stream:
            assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert stream.response.headers["cache-control"] == "no-store"
            assert stream.response.headers["x-accel-buffering"] == "no"
            assert next(stream._lines) == "retry: 2000"

    def test_from_the_queue_to_the_end(self, job: Job) -> None:
        run = job.going_on(status="queued", start_at=NOON)
        with job.stream(run) as stream:
            assert stream.take(1) == [Event("status", {"status": "queued"})]
            job.set(run, status="running")
            assert stream.take(1) == [Event("status", {"status": "running"})]
            job.write(run, (STDOUT, b"caf\xc3"), (STDERR, b"oh\n"))
            assert stream.take(2) == [
                Event("output", {"stream": "stdout", "text": "caf"}, "4.oc3"),
                Event("output", {"stream": "stderr", "text": "oh\n"}, "7.oc3"),
            ]
            with job.stream(run, headers={"Last-Event-ID": "7.oc3"}) as other:
                assert other.take(1) == [Event("status", {"status": "running"})]
                job.write(run, (STDOUT, b"\xa9\n"))
                rest = Event("output", {"stream": "stdout", "text": "é\n"}, "9")
                assert other.take(1) == stream.take(1) == [rest]
                frames = encode([(STDOUT, b"caf\xc3"), (STDERR, b"oh\n"), (STDOUT, b"\xa9\n")])
                job.set(run, status="failed", exit_code=3, output="café\n", output_frames=frames)
                for each in (stream, other):
                    (end,) = list(each)
                    assert end == Event("end", job.get(f"/runs/{run}").json())

    def test_a_run_that_is_over(self, job: Job) -> None:
        run = job.add(output="all of it\n")
        with job.stream(run) as stream:
            assert [event.name for event in stream] == ["output", "end"]
        for options in ({"params": {"from": "7"}}, {"params": {"from": "0"}, "headers": {"Last-Event-ID": "7"}}):
            with job.stream(run, **options) as stream:
                assert stream.take(1)[0].data["text"] == "it\n"

    def test_what_is_no_place(self, job: Job) -> None:
        run = job.add()
        for options, name in (
            ({"params": {"from": "x"}}, "from"),
            ({"headers": {"Last-Event-ID": "x"}}, "Last-Event-ID"),
        ):
            answer = job.get(f"/runs/{run}/stream", **options)
            assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, name)

    def test_ends_when_the_caller_may_look_on_no_more(
        self, job: Job, make_job: Callable[[Any], Job], make_caller: Callable[..., Any], store_of_server: Database
    ) -> None:
        demoted, revoked, expired = (make_caller(role="admin") for _ in range(3))
        own = make_job(demoted)
        own_run, run = own.going_on(), job.going_on()
        with ExitStack() as opened:
            kept = opened.enter_context(own.stream(own_run))
            streams = [
                opened.enter_context(replace(job, caller=caller).stream(run)) for caller in (demoted, revoked, expired)
            ]
            for stream in (kept, *streams):
                assert stream.take(1) == [Event("status", {"status": "running"})]
            of_revoked, of_expired = (ApiKey.key_hash == hash_key(caller.secret) for caller in (revoked, expired))
            with store_of_server.transaction() as session:
                change_user(session, demoted.username, role="user")
                session.execute(delete(ApiKey).where(of_revoked))
                session.execute(update(ApiKey).where(of_expired).values(expires_at=utc_now()))
            assert [list(stream) for stream in streams] == [[]] * 3
            own.set(own_run, status="succeeded")
            assert [event.name for event in kept] == ["end"]

    def test_many_watchers_leave_room_for_others(self, job: Job) -> None:
        run = job.going_on()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = job.caller.http.headers
        with (
            httpx.Client(base_url=job.caller.http.base_url, headers=headers, limits=limits, timeout=60) as client,
            concurrent.futures.ThreadPoolExecutor(200) as threads,
        ):
            job.caller.http, mine = client, job.caller.http

            def watch() -> list[str]:
                with job.stream(run) as stream:
                    return [event.name for event in stream]

            watchers = [threads.submit(watch) for _ in range(200)]
            try:
                times = []
                for n in range(20):
                    job.write(run, (STDOUT, b"%d\n" % n))
                    begun = time.monotonic()
                    assert mine.get(f"/api/v1{job.path}").status_code == 200
                    times.append(time.monotonic() - begun)
                assert sorted(times)[10] < 5.0  # threads that were all taken would never answer
            finally:
                job.set(run, status="succeeded", output="".join(f"{n}\n" for n in range(20)))
            assert all(watcher.result(60)[-1] == "end" for watcher in watchers)
            job.caller.http = mine


class TestKill:
    def test_what_goes_on_is_left_to_its_scheduler(self, job: Job) -> None:
        run = job.going_on()
        answer = job.caller("POST", f"{job.path}/runs/{run}/kill", {"reason": "it is stuck", "grace_seconds": 2})
        assert answer.status_code == 202
        shown = answer.json()
        assert (shown["id"], shown["status"]) == (run, "running")
        assert shown["kill_reason"] == f"Killed by {job.caller.username}: it is stuck"
        assert shown["kill_requested_at"]
        again = job.caller("POST", f"{job.path}/runs/{run}/kill", {"reason": "more"})
        assert (again.status_code, again.json()) == (202, shown)

    def test_what_waits_is_killed_at_once(self, job: Job) -> None:
        run = job.add(status="queued", start_at=utc_now() + timedelta(hours=1))
        answer = job.caller("POST", f"{job.path}/runs/{run}/kill")
        assert answer.status_code == 202
        assert (answer.json()["status"], answer.json()["reason"]) == ("killed", f"Killed by {job.caller.username}")

    def test_what_is_over_stays_so(self, job: Job) -> None:
        run = job.add()
        answer = job.caller("POST", f"{job.path}/runs/{run}/kill")
        assert (answer.status_code, answer.json()["error"]) == (409, f"Run {run} has ended already")

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({"reason": 5}, "Reason must be a string"),
            ({"reason": "x" * 201}, "Reason must be at most 200 characters"),
            ({"reason": "a\nb"}, "Reason must not contain control characters"),
            ({"grace_seconds": -1}, "Grace seconds must be at least 0"),
            ({"grace_seconds": 3601}, "Grace seconds must be at most 3600"),
            ({"grace_seconds": "5"}, "Grace seconds must be an integer"),
            ({"signal": 9}, "Unknown field 'signal'"),
        ],
    )
    def test_bad_bodies_are_refused_with_the_field(self, job: Job, body: dict[str, Any], sentence: str) -> None:
        run = job.going_on()
        answer = job.caller("POST", f"{job.path}/runs/{run}/kill", body)
        assert answer.status_code == 400
        assert sentence in answer.json()["error"]
        assert "kill_reason" not in job.get(f"/runs/{run}").json()


class TestOthers:
    def test_runs_of_others_and_of_other_jobs_do_not_exist(
        self, job: Job, make_caller: Any, make_job: Callable[[Any], Job]
    ) -> None:
        run = job.going_on()
        bob = make_caller()
        other = make_job(job.caller)
        for method, path in (("GET", ""), ("GET", "/output"), ("GET", "/stream"), ("POST", "/kill")):
            for caller, base, sentence in (
                (bob, job.path, "Cron job not found"),
                (job.caller, other.path, "Run not found"),
            ):
                answer = caller(method, f"{base}/runs/{run}{path}")
                assert (answer.status_code, answer.json()["error"]) == (404, sentence)
        assert "kill_reason" not in job.get(f"/runs/{run}").json()

    def test_an_admin_sees_and_ends_them(self, job: Job, admin: Any) -> None:
        run = job.going_on()
        assert admin("GET", f"{job.path}/runs/{run}").json()["id"] == run
        answer = admin("POST", f"{job.path}/runs/{run}/kill")
        assert answer.json()["kill_reason"] == "Killed by admin"

    def test_a_key_for_reading_kills_nothing(self, job: Job, make_caller: Any) -> None:
        reader = make_caller(username=job.caller.username, permissions=("read",))
        run = job.going_on()
        assert reader("GET", f"{job.path}/runs/{run}").status_code == 200
        assert reader("POST", f"{job.path}/runs/{run}/kill").status_code == 403


class TestRealCommands:
    """Runs that the server's own scheduler starts."""

    @pytest.fixture
    def start(self, ann: Any, make_job: Callable[[Any], Job]) -> Callable[..., tuple[Job, int]]:
        def request(command: str, **policy: Any) -> tuple[Job, int]:
            job = make_job(ann)
            with job.database.transaction() as session:
                session.execute(update(CronJob).where(CronJob.id == job.id).values(command=command, policy=policy))
            now = utc_now()
            return job, job.add(now, "queued", start_at=now, trigger="manual", node="")

        return request

    def test_is_followed_from_its_start_to_its_end_by_force(self, start: Any) -> None:
        job, run = start("printf 'wait\\n'; printf 'oh \\303' >&2; sleep 0.3; printf '\\251\\n' >&2; exec sleep 600")
        with job.stream(run) as stream:
            texts = {"stdout": "", "stderr": ""}
            for event in stream:
                if event.name == "output":
                    texts[event.data["stream"]] += event.data["text"]
                if texts == {"stdout": "wait\n", "stderr": "oh é\n"}:
                    break
            assert job.get(f"/runs/{run}/output?stream=stderr").text == "oh é\n"
            assert job.caller("POST", f"{job.path}/runs/{run}/kill", {"reason": "enough"}).status_code == 202
            end = list(stream)[-1]
        assert (end.name, end.data["status"], end.data["ok"]) == ("end", "killed", False)
        assert end.data["reason"] == f"Killed by {job.caller.username}: enough"
        assert job.get(f"/runs/{run}/output?stream=stdout").text == "wait\n"
        assert job.caller("POST", f"{job.path}/runs/{run}/kill").status_code == 409

    def test_the_grace_of_the_request_counts(self, start: Any) -> None:
        job, run = start("trap '' TERM; echo ready; while :; do sleep 1; done", kill_grace_seconds=600)
        with job.stream(run) as stream:
            assert next(event for event in stream if event.name == "output").data["text"] == "ready\n"
            assert job.caller("POST", f"{job.path}/runs/{run}/kill", {"grace_seconds": 0}).status_code == 202
            assert list(stream)[-1].data["status"] == "killed"  # and not only when ten minutes are over

    def test_a_long_output_is_there_in_full(self, start: Any) -> None:
        job, run = start("seq 1 200000", max_output_bytes=10_000_000)
        whole = "".join(f"{n}\n" for n in range(1, 200_001))
        with job.stream(run) as stream:
            events = list(stream)
        assert "".join(event.data["text"] for event in events if event.name == "output") == whole
        assert events[-1].data["output_bytes"] == len(whole)
        answer = job.get(f"/runs/{run}/output?download=true")
        assert answer.text == whole
        assert "x-output-excerpt" not in answer.headers
        assert job.get(f"/runs/{run}/output?offset=500000&limit=10").text == whole[500_000:500_010]

    def test_of_a_longer_one_the_beginning_and_the_end(self, start: Any) -> None:
        job, run = start("seq 1 200000", max_output_bytes=2000)
        with job.stream(run) as stream:
            events = list(stream)
        whole = "".join(f"{n}\n" for n in range(1, 200_001))
        text = job.get(f"/runs/{run}/output").text
        head, left_out, tail = re.fullmatch(r"(.*)… (\d+) bytes left out …\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        assert whole.startswith(head.removesuffix("\n"))
        assert whole.endswith(tail)
        kept = job.get(f"/runs/{run}/output?download=true")
        assert len(kept.content) + int(left_out) == len(whole)
        assert len(kept.content) == 2000
        assert int(events[-1].data["output_truncated"]) == 1
        # Whoever looked on saw the same, with or without more of the middle.
        seen = sum(event.data["bytes"] for event in events if event.name == "dropped")
        shown = sum(len(event.data["text"]) for event in events if event.name == "output")
        assert seen + shown == len(whole)
