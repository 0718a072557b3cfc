"""A run as a stream of events, from a store and files that change meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, event, update

from wsp.cron.endpoints import stream as run_stream
from wsp.cron.history import runs
from wsp.cron.history.output import Decoder, RunOutput
from wsp.cron.history.watching import Watching
from wsp.cron.models import JobRun
from wsp.cron.runner import spool
from wsp.cron.runner.frames import STDERR, STDOUT, encode, gap
from wsp.cron.schemas.runs import RunOut
from wsp.database import Database
from wsp.errors import Unauthorized
from wsp.version import store_version

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
DEADLINE = 30.0


@dataclass
class Event:
    name: str
    data: Any
    id: str | None


def parse(raw: bytes) -> Event | str:
    """An event, or the comment or the retry that it is instead."""
    fields = dict(line.split(": ", 1) for line in raw.decode().strip("\n").split("\n"))
    if "event" not in fields:
        return raw.decode().strip()
    return Event(fields["event"], json.loads(fields["data"]), fields.get("id"))


class Stage:
    """A run that goes on, and those who watch it."""

    def __init__(self, database: Database, folder: Path, job_id: int, run_id: int) -> None:
        self.database, self.folder, self.job_id, self.run_id = database, folder, job_id, run_id
        self.checks = 0
        self.allowed = True
        self.watching: Watching

    def load(self) -> tuple[RunOutput, RunOut]:
        with self.database.reading() as session:
            run = runs.get_run(session, None, self.job_id, self.run_id)
            return RunOutput(run, self.folder, ""), RunOut.of(run, ZoneInfo("UTC"))

    async def recheck(self) -> None:
        self.checks += 1
        if not self.allowed:
            raise Unauthorized

    def write(self, *pieces: tuple[int, bytes], offset: int = 0) -> None:
        path = Path(spool.run_folder(self.folder, self.run_id))
        path.mkdir(parents=True, exist_ok=True)
        with open(path / spool.segment_name(offset), "ab") as file:
            file.write(encode(pieces))

    def set(self, **values: Any) -> None:
        with self.database.transaction() as session:
            session.execute(update(JobRun).where(JobRun.id == self.run_id).values(**values))

    def end(self, status: str = "succeeded", **values: Any) -> None:
        self.set(status=status, finished_at=NOON, **values)
        spool.remove(self.folder, self.run_id)

    def events(self, mark: str = "0") -> AsyncIterator[bytes]:
        decoder = Decoder.resumed(mark, field="from")
        return run_stream.events(self.watching, self.run_id, decoder, self.load, self.recheck)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Stage"]:
        version = store_version(self.database)
        version.start()
        self.watching = Watching(self.database, version, self.folder, asyncio.Event())
        try:
            yield self
        finally:
            await self.watching.close()
            version.close()


async def take(events: AsyncIterator[bytes], count: int) -> list[Any]:
    """The next events, without retries and comments."""
    taken: list[Any] = []
    async with asyncio.timeout(DEADLINE):
        while len(taken) < count:
            found = parse(await anext(events))
            if isinstance(found, Event):
                taken.append(found)
    return taken


async def rest(events: AsyncIterator[bytes]) -> list[Any]:
    """Everything until the stream closes."""
    async with asyncio.timeout(DEADLINE):
        return [found for raw in [raw async for raw in events] if isinstance(found := parse(raw), Event)]


@pytest.fixture
def stage(database: Database, jobs: Any, tmp_path: Path) -> Stage:
    job = jobs.add()
    return Stage(database, tmp_path / "output", job, jobs.add_run(job, NOON, "running", service_id="s"))


@pytest.fixture
def play(stage: Stage) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a scenario on an event loop with the stage open."""

    def run(scenario: Callable[[], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with stage.open():
                await scenario()

        asyncio.run(opened())

    return run


class TestEvents:
    def test_what_is_there_what_comes_and_the_end(self, stage: Stage, play: Any) -> None:
        stage.set(status="queued")

        async def scenario() -> None:
            events = stage.events()
            assert parse(await anext(events)) == "retry: 2000"
            assert await take(events, 1) == [Event("status", {"status": "queued"}, None)]
            stage.set(status="running")
            assert await take(events, 1) == [Event("status", {"status": "running"}, None)]
            stage.write((STDOUT, b"one\n"))
            assert await take(events, 1) == [Event("output", {"stream": "stdout", "text": "one\n"}, "4")]
            stage.write((STDERR, b"two\n"), (STDOUT, b"three\n"))
            assert [(each.data["stream"], each.id) for each in await take(events, 2)] == [
                ("stderr", "8"),
                ("stdout", "14"),
            ]
            frames = encode([(STDOUT, b"one\n"), (STDERR, b"two\n"), (STDOUT, b"three\nfour\n")])
            stage.end(output="one\ntwo\nthree\nfour\n", output_frames=frames)
            last, end = await rest(events)
            assert last == Event("output", {"stream": "stdout", "text": "four\n"}, "19")
            assert (end.name, end.data["status"], end.data["id"]) == ("end", "succeeded", stage.run_id)
            assert list(end.data)[:2] == ["id", "job_id"]

        play(scenario)

    def test_a_run_that_is_over(self, stage: Stage, play: Any) -> None:
        stage.end("failed", output="x", output_frames=encode([(STDOUT, b"a"), gap(10), (STDERR, b"b\xe2")]))

        async def scenario() -> None:
            assert [(each.name, each.data) for each in await rest(stage.events())][:-1] == [
                ("output", {"stream": "stdout", "text": "a"}),
                ("dropped", {"bytes": 10}),
                ("output", {"stream": "stderr", "text": "b"}),
                ("output", {"stream": "stderr", "text": "\ufffd"}),
            ]
            assert [each.name for each in await rest(stage.events("13"))] == ["end"]

        play(scenario)

    def test_goes_on_in_the_middle_of_a_character(self, stage: Stage, play: Any) -> None:
        stage.write((STDOUT, b"a\xe2\x82"), (STDERR, b"b"))

        async def scenario() -> None:
            events = stage.events()
            _, first, second = await take(events, 3)
            assert (first.data["text"], second.data["text"]) == ("a", "b")
            stage.write((STDOUT, b"\xacc"))
            for mark in (first.id, second.id):
                texts = [each.data.get("text") for each in await take(stage.events(mark), 3 if mark == first.id else 2)]
                assert texts[-1] == "€c"
            (third,) = await take(events, 1)
            assert third.data["text"] == "€c"
            assert third.id == "6"

        play(scenario)

    def test_what_was_dropped_before_it_was_read(self, stage: Stage, play: Any) -> None:
        stage.write((STDOUT, b"head"))
        stage.write((STDOUT, b"tail"), offset=100)

        async def scenario() -> None:
            _, head, dropped, tail = await take(stage.events(), 4)
            assert (head.data["text"], tail.data["text"]) == ("head", "tail")
            assert dropped == Event("dropped", {"bytes": 96}, "100")

        play(scenario)

    def test_characters_that_a_gap_cut_are_dropped_with_it(self, stage: Stage, play: Any) -> None:
        stage.end(output="x", output_frames=encode([(STDOUT, b"he\xe2\x82"), gap(10), (STDERR, b"\x82\xactail\n")]))

        async def scenario() -> None:
            head, dropped, tail, _ = await rest(stage.events())
            assert (head.data["text"], tail.data["text"]) == ("he", "tail\n")
            assert dropped == Event("dropped", {"bytes": 14}, "16")
            assert (await rest(stage.events(head.id)))[:2] == [dropped, tail]
            assert (await rest(stage.events(dropped.id)))[0] == tail

        play(scenario)

    def test_a_long_output_comes_in_parts(self, stage: Stage, play: Any) -> None:
        line = "0123456789abcdé\n".encode()
        for _ in range(64):
            stage.write(*[(STDOUT, line)] * 256)

        async def scenario() -> None:
            events, text, sizes = stage.events(), "", []
            while len(text.encode()) < 64 * 256 * len(line):
                (each,) = await take(events, 1)
                if each.name == "output":
                    text += each.data["text"]
                    sizes.append(len(each.data["text"]))
            assert text.encode() == line * 64 * 256
            assert max(sizes) <= 2 * run_stream.EVENT_BYTES

        play(scenario)


class TestEndsOfStreams:
    def test_the_run_is_deleted(self, stage: Stage, play: Any) -> None:
        async def scenario() -> None:
            events = stage.events()
            await take(events, 1)
            with stage.database.transaction() as session:
                session.execute(delete(JobRun))
            assert await rest(events) == []

        play(scenario)

    def test_the_server_stops(self, stage: Stage, play: Any) -> None:
        async def scenario() -> None:
            streams = [stage.events() for _ in range(5)]
            for events in streams:
                await take(events, 1)
            stage.watching.ending.set()
            assert await asyncio.gather(*(rest(events) for events in streams)) == [[]] * 5

        play(scenario)

    def test_the_key_is_revoked(self, stage: Stage, play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_stream, "HEARTBEAT_SECONDS", 0.05)
        monkeypatch.setattr(run_stream, "RECHECK_SECONDS", 0.1)

        async def scenario() -> None:
            events = stage.events()
            await take(events, 1)
            async with asyncio.timeout(DEADLINE):
                while stage.checks < 2:
                    assert parse(await anext(events)) == ": still there"
            stage.allowed = False
            assert await rest(events) == []

        play(scenario)

    def test_who_goes_away_is_forgotten(self, stage: Stage, play: Any) -> None:
        async def scenario() -> None:
            events = stage.events()
            await take(events, 1)
            reading = asyncio.create_task(take(events, 1))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert stage.watching._runs == {}
            assert stage.watching._task is not None
            async with asyncio.timeout(DEADLINE):
                await stage.watching._task
            await take(stage.events(), 1)  # and it begins anew

        play(scenario)


class TestManyWatchers:
    def test_the_store_is_asked_once_for_all(self, stage: Stage, play: Any) -> None:
        asked: list[str] = []

        async def scenario() -> None:
            streams = [stage.events() for _ in range(200)]
            await asyncio.gather(*(take(events, 1) for events in streams))
            event.listen(stage.database.engine, "before_cursor_execute", lambda *seen: asked.append(seen[2]))
            stage.write((STDOUT, b"hello\n"))
            found = await asyncio.gather(*(take(events, 1) for events in streams))
            assert {each.data["text"] for (each,) in found} == {"hello\n"}
            # New output costs none: one when they came, and on PostgreSQL nothing is believed for longer than seconds.
            assert len(asked) <= (1 if stage.database.is_sqlite else 4)
            stage.end(output="hello\n")
            ends = await asyncio.gather(*(rest(events) for events in streams))
            assert all([each.name for each in end] == ["end"] for end in ends)

        play(scenario)
