"""Writing crontabs: jobs as a text that cron runs as far as it can, and that the reader reads without a loss.

What a line cannot say stands in a comment above it, as JSON. A job that cron would run at other times, or in another
way, is commented out, with the reason.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from wsp.cron.crontabs.reader import (
    COMMENTED_OUT,
    METADATA,
    PATH,
    SHELL,
    SYSTEM_MARK,
    USER_MARK,
    as_job,
    command_prefix,
    name_of,
    read,
    split_input,
)
from wsp.cron.schedule.expression import MACROS, REBOOT

MAX_CRON_COMMAND_BYTES = 998  # Debian's cron refuses the whole crontab for one that is longer

_EXPLANATION = "# What cron does not know of a job stands in front of it; `wsp cron import` reads it."
_SHELLS_LIKE_SH = ("sh", "ash", "bash", "dash", "ksh", "mksh", "zsh")
_DEFAULTS = {"enabled": True, "email_on_complete": "", "email_on_error": False, "description": "", "stdin": ""}

_VALUE = r"(?:[0-9]+|[a-z]{3})"
_PART = rf"(?:\*(?:/[0-9]+)?|{_VALUE}(?:-{_VALUE}(?:/[0-9]+)?)?)"
_FOR_CRON = re.compile(rf"{_PART}(?:,{_PART})*(?: {_PART}(?:,{_PART})*){{4}}", re.ASCII | re.IGNORECASE)
_TO_SUNDAY = re.compile(r"[0-9a-z]-sun\b", re.ASCII | re.IGNORECASE)  # Debian's cron: to 0, and so of no day at all
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def write(jobs: Iterable[Mapping[str, Any]], *, owner: str | None, zone: str) -> str:
    """The crontab of jobs: a user's, of `owner`, or with None a system crontab, with each job's owner as its user.

    The jobs are bodies as those that make jobs, each with its `owner`. `zone` is the time zone of the machine that the
    crontab is for, by its name.
    """
    mark = SYSTEM_MARK if owner is None else f"{USER_MARK}{owner}"
    parts = [f"{mark}\n{_EXPLANATION}\nSHELL={SHELL}\nPATH={PATH}\n"]
    mailto, shell = None, SHELL
    for job in jobs:
        settings = ""
        wanted = job.get("email_on_complete") or (job["owner"] if job.get("email_on_error") else "")
        if wanted != mailto:
            mailto = wanted
            settings += f'MAILTO="{mailto}"\n'
        wanted = job.get("shell") or SHELL
        if wanted != shell:
            shell = wanted
            settings += f"SHELL={shell}\n"
        parts.append(settings + _block(job, f'MAILTO="{mailto}"\nSHELL={shell}\n', system=owner is None, zone=zone))
    return "\n".join(parts)


def _block(job: Mapping[str, Any], settings: str, *, system: bool, zone: str) -> str:
    """The lines of a job. `settings` are the lines of those that are in force there."""
    times = job.get("cron_expr", "")
    content = command_prefix(job) + job["command"]
    rest = _escaped(content, job.get("stdin", ""))
    line = " ".join(filter(None, (times, job["owner"] if system else "", rest)))
    known = {name: job[name] for name in ("env", "working_dir") if job.get(name)}
    if not _one_field_each(times):
        known["cron_expr"] = times
    if reason := _why_not(job, content, rest, zone):
        known[COMMENTED_OUT] = reason
        line = "#" + _UNPRINTABLE.sub(" ", line)
    name = job["name"]
    comment = "" if name.startswith("wsp:") or name == name_of(job["command"]) else f"# {name}\n"
    (parsed,) = read(f"{settings}{comment}{_metadata(known)}{line}\n", system=system)
    got, _ = as_job(parsed, job["owner"])
    for field in sorted((job.keys() | got.keys()) - {"owner"}):
        meant = job.get(field, _DEFAULTS.get(field))
        if got.get(field, _DEFAULTS.get(field)) != meant:
            known[field] = meant
    return f"{comment}{_metadata(known)}{line}\n"


def _metadata(known: Mapping[str, Any]) -> str:
    return f"{METADATA[:-1]}{json.dumps(known, ensure_ascii=False)}\n" if known else ""


def _escaped(command: str, stdin: str) -> str:
    """Command and standard input as the end of a line."""
    # Two backslashes are read as one, and one in front of a percent sign hides it.
    escaped = re.sub(r"\\(?=[\\%]|\Z)", r"\\\\", command).replace("%", r"\%")
    if not stdin:
        return escaped
    return f"{escaped}%{stdin.removesuffix(chr(10)).replace('%', chr(92) + '%').replace(chr(10), '%')}"


def _one_field_each(times: str) -> bool:
    """Is it an expression that a line can begin with, whoever reads it?"""
    return times.lower() in (*MACROS, REBOOT) or len(times.split()) == 5


def _why_not(job: Mapping[str, Any], content: str, rest: str, zone: str) -> str:
    """Why cron must not run the line of a job, or nothing."""
    times = job.get("cron_expr", "")
    secrets = [name for name, value in job.get("env", {}).items() if not isinstance(value, str)]
    if not job.get("enabled", True):
        return "disabled"
    if not times:
        return "runs after other jobs only"
    if times not in (*MACROS, REBOOT) and (not _FOR_CRON.fullmatch(times) or _TO_SUNDAY.search(times)):
        return "cron cannot read its times"
    if job.get("timezone", "") not in ("", zone):
        return "cron has no time zones"
    if secrets:
        return f"the value of {secrets[0]} is secret"
    if content != job["command"] and PurePosixPath(job.get("shell") or SHELL).name not in _SHELLS_LIKE_SH:
        return "cron cannot set its variables or its folder"
    said, stdin = split_input(rest), job.get("stdin", "")
    # A line that has "=" behind its first word is a setting.
    if _UNPRINTABLE.search(rest) or content.startswith((" ", "\t", "=")) or said not in _readings(content, stdin):
        return "cron cannot be told its command or its input"
    if len(rest.encode()) > MAX_CRON_COMMAND_BYTES:
        return "its command is too long for cron"
    return ""


def _readings(content: str, stdin: str) -> tuple[tuple[str, str], ...]:
    """What cron may make of a line: a line end behind the input does no harm."""
    return (content, stdin), (content, f"{stdin}\n")
