"""The first start on an empty database: the admin and a key to get in with."""

import os
from pathlib import Path

from wsp.auth.service import create_user, issue_key, list_users
from wsp.database import Database
from wsp.errors import Conflict
from wsp.settings import ADMIN, TOKEN_FILE

KEY_NAME = "First start"


def make_admin(database: Database, data_dir: Path) -> str | None:
    """Make the admin, and a key written to `<data dir>/admin-token`. None when there is an admin already.

    The file is in place before the commit. A crash in between leaves a file with a key that is good for nothing and
    a database without an admin, so the next start does it all again; the other order could leave a server that nobody
    can enter. Raises OSError when the file cannot be written: then nothing was made.
    """
    with database.reading() as session:
        if any(user.role == "admin" for user in list_users(session)):
            return None
    try:
        with database.transaction() as session:
            _, secret = issue_key(session, create_user(session, ADMIN, role="admin"), name=KEY_NAME)
            _write_token(data_dir / TOKEN_FILE, secret)
    except Conflict:
        return None  # another machine on the same database was quicker
    return secret


def _write_token(path: Path, secret: str) -> None:
    """Put the file in place as a whole, readable by its owner alone."""
    half = path.with_suffix(".new")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
