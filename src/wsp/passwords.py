"""Password hashing: argon2id for new passwords; the formats that panels keep are verified, and replaced at login."""

from functools import cache

from passlib.context import CryptContext


@cache
def _context() -> CryptContext:
    """Made at its first use: not every process that could check a password ever does.

    passlib's own LazyCryptContext fails when two threads come first together.
    """
    # OWASP's second argon2id choice (19 MiB, 2 passes, 1 lane): a login storm must not take gigabytes.
    return CryptContext(
        schemes=["argon2", "bcrypt", "sha512_crypt", "sha256_crypt", "md5_crypt", "apr_md5_crypt", "pbkdf2_sha256"],
        deprecated="auto",
        argon2__type="ID",
        argon2__memory_cost=19 * 1024,
        argon2__time_cost=2,
        argon2__parallelism=1,
    )


def hash_password(password: str) -> str:
    """The argon2id hash of a password. Takes tens of milliseconds: keep it off event loops and out of transactions."""
    return str(_context().hash(password))


def verify_password(password: str, stored: str | None) -> tuple[bool, str | None]:
    """Whether the password fits the stored hash, and a better hash to store instead, if there is one.

    With `stored=None` (no such account) the answer is no, at the cost of a real check, so that the time taken
    does not tell which accounts exist.
    """
    if stored is None:
        _context().verify(password, _hash_of_nothing())
        return False, None
    matches, better = _context().verify_and_update(password, stored)
    return bool(matches), better


@cache
def _hash_of_nothing() -> str:
    return hash_password("no account has this password")
