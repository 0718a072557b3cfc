"""HOST (RFC 7151), and the server name of TLS: which domain a stranger gets to see."""

import ftplib
import socket
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

UNKNOWN = "504 There is no such host here.\r\n"
ACCEPTED = "220 Host accepted.\r\n"


@pytest.fixture(scope="module")
def running(server: Any) -> Any:
    add_domains(server)
    return server


def add_domains(server: Any) -> None:
    """Two domains with a file each, and one that lets nobody in."""
    for name in ("one.example", "two.example"):
        folder = server.anonymous(name)
        folder.mkdir(parents=True)
        (folder / name).touch()
    server.anonymous("off.example", enabled=False)


def names(client: ftplib.FTP) -> list[str]:
    """What a stranger sees."""
    client.login("anonymous", "me@")
    return client.nlst()


def over_tls(connect: Any, server: Any, servername: str, host: str = "") -> ftplib.FTP_TLS:
    """A connection whose TLS was begun with a server name, after HOST if there is one."""
    client: ftplib.FTP_TLS = connect(server, tls=True)
    if host:
        client.sendcmd(f"HOST {host}")
    client.host = servername  # ftplib sends this one as SNI
    client.auth()
    client.host = "127.0.0.1"
    client.prot_p()
    return client


class TestHost:
    @pytest.mark.parametrize("host", ["two.example", "TWO.example", "ftp.two.example", "two.example."])
    def test_chooses_the_domain(self, running: Any, connect: Any, host: str) -> None:
        client = connect(running)
        assert client.sendcmd(f"HOST {host}") + "\r\n" == ACCEPTED
        assert names(client) == ["two.example"]

    def test_is_known_for_the_domain_of_an_account_too(self, running: Any, raw: Any) -> None:
        account = running.account(domain="shop.example")
        client = raw(running)
        assert client.ask("HOST shop.example") == ACCEPTED
        client.login(account)
        assert client.ask("PWD").startswith("257")

    def test_its_last_word_counts_and_a_wrong_one_changes_nothing(self, running: Any, connect: Any) -> None:
        client = connect(running)
        client.sendcmd("HOST one.example")
        client.sendcmd("HOST two.example")
        with pytest.raises(ftplib.error_perm, match="504"):
            client.sendcmd("HOST three.example")
        assert names(client) == ["two.example"]

    def test_a_name_of_the_server_itself_chooses_none(self, running: Any, connect: Any) -> None:
        for host in ("localhost", "127.0.0.1", socket.gethostname()):
            client = connect(running)
            client.sendcmd(f"HOST {host}")
            assert names(client) == ["one.example", "two.example"]

    def test_the_user_name_says_it_more_clearly(self, running: Any, connect: Any) -> None:
        client = connect(running)
        client.sendcmd("HOST one.example")
        client.login("ftp@two.example", "me@")
        assert client.nlst() == ["two.example"]

    def test_a_domain_without_anonymous_access_lets_no_stranger_in(self, running: Any, connect: Any) -> None:
        client = connect(running)
        assert client.sendcmd("HOST off.example").startswith("220")
        with pytest.raises(ftplib.error_perm, match="530 There is no anonymous access here"):
            client.login("anonymous", "me@")

    @pytest.mark.parametrize("host", ["three.example", "example", "x" * 253, "203.0.113.7", "[::1]", "ftp."])
    def test_others_are_unknown(self, running: Any, raw: Any, host: str) -> None:
        assert raw(running).ask(f"HOST {host}") == UNKNOWN

    @pytest.mark.parametrize("host", ["", "a b", "a/b", "x" * 254, "exämple.com", "%", "[zz]"])
    def test_what_is_no_name_is_refused(self, running: Any, raw: Any, host: str) -> None:
        assert raw(running).ask(f"HOST {host}").startswith("501")

    def test_comes_before_user_and_again_after_rein(self, running: Any, raw: Any) -> None:
        client = raw(running)
        assert " HOST\r\n" in client.ask("FEAT")
        client.ask("HOST one.example")
        client.ask("USER anonymous")
        assert client.ask("HOST two.example").startswith("503")
        assert client.ask("PASS me@").startswith("230")
        assert client.ask("HOST two.example").startswith("503")
        assert client.ask("MLST one.example").startswith("250")
        client.ask("REIN")
        client.ask("USER anonymous")
        client.ask("PASS me@")
        assert client.ask("CWD /two.example").startswith("250")

    def test_commands_behind_it_wait_for_the_answer(self, running: Any, raw: Any) -> None:
        client = raw(running)
        client.send(b"HOST two.example\r\nUSER anonymous\r\nPASS me@\r\nMLST two.example\r\n")
        assert [client.reply()[:3] for _ in range(4)] == ["220", "331", "230", "250"]

    def test_is_looked_up_in_each_store(self, new_server: Any, connect: Any) -> None:
        server = new_server().start()
        add_domains(server)
        client = connect(server)
        client.sendcmd("HOST ftp.two.example")
        assert names(client) == ["two.example"]

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_a_database_that_is_gone_gets_421(self, new_server: Any, raw: Any, store: str) -> None:
        running = new_server().start()
        with running.database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE ftp_anonymous RENAME TO gone")
        client = raw(running)
        assert client.ask("HOST one.example").startswith("421")
        assert client.reply() == ""


class TestServerName:
    def test_chooses_the_domain(self, running: Any, connect: Any) -> None:
        for servername in ("two.example", "ftp.two.example"):
            assert names(over_tls(connect, running, servername)) == ["two.example"]

    def test_an_unknown_one_chooses_none(self, running: Any, connect: Any) -> None:
        assert names(over_tls(connect, running, "hoster.example")) == ["one.example", "two.example"]

    def test_one_without_anonymous_access_lets_no_stranger_in(self, running: Any, connect: Any) -> None:
        with pytest.raises(ftplib.error_perm, match="530"):
            names(over_tls(connect, running, "off.example"))

    def test_host_has_to_agree_with_it(self, running: Any, connect: Any) -> None:
        client = over_tls(connect, running, "two.example")
        for other in ("one.example", "localhost"):
            with pytest.raises(ftplib.error_perm, match="504 That is not the server name"):
                client.sendcmd(f"HOST {other}")
        assert client.sendcmd("HOST ftp.two.example").startswith("220")
        assert names(client) == ["two.example"]

    def test_it_has_to_agree_with_an_earlier_host(self, running: Any, connect: Any) -> None:
        assert names(over_tls(connect, running, "two.example", host="two.example")) == ["two.example"]
        with pytest.raises(ftplib.error_perm, match="530 HOST and the server name"):
            names(over_tls(connect, running, "two.example", host="one.example"))

    def test_accounts_log_in_under_every_name(self, running: Any, connect: Any) -> None:
        account = running.account()
        client = over_tls(connect, running, "whatever.example")
        client.login(account.username, account.password)
        assert client.pwd() == "/"
