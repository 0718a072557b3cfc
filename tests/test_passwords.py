"""Hashes that other tools made are checked, replaced, and refused where checking them would take too long."""

import hashlib
import shutil
import subprocess
import sys
from base64 import b64encode

import pytest

from wsp.passwords import check_hash, verify_password

PASSWORD = "S3cure•pass"

# Made by crypt(3) of libxcrypt, unless something else is said.
OF_CRYPT = {
    "$2b$": "$2b$05$nt.1NKbDwMb.TNCHgUWMAOZJPGeX/CtFQATUrua.w5znH2aHzkisC",  # the bcrypt of PyCA
    "$2a$": "$2a$05$nt.1NKbDwMb.TNCHgUWMAOZJPGeX/CtFQATUrua.w5znH2aHzkisC",
    "$2y$": "$2y$05$abcdefghijklmnopqrstuuaCfkI/QYTdVmEuLxkoLJiQUjEwdMMHO",
    "$5$": "$5$rounds=1000$saltsalt$OOC4bCilq/fJ6fZlViEGo7ROguj0t1t3INfJv1nwhG/",
    "$6$": "$6$rounds=1000$saltsalt$"
    "gmiQpn9cjm3eqrLSC0Er3qZFgL6vrUxRypBqXcDrn8sgelC664TXwzrxv7XlhE85JIFT8uKAG0Sp4jSrHlgvQ.",
    "$1$": "$1$saltsalt$8UDqF3s.Ay/KGqJk4hx6p/",  # openssl passwd
    "$apr1$": "$apr1$saltsalt$aK1.0MV6juoaB75dcOUqL0",  # openssl passwd
}
# The test vectors of the reference implementation, for "password".
OF_ARGON2 = [
    "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
    "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
]


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


def pbkdf2(digest: str, name: str) -> str:
    """A hash in the format `$pbkdf2-…$`, by Python's own hashlib."""
    salt = b"saltsaltsaltsalt"
    key = hashlib.pbkdf2_hmac(digest, PASSWORD.encode(), salt, 1000)
    text = [b64encode(part).decode().rstrip("=").replace("+", ".") for part in (salt, key)]
    return f"${name}$1000${text[0]}${text[1]}"


OF_PBKDF2 = [pbkdf2("sha1", "pbkdf2"), pbkdf2("sha256", "pbkdf2-sha256"), pbkdf2("sha512", "pbkdf2-sha512")]


class TestVerify:
    @pytest.mark.parametrize("stored", [*OF_CRYPT.values(), *OF_PBKDF2], ids=lambda stored: stored[:14])
    def test_every_format_is_checked_and_replaced(self, stored: str) -> None:
        assert check_hash(stored) == stored
        assert verify_password("another", stored) == (False, None)
        matches, better = verify_password(PASSWORD, stored)
        assert matches
        assert better is not None
        assert better.startswith("$argon2id$")
        assert verify_password(PASSWORD, better) == (True, None)

    @pytest.mark.parametrize("stored", OF_ARGON2, ids=lambda stored: stored[:9])
    def test_argon2_of_other_parameters(self, stored: str) -> None:
        assert check_hash(stored) == stored
        matches, better = verify_password("password", stored)
        assert (matches, better is not None) == (True, True)

    @pytest.mark.parametrize("kind", ["1", "apr1", "5", "6"])
    def test_what_openssl_makes_right_now(self, kind: str) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed")
        made = subprocess.run([openssl, "passwd", f"-{kind}", PASSWORD], capture_output=True, text=True, check=True)
        assert verify_password(PASSWORD, check_hash(made.stdout.strip()))[0]

    def test_bcrypt_looks_at_72_bytes_and_the_better_hash_at_all(self) -> None:
        stored = "$2b$05$nt.1NKbDwMb.TNCHgUWMAOuzt5jm0lKzeksxn1K/pPJ63Sp8qHucW"  # the bcrypt of PyCA, of 72 "x"
        matches, better = verify_password("x" * 100, stored)
        assert matches
        assert better is not None
        assert verify_password("x" * 99, better)[0] is False


class TestCheckHash:
    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ("$6$rounds=999999999$salt$" + "a" * 86, "takes too long"),
            ("$2b$31$nt.1NKbDwMb.TNCHgUWMAOZJPGeX/CtFQATUrua.w5znH2aHzkisC", "takes too long"),
            ("$pbkdf2-sha1$1$c2FsdA$c2FsdA", "in one of these formats"),
            ("$argon2id$v=19$m=262144,t=3,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b2dWRJJTmaaJObG", "takes too long"),
            ("$argon2id$v=19$m=1024,t=1,p=64$c29tZXNhbHQ$RdescudvJCsgt3ub+b2dWRJJTmaaJObG", "takes too long"),
            ("$6$salt", "is not a whole hash"),
            ("S3cure", "in one of these formats"),
        ],
    )
    def test_says_what_is_wrong(self, value: str, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            check_hash(value)


class TestTheFirstChecks:
    def test_can_come_at_once(self) -> None:
        for _ in range(3):  # each in a process of its own: only the first checks of a process made the context
            done = subprocess.run([sys.executable, "-c", FIRST_CHECKS], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
