"""Random jobs, as bodies that the API takes: with every field, and texts that are hard on a crontab."""

from typing import Any

from hypothesis import strategies as st

OWNER = "ann"

# Backslashes, percent signs, quotes, blanks and line ends, where they do harm.
_HARD = st.text(st.sampled_from("ab\\%#'\"=$@*- \t\n\r;é•\x85\u2028\x1b0"), max_size=30)
_TEXT = st.one_of(_HARD, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
_SPACED = st.sampled_from(["", " ", "\t", "= ", "# ", "-", "wsp: {", "root ", "ann "])
_COMMANDS = st.builds(lambda front, text, end: front + text + end, _SPACED, _TEXT, st.sampled_from(["", "true", "\\"]))
_LONG = st.integers(900, 1100).map(lambda length: "x" * length)
_LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=100)

_EXPRESSIONS = st.sampled_from(
    [
        *("0 3 * * *", "*/5 * * * *", "@daily", "@reboot", "@Hourly", "0 0 1,15 * mon-fri", "0 4 31 1-12/2 SAT"),
        *("5/15 * * * *", "0 0 * * fri-sun", "0 3 * * * 30", "*/2 * * * * *", "H H * * *", "H/15 * * * *"),
    ]
)
_VALUES = st.one_of(
    _TEXT, _TEXT.map(lambda value: {"value": value}), _TEXT.map(lambda value: {"value": value + "!", "secret": True})
)
_ENV = st.dictionaries(
    st.sampled_from(["A", "PATH", "HOME", "LANG", "MAILTO", "CRON_TZ", "TZ", "SHELL", "_x9"]), _VALUES, max_size=4
)
_FOLDERS = st.sampled_from(["sites/blog", "a b", "it's", "50%", "-", "#x"])
_SHELLS = st.sampled_from(["/bin/sh", "/bin/bash", "/usr/bin/python3", "/opt/my'sh"])


def _seconds(most: int, least: int = 0) -> st.SearchStrategy[int]:
    return st.integers(least, most)


_OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "enabled": st.booleans(),
    "email_on_complete": st.sampled_from(["", "ops@example.com", "o'brien@example.com"]),
    "email_on_error": st.booleans(),
    "domain": st.sampled_from(["", "example.com"]),
    "timezone": st.sampled_from(["", "UTC", "Europe/Berlin"]),
    "description": st.lists(_LINES, max_size=3).map("\n".join),
    "tags": st.lists(st.sampled_from(["backup", "db", "A.b-c_9"]), unique=True),
    "overlap": st.sampled_from(["skip", "queue", "allow", "replace"]),
    "timeout_seconds": _seconds(9000),
    "kill_grace_seconds": _seconds(3600),
    "retries": st.integers(0, 100),
    "retry_delay_seconds": _seconds(9000),
    "retry_backoff": st.floats(1, 10, width=32),
    "missed": st.sampled_from(["skip", "run_once", "run_all"]),
    "start_deadline_seconds": _seconds(9000),
    "jitter_seconds": _seconds(600),
    "on_lost": st.sampled_from(["fail", "retry"]),
    "max_output_bytes": st.sampled_from([0, 1024, 65536]),
    "keep_runs": st.integers(0, 1000),
    "keep_days": st.integers(0, 1000),
    "env": _ENV,
    "working_dir": _FOLDERS,
    "stdin": _TEXT,
    "shell": _SHELLS,
    "memory_mb": st.integers(0, 1000),
    "cpu_seconds": _seconds(9000),
    "max_processes": st.integers(0, 1000),
    "nice": st.integers(-20, 19),
    "alert_on": st.lists(st.sampled_from(["first_failure", "nth_failure", "recovery"]), unique=True),
    "alert_every": st.integers(1, 100),
    "expect_every": _seconds(9000, 60),
    "grace_seconds": _seconds(9000),
    "alert_duration_factor": st.floats(1.5, 9, width=32),
}

JOBS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "command": st.one_of(_COMMANDS, _LONG).filter(str.strip),
        "name": _LINES.filter(lambda name: name.strip() != ""),
        "cron_expr": _EXPRESSIONS,
        "owner": st.just(OWNER),
    },
    optional=_OPTIONAL,
)
