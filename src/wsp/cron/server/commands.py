"""From a planned run to the order for its command: where it starts, what it gets, what it may use.

As cron does it: crontab(5), with `/bin/sh -c`, the owner's home and a small environment. Nothing of the server's own
environment is passed on.
"""

import logging
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsp.cron.planning.work import Job, PlannedRun
from wsp.cron.runner.orders import Order
from wsp.homes import home_dir, home_path, open_home
from wsp.settings import Settings

SHELL = "/bin/sh"
FIRST_ACCOUNT = 1000  # UID_MIN, where /etc/login.defs does not name another: login.defs(5)
LOGIN_DEFS = Path("/etc/login.defs")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

HOME_TROUBLE = "The command could not be started: its home folder cannot be used"
FOLDER_MISSING = "The command could not be started: its working folder {} is missing"
FOLDER_OUTSIDE = "The command could not be started: its working folder {} lies outside the home folder"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CannotStart:
    """Why there is no order, in a sentence for the job's owner."""

    sentence: str


def orders_for(runs: Iterable[PlannedRun], settings: Settings) -> dict[int, Order | CannotStart]:
    """The orders for runs, by run id. Makes homes that are missing. Blocks: call it off the event loop."""
    homes: dict[str, Path | CannotStart] = {}
    orders: dict[int, Order | CannotStart] = {}
    for run in runs:
        owner = run.job.owner
        if owner not in homes:
            homes[owner] = _home(settings, owner)
        home = homes[owner]
        orders[run.run_id] = home if isinstance(home, CannotStart) else _order(run, home, settings)
    return orders


def environment(job: Job, home: Path) -> dict[str, str]:
    """The environment of a job's command, but for the mark: what cron gives, and what the job adds."""
    given = {
        "HOME": str(home),
        "LOGNAME": job.owner,
        "USER": job.owner,
        "SHELL": job.policy.shell or SHELL,
        "PATH": PATH,
    }
    return {**given, **job.policy.env} if job.policy.env else given


def _order(run: PlannedRun, home: Path, settings: Settings) -> Order | CannotStart:
    job, policy = run.job, run.job.policy
    folder = _working_folder(job, home) if policy.working_dir else home
    if isinstance(folder, CannotStart):
        return folder
    return Order(
        run_id=run.run_id,
        command=job.command,
        folder=str(folder),
        environment=environment(job, home),
        shell=policy.shell or SHELL,
        stdin=policy.stdin.encode(),
        secrets=tuple(policy.env[name] for name in policy.secrets if policy.env.get(name)),
        user=job.owner if settings.cron_run_as == "owner" else "",
        timeout_seconds=float(policy.timeout_seconds),
        kill_grace_seconds=float(policy.kill_grace_seconds),
        max_output_bytes=policy.max_output_bytes or settings.cron_max_output_bytes,
        memory_mb=policy.memory_mb,
        cpu_seconds=policy.cpu_seconds,
        max_processes=policy.max_processes,
        nice=policy.nice,
    )


def _home(settings: Settings, owner: str) -> Path | CannotStart:
    home = home_dir(owner)
    account = _account(owner) if settings.cron_run_as == "owner" else None
    # Users of the panel may have any name: that of root, or of a service, must not give them its account.
    if account is not None and account[0] < (first := _first_account()):
        return CannotStart(
            f"The command could not be started: the system account '{owner}' is one of the system's own, "
            f"with a uid below {first} (UID_MIN in /etc/login.defs)"
        )
    try:
        os.close(open_home(settings.files, home, account))
    except OSError as error:
        logger.error("no home folder for %s: %s", owner, error)
        return CannotStart(HOME_TROUBLE)
    path = home_path(settings.files, home)
    # Whoever becomes another account is told the real one: see Spawner.
    return path.resolve() if settings.cron_run_as == "owner" else path


def _account(owner: str) -> tuple[int, int] | None:
    try:
        account = pwd.getpwnam(owner)
    except KeyError:  # said by the runner, which has to look it up as well
        return None
    return account.pw_uid, account.pw_gid


def _first_account() -> int:
    """The lowest uid of a person's account; 1 at least, which leaves out root."""
    try:
        lines = LOGIN_DEFS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return FIRST_ACCOUNT
    named = [words[1] for words in map(str.split, lines) if len(words) > 1 and words[0] == "UID_MIN"]
    return max(1, int(named[-1])) if named and named[-1].isdecimal() else FIRST_ACCOUNT


def _working_folder(job: Job, home: Path) -> Path | CannotStart:
    """A folder below the home: neither `..` nor a symbolic link leads out of it."""
    name = home_dir(job.owner, subdir=job.policy.working_dir)  # as the panel calls it
    missing = CannotStart(FOLDER_MISSING.format(name))
    try:
        root = home.resolve(strict=True)
        folder = (root / job.policy.working_dir).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, a ring of links, a NUL
        return missing
    if not folder.is_relative_to(root):
        return CannotStart(FOLDER_OUTSIDE.format(name))
    return folder if folder.is_dir() else missing
