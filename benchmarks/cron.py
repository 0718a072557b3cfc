"""Cron: commands a second, how late they start, ten thousand at once, a million that rest. Ratios of one run.

    python -m benchmarks.cron                         everything (ten minutes; needs root for Debian's cron)
    python -m benchmarks.cron --only throughput       one part: throughput, lateness, burst, many
    python -m benchmarks.cron --database-url postgresql://…    an empty database instead of SQLite

Throughput counts from the moment in which all commands are due to the commit of the last one's row. Lateness is what
the command itself sees: `date` in its shell, so it includes some two milliseconds that are the shell's and date's.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from benchmarks.cron_peers import apscheduler, debian_cron, spawned, spawned_each_second, unpack_cron
from benchmarks.idle import children, cpu_seconds, free_port, memory
from sqlalchemy import func, insert, select, text

from wsp import schema
from wsp.auth.models import User
from wsp.auth.service import issue_key
from wsp.cron.models import CronJob, JobRun
from wsp.database import Database, utc_now
from wsp.heartbeat import ServiceRow
from wsp.tables import metadata

COMMAND = "echo done"
NEVER = "0 0 29 2 1"  # far away: what is due is said by next_run_at
DEADLINE_SECONDS = 300.0
SETTLE_SECONDS = 2.0
BATCH = 10_000

LEAST_THROUGHPUT = 0.5
MOST_P50_MS, MOST_P99_MS = 20.0, 100.0
MOST_DECIDING_SECONDS, MOST_API_P99_MS = 5.0, 100.0
MOST_RESTART_SECONDS, MOST_IDLE_PERCENT, MOST_RESIDENT_MB = 30.0, 1.0, 500.0

failures: list[str] = []


def check(what: str, value: float, bound: float, *, at_least: bool = False) -> None:
    """Print a figure beside what it should be, and remember when it is not."""
    good = value >= bound if at_least else value <= bound
    if not good:
        failures.append(what)
    print(f"  {what}: {value:.2f} (wanted {'>=' if at_least else '<='} {bound:g}){'' if good else '  MISSED'}")


class Store:
    """A new database, and servers on it."""

    def __init__(self, folder: Path, url: str | None) -> None:
        folder.mkdir()
        self.folder = folder
        self.url = url or f"sqlite:///{folder / 'wsp.db'}"
        self.database = Database(self.url)
        if not self.database.is_sqlite:
            metadata.drop_all(self.database.engine)
            with self.database.transaction() as session:
                session.execute(text("DROP TABLE IF EXISTS alembic_version"))
        schema.upgrade(self.database)
        with self.database.transaction() as session:
            now = utc_now()
            user = User(username="admin", email="", role="admin", status="active", created_at=now, updated_at=now)
            session.add(user)
            session.flush()
            self.key = issue_key(session, user, name="benchmark")[1]

    def add_jobs(self, count: int, *, due: datetime | None, **values: Any) -> None:
        """Armed jobs, all alike."""
        now = utc_now()
        row = {
            "owner": "admin",
            "name": "benchmark",
            "command": COMMAND,
            "cron_expr": NEVER,
            "created_at": now,
            "updated_at": now,
            "enabled": True,
            "revision": 1,
            "armed_revision": 1,
            "next_run_at": due,
            **values,
        }
        for start in range(0, count, BATCH):
            with self.database.transaction() as session:
                session.execute(insert(CronJob), [row] * min(BATCH, count - start))

    def count(self, *statuses: str) -> int:
        """How many runs have a row, of any status or of these."""
        query = select(func.count()).select_from(JobRun)
        if statuses:
            query = query.where(JobRun.status.in_(statuses))
        with self.database.reading() as session:
            return session.scalar(query) or 0

    @contextmanager
    def scheduling(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A scheduler that has come to rest. Jobs are added afterwards: it takes what is armed as it finds it."""
        with self.running("cron") as scheduler:
            wait_until(self.alive)
            time.sleep(SETTLE_SECONDS)
            yield scheduler

    @contextmanager
    def running(self, service: str, **settings: Any) -> Iterator["subprocess.Popen[bytes]"]:
        """A service as a process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WSP_")}
        environment |= {"WSP_DATA_DIR": str(self.folder), "WSP_DATABASE_URL": self.url, "WSP_TIMEZONE": "UTC"}
        environment |= {f"WSP_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "wsp", service]
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def alive(self) -> bool:
        """Is there a scheduler?"""
        with self.database.reading() as session:
            return bool(session.scalar(select(func.count()).select_from(ServiceRow).where(ServiceRow.kind == "cron")))


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE_SECONDS, every: float = 0.05) -> float:
    """Wait for a condition. Returns when it came about (seconds since the epoch), or ends the program."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return time.time()
        time.sleep(every)
    sys.exit("it did not happen in time")


def whole_second(ahead: float) -> datetime:
    """A whole second, at least so many seconds from now."""
    return datetime.fromtimestamp(math.ceil(time.time() + ahead), UTC)


def lines(path: Path) -> int:
    """How many lines a file has, 0 when it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def percentile(values: list[float], part: float) -> float:
    """The value below which so much of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def throughput(store: Store, folder: Path, cron: Path | None, count: int) -> None:
    """Commands a second, everything due at once."""
    print(f"\nThroughput: {count} times `{COMMAND}`, due at once")
    plain = count / spawned(COMMAND, count)
    with store.scheduling() as scheduler:
        due = whole_second(3)
        store.add_jobs(count, due=due)
        done = wait_until(lambda: store.count("succeeded") >= count)
        used = sum(cpu_seconds(pid) for pid in [scheduler.pid, *children(scheduler.pid)])
    again = count / spawned(COMMAND, count)
    ours = count / (done - due.timestamp())
    plain = (plain + again) / 2
    print(f"  posix_spawn {plain:,.0f}/s, wsp {ours:,.0f}/s, {1000 * used / count:.2f} ms of processor a run")
    log = folder / "apscheduler"
    moment = whole_second(6).timestamp()
    with apscheduler("once", count, moment, f"{COMMAND} >> {log}"):
        rate = count / (wait_until(lambda: lines(log) >= count) - moment)
    print(f"  APScheduler 3: {rate:,.0f}/s, nothing written down")
    if cron:
        log = folder / "debian"
        some = min(count, 500)
        with debian_cron(cron, folder, [f"* * * * * root {COMMAND} >> {log}"] * some):
            wait_until(lambda: lines(log) > 0, every=0.01)
            moment = time.time() // 60 * 60
            rate = some / (wait_until(lambda: lines(log) >= some, every=0.01) - moment)
        print(f"  Debian's cron: {rate:,.0f}/s ({some} jobs in one minute)")
    check("wsp / posix_spawn", ours / plain, LEAST_THROUGHPUT, at_least=True)


def lateness(store: Store, folder: Path, cron: Path | None, seconds: int, count: int = 100) -> None:
    """From the due second to the command's first instruction."""
    print(f"\nLateness: {count} jobs due each second, for {seconds} s")
    command = "exec date +%s.%N >> {}"
    log = folder / "wsp-late"
    with store.scheduling() as scheduler:
        how = {"cron_expr": "* * * * * *", "command": command.format(log), "policy": {"overlap": "allow"}}
        store.add_jobs(count, due=whole_second(3), **how)
        wait_until(lambda: lines(log) >= count)
        before = cpu_seconds(scheduler.pid)
        wait_until(lambda: lines(log) >= count * (seconds + 1), seconds=3 * seconds + 60)
        print(f"  scheduler: {100 * (cpu_seconds(scheduler.pid) - before) / seconds:.0f} % of a core")
    late = _late(log, 1.0)[: count * (seconds + 1)]
    with store.database.transaction() as session:
        session.execute(text("DELETE FROM cron_jobs"))
    _show("wsp", late)
    log = folder / "plain-late"
    spawned_each_second(command.format(log), count, min(seconds, 20))
    plain = _late(log, 1.0)
    _show("posix_spawn alone", plain)
    log = folder / "apscheduler-late"
    with apscheduler("always", count, 0, command.format(log)):
        wait_until(lambda: lines(log) >= count * min(seconds, 20))
    _show("APScheduler 3", _late(log, 1.0))
    if cron:
        log = folder / "debian-late"
        place = folder / "late"
        place.mkdir()
        line = "* * * * * root " + command.format(log).replace("%", r"\%")
        with debian_cron(cron, place, [line] * count):
            wait_until(lambda: lines(log) >= count)
        _show("Debian's cron (in one minute)", _late(log, 60.0))
    p50, p99 = (percentile(late, part) / percentile(plain, part) for part in (0.5, 0.99))
    print(f"  wsp / posix_spawn: p50 {p50:.2f}, p99 {p99:.2f}")
    check("p50, ms", percentile(late, 0.5), MOST_P50_MS)
    check("p99, ms", percentile(late, 0.99), MOST_P99_MS)


def _late(log: Path, period: float) -> list[float]:
    """Milliseconds after the beginning of the period."""
    return [1000 * (float(line) % period) for line in log.read_text().split()]


def _show(name: str, late: list[float]) -> None:
    p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
    print(f"  {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, last {max(late):.0f} ms, {len(late)} runs")


def burst(store: Store, count: int = 10_000) -> None:
    """Ten thousand jobs due in one second, while somebody uses the API."""
    print(f"\nBurst: {count} jobs due in one second, beside a client of the API")
    port = free_port()
    before = store.count()
    times: list[float] = []
    with store.running("api", http_port=port), store.scheduling():
        due = whole_second(8)
        store.add_jobs(count, due=due)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
            client.headers["Authorization"] = f"Bearer {store.key}"
            wait_until(lambda: _answers(client), seconds=30)
            decided: float | None = None
            with store.database.reading() as session:
                some = session.scalar(select(func.max(CronJob.id))) or 1
            while time.time() < due.timestamp() or decided is None:
                start = time.perf_counter()
                client.get(f"/cronjobs/{some - len(times) % count}").raise_for_status()
                if time.time() >= due.timestamp() - 0.6:
                    times.append(1000 * (time.perf_counter() - start))
                    if len(times) % 10 == 0 and store.count() - before >= count:
                        decided = time.time()
                time.sleep(0.005)
        finished = wait_until(lambda: store.count("succeeded") - before >= count)
    print(f"  all run {finished - due.timestamp():.1f} s after they were due")
    print(f"  API: {len(times)} requests, median {statistics.median(times):.1f} ms, slowest {max(times):.0f} ms")
    check("seconds until all are decided", decided - due.timestamp(), MOST_DECIDING_SECONDS)
    check("API p99, ms", percentile(times, 0.99), MOST_API_P99_MS)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/cronjobs/?limit=1").status_code == 200
    except httpx.TransportError:
        return False


def many(store: Store, count: int, seconds: float) -> None:
    """A million enabled jobs, of which few are due."""
    print(f"\nMany: {count:,} enabled jobs, ten of them due each minute")
    few = _cost_of_planning(store)
    store.add_jobs(count, due=datetime(2090, 1, 1, tzinfo=UTC), cron_expr="0 0 1 1 *")
    more = _cost_of_planning(store)
    store.add_jobs(10, due=whole_second(1), cron_expr="* * * * *")
    before = store.count()
    begun = time.time()
    with store.running("cron") as scheduler:
        restart = wait_until(lambda: store.count("succeeded") > before) - begun
        time.sleep(5)
        pids = [scheduler.pid, *children(scheduler.pid)]
        used = sum(map(cpu_seconds, pids))
        time.sleep(seconds)
        idle = 100 * (sum(map(cpu_seconds, pids)) - used) / seconds
        resident = sum(memory(pid)[0] for pid in pids)
    check("seconds from the start to the first run", restart, MOST_RESTART_SECONDS)
    check("idle, % of a core", idle, MOST_IDLE_PERCENT)
    check("resident, MB", resident, MOST_RESIDENT_MB)
    print(f"  processor for each of 1,000 due jobs: {few:.2f} ms before, {more:.2f} ms beside {count:,} others")


def _cost_of_planning(store: Store, due: int = 1000) -> float:
    before = store.count()
    with store.scheduling() as scheduler:
        used = cpu_seconds(scheduler.pid)
        store.add_jobs(due, due=whole_second(3))
        wait_until(lambda: store.count("succeeded", "skipped") - before >= due)
        return 1000 * (cpu_seconds(scheduler.pid) - used) / due


def main() -> int:
    """Measure, print, and return 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["throughput", "lateness", "burst", "many"], action="append")
    parser.add_argument("--commands", type=int, default=4000, help="of the throughput")
    parser.add_argument("--seconds", type=int, default=60, help="of the lateness")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="that rest")
    parser.add_argument("--database-url", help="an empty PostgreSQL database: everything in it is thrown away")
    options = parser.parse_args()
    parts: dict[str, Callable[[Store, Path, Path | None], None]] = {
        "throughput": lambda store, folder, cron: throughput(store, folder, cron, options.commands),
        "lateness": lambda store, folder, cron: lateness(store, folder, cron, options.seconds),
        "burst": lambda store, _folder, _cron: burst(store),
        "many": lambda store, _folder, _cron: many(store, options.jobs, 30.0),
    }
    with tempfile.TemporaryDirectory(prefix="wsp-cron-") as top:
        cron = unpack_cron(Path(top) / "debian") if os.geteuid() == 0 else None
        for name in options.only or parts:
            folder = Path(top) / name
            folder.mkdir()
            parts[name](Store(folder / "data", options.database_url), folder, cron)
    if failures:
        print(f"\nmissed: {', '.join(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
