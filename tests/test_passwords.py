"""Hashing passwords."""

import subprocess
import sys

FIRST_TOGETHER = """
import sys, threading
from wsp.passwords import hash_password
sys.setswitchinterval(1e-6)
start, failed = threading.Barrier(8), []
def first():
    start.wait()
    try:
        hash_password("x")
    except Exception as error:
        failed.append(error)
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit(bool(failed))
"""


class TestHash:
    def test_threads_that_come_first_together(self) -> None:
        assert subprocess.run([sys.executable, "-c", FIRST_TOGETHER], check=False).returncode == 0
