"""Commands as cron runs them: real ones."""

import asyncio
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wsp.cron.executor import DRAIN_SECONDS, CannotStart, Outcome, environment, finish, start
from wsp.cron.processes import find_tree

LIMIT = 65536


@pytest.fixture
def execute(tmp_path: Path) -> Callable[..., Outcome]:
    """Run one command to its end, in a folder of its own."""

    def run(command: str, *, limit: int = LIMIT, mark: str = "test-1") -> Outcome:
        async def both() -> Outcome:
            return await finish(
                start(command, folder=tmp_path, environment=environment("deploy", tmp_path, mark)), limit
            )

        return asyncio.run(both())

    return run


class TestOutcome:
    @pytest.mark.parametrize(
        ("command", "code"),
        [("true", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("no-such", 127)],
    )
    def test_exit_code_is_as_a_shell_tells_it(self, execute: Callable[..., Outcome], command: str, code: int) -> None:
        assert execute(command).exit_code == code

    def test_both_outputs_in_the_order_they_were_written(self, execute: Callable[..., Outcome]) -> None:
        assert execute("echo one; echo two >&2; echo three").output == "one\ntwo\nthree\n"

    def test_binary_output(self, execute: Callable[..., Outcome]) -> None:
        assert execute(r"printf 'a\000\377b'").output == "a\N{SYMBOL FOR NULL}\N{REPLACEMENT CHARACTER}b"

    def test_percent_signs_and_quotes_are_the_shells(self, execute: Callable[..., Outcome]) -> None:
        assert execute("""printf '%s\\n' "a b" 'c%d' """).output == "a b\nc%d\n"


class TestSurroundings:
    def test_the_environment_is_crons_and_nothing_else(
        self, execute: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WSP_DATABASE_URL", "secret")
        variables = dict(line.split("=", 1) for line in execute("env").output.splitlines())
        assert variables == {
            "HOME": str(tmp_path),
            "LOGNAME": "deploy",
            "USER": "deploy",
            "SHELL": "/bin/sh",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PWD": str(tmp_path),
            "WSP_RUN_ID": "test-1",
        }

    def test_it_starts_in_its_folder(self, execute: Callable[..., Outcome], tmp_path: Path) -> None:
        assert execute("pwd").output == f"{tmp_path}\n"

    def test_standard_input_is_empty(self, execute: Callable[..., Outcome]) -> None:
        assert execute("cat; echo $?").output == "0\n"

    def test_no_descriptor_of_the_server_is_open(self, execute: Callable[..., Outcome], tmp_path: Path) -> None:
        with (tmp_path / "held").open("w"):
            # ls itself opens one, for the folder it lists.
            assert execute("ls /proc/self/fd").output.split() == ["0", "1", "2", "3"]

    def test_it_leads_a_session_of_its_own(self, execute: Callable[..., Outcome]) -> None:
        pid, session = execute("echo $$; cut -d' ' -f6 /proc/$$/stat").output.split()
        assert pid == session


class TestOutput:
    def test_200_mb_in_flat_memory(self, execute: Callable[..., Outcome]) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = execute("echo first; head -c 200000000 /dev/zero | tr '\\0' x; echo; echo last")
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert outcome.exit_code == 0
        assert outcome.output_truncated
        assert outcome.output.startswith("first\nxxx")
        assert outcome.output.endswith("xxx\nlast\n")
        assert "… 199934476 bytes left out …" in outcome.output
        assert grown_kib < 20 * 1024

    def test_a_child_that_holds_the_output_open_does_not_hang_the_run(self, execute: Callable[..., Outcome]) -> None:
        begin = time.monotonic()
        outcome = execute("echo done; sleep 60 & echo $!", mark="holder")
        try:
            assert outcome.exit_code == 0
            assert outcome.output.startswith("done\n")
            assert time.monotonic() - begin < DRAIN_SECONDS + 20
            assert len(find_tree({"holder"})) == 1  # what a command leaves in the background goes on, as with cron
        finally:
            execute(f"kill {outcome.output.split()[1]}")

    def test_what_a_child_writes_shortly_after_is_kept(self, execute: Callable[..., Outcome]) -> None:
        assert execute("(sleep 0.2; echo late) & echo soon").output == "soon\nlate\n"


class TestStart:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CannotStart, match=r"^The command could not be started: its working folder is missing$"):
            start("true", folder=tmp_path / "none", environment={})

    def test_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(CannotStart, match=r"^The command could not be started: Argument list too long$"):
            start(": " + "x" * 3_000_000, folder=tmp_path, environment={})

    def test_nul(self, tmp_path: Path) -> None:
        with pytest.raises(CannotStart, match=r"^The command could not be started: embedded null byte$"):
            start("true\0", folder=tmp_path, environment={})

    def test_a_hundred_at_once(self, tmp_path: Path) -> None:
        async def all_of_them() -> list[Outcome]:
            started = [start(f"echo {n}; exit {n}", folder=tmp_path, environment={}) for n in range(100)]
            return await asyncio.gather(*(finish(one, LIMIT) for one in started))

        outcomes = asyncio.run(all_of_them())
        assert [outcome.exit_code for outcome in outcomes] == list(range(100))
        assert [outcome.output for outcome in outcomes] == [f"{n}\n" for n in range(100)]
