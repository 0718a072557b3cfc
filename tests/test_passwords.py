"""Password hashing, as several threads of a server just started use it."""

import subprocess
import sys

FIRST_CHECKS = """
import threading
from wsp.passwords import verify_password
sys_hash = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"
ready = threading.Barrier(4)
wrong = []
def check():
    ready.wait()
    try:
        verify_password("x", sys_hash)
    except Exception as error:
        wrong.append(repr(error))
threads = [threading.Thread(target=check) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
raise SystemExit("; ".join(wrong) or 0)
"""


class TestTheFirstChecks:
    def test_can_come_at_once(self) -> None:
        for _ in range(3):  # each in a process of its own: only the first checks of a process made the context
            done = subprocess.run([sys.executable, "-c", FIRST_CHECKS], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
