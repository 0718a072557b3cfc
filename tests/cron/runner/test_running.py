"""Commands as a runner starts them: real ones."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wsp.cron.runner.frames import STDERR, STDOUT, decode
from wsp.cron.runner.procfs import run_limit, start_time
from wsp.cron.runner.spawn import CannotStart, _become

from .waiting import until

if TYPE_CHECKING:
    from tests.cron.runner.conftest import Scheduler

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can use other accounts")


@pytest.fixture(params=["at once", "prepared"])
def either(scheduler: "Scheduler", request: pytest.FixtureRequest) -> "Scheduler":
    """A scheduler that gives its orders at once, and one that has all of them stand ready before."""
    scheduler.prepares = request.param == "prepared"
    return scheduler


class TestOutcome:
    @pytest.mark.parametrize(
        ("command", "code"),
        [("true", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("no-such", 127)],
    )
    def test_exit_code_is_as_a_shell_tells_it(self, either: "Scheduler", command: str, code: int) -> None:
        end = either.run(command)
        assert (end.exit_code, end.cause, end.reason, end.trouble) == (code, "", "", "")

    def test_when_and_how_long(self, either: "Scheduler") -> None:
        before = time.time()
        end = either.run("sleep 0.3")
        assert end.started_at is not None
        assert before <= end.started_at <= end.ended_at <= time.time()
        assert end.duration_ms >= 300

    def test_what_it_used(self, either: "Scheduler") -> None:
        busy = f"{sys.executable} -S -c 'import time; x = b\"x\" * 100_000_000\nwhile time.process_time() < 0.3: pass'"
        end = either.run(busy)
        assert end.cpu_ms is not None
        assert end.cpu_ms >= 300
        assert end.memory_kb is not None
        assert 90_000 < end.memory_kb < 400_000

    def test_memory_that_cannot_be_told_from_the_runners_own_is_not_told(self, scheduler: "Scheduler") -> None:
        assert scheduler.run("true").memory_kb is None

    def test_the_start_tells_the_process(self, either: "Scheduler") -> None:
        run_id = either.start("echo $$ > pid; cat /proc/$$/stat > stat; sleep 60")
        started = either.begin(run_id)
        assert started.pid_started == start_time(started.pid)
        assert abs(started.at - time.time()) < 60
        either.kill(run_id, grace=0)
        assert either.end(run_id).exit_code == 137

    def test_in_the_order_that_was_given(self, either: "Scheduler") -> None:
        orders = [either.order(f"echo {n} >> order; sleep 0.2") for n in range(30)]
        either.start_all(orders)
        for order in orders:
            either.end(order.run_id)
        starts = [either.started[order.run_id] for order in orders]
        assert starts == sorted(starts, key=lambda start: start.at)

    def test_an_order_is_never_carried_out_twice(self, scheduler: "Scheduler") -> None:
        order = scheduler.order("echo once >> ran; sleep 0.3")
        scheduler.start_all([order, order])
        scheduler.start_all([order])
        scheduler.end(order.run_id)
        assert (scheduler.work / "ran").read_text() == "once\n"


class TestSurroundings:
    def test_the_environment_is_that_of_the_order_and_nothing_else(
        self, new_scheduler: "Callable[[], Scheduler]", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WSP_DATABASE_URL", "secret")
        monkeypatch.setenv("OTHER", "of the server")
        scheduler = new_scheduler().launch()
        end = scheduler.run("env", environment={"PATH": "/usr/bin:/bin", "A": "b c", "WSP_RUN_ID": "forged"})
        variables = dict(line.split("=", 1) for line in scheduler.text(end).splitlines())
        assert variables == {
            "A": "b c",
            "PATH": "/usr/bin:/bin",
            "PWD": str(scheduler.work),
            "WSP_RUN_ID": f"{scheduler.runner.id}-1",
        }
        environment = Path(f"/proc/{scheduler.runner.pid}/environ").read_bytes()
        assert b"secret" not in environment

    def test_it_starts_in_its_folder(self, either: "Scheduler") -> None:
        assert either.text(either.run("pwd")) == f"{either.work}\n"

    def test_standard_input_is_empty(self, either: "Scheduler") -> None:
        assert either.text(either.run("cat; echo $?")) == "0\n"

    @pytest.mark.parametrize("data", [b"one\ntwo", b"\0\xff" * 100_000], ids=["text", "binary, longer than a pipe"])
    def test_standard_input_is_what_was_given(self, either: "Scheduler", data: bytes) -> None:
        assert either.run("cat > copy", stdin=data).exit_code == 0
        assert (either.work / "copy").read_bytes() == data

    def test_no_descriptor_of_the_server_or_the_runner_is_open(self, either: "Scheduler") -> None:
        with (either.work / "held").open("w") as held:
            os.set_inheritable(held.fileno(), True)
            # ls itself opens one, for the folder it lists.
            assert either.text(either.run("ls /proc/self/fd")).split() == ["0", "1", "2", "3"]

    def test_the_runner_inherits_no_descriptor(self, new_scheduler: "Callable[[], Scheduler]", tmp_path: Path) -> None:
        with (tmp_path / "held").open("w") as held:
            os.set_inheritable(held.fileno(), True)
            scheduler = new_scheduler().launch()
            open_files = [os.readlink(f"/proc/{scheduler.runner.pid}/fd/{name}") for name in _fds(scheduler)]
        assert str(tmp_path / "held") not in open_files

    def test_it_leads_a_session_of_its_own(self, either: "Scheduler") -> None:
        pid, session = either.text(either.run("echo $$; cut -d' ' -f6 /proc/$$/stat")).split()
        assert pid == session

    def test_no_signal_is_ignored_or_blocked(self, either: "Scheduler") -> None:
        text = either.text(either.run("exec grep -E 'Sig(Blk|Ign)' /proc/self/status"))
        # 32 and 33 are glibc's own; its posix_spawn() has them ignored.
        assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in text.splitlines()] == [0, 0]

    def test_the_limit_of_descriptors_is_the_servers(self, either: "Scheduler") -> None:
        ours = subprocess.run(["sh", "-c", "ulimit -Sn"], capture_output=True, check=True, text=True).stdout
        assert either.text(either.run("ulimit -Sn")) == ours

    def test_the_mark_that_survives_everything(self, either: "Scheduler") -> None:
        text = either.text(either.run("env -i setsid grep msgqueue /proc/self/limits"))
        assert int(text.split()[3]) == run_limit(f"{either.runner.id}-1")

    def test_another_shell(self, scheduler: "Scheduler") -> None:
        assert scheduler.text(scheduler.run("[[ a == a ]] && echo $0", shell="/bin/bash")) == "/bin/bash\n"

    def test_what_is_no_utf8_goes_through(self, either: "Scheduler") -> None:
        word = os.fsdecode(b"\xff\xfe")
        end = either.run(f'printf %s "$A{word}"', environment={"PATH": "/bin", "A": word})
        assert decode(end.output.frames) == [(STDOUT, b"\xff\xfe" * 2)]

    def test_the_folder_is_not_held(self, scheduler: "Scheduler") -> None:
        scheduler.run("true")
        assert os.readlink(f"/proc/{scheduler.runner.pid}/cwd") == "/"


class TestCannotStart:
    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            ({"folder": "/no/such"}, "its working folder is missing"),
            ({"folder": "/etc/passwd"}, "its working folder is missing"),
            ({"shell": "/no/such"}, "there is no shell /no/such"),
            ({"shell": "/no/such", "memory_mb": 100}, "there is no shell /no/such"),
            ({"shell": "/etc/passwd"}, "there is no shell /etc/passwd"),
            ({"command": "true " + "x" * 200_000}, "too long"),
            ({"command": "true \0"}, "null"),
            ({"user": "no-such-account"}, "The system account 'no-such-account' does not exist"),
            ({"kill_grace_seconds": "soon"}, "kill_grace_seconds"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_says_why(self, scheduler: "Scheduler", fields: dict[str, object], sentence: str) -> None:
        end = scheduler.run(**{"command": "true", **fields})  # type: ignore[arg-type]
        assert sentence in end.trouble
        assert end.exit_code is None
        assert scheduler.run("true").exit_code == 0  # the runner goes on

    def test_when_there_are_no_descriptors(self, new_scheduler: "Callable[[], Scheduler]") -> None:
        scheduler = new_scheduler().launch()
        subprocess.run(["prlimit", "--pid", str(scheduler.runner.pid), "--nofile=16:16"], check=True)
        orders = [scheduler.order("sleep 1") for _ in range(20)]
        scheduler.start_all(orders)
        ends = [scheduler.end(order.run_id) for order in orders]
        assert any("the machine is at its limits" in end.trouble for end in ends)
        assert any(end.exit_code == 0 for end in ends)
        assert scheduler.run("true").exit_code == 0


class TestLimits:
    def test_memory(self, either: "Scheduler") -> None:
        take = f"exec {sys.executable} -S -c 'bytes(300_000_000)'"
        assert either.run(take).exit_code == 0
        end = either.run(take, memory_mb=200)
        assert "MemoryError" in either.text(end)
        assert end.exit_code == 1

    def test_cpu(self, either: "Scheduler") -> None:
        end = either.run("while :; do :; done", cpu_seconds=1)
        assert end.exit_code == 128 + signal.SIGXCPU

    def test_processes(self, either: "Scheduler") -> None:
        assert "1234" in either.text(either.run("grep processes /proc/self/limits", max_processes=1234))

    @pytest.mark.parametrize("nice", [10, pytest.param(-5, marks=as_root)])
    def test_nice(self, either: "Scheduler", nice: int) -> None:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert either.text(either.run("nice", nice=nice)) == f"{own + nice}\n"

    def test_all_together(self, either: "Scheduler") -> None:
        end = either.run("nice; ulimit -t", nice=3, memory_mb=500, cpu_seconds=7, max_processes=5000)
        assert either.text(end).split() == ["3", "7"]


@as_root
class TestOtherAccounts:
    @pytest.fixture
    def account(self, work: Path) -> str:
        for folder in [work, *work.parents]:  # pytest's folders are for their maker alone
            if folder.stat().st_mode & 0o001 == 0:
                folder.chmod(folder.stat().st_mode | 0o011)
        shutil.chown(work, "games")
        return "games"

    def test_with_its_groups_and_nothing_of_roots(self, either: "Scheduler", account: str) -> None:
        end = either.run("id -un; id -Gn; grep -E '^(Uid|Gid|Cap(Inh|Prm|Eff|Amb))' /proc/self/status", user=account)
        user, groups, *status = either.text(end).splitlines()
        assert user == account
        expected = subprocess.run(["id", "-Gn", account], capture_output=True, check=True, text=True).stdout
        assert groups == expected.strip()
        entry = pwd.getpwnam(account)
        for line in status:
            name, *values = line.split()
            wanted = {"Uid:": entry.pw_uid, "Gid:": entry.pw_gid}.get(name, 0)
            assert {int(value, 16 if name.startswith("Cap") else 10) for value in values} == {wanted}

    def test_the_environment_is_whole(self, either: "Scheduler", account: str) -> None:
        awkward = 'it\'s "$HOME" `id` \\ \n second line\n'
        end = either.run(
            'printf %s "$A"; ls /proc/self/fd >&2',
            user=account,
            environment={"PATH": "/usr/bin:/bin", "A": awkward},
            stdin=b"in",
        )
        streams = {1: b"", 2: b""}
        for stream, data in decode(end.output.frames):
            streams[stream] += data
        assert streams[STDOUT].decode() == awkward
        assert streams[STDERR].split() == [b"0", b"1", b"2", b"3"]
        assert either.text(either.run("cat; pwd; env", user=account, stdin=b"in\n")).splitlines()[:2] == [
            "in",
            str(either.work),
        ]

    def test_nothing_of_the_environment_reaches_a_program_that_runs_as_root(
        self, either: "Scheduler", account: str
    ) -> None:
        # The loader writes a file for every program that sees this, and it belongs to whom the program runs as.
        (either.work / "seen").mkdir(mode=0o777)
        (either.work / "seen").chmod(0o777)
        loader = {"LD_DEBUG": "statistics", "LD_DEBUG_OUTPUT": str(either.work / "seen" / "by")}
        environment = {"PATH": "/usr/bin:/bin", **loader}
        either.run("true", user=account, environment=environment, memory_mb=500, nice=1)
        owners = {path.stat().st_uid for path in (either.work / "seen").iterdir()}
        assert owners == {pwd.getpwnam(account).pw_uid}

    def test_is_never_root(self, scheduler: "Scheduler") -> None:
        end = scheduler.run("id", user="root")
        assert end.trouble == "The command could not be started: no job becomes root, whose account 'root' is"

    def test_root_is_not_led_away_by_a_link(self, scheduler: "Scheduler", account: str, tmp_path: Path) -> None:
        (tmp_path / "closed").mkdir(mode=0o700)
        (tmp_path / "closed" / "open").mkdir(mode=0o777)
        (scheduler.work / "folder").symlink_to(tmp_path / "closed" / "open")
        end = scheduler.run("ls", user=account, folder=str(scheduler.work / "folder"))
        assert end.trouble == "The command could not be started: its working folder was moved meanwhile"

    def test_a_name_that_is_no_variable(self, scheduler: "Scheduler", account: str) -> None:
        end = scheduler.run("true", user=account, environment={"A;id": "b"})
        assert "'A;id' is no name for a variable" in end.trouble

    def test_its_whole_tree_can_be_ended(self, either: "Scheduler", account: str) -> None:
        run_id = either.start(
            "env -i setsid sh -c 'echo $$ >> pids; sleep 60 & echo $! >> pids; wait' & echo $$ >> pids; wait",
            user=account,
        )
        until(lambda: len(either.pids("pids")) == 3)
        pids = either.pids("pids")
        either.kill(run_id)
        assert either.end(run_id).cause == "kill"
        assert not any(map(either.lives, pids))


def test_only_root_can_use_other_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotStart, match="only a server that runs as root can use other accounts"):
        _become("daemon")


def _fds(scheduler: "Scheduler") -> list[str]:
    return os.listdir(f"/proc/{scheduler.runner.pid}/fd")
