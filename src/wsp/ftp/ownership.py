"""Whom the files belong to that FTP makes (`WSP_FTP_FILE_OWNER`)."""

import grp
import os
import pwd
from typing import NamedTuple

from wsp.errors import StartupError


class Owner(NamedTuple):
    """A user and a group, by number."""

    uid: int
    gid: int


def find_owner(setting: str | None) -> Owner | None:
    """The owner that `user:group` names, each by name or number; None for None. Raises StartupError."""
    if setting is None:
        return None
    if os.geteuid() != 0:
        raise StartupError("WSP_FTP_FILE_OWNER: only root can give files to somebody else; run as root, or unset it")
    user, _, group = setting.partition(":")
    try:
        uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise StartupError(f"WSP_FTP_FILE_OWNER: there is no user {user} on this machine") from None
    try:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise StartupError(f"WSP_FTP_FILE_OWNER: there is no group {group} on this machine") from None
    return Owner(uid, gid)
