"""Crontabs, read and written."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from wsp.cron.crontabs.reader import PATH, Line, as_job, is_system, read
from wsp.cron.crontabs.writer import MAX_CRON_COMMAND_BYTES, write

from .random_jobs import JOBS, OWNER


def lines(text: str, *, system: bool = False) -> list[Line]:
    return list(read(text, system=system))


def jobs(text: str, *, system: bool = False, owner: str = OWNER) -> list[dict[str, Any]]:
    return [as_job(line, owner)[0] for line in read(text, system=system)]


def job(text: str) -> dict[str, Any]:
    (only,) = jobs(text)
    return only


def warnings(text: str) -> list[str]:
    (line,) = lines(text)
    return as_job(line, OWNER)[1]


class TestLines:
    @pytest.mark.parametrize(
        ("line", "times", "command"),
        [
            ("0 3 * * * true", "0 3 * * *", "true"),
            (" \t0\t3  * * *\ttrue  x ", "0 3 * * *", "true  x "),
            ("@daily true", "@daily", "true"),
            ("@reboot\ttrue", "@reboot", "true"),
            ("-*/5 * * * * true", "*/5 * * * *", "true"),
            ("0 0 * jan-mar mon,TUE true", "0 0 * jan-mar mon,TUE", "true"),
            ("0 3 * * * A=b true", "0 3 * * *", "A=b true"),
            ("0 3 * * * true # no comment", "0 3 * * *", "true # no comment"),
            ("0 3 * * *", "0 3 * * *", ""),
            ("@daily", "@daily", ""),
        ],
    )
    def test_have_times_and_a_command(self, line: str, times: str, command: str) -> None:
        (read_line,) = lines(line)
        assert (read_line.times, read_line.command, read_line.problem) == (times, command, "")

    @pytest.mark.parametrize("end", ["\n", "\r\n", ""])
    def test_may_end_in_any_way(self, end: str) -> None:
        assert [j["command"] for j in jobs(f"0 1 * * * one{end or chr(10)}@daily two{end}")] == ["one", "two"]

    def test_may_be_very_long(self) -> None:
        assert len(job(f"@daily {'x' * 100_000}\n")["command"]) == 100_000

    def test_are_numbered_as_in_the_file(self) -> None:
        assert [line.number for line in lines("\ufeff# x\n\n@daily a\n\nA=b\r\n@daily b\n")] == [3, 6]

    def test_that_are_neither_say_so(self) -> None:
        (line,) = lines("every day at noon\n")
        assert line.problem == "The line is neither a setting (NAME=value) nor times and a command"

    def test_of_system_crontabs_have_a_user(self) -> None:
        (line,) = lines("09,39 * * * *\t www-data   php x\n", system=True)
        assert (line.user, line.command) == ("www-data", "php x")
        (line,) = lines("0 3 * * * /usr/bin/php x\n", system=True)
        assert line.problem == "The line has no user in front of its command, as lines of system crontabs have"

    @pytest.mark.parametrize(
        ("rest", "command", "stdin"),
        # What Debian's cron 3.0pl1 makes of them was seen.
        [
            (r"date +\%d", "date +%d", ""),
            (r"printf '[\%s]' 'a\\b'", r"printf '[%s]' 'a\b'", ""),
            (r"sed 's/\s//'", r"sed 's/\s//'", ""),
            ("mail joe%Hi%%there", "mail joe", "Hi\n\nthere\n"),
            (r"cat%Hi \% there%\\n \\% x%", "cat", "Hi % there\n\\\\n \\% x\n"),
            (r"echo 'a\\%z%b'", "echo 'a\\", "z\nb'\n"),
            ("cat%", "cat", ""),
            ("echo \\", "echo \\", ""),
        ],
    )
    def test_have_input_behind_a_percent_sign(self, rest: str, command: str, stdin: str) -> None:
        (line,) = lines(f"@daily {rest}\n")
        assert (line.command, line.stdin) == (command, stdin)


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "env"),
        [
            ("A=b", {"A": "b"}),
            ("A = two words  ", {"A": "two words"}),
            ('A="x y "', {"A": "x y "}),
            ("'A' = 'it\"s'", {"A": 'it"s'}),
            ("A=", {"A": ""}),
            ("A=''", {"A": ""}),
            ("A=b # c", {"A": "b # c"}),
            ("A=$HOME/%x", {"A": "$HOME/%x"}),
            ("PATH=/bin:/usr/bin", {"PATH": "/bin:/usr/bin"}),
            ("TZ=Europe/Berlin", {"TZ": "Europe/Berlin"}),
        ],
    )
    def test_are_variables_of_the_jobs_that_follow(self, setting: str, env: dict[str, str]) -> None:
        before, after, later = jobs(f"@daily x\n{setting}\n@daily y\n@daily z\n")
        assert (before.get("env"), after["env"], later["env"]) == (None, env, env)

    def test_that_are_broken_are_lines_that_are_broken(self) -> None:
        (line,) = lines('A="x" y\n')
        assert line.problem.startswith("The line is neither a setting")

    def test_cost_no_more_than_they_are_long(self) -> None:
        began = time.process_time()
        blanks = " " * 1_000_000
        assert job(f"A=b{blanks}c\n@daily x\n")["env"] == {"A": f"b{blanks}c"}
        assert time.process_time() - began < 10  # square, it were hours

    def test_that_are_many_cost_each_job_no_more(self) -> None:
        began = time.process_time()
        found = jobs("".join(f"A{number}=\n@daily x\n" for number in range(10_000)))
        assert len(found) == 10_000
        assert len(found[199]["env"]) == 200
        assert all(len(each["env"]) > 200 for each in found[200:])  # more than a job may have
        assert time.process_time() - began < 10

    def test_that_commands_have_anyway_are_left_out(self) -> None:
        assert "env" not in job(f"PATH={PATH}\nSHELL=/bin/sh\nHOME=/home/ann\n@daily x\n")

    def test_of_cron_become_fields(self) -> None:
        text = "SHELL=/bin/bash\nHOME=/home/ann/sites\nCRON_TZ=Asia/Tokyo\nRANDOM_DELAY=5\n@daily x\n"
        expected = {"shell": "/bin/bash", "working_dir": "sites", "timezone": "Asia/Tokyo", "jitter_seconds": 300}
        assert expected.items() <= job(text).items()
        assert warnings(text) == []

    @pytest.mark.parametrize(
        ("setting", "sentence"),
        [
            ("HOME=/root", "HOME is not kept: the command starts in the home of ann"),
            ("HOME=/home/ann/../bob", "HOME is not kept: the command starts in the home of ann"),
            ("HOME=/home/annabel", "HOME is not kept: the command starts in the home of ann"),
            ("MAILFROM=x", "MAILFROM is not kept"),
            ("LOGNAME=x", "LOGNAME is not kept"),
            ("RANDOM_DELAY=soon", "RANDOM_DELAY is not kept: it is no number of minutes"),
            ("RANDOM_DELAY=²", "RANDOM_DELAY is not kept: it is no number of minutes"),
            # More digits than int() takes.
            (f"RANDOM_DELAY={'9' * 5000}", "RANDOM_DELAY is not kept: it is no number of minutes"),
            (
                "TZ=Asia/Tokyo",
                "TZ is the command's, as cron has it; the times of the job are on the clock of the server",
            ),
            ("MAILTO=root", "MAILTO names no address: ann is mailed when the job fails"),
            ("MAILTO=a@example.com,b@example.com", "Of MAILTO, a@example.com alone is kept"),
        ],
    )
    def test_say_what_is_not_kept(self, setting: str, sentence: str) -> None:
        assert warnings(f"{setting}\n@daily x\n") == [sentence]

    @pytest.mark.parametrize(
        ("setting", "address", "on_error"),
        [
            ("", None, True),
            ('MAILTO=""', None, None),
            ("MAILTO=", None, None),
            ("MAILTO=ann", None, True),
            ("MAILTO=root", None, True),
            ("MAILTO=ops@example.com", "ops@example.com", None),
        ],
    )
    def test_say_who_gets_mail(self, setting: str, address: str | None, on_error: bool | None) -> None:
        made = job(f"{setting}\n@daily x\n")
        assert (made.get("email_on_complete"), made.get("email_on_error")) == (address, on_error)


class TestNames:
    @pytest.mark.parametrize(
        ("comments", "name"),
        [
            ("# Nightly backup", "Nightly backup"),
            ("#Nightly\n#   backup", "Nightly backup"),
            ("# Of the shop\n#\n# Nightly backup", "Nightly backup"),
            ("# Of the shop\n\n# Nightly backup", "Nightly backup"),
            ("# m h  dom mon dow   command", "true"),
            ("# Nightly\n# 0 4 * * * root false\n# @daily x", "Nightly"),
            ("# Nightly\n", "true"),
            ("# Nightly\nA=b", "true"),
            ("", "true"),
            ("#####", "true"),
        ],
    )
    def test_are_the_comments_right_above(self, comments: str, name: str) -> None:
        assert job(f"{comments}\n@daily true\n").get("name") == name

    def test_belong_to_the_next_line_alone(self) -> None:
        assert [each["name"] for each in jobs("# Nightly\n@daily one\n@daily two\n")] == ["Nightly", "two"]

    def test_that_are_too_long_are_descriptions(self) -> None:
        made = job(f"# {'word ' * 20}\n# and so on\n@daily true\n")
        assert len(made["name"]) <= 100
        assert made["name"].endswith("word …")
        assert made["description"] == f"{('word ' * 20).strip()}\nand so on"
        assert len(job(f"@daily {'x' * 200}\n")["name"]) == 100

    def test_of_commented_jobs_make_no_jobs(self) -> None:
        assert jobs("#0 3 * * * off\n# 0 4 * * * off\n@daily on\n") == jobs("@daily on\n")


class TestKind:
    @pytest.mark.parametrize(
        ("text", "system"),
        [
            ("0 3 * * * root /usr/bin/x\n", True),
            ("0 3 * * * root /usr/bin/x\n@daily www-data true x\n", True),
            ("0 3 * * * munin if [ -x /y ]; then /y; fi\n0 4 * * * munin dir=/x; rm $dir\n", True),
            ("0 3 * * * ann /usr/bin/x\n", True),
            ("0 3 * * * php /home/ann/cron.php\n", False),
            ("0 3 * * * env A=b /usr/bin/x\n", False),
            ("0 3 * * * root /usr/bin/x\n0 4 * * * php x.php\n", False),
            ("0 3 * * * /usr/bin/x\n", False),
            ("0 3 * * * root\n", False),
            ("\ufeff# wsp: system crontab\n@daily bob true\n", True),
            ("\ufeff# wsp: crontab of ann\n@daily ann true\n", False),
            ("# nothing\n", False),
            ("", False),
        ],
    )
    def test_is_seen_by_the_sixth_words(self, text: str, system: bool) -> None:
        assert is_system(text, {"ann"}) is system


class TestMetadata:
    def test_says_what_a_line_cannot(self) -> None:
        text = '# x\n# wsp: {"timeout_seconds": 60, "env": {"A": "b c"}}\n0 3 * * * export A=\'b c\'; run\n'
        assert job(text) == {
            "name": "x",
            "command": "run",
            "cron_expr": "0 3 * * *",
            "email_on_error": True,
            "timeout_seconds": 60,
            "env": {"A": "b c"},
        }

    def test_is_about_the_next_line_alone(self) -> None:
        for between in ("\n", "# other\n", "A=b\n"):
            assert "timeout_seconds" not in job(f'# wsp: {{"timeout_seconds": 60}}\n{between}@daily x\n')

    def test_makes_a_job_of_a_comment(self) -> None:
        made = job('# wsp: {"commented_out": "disabled", "enabled": false}\n#0 3 * * * x\n')
        assert (made["cron_expr"], made["command"], made["enabled"]) == ("0 3 * * *", "x", False)

    @pytest.mark.parametrize(
        ("line", "times", "command"),
        [
            ("0 3 * * * 30 x", "0 3 * * * 30", "x"),
            ("0 4 * * * 30 x", "0 4 * * *", "30 x"),
            ("@daily x", "@daily", "x"),
        ],
    )
    def test_gives_way_to_a_line_that_was_made_a_job_again(self, line: str, times: str, command: str) -> None:
        told = '# wsp: {"commented_out": "disabled", "enabled": false, "cron_expr": "0 3 * * * 30", "retries": 3}'
        made = job(f"{told}\n{line}\n")
        assert (made["cron_expr"], made["command"], made.get("enabled", True)) == (times, command, True)
        assert made["retries"] == 3

    @pytest.mark.parametrize(
        ("told", "line", "problem"),
        [
            ('"command": "a\\nb"', "@daily a b", "has a command too: take one out"),
            ('"cron_expr": ""', "x", "neither a setting"),
        ],
    )
    def test_that_does_not_go_with_such_a_line_fails(self, told: str, line: str, problem: str) -> None:
        (made,) = lines(f'# wsp: {{"commented_out": "x", {told}}}\n{line}\n')
        assert problem in made.problem

    def test_that_is_broken_fails(self) -> None:
        (line,) = lines('# wsp: {"a": \n@daily x\n')
        assert line.problem == "The comment above it that begins with '# wsp: {' is not valid JSON"

    def test_that_is_broken_loses_no_job_that_is_commented_out(self) -> None:
        disabled, enabled = lines('# x\n# wsp: {"commented_out": "disabled"\n#@daily A=b x\n# y\n@daily y\n')
        assert (disabled.number, "is not valid JSON" in disabled.problem) == (3, True)
        assert (enabled.command, enabled.comments) == ("y", ("# y",))


def exported(*bodies: dict[str, Any], owner: str | None = OWNER, zone: str = "UTC") -> str:
    """The text behind the head of the crontab."""
    complete = [{"name": "x", "command": "x", "cron_expr": "@daily", "owner": OWNER, **body} for body in bodies]
    return write(complete, owner=owner, zone=zone).split("\n\n", 1)[1]


class TestWriting:
    def test_is_a_crontab(self) -> None:
        text = exported({"name": "nightly", "command": "date +%d", "stdin": "a%\nb\n"}, {"command": r"a \\ \s \%"})
        assert text == (
            'MAILTO=""\n# nightly\n@daily date +\\%d%a\\%%b\n'
            "\n# x\n@daily a \\\\\\ \\s \\\\\\%\n"
        )  # fmt: skip

    def test_has_settings_where_they_change(self) -> None:
        mailed = {"email_on_complete": "ops@example.com", "shell": "/bin/bash"}
        text = exported(
            mailed, mailed, {"email_on_error": True}, {"email_on_complete": "b@c.de", "email_on_error": True}
        )
        assert [line for line in text.splitlines() if not line.startswith(("@", "# x")) and line] == [
            'MAILTO="ops@example.com"',
            "SHELL=/bin/bash",
            'MAILTO="ann"',
            "SHELL=/bin/sh",
            'MAILTO="b@c.de"',
            '# wsp: {"email_on_error": true}',
        ]

    def test_gives_variables_and_folder_to_the_command(self) -> None:
        text = exported({"env": {"A": "b c"}, "working_dir": "it's", "name": "n"})
        assert text.splitlines()[-1] == """@daily export A='b c'; cd 'it'"'"'s' || exit; x"""

    def test_can_have_users(self) -> None:
        text = write([{"name": "x", "command": "y", "cron_expr": "@daily", "owner": "bob"}], owner=None, zone="UTC")
        assert text.endswith("# x\n@daily bob y\n")
        assert is_system(text, ())

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"enabled": False}, "disabled"),
            ({"cron_expr": ""}, "runs after other jobs only"),
            ({"cron_expr": "0 3 * * * 30"}, "cron cannot read its times"),
            ({"cron_expr": "H 3 * * *"}, "cron cannot read its times"),
            ({"cron_expr": "5/15 3 * * *"}, "cron cannot read its times"),
            ({"cron_expr": "0 3 * * fri-sun"}, "cron cannot read its times"),
            ({"cron_expr": "@Daily"}, "cron cannot read its times"),
            ({"timezone": "Asia/Tokyo"}, "cron has no time zones"),
            ({"env": {"A": {"secret": True}}}, "the value of A is secret"),
            ({"env": {"A": "b"}, "shell": "/usr/bin/python3"}, "cron cannot set its variables or its folder"),
            ({"command": "a\nb"}, "cron cannot be told its command or its input"),
            ({"command": " a"}, "cron cannot be told its command or its input"),
            ({"command": "= a"}, "cron cannot be told its command or its input"),
            ({"stdin": "a\\\nb\n"}, "cron cannot be told its command or its input"),
            ({"env": {"A": "b\nc"}}, "cron cannot be told its command or its input"),
            ({"command": "é" * 500}, "its command is too long for cron"),
        ],
    )
    def test_comments_out_what_cron_would_run_in_another_way(self, body: dict[str, Any], reason: str) -> None:
        *_, metadata, line = exported(body).splitlines()
        assert json.loads(metadata.removeprefix("# wsp: "))["commented_out"] == reason
        assert line.startswith("#")

    def test_leaves_what_cron_can_run(self) -> None:
        for body in (
            {"timezone": "UTC"},
            {"stdin": "no end"},
            {"command": "x" * MAX_CRON_COMMAND_BYTES},
            {"cron_expr": "1,2-9/3 */5 31 jan-MAR mon"},
            {"timeout_seconds": 5, "tags": ["a"]},
            {"command": "a\t\\"},
        ):
            assert not exported(body).splitlines()[-1].startswith("#"), body


_DEFAULTS = {"enabled": True, "email_on_complete": "", "email_on_error": False, "description": "", "stdin": ""}


def full(body: dict[str, Any]) -> dict[str, Any]:
    """A body with what counts as its default, without what is not the crontab's business."""
    return {**_DEFAULTS, **{name: value for name, value in body.items() if name != "owner"}}


class TestCommands:
    @pytest.mark.parametrize(
        ("body", "output"),
        [
            ({"command": "pwd; echo $A", "working_dir": "it's 50%", "env": {"A": "it's \\%d 100%"}}, "it's \\%d 100%"),
            ({"command": r"printf '%s' 'a\\b' '\%\s' \\"}, "a\\\\b\\%\\s\\"),
        ],
    )
    def test_do_for_cron_what_they_do_here(self, body: dict[str, Any], output: str, tmp_path: Path) -> None:
        (tmp_path / "it's 50%").mkdir()
        text = exported(body)
        line = text.splitlines()[-1]
        (seen_by_cron,) = lines(f"{line}\n")
        shown = subprocess.run(
            ["/bin/sh", "-c", seen_by_cron.command], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        folder = f"{tmp_path}/it's 50%\n" if "working_dir" in body else ""
        assert shown.rstrip("\n") == f"{folder}{output}"


class TestRoundTrip:
    @given(st.lists(JOBS, min_size=1, max_size=4))
    @hypothesis_settings(max_examples=300, deadline=None)
    def test_loses_nothing(self, random: list[dict[str, Any]]) -> None:
        for owner in (OWNER, None):
            text = write(random, owner=owner, zone="UTC")
            assert is_system(text, ()) is (owner is None)
            found = lines(text, system=owner is None)
            assert [line.problem for line in found] == [""] * len(random)
            assert [full(as_job(line, OWNER)[0]) for line in found] == [full(body) for body in random]

    @pytest.mark.skipif(shutil.which("crontab") is None and "CI" not in os.environ, reason="no cron on this machine")
    @given(JOBS)
    @hypothesis_settings(max_examples=50, deadline=None)
    def test_is_taken_by_cron(self, body: dict[str, Any]) -> None:
        text = write([body], owner=OWNER, zone="UTC")
        subprocess.run(["crontab", "-n", "-"], input=text.encode(), check=True, capture_output=True)
