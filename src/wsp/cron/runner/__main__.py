"""`python -m wsp.cron.runner --folder F --id ID`: a runner. See wsp.cron.runner.client, which starts it."""

import os
import socket
import stat
import sys

from wsp.cron.runner import protocol
from wsp.cron.runner.server import Server

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main(arguments: list[str]) -> int:
    """Run a runner until it has nothing more to do. Its first scheduler may be at the other end of standard input."""
    if len(arguments) != 4 or arguments[0] != "--folder" or arguments[2] != "--id":
        sys.stderr.write("usage: python -m wsp.cron.runner --folder FOLDER --id ID\n")
        return 2
    folder, runner_id = arguments[1], arguments[3]
    _keep_only_standard_descriptors()
    first = None
    if stat.S_ISSOCK(os.fstat(0).st_mode):
        first = socket.socket(fileno=os.dup(0))
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
    _become_subreaper()
    runners, outputs = os.path.join(folder, protocol.RUNNERS), os.path.join(folder, protocol.OUTPUTS)
    for path in (runners, outputs):
        os.makedirs(path, mode=0o700, exist_ok=True)
    Server(runners, outputs, runner_id, first).run()
    return 0


def _keep_only_standard_descriptors() -> None:
    """Close what was inherited: a runner outlives whom it belonged to."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2:
            try:
                os.close(descriptor)
            except OSError:  # the one that the folder was listed with
                pass


def _become_subreaper() -> None:
    """Have orphans of commands become children of this process. Raises OSError."""
    import ctypes  # 0.4 MB, but there is no other way

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
