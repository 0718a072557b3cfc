"""Password hashes, used by threads from the first moment."""

import subprocess
import sys

FIRST_USE = """
import threading
from wsp.passwords import verify_password

ready, answers = threading.Barrier(8), []

def check(password, stored, expected):
    ready.wait()
    answers.append(verify_password(password, stored)[0] is expected)

# $6$ and $1$ of "panel password", as openssl makes them.
cases = [
    (
        "panel password",
        "$6$saltsalt$"
        "6AHjXHO367Ve7XkYdssFKYbHiYfyYv7eEgm3FWKHCUcQfZsFO2KWyrGb2m6/uAZRrl2zRw0BjF2QrNK0uA6.K1",
        True,
    ),
    ("panel password", "$1$saltsalt$yHTA8wqYipMUmOQRmSppL/", True),
    ("wrong", None, False),
    ("panel password", "no hash at all", False),
] * 2
threads = [threading.Thread(target=check, args=case) for case in cases]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(answers), all(answers))
"""


class TestVerifyPassword:
    def test_the_first_ones_may_come_at_the_same_moment(self) -> None:
        # A process of its own each time: it is about what is made at the first use.
        for _ in range(3):
            done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, check=False)
            assert done.stdout == "8 True\n", done.stderr
