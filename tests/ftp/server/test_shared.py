"""Tables that processes share."""

import subprocess
import sys
import threading
from pathlib import Path

from wsp.ftp.server.shared import SharedTable

OTHER = """
import sys, threading
from pathlib import Path
from wsp.ftp.server.shared import SharedTable
ours, theirs = (SharedTable(Path(path), slots=4, fields=1) for path in sys.argv[1:3])
def second():
    try:
        with theirs.locked():
            print("locked", flush=True)
    except OSError as error:
        print(error, flush=True)
with ours.locked():
    print("ready", flush=True)
    sys.stdin.readline()
    thread = threading.Thread(target=second)
    thread.start()
    print("asks", flush=True)
    sys.stdin.readline()
thread.join()
"""


def sleeps(thread: threading.Thread) -> bool:
    """Whether a thread waits in the kernel."""
    return Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()[0] == "S"


class TestLocked:
    def test_two_threads_of_two_processes_are_no_deadlock(self, tmp_path: Path) -> None:
        """One of each has a table and waits for nothing; the others wait for those tables."""
        one, other = tmp_path / "one", tmp_path / "other"
        ours, theirs = (SharedTable(path, slots=4, fields=1) for path in (one, other))
        waits = threading.Thread(target=lambda: theirs.locked().__enter__(), daemon=True)
        command = [sys.executable, "-c", OTHER, str(other), str(one)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with ours.locked():
                waits.start()
                while not sleeps(waits):
                    continue
                process.stdin.write("\n")
                assert process.stdout.readline() == "asks\n"
            assert process.stdout.readline() == "locked\n"
            process.stdin.write("\n")
        waits.join(10)
        assert not waits.is_alive()
