"""SITE STAGE and its relatives, with ftplib, curl and lftp."""

import ftplib
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture
def deployer(server: Any, connect: Any) -> tuple[Any, ftplib.FTP, Path]:
    """An account with a site that says `one`, a session of it, and the site's folder."""
    account = server.account()
    client = connect(server, account)
    site = account.home / "public_html"
    (site / "css").mkdir(parents=True)
    (site / "index.html").write_text("one")
    (site / "css" / "style").write_text("red")
    return account, client, site


def hidden(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if path.name.startswith(".wsp-"))


class TestStage:
    def test_what_is_done_shows_only_when_it_is_published(
        self, deployer: Any, server: Any, connect: Any, put: Any, fetch: Any, until: Any
    ) -> None:
        account, client, site = deployer
        assert client.sendcmd("SITE STAGE public_html").startswith(
            "200 /public_html is staged, a copy of 2 files, 6 bytes."
        )
        put(client, "public_html/index.html", b"two")
        client.cwd("public_html")
        assert client.pwd() == "/public_html"
        client.mkd("img")
        client.rename("css/style", "css/main")
        client.sendcmd("SITE CHMOD 600 css/main")
        client.sendcmd("MFMT 20200101000000 css/main")
        assert sorted(client.nlst()) == ["css", "img", "index.html"]
        assert [name for name, _ in client.mlsd("css")] == ["main"]
        assert fetch(client, "index.html") == b"two"
        other = connect(server, account)
        assert sorted(other.nlst("public_html")) == ["css", "index.html"]
        assert fetch(other, "public_html/index.html") == b"one"
        assert other.nlst("/") == ["public_html"]
        assert (site / "css" / "style").stat().st_mode & 0o777 != 0o600
        assert client.sendcmd("SITE PUBLISH").startswith("250 /public_html is published. Its former state is release 2")
        assert (site / "index.html").read_text() == "two"
        assert sorted(os.listdir(site)) == ["css", "img", "index.html"]
        put(client, "index.html", b"at once")
        assert (site / "index.html").read_text() == "at once"

    def test_the_staging_folder_itself_is_not_the_clients(self, deployer: Any, put: Any) -> None:
        account, client, _ = deployer
        client.sendcmd("SITE STAGE /public_html/ EMPTY")
        (staging,) = hidden(account.home)
        for command in ("RMD public_html", "MKD public_html", "DELE public_html", f"CWD {staging}", f"MLST /{staging}"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        client.sendcmd("RNFR public_html")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.sendcmd("RNTO elsewhere")
        with pytest.raises(ftplib.error_perm, match="550"):
            put(client, "public_html", b"x")
        assert hidden(account.home) == [staging]

    def test_an_interrupted_one_is_gone_on_with(self, deployer: Any, server: Any, connect: Any, put: Any) -> None:
        account, client, site = deployer
        client.sendcmd("SITE STAGE public_html EMPTY")
        put(client, "public_html/first", b"1")
        client.close()
        again = connect(server, account)
        assert "staged already: going on" in again.sendcmd("SITE STAGE public_html")
        put(again, "public_html/second", b"2")
        again.sendcmd("SITE PUBLISH")
        assert sorted(os.listdir(site)) == ["first", "second"]

    def test_sessions_of_one_account_work_on_the_same_one(
        self, deployer: Any, server: Any, connect: Any, put: Any
    ) -> None:
        account, client, site = deployer
        other = connect(server, account)
        for session, name in ((client, "a"), (other, "b")):
            session.sendcmd("SITE STAGE public_html")
            put(session, f"public_html/{name}", b"")
        client.sendcmd("SITE PUBLISH")
        assert {"a", "b"} <= set(os.listdir(site))
        # What the other session goes on to send belongs to no staging any more, and must not reach the site.
        for command in ("STOR public_html/late", "STOR public_html"):
            with pytest.raises(ftplib.error_perm, match="550"):
                other.storbinary(command, io.BytesIO(b"x"))
        with pytest.raises(ftplib.error_perm, match="550"):
            other.mkd("public_html")
        assert "late" not in os.listdir(site)

    def test_a_broken_upload_can_be_resumed_in_it(self, deployer: Any, put: Any) -> None:
        _, client, site = deployer
        client.sendcmd("SITE STAGE public_html")
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR public_html/big")
        data.sendall(b"x" * 1000)
        client.sock.sendall(b"NOOP\r\n")
        client.voidresp()
        assert client.abort().startswith("426")
        client.voidresp()
        data.close()
        assert client.size("public_html/big") == 1000
        put(client, "public_html/big", b"y" * 10, rest=1000)
        client.sendcmd("SITE PUBLISH")
        assert (site / "big").read_bytes() == b"x" * 1000 + b"y" * 10

    def test_refusals_say_why(self, deployer: Any, server: Any, connect: Any) -> None:
        account, client, _ = deployer
        (account.home / "file").touch()
        for command, reply in (
            ("SITE STAGE", "501 Name the folder, as in SITE STAGE public_html."),
            ("SITE PUBLISH", "501 Name the folder"),
            ("SITE STAGE /", "550 The home itself cannot be deployed"),
            ("SITE STAGE file", "550 /file is not a folder"),
            ("SITE STAGE missing/site", "550 No such file"),
            ("SITE PUBLISH public_html", "550 Nothing is staged for /public_html by this account"),
            ("SITE DISCARD public_html", "550 Nothing is staged for /public_html by this account"),
            ("SITE ROLLBACK public_html", "550 There is no former release of /public_html"),
        ):
            with pytest.raises(ftplib.error_perm, match=reply):
                client.sendcmd(command)
        client.sendcmd("SITE STAGE public_html")
        with pytest.raises(ftplib.error_perm, match="503 /public_html is staged in this session"):
            client.sendcmd("SITE STAGE other")
        reader = connect(server, server.account_of(account.home.name, "reader", read_only=True))
        for command in ("STAGE", "PUBLISH", "ROLLBACK", "DISCARD", "FORGET"):
            with pytest.raises(ftplib.error_perm, match="550 Not enough privileges"):
                reader.sendcmd(f"SITE {command} public_html")
        assert "0 releases" in reader.sendcmd("SITE RELEASES public_html")
        assert "STAGE" in client.sendcmd("SITE HELP")
        assert "EMPTY" in client.sendcmd("SITE HELP SITE STAGE")

    def test_strangers_deploy_nothing(self, server: Any, connect: Any) -> None:
        folder = server.anonymous("deploys.example.com", allow_upload=True)
        visitor = connect(server)
        visitor.login("anonymous@deploys.example.com", "")
        (folder / "pub").mkdir()
        with pytest.raises(ftplib.error_perm, match="550 Not enough privileges"):
            visitor.sendcmd("SITE STAGE pub")

    def test_not_before_the_end_of_an_upload(self, deployer: Any) -> None:
        _, client, site = deployer
        client.sendcmd("SITE STAGE public_html")
        client.voidcmd("TYPE I")
        data = client.transfercmd("STOR public_html/new")
        data.sendall(b"half")
        with pytest.raises(ftplib.error_perm, match="503 A transfer is going on"):
            client.sendcmd("SITE PUBLISH")
        data.close()
        client.voidresp()
        client.sendcmd("SITE PUBLISH")
        assert (site / "new").read_bytes() == b"half"

    def test_the_login_ends_it(self, deployer: Any, put: Any) -> None:
        account, client, site = deployer
        client.sendcmd("SITE STAGE public_html")
        client.login(account.username, account.password)
        put(client, "public_html/live", b"x")
        assert (site / "live").exists()


class TestReleases:
    def test_back_and_forth(self, deployer: Any, put: Any, until: Any) -> None:
        account, client, site = deployer
        for text in (b"two", b"three"):
            client.sendcmd("SITE STAGE public_html")
            put(client, "public_html/index.html", text)
            client.sendcmd("SITE PUBLISH")
        first, last, *ids, end = client.sendcmd("SITE RELEASES public_html").split("\n")
        assert (first, end) == ("211-Releases of /public_html, the latest first:", "211 2 releases.")
        assert client.sendcmd("SITE ROLLBACK public_html").startswith(
            f"250 /public_html is release {last.strip()} again. What it was before is release "
        )
        assert (site / "index.html").read_text() == "two"
        client.sendcmd(f"SITE ROLLBACK public_html {ids[0].strip()}")
        assert (site / "index.html").read_text() == "one"
        assert client.sendcmd("SITE FORGET public_html") == "250 2 releases of /public_html are removed."
        until(lambda: hidden(account.home) == [])

    def test_as_many_are_kept_as_the_setting_says(
        self, new_server: Any, connect: Any, store: str, put: Any, until: Any
    ) -> None:
        server = new_server(WSP_FTP_KEEP_RELEASES="1").start()
        account = server.account()
        client = connect(server, account)
        for number in range(3):
            client.sendcmd("SITE STAGE my site")
            put(client, "my site/index.html", str(number).encode())
            client.sendcmd("SITE PUBLISH")
        until(lambda: len(hidden(account.home)) == 1)
        client.sendcmd("SITE ROLLBACK my site")
        assert (account.home / "my site" / "index.html").read_text() == "1"

    def test_a_folder_that_seems_empty_says_what_it_holds(self, deployer: Any, until: Any) -> None:
        account, client, _ = deployer
        client.mkd("sites")
        client.mkd("sites/one")
        client.sendcmd("SITE STAGE sites/one")
        client.sendcmd("SITE PUBLISH")
        client.rmd("sites/one")
        with pytest.raises(ftplib.error_perm, match=r"550 Releases or stagings .* SITE FORGET"):
            client.rmd("sites")
        client.sendcmd("SITE FORGET sites/one")
        until(lambda: hidden(account.home / "sites") == [])
        client.rmd("sites")

    def test_discard(self, deployer: Any, put: Any, until: Any) -> None:
        account, client, site = deployer
        client.sendcmd("SITE STAGE public_html")
        put(client, "public_html/index.html", b"two")
        client.sendcmd("SITE DISCARD")
        assert (site / "index.html").read_text() == "one"
        until(lambda: hidden(account.home) == [])
        put(client, "public_html/index.html", b"live")
        assert (site / "index.html").read_text() == "live"


class TestQuota:
    def test_stagings_and_releases_count(self, server: Any, connect: Any, put: Any, until: Any) -> None:
        account = server.account(quota_mb=1)
        client = connect(server, account)
        client.mkd("site")
        put(client, "site/a", b"a" * 600_000)
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.6 of 1 MB are used"):
            client.sendcmd("SITE STAGE site")
        assert hidden(account.home) == []
        put(client, "site/b", b"b" * 200_000)  # what the copy was charged is given back
        client.sendcmd("SITE STAGE site EMPTY")
        put(client, "site/a", b"a" * 200_000)
        client.sendcmd("SITE PUBLISH")
        with pytest.raises(ftplib.error_perm, match="552 Quota exceeded"):
            put(client, "site/c", b"c" * 200_000)
        client.sendcmd("SITE FORGET site")

        def fits() -> bool:
            try:
                put(client, "site/c", b"c" * 600_000)
            except ftplib.error_perm:
                return False
            return True

        until(fits)
        # What is staged by a copy counts as well, without waiting for anything.
        client.delete("site/c")
        put(client, "site/c", b"c" * 250_000)
        client.sendcmd("SITE STAGE site")
        with pytest.raises(ftplib.error_perm, match=r"552 Quota exceeded: 0\.9 of 1 MB"):
            put(client, "site/d", b"d" * 200_000)


class TestClients:
    def test_curl_in_one_command(self, deployer: Any, server: Any, curl: str, tmp_path: Path) -> None:
        account, _, site = deployer
        (tmp_path / "index.html").write_text("from curl")
        command = [
            *(curl, "-sS", "-u", f"{account.username}:{account.password}"),
            *("-Q", "SITE STAGE public_html", "-T", str(tmp_path / "index.html"), "-Q", "-SITE PUBLISH"),
            f"ftp://127.0.0.1:{server.port}/public_html/",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert (site / "index.html").read_text() == "from curl"
        assert (site / "css" / "style").read_text() == "red"
        assert len(hidden(account.home)) == 1

    def test_lftp_mirrors_into_it_over_several_connections(
        self, deployer: Any, server: Any, lftp: str, tmp_path: Path
    ) -> None:
        account, _, site = deployer
        source = tmp_path / "source"
        (source / "deep").mkdir(parents=True)
        for number in range(20):
            (source / "deep" / f"{number}").write_bytes(os.urandom(1000 * number))
        script = (
            f"set ftp:ssl-allow no; set net:max-retries 2; open -u {account.username},{account.password} "
            f"ftp://127.0.0.1:{server.port}; set ftp:site 'STAGE public_html EMPTY'; "
            f"mirror -R --parallel=4 {source} public_html; site PUBLISH"
        )
        done = subprocess.run([lftp, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert sorted(os.listdir(site)) == ["deep"]
        assert len(os.listdir(site / "deep")) == 20


def test_a_client_that_leaves_during_the_copy_is_no_harm(
    deployer: Any, server: Any, raw: Callable[..., Any], until: Any
) -> None:
    account, client, site = deployer
    for number in range(3000):
        (site / f"{number}").touch()
    session = raw(server).login(account)
    session.send(b"SITE STAGE public_html\r\n")
    until(lambda: hidden(account.home))
    session.socket.close()
    until(lambda: [name for name in hidden(account.home) if name.startswith(".wsp-staging-")])
    assert "going on" in client.sendcmd("SITE STAGE public_html")
