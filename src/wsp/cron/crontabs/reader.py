"""Reading crontabs: the jobs that a text holds, as the bodies of new ones. No database here.

The rules are crontab(5)'s and those of Debian's cron 3.0pl1, which were tried where the page is silent. More is taken
than it would take where other crons do: a last line without an end, CR LF, `NAME=` without a value, and `-` before the
first field.
"""

import json
import re
import shlex
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsp.cron.schedule.expression import MACROS, REBOOT, ExpressionError, parse
from wsp.cron.schemas.job_fields import MAX_DESCRIPTION_CHARS
from wsp.cron.variables import MAX_VARIABLES

MAX_NAME_CHARS = 100
METADATA = "# wsp: {"
"""How a comment begins that says what a crontab cannot: a JSON object about the line right below it."""
COMMENTED_OUT = "commented_out"
"""In there: why the line below is a comment although it is a job."""
SYSTEM_MARK = "# wsp: system crontab"
USER_MARK = "# wsp: crontab of "

SHELL = "/bin/sh"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what commands are given here anyway

_SETTING = re.compile(
    r"""(?:"(?P<name1>[^"=]*)"|'(?P<name2>[^'=]*)'|(?P<name3>[^\s"'=][^\s=]*))\s*=\s*"""
    r"""(?:"(?P<value1>[^"]*)"\s*|'(?P<value2>[^']*)'\s*|(?P<value3>(?:[^\s"'].*)?))""",
    re.ASCII | re.DOTALL,
)
_BLANKS = " \t\n\r\f\v"  # \s
_JOB = re.compile(r"-?(?P<times>@[^ \t]+|[^ \t]+(?:[ \t]+[^ \t]+){4})(?:[ \t]+(?P<rest>.*))?", re.DOTALL)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?", re.ASCII)
_HEADING = re.compile(r"\W*m(in(ute)?)?\s+h(our)?\s.*command\W*", re.IGNORECASE)
_ESCAPED_OR_PERCENT = re.compile(r"\\.|%", re.DOTALL)
_MINUTES = re.compile(r"[0-9]{1,9}")  # int() refuses what is thousands of digits long
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]+")

# Accounts of Debian's base-passwd, but for those whose names are commands too, and words that begin a command line.
_SYSTEM_USERS = ("root", "daemon", "bin", "games", "lp", "news", "uucp", "proxy", "www-data", "irc", "gnats", "nobody")
_SHELL_WORDS = ("[", "[[", "{", "(", "if", "test", "command")

# Settings of cron itself, which are no variables of the command, or not such as could be chosen.
_NOT_KEPT = ("MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING", "LOGNAME", "USER")
_OF_CRON = (*_NOT_KEPT, "MAILTO", "CRON_TZ", "RANDOM_DELAY", "SHELL", "HOME")
_MOST_SETTINGS = MAX_VARIABLES + len(_OF_CRON) + 2  # PATH may go, too: with more, no job can be made


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a crontab that is a job, or that should have been one (`problem`). `number` counts from 1."""

    number: int
    times: str = ""
    user: str = ""  # the user column of a system crontab
    command: str = ""
    stdin: str = ""
    comments: tuple[str, ...] = ()  # right above it
    settings: Mapping[str, str] = field(default_factory=dict)  # as they stand there
    metadata: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read(text: str, *, system: bool) -> Iterator[Line]:
    """The jobs of a crontab; with `system`, the sixth field is the user, as in /etc/crontab and /etc/cron.d."""
    settings: Mapping[str, str] = {}
    comments: list[str] = []
    metadata: dict[str, Any] | None = {}
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.removesuffix("\r").lstrip(" \t")
        commented = bool(metadata) and COMMENTED_OUT in (metadata or {}) and line.startswith("#")
        if line.startswith("#") and not commented and metadata is not None:
            if line.startswith(METADATA):
                metadata = _metadata(line)
            else:
                metadata = {}
                comments.append(line)
            continue
        if line.strip():
            setting = None if line.startswith("#") else _SETTING.fullmatch(line)
            if setting is not None:
                name, value = ("".join(setting[f"{part}{n}"] or "" for n in (1, 2, 3)) for part in ("name", "value"))
                if name in settings or name in _OF_CRON or len(settings) < _MOST_SETTINGS:
                    settings = {**settings, name: value if setting["value3"] is None else value.rstrip(_BLANKS)}
            elif metadata is None:
                yield Line(number, problem=f"The comment above it that begins with '{METADATA}' is not valid JSON")
            else:
                read_line = _job(line.removeprefix("#") if commented else line, metadata, system, commented=commented)
                yield Line(number, comments=tuple(comments), settings=settings, **{"metadata": metadata, **read_line})
        comments, metadata = [], {}


def _metadata(line: str) -> dict[str, Any] | None:
    try:
        read: dict[str, Any] = json.loads(line.removeprefix(METADATA[:-1]))
    except (ValueError, RecursionError):
        return None
    return read


def _job(line: str, metadata: dict[str, Any], system: bool, *, commented: bool) -> dict[str, Any]:
    """The parts of a job's line, or what is wrong with it."""
    metadata = {name: value for name, value in metadata.items() if name != COMMENTED_OUT}
    if not commented:  # somebody may have made a job again of a comment of ours
        metadata.pop("enabled", None)
        if "command" in metadata:
            return {"problem": f"The comment above it that begins with '{METADATA}' has a command too: take one out"}
    times = metadata.pop("cron_expr", None)
    if isinstance(times, str) and (times or commented) and f"{line} ".startswith(f"{times} ".lstrip(" ")):
        rest = line[len(times) :].lstrip(" \t")
    else:
        match = _JOB.fullmatch(line)
        if match is None:
            return {"problem": "The line is neither a setting (NAME=value) nor times and a command"}
        times, rest = " ".join(match["times"].split()), match["rest"] or ""
    user = ""
    if system:
        user, *more = re.split(r"[ \t]+", rest, maxsplit=1)
        rest = "".join(more)
        if not _USER.fullmatch(user):
            return {"problem": "The line has no user in front of its command, as lines of system crontabs have"}
    command, stdin = split_input(rest)
    return {"times": times, "user": user, "command": command, "stdin": stdin, "metadata": metadata}


def split_input(rest: str) -> tuple[str, str]:
    """Command and standard input: what comes after the first `%` that no backslash escapes, with line ends for `%`.

    In the command, Debian's cron takes two backslashes for one; in the input it does not.
    """
    end = next((found.start() for found in _ESCAPED_OR_PERCENT.finditer(rest) if found[0] == "%"), len(rest))
    command = re.sub(r"\\([\\%])", r"\1", rest[:end])
    stdin = re.sub(r"\\%|%", lambda found: "\n" if found[0] == "%" else "%", rest[end + 1 :])
    return command, stdin if not stdin or stdin.endswith("\n") else f"{stdin}\n"


def is_system(text: str, users: Collection[str]) -> bool:
    """Has this crontab a user column? `users` are names that such a column may well hold.

    It has when every job's sixth word is a user's name: one of those, or a system account, or what stands, there or in
    another line, before a word that begins a command. A crontab that `wsp` wrote says so itself.
    """
    start = text.removeprefix("\ufeff")
    if start.startswith((SYSTEM_MARK, USER_MARK)):
        return start.startswith(SYSTEM_MARK)
    sixth, proven = set(), {*users, *_SYSTEM_USERS}
    for line in read(text, system=False):
        if line.problem:
            continue
        words = line.command.split(maxsplit=2)
        if len(words) < 2 or not _USER.fullmatch(words[0]):
            return False
        sixth.add(words[0])
        if words[1] in _SHELL_WORDS:
            proven.add(words[0])
    return bool(sixth) and sixth <= proven


def as_job(line: Line, owner: str) -> tuple[dict[str, Any], list[str]]:
    """The body of a new job of `owner`, and what of the line is not kept, or not as it was."""
    command = line.command.removeprefix(command_prefix(line.metadata))
    name, description = _names(line.comments)
    job: dict[str, Any] = {"name": name or name_of(command), "command": command, "cron_expr": line.times}
    if description:
        job["description"] = description
    if line.stdin:
        job["stdin"] = line.stdin
    warnings = [f"{name} is not kept" for name in _NOT_KEPT if name in line.settings]
    _add_mail(job, line.settings, owner, warnings)
    _add_surroundings(job, line.settings, owner, warnings)
    return {**job, **line.metadata}, warnings


def _add_mail(job: dict[str, Any], settings: Mapping[str, str], owner: str, warnings: list[str]) -> None:
    """cron mails what a command prints; here mail is about runs. Who got mail then, gets it now."""
    recipients = [each.strip() for each in settings["MAILTO"].split(",")] if "MAILTO" in settings else [owner]
    first = next((each for each in recipients if "@" in each), "")
    if first:
        job["email_on_complete"] = first
        if len(recipients) > 1:
            warnings.append(f"Of MAILTO, {first} alone is kept")
    elif any(recipients):
        job["email_on_error"] = True
        if recipients != [owner]:
            warnings.append(f"MAILTO names no address: {owner} is mailed when the job fails")


def _add_surroundings(job: dict[str, Any], settings: Mapping[str, str], owner: str, warnings: list[str]) -> None:
    env = {name: value for name, value in settings.items() if name not in _OF_CRON}
    if env.get("PATH") == PATH:
        del env["PATH"]
    if env:
        job["env"] = env
    if settings.get("CRON_TZ"):
        job["timezone"] = settings["CRON_TZ"]
    if "TZ" in env and "CRON_TZ" not in settings:
        warnings.append("TZ is the command's, as cron has it; the times of the job are on the clock of the server")
    if settings.get("SHELL", SHELL) != SHELL:
        job["shell"] = settings["SHELL"]
    if _MINUTES.fullmatch(settings.get("RANDOM_DELAY", "")):
        job["jitter_seconds"] = int(settings["RANDOM_DELAY"]) * 60
    elif "RANDOM_DELAY" in settings:
        warnings.append("RANDOM_DELAY is not kept: it is no number of minutes")
    home = settings.get("HOME", "").rstrip("/")
    below = home.removeprefix(f"/home/{owner}/")
    if below != home and ".." not in below.split("/"):
        job["working_dir"] = below
    elif home not in ("", f"/home/{owner}"):
        warnings.append(f"HOME is not kept: the command starts in the home of {owner}")


def name_of(command: str) -> str:
    """The name of a job that was given none."""
    return _short(_UNPRINTABLE.sub(" ", command).strip())


def _names(comments: Sequence[str]) -> tuple[str, str]:
    """Name and description: of the comments right above a line the last paragraph, or nothing."""
    paragraph: list[str] = []
    for comment in comments:
        words = _UNPRINTABLE.sub(" ", comment.lstrip("#")).strip()
        if not any(letter.isalnum() for letter in words):
            paragraph = []
        elif not _HEADING.fullmatch(words) and not _looks_like_job(words):
            paragraph.append(words)
    joined = " ".join(paragraph)
    name = _short(joined)
    return name, "" if name == joined else "\n".join(paragraph)[:MAX_DESCRIPTION_CHARS]


def _short(text: str) -> str:
    if len(text) <= MAX_NAME_CHARS:
        return text
    # A first word that is longer than all that would be cut to nothing.
    return textwrap.shorten(text, MAX_NAME_CHARS, placeholder=" …").lstrip(" …") or f"{text[: MAX_NAME_CHARS - 1]}…"


def _looks_like_job(words: str) -> bool:
    match = _JOB.fullmatch(words)
    if match is None or not match["rest"]:
        return False
    if match["times"] in (*MACROS, REBOOT):
        return True
    try:
        parse(match["times"])
    except ExpressionError:
        return False
    return True


def command_prefix(job: Mapping[str, Any]) -> str:
    """What does in a crontab, for shells like sh, what `env` (but for secrets) and `working_dir` do for a job here."""
    env, folder = job.get("env"), job.get("working_dir")
    values = {name: value for name, value in env.items() if isinstance(value, str)} if isinstance(env, dict) else {}
    prefix = "".join(f"export {name}={shlex.quote(value)}; " for name, value in values.items())
    return prefix + (f"cd {shlex.quote(folder)} || exit; " if isinstance(folder, str) and folder else "")
