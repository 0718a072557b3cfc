"""Our schedule against Debian's own cron: the real daemon, in a jail of its own, under a clock that the test moves.

The clock is libfaketime's, read from a file at each look, and stands still until the test writes the next minute. So
nothing here depends on how fast this machine is: a minute is over when cron sleeps again, its children are gone, and
being woken changes neither. That last is for the gap of a clock change, whose minutes cron walks through with a nap
after each that had something to run, until a child ends or ten seconds are over.

The one disagreement: of several times of a fixed job that fall into one gap Debian runs each, one right after the
other. Here they are one run.
"""

import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest

from wsp.cron.schedule.expression import ExpressionError, parse

CRON = Path("/usr/sbin/cron")
MARK = ": mark"
PATIENCE_SECONDS = 60
VAIN_WAKES = 2
MINUTE = timedelta(minutes=1)

DAY_RULES = (
    "0 12 13 * fri",
    "0 12 */2 * mon",
    "0 12 */2 * *",
    "0 12 * * */2",
    "0 12 1-7 * */7",
    "0 12 */31 * 1-5",
    "0 12 15 * 0-6",
    "0 12 1-31 * mon",
    "0 12 1,15 * 7",
    "0 12 * feb-apr 0-2",
    "0 12 29 2 *",
    "0 12 30 4,6 5-7",
    "*/1 12 13 * fri",
    "0 */12 2-30/3 * sat",
)
CLOCK_CHANGES = (
    "30 2 * * *",
    "0 2 * * *",
    "0 3 * * *",
    "59 1 * * *",
    "15 2 * * *",
    "0,15,30 2,3 * * *",
    "30 1-3 * * *",
    "0-59 2 * * *",
    "0-59 0-23 * * *",
    "0 0-23 * * *",
    "10-50/20 */2 * * *",
    "30 */2 * * *",
    "* * * * *",
    "*/15 * * * *",
    "*/30 2 * * *",
    "*/20 1-3 * * *",
    "* 2 * * *",
    "*/7 * * * *",
    "5 * * * *",
    "30 2 29 3 *",
    "30 2 25 10 *",
    "30 2 * * sun",
    "30 2 29 3 mon",
    "0 2 */2 * sun",
    "45 1 * * *",
    "15 * 4,5 * *",
    "@hourly",
    "@daily",
)
CHANGES = (
    ("Europe/Berlin", "2026-03-29 00:00", 5),
    ("Europe/Berlin", "2026-10-24 23:30", 6),
    ("America/New_York", "2026-03-08 00:30", 4),
    ("America/New_York", "2026-11-01 00:30", 4),
    ("Australia/Lord_Howe", "2026-10-04 00:30", 4),
    ("Australia/Lord_Howe", "2026-04-05 00:30", 4),
    ("America/Sao_Paulo", "2018-11-03 22:30", 4),
    ("America/Sao_Paulo", "2018-02-17 21:30", 5),
)
RANDOM_EACH = 40

Runs = dict[datetime, list[str]]


class DebianCron:
    """The daemon with one crontab, whose clock stands still between the minutes that it is told."""

    def __init__(self, jail: Path, zone: str, expressions: list[str]) -> None:
        self._jail = jail
        self._expressions = expressions
        self._clock = jail / "clock"
        self._furnish(zone)
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log.bind(str(jail / "dev/log"))
        self._log.setblocking(False)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._slept = 0  # how often before it was woken last

    def start(self, now: datetime) -> None:
        """Begin at `now`. What is due at that very minute is not run."""
        self._set_clock(now)
        environment = {
            "LD_PRELOAD": "/lib/libfaketime.so.1",
            "FAKETIME_TIMESTAMP_FILE": "/clock",
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_FMT": "%s",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
            "TZ": ":/etc/localtime",
        }
        chroot = shutil.which("chroot") or "/usr/sbin/chroot"
        command = [chroot, str(self._jail), "/usr/bin/env", *(f"{n}={v}" for n, v in environment.items())]
        self._daemon = subprocess.Popen([*command, "/usr/sbin/cron", "-f"], env={}, stdin=subprocess.DEVNULL)
        self._until("(: begun)")

    def minute(self, now: datetime) -> list[str]:
        """Move the clock to `now`, a whole minute, and return the expressions that ran, sorted."""
        self._set_clock(now)
        self._wake()
        commands = self._until(f"({MARK})")
        return sorted(self._expressions[int(n)] for n in re.findall(r"\(root\) CMD \(: (\d+)\)", "\n".join(commands)))

    def stop(self) -> None:
        """End the daemon."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        self._log.close()

    @property
    def _daemon_process(self) -> "subprocess.Popen[bytes]":
        assert self._daemon is not None
        return self._daemon

    def _set_clock(self, now: datetime) -> None:
        beside = self._clock.with_suffix(".new")
        beside.write_text(str(int(now.timestamp())))
        beside.rename(self._clock)

    def _wake(self) -> None:
        self._slept = self._sleeps_so_far()
        self._daemon_process.send_signal(signal.SIGCHLD)  # which means nothing

    def _until(self, wanted: str) -> list[str]:
        """What cron logs until `wanted` was logged and it has gone back to sleep, twice, with nothing else to log."""
        lines: list[str] = []
        known, in_vain = 0, 0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert time.monotonic() < deadline, f"cron did not get as far as {wanted}: {lines}"
            assert self._daemon_process.poll() is None, f"cron ended: {lines}"
            self._read(lines, 0.002)
            if not self._sleeps() or self._read(lines, 0):
                continue
            if len(lines) > known or not any(wanted in line for line in lines):
                known, in_vain = len(lines), 0
            elif self._sleeps_so_far() == self._slept:
                continue  # it has not noticed yet
            else:
                in_vain += 1
            if in_vain == VAIN_WAKES:
                return lines
            self._wake()

    def _sleeps_so_far(self) -> int:
        status = Path(f"/proc/{self._daemon_process.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def _read(self, lines: list[str], patience: float) -> bool:
        got = False
        while select.select([self._log], [], [], 0 if got else patience)[0]:
            lines.append(self._log.recv(4096).decode())
            got = True
        return got

    def _sleeps(self) -> bool:
        pid = self._daemon_process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return _state(pid) == "S" and all(_state(int(child)) in ("Z", "") for child in children)

    def _furnish(self, zone: str) -> None:
        """All that the daemon opens. Its commands do nothing, in a shell that needs nothing else."""
        library = _faketime()
        assert library is not None
        for binary in (CRON, Path("/bin/sh"), Path("/usr/bin/env"), library, _permissive_pam()):
            self._copy(binary)
            for word in subprocess.run(["ldd", binary], capture_output=True, text=True).stdout.split():
                if word.startswith("/") and Path(word).exists():
                    self._copy(Path(word))
        self._copy(library, "lib/libfaketime.so.1")
        self._copy(next(path for root in TZPATH if (path := Path(root, zone)).exists()), "etc/localtime")
        for folder in ("etc/pam.d", "etc/cron.d", "var/spool/cron/crontabs", "var/run", "run", "dev", "tmp", "root"):
            (self._jail / folder).mkdir(parents=True, exist_ok=True)
        rules = "".join(f"{kind} required {_permissive_pam()}\n" for kind in ("auth", "account", "session", "password"))
        for service in ("cron", "other"):
            (self._jail / "etc/pam.d" / service).write_text(rules)
        (self._jail / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (self._jail / "etc/group").write_text("root:x:0:\n")
        (self._jail / "etc/crontab").touch()
        (self._jail / "dev/null").touch()
        lines = ['MAILTO=""', "@reboot : begun", f"* * * * * {MARK}"]
        lines += [f"{expression} : {number}" for number, expression in enumerate(self._expressions)]
        crontab = self._jail / "var/spool/cron/crontabs/root"
        crontab.write_text("\n".join(lines) + "\n")
        crontab.chmod(0o600)

    def _copy(self, path: Path, to: str = "") -> None:
        target = self._jail / (to or str(path).lstrip("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(path, target)


def _state(pid: int) -> str:
    """The letter that the kernel gives a process: S sleeps, Z is a zombie; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _faketime() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


def _permissive_pam() -> Path:
    return next(Path("/usr/lib").glob("*/security/pam_permit.so"))


@pytest.fixture
def start_cron(tmp_path: Path) -> Iterator["StartCron"]:
    if os.geteuid() != 0:
        pytest.skip("only root can put cron into a jail")
    if not (CRON.exists() and _faketime()):
        missing = "Debian's cron and libfaketime (packages cron, libfaketime)"
        if os.environ.get("CI"):
            pytest.fail(f"CI needs {missing}")
        pytest.skip(f"needs {missing}")
    start = StartCron(tmp_path)
    yield start
    for cron in start.started:
        cron.stop()


class StartCron:
    """Starts daemons that are ended with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[DebianCron] = []

    def __call__(self, zone: str, expressions: list[str], now: datetime) -> DebianCron:
        jail = self._folder / f"jail{len(self.started)}"
        jail.mkdir()
        cron = DebianCron(jail, zone, expressions)
        self.started.append(cron)
        cron.start(now)
        return cron


def at(text: str, zone: ZoneInfo) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def ours(expressions: list[str], begin: datetime, minutes: int, zone: ZoneInfo) -> Runs:
    """What we run in each of the minutes after `begin`."""
    end = begin + minutes * MINUTE
    runs: Runs = {begin + n * MINUTE: [] for n in range(1, minutes + 1)}
    for expression in expressions:
        for tick in parse(expression).due_between(begin, end, zone, 10_000):
            runs[tick].append(expression)
    return {minute: sorted(found) for minute, found in runs.items()}


def field(dice: random.Random, low: int, high: int, likely: int) -> str:
    value = dice.choice([likely, dice.randint(low, high)])
    return dice.choice(
        ["*", f"*/{dice.randint(1, 9)}", f"{low}-{value}", f"{value}-{high}/2", str(value), f"{value},{low}"]
    )


def random_expressions(dice: random.Random, near: datetime, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        wall = near + timedelta(minutes=dice.randint(0, 180))
        days = field(dice, 1, 31, wall.day), field(dice, 1, 12, wall.month), field(dice, 0, 6, wall.isoweekday() % 7)
        text = " ".join([field(dice, 0, 59, wall.minute), field(dice, 0, 23, wall.hour), *days])
        try:
            parse(text)
        except ExpressionError:
            continue
        found.append(text)
    return found


@pytest.mark.parametrize(("name", "begin", "hours"), CHANGES, ids=[f"{n}-{b[:10]}" for n, b, _ in CHANGES])
def test_runs_what_debian_runs_when_the_clocks_change(start_cron: StartCron, name: str, begin: str, hours: int) -> None:
    zone = ZoneInfo(name)
    start = at(begin, zone)
    random_ones = random_expressions(random.Random(name + begin), start.astimezone(zone), RANDOM_EACH)
    expressions = list(dict.fromkeys([*CLOCK_CHANGES, *random_ones]))
    cron = start_cron(name, expressions, start)
    expected = ours(expressions, start, hours * 60, zone)
    several = 0
    for minute, runs in expected.items():
        found = cron.minute(minute)
        several += len(found) - len(set(found))
        assert sorted(set(found)) == runs, f"at {minute.astimezone(zone)}"
    begins, ends = (start.astimezone(zone), (start + hours * 60 * MINUTE).astimezone(zone))
    gap = (ends.replace(tzinfo=None) - begins.replace(tzinfo=None)) > ends - start
    assert (several > 0) == gap, "several times in a gap are the one disagreement"


def test_runs_on_the_days_on_which_debian_runs(start_cron: StartCron) -> None:
    zone = ZoneInfo("UTC")
    start = at("2028-02-01 11:58", zone)
    expressions = [*DAY_RULES, *random_expressions(random.Random(4), at("2028-02-10 11:00", zone), RANDOM_EACH)]
    cron = start_cron("UTC", expressions, start)
    for day in range(1, 100):
        # A jump of a day is a clock that was corrected: cron runs what is due now, and makes up for nothing.
        before = start + timedelta(days=day)
        cron.minute(before)
        for minute, runs in ours(expressions, before, 3, zone).items():
            if minute.minute in (59, 0, 1):
                assert cron.minute(minute) == runs, f"at {minute}"


def test_reboot_is_run_at_the_start_and_not_again(start_cron: StartCron) -> None:
    start = at("2026-01-01 00:00", ZoneInfo("UTC"))
    cron = start_cron("UTC", ["@reboot", "30 0 * * *"], start)  # `start` waits for another @reboot of the crontab
    assert [cron.minute(start + n * MINUTE) for n in range(29, 32)] == [[], ["30 0 * * *"], []]


def test_a_day_that_is_left_out_is_a_correction_to_debian_and_a_gap_here(start_cron: StartCron) -> None:
    zone = ZoneInfo("Pacific/Apia")  # where 29 December 2011 was followed by 31 December
    start = at("2011-12-29 23:50", zone)
    expressions = ["0 12 30 12 *", "0 12 * * *", "0 0 31 12 *", "*/30 * * * *"]
    cron = start_cron(zone.key, expressions, start)
    different = {}
    for minute, runs in ours(expressions, start, 30, zone).items():
        if (found := cron.minute(minute)) != runs:
            different[minute.astimezone(zone).isoformat()] = (found, runs)
    midnight = ["*/30 * * * *", "0 0 31 12 *"]
    ours_too = sorted([*midnight, "0 12 * * *", "0 12 30 12 *"])
    assert different == {"2011-12-31T00:00:00+14:00": (midnight, ours_too)}
