"""Deploys under permissions, by several sessions, and in a part of the home."""

import ftplib
import io
import os
from typing import Any

import pytest

from .test_credentials import issue

pytestmark = pytest.mark.e2e

ALL = ["list", "read", "write", "delete", "overwrite"]
COMMANDS = ("STAGE", "PUBLISH", "DISCARD", "ROLLBACK", "FORGET")


def rule(folder: str, *allow: str) -> dict[str, Any]:
    return {"folder": folder, "allow": list(allow)}


def with_site(server: Any, *rules: dict[str, Any]) -> Any:
    """An account with these rules, and a site."""
    account = server.account(permissions=list(rules))
    (account.home / "site" / "shut").mkdir(parents=True)
    (account.home / "site" / "shut" / "f").write_bytes(b"old")
    return account


class TestRights:
    @pytest.mark.parametrize("missing", ["write", "delete", "overwrite"])
    @pytest.mark.parametrize("folder", ["/", "/site", "/site/shut"])
    def test_are_needed_in_all_of_the_folder(self, server: Any, connect: Any, folder: str, missing: str) -> None:
        account = with_site(server, rule(folder, *(right for right in ALL if right != missing)))
        for client in (connect(server, account), connect(server, issue(server, account))):
            name = "/site" if client.nlst("/") == ["site"] else "/"
            for command in COMMANDS:
                with pytest.raises(ftplib.error_perm, match=f"550 '{missing}' is not allowed in all of {name}[.]$"):
                    client.sendcmd(f"SITE {command} {name}")
        assert os.listdir(account.home) == ["site"]

    def test_to_see_releases_is_to_list(self, server: Any, connect: Any) -> None:
        client = connect(server, with_site(server, rule("/site", "read")))
        with pytest.raises(ftplib.error_perm, match="550 'list' is not allowed"):
            client.sendcmd("SITE RELEASES site")

    def test_above_the_folder_are_not_needed(self, server: Any, connect: Any, put: Any) -> None:
        account = with_site(server, rule("/", "list", "read"), rule("/site", *ALL), rule("/new", *ALL))
        for client, name in ((connect(server, account), "/site"), (connect(server, issue(server, account)), "/")):
            client.sendcmd(f"SITE STAGE {name} EMPTY")
            put(client, f"{name}/page", b"new")
            client.sendcmd("SITE PUBLISH")
            assert os.listdir(account.home / "site") == ["page"]
            client.sendcmd(f"SITE ROLLBACK {name}")
            client.sendcmd(f"SITE FORGET {name}")
        # To make a folder there is another thing.
        with pytest.raises(ftplib.error_perm, match=r"550 'write' is not allowed in /\.$"):
            connect(server, account).sendcmd("SITE STAGE new EMPTY")

    def test_hold_in_the_staging(self, server: Any, connect: Any, fetch: Any) -> None:
        account = with_site(server, rule("/site/shut", "write", "delete", "overwrite"))
        client = connect(server, account)
        client.sendcmd("SITE STAGE site")
        client.voidcmd("TYPE I")
        for command in ("SIZE site/shut/f", "HASH site/shut/f", "XSHA256 site/shut/f", "MLST site/shut/f"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        with pytest.raises(ftplib.error_perm, match="550"):
            fetch(client, "site/shut/f")


class TestNarrowed:
    def test_a_link_is_no_way_to_deploy_another_folder(self, server: Any, connect: Any) -> None:
        account = with_site(server)
        (account.home / "other" / "www").mkdir(parents=True)
        (account.home / "site" / "out").symlink_to("../other")
        (account.home / "site" / "absolute").symlink_to(account.home / "other")
        client = connect(server, issue(server, account))
        for command in ("STAGE", "PUBLISH", "ROLLBACK"):
            for link in ("out", "absolute"):
                with pytest.raises(ftplib.error_perm, match="550"):
                    client.sendcmd(f"SITE {command} {link}/www")
        assert os.listdir(account.home / "other") == ["www"]


class TestOtherSessions:
    def test_an_upload_on_its_way_reaches_no_published_or_discarded_staging(
        self, server: Any, connect: Any, until: Any
    ) -> None:
        account = with_site(server)
        for command in ("PUBLISH", "DISCARD"):
            first, second = connect(server, account), connect(server, account)
            for client in (first, second):
                client.sendcmd("SITE STAGE site")
            data = second.transfercmd("STOR site/late")
            data.sendall(b"late")
            until(lambda: list(account.home.rglob(".wsp-upload-*.tmp")))
            first.sendcmd(f"SITE {command}")
            data.close()
            with pytest.raises(ftplib.Error, match="451 The upload was not stored"):
                second.voidresp()
            assert os.listdir(account.home / "site") == ["shut"]

    def test_who_gives_up_what_is_gone_is_back_on_the_site(self, server: Any, connect: Any) -> None:
        account = with_site(server)
        first, second = connect(server, account), connect(server, account)
        for client in (first, second):
            client.sendcmd("SITE STAGE site")
        first.sendcmd("SITE DISCARD")
        with pytest.raises(ftplib.error_perm, match="550 No such directory"):
            second.cwd("site/shut")
        with pytest.raises(ftplib.error_perm, match="550 Nothing is staged"):
            second.sendcmd("SITE DISCARD")
        assert second.nlst("site") == ["shut"]


class TestQuota:
    def test_counts_copies_and_what_is_removed(self, new_server: Any, connect: Any, until: Any) -> None:
        server = new_server().start()
        account = server.account(quota_mb=4)
        (account.home / "site").mkdir(parents=True)
        (account.home / "site" / "big").write_bytes(bytes(3 * 2**19))
        client = connect(server, account)

        def has_room(name: str) -> bool:
            try:
                client.storbinary(f"STOR {name}", io.BytesIO(bytes(3 * 2**19)))
            except ftplib.error_perm as error:
                if not str(error).startswith("552 Quota exceeded: 3.0 of 4 MB"):
                    raise
                return False
            return True

        for _ in range(3):
            client.sendcmd("SITE STAGE site EMPTY")
            until(lambda: has_room("site/big"), "the count of what was removed")
            client.sendcmd("SITE PUBLISH")
            assert not has_room("live")  # beside the site and its release
            client.sendcmd("SITE FORGET site")
        until(lambda: has_room("live"), "the count of what was removed")
        client.delete("live")
        client.sendcmd("SITE STAGE site")
        assert not has_room("live")
        assert not has_room("site/more")
        client.sendcmd("SITE DISCARD")
        until(lambda: has_room("live"), "the count of what was given up")
        with pytest.raises(ftplib.error_perm, match="552 Quota exceeded"):
            client.sendcmd("SITE STAGE site")
        assert sorted(os.listdir(account.home)) == ["live", "site"]
