"""A credential that is bound to a folder, under the permissions of its account, which name folders of the home."""

import ftplib
import io
from typing import Any

import pytest

from wsp.ftp.service import change_account

from .test_credentials import issue

pytestmark = pytest.mark.e2e

ALL = ["list", "read", "write", "delete", "overwrite"]


def rule(folder: str, *allow: str) -> dict[str, Any]:
    return {"folder": folder, "allow": list(allow)}


@pytest.fixture
def bound(server: Any, connect: Any) -> Any:
    """Opens a session that sees `/site` of a new account with these rules, with a file in each of its folders."""

    def opened(*rules: dict[str, Any], **columns: Any) -> tuple[Any, ftplib.FTP]:
        account = server.account(permissions=list(rules), **columns)
        for folder in ("site/shut", "site/site", "site/open"):
            (account.home / folder).mkdir(parents=True)
            (account.home / folder / "f").write_bytes(b"old")
        client = connect(server, issue(server, account))
        client.voidcmd("TYPE I")
        return account, client

    return opened


class TestRules:
    def test_below_the_folder_hold(self, bound: Any) -> None:
        _, client = bound(rule("/site/shut"), rule("/site/open", "list"))
        for command in ("SIZE /shut/f", "DELE /shut/f", "MKD /shut/d", "HASH /shut/f", "XMD5 /shut/f", "DELE open/f"):
            with pytest.raises(ftplib.error_perm, match=r"550 '.*' is not allowed in /(shut|open)"):
                client.sendcmd(command)
        for command in ("RETR /shut/f", "LIST /shut", "MLSD /shut"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.retrbinary(command, bytes)
        with pytest.raises(ftplib.error_perm, match="550"):
            client.storbinary("STOR /shut/new", io.BytesIO(b"new"))
        assert client.size("/site/f") == 3

    def test_are_those_of_the_home_and_not_of_the_folder(self, bound: Any) -> None:
        account, client = bound(rule("/open"), rule("/site", "list", "read"))
        assert client.size("/open/f") == 3
        with pytest.raises(ftplib.error_perm, match="550"):
            client.delete("/open/f")
        assert (account.home / "site" / "open" / "f").exists()
        entries = dict(client.mlsd("/open"))
        assert entries["f"]["perm"] == "r"

    def test_above_the_folder_hold(self, bound: Any, put: Any) -> None:
        account, client = bound(rule("/", "list"), rule("/site/open", *ALL))
        with pytest.raises(ftplib.error_perm, match="550"):
            client.size("/site/f")
        put(client, "open/f", b"new")
        assert (account.home / "site" / "open" / "f").read_bytes() == b"new"

    def test_that_change_stop_an_upload(self, server: Any, bound: Any, until: Any) -> None:
        account, client = bound()
        data = client.transfercmd("STOR /shut/new")
        data.sendall(b"x" * 1000)
        until(lambda: list(account.home.rglob(".wsp-upload-*.tmp")))
        with server.database.transaction() as session:
            change_account(session, None, account.username, {"permissions": [rule("/site/shut", "list")]})
        with pytest.raises(ftplib.error_perm, match="550 The account may not do that any more"):
            client.voidresp()
        data.close()
        with pytest.raises(ftplib.error_perm, match="550"):
            client.size("/shut/f")
        assert not (account.home / "site" / "shut" / "new").exists()
