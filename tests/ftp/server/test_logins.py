"""Who gets in, on both stores: what is committed counts for the very next login."""

import ftplib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from wsp.ftp.models import FtpAccount

pytestmark = pytest.mark.e2e
WRONG = "530 Login incorrect."


@pytest.fixture
def running(new_server: Callable[..., Any]) -> Any:
    return new_server().start()


def refusal(connect: Callable[..., Any], server: Any, username: str, password: str = "S3cure•pass") -> str:
    client = connect(server)
    with pytest.raises((ftplib.error_perm, ftplib.error_temp)) as caught:
        client.login(username, password)
    return str(caught.value)


class TestLogin:
    def test_every_column_of_the_account_counts_for_the_next_login(self, running: Any, connect: Any) -> None:
        account = running.account()
        assert connect(running, account).pwd() == "/"

        running.change(account, enabled=False)
        assert refusal(connect, running, account.username) == WRONG
        running.change(account, enabled=True, allowed_ips=["203.0.113.0/24"])
        assert refusal(connect, running, account.username) == WRONG
        running.change(account, allowed_ips=["203.0.113.0/24", "127.0.0.0/8"])
        assert connect(running, account).pwd() == "/"

        running.change(account, read_only=True, allowed_ips=[])
        with pytest.raises(ftplib.error_perm, match="550"):
            connect(running, account).mkd("d")
        running.change(account, read_only=False)
        assert connect(running, account).mkd("d") == "/d"

    def test_a_better_hash_is_stored_after_a_login_with_an_old_one(
        self, running: Any, connect: Any, until: Any, database: Any
    ) -> None:
        # $5$, sha256_crypt, of "panel password", as crypt(3) makes it.
        from_panel = "$5$rounds=1000$saltsalt$/PD24BcsJ2iCmGmhzhV8V4Mq2VcNrQjeYE9X8.RSNY3"
        account = running.account(password_hash=from_panel)
        account.password = "panel password"
        assert connect(running, account).pwd() == "/"

        def stored() -> str:
            with database.reading() as session:
                row = session.query(FtpAccount).filter_by(username=account.username).one()
                return str(row.password_hash)

        until(lambda: stored().startswith("$argon2id$"), "the better hash")
        assert connect(running, account).pwd() == "/"

    def test_every_reason_to_refuse_reads_the_same(self, running: Any, connect: Any) -> None:
        account = running.account()
        running.owner("sleeper", status="disabled")
        sleeping = running.account_of("sleeper")
        assert refusal(connect, running, account.username, "wrong") == WRONG
        assert refusal(connect, running, "nobody_here") == WRONG
        assert refusal(connect, running, sleeping.username) == WRONG
        assert account.username in running.log
        assert "S3cure" not in running.log

    def test_passwords_that_no_hash_can_hold_are_wrong_passwords(self, running: Any, raw: Any) -> None:
        account = running.account()
        for password in (b"\xff\xfe", b"a\0b", b"x" * 5000, b""):
            client = raw(running)
            client.ask(f"USER {account.username}")
            assert client.ask(b"PASS " + password) == f"{WRONG}\r\n"
        assert "Traceback" not in running.log


class TestAnonymousLogin:
    def test_the_user_name_chooses_the_domain(self, running: Any, connect: Any, put: Any, fetch: Any) -> None:
        assert refusal(connect, running, "anonymous", "me@") == "530 There is no anonymous access here."
        folder = running.anonymous("one.example")
        client = connect(running)
        client.login("ftp", "me@")
        (folder / "hello").write_text("there")
        assert fetch(client, "hello") == b"there"
        with pytest.raises(ftplib.error_perm, match="550"):
            put(client, "x", b"x")

        other = running.anonymous("two.example", allow_upload=True)
        client = connect(running)
        client.login("Anonymous@two.example", "")
        put(client, "incoming/x", b"x")
        assert (other / "incoming" / "x").read_bytes() == b"x"

        running.anonymous("off.example", enabled=False)
        assert refusal(connect, running, "anonymous@off.example").startswith("530")

    def test_with_several_and_none_named_it_is_a_folder_of_them_all(
        self, running: Any, connect: Any, put: Any, fetch: Any
    ) -> None:
        folders = {name: running.anonymous(name, allow_upload=True) for name in ("one.example", "two.example")}
        running.anonymous("off.example", enabled=False)
        for name, folder in folders.items():
            (folder / "incoming").mkdir(parents=True)
            (folder / "incoming" / "f").write_text("left")
            (folder / "hello").write_text(f"of {name}")
            (folder / "up").symlink_to("../")
        client = connect(running)
        client.login("anonymous", "me@")
        assert client.nlst() == sorted(folders)
        assert [name for name, facts in client.mlsd() if facts["type"] == "dir"] == sorted(folders)
        lines: list[str] = []
        client.retrlines("LIST", lines.append)
        assert [line.rpartition(" ")[2] for line in lines] == sorted(folders)
        assert client.cwd("/one.example") == '250 "/one.example" is the current directory.'
        assert fetch(client, "hello") == b"of one.example"
        assert fetch(client, "../two.example/hello") == b"of two.example"
        assert sorted(client.nlst()) == ["hello", "incoming", "up"]
        client.voidcmd("TYPE I")
        assert client.size("/two.example/hello") == len("of two.example")
        assert client.cwd("..") == '250 "/" is the current directory.'

        for command in (
            "CWD /off.example",
            "CWD /three.example",
            "CWD /one.example/up",
            "MLST /one.example/up/two.example",
            "RNFR /one.example",
            "RMD /one.example",
            "MKD /new.example",
            "MKD /one.example/new",
            "DELE /one.example/hello",
            "RNFR /one.example/hello",
            "SITE CHMOD 777 /one.example/hello",
            "SIZE /",
        ):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        for command in (
            "RETR /",
            "RETR /one.example/incoming/f",
            "NLST /one.example/incoming",
            "STOR /f",
            "STOR /one.example/f",
            "STOR /one.example/incoming/g",
        ):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.transfercmd(command)
        assert sorted(path.name for path in folders["one.example"].iterdir()) == ["hello", "incoming", "up"]
        assert "Traceback" not in running.log


class TestHome:
    def test_a_folder_in_it_is_made_at_the_login(self, running: Any, connect: Any, put: Any) -> None:
        account = running.account()
        home = f"/home/{account.username.partition('_')[0]}/example.com/sites/blög"
        running.change(account, domain="example.com", home_subdir="sites/blög", home_dir=home)
        client = connect(running, account)
        put(client, "f", b"x")
        assert (running.settings.files / home.strip("/") / "f").read_bytes() == b"x"
        with pytest.raises(ftplib.error_perm, match="550"):
            client.cwd("/../../example.com")


class TestDatabaseGone:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_login_gets_421_and_the_server_lives_on(self, new_server: Any, connect: Any, store: str) -> None:
        running = new_server().start()
        account = running.account()
        with running.database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE ftp_accounts RENAME TO gone")
        assert refusal(connect, running, account.username).startswith("421 Logins cannot be checked")
        with running.database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO ftp_accounts")
        assert connect(running, account).pwd() == "/"


class TestLoginStorm:
    def test_another_session_is_answered_in_between(self, running: Any, connect: Any, until: Any) -> None:
        account = running.account()
        bystander = connect(running, account)
        done: list[str] = []

        def attempt() -> None:
            client = ftplib.FTP()
            client.connect("127.0.0.1", running.port, timeout=60)
            try:
                client.login(account.username, "wrong")
            except ftplib.Error as error:
                done.append(str(error))
            finally:
                client.close()

        threads = [threading.Thread(target=attempt) for _ in range(50)]
        for thread in threads:
            thread.start()
        answered_meanwhile = 0
        while any(thread.is_alive() for thread in threads):
            bystander.voidcmd("NOOP")
            answered_meanwhile += len(done) < len(threads)
        for thread in threads:
            thread.join()
        assert done == [WRONG] * 50
        # Were passwords checked on the loop, the bystander would be answered once per check at most.
        assert answered_meanwhile > len(threads)
