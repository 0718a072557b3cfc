"""Password hashing: argon2id for new passwords; the formats that panels keep are verified, and replaced at login."""

from functools import cache

from passlib.context import CryptContext


@cache
def _context() -> CryptContext:
    """What knows the formats. Made when first asked for: not every process that could check a password ever does.

    Two threads that ask first may each make one, and both are whole; passlib's own lazy context hands the second
    thread a half-made one.
    """
    return CryptContext(
        schemes=["argon2", "bcrypt", "sha512_crypt", "sha256_crypt", "md5_crypt", "apr_md5_crypt", "pbkdf2_sha256"],
        deprecated="auto",
        # OWASP's second argon2id choice (19 MiB, 2 passes, 1 lane): a login storm must not take gigabytes.
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
    does not tell which accounts exist. So it is for what no hash can be of (bytes that are not UTF-8, a NUL), and for
    a stored hash of no known kind.
    """
    try:
        if stored is not None:
            matches, better = _context().verify_and_update(password, stored)
            return bool(matches), better
        _context().verify(password, _hash_of_nothing())
    except (ValueError, TypeError):
        _context().verify("", _hash_of_nothing())
    return False, None


@cache
def _hash_of_nothing() -> str:
    return hash_password("no account has this password")
