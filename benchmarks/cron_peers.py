"""The schedulers that wsp is measured against: Debian's cron, APScheduler 3, and no scheduler at all.

Debian's cron is the package's own program in a mount namespace of its own, where /etc/cron.d holds what the benchmark
wants: needs root, apt-get, dpkg and unshare.
"""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHELL = "/bin/sh"

IN_A_NAMESPACE = """
set -e
mount -t tmpfs none /run
mkdir -p /var/spool/cron
mount -t tmpfs none /var/spool/cron
mkdir -p /var/spool/cron/crontabs
mount --bind "$1" /etc/cron.d
: > "$2"
[ -e /etc/crontab ] || : > /etc/crontab
mount --bind "$2" /etc/crontab
exec "$3" -f
"""

APSCHEDULER = """
import subprocess, sys, time
from datetime import datetime, timezone
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler

count, kind, due, command = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
scheduler = BlockingScheduler(
    executors={"default": ThreadPoolExecutor(20)},
    job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 5},
    timezone="UTC",
)

def job(number):
    subprocess.run(["/bin/sh", "-c", command], capture_output=True, env={"DUE": "", "PATH": "/usr/bin:/bin"})

for number in range(count):
    if kind == "once":
        scheduler.add_job(job, "date", run_date=datetime.fromtimestamp(due, timezone.utc), args=[number])
    else:
        scheduler.add_job(job, "cron", second="*", args=[number])
print("ready", flush=True)
scheduler.start()
"""


def spawned(command: str, count: int, in_flight: int = 64) -> float:
    """Seconds that `count` commands take with posix_spawn(3) alone, `in_flight` of them at a time."""
    null = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1, 2)]
    argv = [SHELL, "-c", command]
    environment = {"PATH": "/usr/bin:/bin"}
    running: deque[int] = deque()
    start = time.perf_counter()
    for _ in range(count):
        if len(running) >= in_flight:
            os.waitpid(running.popleft(), 0)
        running.append(os.posix_spawn(SHELL, argv, environment, file_actions=null))
    for pid in running:
        os.waitpid(pid, 0)
    return time.perf_counter() - start


def spawned_each_second(command: str, count: int, seconds: int) -> None:
    """Start `count` commands at each second, one after the other, with posix_spawn(3) alone."""
    null = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1, 2)]
    for _ in range(seconds):
        time.sleep(1 - time.time() % 1)
        argv, environment = [SHELL, "-c", command], {"PATH": "/usr/bin:/bin"}
        for pid in [os.posix_spawn(SHELL, argv, environment, file_actions=null) for _ in range(count)]:
            os.waitpid(pid, 0)


def unpack_cron(folder: Path) -> Path:
    """Fetch Debian's cron and unpack it into a folder. Returns its program. Raises CalledProcessError."""
    folder.mkdir()
    fetch = ["apt-get", "download", "-q", "cron"]
    subprocess.run(fetch, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    return folder / "usr/sbin/cron"


@contextmanager
def debian_cron(program: Path, folder: Path, lines: list[str]) -> Iterator[None]:
    """Debian's cron with these lines of a system crontab (with a user column)."""
    table = folder / "cron.d"
    table.mkdir()
    (table / "benchmark").write_text("\n".join([*lines, ""]))
    (table / "benchmark").chmod(0o644)
    script = ["unshare", "--mount", SHELL, "-c", IN_A_NAMESPACE, "sh", str(table), str(folder / "none"), str(program)]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def apscheduler(kind: str, count: int, due: float, command: str) -> Iterator[None]:
    """APScheduler 3 in a process of its own: `count` jobs due `once` at `due` (seconds since the epoch), or `always`.

    Its jobs lie in memory, and what they print is read and thrown away.
    """
    words = [sys.executable, "-c", APSCHEDULER, str(count), kind, str(due), command]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()
