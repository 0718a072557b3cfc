"""What an account may do, and in which folders.

A thing belongs to the folder that it lies in: whether a file may be read, or a folder be removed, is a question of the
folder around it. Listing is a question of the folder that is listed.
"""

from enum import StrEnum

from wsp.ftp.logins import Login

READ_LETTERS = "elr"  # pyftpdlib's: enter, list, retrieve
LISTINGS = ("LIST", "MLSD", "NLST")
WRITE_LETTERS = "adfmwMT"  # append, delete, rename, make folders, store, change modes, change times


class Right(StrEnum):
    """What a rule of the API can allow."""

    LIST = "list"
    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    OVERWRITE = "overwrite"


_CHANGING = (Right.WRITE, Right.DELETE, Right.OVERWRITE)
_LETTERS = {
    Right.LIST: "l",
    Right.READ: "r",
    Right.WRITE: "wmMT",
    Right.DELETE: "df",
    Right.OVERWRITE: "a",
}


class NotAllowed(Exception):
    """The account's permissions forbid that. No OSError: pyftpdlib would put the system's words in its place."""

    def __init__(self, right: Right, folder: str) -> None:
        super().__init__(f"'{right}' is not allowed in {folder}")


class Permissions:
    """The permissions of one account. Also what pyftpdlib asks of an authorizer once somebody is logged in."""

    def __init__(self, login: Login) -> None:
        self._read_only = login.read_only
        self._rules = {_steps(rule["folder"]): frozenset(rule["allow"]) for rule in login.permissions}
        writing = "" if login.read_only else WRITE_LETTERS
        if login.anonymous:
            writing = "".join(letter for letter in writing if letter == "w" or (letter == "m" and login.allow_mkdir))
        self._letters = READ_LETTERS + writing

    @property
    def are_limited(self) -> bool:
        """Whether there is anything at all that they forbid."""
        return self._read_only or bool(self._rules)

    def allow(self, right: Right, folder: str) -> bool:
        """Whether the right is there in a folder: what the rule of the nearest folder says, upwards from this one."""
        if self._read_only and right in _CHANGING:
            return False
        steps = _steps(folder)
        for length in range(len(steps), -1, -1):
            rule = self._rules.get(steps[:length])
            if rule is not None:
                return right in rule
        return True

    def allow_below(self, right: Right, path: str) -> bool:
        """Whether no rule of this folder itself, or of one below it, forbids the right."""
        top = _steps(path)
        return all(right in allowed for steps, allowed in self._rules.items() if steps[: len(top)] == top)

    def allow_transfer(self, command: str, path: str, *, replaces: bool = False) -> bool:
        """Whether a transfer that was allowed when it began, under other permissions maybe, may go on.

        `replaces`: it is an upload that began where there was a file.
        """
        if command in LISTINGS:
            return self.allow(Right.LIST, path)
        folder = path.rpartition("/")[0]
        if command == "RETR":
            return self.allow(Right.READ, folder)
        return self.allow(Right.OVERWRITE if replaces else Right.WRITE, folder)

    def letters_in(self, folder: str) -> str:
        """The rights in a folder in pyftpdlib's letters."""
        allowed = {"e", *"".join(letters for right, letters in _LETTERS.items() if self.allow(right, folder))}
        return "".join(letter for letter in self._letters if letter in allowed)

    # What pyftpdlib asks. Its answer is the same for every folder: the jail looks at the folder itself.

    def has_perm(self, username: str, perm: str, path: str | None = None) -> bool:
        return perm in self._letters

    def get_perms(self, username: str) -> str:
        return self._letters

    def impersonate_user(self, username: str, password: str) -> None:
        """Files are touched as the user that the server runs as."""

    def terminate_impersonation(self, username: str) -> None:
        """The counterpart; nothing was changed."""


def _steps(folder: str) -> tuple[str, ...]:
    return tuple(step for step in folder.split("/") if step)
