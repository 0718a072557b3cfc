"""The control channel: order, odd input, data connections, limits."""

import ftplib
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


class TestCommandLine:
    def test_pipelined_commands_are_answered_in_order(self, server: Any, raw: Any) -> None:
        account = server.account()
        client = raw(server)
        client.send(f"USER {account.username}\r\nPASS {account.password}\r\nPWD\r\nMKD d\r\nCWD d\r\nPWD\r\n".encode())
        codes = [client.reply()[:3] for _ in range(6)]
        assert codes == ["331", "230", "257", "257", "250", "257"]

    def test_a_command_that_is_too_long_is_one_error(self, server: Any, raw: Any) -> None:
        client = raw(server).login(server.account())
        client.send(b"CWD " + b"x" * 50_000)
        client.send(b"MKD smuggled\r\n")
        assert client.reply().startswith("500")
        assert client.ask("CWD smuggled").startswith("550")

    @pytest.mark.parametrize(
        "name",
        [b"a\0b", b"a\rb", b"a\nb", b"x" * 300, b"d/" * 3000, b"\xff\xfe", "\ud800".encode("utf-8", "surrogatepass")],
    )
    def test_names_that_cannot_be_get_a_5xx(self, server: Any, raw: Any, name: bytes) -> None:
        client = raw(server).login(server.account())
        for command in (b"MKD ", b"CWD ", b"DELE ", b"RNFR ", b"SIZE ", b"MLST ", b"STAT ", b"SITE CHMOD 644 "):
            client.ask("TYPE I")
            assert client.ask(command + name).startswith("5"), command
        client.ask("EPSV")
        assert client.ask(b"STOR " + name).startswith("5")
        assert client.ask("NOOP").startswith("200")
        assert "Traceback" not in server.log

    def test_names_that_are_not_utf_8_can_be_seen_and_removed(self, server: Any, raw: Any, connect: Any) -> None:
        account = server.account()
        client = raw(server).login(account)
        (account.home / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
        client.send(b"STAT /\r\n")
        assert any(b"caf\xe9" in client.file.readline() for _ in range(3))
        while not client.file.readline().startswith(b"213 "):
            continue
        assert client.ask(b"DELE caf\xe9").startswith("250")

    def test_a_name_with_a_line_end_does_not_forge_a_listing(self, server: Any, connect: Any) -> None:
        account = server.account()
        client = connect(server, account)
        (account.home / "a\r\n-rw------- 1 root root 0 Jan 1 00:00 forged").touch()
        (account.home / "real").touch()
        assert client.nlst() == ["real"]

    def test_a_login_comes_before_everything(self, server: Any, raw: Any) -> None:
        client = raw(server)
        assert client.greeting == "220 wsp FTP ready.\r\n"
        assert client.ask("PASS x").startswith("503")
        for command in ("PWD", "LIST", "STOR x", "EPSV", "STAT /", "SITE CHMOD 777 /", "REIN"):
            assert client.ask(command).startswith("530"), command
        assert "pyftpdlib" not in client.ask("FEAT") + client.ask("HELP") + client.ask("STAT") + client.ask("SYST")

    def test_user_and_rein_end_the_login(self, server: Any, raw: Any) -> None:
        one, two = server.account(), server.account()
        client = raw(server).login(one)
        assert client.ask("PASS again").startswith("503")
        assert client.ask("MKD of-one").startswith("257")
        client.login(two)
        assert client.ask("CWD of-one").startswith("550")
        assert client.ask("REIN").startswith("230")
        assert client.ask("PWD").startswith("530")

    def test_a_transfer_outlives_a_new_user_as_the_old_account(self, server: Any, raw: Any) -> None:
        one, two = server.account(), server.account()
        client = raw(server).login(one)
        client.ask("TYPE I")
        port = int(client.ask("EPSV").split("|")[3])
        with socket.create_connection(("127.0.0.1", port)) as data:
            assert client.ask("STOR f").startswith(("125", "150"))
            data.sendall(b"of one")
            while b"Total bytes received: 6" not in client.ask("STAT").encode():
                continue
            client.login(two)
        assert client.reply().startswith("226")
        assert (one.home / "f").read_bytes() == b"of one"
        assert not (two.home / "f").exists()

    def test_quit_lets_a_transfer_end_and_nothing_else(self, server: Any, raw: Any) -> None:
        account = server.account()
        client = raw(server).login(account)
        client.ask("TYPE I")
        port = int(client.ask("EPSV").split("|")[3])
        with socket.create_connection(("127.0.0.1", port)) as data:
            client.ask("STOR f")
            data.sendall(b"last")
            client.send(b"QUIT\r\nMKD late\r\n")
            assert client.reply().startswith("221")
        assert client.reply().startswith("226")
        assert client.reply() == ""
        assert sorted(path.name for path in account.home.iterdir()) == ["f"]

        client = raw(server).login(account)
        port = int(client.ask("EPSV").split("|")[3])
        with socket.create_connection(("127.0.0.1", port)):
            assert client.ask("QUIT").startswith("221")
            assert client.reply() == ""

    def test_options_of_ls_are_ignored(self, server: Any, connect: Any, put: Any) -> None:
        client = connect(server, server.account())
        client.mkd("d")
        put(client, "d/f", b"x")
        lines: list[str] = []
        client.retrlines("LIST -la d", lines.append)
        assert lines[0].endswith(" f")

    def test_the_files_can_be_arranged(self, server: Any, connect: Any, put: Any) -> None:
        account = server.account()
        client = connect(server, account)
        put(client, "a", b"12345")
        assert client.sendcmd("MFMT 20200102030405 a").startswith("213")
        assert client.sendcmd("MDTM a") == "213 20200102030405"
        assert client.sendcmd("SITE CHMOD 600 a").startswith("200")
        assert (account.home / "a").stat().st_mode & 0o7777 == 0o600
        with pytest.raises(ftplib.error_perm, match="550"):
            client.sendcmd("SITE CHMOD 4755 a")
        client.rename("a", "b")
        client.voidcmd("TYPE A")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.sendcmd("SIZE b")
        assert "size=5" in client.sendcmd("MLST b")
        # Plain octal, as clients read it: lftp took Python's `0o644` for no rights at all.
        (account.home / "b").chmod(0o640)
        client.sendcmd("OPTS MLST type;size;unix.mode;")
        assert "unix.mode=0640;" in client.sendcmd("MLST b").lower()
        with pytest.raises(ftplib.error_perm, match="550"):
            client.rmd("/")


class TestList:
    def test_what_is_missing_gets_550_and_what_is_no_folder_gets_501(self, server: Any, raw: Any) -> None:
        account = server.account()
        client = raw(server).login(account)
        (account.home / "file").touch()
        client.ask("EPSV")
        assert client.ask("MLSD missing").startswith("550")
        assert client.ask("MLSD file").startswith("501")
        assert client.ask("LIST missing").startswith("550")
        assert client.ask("NLST missing").startswith("550")


class TestReadOnly:
    def test_nothing_can_be_changed(self, server: Any, connect: Any, put: Any, fetch: Any) -> None:
        account = server.account(read_only=True)
        client = connect(server, account)
        (account.home / "f").write_bytes(b"x")
        assert fetch(client, "f") == b"x"
        for command in ("DELE f", "MKD d", "RMD d", "RNFR f", "SITE CHMOD 777 f", "MFMT 20200101000000 f", "APPE f"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.sendcmd(command)
        for command in ("STOR f", "STOU"):
            with pytest.raises(ftplib.error_perm, match="550"):
                client.transfercmd(command)
        assert (account.home / "f").read_bytes() == b"x"


class TestDataConnection:
    def test_a_transfer_needs_one(self, server: Any, raw: Any) -> None:
        client = raw(server).login(server.account())
        for command in ("LIST", "STOR x", "RETR x", "STOU"):
            assert client.ask(command).startswith("425"), command

    def test_active_mode(self, server: Any, connect: Any, put: Any, fetch: Any) -> None:
        client = connect(server, server.account())
        client.set_pasv(False)
        put(client, "f", b"active")
        assert fetch(client, "f") == b"active"

    def test_bounces_are_refused(self, server: Any, raw: Any) -> None:
        client = raw(server).login(server.account())
        assert client.ask("PORT 127,0,0,2,200,10").startswith("501")
        assert client.ask("PORT 127,0,0,1,0,80").startswith("501")
        assert client.ask("EPRT |1|203.0.113.1|50000|").startswith("501")
        assert client.ask("EPRT |2|localhost|50000|").startswith("5")

    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_ports_of_the_range_only_and_then_425(
        self, new_server: Callable[..., Any], raw: Any, free_port: Callable[[], int], store: str
    ) -> None:
        port = free_port()
        server = new_server(WSP_FTP_PASSIVE_PORTS=f"{port}-{port}", WSP_FTP_MASQUERADE_ADDRESS="203.0.113.7").start()
        one, two = raw(server).login(server.account()), raw(server).login(server.account())
        assert f"(203,0,113,7,{port // 256},{port % 256})" in one.ask("PASV")
        assert two.ask("EPSV").startswith("425")
        assert two.ask("PASV").startswith("425")
        assert one.ask("ABOR").startswith("225")
        assert two.ask("EPSV") == f"229 Entering extended passive mode (|||{port}|).\r\n"

    def test_one_transfer_at_a_time(self, server: Any, raw: Any) -> None:
        client = raw(server).login(server.account())
        client.ask("TYPE I")
        port = int(client.ask("EPSV").split("|")[3])
        with socket.create_connection(("127.0.0.1", port)) as data:
            client.ask("STOR one")
            assert client.ask("STOR two").startswith("503")
            data.sendall(b"x")
        assert client.reply().startswith("226")


class TestIPv6:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_every_command_works_and_mapped_addresses_are_ipv4(
        self, new_server: Callable[..., Any], connect: Any, put: Any, fetch: Any, store: str
    ) -> None:
        if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
            pytest.skip("this machine has no IPv6")
        server = new_server(WSP_FTP_HOST="::").start()
        account = server.account(allowed_ips=["127.0.0.1", "::1"])
        for host in ("::1", "127.0.0.1"):
            client = connect(server, account, host=host)
            for passive in (True, False):
                client.set_pasv(passive)
                put(client, "f", host.encode())
                assert fetch(client, "f") == host.encode()


class TestLimits:
    @pytest.mark.parametrize("store", ["sqlite"], indirect=True)
    def test_sessions_are_counted_and_data_connections_are_not(
        self, new_server: Callable[..., Any], connect: Any, put: Any, until: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_MAX_SESSIONS="2").start()
        account = server.account()
        clients = [connect(server, account) for _ in range(2)]
        for client in clients:
            put(client, "f", b"x")
        with pytest.raises(ftplib.error_temp, match="421"):
            connect(server)
        clients[0].quit()

        def let_in() -> bool:
            try:
                return bool(connect(server, account).pwd())
            except (ftplib.error_temp, OSError):
                return False

        until(let_in)
