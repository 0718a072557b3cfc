"""Password hashing: argon2id for new passwords; the formats that panels keep are verified, and replaced at login."""

from functools import cache

from passlib.context import CryptContext

MAX_HASH_CHARS = 255
FORMATS = (
    "argon2, bcrypt ($2a$, $2b$, $2y$), $6$, $5$, $1$, $apr1$ or pbkdf2 ($pbkdf2$, $pbkdf2-sha256$, $pbkdf2-sha512$)"
)

# The dearest hash that a login may have to compute: about a second. Beyond that, one account slows down every login.
MAX_ROUNDS = {
    "bcrypt": 14,  # a power of two
    "sha512_crypt": 1_000_000,
    "sha256_crypt": 1_000_000,
    "pbkdf2_sha1": 2_000_000,
    "pbkdf2_sha256": 2_000_000,
    "pbkdf2_sha512": 1_000_000,
    "argon2": 10,
}
MAX_ARGON2_KIB = 256 * 1024
MAX_ARGON2_LANES = 16
BCRYPT_BYTES = 72  # of a longer password, bcrypt looks at so many

_ARGON2_AND_CRYPT = ("argon2", "bcrypt", "sha512_crypt", "sha256_crypt", "md5_crypt", "apr_md5_crypt")
_PBKDF2 = ("pbkdf2_sha1", "pbkdf2_sha256", "pbkdf2_sha512")


@cache
def _context() -> CryptContext:
    """What knows the formats. Made when first asked for: not every process that could check a password ever does.

    Two threads that ask first may each make one, and both are whole; passlib's own lazy context hands the second
    thread a half-made one.
    """
    return CryptContext(
        schemes=[*_ARGON2_AND_CRYPT, *_PBKDF2],
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
        if stored is None:
            _context().verify(password, _hash_of_nothing())
            return False, None
        is_bcrypt = _context().identify(stored) == "bcrypt"
        if not _context().verify(password.encode()[:BCRYPT_BYTES] if is_bcrypt else password, stored):
            return False, None
        return True, hash_password(password) if _context().needs_update(stored) else None
    except (ValueError, TypeError):
        _context().verify("", _hash_of_nothing())
    return False, None


def check_hash(value: str) -> str:
    """The value, when it is a whole hash that `verify_password()` can check in about a second at most.

    Raises ValueError with a sentence that goes behind the name of a field.
    """
    scheme = _context().identify(value)
    if scheme is None:
        raise ValueError(f"must be in one of these formats: {FORMATS}")
    try:
        parsed = _context().handler(scheme).from_string(value)
    except ValueError:
        parsed = None
    if parsed is None or not parsed.checksum:
        raise ValueError("is not a whole hash: some of it is missing, or does not belong there")
    rounds = getattr(parsed, "rounds", 0)
    if rounds > MAX_ROUNDS.get(scheme, rounds):
        raise ValueError(f"takes too long to check: its cost may be at most {MAX_ROUNDS[scheme]}")
    if scheme == "argon2":
        _check_argon2(parsed.memory_cost, rounds, parsed.parallelism)
    return value


def _check_argon2(memory: int, passes: int, lanes: int) -> None:
    if memory > MAX_ARGON2_KIB or memory * passes > 2 * MAX_ARGON2_KIB or lanes > MAX_ARGON2_LANES:
        raise ValueError(
            f"takes too long to check: argon2 may have m={MAX_ARGON2_KIB} and p={MAX_ARGON2_LANES} at most, "
            f"and m times t may be {2 * MAX_ARGON2_KIB}"
        )


@cache
def _hash_of_nothing() -> str:
    return hash_password("no account has this password")
