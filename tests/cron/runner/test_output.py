"""What commands write, taken by a real runner."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wsp.cron.runner.frames import GAP, STDERR, STDOUT, decode, dropped
from wsp.cron.runner.spool import Reader

from .waiting import until

if TYPE_CHECKING:
    from tests.cron.runner.conftest import Scheduler

MEBIBYTE = 1024 * 1024
GROWTH_KB = 10 * 1024


def memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


class TestStreams:
    def test_can_be_told_apart(self, scheduler: "Scheduler") -> None:
        end = scheduler.run("echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three")
        assert decode(end.output.frames) == [(STDOUT, b"one\n"), (STDERR, b"two\n"), (STDOUT, b"three\n")]
        assert end.output.total_bytes == 14

    def test_binary_and_broken_utf8_survive(self, scheduler: "Scheduler") -> None:
        end = scheduler.run(r"printf 'a\000\377\303b'")
        assert decode(end.output.frames) == [(STDOUT, b"a\0\xff\xc3b")]

    def test_head_and_tail_within_the_bound(self, scheduler: "Scheduler") -> None:
        end = scheduler.run(
            "echo first; head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last", max_output_bytes=2048
        )
        text = scheduler.text(end)
        assert text.startswith("first\nxxx")
        assert text.endswith("xxx\nlast\n")
        pieces = decode(end.output.frames)
        assert sum(len(data) for stream, data in pieces if stream != GAP) == 2048
        assert [dropped(data) for stream, data in pieces if stream == GAP] == [end.output.total_bytes - 2048]
        assert end.output.total_bytes == 1_000_000 + 12

    def test_a_grandchild_that_holds_stdout_does_not_hang_the_run(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("sh -c 'sleep 0.2; echo late; sleep 60' & echo $! > pid; echo early")
        end = scheduler.end(run_id)
        assert scheduler.text(end) == "early\nlate\n"
        assert end.exit_code == 0
        assert end.duration_ms < 30_000
        (pid,) = scheduler.pids("pid")
        assert scheduler.lives(pid)  # as with cron, what is left in the background goes on
        subprocess.run(["kill", str(pid)], check=True)


class TestFiles:
    def test_a_long_output_stays_in_files(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("seq 100000", max_output_bytes=MEBIBYTE)
        end = scheduler.end(run_id)
        assert end.output.in_file
        pieces, _ = Reader(scheduler.outputs, run_id).read(0, 2 * MEBIBYTE)
        assert b"".join(data for _, _, data in pieces).split() == [b"%d" % n for n in range(1, 100_001)]
        scheduler.run("true")  # what was acknowledged before has been dealt with
        assert (scheduler.outputs / str(run_id)).exists()

    def test_a_live_reader_sees_it_meanwhile(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start("echo one; until [ -e go ]; do sleep 0.05; done; echo two >&2; sleep 60")
        reader = Reader(scheduler.outputs, run_id)
        until(lambda: reader.read(0) == ([(0, STDOUT, b"one\n")], 4))
        (scheduler.work / "go").touch()
        until(lambda: reader.read(4) == ([(4, STDERR, b"two\n")], 8))
        scheduler.kill(run_id, grace=0)
        assert scheduler.text(scheduler.end(run_id)) == "one\ntwo\n"

    def test_a_short_output_leaves_none_when_it_is_acknowledged(self, scheduler: "Scheduler") -> None:
        scheduler.acknowledges = False
        run_id = scheduler.start("echo slow; sleep 0.5")
        end = scheduler.end(run_id)
        assert not end.output.in_file
        assert (scheduler.outputs / str(run_id)).exists()  # until then a reader has somewhere to look
        scheduler.acknowledge(run_id)
        until(lambda: not (scheduler.outputs / str(run_id)).exists())

    def test_a_quick_one_never_has_any(self, scheduler: "Scheduler") -> None:
        scheduler.run("true")
        before = scheduler.outputs.stat().st_mtime_ns
        for _ in range(20):
            scheduler.run("echo quick")
        assert scheduler.outputs.stat().st_mtime_ns == before


class TestSecrets:
    def test_are_masked_in_both_streams(self, scheduler: "Scheduler") -> None:
        end = scheduler.run(
            "echo $TOKEN; echo x${TOKEN}y >&2; printf hun; sleep 0.3; printf 'ter2.'; printf hunt",
            environment={"PATH": "/bin", "TOKEN": "hunter2"},
            secrets=("hunter2", "a"),
        )
        streams = {STDOUT: b"", STDERR: b""}
        for stream, data in decode(end.output.frames):
            streams[stream] += data
        assert streams == {STDOUT: b"***\n***.hunt", STDERR: b"x***y\n"}
        assert end.output.total_bytes == 18

    def test_in_the_files_too(self, scheduler: "Scheduler") -> None:
        run_id = scheduler.start(
            "yes hunter2 | head -n 50000; sleep 60", max_output_bytes=MEBIBYTE, secrets=("hunter2",)
        )
        reader = Reader(scheduler.outputs, run_id)
        until(lambda: reader.read(0, MEBIBYTE)[1] == 4 * 50_000)
        written = b"".join(path.read_bytes() for path in (scheduler.outputs / str(run_id)).iterdir())
        assert b"hunter" not in written
        scheduler.kill(run_id, grace=0)
        assert b"hunter" not in scheduler.end(run_id).output.frames


class TestMemory:
    @pytest.mark.parametrize("limit", [65536, 16 * MEBIBYTE])
    def test_500_mb_in_flat_memory(self, scheduler: "Scheduler", limit: int) -> None:
        scheduler.run("true")
        before = memory_kb(scheduler.runner.pid)
        end = scheduler.run("head -c 500M /dev/zero", max_output_bytes=limit)
        assert end.output.total_bytes == 500 * MEBIBYTE
        assert peak_kb(scheduler.runner.pid) - before < GROWTH_KB

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize(
        ("command", "gibibytes"),
        [("yes | head -c 10G", 10), ("head -c 1G /dev/zero", 1), ("head -c 1G /dev/zero >&2", 1)],
    )
    def test_gigabytes_in_flat_memory_and_the_command_is_never_blocked(
        self, scheduler: "Scheduler", command: str, gibibytes: int, until: Callable[..., None]
    ) -> None:
        scheduler.run("true")
        before = memory_kb(scheduler.runner.pid)
        run_id = scheduler.start(command, max_output_bytes=16 * MEBIBYTE)
        until(lambda: run_id in scheduler.ended, 600)
        end = scheduler.ended[run_id]
        assert (end.exit_code, end.output.total_bytes, end.output.in_file) == (0, gibibytes * 1024 * MEBIBYTE, True)
        assert peak_kb(scheduler.runner.pid) - before < GROWTH_KB
        kept = sum(path.stat().st_size for path in (scheduler.outputs / str(run_id)).iterdir())
        assert kept < 16.1 * MEBIBYTE

    def test_many_that_write_little_by_little(self, scheduler: "Scheduler") -> None:
        scheduler.run("true")
        before = memory_kb(scheduler.runner.pid)
        script = "i=0; while [ $i -lt 2000 ]; do echo $i; echo $i >&2; i=$((i+1)); done"
        orders = [scheduler.order(script, max_output_bytes=16 * MEBIBYTE) for _ in range(40)]
        scheduler.start_all(orders)
        for order in orders:
            streams = {STDOUT: b"", STDERR: b""}
            for stream, data in decode(scheduler.end(order.run_id).output.frames):
                streams[stream] += data
            assert streams[STDOUT] == streams[STDERR] == b"".join(b"%d\n" % n for n in range(2000))
        assert peak_kb(scheduler.runner.pid) - before < GROWTH_KB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "cron" / "output"
        folder.mkdir(parents=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False)
        if mounted.returncode != 0:
            pytest.skip("cannot mount here")
        yield folder
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "-l", str(folder)], check=True)

    def test_the_command_goes_on_and_it_is_said(
        self, small_disk: Path, new_scheduler: "Callable[[], Scheduler]"
    ) -> None:
        scheduler = new_scheduler().launch()
        end = scheduler.run("head -c 50M /dev/zero; echo; echo last", max_output_bytes=16 * MEBIBYTE)
        assert end.exit_code == 0
        assert end.output.total_bytes == 50 * MEBIBYTE + 6
        assert end.output.trouble == "Its output could not be kept in full: No space left on device"
        assert scheduler.text(end).endswith("\nlast\n")
        short = scheduler.run("echo short; sleep 0.5; echo end")
        assert (scheduler.text(short), short.output.trouble) == ("short\nend\n", "")
