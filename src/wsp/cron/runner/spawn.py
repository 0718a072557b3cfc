"""Starts commands the way cron does: crontab(5), with a shell, in a session of its own and without a terminal."""

import errno
import fcntl
import os
import resource
import signal

from wsp.cron.runner.command import Command
from wsp.cron.runner.procfs import MARK_VARIABLE, run_limit

MEBIBYTE = 1024 * 1024

# All that Python or whoever started it may have set to be ignored: that is inherited, and no shell can undo it.
_TO_DEFAULT = [
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGXFSZ,
]
_PROGRAM_FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
_BARE_ENVIRONMENT = {"PATH": ":".join(_PROGRAM_FOLDERS)}

_ENVIRONMENT_FD = 3
# The environment comes in only after root has gone: a LD_PRELOAD in it must never reach a program that runs as root.
# It comes in a file without a name, since the arguments of a process are for everybody to read.
_TAKE_ENVIRONMENT = f'. /proc/self/fd/{_ENVIRONMENT_FD} || exit 126; exec {_ENVIRONMENT_FD}<&-; exec "$@"'

_GATE_FD = 9  # the last one that every sh can name
_LEAST_SPARE_FD = 10
# In front of a command, in the same line: its lines keep their numbers, and one that the shell cannot read ends it
# before it has waited. It ends as well when whoever could let it go has died. The last space keeps apart what would
# become one word with a command that begins with `;`.
_GATE = f"read -r WSP_GATE <&{_GATE_FD}||exit;exec {_GATE_FD}<&-;unset WSP_GATE; "
_GATED_SHELL = "/bin/sh"  # for others, that may be no line at all
_TELL_TALES = {"WSP_GATE", "SHELLOPTS"}  # variables that would be gone, or have bash show the line


class CannotStart(Exception):
    """The command could not be started; the message is a sentence for its owner."""

    @property
    def for_want_of_descriptors(self) -> bool:
        """Would it have been started, had this process or the machine had some more of them?"""
        return isinstance(self.__cause__, OSError) and self.__cause__.errno in (errno.EMFILE, errno.ENFILE)


class Spawner:
    """Starts commands for a runner. Changes the working folder and limits of its own process for that: one thread."""

    def __init__(self, runner_id: str) -> None:
        self._runner_id = runner_id
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # The runner itself may need many descriptors. Commands get the limit that it was started with: some programs
        # break with descriptors above 1024, and some close all that they could have.
        self._files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        _limit_files(hard)

    def mark(self, run_id: int) -> str:
        """What the processes of a run carry in their environment."""
        return f"{self._runner_id}-{run_id}"

    def spawn(self, command: Command, gate: int | None = None) -> tuple[int, int, int]:
        """Start it. Returns its pid and the descriptors of stdout and stderr, which never block. Raises CannotStart.

        With a `gate`, a descriptor to read, its shell waits for a line from there before it does anything of the
        command. Only /bin/sh can do that.

        Takes about 0.2 ms, in which this process stands still: vfork(2). Leaves it in the command's folder.
        """
        mark = self.mark(command.run_id)
        environment = {MARK_VARIABLE: mark, **command.environment}
        environment[MARK_VARIABLE] = mark
        opened: list[int] = []
        try:
            arguments, environment, extra = _arguments(command, environment, opened, gated=gate is not None)
            if gate is not None:
                # Never a number that one of the others is to have.
                spare = fcntl.fcntl(gate, fcntl.F_DUPFD_CLOEXEC, _LEAST_SPARE_FD)
                opened.append(spare)
                extra.append((os.POSIX_SPAWN_DUP2, spare, _GATE_FD))
            try:
                os.chdir(command.folder)
            except OSError as error:
                missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
                raise CannotStart(
                    "The command could not be started: its working folder "
                    + ("is missing" if missing else f"cannot be used: {error.strerror}")
                ) from error
            # This folder was looked at before, and a step of its path may have become a link since: root could be led
            # to where the account itself could not go.
            if command.user and os.getcwd() != command.folder:
                raise CannotStart("The command could not be started: its working folder was moved meanwhile")
            stdin = _file(command.stdin, opened) if command.stdin else self._null
            out, out_end = os.pipe()
            opened += [out, out_end]
            err, err_end = os.pipe()
            opened += [err, err_end]
            for descriptor in (out, err):  # a command can take from its own pipe what others are told is there
                os.set_blocking(descriptor, False)
            self._set_limits(mark)
            try:
                pid = os.posix_spawn(
                    arguments[0],
                    arguments,
                    environment,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, stdin, 0),
                        (os.POSIX_SPAWN_DUP2, out_end, 1),
                        (os.POSIX_SPAWN_DUP2, err_end, 2),
                        *extra,
                    ],
                    setsid=True,
                    setsigmask=(),
                    setsigdef=_TO_DEFAULT,
                )
            finally:
                _limit_files(resource.RLIM_INFINITY)
            opened.remove(out)
            opened.remove(err)
            return pid, out, err
        except (OSError, ValueError) as error:
            raise CannotStart(_sentence(error, command)) from error
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _set_limits(self, mark: str) -> None:
        """Set what the command is to inherit, and this process does not mind meanwhile."""
        _limit_files(self._files)
        number = run_limit(mark)  # see wsp.cron.runner.procfs
        if number:
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (number, resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1]))


def _limit_files(wanted: int) -> None:
    """Set how many descriptors this process may have, or as many as it can have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = hard if wanted == resource.RLIM_INFINITY else min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _arguments(
    command: Command, environment: dict[str, str], opened: list[int], *, gated: bool
) -> tuple[list[str], dict[str, str], list[tuple[int, int, int]]]:
    """The whole command line, the environment to start it with, and further descriptors to hand it.

    All of it in front of the shell is only there where it is asked for.
    """
    if gated and (command.shell != _GATED_SHELL or not _TELL_TALES.isdisjoint(command.environment)):
        raise CannotStart("The command could not be started: its shell cannot wait for it")
    arguments = [command.shell, "-c", (_GATE if gated else "") + command.command]
    limits = _limits(command)
    if limits:
        arguments = [_program("prlimit"), *limits, "--", *arguments]
    nice = [_program("nice"), "-n", str(command.nice)] if command.nice else []
    # Without another program in front, the kernel says so; that program would tell the command's stderr.
    if (limits or nice or command.user) and not os.access(command.shell, os.X_OK):
        raise CannotStart(_no_shell(command))
    if not command.user:
        return [*nice, *arguments], environment, []
    file = _file(_exports(environment), opened)
    become = [*_become(command.user), "/bin/sh", "-c", _TAKE_ENVIRONMENT, "sh"]
    return [*nice, *become, *arguments], _BARE_ENVIRONMENT, [(os.POSIX_SPAWN_DUP2, file, _ENVIRONMENT_FD)]


def _limits(command: Command) -> list[str]:
    limits = []
    if command.memory_mb:
        limits.append(f"--as={command.memory_mb * MEBIBYTE}")
    if command.cpu_seconds:  # SIGXCPU, and SIGKILL for those who do not mind it
        limits.append(f"--cpu={command.cpu_seconds}:{command.cpu_seconds + 1}")
    if command.max_processes:
        limits.append(f"--nproc={command.max_processes}")
    return limits


def _become(user: str) -> list[str]:
    """What becomes a system account for good, with its groups and without capabilities: setpriv(1)."""
    import pwd  # here, since most servers never need it

    try:
        account = pwd.getpwnam(user)
    except (KeyError, ValueError) as error:
        raise CannotStart(f"The system account '{user}' does not exist") from error
    if account.pw_uid == 0:
        raise CannotStart(f"The command could not be started: no job becomes root, whose account '{user}' is")
    if os.geteuid() != 0:
        raise CannotStart("The command could not be started: only a server that runs as root can use other accounts")
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
    return [_program("setpriv"), *ids, "--init-groups", "--inh-caps=-all", "--"]


def _program(name: str) -> str:
    for folder in _PROGRAM_FOLDERS:
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise CannotStart(f"The command could not be started: this machine has no {name}")


def _exports(environment: dict[str, str]) -> bytes:
    """What a shell reads to have this environment. Raises CannotStart for a name that no shell can give a variable."""
    for name in environment:
        if not (name.isascii() and name.isidentifier()):
            raise CannotStart(f"The command could not be started: '{name}' is no name for a variable")
    quoted = (f"export {name}='" + value.replace("'", "'\\''") + "'\n" for name, value in environment.items())
    return os.fsencode("".join(quoted))


def _file(data: bytes, opened: list[int]) -> int:
    """A descriptor that data can be read from, without a name anywhere."""
    descriptor = os.memfd_create("wsp", os.MFD_CLOEXEC)
    opened.append(descriptor)
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _no_shell(command: Command) -> str:
    return f"The command could not be started: there is no shell {command.shell}"


def _sentence(error: OSError | ValueError, command: Command) -> str:
    if not isinstance(error, OSError):
        return f"The command could not be started: {error}"
    if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC):
        return _no_shell(command)
    if error.errno == errno.E2BIG:
        return "The command could not be started: it is too long, or its environment is too large"
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return f"The command could not be started: the machine is at its limits ({error.strerror})"
    return f"The command could not be started: {error.strerror}"
